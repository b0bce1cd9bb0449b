"""llama.cpp's own chat cases, read from its tests. `make chat-cases` runs more prefixes of each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chat import cases, evaluate, grammars, report
from tests.chat.case import ParseCase


def test_all_cases_of_the_pinned_tree_are_read() -> None:
    read = cases.read()
    assert len(read.parse) >= 490
    assert len(read.prompt) >= 240
    assert len(cases.render_cases()) >= 30
    # Three places need what only C++ has: an order of two positions, and the names of capabilities.
    within = [one for one in read.missing if not one.reason.endswith("by itself")]
    assert len(within) <= 3, within
    assert not any(one.what in ("run", "check") for one in within)


def test_cases_cover_every_kind() -> None:
    parse = cases.read().parse
    counts = {kind: sum(kind in case.kinds for case in parse) for kind in report.KINDS}
    assert counts["calls"] >= 273 and counts["reasoning"] >= 32 and counts["content"] >= 100, counts
    assert sum(case.partial for case in parse) >= 8
    assert sum(case.rebuilds for case in parse) >= 50
    assert sum("continue_final_message" in case.inputs for case in parse) >= 50
    assert sum(bool(case.inputs["json_schema"]) for case in parse) >= 8
    assert len({case.template for case in parse}) >= 50


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "step"), [("native", 1), ("with tokens", 9), ("public", 5)])
def test_answers_are_read_as_llama_cpp_expects(layer: str, step: int) -> None:
    results = [evaluate.parse(case, layer, step) for case in cases.read().parse]
    assert not report.unknown(layer, results)


def test_prompts_have_the_properties_that_llama_cpp_expects() -> None:
    wrong = [result for case in cases.read().prompt if (result := evaluate.prompt(case)).wrong]
    assert not wrong


def test_prompts_are_those_that_llama_cpp_expects() -> None:
    wrong = [result for case in cases.render_cases() if (result := evaluate.render(case)).wrong]
    assert not wrong


def _call_case() -> ParseCase:
    """A case with one call, which a lazy grammar constrains."""
    return next(
        case
        for case in cases.read().parse
        if case.expected["calls"] and not case.partial and evaluate.Native(case).made["grammar_lazy"]
    )


def test_an_expectation_that_does_not_hold_is_noticed() -> None:
    case = _call_case()
    assert not evaluate.parse(case).wrong
    other = {**case.expected, "content": "something else", "calls": []}
    assert evaluate.parse(replace(case, expected=other)).wrong.keys() == {"content", "calls"}


def test_a_text_outside_of_the_grammar_is_noticed() -> None:
    case = _call_case()
    made = evaluate.Native(case).made
    assert grammars.problem(case, made) == ""
    assert "does not allow" in grammars.problem(replace(case, text=case.text[:-2]), made)
    assert "nothing triggers" in grammars.problem(replace(case, text="Hello"), made)


def _message(content: str = "", *calls: dict[str, str]) -> evaluate.Message:
    return {"content": content, "reasoning": "", "calls": list(calls)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_message("<tool"), _message("")),
        (_message("ab"), _message("aB and more")),
        (_message("", {"name": "f", "arguments": '{"a"', "id": ""}), _message("")),
        (
            _message("", {"name": "f", "arguments": '{"a": "x"', "id": ""}),
            _message("", {"name": "f", "arguments": '{"a": 1', "id": ""}),
        ),
        (
            _message("", {"name": "f", "arguments": "", "id": ""}),
            _message("", {"name": "g", "arguments": "", "id": ""}),
        ),
    ],
)
def test_what_is_taken_back_is_noticed(first: evaluate.Message, second: evaluate.Message) -> None:
    shown = evaluate.Shown()
    shown.follow(first)
    assert not shown.taken_back
    shown.follow(second)
    assert shown.taken_back
