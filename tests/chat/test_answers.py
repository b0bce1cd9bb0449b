"""Answers in their formats: thoughts, calls, choices and response formats, whole and while they stream."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import (
    AnswerFormat,
    ChatEvent,
    ChatSession,
    ChatTemplate,
    Context,
    Engine,
    Model,
    Sampler,
    StopReason,
    ToolCall,
    ToolFormat,
    parseToolCalls,
    tokenize,
)
from llama_cffi.chat import native
from llama_cffi.chat.events import EventParser
from tests.chat import grammars, judge
from tests.generate.test_chat_session import Scripted

pytestmark = pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")

# Thoughts in tags, calls as JSON in tags: what many families do, in few words.
TEMPLATE = """{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif -%}
{%- for m in messages %}<|im_start|>{{ m.role }}
{%- if m.role == "assistant" and m.reasoning_content %}
<think>
{{ m.reasoning_content }}
</think>
{% endif %}
{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
CLOCK = {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}}
ASK = [{"role": "user", "content": "What is it like in Bern?"}]
THOUGHT = "I could call <tool_call> but must not."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


@pytest.fixture
def template(tiny: Model) -> ChatTemplate:
    return ChatTemplate(tiny, TEMPLATE)


@pytest.fixture
def format(template: ChatTemplate) -> AnswerFormat:
    return template.format(ASK, tools=[WEATHER, CLOCK])


def test_what_is_only_thought_of_is_not_called(format: AnswerFormat) -> None:
    found = format.parse(f"<think>\n{THOUGHT}\n</think>\n\nHello.")
    assert (found.content.strip(), found.reasoning.strip(), found.toolCalls) == ("Hello.", THOUGHT, [])


def test_a_call_and_its_id(format: AnswerFormat) -> None:
    found = format.parse(f"<think>\nHm.\n</think>\n\nLet me see.\n{CALL}", taken={"call00001", "call00003"})
    assert [(call.name, call.arguments) for call in found.toolCalls] == [("weather", {"city": "Bern"})]
    assert found.reasoning.strip() == "Hm." and found.content.strip() == "Let me see." and found.problems == []
    assert found.toolCalls[0].id not in {"", "call00001", "call00003"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>', "format"),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": NaN}}\n</tool_call>', "format|NaN"),
        ('<tool_call>\n{"name": "weather", "arguments": [1]}\n</tool_call>', "format|object"),
        ('<tool_call>\n{"name": "weather", "argum', "format|JSON"),
        ("<tool_call>\n" + "[" * 5000, "format|deep"),
    ],
)
def test_what_cannot_be_read_stays_text(format: AnswerFormat, text: str, reason: str) -> None:
    found = format.parse(text)
    if found.toolCalls == []:
        assert found.content == text and len(found.problems) == 1
        assert any(word in found.problems[0] for word in reason.split("|"))
    else:  # cut off, and read as far as it goes
        assert found.toolCalls == [ToolCall("weather", {}, found.toolCalls[0].id)]


def test_json_is_not_a_call(template: ChatTemplate) -> None:
    text = '{"name": "Ada", "age": 36}'
    assert parseToolCalls(text, template.format(ASK, tools=[WEATHER])).content == text
    found = parseToolCalls(text, ToolFormat.LLAMA3, tools=["weather"])
    assert found.content == text and found.toolCalls == [] and "Ada" in found.problems[0]


@pytest.mark.parametrize(("reasoning", "thought", "content"), [("split", "Hm.", "Yes."), ("drop", "", "Yes.")])
def test_where_thoughts_go(template: ChatTemplate, reasoning: Any, thought: str, content: str) -> None:
    found = template.format(ASK, reasoningFormat=reasoning).parse("<think>\nHm.\n</think>\n\nYes.")
    assert (found.reasoning.strip(), found.content.strip()) == (thought, content)


def test_thoughts_can_stay(template: ChatTemplate) -> None:
    text = "<think>\nHm.\n</think>\n\nYes."
    found = template.format(ASK, reasoningFormat="keep").parse(text)
    assert (found.reasoning, found.content) == ("", text)
    assert template.format(ASK, thinking=False).prompt.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("tools", [None, [WEATHER]])
def test_the_end_of_a_prompt_without_thoughts_is_not_content(template: ChatTemplate, tools: Any) -> None:
    form = template.format(ASK, thinking=False, tools=tools)
    for text in ("Yes", "\nYes", "\n\nYes", "", "\n"):
        assert form.parse(text).content == text
        whole = ""
        for end in range(len(text) + 1):  # what was streamed is not taken back
            content = form.pieces(text[:end], True)[1]
            assert content.startswith(whole) and text.startswith(content)
            whole = content


