"""Contexts on Vulkan: states that go to the CPU and back, adapters, samplers, threads.

Adapters and samplers are attached before a context has computed. Afterwards llama.cpp makes its scratch buffers anew,
and Mesa 22.3's lavapipe still has the old ones bound in its queue, and frees them twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Adapter, Batch, ClosedError, Context, DecodeError, Ggml, Model, Sampler
from tests.vulkan import models
from tests.vulkan.conftest import Vulkan

TOLERANCE = 5e-4  # as in test_logits.py, for floats


def test_a_state_goes_between_devices(on_vulkan: Model, on_cpu: Model) -> None:
    for source, target in ((on_vulkan, on_cpu), (on_cpu, on_vulkan)):
        with models.context(source) as first, models.context(target) as second:
            expected = models.greedy(first)
            state = first.stateGetData()
            assert second.stateSetData(state) == len(state)
            for ctx in (first, second):
                ctx.decode(Batch.getOne([expected[0]]))
            error = models.error(np.array(second.getLogitsIth(-1)), np.array(first.getLogitsIth(-1)))
            assert error < TOLERANCE


def test_a_sequence_goes_between_devices(on_vulkan: Model, on_cpu: Model, tmp_path: Path) -> None:
    with models.context(on_vulkan) as first, models.context(on_cpu, nSeqMax=2, kvUnified=True) as second:
        models.greedy(first)
        first.stateSeqSaveFile(tmp_path / "sequence", 0, models.PROMPT)
        assert second.stateSeqLoadFile(tmp_path / "sequence", 1)
        assert second.getMemory().seqPosMax(1) == first.getMemory().seqPosMax(0)


def test_a_cache_of_another_type_is_refused(on_vulkan: Model, on_cpu: Model) -> None:
    with models.context(on_vulkan, typeK=Ggml.Type.Q8_0) as first, models.context(on_cpu) as second:
        models.greedy(first)
        with pytest.raises(ValueError):
            second.stateSetData(first.stateGetData())


def test_memory_operations(on_vulkan: Model, on_cpu: Model) -> None:
    """Copying, shifting and removing, of which the shift is computed on the device."""
    found = []
    for model in (on_vulkan, on_cpu):
        with models.context(model, nSeqMax=2, kvUnified=True) as ctx:
            ctx.decode(Batch.getOne(models.PROMPT))
            memory = ctx.getMemory()
            memory.seqCopy(0, 1)
            memory.seqRemove(0, 0, 8)
            memory.seqAdd(0, 8, -1, -8)
            ctx.decode(Batch.getOne([7]))
            found.append(np.array(ctx.getLogitsIth(-1)))
    assert models.error(*found) < TOLERANCE


def test_embeddings(on_vulkan: Model, on_cpu: Model) -> None:
    found = []
    for model in (on_vulkan, on_cpu):
        with models.context(model, embeddings=True) as ctx:
            ctx.decode(Batch.getOne(models.PROMPT))
            found.append(np.array(ctx.getEmbeddingsIth(-1)))
    assert models.error(*found) < TOLERANCE


def test_an_adapter(vulkan: Vulkan, path: Path, lora: Path) -> None:
    found = []
    for devices in (vulkan.first, []):
        with Model.load(path, Model.Params(devices=devices)) as model:
            adapter = Adapter.loraInit(model, lora)
            with models.context(model) as ctx:
                ctx.setAdapterLora(adapter, 0.5)
                ctx.decode(Batch.getOne(models.PROMPT))
                found.append(np.array(ctx.getLogitsIth(-1)))
    with_adapter, expected = found
    assert models.error(with_adapter, expected) < 10 * TOLERANCE  # two products more, one after the other
    with Model.load(path, Model.Params(devices=vulkan.first)) as model:
        assert models.error(models.outputs_of(model)[0], expected) > 1e-3  # the adapter changes something


def test_a_chain_that_runs_with_the_model(on_vulkan: Model, on_cpu: Model) -> None:
    """Samplers that Vulkan computes pick what those pick that the CPU runs after the model."""

    def chains() -> Iterator[Sampler]:
        for members in (
            [Sampler.initGreedy()],
            [Sampler.initTopK(1), Sampler.initDist(5)],
            [Sampler.initTopK(8), Sampler.initTopP(0.9, 1), Sampler.initTemp(0.1), Sampler.initDist(5)],
        ):
            chain = Sampler.chainInit()
            for member in members:
                chain.chainAdd(member)
            yield chain

    def spoken(model: Model, chain: Sampler, **params: Any) -> list[int]:
        with models.context(model, **params) as ctx:
            return models.generated(ctx, chain, 8)

    for attached, here, after in zip(chains(), chains(), chains(), strict=True):
        expected = spoken(on_cpu, after)
        assert spoken(on_vulkan, attached, samplers={0: attached}) == expected
        assert spoken(on_cpu, here, samplers={0: here}) == expected


def test_a_chain_that_would_pick_no_token(on_vulkan: Model) -> None:
    """llama.cpp's greedy sampler gives a place among the candidates, where it runs with the model."""
    for sampler in (Sampler.initTopK(8), Sampler.initTopP(0.9, 1), Sampler.initTemp(0)):
        chain = Sampler.chainInit()
        chain.chainAdd(sampler)
        chain.chainAdd(Sampler.initGreedy())
        with pytest.raises(ValueError, match="initGreedy.*initTopK"):
            models.context(on_vulkan, samplers={0: chain})


