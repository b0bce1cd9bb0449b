"""Chat completions in llama-cpp-python's dicts: answers, and the chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def logprobs_of(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the log-probabilities of a completion in the form of chats."""
    if found is None:
        return None
    rows = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    return {
        "content": [
            {
                "token": token,
                "bytes": None,
                "logprob": value,
                "top_logprobs": [
                    {"token": other, "logprob": logprob, "bytes": None} for other, logprob in (top or {}).items()
                ],
            }
            for token, value, top in rows
        ],
        "refusal": None,
    }


def answer(completion: Mapping[str, Any], message: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """Return the chat completion of a text completion whose text says `message`."""
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs_of(completion["choices"][0]["logprobs"]),
        "finish_reason": reason,
    }
    return {**_head(completion, "chat.completion"), "choices": [choice], "usage": completion["usage"]}


def message_of(content: str | None, calls: list[tuple[str, str]], completion_id: str) -> dict[str, Any]:
    """Return the assistant's message. `calls` are names and arguments; a single one stands in `function_call` too."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {
                "id": call_id(i, name, completion_id),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for i, (name, arguments) in enumerate(calls)
        ]
    if len(calls) == 1:
        message["function_call"] = {"name": calls[0][0], "arguments": calls[0][1]}
    return message


def call_id(index: int, name: str, completion_id: str) -> str:
    """Return the id of a call: the name of the tool and the number of the call are parts of it."""
    return f"call__{index}_{name}_{completion_id}"


def chunk(
    completion: Mapping[str, Any], delta: dict[str, Any], reason: str | None = None, found: Any = None
) -> dict[str, Any]:
    """Return one chunk of a stream."""
    choice = {"index": 0, "delta": delta, "logprobs": logprobs_of(found), "finish_reason": reason}
    return {**_head(completion, "chat.completion.chunk"), "choices": [choice]}


def call_delta(index: int, identity: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    """Return the delta of a tool call: its id and name come once, then pieces of its arguments."""
    function = {"name": name, "arguments": arguments}
    call: dict[str, Any] = {"index": index, "type": "function", "function": function}
    if identity is not None:
        call["id"] = identity
    legacy = dict(function) if index == 0 else None
    return {"role": None, "content": None, "function_call": legacy, "tool_calls": [call]}


NO_CALL: dict[str, Any] = {"role": None, "content": None, "function_call": None, "tool_calls": None}
"""The delta at the end of a stream of tool calls."""


def answer_of_text(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chat completion of a text completion."""
    choice = completion["choices"][0]
    return answer(completion, {"role": "assistant", "content": choice["text"]}, choice["finish_reason"])


def chunks_of_text(parts: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a chat for those of a text completion."""
    first = True
    for part in parts:
        if first:
            yield chunk(part, {"role": "assistant"})
            first = False
        choice = part["choices"][0]
        reason = choice["finish_reason"]
        yield chunk(part, {} if reason else {"content": choice["text"]}, reason, choice["logprobs"])


def _head(completion: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chat{completion['id']}",
        "object": kind,
        "created": completion["created"],
        "model": completion["model"],
    }
