"""Requests of all kinds at once: each is what it is alone, and nothing is left over."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from llama_cffi import Adapter, Model, StopReason
from tests.engine.conftest import running
from tests.engine.test_adapters import adapted, loras, sets  # noqa: F401  `loras` is a fixture
from tests.engine.test_engine import PROMPTS, _greedy, _settled
from tests.engine.test_prompt_log_probs import check


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        {"kvUnified": None, "nCtx": 1536, "nSeqMax": 6, "nBatch": 32},
        {"kvUnified": None, "nCtx": 2048, "nSeqMax": 4, "nBatch": 512},
        {"kvUnified": False, "nCtx": 1536, "nSeqMax": 6, "nBatch": 64},
        {"kvUnified": True, "nCtx": 512, "nSeqMax": 5, "nBatch": 16},
    ],
)
def test_adapters_scores_priorities_and_cancels(
    plain: Model,
    loras: list[Adapter],  # noqa: F811
    layout: dict[str, Any],
) -> None:
    rng, known = random.Random(len(str(layout))), {}
    with running(plain, **layout) as engine:
        made = []
        for _ in range(40):
            prompt = rng.choice(PROMPTS) * rng.choice([1, 1, 1, 1, 5])
            kind, n, count = rng.randrange(4), rng.choice([0, 1, 5, 20]), rng.choice([None, 0, 2])
            options = {"adapters": sets(loras)[kind], "promptLogProbs": count, "priority": rng.randrange(-1, 2)}
            made.append((_greedy(engine, prompt, n, **options), prompt, kind, n, count))
            if rng.random() < 0.15:
                rng.choice(made)[0].cancel()
            if rng.random() < 0.3:
                threading.Event().wait(rng.random() / 20)
        for request, prompt, kind, n, count in made:
            request.result(120)
            if (prompt, kind) not in known:
                known[prompt, kind] = adapted(plain, prompt, 20, sets(loras)[kind])
            assert request.tokens == known[prompt, kind][: len(request.tokens)]
            if request.stopReason is not StopReason.CANCELLED:
                assert len(request.tokens) == n or request.stopReason is StopReason.END
                if count is None:
                    assert request.promptLogProbs == []
                elif kind == 0:
                    check(plain, request.prompt, request.promptLogProbs, count)
                else:
                    assert len(request.promptLogProbs) == len(request.prompt)
        _settled(engine)
        assert engine._scheduler._n_open == engine.load.usedCells == 0
        assert engine._scheduler._runner._adapters.key == ()
        assert sum(engine.totals.ended.values()) == len(made)
