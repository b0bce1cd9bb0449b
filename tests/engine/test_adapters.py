"""LoRA adapters by request: each text is that of a context with these adapters alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Adapter, ClosedError, Context, Engine, Generation, Model, Sampler, defaultSampler
from llama_cffi._core.ownership import n_owned
from llama_cffi.engine.step import Step
from tests import tiny_models
from tests.engine.conftest import Gate, exact, running
from tests.engine.test_engine import PROMPTS, _greedy, _settled

Set = list[tuple[Adapter, float]]


@pytest.fixture
def loras(plain: Model, tmp_path: Path) -> Iterator[list[Adapter]]:
    spec = replace(tiny_models.LLAMA, quant="F32")
    for i in range(2):
        tiny_models.write_lora(tmp_path / f"{i}.gguf", spec, seed=i + 1)
    made = [Adapter.loraInit(plain, tmp_path / f"{i}.gguf") for i in range(2)]
    yield made
    for adapter in made:
        adapter.loraFree()


def sets(loras: list[Adapter]) -> list[Set]:
    one, two = loras
    return [[], [(one, 1.0)], [(two, 1.0)], [(one, 0.5), (two, -1.5)]]


def adapted(model: Model, prompt: str, n: int, adapters: Set) -> list[int]:
    """What a context writes that computes with these adapters alone."""
    with Context.initFromModel(model, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx:
        ctx.setAdaptersLora([adapter for adapter, _ in adapters], [scale for _, scale in adapters])
        generation = Generation(ctx, prompt, maxTokens=n, sampler=defaultSampler(0))
        generation.result()
        return generation.tokens


@pytest.mark.parametrize("unified", [None, True, False])
def test_each_text_is_that_of_its_adapters(plain: Model, loras: list[Adapter], unified: bool | None) -> None:
    chosen = sets(loras)
    texts = {(k, s): adapted(plain, PROMPTS[k], 12, chosen[s]) for k in range(3) for s in range(4)}
    assert len({tuple(texts[0, s]) for s in range(4)}) == 4, "the adapters change nothing"
    with running(plain, kvUnified=unified, nCtx=6 * 256) as engine:
        for _ in range(2):  # the second time with prefixes that were kept
            requests = {(k, s): _greedy(engine, PROMPTS[k], 12, adapters=chosen[s]) for k, s in texts}
            for key, request in requests.items():
                assert request.result(60) and request.tokens == texts[key], key


def test_prefixes_are_shared_with_the_same_adapters_only(
    plain: Model, engine: Engine, loras: list[Adapter], tmp_path: Path
) -> None:
    one, two = loras
    first = _greedy(engine, PROMPTS[8], 2, adapters=[(one, 1.0), (two, 0.5)])
    first.result(30)
    for others in ([], [(one, 1.0)], [(one, 1.0), (two, 0.25)], [(two, 0.5), (one, -1.0)]):
        request = _greedy(engine, PROMPTS[8], 2, adapters=others)
        assert request.result(30) is not None and request.usage.reusedTokens == 0
    for same in ([(two, 0.5), (one, 1)], [(one, 1.0), (two, 0.5)]):  # in any order
        request = _greedy(engine, PROMPTS[8], 2, adapters=same)
        assert request.result(30) is not None and request.usage.reusedTokens == len(request.prompt) - 1
    nothing = _greedy(engine, PROMPTS[8], 2, adapters=[(one, 0.0)])  # as without
    assert nothing.result(30) and nothing.usage.reusedTokens == len(nothing.prompt) - 1


def test_a_live_prefix_is_not_waited_for_across_adapters(plain: Model, loras: list[Adapter]) -> None:
    with running(plain, nBatch=8, nCtx=6 * 256) as engine:
        long = "The quick brown fox " * 12
        requests = [_greedy(engine, long, 2, adapters=chosen) for chosen in (*sets(loras), *sets(loras))]
        for request in requests:
            request.result(60)
        assert [request.usage.reusedTokens for request in requests[:4]] == [0, 0, 0, 0]
        assert all(request.usage.reusedTokens > 10 for request in requests[4:])


def test_a_batch_holds_one_set_and_all_sets_take_turns(
    plain: Model, loras: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    run = Step.run

    def noting(self: Step) -> Any:
        keys = {job.adapters.key for job in self.rows}
        assert len(keys) <= 1
        ran.extend(keys)
        return run(self)

    monkeypatch.setattr(Step, "run", noting)
    with running(plain) as engine:
        requests = [_greedy(engine, PROMPTS[k], 40, adapters=sets(loras)[k % 3]) for k in range(6)]
        for request in requests:
            request.result(60)
    assert len(set(ran)) == 3
    first_end = min(len(ran) - 1 - ran[::-1].index(key) for key in set(ran))
    assert first_end > len(ran) // 2, "one of them ran first, and then the others"


def test_with_scores_and_preemption(plain: Model, loras: list[Adapter]) -> None:
    with running(plain, nCtx=256, nSeqMax=3) as engine:
        requests = [
            engine.submit(PROMPTS[k], sampler=Sampler.initGreedy(), adapters=sets(loras)[k % 4], promptLogProbs=0)
            for k in range(4)
        ]
        for k, request in enumerate(requests):
            request.result(120)
            assert len(request.promptLogProbs) == len(request.prompt)
            n = min(len(request.tokens), 12)
            assert request.tokens[:n] == adapted(plain, PROMPTS[k], n, sets(loras)[k % 4])


def test_a_chat_with_an_adapter(engine: Engine, loras: list[Adapter]) -> None:
    texts = []
    for adapters in sets(loras)[:3]:
        request = engine.chat(
            [{"role": "user", "content": "hi"}],
            template="chatml",
            sampler=Sampler.initGreedy(),
            maxTokens=12,
            adapters=adapters,
        )
        texts.append(request.result(30))
    assert len(set(texts)) == 3


# Lifetimes


def test_an_adapter_is_freed_after_its_last_request(plain: Model, engine: Engine, tmp_path: Path, gate: Gate) -> None:
    spec = replace(tiny_models.LLAMA, quant="F32")
    tiny_models.write_lora(tmp_path / "a.gguf", spec, seed=1)
    adapter = Adapter.loraInit(plain, tmp_path / "a.gguf")
    expected = adapted(plain, PROMPTS[1], 10, [(adapter, 2.0)])
    assert _greedy(engine, PROMPTS[1], 3).result(30)  # the engine holds the sampler of the last step
    gc.collect()
    before = n_owned()
    gate.at = 3
    held = engine.submit(PROMPTS[1], sampler=gate.sampler(), maxTokens=10, adapters=[(adapter, 2.0)])
    waiting = [_greedy(engine, PROMPTS[1], 10, adapters=[(adapter, 2.0)]) for _ in range(8)]
    assert gate.reached.wait(30)
    adapter.loraFree()
    assert adapter.closed
    with pytest.raises(ClosedError, match="freed"):
        engine.submit("x", adapters=[(adapter, 1.0)])
    gate.opened.set()
    for request in (held, *waiting):
        assert request.result(30) and request.tokens == expected
    _settled(engine)
    assert _greedy(engine, PROMPTS[1], 3).result(30)
    del held, request, waiting, gate
    gc.collect()
    assert n_owned() == before - 1, "the adapter was not freed"


def test_an_adapter_that_nobody_else_holds(plain: Model, engine: Engine, tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "a.gguf", replace(tiny_models.LLAMA, quant="F32"), seed=1)

    def submit() -> tuple[Any, weakref.ref[Adapter]]:
        adapter = Adapter.loraInit(plain, tmp_path / "a.gguf")
        return _greedy(engine, PROMPTS[2], 20, adapters=[(adapter, 1.0)]), weakref.ref(adapter)

    request, adapter = submit()
    gc.collect()
    assert request.result(30) and len(request.tokens) == 20
    _settled(engine)
    gc.collect()
    assert adapter() is None


def test_freeing_the_model_with_an_adapter_in_use(vectors: Path, tmp_path: Path) -> None:
    spec = replace(tiny_models.LLAMA, quant="F32")
    path = tiny_models.write_llama(tmp_path / "m.gguf", vectors / "ggml-vocab-llama-spm.gguf", spec)
    tiny_models.write_lora(tmp_path / "a.gguf", spec)
    before = n_owned()
    model = Model.load(path)
    adapter = Adapter.loraInit(model, tmp_path / "a.gguf")
    engine = Engine(model, nCtx=256, nThreads=1)
    request = engine.submit("Once", adapters=[(adapter, 1.0)])
    next(iter(request))
    model.close()
    with pytest.raises(ClosedError):
        request.result(30)
    engine.close()
    del engine, request, adapter, model
    gc.collect()
    assert n_owned() <= before


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda a: [a], TypeError, r"adapters.*\(adapter, scale\).*Adapter"),
        (lambda a: a, TypeError, "adapters.*Adapter"),
        (lambda a: [(a, "1")], TypeError, "scale.*'1'"),
        (lambda a: [(a, float("nan"))], ValueError, "scale.*nan"),
        (lambda a: [(a, 1e300)], ValueError, "scale.*e"),
        (lambda a: [(a, 1.0), (a, 1.0)], ValueError, "twice"),
        (lambda a: [(5, 1.0)], TypeError, "Adapter.*int"),
        (lambda a: [(a, 1.0, 2)], TypeError, "adapters"),
        (lambda a: "ab", TypeError, "adapters.*str"),
    ],
)
def test_wrong_adapters(
    engine: Engine, loras: list[Adapter], make: Callable[[Adapter], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        engine.submit("x", adapters=make(loras[0]))
    with pytest.raises(error, match=words):
        engine.chat([{"role": "user", "content": "hi"}], template="chatml", adapters=make(loras[0]))


def test_an_adapter_of_another_model(tiny: Model, loras: list[Adapter]) -> None:
    with Engine(tiny, nCtx=256, nThreads=1) as engine, pytest.raises(ValueError, match="another model"):
        engine.submit("x", adapters=[(loras[0], 1.0)])
