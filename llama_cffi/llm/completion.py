"""What `LLM.complete` and `LLM.chat` return: the text as a str, and what is known about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from llama_cffi._core.base_types import Token
from llama_cffi.chat.tool_calls import ToolCall
from llama_cffi.engine.chat_request import ChatRequest
from llama_cffi.engine.request import Request, RequestUsage
from llama_cffi.generation.steps import GenerationStep, StopReason

if TYPE_CHECKING:
    from typing_extensions import Self


class Completion(str):
    """The text that follows a prompt: a str, which also has the request that it comes from.

    Copying and pickling return the plain text.
    """

    _MADE_BY = "llm.complete(prompt) makes one"
    _ALIASES: ClassVar[dict[str, str]] = {"text": "request.text", "content": "request.content"}  # it is a str itself

    _request: Request

    def __new__(cls, text: str = "", request: Request | None = None) -> Self:
        """Not for users: `llm.complete(prompt)` makes it."""
        made = super().__new__(cls, text)
        if request is not None:
            made._request = request
        return made

    @property
    def request(self) -> Request:
        """The request that has ended: its steps with log-probabilities, its stop string, its prompt."""
        return self._request

    @property
    def stopReason(self) -> StopReason:
        """Why the text ended. StopReason.LENGTH: it has `maxTokens` tokens, and may be incomplete."""
        return cast("StopReason", self._request.stopReason)

    @property
    def tokens(self) -> list[Token]:
        """The tokens of the text, without the one that ended it."""
        return list(self._request.tokens)

    @property
    def logProbs(self) -> list[GenerationStep]:
        """With `logProbs`: a step for each token of the text, with its text, its log-probability and the alternatives,
        the most probable first. Empty otherwise.
        """
        return [step for step in self._request.steps() if step.logProb is not None]

    @property
    def usage(self) -> RequestUsage:
        """Numbers of tokens, and times."""
        return self._request.usage

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str.__repr__(self)})"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class ChatCompletion(Completion):
    """The answer in a conversation: a str, without thoughts and tool calls, which the attributes have."""

    _MADE_BY = "llm.chat(messages) makes one"

    @property
    def request(self) -> ChatRequest:
        """The request that has ended: its steps with log-probabilities, its stop string, its prompt."""
        return cast("ChatRequest", self._request)

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message in OpenAI's form, to append to the messages of the next call."""
        return self.request.message

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered."""
        return self.request.reasoning

    @property
    def toolCalls(self) -> list[ToolCall]:
        """The tool calls in the answer. A session takes their results; see `ChatSession.addToolResult`."""
        return self.request.toolCalls
