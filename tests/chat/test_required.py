"""A required call is made and valid, also by a model with random weights. `make chat-required` tries more."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llama_cffi import ChatSession, ChatTemplate, Context, Engine, Model, StopReason, defaultSampler
from llama_cffi.chat import native
from llama_cffi.chat.required_call import bounded
from tests.chat import cases, grammars, judge, required
from tests.chat.test_answers import ASK, CLOCK, TEMPLATE, WEATHER

pytestmark = pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")


@pytest.mark.parametrize("name", required.TEMPLATES)
def test_random_models_call_what_is_required(tiny: Model, name: str) -> None:
    found = required.run(tiny, required.source(name), range(10))
    assert found == {"": 10}


def _applied(grammar: str, prompt: str = "") -> dict[str, Any]:
    marks = {"thinking_start": "<think>", "thinking_ends": ["</think>"]}
    return {"grammar": grammar, "generation_prompt": prompt, **marks}


def test_there_is_no_text_around_a_required_call() -> None:
    grammar = """root ::= "<a>" space ("<think>" until-4 "</think>")? until-9? tool-calls until-3
space ::= | " "
until-4 ::= [a]
tool-calls ::= (tool-call space)+
tool-call ::= "until-9" until-5
"""
    found = dict(line.split(" ::= ") for line in bounded(_applied(grammar), False, False).splitlines())
    assert found["root"] == '"<a>" space ("<think>" space "</think>")? space tool-calls space'
    assert (found["tool-calls"], found["tool-call"]) == ("tool-call space", '"until-9" until-5')
    kept = dict(line.split(" ::= ") for line in bounded(_applied(grammar), True, True).splitlines())
    assert kept["root"] == '"<a>" space ("<think>" until-4 "</think>")? space tool-calls space'
    assert kept["tool-calls"] == "(tool-call space)+"
    begun = bounded(_applied(grammar, "<a><think>\nHm:\n"), False, True)
    assert '"<think>" space "Hm:" space "</think>"' in begun


def test_a_thought_is_allowed_before_a_required_call(tiny: Model) -> None:
    template = ChatTemplate(tiny, TEMPLATE)
    at_once, later = (template.format(ASK, tools=[CLOCK], toolChoice="required", thinkFirst=first) for first in (0, 1))
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    assert grammars.allows(tiny, at_once, call) and grammars.allows(tiny, later, call)
    assert not grammars.allows(tiny, at_once, f"<think>Hm.</think>\n\n{call}")
    assert grammars.allows(tiny, later, f"<think>Hm.</think>\n\n{call}")
    assert not grammars.allows(tiny, later, f"Let me see.\n{call}")


@pytest.mark.parametrize("tools", [[WEATHER], [WEATHER, CLOCK], [WEATHER, {"name": "tool_2+", "parameters": {}}]])
@pytest.mark.parametrize("parallel", [False, True])
def test_functionary_calls_one_tool_unless_several_are_allowed(
    tiny: Model, tools: list[dict[str, Any]], parallel: bool
) -> None:
    source = cases.template_source("models/templates/meetkai-functionary-medium-v3.2.jinja")
    form = ChatTemplate(tiny, source).format(ASK, tools=tools, toolChoice="required", parallelToolCalls=parallel)
    call = 'weather\n{"city": "Bern"}'
    assert grammars.allows(grammars.model(), form, call)  # its vocabulary adds no space before a text
    assert grammars.allows(grammars.model(), form, call + call) is parallel


def _repeats_calls(grammar: str) -> list[str]:
    """The rules of a grammar that repeat calls."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines() if " ::= " in line)
    repeated = re.compile(r"tool(?:s|-call|-weather|-clock)s?(?![a-z0-9-])[^()\"]*\)?[+*]")
    return [name for name, body in rules.items() if "-schema" not in name and repeated.search(body)]


def test_no_template_repeats_a_call_where_one_was_asked_for(tiny: Model) -> None:
    several = 0
    for path in judge.templates():
        template = ChatTemplate(tiny, path.read_text(encoding="utf-8"))
        for parallel in (False, True):
            try:
                form = template.format(ASK, tools=[WEATHER, CLOCK], toolChoice="required", parallelToolCalls=parallel)
            except ValueError:  # it has no place for the tools of this test
                continue
            found = _repeats_calls(form.grammar)
            several += parallel and bool(found)
            assert parallel or not found, (path.stem, found)
    assert several >= 20


