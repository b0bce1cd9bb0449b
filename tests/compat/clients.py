"""Programs that import `llama_cpp`, each doing real work on this package: `make compat-clients`.

The programs come from PyPI and depend on llama-cpp-python, which is not installed: `llama_cffi.compat` is in its place.
They and what they need take 420 MB, and a minute and a half to install.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from vendor.source import chat_model

PATH = str(chat_model.path())
PROMPT = "Once upon a time"


def langchain() -> None:
    """LlamaCpp, ChatLlamaCpp and LlamaCppEmbeddings of langchain-community."""
    from langchain_community.chat_models import ChatLlamaCpp
    from langchain_community.embeddings import LlamaCppEmbeddings
    from langchain_community.llms import LlamaCpp
    from pydantic import BaseModel, Field

    class Weather(BaseModel):
        """The weather of a place."""

        city: str = Field(max_length=8)

    llm = LlamaCpp(model_path=PATH, n_ctx=256, max_tokens=8, temperature=0.0, n_batch=64, verbose=False)
    text = llm.invoke(PROMPT)
    assert text and "".join(llm.stream(PROMPT)) == text, text
    assert llm.get_num_tokens("hello there") == 2
    yes = LlamaCpp(model_path=PATH, n_ctx=256, grammar='root ::= "yes"', verbose=False)
    assert yes.invoke(PROMPT) == "yes"

    chat = ChatLlamaCpp(model_path=PATH, n_ctx=512, max_tokens=32, temperature=0.0, n_batch=64, verbose=False)
    answer = chat.invoke("Say hi")
    assert answer.content == "".join(str(part.content) for part in chat.stream("Say hi")) != ""
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert isinstance(chat.with_structured_output(Weather).invoke("Rome"), Weather)
    bound = chat.bind_tools([Weather], tool_choice="Weather")
    assert [call["name"] for call in bound.invoke("Rome").tool_calls] == ["Weather"]

    embeddings = LlamaCppEmbeddings(model_path=PATH, n_ctx=64, verbose=False)
    assert len(embeddings.embed_query("hello")) == 576
    assert [len(row) for row in embeddings.embed_documents(["a"])] == [576]


def llama_index() -> None:
    """LlamaCPP of llama-index-llms-llama-cpp."""
    from llama_index.llms.llama_cpp import LlamaCPP

    llm = LlamaCPP(model_path=PATH, max_new_tokens=8, context_window=256, temperature=0.0, verbose=False)
    text = llm.complete(PROMPT).text
    assert text and "".join(part.delta or "" for part in llm.stream_complete(PROMPT)) == text
    assert llm.metadata.context_window == 256


def haystack() -> None:
    """LlamaCppChatGenerator of llama-cpp-haystack."""
    from haystack.dataclasses import ChatMessage, StreamingChunk
    from haystack.tools import Tool
    from haystack_integrations.components.generators.llama_cpp import LlamaCppChatGenerator

    options = {"max_tokens": 32, "temperature": 0.0}
    made = LlamaCppChatGenerator(
        model=PATH, n_ctx=512, n_batch=64, generation_kwargs=options, model_kwargs={"verbose": False}
    )
    ask = [ChatMessage.from_user("What is the weather in Rome?")]
    pieces: list[str] = []

    def show(chunk: StreamingChunk) -> None:
        pieces.append(chunk.content)

    text = made.run(ask)["replies"][0].text
    assert text and made.run(ask, streaming_callback=show)["replies"][0].text == text == "".join(pieces)
    city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}
    tool = Tool("weather", "Look the weather up", city, lambda city: city)
    chosen = {**options, "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    for callback in (None, show):
        calls = made.run(ask, chosen, tools=[tool], streaming_callback=callback)["replies"][0].tool_calls
        assert [call.tool_name for call in calls] == ["weather"] and "city" in calls[0].arguments
    made.close()


CLIENTS: tuple[Callable[[], None], ...] = (langchain, llama_index, haystack)


def main() -> int:
    """Run the clients. Returns 1 if `llama_cpp` would be another package than ours."""
    from llama_cffi.compat import install

    install()
    for client in CLIENTS:
        client()
        print(f"{client.__name__}: works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
