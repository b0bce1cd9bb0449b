"""Speculation in an engine: the texts are those without guesses, and other requests are not held up."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Constraint, Context, DraftModel, Engine, Model, PromptLookup, Request, Sampler, tokenize
from llama_cffi.engine import guessing
from llama_cffi.engine.step import Step
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.pace import Cost, Pace
from tests import tiny_archs
from tests.engine.conftest import Gate, Texts, exact, running, write_alone
from tests.generate.test_speculation import PROMPT, SAMPLERS, SCHEMA, Oracle

KINDS: dict[str, Callable[[Model], Sampler]] = {
    **SAMPLERS,  # but for a cut at a sum of probabilities, which the order of sums can move
    "penalties": lambda model: Sampler.chain(Sampler.initPenalties(64, 1.3, 0.1, 0.1), Sampler.initGreedy()),
}
PROMPTS = [PROMPT, "The sea is the sea is", "One two three one two"]


def _held(engine: Engine) -> None:
    """Check that the memory holds what the scheduler counts."""
    engine.submit("x", maxTokens=0).result(30)
    scheduler = engine._scheduler
    held = {sequence.id: len(sequence.tokens) for sequence in scheduler._cells._all}
    memory = scheduler._context.getMemory()
    assert [memory.seqPosMax(seq) + 1 for seq in range(engine.nSeqMax)] == [
        held.get(seq, 0) for seq in range(engine.nSeqMax)
    ]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that were decoded."""
    found: list[int] = []
    run = Step.run

    def counting(self: Step) -> Any:
        errors = run(self)
        found.append(self.n)
        return errors

    monkeypatch.setattr(Step, "run", counting)
    return found


# The text


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("name", ["greedy", "dist", "penalties"])
def test_the_texts_are_those_without_guesses(plain: Model, name: str, unified: bool) -> None:
    prompts = [tokenize(plain.vocab, text) for text in PROMPTS]
    with running(plain, kvUnified=unified, nCtx=3072) as engine:

        def together(guesses: list[Any]) -> list[Request]:
            made = [
                engine.submit(prompt, sampler=KINDS[name](plain), maxTokens=40, speculation=each)
                for prompt, each in zip(prompts, guesses, strict=True)
            ]
            for request in made:
                request.result(60)
            return made

        expected = [request.tokens for request in together([None] * 3)]
        known = [prompt + tokens for prompt, tokens in zip(prompts, expected, strict=True)]
        for wrong in (0.0, 0.3, 1.0):
            found = together([Oracle(each, wrong) for each in known])
            assert [request.tokens for request in found] == expected
            guessed = sum(request.usage.guessedTokens for request in found)
            accepted = sum(request.usage.acceptedTokens for request in found)
            assert guessed > 30 and (accepted == guessed if wrong == 0 else accepted < guessed)
            assert wrong != 1 or accepted == 0
        assert [r.tokens for r in together([PromptLookup(1, adapt=False)] * 3)] == expected
        assert [r.tokens for r in together([Oracle(known[0], 0.2), None, PromptLookup(1)])] == expected
        _held(engine)


@pytest.mark.parametrize("form", ["grammar", "schema"])
def test_constraints_follow_the_text_and_not_the_guesses(plain: Model, engine: Engine, form: str) -> None:
    tokens = tokenize(plain.vocab, PROMPT)
    for seed in range(6):
        constraint = (
            Constraint.fromGbnf('root ::= ("ab" | "cd" [0-9]){3,20} "."')
            if form == "grammar"
            else Constraint.fromJsonSchema(SCHEMA)
        )
        with Sampler.chain(constraint.sampler(plain.vocab), Sampler.initTemp(1.2), Sampler.initDist(seed)) as sampler:
            without = engine.submit(tokens, sampler=sampler, maxTokens=60)
            without.result(60)
            for wrong in (0.0, 0.25):
                oracle = Oracle(tokens + without.tokens, wrong, seed=seed)
                found = engine.submit(tokens, sampler=sampler, maxTokens=60, speculation=oracle)
                assert found.result(60) == without.text
                assert found.stopReason is without.stopReason