def test_a_chain_is_attached_later(on_vulkan: Model) -> None:
    with models.context(on_vulkan) as ctx, models.context(on_vulkan) as other:
        chain = Sampler.chainInit()
        chain.chainAdd(Sampler.initGreedy())
        assert ctx.setSampler(0, chain) is True
        ctx.decode(Batch.getOne(models.PROMPT))
        assert [ctx.getSampledTokenIth(-1)] == models.greedy(other, 1)


def test_contexts_compute_at_the_same_time(on_vulkan: Model, on_cpu: Model) -> None:
    with models.context(on_cpu) as ctx:
        expected = models.greedy(ctx)
    found: list[list[int]] = []

    def work(model: Model) -> None:
        for _ in range(3):
            with models.context(model) as ctx:
                found.append(models.greedy(ctx))

    threads = [threading.Thread(target=work, args=(model,)) for model in (on_vulkan, on_vulkan, on_cpu)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 9


def test_contexts_are_freed_while_others_compute(on_vulkan: Model) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()
    shared: list[Context] = [models.context(on_vulkan)]

    def compute() -> None:
        while not stop.is_set():
            try:
                shared[0].decode(Batch.getOne([5]))
                if shared[0].getMemory().seqPosMax(0) > 50:
                    shared[0].getMemory().clear(True)
            except ClosedError:
                pass
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=compute)
    thread.start()
    for _ in range(20):
        old, shared[0] = shared[0], models.context(on_vulkan)
        old.close()
    stop.set()
    thread.join()
    shared[0].close()
    assert errors == []


def test_a_model_takes_its_contexts_along(vulkan: Vulkan, path: Path) -> None:
    model = Model.load(path, Model.Params(devices=vulkan.first))
    ctx = models.context(model)
    ctx.decode(Batch.getOne([5]))
    logits = np.asarray(ctx.getLogitsIth(-1))
    model.close()
    assert np.isfinite(logits).all()  # whose memory is there as long as somebody reads it
    with pytest.raises(ClosedError):
        ctx.decode(Batch.getOne([5]))


def test_the_abort_callback(on_vulkan: Model, on_cpu: Model) -> None:
    """It is the CPU that asks, and a part of each graph is the CPU's: so a batch ends, on either."""
    for model in (on_cpu, on_vulkan):
        with models.context(model, abortCb=lambda: True) as ctx:
            with pytest.raises(DecodeError, match="aborted"):
                ctx.decode(Batch.getOne(models.PROMPT[:4]))
            ctx.setAbortCallback(None)
            ctx.decode(Batch.getOne(models.PROMPT[:4]))
            assert np.isfinite(np.asarray(ctx.getLogitsIth(-1))).all()
