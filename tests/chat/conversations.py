"""Thirty conversations in OpenAI's form, for every template: turns, tools, results, parts, thoughts and odd texts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    name: str
    messages: list[Message]
    tools: list[Message] = field(default_factory=list)
    opens: bool = True  # the prompt ends where the assistant begins
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """The conversation as the native renderer takes it."""
        found = {"messages": self.messages, "tools": self.tools, "add_generation_prompt": self.opens}
        enable = self.variables.get("enable_thinking", True)
        rest = {name: value for name, value in self.variables.items() if name != "enable_thinking"}
        return {**found, "enable_thinking": enable, "variables": rest}


def _tool(name: str, description: str, **properties: Message) -> Message:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


WEATHER = _tool(
    "look_up_weather",
    "Tells the weather of a place.",
    place={"type": "string", "description": "A town"},
    days={"type": "integer", "description": "How many days ahead", "minimum": 0},
)
ADD = _tool("add", "Adds numbers.", numbers={"type": "array", "items": {"type": "number"}})
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time.", "parameters": {}}}
CHOICE = _tool(
    "paint",
    'Paints a thing: "well" & <quickly>.',
    color={"type": "string", "enum": ["red", "blue"], "description": "Farbe, größer"},
    options={"type": "object", "properties": {"glossy": {"type": "boolean"}}},
)


def _system(text: Any) -> Message:
    return {"role": "system", "content": text}


def _user(text: Any) -> Message:
    return {"role": "user", "content": text}


def _answer(text: Any, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def _call(name: str, arguments: Any, number: int = 1) -> Message:
    return {
        "id": f"call{number:05}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _result(text: Any, number: int = 1, name: str = "look_up_weather") -> Message:
    return {"role": "tool", "name": name, "tool_call_id": f"call{number:05}", "content": text}


def _text_parts(*texts: str) -> list[Message]:
    return [{"type": "text", "text": text} for text in texts]


_PLACE = {"place": "Oslo", "days": 2}
_ASK = _user("What will the weather be in Oslo?")
_HISTORY = [_user("Hello"), _answer("Good morning!"), _user("How are you?")]

CONVERSATIONS = [
    Conversation("one question", [_user("Who are you?")]),
    Conversation("one question, closed", [_user("Who are you?")], opens=False),
    Conversation("system", [_system("Be brief."), _user("Who are you?")]),
    Conversation("turns", _HISTORY),
    Conversation("turns with system", [_system("Be brief."), *_HISTORY]),
    Conversation("turns, closed", [*_HISTORY, _answer("Well, thank you.")], opens=False),
    Conversation("turns of space", [_user("  Hello \n"), _answer("\n Good morning! "), _user("How\n\nare you?\t")]),
    Conversation("empty content", [_system(""), _user("Hello"), _answer(""), _user("Say something.")]),
    Conversation(
        "unicode", [_system("Sei höflich."), _user("日本語 \U0001f600 é \u200b naïve"), _answer("はい"), _user("ß?")]
    ),
    Conversation("markup", [_user("<b>\"1\" & '2'</b> {{ x }} {% y %} \\n"), _answer("<|x|> [INST]"), _user("</s>")]),
    Conversation("parts", [_user(_text_parts("Look at ", "this."))]),
    Conversation(
        "parts everywhere",
        [_system(_text_parts("Be brief.")), *_HISTORY[:1], _answer(_text_parts("Yes", "?"))]
        + [_user(_text_parts("No."))],
    ),
    Conversation("developer", [{"role": "developer", "content": "Be brief."}, _user("Who are you?")]),
    Conversation("thoughts", [*_HISTORY[:1], _answer("Four.", reasoning_content="Two and two."), _user("Sure?")]),
    Conversation("thoughts, closed", [_user("2+2?"), _answer("Four.", reasoning_content="Two and two.")], opens=False),
    Conversation("no thinking", _HISTORY, variables={"enable_thinking": False}),
    Conversation("tools", [_ASK], [WEATHER]),
    Conversation("tools with system", [_system("Be brief."), _ASK], [WEATHER, ADD]),
    Conversation("tools, odd ones", [_ASK], [CLOCK, CHOICE]),
    Conversation(
        "call", [_ASK, _answer("", tool_calls=[_call("look_up_weather", _PLACE)]), _result("Rain.")], [WEATHER]
    ),
    Conversation(
        "call, closed", [_ASK, _answer("", tool_calls=[_call("look_up_weather", _PLACE)])], [WEATHER], opens=False
    ),
    Conversation(
        "call without content",
        [_ASK, _answer(None, tool_calls=[_call("look_up_weather", _PLACE)]), _result("Rain.")],
        [WEATHER],
    ),
    Conversation(
        "call with text arguments",
        [_ASK, _answer(None, tool_calls=[_call("look_up_weather", json.dumps(_PLACE))]), _result("Rain.")],
        [WEATHER],
    ),
    Conversation(
        "call with content",
        [_ASK, _answer("I look it up.", tool_calls=[_call("look_up_weather", _PLACE)]), _result("Rain.")],
        [WEATHER],
    ),
    Conversation(
        "call with thoughts",
        [_ASK, _answer("", reasoning_content="I need it.", tool_calls=[_call("look_up_weather", _PLACE)])]
        + [_result('{"sky": "grey", "degrees": 7.5}')],
        [WEATHER],
    ),
    Conversation(
        "several calls",
        [_ASK, _answer("", tool_calls=[_call("look_up_weather", _PLACE), _call("add", {"numbers": [1, 2.5, -3]}, 2)])]
        + [_result("Rain."), _result("0.5", 2, "add")],
        [WEATHER, ADD],
    ),
    Conversation(
        "calls, one after the other",
        [_system("Be brief."), _ASK, _answer("", tool_calls=[_call("look_up_weather", _PLACE)]), _result("Rain.")]
        + [_answer("", tool_calls=[_call("add", {"numbers": []}, 2)]), _result("0", 2, "add"), _answer("Rain.")]
        + [_user("Thank you.")],
        [WEATHER, ADD],
    ),
    Conversation(
        "call with odd arguments",
        [
            _ASK,
            _answer("", tool_calls=[_call("paint", {"color": 'r"e\\d\n<é>', "options": {"glossy": True, "x": None}})]),
            _result("größer <b>", name="paint"),
        ],
        [CHOICE],
    ),
    Conversation(
        "call without arguments",
        [_ASK, _answer("", tool_calls=[_call("clock", {})]), _result("12:00", name="clock")],
        [CLOCK],
    ),
    Conversation(
        "result in parts",
        [_ASK, _answer("", tool_calls=[_call("look_up_weather", _PLACE)]), _result(_text_parts("Rain", "."))],
        [WEATHER],
    ),
]
