"""Runs tests/test-chat.cpp of llama.cpp, and collects its cases: the functions and classes that those tests call."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from tests.chat import cpp
from tests.chat.case import Cases, Missing, ParseCase, PromptCase
from tests.chat.cpp import Record, Unsupported

# Test functions of tests/test-chat.cpp that hold cases of these kinds. The others test functions of C++ by themselves.
_FUNCTIONS = (
    "test_template_output_peg_parsers",
    "test_template_generation_prompt",
    "test_developer_role_to_system_workaround",
    "test_deepseek_v4_thinking_retention",
    "test_deepseek_v4_tool_result_ordering",
)

# Calls of C++ in a test function, each of which holds a case or a part of one.
_SITES = (
    "run",
    "check",
    "assert_contains",
    "assert_not_contains",
    "assert_ends_with",
    "assert_equals",
    "runtime_error",
)


# Structs of C++.


def _message(values: list[Any]) -> Record:
    names = ("role", "content", "content_parts", "tool_calls", "reasoning_content", "tool_name", "tool_call_id")
    made = Record(zip(names, values, strict=False))
    for name in names:
        made.setdefault(name, [] if name in ("content_parts", "tool_calls") else "")
    made["tool_calls"] = _Calls(map(_call, made["tool_calls"]))
    return made


def _tool(values: list[Any]) -> Record:
    return Record(zip(("name", "description", "parameters"), values, strict=True))


def _inputs(values: list[Any]) -> Record:
    if values:
        raise Unsupported("inputs with values")
    return Record(
        messages=[],
        tools=[],
        add_generation_prompt=True,
        continue_final_message=None,
        enable_thinking=True,
        parallel_tool_calls=False,
        tool_choice="auto",
        reasoning_format="none",
        json_schema="",
        grammar="",
        use_jinja=True,
        chat_template_kwargs=Record(),
    )


_STRUCTS = {
    "common_chat_msg": _message,
    "common_chat_tool": _tool,
    "common_chat_templates_inputs": _inputs,
    "test_case_options": _inputs,
}


def _call(values: Any) -> Record:
    """A tool call, of the list in braces that stands for one."""
    name, arguments, call_id = [*(values.values() if isinstance(values, Record) else values), "", ""][:3]
    return Record(name=name, arguments=arguments or "", id=call_id or "")


class _Calls(list[Record]):
    def append(self, values: Any) -> None:
        super().append(_call(values))


def _json_message(message: Record) -> dict[str, Any]:
    """A message as the JSON that OpenAI's clients send."""
    made: dict[str, Any] = {"role": message["role"], "content": message["content"]}
    if parts := message["content_parts"]:
        made["content"] = [{"type": kind, "text": text} for kind, text in (_part(part) for part in parts)]
    if calls := message["tool_calls"]:
        made["tool_calls"] = [
            {"type": "function", "id": one["id"], "function": {"name": one["name"], "arguments": one["arguments"]}}
            for one in map(_call, calls)
        ]
    for name in ("reasoning_content", "tool_name", "tool_call_id"):
        if message[name]:
            made["name" if name == "tool_name" else name] = message[name]
    return made


def _part(part: Any) -> tuple[str, str]:
    return (part["type"], part["text"]) if isinstance(part, Record) else (part[0], part[1])


def _json_inputs(inputs: Record) -> dict[str, Any]:
    given: dict[str, Any] = {
        "messages": [_json_message(_message(one) if isinstance(one, list) else one) for one in inputs["messages"]],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool["description"],
                    "parameters": json.loads(tool["parameters"]),
                },
            }
            for tool in (one if isinstance(one, Record) else _tool(one) for one in inputs["tools"])
        ],
    }
    for name in ("add_generation_prompt", "enable_thinking", "parallel_tool_calls", "tool_choice", "reasoning_format"):
        given[name] = inputs[name]
    if inputs["continue_final_message"]:
        given["continue_final_message"] = inputs["continue_final_message"]
    given["json_schema"] = inputs["json_schema"]
    if variables := inputs["chat_template_kwargs"]:
        pairs = variables.items() if isinstance(variables, Record) else variables  # a list of pairs in braces
        given["variables"] = {name: json.loads(text) for name, text in pairs}
    return given


