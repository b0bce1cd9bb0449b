"""Messages, tools and formats of chat requests, checked and in the form that `Engine.chat` takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi.chat.content_parts import is_medium, require_data
from llama_cffi.chat.template import ChatTemplate
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
_TEXT_FIELDS = frozenset({"reasoning_content", "reasoning", "tool_call_id", "name"})
_UNSUPPORTED = {"audio": "send text", "function_call": "use tool_calls"}
_TEXTS = ("text", "input_text", "output_text", "reasoning_text", "refusal")

# Variables of a template are keyword arguments beside these.
_NOT_VARIABLES = frozenset({"add_generation_prompt"}).union(
    *(inspect.signature(method).parameters for method in (ChatTemplate.format, ChatTemplate.render))
)


def wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """Return the error for a field."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def messages_of(given: Sequence[Mapping[str, Any]], media: bool = False) -> list[dict[str, Any]]:
    """Return the messages of a conversation. Raises ApiError for what this server does not support.

    With `media`, the model takes images or sounds.
    """
    return [_message(message, f"messages[{index}]", media) for index, message in enumerate(given)]


def _message(given: Mapping[str, Any], param: str, media: bool) -> dict[str, Any]:
    role = given.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{param}.role", f"must be one of {', '.join(_ROLES)}, got {role!r}")
    message: dict[str, Any] = {"role": _ROLES[role]}
    content = given.get("content")
    if isinstance(content, list):
        message["content"] = parts_of(content, f"{param}.content", media and role == "user")
    elif content is None or isinstance(content, str):
        message["content"] = content
    else:
        raise wrong(f"{param}.content", f"must be a string, a list of parts or null, got {type(content).__name__}")
    for name, use in _UNSUPPORTED.items():
        if given.get(name):
            text = f"this field of a message is not supported: {use}"
            raise wrong(f"{param}.{name}", text, "unsupported_parameter")
    for name in _TEXT_FIELDS & given.keys():
        if given[name] is not None:
            message[name] = _string(given[name], f"{param}.{name}")
    if calls := _calls(given.get("tool_calls"), f"{param}.tool_calls"):
        message["tool_calls"] = calls
    if message["content"] is None and not message.get("tool_calls"):
        if role != "assistant":
            raise wrong(f"{param}.content", "this field is required")
        message["content"] = ""
    return message


def parts_of(given: list[Any], param: str, media: bool) -> str | list[Any]:
    """Return the text of content parts; with `media`, a list of texts, images and sounds if it has any of these."""
    parts: list[Any] = []
    for index, part in enumerate(given):
        here = f"{param}[{index}]"
        if media and isinstance(part, dict) and is_medium(part):
            try:
                require_data(part)
            except ValueError as error:
                raise wrong(here, str(error)) from None
            parts.append(part)
        else:
            parts.append(text_of(part, here))
    return parts if any([isinstance(part, dict) for part in parts]) else "".join(parts)


def text_of(part: Any, param: str) -> str:
    """Return the text of a content part. Others are refused: no URL and no file is ever opened."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise wrong(param, "must be an object with a type")
    if part["type"] not in _TEXTS:
        kind = part["type"][:60]
        hint = ", or images and sounds of the user to a model that is served with a projector (--mmproj)"
        text = f"parts of the type {kind!r} are not supported here: send text{hint if is_medium(part) else ''}"
        raise wrong(param, text, "unsupported_parameter")
    return _string(part.get("text", part.get("refusal")), f"{param}.text")


def _string(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise wrong(param, f"must be a string, got {type(value).__name__}")
    return value


def _calls(given: Any, param: str) -> list[dict[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise wrong(param, f"must be a list, got {type(given).__name__}")
    calls = []
    for index, call in enumerate(given):
        here = f"{param}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise wrong(f"{here}.function", "must be an object with name and arguments")
        name = _string(function.get("name"), f"{here}.function.name")
        arguments = arguments_of(function.get("arguments"), f"{here}.function.arguments")
        made: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
        if call.get("id") is not None:
            made["id"] = _string(call["id"], f"{here}.id")
        calls.append(made)
    return calls


def arguments_of(given: Any, param: str) -> str:
    """Return the arguments of a call as JSON text. Clients write "" for none."""
    text = _string(given, param).strip() or "{}"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise wrong(param, "must be JSON: chat templates read the arguments") from None
    return text


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
    given: str | Mapping[str, Any] | None, tools: list[dict[str, Any]], nested: bool = True
) -> tuple[str, list[dict[str, Any]]]:
    """Return `toolChoice` of `Engine.chat` (auto, none, required, or the name of a tool), and the tools to offer."""
    if given is None or isinstance(given, str):
        if given == "required" and not tools:
            raise wrong("tool_choice", "required needs tools")
        return given or "auto", tools
    if given.get("type") == "allowed_tools":
        return _allowed(given, tools, nested)
    if given.get("type") != "function":
        text = f"the type {str(given.get('type'))[:60]!r} is not supported"
        raise wrong("tool_choice", text, "unsupported_parameter")
    return _chosen(given, tools, nested, "tool_choice")["function"]["name"], tools


def _chosen(given: Any, tools: list[dict[str, Any]], nested: bool, param: str) -> dict[str, Any]:
    """Return the tool that a choice names."""
    function = given.get("function") if nested and isinstance(given, dict) else given
    name = function.get("name") if isinstance(function, dict) else None
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    raise wrong(param, f"there is no tool {str(name)[:60]!r} in tools")


def _allowed(given: Mapping[str, Any], tools: list[dict[str, Any]], nested: bool) -> tuple[str, list[dict[str, Any]]]:
    """Return the choice `allowed_tools`: a mode, and some of the tools."""
    param = "tool_choice.allowed_tools" if nested else "tool_choice"
    allowed = given.get("allowed_tools") if nested else given
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
        raise wrong(param, "must be an object with mode and tools")
    if allowed.get("mode") not in ("auto", "required"):
        raise wrong(f"{param}.mode", "must be auto or required")
    named = [_chosen(tool, tools, nested, f"{param}.tools[{i}]") for i, tool in enumerate(allowed["tools"])]
    return allowed["mode"], [tool for tool in tools if tool in named]


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
    for name in variables.keys() & _NOT_VARIABLES:
        raise wrong(f"chat_template_kwargs.{name}", "this is not a variable of templates: use the field of the request")
    thinking = variables.pop("enable_thinking", True)
    if not isinstance(thinking, bool):
        raise wrong("chat_template_kwargs.enable_thinking", "must be true or false")
    if effort == "none":
        return False, variables
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
    return thinking, variables
