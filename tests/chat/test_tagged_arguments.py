"""Formats that write arguments between tags allow the texts of a tool's schema, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llama_cffi import AnswerFormat, ChatTemplate, Model
from llama_cffi.chat import native
from llama_cffi.chat.tagged_arguments import MOST_CHARACTERS, limited
from tests.chat import grammars, required
from tests.chat.test_answers import ASK

pytestmark = pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")

ODD = ["a b", 'say "x"\\', "größer <b>", "two\nlines", "", "]^-\t"]
# How a call with one argument is written, from where the answer begins.
WRITTEN = {
    "GLM": "<tool_call>f\n<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
    "Qwen 3 Coder": "<tool_call>\n<function=f>\n<parameter={}>\n{}\n</parameter>\n</function>\n</tool_call>",
    "DeepSeek": '</think>\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="{}" string="true">{}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
}


def _form(model: Model, name: str, schema: dict[str, Any], choice: str = "required") -> AnswerFormat:
    parameters = {"type": "object", "properties": schema, "required": list(schema)[:1]}
    tools = [{"name": "f", "parameters": parameters}]
    template = ChatTemplate(model, required.source(name))
    return template.format(ASK, tools=tools, toolChoice=choice, parallelToolCalls=False)


@pytest.mark.parametrize("name", required.TAGGED)
def test_random_models_write_valid_arguments(tiny: Model, name: str) -> None:
    assert required.run(tiny, required.source(name), range(4)) == {"": 4}


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_is_one_that_the_schema_lists(tiny: Model, name: str, choice: str) -> None:
    form = _form(tiny, name, {"key": {"type": "string", "enum": ODD}}, choice)
    for text in ODD:
        call = WRITTEN[name].format("key", text)
        assert grammars.allows(grammars.model(), form, call), text
        assert form.parse(call).toolCalls[0].arguments == {"key": text}
    for text in ("a", "a b ", "A b", "größer", "two\nline", " ", 'say "x"'):
        assert not grammars.allows(grammars.model(), form, WRITTEN[name].format("key", text)), text
    constant = _form(tiny, name, {"key": {"const": "one"}}, choice)
    assert grammars.allows(grammars.model(), constant, WRITTEN[name].format("key", "one"))
    assert not grammars.allows(grammars.model(), constant, WRITTEN[name].format("key", "two"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_has_the_length_of_the_schema(tiny: Model, name: str) -> None:
    form = _form(tiny, name, {"key": {"type": "string", "minLength": 2, "maxLength": 5}})
    for text, allowed in (("ab", True), ("<b>é\U0001f600", True), ("a", False), ("", False), ("abcdef", False)):
        call = WRITTEN[name].format("key", text)
        assert grammars.allows(grammars.model(), form, call) is allowed, text
        if allowed:
            assert form.parse(call).toolCalls[0].arguments == {"key": text}
    longest = _form(tiny, name, {"key": {"type": "string", "maxLength": MOST_CHARACTERS}})
    for size, allowed in ((0, True), (MOST_CHARACTERS, True), (MOST_CHARACTERS + 1, False)):
        assert grammars.allows(grammars.model(), longest, WRITTEN[name].format("key", "x" * size)) is allowed, size


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "string", "maxLength": MOST_CHARACTERS + 1},
        {"type": ["string", "null"], "maxLength": 2},
        {"enum": ["a", 1]},
        {"type": "string", "enum": ["x</arg_value>\n", "x\n</parameter>\n", "x</｜DSML｜parameter>"]},
        {"type": "string", "minLength": 3, "maxLength": 2},
    ],
    ids=str,
)
def test_what_cannot_be_enforced_stays_free(tiny: Model, name: str, schema: dict[str, Any]) -> None:
    assert grammars.allows(
        grammars.model(), _form(tiny, name, {"key": schema}), WRITTEN[name].format("key", "some text")
    )


def test_an_optional_argument_comes_once(tiny: Model) -> None:
    form = _form(tiny, "GLM", {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "integer"}})
    one = "<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n"
    a, b, c = one.format("a", "x"), one.format("b", 1), one.format("c", 2)
    for arguments, allowed in ((a, True), (a + b, True), (a + c, True), (a + b + c, True), (a + b + b, False)):
        assert grammars.allows(grammars.model(), form, f"<tool_call>f\n{arguments}</tool_call>") is allowed, arguments


def test_no_space_that_the_parser_does_not_read(tiny: Model) -> None:
    form = _form(tiny, "GLM", {"key": {"type": "string"}})
    call = WRITTEN["GLM"].format("key", "x").replace("</tool_call>", "\n </tool_call>")
    assert not form.parse(call).toolCalls and not grammars.allows(grammars.model(), form, call)


def test_arguments_that_share_the_name_of_a_rule_stay_as_they_are() -> None:
    def tool(*keys: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {key: {"const": key} for key in keys}}
        return {"type": "function", "function": {"name": "f", "parameters": schema}}

    grammar = 'root ::= "a"\ntool-f-arg-a-b ::= "<" until-1 "</a>"\nuntil-1 ::= [a-z]*\n'
    assert limited(grammar, [tool("a b", "a_b")], True) == grammar
    assert '("a b") "</a>"' in limited(grammar, [tool("a b")], True)


@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"properties": None}, {"properties": {"a": None, "b": True, "c": {"enum": 3}, "d": {"enum": []}}}],
    ids=json.dumps,
)
def test_schemas_that_say_nothing(parameters: Any) -> None:
    grammar = 'root ::= "a"\n' + "".join(f'tool-f-arg-{key} ::= "<" until-1 "</a>"\n' for key in "abcd")
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert limited(grammar, tools, False) == grammar


@pytest.mark.parametrize("rule", ["tool-1-arg-0", "ling3-arg-1-0", "tool-second-arg-city", "ling3-arg-second-city"])
def test_arguments_are_found_by_name_or_number(rule: str) -> None:
    """Newer versions of llama.cpp count tools and arguments."""
    grammar = f'root ::= {rule}\n{rule} ::= "<v>" until-1 "</v>"\nuntil-1 ::= [a-z]*\n'
    tools = [
        {"function": {"name": "first", "parameters": {"properties": {"city": {"enum": ["no"]}}}}},
        {"function": {"name": "second", "parameters": {"properties": {"city": {"enum": ["Rome", "Oslo"]}}}}},
    ]
    assert f'{rule} ::= "<v>" ("Rome" | "Oslo") "</v>"\n' in limited(grammar, tools, once=True)