@pytest.mark.parametrize(
    "text", ['<tool_call>\n{"name": "weather"', '<tool_call>\n{"name": "weather", "arguments": {"ci']
)
def test_a_call_that_was_cut_is_no_call(tiny: Model, text: str) -> None:
    form = ChatTemplate(tiny, TEMPLATE).format(ASK, tools=[WEATHER], toolChoice="required")
    found = form.parse(text)
    assert found.toolCalls == [] and len(found.problems) == 1


def test_a_cut_answer_says_so(tiny: Model) -> None:
    with Engine(tiny, nCtx=1024, nSeqMax=1, nThreads=1) as engine:
        request = engine.chat(ASK, template=TEMPLATE, tools=[WEATHER], toolChoice="required", maxTokens=5)
        request.result()
        assert request.stopReason is StopReason.LENGTH and request.toolCalls == []


# Templates that describe no tools.


def test_tools_are_described_in_the_system_message(tiny: Model) -> None:
    template = ChatTemplate(tiny, required.CHATML)
    assert not template.takesTools
    history = [
        {"role": "system", "content": "Be brief."},
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}] * 2,
        },
        {"role": "tool", "name": "weather", "content": "Rain"},
        {"role": "tool", "name": "weather", "content": "Snow"},
    ]
    prompt = template.format(history, tools=[WEATHER]).prompt
    assert prompt == template.render(history, tools=[WEATHER])
    system, user, assistant, tool, end = prompt.split("<|im_end|>\n")
    assert system.startswith("<|im_start|>system\nBe brief.\n\n") and '"name": "weather"' in system
    assert user == f"<|im_start|>user\n{ASK[0]['content']}"
    assert assistant.count('{"name": "weather", "arguments": {"city": "Bern"}}') == 2
    assert tool == "<|im_start|>user\n" + "\n".join(f"<tool_response>\n{r}\n</tool_response>" for r in ("Rain", "Snow"))
    assert end == "<|im_start|>assistant\n"
    assert template.render(ASK, tools=[WEATHER]).startswith("<|im_start|>system\nYou can call")


def test_calls_of_a_template_without_tools_are_read(tiny: Model) -> None:
    form = ChatTemplate(tiny, required.CHATML).format(ASK, tools=[WEATHER])
    found = form.parse('Yes.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>')
    assert [(call.name, call.arguments) for call in found.toolCalls] == [("weather", {"city": "Bern"})]
    assert found.content.strip() == "Yes."
    with Context.initFromModel(tiny, Context.Params(nCtx=1024)) as ctx:
        session = ChatSession(ctx, template=required.CHATML, tools=[CLOCK])
        answer = session.send("When?", sampler=defaultSampler(1, seed=1), toolChoice="required", maxTokens=200)
        answer.result()
        assert [call.name for call in answer.toolCalls] == ["clock"]
        assert session.messages[-1]["tool_calls"][0]["function"]["name"] == "clock"


def test_a_thought_that_the_prompt_begins(tiny: Model) -> None:
    source = cases.template_source("models/templates/deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja")
    form = ChatTemplate(tiny, source).format(ASK, tools=[WEATHER], toolChoice="required")
    assert form.prompt.endswith("<think>\n")
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert grammars.allows(tiny, form, f"</think>\n{call}") and not grammars.allows(tiny, form, call)
    assert form.parse(f"</think>\n{call}").toolCalls[0].arguments == {"city": "Bern"}


@pytest.mark.parametrize("first", [False, True])
def test_a_thought_that_the_prompt_begins_has_to_end(tiny: Model, first: bool) -> None:
    source = cases.template_source("models/templates/Kimi-K3.jinja")
    form = ChatTemplate(tiny, source).format(ASK, tools=[CLOCK], toolChoice="required", thinkFirst=first)
    assert form.prompt.endswith("<|open|>think<|sep|>")
    call = '<|open|>tools<|sep|><|open|>call tool="clock"abcdefghi<|sep|><|close|>call<|sep|><|close|>tools<|sep|>'
    ended = f"<|close|>think<|sep|>{call}"
    assert grammars.allows(grammars.model(), form, ended) and not grammars.allows(grammars.model(), form, f" {call}")
    assert [call.name for call in form.parse(ended).toolCalls] == ["clock"] and not form.parse(f" {call}").toolCalls


def test_a_built_in_template_has_no_tools(tiny: Model) -> None:
    with pytest.raises(ValueError, match="built-in template"):
        ChatTemplate(tiny, "chatml").format(ASK, tools=[WEATHER])