def test_wrong_options(template: ChatTemplate) -> None:
    with pytest.raises(ValueError, match="reasoningFormat must be one of split"):
        template.format(ASK, reasoningFormat="hide")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='toolChoice="required" needs tools'):
        template.format(ASK, toolChoice="required")
    with pytest.raises(ValueError, match="name of a tool \\(weather\\), got 'clock'"):
        template.format(ASK, tools=[WEATHER], toolChoice="clock")
    with pytest.raises(ValueError, match="last message of the assistant"):
        template.format(ASK, continueLast=True)
    with pytest.raises(TypeError, match="responseFormat.*got str"):
        template.format(ASK, responseFormat="json")
    with pytest.raises(ValueError, match="parts of text only.*image_url"):
        template.format([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])


def test_messages_in_the_form_of_openai(template: ChatTemplate) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "cold?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "3 degrees", "tool_call_id": "c1"},
    ]
    text = template.render(chat, tools=[WEATHER])
    assert "It is cold?" in text and '{"name": "weather", "arguments": {"city": "Bern"}}' in text
    assert "3 degrees" in text and "None" not in text


# While it streams


def _events(format: AnswerFormat, text: str, size: int) -> list[ChatEvent]:
    from llama_cffi.chat.events import EventParser

    parser, found = EventParser(format), []
    for start in range(0, len(text), size):
        found += parser.feed(text[start : start + size])
    return [*found, *parser.finish()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_each_piece_once(format: AnswerFormat, size: int) -> None:
    events = _events(format, f"<think>\n{THOUGHT}\n</think>\n\nLet me see.\n{CALL}", size)
    joined = {kind: "".join(e.text for e in events if e.kind == kind) for kind in ("reasoning", "content", "arguments")}
    assert joined["reasoning"].strip() == THOUGHT and joined["content"].strip() == "Let me see."
    assert json.loads(joined["arguments"]) == {"city": "Bern"}
    assert [(e.name, e.index) for e in events if e.kind == "call"] == [("weather", 0)]
    assert "tool_call" not in joined["content"] and "think" not in joined["content"]


def test_streaming_takes_linear_time(format: AnswerFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    pieces = AnswerFormat.pieces
    monkeypatch.setattr(
        AnswerFormat, "pieces", lambda self, text, partial: (seen.append(len(text)), pieces(self, text, partial))[1]
    )
    for length in (20_000, 80_000):
        seen.clear()
        events = _events(format, "word " * (length // 5), 5)
        assert "".join(event.text for event in events) == "word " * (length // 5)
        assert sum(seen) < 600 * length  # and not length squared / 10


# In a session and an engine


def _context(model: Model) -> Context:
    return Context.initFromModel(model, Context.Params(nCtx=2048, nThreads=1, nThreadsBatch=1))


def test_a_session_keeps_thoughts_apart(tiny: Model) -> None:
    script = Scripted(tiny, f"<think>\nHm.\n</think>\n\n{CALL}", "It is cold.")
    with _context(tiny) as ctx, Sampler.init(script) as sampler:
        session = ChatSession(ctx, template=TEMPLATE, tools=[WEATHER])
        answer = session.send("What is it like in Bern?", sampler=sampler)
        kinds = [event.kind for event in answer.events()]
        assert kinds[0] == "reasoning" and kinds[-1] == "arguments" and "call" in kinds
        assert answer.reasoning.strip() == "Hm." and answer.content.strip() == ""
        message = session.messages[-1]
        assert (
            message["reasoning_content"].strip() == "Hm." and message["tool_calls"][0]["function"]["name"] == "weather"
        )
        session.addToolResult(answer.toolCalls[0], "3 degrees")
        assert session.send(sampler=sampler).result().strip() == "It is cold."
        assert "Hm." in session.template.render(session.messages)


def _scripted(model: Model, text: str, **options: Any) -> Any:
    """The answer to a model that writes a text, and ends it."""
    with _context(model) as ctx, Sampler.init(Scripted(model, text)) as sampler:
        session = ChatSession(ctx, template=TEMPLATE, tools=options.pop("tools", ()))
        answer = session.send("Hi", sampler=sampler, **options)
        answer.result()
        return answer


def test_a_required_call_fits_its_schema(tiny: Model) -> None:
    both = [WEATHER, CLOCK]
    for choice in ("required", "weather"):
        (call,) = _scripted(tiny, CALL, tools=both, toolChoice=choice).toolCalls
        assert (call.name, call.arguments) == ("weather", {"city": "Bern"})
    for text in (
        "Hello.",
        CALL.replace('"Bern"', "3"),
        CALL.replace("weather", "clock"),
        CALL.replace("weather", "rm"),
    ):
        with pytest.raises(ValueError, match="no candidate has a probability"):
            _scripted(tiny, text, tools=both, toolChoice="weather")


def test_a_response_format(tiny: Model) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    assert json.loads(_scripted(tiny, '{"ok": true}', responseFormat=schema).content) == {"ok": True}
    with pytest.raises(ValueError, match="no candidate has a probability"):
        _scripted(tiny, '{"ok": 3}', responseFormat=schema)


class Copied(Scripted):
    """A Scripted that an engine can clone."""

    def clone(self) -> Copied:
        return copy.deepcopy(self)


FENCED = '```json\n{"ok": true}\n```'


def test_the_text_of_a_response_format_is_json(tiny: Model) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    with pytest.raises(ValueError, match="no candidate has a probability"):
        _scripted(tiny, FENCED, responseFormat=schema)
    with Engine(tiny, nCtx=512, nSeqMax=1, nThreads=1) as engine:
        for text in (FENCED, '{"ok": true}'):
            with Sampler.init(Copied(tiny, text)) as sampler:
                request = engine.chat(ASK, template=TEMPLATE, sampler=sampler, responseFormat=schema, maxTokens=60)
                if text == FENCED:
                    with pytest.raises(ValueError, match="the grammar does not allow token"):
                        request.result()
                else:
                    assert json.loads("".join(request)) == {"ok": True}


def test_an_answer_may_begin_with_a_fence(tiny: Model) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = _scripted(tiny, '{"ok": true}\n```', responseFormat=schema, prefill="```json\n")
    assert json.loads(answer.content) == {"ok": True}


# Templates whose answers have marks of their own before the JSON, as llama.cpp's own grammar says.
MARKED = {"Cohere2MoE", "llm-jp-llm-jp-4.1-8b-thinking", "muse-glimmer", "openai-gpt-oss-120b"}
# Templates that are asked for a thought although llama.cpp's grammar of a response format has none.
THOUGHTLESS = {"LFM2-8B-A1B", "LFM2.5-Instruct", "tencent-Hy3"}


@pytest.mark.parametrize("path", judge.templates(), ids=lambda path: path.stem)
def test_a_response_format_is_json_with_each_template(path: Path) -> None:
    model, found = grammars.model(), '{"a": "</think>"}'
    template = ChatTemplate(model, path.read_text(encoding="utf-8"))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = template.format(ASK, responseFormat=schema)
    assert form.grammar and not form._lazy and "```" not in form.grammar
    if path.stem in MARKED:
        return
    start, end = form.thinkingStart.strip(), form.thinkingEnd.strip()
    opened = form.thinks and start in form._prefill and end not in form._prefill
    thoughts = [f"Hm.{end}"] if opened else ["", f"{start}Hm.{end}"] if form.thinks else [""]
    for thought in thoughts[: 1 if path.stem in THOUGHTLESS else None]:
        text = thought + found
        assert grammars.allows(model, form, text)
        assert not grammars.allows(model, form, f"{thought}{{}}")
        assert not grammars.allows(model, form, f"{thought}```json\n{found}\n```")
        parsed = form.parse(text)
        assert parsed.content.strip() == found and not parsed.problems
        assert parsed.reasoning.strip().endswith("Hm.") if thought else not parsed.reasoning
        parser = EventParser(form)
        events = [event for char in text for event in parser.feed(char)] + [*parser.finish()]
        assert "".join(event.text for event in events if event.kind == "content").strip() == found


@pytest.mark.parametrize("name", ["GigaChat3-10B-A1.8B", "Kimi-K2-Thinking"])
def test_a_grammar_where_llama_cpp_has_none(name: str) -> None:
    model = grammars.model()
    source = next(path for path in judge.templates() if path.stem == name).read_text(encoding="utf-8")
    template = ChatTemplate(model, source)
    node = {
        "type": "object",
        "properties": {"root": {"const": "root"}, "next": {"$ref": "#/$defs/node"}},
        "required": ["root"],
        "additionalProperties": False,
    }
    tree = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    form = template.format(ASK, responseFormat=tree)
    assert grammars.allows(model, form, '{"root": "root", "next": {"root": "root"}}')
    assert not grammars.allows(model, form, '{"root": "root", "next": {}}')
    begun = [*ASK, {"role": "assistant", "content": '{"root": '}]
    form = template.format(begun, responseFormat=tree, continueLast=True)
    assert grammars.allows(model, form, '"root"}') and not grammars.allows(model, form, '{"root": "root"}')


@pytest.mark.parametrize(("budget", "thought"), [(3, 3), (0, 0), (10_000, None)])
def test_a_thought_ends_in_time(tiny: Model, budget: int, thought: int | None) -> None:
    long = "one two three four five six seven eight nine ten"
    with _context(tiny) as ctx, Sampler.init(Scripted(tiny, f"<think>\n{long}\n</think>\n\nYes.")) as sampler:
        session = ChatSession(ctx, template=TEMPLATE)
        answer = session.send("Hi", sampler=sampler, maxTokens=200, thinkingBudget=budget, thinkingClose=" Enough.")
        answer.result()
        if thought is None:
            assert answer.reasoning.strip() == long and answer.content.strip() == "Yes."
        else:
            assert answer.reasoning.strip().endswith("Enough.") and long not in answer.reasoning


class Rambling:
    """A sampler that would never end a thought."""

    def __init__(self, token: int) -> None:
        self.token = token

    def clone(self) -> Rambling:
        return Rambling(self.token)

    def apply(self, candidates: Any) -> None:
        found = [i for i, candidate in enumerate(candidates) if candidate.id == self.token]
        candidates.selected = found[0] if found else 0


def test_thoughts_end_in_time_in_an_engine(tiny: Model) -> None:
    opened = TEMPLATE.replace("{% endif %}{% endif %}", "{% else %}<think>\n{% endif %}{% endif %}")
    word = tokenize(tiny.vocab, "word", addSpecial=False)[0]
    with Engine(tiny, nCtx=2048, nSeqMax=2, nThreads=1) as engine, Sampler.init(Rambling(word)) as sampler:
        requests = [
            engine.chat(ASK, template=opened, sampler=sampler, maxTokens=60, thinkingBudget=n, thinkingClose=" Enough.")
            for n in (4, 9, 1000)
        ]
        for request, count in zip(requests, (4, 9, 60), strict=True):
            request.result()
            assert request.reasoning.count("word") == count
            assert ("Enough." in request.reasoning) is (count < 60) and ("word" in request.content) is (count < 60)
        with pytest.raises(ValueError, match=r"thinkingBudget.*-1"):
            engine.chat(ASK, template=opened, thinkingBudget=-1)


def test_an_answer_can_be_begun(tiny: Model) -> None:
    with _context(tiny) as ctx, Sampler.init(Scripted(tiny, "cold in Bern.")) as sampler:
        session = ChatSession(ctx, template=TEMPLATE)
        answer = session.send("What is it like?", sampler=sampler, prefill="It is")
        answer.result()
        assert session.messages[-1] == {"role": "assistant", "content": "It is cold in Bern."}


def test_an_engine_answers_many(tiny: Model) -> None:
    with Engine(tiny, nCtx=4096, nSeqMax=4, nThreads=1) as engine:
        chats = [[{"role": "user", "content": f"Question {n}"}] for n in range(6)]
        requests = [
            engine.chat(chat, template=TEMPLATE, tools=[WEATHER], toolChoice="required", seed=n, maxTokens=300)
            for n, chat in enumerate(chats)
        ]
        for request in requests:  # none can end without a call, and a random model begins none
            assert "".join(event.text for event in request.events()) != ""
            assert request.stopReason is StopReason.LENGTH and len(request.tokens) == 300


def test_events_of_coroutines(tiny: Model) -> None:
    async def run() -> str:
        with Engine(tiny, nCtx=1024, nSeqMax=2, nThreads=1) as engine:
            request = engine.chat(ASK, template=TEMPLATE, sampler=Sampler.initGreedy(), maxTokens=8)
            return "".join([event.text async for event in request.events()])

    assert asyncio.run(run())


# Templates from strangers


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ " + "(" * 100_000 + ")" * 100_000 + " }}",
        "{{ messages | map('upper') | list | tojson }}" + "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    ],
)
def test_a_template_cannot_take_all(tiny: Model, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SECONDS", 3.0)
    try:
        text = ChatTemplate(tiny, source).render(ASK)
    except ValueError as error:
        assert "the chat template" in str(error)
    else:
        assert len(text) < 1 << 26
