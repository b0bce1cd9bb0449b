"""Penalties and DRY count the prompt's tokens, as in llama-server; grammars and samplers in Python do not see them.

The expected tokens come from the plain loop with the logits of each step, and penalties computed with numpy from the
whole text so far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    ChatSession,
    Context,
    Engine,
    Generation,
    Model,
    Sampler,
    TokenDataArray,
    defaultSampler,
    detokenize,
    tokenize,
)
from llama_cffi._core import ffi as native
from llama_cffi.sampling import prompt as prompt_module
from tests import tiny_models
from tests.engine.conftest import exact
from tests.generate.conftest import CHATML

Penalty = Callable[[Any, list[int]], None]  # changes logits, after a text

PROMPT = [1, *([11, 12, 13, 14, 15] * 4), 40, 11, 12]
REPEAT, FREQ, PRESENT = 1.4, 0.3, 0.6
DRY = 20.0, 1.1, 2
FAVOURED, BIAS = 13, 6  # what the prompt repeats would be picked again and again


def penalties(last_n: int) -> Penalty:
    def apply(logits: Any, text: list[int]) -> None:
        for token, count in Counter(text[-last_n:] if last_n >= 0 else text).items():
            value = logits[token]
            value = value * np.float32(REPEAT) if value <= 0 else value / np.float32(REPEAT)
            logits[token] = value - np.float32(count * FREQ) - np.float32(PRESENT)

    return apply


def dry(multiplier: float, base: float, allowed: int, last_n: int) -> Penalty:
    """For each token: the longest repetition that it would continue."""

    def apply(logits: Any, text: list[int]) -> None:
        seen = text[-last_n:] if last_n >= 0 else text
        longest: dict[int, int] = {}
        for place, token in enumerate(seen):
            length = 0
            while length < place and seen[place - 1 - length] == seen[len(seen) - 1 - length]:
                length += 1
            longest[token] = max(longest.get(token, 0), length)
        for token, length in longest.items():
            if length >= allowed:
                logits[token] -= np.float32(multiplier * base ** (length - allowed))

    return apply


def by_hand(ctx: Context, prompt: list[int], penalty: Penalty, n: int, hidden: int = 0) -> list[int]:
    """The likeliest tokens after a penalty that does not see the first `hidden` tokens."""
    ctx.getMemory().clear()
    text, written = list(prompt), []
    batch = prompt
    for _ in range(n):
        ctx.decode(Batch.getOne(batch))
        logits = np.array(ctx.getLogitsIth(-1), np.float32)
        logits[FAVOURED] += np.float32(BIAS)
        penalty(logits, text[hidden:])
        token = int(np.argmax(logits))
        if ctx.getModel().vocab.isEog(token):
            break
        written.append(token)
        text.append(token)
        batch = [token]
    return written


@pytest.fixture
def model(tmp_path: Path) -> Any:
    with Model.load(tiny_models.write_llama(tmp_path / "tiny.gguf")) as loaded:
        yield loaded


@pytest.fixture
def context(model: Model) -> Any:
    with Context.initFromModel(model, exact(nCtx=256, nSeqMax=1, nThreads=1, nThreadsBatch=1)) as made:
        yield made


def chain_of(model: Model, penalty: Sampler) -> Sampler:
    return Sampler.chain(Sampler.initLogitBias(model.vocab.nTokens, {FAVOURED: BIAS}), penalty, Sampler.initGreedy())


def makers(model: Model) -> dict[str, tuple[Callable[[], Sampler], Penalty]]:
    kinds: dict[str, tuple[Callable[[], Sampler], Penalty]] = {}
    for n in (0, 1, 3, 8, 64, 4096, -1):
        kinds[f"penalties {n}"] = (
            lambda n=n: Sampler.initPenalties(n, REPEAT, FREQ, PRESENT),
            penalties(n) if n else _no,
        )
        kinds[f"dry {n}"] = (
            lambda n=n: Sampler.initDry(model.vocab, *DRY, n, []),
            dry(*DRY, n) if n else _no,
        )
    return kinds


def _no(logits: Any, text: list[int]) -> None:
    pass


def test_every_penalty_counts_the_prompt(model: Model, context: Context) -> None:
    differ = 0
    for name, (make, penalty) in makers(model).items():
        expected = by_hand(context, PROMPT, penalty, 12)
        alone = by_hand(context, PROMPT, penalty, 12, hidden=len(PROMPT))
        differ += expected != alone
        for nested in (False, True):
            chain = chain_of(model, Sampler.chain(make()) if nested else make())
            for _ in range(2):  # with an empty cache, and with the prompt in it
                seen = Generation(context, PROMPT, sampler=chain, maxTokens=12)
                assert seen.result() == detokenize(model.vocab, expected) and seen.tokens == expected, name
            unseen = Generation(context, PROMPT, sampler=chain, maxTokens=12, penalizePrompt=False)
            unseen.result()
            assert unseen.tokens == alone, name
            chain.close()
    assert differ >= 8, "the prompt makes no difference: nothing was tested"


def test_engine_session_and_preempted_requests_agree(model: Model, context: Context) -> None:
    prompts = [[*PROMPT[: 8 + k]] for k in range(6)]
    for name, (make, penalty) in makers(model).items():
        if name.split()[1] not in ("3", "64", "-1"):
            continue
        for keywords, hidden in (({}, 0), ({"penalizePrompt": False}, 1)):
            expected = [by_hand(context, prompt, penalty, 40, hidden * len(prompt)) for prompt in prompts]
            with Engine(model, nCtx=128, nSeqMax=3, nBatch=32, nThreads=1, kvUnified=True, params=exact()) as engine:
                samplers = [chain_of(model, make()) for _ in prompts]
                requests = [
                    engine.submit(prompt, sampler=sampler, maxTokens=None if k % 2 else 40, **keywords)  # type: ignore[arg-type]
                    for k, (prompt, sampler) in enumerate(zip(prompts, samplers, strict=True))
                ]
                for request in requests:
                    request.result()
            assert [request.tokens[:40] for request in requests] == expected, name


def test_a_preempted_request_accepts_its_prompt_once(model: Model) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.seen: list[list[int]] = []

        def apply(self, candidates: TokenDataArray) -> None:
            candidates.selected = int(np.argmax(np.asarray(candidates)["logit"]))

        def acceptPrompt(self, tokens: list[int]) -> None:
            self.seen.append(tokens)

    recorders = [Recorder() for _ in range(4)]
    preempted = []
    with Engine(model, nCtx=128, nSeqMax=4, nBatch=32, nThreads=1, kvUnified=True, params=exact()) as engine:
        queue = engine._scheduler._queue
        put_back = queue.put_back

        def noting(job: Any) -> None:
            preempted.append(job.request)
            put_back(job)

        queue.put_back = noting  # type: ignore[method-assign]
        prompts = [[*PROMPT, 50 + k] for k in range(4)]
        for request in [
            engine.submit(prompt, sampler=Sampler.init(recorder))
            for prompt, recorder in zip(prompts, recorders, strict=True)
        ]:
            request.result()
    assert preempted
    assert [recorder.seen for recorder in recorders] == [[prompt] for prompt in prompts]


def test_a_session_counts_all_turns(model: Model) -> None:
    with Context.initFromModel(model, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx:
        for keywords, hides in (({}, False), ({"penalizePrompt": False}, True)):
            session = ChatSession(ctx, template=CHATML)
            chain = chain_of(model, Sampler.initPenalties(-1, REPEAT, FREQ, PRESENT))
            for message in ("Hello!", "Again, please."):
                answer = session.send(message, sampler=chain, maxTokens=12, **keywords)  # type: ignore[arg-type]
                answer.result()
                with Context.initFromModel(model, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as other:
                    hidden = len(answer.prompt) if hides else 0
                    assert answer.tokens == by_hand(other, answer.prompt, penalties(-1), 12, hidden)


def test_grammars_and_samplers_in_python_do_not_see_the_prompt(tiny: Model, ctx: Context) -> None:
    class Letters:
        """Accepts like a grammar: an unexpected token is an error."""

        accepted: list[int]

        def reset(self) -> None:
            self.accepted = []

        def apply(self, candidates: TokenDataArray) -> None:
            pass

        def accept(self, token: int) -> None:
            self.accepted.append(token)

    letters = Letters()
    for grammar in (
        lambda: Sampler.initGrammar(tiny.vocab, 'root ::= [0-9]{3} "-" [0-9]{3}'),
        lambda: Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "Once" [0-9]*', triggerPatterns=["(Once)"]),
    ):
        chain = Sampler.chain(
            grammar(), Sampler.init(letters), Sampler.initPenalties(8, 1.0, 0.0, 0.1), Sampler.initGreedy()
        )
        generation = Generation(ctx, "Once upon a time", sampler=chain, maxTokens=5)
        generation.result()
        assert letters.accepted[: len(generation.tokens)] == generation.tokens and generation.tokens


def test_seeds_repeat_and_the_default_sampler_is_unchanged(tiny: Model, ctx: Context) -> None:
    def text(**keywords: Any) -> str:
        chain = Sampler.chain(Sampler.initPenalties(64, 1.3), Sampler.initTemp(1.5), Sampler.initDist(7))
        return Generation(ctx, "Once upon a time", sampler=chain, maxTokens=20, **keywords).result()

    assert text() == text() != text(penalizePrompt=False)
    one, other = (
        Generation(ctx, "Hi", sampler=defaultSampler(seed=3), maxTokens=9, penalizePrompt=flag).result()
        for flag in (True, False)
    )
    assert one == other
    with pytest.raises(TypeError, match=r"penalizePrompt.*True or False.*'yes'"):
        Generation(ctx, "Hi", penalizePrompt="yes")  # type: ignore[arg-type]


def test_one_call_of_c_for_the_last_tokens_alone(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            function = getattr(native.lib, name)

            def call(*arguments: Any) -> Any:
                calls.append(arguments[2])
                return function(*arguments)

            return call

    monkeypatch.setattr(prompt_module, "lib", Counting())
    with Context.initFromModel(tiny, Context.Params(nCtx=2048, nThreads=2)) as ctx:
        chain = Sampler.chain(
            Sampler.initPenalties(64, 1.1), Sampler.initDry(tiny.vocab, 0.8, 1.75, 2, 100), Sampler.initGreedy()
        )
        Generation(ctx, [1] + [20, 21] * 800, sampler=chain, maxTokens=1).result()
        assert calls == [64, 100]


def test_the_prompt_of_an_encoder_does_not_count(tmp_path: Path) -> None:
    """It is another text than the one that the decoder writes."""
    with (
        Model.load(tiny_models.write_t5(tmp_path / "t5.gguf")) as model,
        Context.initFromModel(model, Context.Params(nThreads=1)) as ctx,
    ):
        prompt = tokenize(model.vocab, "translate this to German")
        texts = []
        for flag in (True, False):
            chain = Sampler.chain(Sampler.initPenalties(64, 5.0, 5.0, 5.0), Sampler.initGreedy())
            texts.append(Generation(ctx, prompt, sampler=chain, maxTokens=8, penalizePrompt=flag).result())
        assert texts[0] == texts[1]