# What llama.cpp's tests call.


class Reader:
    """Runs tests/test-chat.cpp and collects its cases."""

    def __init__(self, source: str) -> None:
        self.cases = Cases()
        names: dict[str, Any] = {
            "peg_tester": lambda path, debug=False: _Tester(self, path),
            "read_templates": lambda path: Record(template=path),
            "common_chat_templates_apply": self._apply,
            "assert_contains": lambda prompt, text: self.add_prompt(prompt, "contains", text),
            "assert_not_contains": lambda prompt, text: self.add_prompt(prompt, "lacks", text),
            "assert_ends_with": lambda prompt, text: self.add_prompt(prompt, "ends", text),
            "assert_equals": self._equals,
            "string_ends_with": lambda prompt, text: _Condition(self, prompt, "ends", text),
            "common_chat_templates_init": lambda model, source: Record(template=source),
            "common_chat_templates_ptr": lambda templates: templates,
            "read_file": lambda path: path,
            "json": _Json,
            "npos": _NPOS,
            "LOG_DBG": lambda *_: None,
            "LOG_ERR": lambda *_: None,
            "__func__": "",
            "COMMON_CHAT_CONTINUATION_NONE": None,
        }
        for name, value in (("AUTO", True), ("CONTENT", "content"), ("REASONING", "reasoning_content")):
            names[f"COMMON_CHAT_CONTINUATION_{name}"] = value
        for name in ("NONE", "AUTO", "DEEPSEEK", "DEEPSEEK_LEGACY"):
            names[f"COMMON_REASONING_FORMAT_{name}"] = name.lower().replace("_", "-")
        for name in ("NONE", "AUTO", "REQUIRED"):
            names[f"COMMON_CHAT_TOOL_CHOICE_{name}"] = name.lower()
        self.interpreter = cpp.Interpreter(cpp.tokenize(source), dict(_STRUCTS), names)
        self.interpreter.skipped.clear()  # at the top of the file: a name that is needed later is missed there
        for function in _FUNCTIONS:
            self.interpreter.call(function)
        self._find_missing()

    def line(self) -> int:
        return self.interpreter.tokens[self.interpreter.at - 1].line

    def _apply(self, templates: Record, inputs: Record) -> _Applied:
        return _Applied(self, templates.get_field("template"), copy.deepcopy(inputs))

    def add_prompt(self, prompt: Any, what: str, text: str) -> None:
        if not isinstance(prompt, _Prompt):
            raise Unsupported("a test of something else than a prompt")
        applied = prompt.applied
        self.cases.prompt.append(
            PromptCase(self.line(), applied.template, _json_inputs(applied.inputs), prompt.name or what, text)
        )

    def _equals(self, expected: Any, found: Any) -> None:
        if not isinstance(found, _Prompt) or found.name != "generation_prompt":
            raise Unsupported("a test of something else than a prompt")
        self.add_prompt(found, "generation_prompt", expected)

    def _find_missing(self) -> None:
        """List each place of a test function with a case that was not read, with the reason."""
        run = self.interpreter
        for function in run.globals.values():
            if isinstance(function, cpp.Function) and function.name.startswith("test_"):
                for at in cpp.sites(run.tokens[: function.end], *_SITES):
                    if at < function.body or (at in run.called and not self._skipped(at)):
                        continue
                    reason = self._skipped(at)
                    if not reason and function.name in _FUNCTIONS and run.tokens[at].value == "runtime_error":
                        continue  # thrown under a condition that was read
                    reason = reason or f"{function.name} tests C++ by itself"
                    self.cases.missing.append(Missing(run.tokens[at].line, run.tokens[at].value, reason))

    def _skipped(self, position: int) -> str:
        reasons = [one.reason for one in self.interpreter.skipped if one.start <= position < one.end]
        return reasons[-1] if reasons else ""


class _Applied:
    """What a template makes of inputs: a value that is only known when the template runs."""

    def __init__(self, reader: Reader, template: str, inputs: Record) -> None:
        self.reader, self.template, self.inputs = reader, template, inputs

    def get_field(self, name: str) -> _Prompt:
        if name not in ("prompt", "generation_prompt"):
            raise Unsupported(f"the field {name} of what a template makes")
        return _Prompt(self, "" if name == "prompt" else name)


