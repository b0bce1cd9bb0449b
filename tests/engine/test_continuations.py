"""Several continuations of a prompt, which is decoded once."""

from __future__ import annotations

import pytest

from llama_cffi import Engine, Model, QueueFullError, Sampler, defaultSampler, tokenize
from tests.engine.conftest import running
from tests.engine.test_speculation import _held, sizes  # noqa: F401

PROMPT = "Once upon a time there was a cat. " * 8


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_the_prompt_is_decoded_once(plain: Model, sizes: list[int], n: int, unified: bool) -> None:  # noqa: F811
    with running(plain, nSeqMax=4, nBatch=64, kvUnified=unified) as engine:
        requests = engine.continuations(PROMPT, n, maxTokens=8, seed=5)
        assert [request.id for request in requests] == list(range(1, n + 1))
        for request in requests:
            request.result(60)
        count = len(requests[0].prompt)
        decoded = sum(count - request.usage.reusedTokens for request in requests)
        assert decoded == count + n - 1  # the last token of a prompt is decoded for each
        assert sum(sizes) >= decoded + sum(len(request.tokens) - 1 for request in requests)
        for i, request in enumerate(requests):  # each is what its seed writes alone
            alone = engine.submit(PROMPT, maxTokens=8, seed=5 + i)
            alone.result(60)
            assert alone.tokens == request.tokens
        assert n == 1 or len({tuple(request.tokens) for request in requests}) > 1
        _held(engine)


def test_samplers(plain: Model, engine: Engine) -> None:
    greedy = engine.continuations(PROMPT, 3, sampler=Sampler.initGreedy(), maxTokens=5)
    assert len({request.result(30) for request in greedy}) == 1
    each = engine.continuations(PROMPT, 2, sampler=[defaultSampler(seed=1), defaultSampler(seed=2)], maxTokens=9)
    assert each[0].result(30) != each[1].result(30)
    tokens = tokenize(plain.vocab, PROMPT)
    assert engine.continuations(tokens, 1, maxTokens=5, priority=2)[0].priority == 2


def test_what_is_refused(plain: Model, engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"n must be between 1 and 1,?024, got 0"):
        engine.continuations(PROMPT, 0)
    with pytest.raises(ValueError, match=r"n .*1,?024, got 1025"):
        engine.continuations(PROMPT, 1025)
    with pytest.raises(TypeError, match=r"n must be an integer"):
        engine.continuations(PROMPT, "4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sampler.*3.*got 2"):
        engine.continuations(PROMPT, 3, sampler=[Sampler.initGreedy()] * 2)
    with pytest.raises(TypeError, match=r"sampler.*Sampler.*got int"):
        engine.continuations(PROMPT, 3, sampler=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="maxToken"):
        engine.continuations(PROMPT, 2, maxToken=3)
    with running(plain, nSeqMax=2, maxWaiting=1) as small:
        with pytest.raises(QueueFullError):
            small.continuations(PROMPT, 5)
        small.close(drain=True, timeout=30)
        assert small.load.running == 0
