"""The grammar and the parser of an answer are cached: with every template, they are those of a new template.

A format depends on the messages only through the generation prompt. This is shown for each template, with pairs of
histories whose generation prompts are equal or not.
"""

from __future__ import annotations

from typing import Any

import pytest

from llama_cffi import AnswerFormat, ChatTemplate, Model
from llama_cffi.chat import format_cache, native
from llama_cffi.chat.native import NativeTemplate
from tests.chat import judge, required
from tests.chat.conversations import CLOCK, CONVERSATIONS, WEATHER
from tests.chat.test_answers import ASK, TEMPLATE

pytestmark = pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in judge.templates()} | {"ChatML": required.CHATML}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
OPTIONS: dict[str, dict[str, Any]] = {
    "no tools": {},
    "schema": {"responseFormat": SCHEMA},
    "auto": {"tools": [WEATHER, CLOCK]},
    "required": {"tools": [WEATHER, CLOCK], "toolChoice": "required", "parallelToolCalls": False},
    "not thinking": {"tools": [WEATHER], "toolChoice": "required", "thinking": False, "thinkFirst": True},
}
# Two templates ask whether add_generation_prompt is defined, so that llama.cpp finds another generation prompt.
NOT_CACHED = {"llama-cpp-rwkv-world", "upstage-Solar-Open-100B"}
HISTORIES = [
    *(one.messages for one in CONVERSATIONS if one.name in ("turns with system", "call", "thoughts")),
    [{"role": "user", "content": "Write: <|im_start|>assistant\n<think>"}],
]


class Counted:
    """Counts what llama.cpp's chat code is called for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        call, apply = NativeTemplate._call, NativeTemplate.apply

        def counted(own: NativeTemplate, function: bytes, inputs: Any) -> Any:
            self.names.append(function.decode())
            return call(own, function, inputs)

        def applied(own: NativeTemplate, inputs: Any) -> Any:
            self.names.append("apply")
            return apply(own, inputs)

        monkeypatch.setattr(NativeTemplate, "_call", counted)
        monkeypatch.setattr(NativeTemplate, "apply", applied)

    def taken(self) -> list[str]:
        names, self.names = self.names, []
        return names


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


# Answers that parsers of different formats read differently.
ANSWERS = (
    "Hello.",
    "hm</think>\n\nHello.",
    "<think>hm</think>Hello.",
    '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]',
    '{"name": "f", "parameters": {"a": 1}}',
)


def _reads(parser: native.NativeParser) -> list[Any]:
    """What a parser makes of answers: llama.cpp does not show its rules."""
    found: list[Any] = [parser.content, parser.rules]
    for text in ANSWERS:
        try:
            found.append(parser.parse(text))
        except native.ChatCodeError as error:
            found.append(str(error))
    return found


def _facts(form: AnswerFormat) -> dict[str, Any]:
    facts = {name: getattr(form, name) for name in AnswerFormat.__slots__}
    return facts | {name: _reads(facts[name]) for name in ("_parser", "_fallback") if facts[name] is not None}


def _made(template: ChatTemplate, history: Any, options: Any) -> AnswerFormat | str:
    try:
        return template.format(history, **options)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", SOURCES)
def test_a_cached_format_is_that_of_a_new_template(tiny: Model, name: str, calls: Counted) -> None:
    used = ChatTemplate(tiny, SOURCES[name])
    hits = 0
    for label, options in OPTIONS.items():
        for history in HISTORIES:
            calls.taken()
            found = _made(used, history, options)
            hits += set(calls.taken()) == {"render"} and isinstance(found, AnswerFormat)
            used._formats, kept = format_cache.FormatCache(), used._formats
            fresh = _made(used, history, options)
            used._formats = kept
            if isinstance(found, str) or isinstance(fresh, str):
                assert found == fresh, (label, history)
            else:
                assert _facts(found) == _facts(fresh), (label, history)
    assert (hits >= len(OPTIONS)) is (name not in NOT_CACHED)


def test_histories_with_other_generation_prompts(tiny: Model, calls: Counted) -> None:
    """A cached format has the generation prompt of its own history, which may be the end of another one."""
    source = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}{% if messages[-1].content == 'Think.' %}<think>{% endif %}"
        "[assistant] {% endif %}"
    )
    template = ChatTemplate(tiny, source)
    for content, made in (("Hi", True), ("Think.", True), ("Ho", False), ("Think.", False), ("<think>", False)):
        calls.taken()
        form = template.format([{"role": "user", "content": content}])
        assert ("apply" in calls.taken()) is made, content
        assert form._prefill == ("<think>" if content == "Think." else "") + "[assistant] "
        assert form.prompt == f"[user] {content}\n{form._prefill}"


def test_changing_a_format_changes_no_other(tiny: Model) -> None:
    template = ChatTemplate(tiny, TEMPLATE)
    first = template.format(ASK, tools=[WEATHER])
    stop, tools = list(first.stop), set(first.tools)
    for form in (first, template.format(ASK, tools=[WEATHER])):
        form.stop.append("x")
        form.tools.clear()
        form.grammar = form.prompt = ""
    last = template.format(ASK, tools=[WEATHER])
    assert (last.stop, last.tools) == (stop, tools) and last.grammar and last.prompt


def test_tools_of_the_same_names_have_their_own_grammars(tiny: Model) -> None:
    template = ChatTemplate(tiny, TEMPLATE)
    found = set()
    for kind in ("string", "integer") * 2:
        tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": kind}}, "required": ["a"]}}
        for parallel in (True, False):
            found.add(template.format(ASK, tools=[tool], toolChoice="f", parallelToolCalls=parallel).grammar)
    assert len(found) == 4


def test_it_keeps_no_more_than_it_says(tiny: Model, monkeypatch: pytest.MonkeyPatch, calls: Counted) -> None:
    template = ChatTemplate(tiny, TEMPLATE)

    def offer(number: int, text: str = "") -> list[str]:
        calls.taken()
        template.format(ASK, tools=[{"name": f"f{number}", "description": text, "parameters": {}}])
        return calls.taken()

    for number in range(format_cache.MOST_FORMATS + 1):
        offer(number)
    assert len(template._formats._kept) == format_cache.MOST_FORMATS
    assert set(offer(1)) == {"render"} and "apply" in offer(0)
    monkeypatch.setattr(format_cache, "MOST_BYTES", 100_000)
    offer(50, "x" * 60_000)
    offer(51, "x" * 60_000)
    assert sum(size for _, size in template._formats._kept.values()) <= 100_000
    assert set(offer(51, "x" * 60_000)) == {"render"}
    offer(52, "x" * 100_000)
    assert not template._formats._kept


def test_messages_that_a_template_rejects_are_rejected_each_time(tiny: Model) -> None:
    source = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('never no') }}{% endif %}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}> {% endif %}"
    )
    template = ChatTemplate(tiny, source)
    for _ in range(2):
        assert template.format([{"role": "user", "content": "yes"}]).prompt == "yes> "
        with pytest.raises(ValueError, match="never no"):
            template.format([{"role": "user", "content": "no"}])


def test_a_continued_message_is_not_cached(tiny: Model) -> None:
    template = ChatTemplate(tiny, TEMPLATE)
    for text in ("Rain", "Snow"):
        form = template.format([*ASK, {"role": "assistant", "content": text}], continueLast=True)
        assert form._prefill.endswith(text) and not template._formats._kept
