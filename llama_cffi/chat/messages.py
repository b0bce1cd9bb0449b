"""Messages and tools of a conversation, in the form that OpenAI's protocol has for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from llama_cffi._core.checks import expected
from llama_cffi.chat.apply_template import ChatMessage
from llama_cffi.chat.native import ChatCodeError, NativeTemplate

# `{"role": ..., "content": ...}`, with `tool_calls`, `tool_call_id` or whatever else the template uses.
Message: TypeAlias = Mapping[str, Any] | ChatMessage
# A function that the model may call, or `{"name": ..., "description": ..., "parameters": {...}}`.
Tool: TypeAlias = Mapping[str, Any] | Callable[..., Any]

# What llama.cpp's chat code reads of a message.
KNOWN = frozenset({"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name"})
# Other names of a thought.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# Keys of OpenAI's answers that say nothing when they are empty.
_EMPTY = ("refusal", "audio", "annotations", "function_call")
_NAME = re.compile(r"""[^\s"'`\\<>(){}\[\]]{1,64}""")


def as_list(messages: Sequence[Message]) -> Sequence[Message]:
    """Return a list of messages; raise TypeError for a single one."""
    if isinstance(messages, (str, bytes, Mapping, ChatMessage)) or not isinstance(messages, Sequence):
        hint = 'write [{"role": "user", "content": text}] for one'
        raise expected("a list of messages", messages, hint, "messages")
    return messages


def as_message(message: Message) -> dict[str, Any]:
    """Return a message as a new dict: with a list of parts, parsed arguments of calls, and one name for thoughts."""
    if isinstance(message, ChatMessage):
        named = (("role", message.role), ("content", message.content))
        return {name: text.decode() if isinstance(text, bytes) else text for name, text in named}
    if not isinstance(message, Mapping):
        raise expected("a dict or a ChatMessage", message, 'write {"role": ..., "content": ...}', "a message")
    if not isinstance(message.get("role"), str):
        raise ValueError(f'a message needs a role ("user", "assistant", "system", "tool"), got {message!r}')
    prepared = {key: value for key, value in message.items() if not (key in _EMPTY and not value)}
    content = prepared.get("content")
    if not prepared.keys() - {"role", "name"}:
        raise ValueError(f'a message needs content, got {message!r}: write {{"role": "user", "content": text}}')
    if isinstance(content, (list, tuple)):
        prepared["content"] = [_as_part(part) for part in content]
    elif content is not None and not isinstance(content, str):
        raise ValueError(f"the content of a message must be a str, a list of parts or None, got {content!r}")
    for name in _THOUGHTS:
        thought = prepared.pop(name, None)
        if thought is not None:
            if not isinstance(thought, str):
                raise ValueError(f"{name} of a message must be a str, got {thought!r}")
            prepared["reasoning_content"] = thought
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [_as_call(call) for call in prepared["tool_calls"]]
    else:
        prepared.pop("tool_calls", None)
    return prepared


def _as_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise ValueError(f'a part of a message must be {{"type": "text", "text": ...}}, got {part!r}')
    if part["type"] in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    return dict(part)


def _as_call(call: Any) -> Any:
    """Return a tool call with its arguments parsed, if they are JSON."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def for_native(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prepared message as llama.cpp's chat code reads it. Raises ValueError for what it cannot pass on."""
    given = {key: value for key, value in message.items() if value is not None}
    content = given.get("content")
    if isinstance(content, list):
        for part in content:
            if part["type"] != "text":
                raise ValueError(
                    f"a chat template takes parts of text only, got a part of the type {part['type']!r}: images and "
                    "sounds need a projector, ChatSession(ctx, mtmd=...)"
                )
        given["content"] = "".join(part["text"] for part in content)
    elif content is None:
        given["content"] = ""
    if "tool_calls" in given:
        given["tool_calls"] = [_call_for_native(call) for call in given["tool_calls"]]
    return given


def _call_for_native(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool call needs a function with a name, got {call!r}")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {**made, "id": call["id"]} if isinstance(call.get("id"), str) else made


def call_ids(messages: Sequence[Message]) -> set[str]:
    """Return the ids of all calls in a history."""
    lists = [message.get("tool_calls") or () for message in messages if isinstance(message, Mapping)]
    calls = [call for found in lists for call in found if isinstance(call, Mapping)]
    return {call["id"] for call in calls if isinstance(call.get("id"), str)}


def keeps_content(template: NativeTemplate) -> bool:
    """Return False for a template with which llama.cpp loses the content of a message that has a thought beside it.

    llama.cpp passes both as parts to some families, and not each template of a family knows parts of thoughts.
    """
    mark, user = "c0ntent", {"role": "user", "content": "Hello"}
    messages = [user, {"role": "assistant", "content": mark, "reasoning_content": "A thought"}, user]
    try:
        return mark in template.render({"messages": messages, "tools": []})
    except ChatCodeError:  # it rejects these messages
        return True


def reads_functions(source: str) -> bool:
    """Return True for a template that reads the tools from a variable of another name, as JSON text."""
    return "functions" in source and "tools" not in source


def as_tools(tools: Iterable[Tool] | None) -> list[dict[str, Any]]:
    """Return the descriptions of tools in the form that templates use; raise TypeError for a single one."""
    return [as_tool(tool) for tool in without_functions(tools)]


def without_functions(tools: Iterable[Tool] | None) -> list[Mapping[str, Any]]:
    """Return a list of tools as they are, but with the descriptions of functions in their place."""
    if tools is None:
        return []
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise expected("a list of tools", tools, "write tools=[tool] for one", "tools")
    return [tool if isinstance(tool, Mapping) else as_tool(tool) for tool in tools]


def as_tool(tool: Tool) -> dict[str, Any]:
    """Return a tool's description in the form that templates use."""
    if callable(tool) and not isinstance(tool, Mapping):
        from llama_cffi.chat.function_tool import tool_of

        tool = tool_of(tool)
    if not isinstance(tool, Mapping):
        hint = 'pass def weather(city: str) -> str, or {"name": "weather", "description": ..., "parameters": schema}'
        raise expected("a function or a dict", tool, hint, "a tool")
    whole = dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
    function = whole["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f'a tool needs a name, got {tool!r}: write {{"name": "weather", "description": ...}}')
    if not _NAME.fullmatch(function["name"]):
        raise ValueError(
            f"the name of a tool must have 1 to 64 characters, without spaces, quotes and brackets, got "
            f"{function['name']!r}: write get_weather, for example"
        )
    return whole


def chosen(
    tools: list[dict[str, Any]], choice: str
) -> tuple[list[dict[str, Any]], Literal["auto", "none", "required"]]:
    """Return the tools to offer, and llama.cpp's word for the choice."""
    if choice == "auto":
        return tools, "auto"
    if choice == "none":
        return tools, "none"
    if choice == "required":
        if not tools:
            raise ValueError('toolChoice="required" needs tools')
        return tools, "required"
    named = [tool for tool in tools if tool["function"]["name"] == choice]
    if not named:
        names = ", ".join(tool["function"]["name"] for tool in tools) or "there are no tools"
        raise ValueError(
            f'toolChoice must be "auto", "none", "required" or the name of a tool ({names}), got {choice!r}'
        )
    return named, "required"


def joined(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its parts of text joined, for jinja2."""
    content = message.get("content")
    if isinstance(content, list) and all([part["type"] == "text" for part in content]):
        return {**message, "content": "".join(part["text"] for part in content)}
    return message
