"""What llama-cpp-python 0.3.36 returns: the keys of its dicts, with the types of their values."""

from __future__ import annotations

from typing import Any, Final

NONE: Final = type(None)
TEXT, NUMBER, COUNT = (str,), (float,), (int,)

LOGPROBS = {
    "tokens": [TEXT],
    "text_offset": [COUNT],
    "token_logprobs": [(float, NONE)],
    "top_logprobs": [(dict, NONE)],
}
USAGE = {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}
HEAD = {"id": TEXT, "object": TEXT, "created": COUNT, "model": TEXT}

COMPLETION = {
    **HEAD,
    "choices": [{"text": TEXT, "index": COUNT, "logprobs": (NONE,), "finish_reason": TEXT}],
    "usage": USAGE,
}
COMPLETION_LOGPROBS = {
    **HEAD,
    "choices": [{"text": TEXT, "index": COUNT, "logprobs": LOGPROBS, "finish_reason": TEXT}],
    "usage": USAGE,
}
CHUNK = {**HEAD, "choices": [{"text": TEXT, "index": COUNT, "logprobs": (NONE,), "finish_reason": (NONE,)}]}
LAST_CHUNK = {**HEAD, "choices": [{"text": TEXT, "index": COUNT, "logprobs": (NONE,), "finish_reason": TEXT}]}
CHUNK_LOGPROBS = {**HEAD, "choices": [{"text": TEXT, "index": COUNT, "logprobs": LOGPROBS, "finish_reason": (NONE,)}]}

FUNCTION = {"name": TEXT, "arguments": TEXT}
CHAT_LOGPROBS = {
    "content": [
        {
            "token": TEXT,
            "bytes": (NONE,),
            "logprob": NUMBER,
            "top_logprobs": [{"token": TEXT, "logprob": NUMBER, "bytes": (NONE,)}],
        }
    ],
    "refusal": (NONE,),
}


def chat(message: dict[str, Any], logprobs: Any = (NONE,)) -> dict[str, Any]:
    """The shape of a chat completion."""
    choice = {"index": COUNT, "message": message, "logprobs": logprobs, "finish_reason": TEXT}
    return {**HEAD, "choices": [choice], "usage": USAGE}


def chat_chunk(delta: dict[str, Any], reason: Any = (NONE,), logprobs: Any = (NONE,)) -> dict[str, Any]:
    """The shape of a chunk of a chat."""
    return {**HEAD, "choices": [{"index": COUNT, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]}


MESSAGE = {"role": TEXT, "content": TEXT}
CALL = {"id": TEXT, "type": TEXT, "function": FUNCTION}
CALL_MESSAGE = {"role": TEXT, "content": (NONE,), "function_call": FUNCTION, "tool_calls": [CALL]}
ROLE_DELTA, CONTENT_DELTA = {"role": TEXT}, {"content": TEXT}
CALL_ROLE_DELTA = {"role": TEXT, "content": (NONE,), "function_call": (NONE,), "tool_calls": (NONE,)}
FIRST_CALL_DELTA = {
    "role": (NONE,),
    "content": (NONE,),
    "function_call": FUNCTION,
    "tool_calls": [{"index": COUNT, "id": TEXT, "type": TEXT, "function": FUNCTION}],
}
CALL_END_DELTA = {"role": (NONE,), "content": (NONE,), "function_call": (NONE,), "tool_calls": (NONE,)}

EMBEDDING = {
    "object": TEXT,
    "data": [{"object": TEXT, "index": COUNT, "embedding": (list,)}],
    "model": TEXT,
    "usage": {"prompt_tokens": COUNT, "total_tokens": COUNT},
}


def same_shape(value: Any, shape: Any, where: str = "") -> None:
    """Assert that a value has exactly these keys, in each of its dicts."""
    if isinstance(shape, dict):
        assert isinstance(value, dict) and value.keys() == shape.keys(), f"{where}: {value!r}"
        for key, inner in shape.items():
            same_shape(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), f"{where}: {value!r}"
        for i, item in enumerate(value):
            same_shape(item, shape[0], f"{where}[{i}]")
    else:
        assert type(value) in shape, f"{where}: expected one of {shape}, got {value!r}"
