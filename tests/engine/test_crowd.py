"""A random crowd: requests of many threads, with shared beginnings, cancellations and broken samplers."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Model, Request, Sampler, StopReason
from tests import tiny_archs
from tests.engine.conftest import Texts, exact, running, write_alone

STEMS = ["The quick brown fox ", "The quick red fox ", "A boat on the river ", "One "]


class Broken:
    def __init__(self, after: int) -> None:
        self.left = after

    def apply(self, candidates: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise LookupError("broken")
        candidates.selected = 0


@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_as_it_should(plain: Model, alone: Texts, seed: int) -> None:
    rng = random.Random(seed)
    options = {"nSeqMax": rng.choice([2, 5, 9]), "nBatch": rng.choice([9, 32, 256]), "nCtx": rng.choice([256, 512])}
    done: list[tuple[str, str, int | None, Request]] = []
    problems: list[BaseException] = []
    with running(plain, keepPrefixes=bool(seed % 2), **options) as engine:

        def ask(rng: random.Random) -> None:
            try:
                for _ in range(12):
                    prompt = rng.choice(STEMS) * rng.randrange(1, 6) + rng.choice(["", "and", "number one"])
                    kind = rng.choice(["greedy", "greedy", "greedy", "cancelled", "broken"])
                    most = rng.choice([1, 5, 30, None] if kind == "cancelled" else [1, 5, 30])
                    priority = rng.randrange(3)
                    sampler = Sampler.init(Broken(rng.randrange(3))) if kind == "broken" else Sampler.initGreedy()
                    request = engine.submit(prompt, sampler=sampler, maxTokens=most, priority=priority)
                    done.append((kind, prompt, most, request))
                    if kind == "cancelled":
                        time.sleep(rng.choice([0, 0.001, 0.01]))
                        request.cancel()
                    elif rng.random() < 0.5:
                        request._wait_for(0) if kind == "greedy" else None
            except BaseException as error:
                problems.append(error)
                raise

        threads = [threading.Thread(target=ask, args=(random.Random(rng.random()),)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not problems and len(done) == 72
        for kind, prompt, most, request in done:
            if kind == "broken" and (most or 9) > 2:
                with pytest.raises(LookupError):
                    request.result(60)
            elif kind != "broken":
                request.result(60)
                tokens = request.tokens[:400]  # without a limit, more fit than the context of `alone` has room for
                assert tokens == alone(prompt, most or max(len(tokens), 1))[: len(tokens)]
                ends = {StopReason.LENGTH} if most else {StopReason.END, StopReason.CONTEXT_FULL}
                assert request.stopReason in {StopReason.CANCELLED, *ends}
                assert kind == "cancelled" or len(request.tokens) == most
        last = engine.submit("One", sampler=Sampler.initGreedy(), maxTokens=3)  # what is kept may have been evicted
        assert last.result(60) is not None and last.tokens == alone("One", 3)
        scheduler = engine._scheduler
        while not scheduler._idle:
            time.sleep(0.001)
        memory, cells = scheduler._context.getMemory(), scheduler._cells
        held = {sequence.id: len(sequence.tokens) for sequence in cells._all}
        assert [memory.seqPosMax(seq) + 1 for seq in range(options["nSeqMax"])] == [
            held.get(seq, 0) for seq in range(options["nSeqMax"])
        ]
        assert all(sequence.kept for sequence in cells._all) and cells.used_by_live == 0
        assert bool(cells._all) is bool(seed % 2)
        assert any(request.usage.reusedTokens for _, _, _, request in done)


def test_windows_of_a_crowd(tmp_path: Path) -> None:
    """A batch of several parts of nUbatch tokens: llama.cpp drops cells in a window that earlier parts attend to."""
    rng = random.Random(5)
    with Model.load(tiny_archs.write(tmp_path / "gemma2.gguf", "gemma2")) as model:
        last = model.vocab.nTokens - 1
        stem = [rng.randrange(3, last) for _ in range(450)]
        prompts = [stem[: rng.randrange(20, 300)] + [rng.randrange(3, last) for _ in range(60)] for _ in range(6)]
        texts = [write_alone(model, prompt, 40) for prompt in prompts]
        options = {"nSeqMax": 8, "nCtx": 2048, "nBatch": 512, "kvUnified": True}
        with running(model, params=exact(swaFull=False, nUbatch=16), **options) as engine:
            requests = [
                (engine.submit(prompts[k], sampler=Sampler.initGreedy(), maxTokens=rng.randrange(1, 40)), texts[k])
                for k in [rng.randrange(6) for _ in range(60)]
            ]
            for request, text in requests:
                request.result(60)
                assert request.tokens == text[: len(request.tokens)]
