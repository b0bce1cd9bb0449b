"""Messages, tools and formats of chat requests, checked and in the form that `Engine.chat` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi.server.errors import ApiError
from llama_cffi.server.requests import ResponseFormat

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_MESSAGE = frozenset({"role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id", "name"})
_NO_EFFECT = frozenset({"refusal", "audio", "annotations", "function_call", "id", "status", "type"})
_TEXTS = ("text", "input_text", "output_text", "refusal")


def wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """Return the error for a field."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def messages_of(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of a conversation. Raises ApiError for what this server does not support."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(given)]


def _message(given: Mapping[str, Any], param: str) -> dict[str, Any]:
    role = given.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{param}.role", f"must be one of {', '.join(_ROLES)}, got {role!r}")
    message: dict[str, Any] = {"role": _ROLES[role]}
    content = given.get("content")
    if isinstance(content, list):
        parts = (text_of(part, f"{param}.content[{index}]") for index, part in enumerate(content))
        message["content"] = "".join(parts)
    elif content is None or isinstance(content, str):
        message["content"] = content
    else:
        raise wrong(f"{param}.content", f"must be a string, a list of parts or null, got {type(content).__name__}")
    for name, value in given.items():
        if name in ("role", "content") or value is None:
            continue
        if name in _NO_EFFECT and (name not in ("audio", "function_call") or not value):
            continue
        if name not in _MESSAGE:
            raise wrong(f"{param}.{name[:60]}", "this field of a message is not supported", "unsupported_parameter")
        message[name] = _calls(value, f"{param}.{name}") if name == "tool_calls" else _string(value, f"{param}.{name}")
    if message["content"] is None and not message.get("tool_calls"):
        if role != "assistant":
            raise wrong(f"{param}.content", "this field is required")
        message["content"] = ""
    return message


def text_of(part: Any, param: str) -> str:
    """Return the text of a content part. Images, audio and files are refused: no URL and no file is ever opened."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise wrong(param, "must be an object with a type")
    if part["type"] not in _TEXTS:
        kind = part["type"][:60]
        raise wrong(param, f"parts of the type {kind!r} are not supported: send text", "unsupported_parameter")
    text = part.get("text", part.get("refusal"))
    return _string(text, f"{param}.text")


def _string(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise wrong(param, f"must be a string, got {type(value).__name__}")
    return value


def _calls(given: Any, param: str) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise wrong(param, f"must be a list, got {type(given).__name__}")
    calls = []
    for index, call in enumerate(given):
        here = f"{param}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise wrong(f"{here}.function", "must be an object with name and arguments")
        name = _string(function.get("name"), f"{here}.function.name")
        arguments = _string(function.get("arguments"), f"{here}.function.arguments")
        made: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
        if call.get("id") is not None:
            made["id"] = _string(call["id"], f"{here}.id")
        calls.append(made)
    return calls


def tools_of(given: Sequence[Mapping[str, Any]] | None, nested: bool = True) -> list[dict[str, Any]]:
    """Return the tools that are offered. `nested` is the form of chat completions: `{"function": {...}}`."""
    tools = []
    for index, tool in enumerate(given or ()):
        param = f"tools[{index}]"
        if tool.get("type") != "function":
            text = f"tools of the type {str(tool.get('type'))[:60]!r} are not supported: use type function"
            raise wrong(f"{param}.type", text, "unsupported_parameter")
        function = tool.get("function") if nested else tool
        if not isinstance(function, dict):
            raise wrong(f"{param}.function", "must be an object")
        where = f"{param}.function" if nested else param
        name = _string(function.get("name"), f"{where}.name")
        if not name:
            raise wrong(f"{where}.name", "must not be empty")
        made: dict[str, Any] = {"name": name}
        if function.get("description") is not None:
            made["description"] = _string(function["description"], f"{where}.description")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise wrong(f"{where}.parameters", "must be a JSON Schema")
        made["parameters"] = parameters or {"type": "object", "properties": {}}
        tools.append({"type": "function", "function": made})
    return tools


def tool_choice_of(
    given: str | Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]], nested: bool = True
) -> str:
    """Return `toolChoice` of `Engine.chat`: auto, none, required, or the name of a tool."""
    names = [tool["function"]["name"] for tool in tools]
    if given is None:
        return "auto"
    if isinstance(given, str):
        if given == "required" and not names:
            raise wrong("tool_choice", "required needs tools")
        return given
    if given.get("type") != "function":
        text = f"the type {str(given.get('type'))[:60]!r} is not supported"
        raise wrong("tool_choice", text, "unsupported_parameter")
    function = given.get("function") if nested else given
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        raise wrong("tool_choice", f"there is no tool {str(name)[:60]!r} in tools")
    return str(name)


def format_of(given: ResponseFormat | None) -> Any:
    """Return `responseFormat` of `Engine.chat`; None for free text."""
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return given.schema_ or {"type": "object"}
    schema = given.schema_ if given.json_schema is None else given.json_schema.get("schema")
    if schema is None:
        raise wrong("response_format.json_schema.schema", "this field is required", "missing_required_parameter")
    if not isinstance(schema, (dict, bool)):
        raise wrong("response_format.json_schema.schema", "must be a JSON Schema")
    return schema if isinstance(schema, dict) else ({} if schema else {"not": {}})


def thinking_of(effort: str | None, given: Mapping[str, Any] | None) -> tuple[bool, dict[str, Any]]:
    """Return `thinking` and the template's variables, from `reasoning_effort` and `chat_template_kwargs`."""
    variables = dict(given or {})
    for name in ("messages", "tools", "add_generation_prompt"):
        if name in variables:
            raise wrong(f"chat_template_kwargs.{name}", "use the field of the request")
    thinking = variables.pop("enable_thinking", True)
    if not isinstance(thinking, bool):
        raise wrong("chat_template_kwargs.enable_thinking", "must be true or false")
    if effort == "none":
        return False, variables
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
    return thinking, variables