def test_many_requests_of_many_threads(plain: Model, alone: Texts) -> None:
    """With cancelled ones, and cells for few: those that are open-ended are preempted."""
    rng = random.Random(3)
    done: list[tuple[str, int | None, Request]] = []
    with running(plain, nSeqMax=4, nCtx=512, nBatch=16, kvUnified=True) as engine:

        def ask(rng: random.Random) -> None:
            for _ in range(10):
                prompt, most = rng.choice(PROMPTS) * rng.randrange(1, 3), rng.choice([1, 5, 30, None])
                known = tokenize(plain.vocab, prompt) + alone(prompt, 60)
                speculation = rng.choice([Oracle(known, 0.2, rng.randrange(1, 9)), PromptLookup(1, adapt=False), None])
                request = engine.submit(
                    prompt,
                    sampler=Sampler.initGreedy(),
                    maxTokens=most,
                    speculation=speculation,
                    priority=rng.randrange(3),
                )
                done.append((prompt, most, request))
                if most is None or rng.random() < 0.2:
                    request._wait_for(rng.randrange(20))
                    request.cancel()

        for prompt in PROMPTS:
            for times in (1, 2):
                alone(prompt * times, 60)
        threads = [threading.Thread(target=ask, args=(random.Random(rng.random()),)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(done) == 50
        for prompt, _, request in done:
            request.result(60)
            count = min(len(request.tokens), 60)
            assert request.tokens[:count] == alone(prompt, 60)[:count]
        assert sum(request.usage.acceptedTokens for _, _, request in done) > 20
        _held(engine)


def test_a_window(tmp_path: Path) -> None:
    with Model.load(tiny_archs.write(tmp_path / "gemma3.gguf", "gemma3", n_layer=6)) as model:
        rng = random.Random(4)
        prompt = [rng.randrange(3, model.vocab.nTokens - 1) for _ in range(300)]
        text = write_alone(model, prompt, 60)
        for unified in (True, False):
            with running(model, params=exact(swaFull=False), kvUnified=unified, nSeqMax=2, nBatch=64) as engine:
                for wrong in (0.0, 0.5, 1.0):
                    found = engine.submit(
                        prompt, sampler=Sampler.initGreedy(), maxTokens=60, speculation=Oracle(prompt + text, wrong)
                    )
                    found.result(60)
                    assert found.tokens == text and found.usage.guessedTokens > 20


# What is computed


def test_right_guesses_save_steps(plain: Model, engine: Engine, alone: Texts, sizes: list[int]) -> None:
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 41)
    found = engine.submit(tokens, sampler=Sampler.initGreedy(), maxTokens=41, speculation=Oracle(tokens + text, most=7))
    found.result(30)
    assert sizes == [len(tokens), 8, 8, 8, 8, 8]
    assert (found.usage.guessedTokens, found.usage.acceptedTokens) == (35, 35)
    assert engine.totals.steps == 6


def test_no_more_is_guessed_than_the_text_may_have(
    plain: Model, engine: Engine, alone: Texts, sizes: list[int]
) -> None:
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 20)
    for limit in range(1, 8):
        sizes.clear()
        oracle = Oracle(tokens + text, most=100)
        found = engine.submit(
            tokens, sampler=Sampler.initGreedy(), maxTokens=limit, speculation=oracle, sharePrefix=False
        )
        found.result(30)
        assert found.tokens == text[:limit]
        assert sum(sizes) == len(tokens) + limit - 1
        assert found.usage.guessedTokens == max(limit - 2, 0)


def test_a_prompt_that_is_read_comes_first(plain: Model, alone: Texts, gate: Gate, sizes: list[int]) -> None:
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 60)
    with running(plain, nBatch=16) as engine:
        gate.at = 3
        first = engine.submit(tokens, sampler=gate.sampler(), maxTokens=60, speculation=Oracle(tokens + text, most=4))
        assert gate.reached.wait(30)
        sizes.clear()
        second = engine.submit("word " * 100, sampler=Sampler.initGreedy(), maxTokens=1)
        gate.opened.set()
        second.result(30)
        steps = [size for size in sizes if size == 16]
        assert len(steps) >= (len(second.prompt) - 1) // 15
        assert first.result(30) and first.tokens == text and first.usage.acceptedTokens > 30


def test_more_requests_than_a_few_do_not_guess(plain: Model, alone: Texts) -> None:
    gates = [Gate() for _ in range(guessing.FEW)]
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 30)
    with running(plain, kvUnified=True) as engine:
        others = [engine.submit(f"{i}", sampler=each.sampler(), maxTokens=2) for i, each in enumerate(gates)]
        for each in gates[:-1]:
            each.opened.set()
        # All have begun when the last one waits.
        assert gates[-1].reached.wait(30)
        others += [engine.submit(f"{i} {i}", sampler=Sampler.initGreedy(), maxTokens=40) for i in range(guessing.FEW)]
        found = engine.submit(
            tokens, sampler=Sampler.initGreedy(), maxTokens=30, speculation=Oracle(tokens + text, most=4)
        )
        gates[-1].opened.set()
        found.result(30)
        assert found.tokens == text and found.usage.guessedTokens == 0


