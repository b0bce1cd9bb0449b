"""The parts of a chat request in the forms that `ChatTemplate.format` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_cffi._core.checks import expected
from llama_cffi.chat.messages import as_tool
from llama_cffi.chat.response_format import schema_text
from llama_cffi.compat.unsupported import unsupported


def plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with tool calls instead of the older function calls, and without keys that are None."""
    if not isinstance(message, Mapping):
        raise expected("a dict", message, "it has role and content", "a message")
    found = {key: value for key, value in message.items() if value is not None or key == "content"}
    content = found.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping) and part.get("type") not in (None, "text"):
            raise unsupported(f"parts of type {part.get('type')!r}", "send text; models see no images or sounds yet")
    call = found.pop("function_call", None)
    if call and not found.get("tool_calls"):
        found["tool_calls"] = [{"id": "call_0", "type": "function", "function": dict(call)}]
    if found.get("role") == "function":
        found |= {"role": "tool", "tool_call_id": found.get("tool_call_id", "call_0")}
    found.setdefault("content", None)
    return found


def offered_tools(options: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the tools, and the choice as `ChatTemplate.format` takes it: auto, none, required, or a name."""
    tools = [as_tool(tool) for tool in options["tools"] or ()]
    choice = options["tool_choice"]
    if options["functions"]:
        tools = [as_tool(function) for function in options["functions"]]
    if options["function_call"] is not None:
        choice = options["function_call"]
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        choice = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(choice, str):
            raise ValueError(
                'tool_choice must be "auto", "none", "required" or {"type": "function", "function": {"name": ...}}, '
                f"got {options['tool_choice']!r}"
            )
    elif choice is not None and not isinstance(choice, str):
        raise expected("a str or a dict", choice, name="tool_choice")
    names = [tool["function"]["name"] for tool in tools]
    if choice not in (None, "auto", "none", *names) and not (choice == "required" and tools):
        raise ValueError(f"tool_choice {choice!r} is not one of the tools: {', '.join(names) or 'there are none'}")
    return tools, choice or "auto"


def schema_of(response_format: Any) -> Any:
    """Return the JSON Schema of a response format; None for text."""
    if response_format is None:
        return None
    if not isinstance(response_format, Mapping):
        raise expected("a dict", response_format, '{"type": "json_object"} asks for JSON', "response_format")
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind not in ("json_object", "json_schema"):
        raise ValueError(f"type of response_format must be text, json_object or json_schema, got {kind!r}")
    return json.loads(schema_text(response_format))
