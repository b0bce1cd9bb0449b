"""Measures one model through the facade, in this process: `python benchmarks/speed.py MODEL [--devices Vulkan0]`.

Two tests are those of llama-bench: a prompt, and decoding random tokens one by one, each in a new context. The third is
what users do: greedy generation. Both loops also run over raw `lib`, which separates the cost of the facade from that
of Python and the sampler. Prints JSON: the tokens per second of each run, the devices, and the memory that the model
and its context take on them.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import settings  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from llama_cffi import (  # noqa: E402
    Batch,
    Context,
    FlashAttnType,
    Ggml,
    Model,
    Sampler,
    SplitMode,
    ffi,
    lib,
    logSet,
    version,
)

_FLASH = {"on": FlashAttnType.ENABLED, "off": FlashAttnType.DISABLED, "auto": FlashAttnType.AUTO}


def measure(given: Settings) -> dict[str, Any]:
    """Run the tests. The result can be written as JSON."""
    lines: list[str] = []
    logSet(lambda level, text, data: lines.append(text.rstrip("\n")))
    _load_backends(given)
    memory = [_free()]
    with Model.load(given.model, _model_params(given)) as model:
        memory.append(_free())
        rng = random.Random(1)
        prompt = [rng.randrange(model.vocab.nTokens) for _ in range(given.prompt)]
        tokens = [rng.randrange(model.vocab.nTokens) for _ in range(given.generate)]
        with _context(model, given, given.prompt) as ctx:
            memory.append(_free())
            logSet(None)
            prompt_speed = _repeat(ctx, given, len(prompt), lambda ctx: _prompt(ctx, prompt), warm=True)
        with _context(model, given, given.generate) as ctx:
            decode_speed = _repeat(ctx, given, len(tokens), lambda ctx: _decode(ctx, tokens))
            raw_decode_speed = _repeat(ctx, given, len(tokens), lambda ctx: _raw_decode(ctx, tokens))
        text: list[int] = []
        with _context(model, given, given.generate + 1) as ctx, Sampler.initGreedy() as sampler:
            greedy_speed = _repeat(ctx, given, given.generate, lambda ctx: _greedy(ctx, sampler, text, given.generate))
            raw_speed = _repeat(ctx, given, given.generate, lambda ctx: _raw(ctx, sampler, given.generate))
    variant = Ggml.Backend.cpuVariant()
    return {
        "settings": dataclasses.asdict(given) | {"model": given.model.name},
        "prompt": prompt_speed,
        "decode": decode_speed,
        "raw_decode": raw_decode_speed,
        "greedy": greedy_speed,
        "raw": raw_speed,
        "greedy_tokens": text,
        "devices": [f"{device.name}: {device.description}" for device in Ggml.Backend.devices()],
        "bytes_of_the_model": _taken(memory[0], memory[1]),
        "bytes_of_the_context": _taken(memory[1], memory[2]),
        "cpu_variant": variant.name if variant else "",
        "llama_cpp": version(),
        "python": platform.python_version(),
        "log": [line for line in lines if line.startswith("ggml_vulkan:") or "buffer size" in line],
    }


def _load_backends(given: Settings) -> None:
    if given.on_cpu:
        Ggml.Backend.cpuLoad()
    else:
        Ggml.Backend.vkLoad()


def _model_params(given: Settings) -> Model.Params:
    params = Model.Params(
        nGpuLayers=0 if given.on_cpu else given.gpu_layers,
        splitMode=SplitMode[given.split_mode.upper()],
        mainGpu=given.main_gpu,
    )
    if given.on_cpu:
        params.devices = []
    elif given.devices != "auto":
        params.devices = [_device(name) for name in given.devices.split(",")]
    if given.tensor_split:
        params.tensorSplit = [float(share) for share in given.tensor_split.split("/")]
    return params


def _device(name: str) -> Ggml.BackendDevice:
    device = Ggml.BackendDevice.byName(name)
    if device is None:
        known = ", ".join(device.name for device in Ggml.Backend.devices())
        raise SystemExit(f"error: there is no device {name}: expected one of {known}")
    return device


@contextmanager
def _context(model: Model, given: Settings, size: int) -> Iterator[Context]:
    params = Context.Params(
        nCtx=size,
        nBatch=given.batch,
        nUbatch=given.ubatch,
        nThreads=given.threads,
        nThreadsBatch=given.threads,
        typeK=Ggml.Type[given.type_k.upper()],
        typeV=Ggml.Type[given.type_v.upper()],
        flashAttnType=_FLASH[given.flash_attn],
        swaFull=False,  # as in llama-bench
    )
    with Context.initFromModel(model, params) as ctx:
        yield ctx


def _repeat(
    ctx: Context, given: Settings, count: int, run: Callable[[Context], float], warm: bool = False
) -> list[float]:
    """Tokens per second of each run, after a warm-up as in llama-bench. The memory is cleared before each run."""
    if warm:
        run(ctx)
    else:
        _decode(ctx, [0])
    speeds = []
    for _ in range(given.runs):
        ctx.getMemory().clear(False)
        speeds.append(count / run(ctx))
    return speeds


def _prompt(ctx: Context, tokens: list[int]) -> float:
    started = time.perf_counter()
    for start in range(0, len(tokens), ctx.nBatch):
        ctx.decode(Batch.getOne(tokens[start : start + ctx.nBatch]))
    ctx.synchronize()
    return time.perf_counter() - started


def _decode(ctx: Context, tokens: list[int]) -> float:
    batch = Batch.getOne([0])
    token = _tokens(batch)
    started = time.perf_counter()
    for token[0] in tokens:
        ctx.decode(batch)
        ctx.synchronize()
    return time.perf_counter() - started


def _tokens(batch: Batch) -> memoryview:
    """The tokens of a batch, to write to: a new batch for each token would take time while the GPU waits."""
    assert batch.token is not None
    return batch.token


def _raw_decode(ctx: Context, tokens: list[int]) -> float:
    """The same over raw `lib`."""
    c, token = ctx._c, ffi.new("llama_token[]", 1)
    batch = lib.llama_batch_get_one(token, 1)
    started = time.perf_counter()
    for token[0] in tokens:
        lib.llama_decode(c, batch)
        lib.llama_synchronize(c)
    return time.perf_counter() - started


def _greedy(ctx: Context, sampler: Sampler, text: list[int], count: int) -> float:
    """Decode a first token, then time a greedy loop; its tokens are stored in `text`.

    What is done with a token comes after its decode, which a GPU computes meanwhile.
    """
    is_eog = ctx.getModel().vocab.isEog
    text.clear()
    batch = Batch.getOne([1])
    token = _tokens(batch)
    ctx.decode(batch)
    ctx.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        token[0] = found = sampler.sample(ctx, -1)
        ctx.decode(batch)
        is_eog(found)
        text.append(found)
    ctx.synchronize()
    return time.perf_counter() - started


def _raw(ctx: Context, sampler: Sampler, count: int) -> float:
    """The same loop over raw `lib`."""
    c, s, vocab, token = ctx._c, sampler._c, ctx.getModel().vocab._c, ffi.new("llama_token[]", [1])
    batch = lib.llama_batch_get_one(token, 1)
    lib.llama_decode(c, batch)
    lib.llama_synchronize(c)
    started = time.perf_counter()
    for _ in range(count):
        token[0] = lib.llama_sampler_sample(s, c, -1)
        lib.llama_decode(c, batch)
        lib.llama_vocab_is_eog(vocab, token[0])
    lib.llama_synchronize(c)
    return time.perf_counter() - started


def _free() -> dict[str, int]:
    return {device.name: device.memory.free for device in Ggml.Backend.devices()}


def _taken(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: before[name] - after[name] for name in before}


def main() -> None:
    print(json.dumps(measure(settings.parse(description=__doc__.splitlines()[0])), indent=1))


if __name__ == "__main__":
    main()
