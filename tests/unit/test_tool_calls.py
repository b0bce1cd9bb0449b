"""Tool calls in texts as models of each family write them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings, strategies as st

from llama_cffi import ToolCall, ToolFormat, parseToolCalls

WEATHER = ToolCall("weather", {"city": "Zürich", "days": 3}, "call00001")
ARGUMENTS = json.dumps(WEATHER.arguments, ensure_ascii=False)


@pytest.mark.parametrize(
    ("format", "text", "content"),
    [
        ("hermes", f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>', ""),
        (
            "hermes",
            f'Let me see.\n<tool_call>{{"name": "weather", "arguments": {ARGUMENTS}}}</tool_call>',
            "Let me see.",
        ),
        ("hermes", f'<tool_call>\n{{"arguments": {ARGUMENTS}, "name": "weather"}}', ""),  # cut off before the end tag
        ("hermes", f'<tool_call>{{"name": "weather", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call>', ""),
        ("llama3", f'{{"name": "weather", "parameters": {ARGUMENTS}}}', ""),
        ("llama3", f'<|python_tag|>{{"type": "function", "name": "weather", "parameters": {ARGUMENTS}}}', ""),
        ("llama3", f'\n\n {{"function": "weather", "parameters": {ARGUMENTS}}} ', ""),
        ("llama3", f'I look.<|python_tag|>{{"name": "weather", "parameters": {ARGUMENTS}}}', "I look."),
        ("mistral", f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}}}]', ""),
        ("mistral", f'Sure. [TOOL_CALLS][{{"name": "weather", "arguments": {ARGUMENTS}}}]', "Sure."),
        ("mistral", f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}", ""),
    ],
)
def test_one_call(format: str, text: str, content: str) -> None:
    answer = parseToolCalls(text, ToolFormat(format))
    assert (answer.toolCalls, answer.content, answer.problems) == ([WEATHER], content, [])


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", '<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b"}</tool_call>'),
        ("llama3", '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}'),
        ("mistral", '[TOOL_CALLS] [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]'),
        ("mistral", "[TOOL_CALLS]a[ARGS]{}[TOOL_CALLS]b[ARGS]{}"),
    ],
)
def test_several_calls(format: str, text: str) -> None:
    answer = parseToolCalls(text, ToolFormat(format))
    assert answer.toolCalls == [ToolCall("a", {}, "call00001"), ToolCall("b", {}, "call00002")]
    assert (answer.content, answer.problems) == ("", [])


def test_names_of_calls_are_kept() -> None:
    old = parseToolCalls('[TOOL_CALLS] [{"name": "a", "arguments": {}, "id": "VvvODy9mT"}]', ToolFormat.MISTRAL)
    new = parseToolCalls("[TOOL_CALLS]a[CALL_ID]VvvODy9mT[ARGS]{}", ToolFormat.MISTRAL)
    assert old.toolCalls == new.toolCalls == [ToolCall("a", {}, "VvvODy9mT")]


@pytest.mark.parametrize(
    ("format", "text", "reason"),
    [
        ("hermes", '<tool_call>{"name": "a", "arguments": {"x": </tool_call> and more', "invalid JSON at"),
        ("hermes", '<tool_call>\n{"arguments": {}}\n</tool_call>', "no tool name"),
        ("hermes", '<tool_call>{"name": "a", "arguments": [1]}</tool_call>', "arguments of a are not an object"),
        ("hermes", "<tool_call>", "invalid JSON at ''"),
        ("llama3", '<|python_tag|>brave_search.call(query="x")', "invalid JSON"),
        ("llama3", '{"name": "a", "parameters": {', "invalid JSON"),
        ("llama3", '{"name": "a", "parameters": {}} and more', "invalid JSON"),
        ("llama3", "<|python_tag|>", "nothing follows"),
        ("mistral", "[TOOL_CALLS] weather(city)", "invalid JSON"),
        ("mistral", "[TOOL_CALLS] [1]", "no tool name"),
    ],
)
def test_broken_calls_stay_text(format: str, text: str, reason: str) -> None:
    answer = parseToolCalls(text, ToolFormat(format))
    assert answer.content == text and answer.toolCalls == []
    assert len(answer.problems) == 1 and reason in answer.problems[0]


def test_a_broken_call_does_not_hide_a_good_one() -> None:
    answer = parseToolCalls('<tool_call>{oops</tool_call><tool_call>{"name": "a"}</tool_call>', ToolFormat.HERMES)
    assert [call.name for call in answer.toolCalls] == ["a"]
    assert answer.content == "<tool_call>{oops</tool_call>" and len(answer.problems) == 1


def test_a_tag_within_an_argument_is_no_call() -> None:
    inner = 'write <tool_call>{"name": "b"}</tool_call>'
    text = f"<tool_call>{json.dumps({'name': 'a', 'arguments': {'x': inner}})}</tool_call>"
    assert parseToolCalls(text, ToolFormat.HERMES).toolCalls == [ToolCall("a", {"x": inner}, "call00001")]


@pytest.mark.parametrize("format", [None, *ToolFormat])
def test_plain_text_is_left_alone(format: ToolFormat | None) -> None:
    for text in ("", " Hello {world} ", '{"answer": 42}', '[{"name": "x"}]', "f(x) = {1}\n"):
        answer = parseToolCalls(text, format)
        assert (answer.content, answer.toolCalls, answer.problems) == (text, [], [])


@pytest.mark.parametrize("after", ["1", "null", "true", "[]", '"arguments"', "1.5"])
def test_a_call_before_json_that_is_not_one_stays_text(after: str) -> None:
    text = '{"name": "a", "arguments": {}}' + after
    answer = parseToolCalls(text, ToolFormat.LLAMA3)
    assert (answer.content, answer.toolCalls, len(answer.problems)) == (text, [], 1)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(ToolFormat)),
    st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "[TOOL_CALLS]",
                "[ARGS]",
                "<|python_tag|>",
                "{",
                "}",
                "[",
                "]",
                '"name"',
                ":",
            ]
            + ['{"name": "a", "arguments": {}}', '"a"', "{}", " ", ";", "a", "1", '"', ","]
        ),
        max_size=12,
    ),
)
def test_nothing_is_lost(format: ToolFormat, parts: list[str]) -> None:
    text = "".join(parts)
    answer = parseToolCalls(text, format)
    if not answer.toolCalls:
        assert answer.content == text
    for call in answer.toolCalls:
        assert call.name and call.id


def test_an_empty_list_of_calls_stays_text() -> None:
    answer = parseToolCalls("[TOOL_CALLS][] done", ToolFormat.MISTRAL)
    assert (answer.content, answer.toolCalls) == ("[TOOL_CALLS][] done", []) and "empty" in answer.problems[0]


def test_deep_nesting_is_no_crash() -> None:
    answer = parseToolCalls("<tool_call>" + "[" * 100_000, ToolFormat.HERMES)
    assert answer.toolCalls == [] and answer.problems


@pytest.mark.parametrize(
    ("template", "format"),
    [
        ('{%- for t in tools %}...<tool_call>\n{"name": <function-name>, ...}\n</tool_call>', ToolFormat.HERMES),
        ("...<tool_call>\n<function=example>\n<parameter=x>...", None),
        ("{%- set begin = ns ~ '<tool_call>' %}<invoke name=\"", None),
        ("<tool_call>{{ name }}<arg_key>", None),
        ("<|python_tag|> or <function=example>", None),
        ("[AVAILABLE_TOOLS]...[TOOL_CALLS] [", ToolFormat.MISTRAL),
        ("<|start_header_id|>ipython<|end_header_id|> ... <|eot_id|>", ToolFormat.LLAMA3),
        ("<|python_tag|>", ToolFormat.LLAMA3),
        ("<|im_start|>{{ message.role }}", None),
        ("<|start_header_id|>user<|end_header_id|>", None),
    ],
)
def test_the_template_declares_the_format(template: str, format: ToolFormat | None) -> None:
    assert ToolFormat.ofTemplate(template) is format


@pytest.mark.parametrize(
    ("format", "unit"),
    [
        (ToolFormat.HERMES, "<tool_call>{"),
        (ToolFormat.HERMES, '<tool_call>"'),
        (ToolFormat.HERMES, '<tool_call>["'),
        (ToolFormat.HERMES, "<tool_call>" + "[" * 500),
        (ToolFormat.HERMES, '<tool_call>{"a": 1}\n'),
        (ToolFormat.HERMES, "<tool_call>12"),
        (ToolFormat.HERMES, "<tool_call>   \n  "),
        (ToolFormat.MISTRAL, "[TOOL_CALLS]f[ARGS]{"),
        (ToolFormat.MISTRAL, '[TOOL_CALLS]["'),
        (ToolFormat.MISTRAL, "[TOOL_CALLS]" + "a" * 50),
        (ToolFormat.LLAMA3, '{"name": "f", "parameters": {}};'),
        (ToolFormat.LLAMA3, '{"name": '),
    ],
)
def test_the_time_grows_with_the_text(format: ToolFormat, unit: str) -> None:
    text = "a b\n" * 50_000 + unit * (1_100_000 // len(unit)) if format is not ToolFormat.LLAMA3 else unit * 30_000
    before = time.thread_time()
    answer = parseToolCalls(text, format)
    assert time.thread_time() - before < 3
    assert answer.toolCalls or answer.content == text


@pytest.mark.parametrize("size", [1, 300, 480, 500, 511, 512, 513, 2047, 2048, 70_000])
@pytest.mark.parametrize("value", ["x{}", "\u00e9{}\\n", '"\\"{}', "{}-Infinity"])
def test_calls_of_every_length(size: int, value: str) -> None:
    arguments = {"a": value.format("b" * size), "n": int("1" * min(size, 4000)), "t": [True, None, 1.5e-7]}
    call = json.dumps({"name": "f", "arguments": arguments})
    answer = parseToolCalls(f"x<tool_call>{call}</tool_call>y<tool_call>{call[:-1]}", ToolFormat.HERMES)
    assert [c.arguments for c in answer.toolCalls] == [arguments] and answer.content == f"xy<tool_call>{call[:-1]}"
    assert len(answer.problems) == 1