@dataclass
class _Prompt:
    applied: _Applied
    name: str

    def call_find(self, text: str) -> _Found:
        return _Found(self, text)


class _Json:
    """A JSON object, of a list of pairs."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.values = {name: value for name, value in pairs}

    def call_dump(self) -> str:
        return json.dumps(self.values)


_NPOS = object()


@dataclass(eq=False)
class _Found:
    """The position of a text in a prompt, which tests only compare with `npos`."""

    prompt: _Prompt
    text: str

    def __eq__(self, other: object) -> Any:
        return self._compared(other, "lacks")

    __hash__ = None

    def __ne__(self, other: object) -> Any:
        return self._compared(other, "contains")

    def _compared(self, other: object, what: str) -> _Condition:
        if other is not _NPOS:
            raise Unsupported("a position in a prompt")
        return _Condition(self.prompt.applied.reader, self.prompt, what, self.text)


_OPPOSITES = {"contains": "lacks", "lacks": "contains", "ends": "does not end", "does not end": "ends"}


@dataclass
class _Condition:
    """The condition under which a test throws: that it does not hold is the case."""

    reader: Reader
    prompt: _Prompt
    what: str
    text: str

    def negated(self) -> _Condition:
        return _Condition(self.reader, self.prompt, _OPPOSITES[self.what], self.text)

    def __bool__(self) -> bool:
        self.reader.add_prompt(self.prompt, _OPPOSITES[self.what], self.text)
        return False


class _Tester:
    def __init__(self, reader: Reader, path: str) -> None:
        self.reader, self.path = reader, path

    def call_test(self, text: str) -> _Builder:
        return _Builder(self, text)

    def call_template_path(self) -> str:
        return self.path


_SETTERS = ("reasoning_format", "tools", "enable_thinking", "parallel_tool_calls", "add_generation_prompt")
_SETTERS += ("continue_final_message", "json_schema", "tool_choice", "messages", "chat_template_kwargs")


class _Builder:
    """One case, as its methods are called in a row."""

    def __init__(self, tester: _Tester, text: str) -> None:
        self.tester, self.text = tester, text
        self.line = tester.reader.line()
        self.inputs = _inputs([])
        self.partial = self.rebuilds = False
        self.expected: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}

    def __getattr__(self, name: str) -> Any:
        setter = name.removeprefix("call_")
        if name == setter or setter not in _SETTERS:
            raise AttributeError(name)

        def set_it(value: Any) -> _Builder:
            self.inputs[setter] = copy.deepcopy(value)
            return self

        return set_it

    def call_expect_rules(self, names: list[str]) -> _Builder:
        """Names of rules inside of a parser, which no interface shows."""
        return self

    def call_is_partial(self, value: bool) -> _Builder:
        self.partial = value
        return self

    def call_expect_reconstruction(self, value: bool = True) -> _Builder:
        self.rebuilds = value
        return self

    def call_expect(self, message: Record) -> _Builder:
        self.expected = {
            "content": message["content"],
            "reasoning": message["reasoning_content"],
            "calls": [_call(one) for one in message["tool_calls"]],
        }
        return self

    def call_expect_content(self, text: str) -> _Builder:
        self.expected["content"] = text
        return self

    def call_expect_reasoning(self, text: str) -> _Builder:
        self.expected["reasoning"] = text
        return self

    def call_expect_tool_calls(self, calls: list[Any]) -> _Builder:
        self.expected["calls"] = [_call(one) for one in calls]
        return self

    def call_run(self) -> None:
        reader = self.tester.reader
        if not self.inputs["messages"]:
            self.inputs["messages"] = [reader.interpreter.globals.find("message_user")]
        self.rebuilds = self.rebuilds and not self.partial
        reader.cases.parse.append(
            ParseCase(
                self.line,
                self.tester.path,
                _json_inputs(self.inputs),
                self.text,
                self.partial,
                self.expected,
                self.rebuilds,
            )
        )