def test_others_wait_no_more_than_a_little() -> None:
    cost = Cost()
    for _ in range(30):
        for size in (1, 4, 9):
            cost.took(size, 0.01 * (1 + 0.02 * (size - 1)))
    pace = Pace((0.95,), True, cost)
    assert pace.choose(16, 0) == 16
    assert pace.choose(16, 0, others=2) == 2  # 5 % of a step
    assert pace.choose(16, 0, others=2, guesses=1) == 1
    assert pace.choose(16, 0, others=2, guesses=2) == 0


def test_cells_that_only_the_guesses_would_need(plain: Model, alone: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 20)
    run, refused = Context._run_step, []

    def full(self: Context, batch: Any, step: Any, vocab: Any) -> Any:
        if 1 < batch.nTokens < 9:
            refused.append(batch.nTokens)
            raise ContextFullError("no cells")
        return run(self, batch, step, vocab)

    monkeypatch.setattr(Context, "_run_step", full)
    with running(plain) as engine:
        found = engine.submit(
            tokens, sampler=Sampler.initGreedy(), maxTokens=20, speculation=Oracle(tokens + text, most=5)
        )
        found.result(30)
        assert found.tokens == text and found.usage.acceptedTokens == 0
        assert found.usage.guessedTokens == 0 and 6 in refused
        _held(engine)


# Ends


def test_what_ends_a_text_among_guesses(plain: Model, engine: Engine, alone: Texts) -> None:
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 30)
    whole = engine.submit(tokens, sampler=Sampler.initGreedy(), maxTokens=30)
    written = whole.result(30)
    for options in ({"stop": [written[15:19]]}, {"stopTokens": [text[9]]}):
        expected = engine.submit(tokens, sampler=Sampler.initGreedy(), maxTokens=30, **options)  # type: ignore[arg-type]
        found = engine.submit(
            tokens,
            sampler=Sampler.initGreedy(),
            maxTokens=30,
            speculation=Oracle(tokens + text),
            **options,  # type: ignore[arg-type]
        )
        assert found.result(30) == expected.result(30)
        assert (found.tokens, found.stopReason) == (expected.tokens, expected.stopReason)
        _held(engine)


class Stumbles:
    """Picks what it is told, and fails at the end."""

    def __init__(self, tokens: list[int]) -> None:
        self.left = iter(tokens)

    def apply(self, candidates: Any) -> None:
        candidates.selected = list(candidates.ids if hasattr(candidates, "ids") else range(10**6)).index(
            next(self.left)
        )


def test_a_sampler_that_fails_among_guesses(plain: Model, engine: Engine, alone: Texts) -> None:
    tokens, text = tokenize(plain.vocab, PROMPT), alone(PROMPT, 12)
    guesses = Oracle(tokens + alone(PROMPT, 30))
    found = engine.submit(
        tokens, sampler=Sampler.init(Stumbles(text)), maxTokens=30, speculation=guesses, penalizePrompt=False
    )
    with pytest.raises((StopIteration, RuntimeError)):
        found.result(30)
    assert found.tokens == text
    _held(engine)


# Options


def test_an_engine_whose_requests_all_guess(plain: Model, alone: Texts) -> None:
    every = PromptLookup(1, text=range(3, plain.vocab.nTokens), adapt=False)  # finds something after each token
    with running(plain, speculation=every) as engine:
        for speculation, guesses in ((None, True), (False, False), (Oracle([]), False)):
            found = engine.submit(PROMPT, sampler=Sampler.initGreedy(), maxTokens=30, speculation=speculation)
            found.result(30)
            assert found.tokens == alone(PROMPT, 30)
            assert (found.usage.guessedTokens > 0) is guesses
        chat = engine.chat([{"role": "user", "content": PROMPT}], template="chatml", maxTokens=30)
        assert chat.result(30) and chat.usage.guessedTokens > 0
        chat = engine.chat([{"role": "user", "content": PROMPT}], template="chatml", maxTokens=30, speculation=False)
        assert chat.result(30) and chat.usage.guessedTokens == 0
        assert engine.submit(PROMPT, maxTokens=0).result(30) == ""
        assert len(engine.score([PROMPT])) == 1


def test_wrong_arguments(plain: Model, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"speculation.*PromptLookup.*got str"):
        engine.submit("x", speculation="lookup")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"speculation.*got bool"):
        engine.submit("x", speculation=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"speculation.*got int"):
        Engine(plain, nCtx=64, speculation=3)  # type: ignore[arg-type]
    with DraftModel(plain) as draft:
        with pytest.raises(ValueError, match=r"DraftModel.*PromptLookup"):
            engine.submit("x", speculation=draft)
        with pytest.raises(ValueError, match=r"DraftModel.*PromptLookup"):
            Engine(plain, nCtx=64, speculation=draft)
    with pytest.raises(IndexError, match=r"got 99999999"):
        engine.submit("x", speculation=PromptLookup(text=[99999999]))
    assert engine.load.running == 0
