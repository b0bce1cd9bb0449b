"""The calls that other packages make of `llama_cpp`, as facts of their source. `make compat-clients` runs the packages.

langchain-community 0.4.2, llama-index-llms-llama-cpp 0.7.0 and llama-cpp-haystack 3.0.2, with their default values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi.compat import Llama, LlamaGrammar
from tests.compat import facts
from tests.compat.conftest import PLAIN

LANGCHAIN: dict[str, Any] = {
    "rope_freq_scale": 1.0,
    "rope_freq_base": 10000.0,
    "lora_path": None,
    "lora_base": None,
    "n_ctx": 512,
    "n_parts": -1,
    "seed": -1,
    "f16_kv": True,
    "logits_all": False,
    "vocab_only": False,
    "use_mlock": False,
    "n_threads": None,
    "n_batch": 8,
    "use_mmap": True,
    "last_n_tokens_size": 64,
    "verbose": True,
}
LANGCHAIN_EMBEDDINGS: dict[str, Any] = {
    "embedding": True,
    "n_ctx": 512,
    "n_parts": -1,
    "seed": -1,
    "f16_kv": False,
    "logits_all": False,
    "vocab_only": False,
    "use_mlock": False,
    "n_threads": None,
    "n_batch": 512,
    "verbose": False,
    "device": None,
}
LANGCHAIN_CALL: dict[str, Any] = {
    "suffix": None,
    "max_tokens": 3,
    "temperature": 0.8,
    "top_p": 0.95,
    "logprobs": None,
    "echo": False,
    "repeat_penalty": 1.1,
    "top_k": 40,
    "stop": [],
}
LANGCHAIN_CHAT: dict[str, Any] = {
    "max_tokens": 3,
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "logprobs": None,
    "repeat_penalty": 1.1,
    "stop": [],
}
ASK = [{"content": "What is the weather in Rome?", "role": "user"}]
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Look it up", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def langchain(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), **LANGCHAIN, chat_format=PLAIN) as made:
        yield made


@pytest.mark.parametrize("stream", [False, True])
def test_langchain_llm(langchain: Llama, stream: bool) -> None:
    assert langchain.tokenize(b"hello there")
    if stream:
        parts: Any = list(langchain(prompt="Once", stream=True, **LANGCHAIN_CALL))
        assert all(isinstance(part["choices"][0]["text"], str) for part in parts)
        assert all(part["choices"][0].get("logprobs", None) is None for part in parts)
        return
    found: Any = langchain(prompt="Once", **LANGCHAIN_CALL)
    facts.same_shape(found, facts.COMPLETION)


def test_langchain_grammar(langchain: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= "yes"')
    found: Any = langchain(prompt="Once", **LANGCHAIN_CALL, grammar=grammar)
    assert found["choices"][0]["text"] == "yes"


def test_langchain_chat(langchain: Llama) -> None:
    found: Any = langchain.create_chat_completion(messages=ASK, **LANGCHAIN_CHAT)
    facts.same_shape(found, facts.chat(facts.MESSAGE))
    parts: Any = list(langchain.create_chat_completion(messages=ASK, stream=True, **LANGCHAIN_CHAT))
    assert [part["choices"][0]["delta"].get("role") for part in parts][0] == "assistant"
    assert parts[-1]["choices"][0]["delta"] == {}


@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "weather"}}, "weather", TOOL])
def test_langchain_tools(langchain: Llama, choice: Any) -> None:
    found: Any = langchain.create_chat_completion(
        messages=ASK, **{**LANGCHAIN_CHAT, "max_tokens": 200}, tools=[TOOL], tool_choice=choice
    )
    call = found["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["name"] == "weather" and json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    history = [
        *ASK,
        {"content": None, "role": "assistant", "tool_calls": [{k: call[k] for k in ("type", "id", "function")}]},
        {"content": "sunny", "role": "tool", "name": "weather", "tool_call_id": call["id"]},
    ]
    answer = langchain.create_chat_completion(messages=history, **LANGCHAIN_CHAT)
    facts.same_shape(answer, facts.chat(facts.MESSAGE))


def test_langchain_embeddings(tiny_path: Path) -> None:
    with Llama(str(tiny_path), **LANGCHAIN_EMBEDDINGS) as llama:
        rows = llama.create_embedding(["one text", "another"])["data"]
        assert len(rows) == 2 and isinstance(rows[0]["embedding"][0], list)  # a vector for each token
        found = llama.embed("one text")
        assert isinstance(found, list) and isinstance(found[0], list) and isinstance(found[0][0], float)


def test_llama_index(tiny_path: Path) -> None:
    with Llama(model_path=str(tiny_path), n_ctx=256, verbose=True) as llama:
        assert llama.context_params.n_ctx == llama.n_ctx() == 256
        given: dict[str, Any] = {"temperature": 0.75, "max_tokens": 3}
        found: Any = llama(prompt="Once", stream=False, **given)
        assert isinstance(found["choices"][0]["text"], str)
        assert [part["choices"][0]["text"] for part in llama(prompt="Once", stream=True, **given)]  # type: ignore[index]


@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["no tools", "a tool"])
def test_haystack(chatty: Llama, tools: list[Any]) -> None:
    given: dict[str, Any] = {"messages": ASK, "tools": tools, "max_tokens": 200}
    if tools:
        given["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
    found: Any = chatty.create_chat_completion(**given)
    for choice in found["choices"]:
        message, expected = choice["message"], facts.CALL_MESSAGE if tools else facts.MESSAGE
        facts.same_shape(message, expected)
        assert (choice["index"], choice["finish_reason"]) in ((0, "tool_calls"), (0, "length"), (0, "stop"))
    assert {"id", "model", "created", "usage"} <= found.keys()
    parts: Any = list(chatty.create_chat_completion(**given, stream=True))
    names = [
        call["function"]["name"]
        for part in parts
        for call in part["choices"][0]["delta"].get("tool_calls") or ()
        if call.get("id")
    ]
    assert names == (["weather"] if tools else [])
