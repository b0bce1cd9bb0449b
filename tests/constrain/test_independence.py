"""A text that exceeds llguidance's limits leaves all others of its constraint alone, those under way included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from llama_cffi import Constraint, Context, Engine, Generation, GrammarError, Model, Sampler, TokenDataArray
from llama_cffi.constrain import guidance

FORM = {
    "type": "object",
    "properties": {
        "a": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 5000, "pattern": r"^(\S+\s+){0,99}\S+$"},
    },
    "required": ["a"],
    "additionalProperties": False,
}
SHORT, BEGIN = '{"a":true}', '{"a":true,"note":"'
DEFAULT_FUEL = 200_000  # of llguidance: too little for a note


@pytest.fixture
def short_of_fuel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Constraint[Any]]:
    """A constraint whose note fails at its first letters: made with enough fuel, and used with less."""
    constraint = Constraint.fromJsonSchema(FORM, whitespace=False)
    monkeypatch.setitem(guidance._LIMITS, "step_lexer_fuel", DEFAULT_FUEL)
    yield constraint


def _token(model: Model, text: str) -> int:
    """The first token with just this text."""
    return next(token for token in range(model.vocab.nTokens) if model.vocab._piece(token) == text.encode())


def _left(sampler: Sampler, model: Model) -> set[int]:
    candidates = TokenDataArray.fromLogits(np.zeros(model.vocab.nTokens, np.float32))
    sampler.apply(candidates)
    return {*np.asarray(candidates)["id"].tolist()}


def _follow(sampler: Sampler, model: Model, text: str) -> None:
    for letter in text:
        sampler.accept(_token(model, letter))
        _left(sampler, model)


def _spoil(constraint: Constraint[Any], model: Model) -> Sampler:
    """Have one text fail; return its sampler."""
    sampler = constraint.sampler(model.vocab)
    with pytest.raises(ValueError, match="llguidance cannot continue this text.*too many expressions"):
        _follow(sampler, model, BEGIN + "w")
    return sampler


def test_the_form_works_with_the_fuel_that_there_is(tiny: Model) -> None:
    constraint = Constraint.fromJsonSchema(FORM, whitespace=False)
    sampler = constraint.sampler(tiny.vocab)
    text = json.dumps({"a": True, "note": "two words"}, separators=(",", ":"))
    _follow(sampler, tiny, text)
    assert tiny.vocab.eos in _left(sampler, tiny)


def test_new_samplers_are_not_affected(tiny: Model, short_of_fuel: Constraint[Any]) -> None:
    _spoil(short_of_fuel, tiny)
    for _ in range(3):
        sampler = short_of_fuel.sampler(tiny.vocab)
        _follow(sampler, tiny, SHORT)
        assert tiny.vocab.eos in _left(sampler, tiny)
        _spoil(short_of_fuel, tiny)


@pytest.mark.parametrize("place", range(len(SHORT) + 1))
def test_a_text_under_way_goes_on(tiny: Model, short_of_fuel: Constraint[Any], place: int) -> None:
    under_way = short_of_fuel.sampler(tiny.vocab)
    _follow(under_way, tiny, SHORT[:place])
    twin = under_way.clone()
    _spoil(short_of_fuel, tiny)
    for sampler in (under_way, twin, twin.clone()):
        _follow(sampler, tiny, SHORT[place:])
        assert tiny.vocab.eos in _left(sampler, tiny)


def test_accept_alone_raises_the_real_error(tiny: Model, short_of_fuel: Constraint[Any]) -> None:
    sampler = short_of_fuel.sampler(tiny.vocab)
    letters = [_token(tiny, letter) for letter in BEGIN + "word " * 20]
    with pytest.raises(ValueError, match="too many expressions"):
        for token in letters:
            sampler.accept(token)
            _left(sampler, tiny)
    for _ in range(2):  # and again, without "does not allow token"
        with pytest.raises(ValueError, match="too many expressions.*reset"):
            sampler.accept(letters[-1])
        with pytest.raises(ValueError, match="too many expressions.*reset"):
            _left(sampler, tiny)
    with pytest.raises(ValueError, match="too many expressions"):
        sampler.clone().accept(letters[-1])
    sampler.reset()
    _follow(sampler, tiny, SHORT)
    assert tiny.vocab.eos in _left(sampler, tiny)


def test_a_generation_after_one_that_failed(room: Context, short_of_fuel: Constraint[Any]) -> None:
    model = room.getModel()
    _spoil(short_of_fuel, model)
    bias = [(_token(model, letter), 50.0) for letter in '}"']
    only_short = Sampler.initLogitBias(model.vocab, bias)
    chain = short_of_fuel.chain(model.vocab, only_short, Sampler.initGreedy())
    for _ in range(2):
        assert short_of_fuel.parse("".join(Generation(room, "x", sampler=chain, maxTokens=60)))["a"] in (True, False)
        _spoil(short_of_fuel, model)


def test_requests_of_an_engine(tiny: Model, short_of_fuel: Constraint[Any]) -> None:
    close = _token(tiny, "}")
    with Engine(tiny, nCtx=512, nSeqMax=3, nThreads=1) as engine:

        def submit(bias: float) -> Any:
            rule = Sampler.initLogitBias(tiny.vocab, [(close, bias)])
            chain = short_of_fuel.chain(tiny.vocab, rule, Sampler.initGreedy())
            return engine.submit("x", sampler=chain, maxTokens=60)

        requests = [submit(90.0), submit(-90.0), submit(90.0)]
        assert short_of_fuel.parse(requests[0].result())["a"] in (True, False)
        with pytest.raises(ValueError, match="too many expressions"):
            requests[1].result()
        assert short_of_fuel.parse(requests[2].result())["a"] in (True, False)
        assert short_of_fuel.parse(submit(90.0).result())["a"] in (True, False)


def test_forms_that_cannot_be_run_are_refused_when_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(guidance._LIMITS, "step_lexer_fuel", 1000)
    with pytest.raises(GrammarError, match="too many expressions"):
        Constraint.fromJsonSchema(FORM)
    for make, text in (
        (Constraint.fromLark, 'start: a\na: "x" a\n'),
        (Constraint.fromLark, "start: a\na: a\n"),
        (Constraint.fromRegex, r"a[^\s\S]"),
    ):
        with pytest.raises(GrammarError, match="no text satisfies|oo many items"):
            make(text)
