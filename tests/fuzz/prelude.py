"""What the steps of the fuzzer are written with. A journal is a Python program over these names; see `replay.py`."""

from __future__ import annotations

import asyncio  # noqa: F401  for the steps, like those below
import copy  # noqa: F401
import gc  # noqa: F401
import logging  # noqa: F401
import os
import pickle  # noqa: F401
import threading
from array import array  # noqa: F401
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import llama_cffi
from llama_cffi import *  # noqa: F403
from llama_cffi import Batch, BatchExt, Context, Model
from tests.fuzz.oracle import Boom, is_fine
from tests.ggml.operations import CASES

nan, inf = float("nan"), float("inf")

FOLDER = Path(os.environ.get("FUZZ_FOLDER", "."))
"""Where the models are, and where the steps may write."""

KEPT: list[Any] = []
"""What callbacks took away, to be used when it should not be any more."""


def file(name: str) -> str:
    """The path of a file of the fuzzer."""
    return str(FOLDER / name)


def load(name: str, **fields: Any) -> Model:
    """A model by its name."""
    return Model.load(file(f"{name}.gguf"), Model.Params(**fields))


def net(batch: int) -> Any:
    """A training of a net of one layer, for data points of 32 numbers in 3 classes."""
    ctx = Ggml.Context(noAlloc=True)  # noqa: F405
    inputs = ctx.tensor(np.zeros((min(max(batch, 1), 8), 32), np.float32))
    return Ggml.Opt(inputs, ctx.mulMat(ctx.tensor(np.ones((3, 32), np.float32)).setParam(), inputs))  # noqa: F405


def boom(*_: object) -> Any:
    """A callback that raises."""
    raise Boom("a callback raised")


def always(value: Any) -> Callable[..., Any]:
    """A callback that answers the same every time."""
    return lambda *_: value


def custom(apply: Any, **others: Any) -> Any:
    """A sampler in Python."""
    return SimpleNamespace(apply=apply, **others)


def fill(rows: Any, value: float) -> None:
    """Give every candidate the same logit."""
    np.asarray(rows)["logit"][:] = value


def use(*values: Any) -> None:
    """Look at what an earlier step gave, in every way that its kind has."""
    for value in values:
        repr(value)
        if isinstance(value, (memoryview, np.ndarray)):
            np.array(value).sum() if np.asarray(value).dtype.names is None else np.array(value)
        elif hasattr(value, "__len__"):
            len(value), list(value)[:3]
        elif hasattr(value, "__dict__"):
            vars(value)


def release(view: Any) -> None:
    """End a memoryview."""
    if isinstance(view, memoryview):
        view.release()


def put(target: Any, index: int, value: Any) -> None:
    """Assign to an element."""
    if not (isinstance(target, memoryview) and target.format[:1] == "T"):  # Python cannot assign to structs
        (np.asarray(target).reshape(-1) if getattr(target, "ndim", 1) != 1 else target)[index] = value


async def wait(text: Any) -> str:
    """The whole text of a generation or a request."""
    return await text


async def collect(values: Any) -> list[Any]:
    """What an asynchronous iterator gives."""
    return [value async for value in values]


def decoded(ctx: Context, embeddings: bool = False) -> Context:
    """The same context, with outputs."""
    ctx.getMemory().clear()
    ctx.setEmbeddings(embeddings)
    ctx.decode(Batch.getOne([5, 6]))
    return ctx


def filled(ext: BatchExt) -> BatchExt:
    """The same batch with a token that can be decoded."""
    ext.clear()
    ext._context.getMemory().clear()
    ext.setPos(ext.addToken(0, 5), 0)
    return ext


def corrupted(data: bytes, where: int, value: int) -> bytes:
    """The same bytes with one changed."""
    changed = bytearray(data)
    if changed:
        changed[where % len(changed)] = value & 255
    return bytes(changed)


def write(name: str, data: bytes) -> str:
    """A file with these bytes."""
    Path(file(name)).write_bytes(data)
    return file(name)


def operation(ctx: Any, name: str) -> Any:
    """An operation of ggml with arguments that fit."""
    case = CASES[name]
    return case.call(ctx, *map(ctx.tensor, case.arrays))


def f32(ctx: Any, *ne: int) -> Any:
    """A tensor of floats; its shape is in ggml's order, as that of those below."""
    return ctx.tensor(np.full(ne[::-1], 0.5, np.float32))


def f16(ctx: Any, *ne: int) -> Any:
    """A tensor of half-precision floats."""
    return ctx.tensor(np.full(ne[::-1], 0.5, np.float16))


def i32(ctx: Any, *ne: int) -> Any:
    """A tensor of zeros."""
    return ctx.tensor(np.zeros(ne[::-1], np.int32))


def learning(ctx: Any, gradients: bool = True) -> Any:
    """A graph with a parameter and a loss, and with gradients."""
    loss = ctx.sum(ctx.sqr(f32(ctx, 4).setParam())).setLoss()
    graph = ctx.newGraph(64, grads=True)
    graph.expand(loss)
    if gradients:
        llama_cffi.Ggml.buildBackwardExpand(ctx, graph)
    return graph


def unplaced() -> Any:
    """A context with a tensor that has no memory."""
    ctx = llama_cffi.Ggml.Context(1 << 14, noAlloc=True)
    ctx.newTensor(0, 32)
    return ctx


def cycle(*values: Any) -> None:
    """Leave the values to the cycle collector."""
    ring: list[Any] = [*values]
    ring.append(ring)


def caught(call: Callable[[], Any]) -> None:
    """Keep what a call raises as programs do: in a cycle with the frames that it came through."""
    try:
        call()
    except Exception as error:
        kept = [error]
        if not is_fine(error):
            raise
        KEPT.extend(kept)


def together(*calls: Callable[[], Any]) -> None:
    """Run calls at the same time, each on a thread of its own. Raises the worst of what they raised."""
    start = threading.Barrier(len(calls))
    errors: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        start.wait()
        try:
            for _ in range(10):
                call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        worst = min(errors, key=is_fine)
        errors.clear()  # or the exceptions would be part of a cycle
        try:
            raise worst
        finally:
            del worst


def namespace() -> dict[str, Any]:
    """The globals of a new journal, and a folder without what earlier ones wrote."""
    for name in ("state", "seqstate", "bad", "out.gguf"):
        Path(file(name)).unlink(missing_ok=True)
    KEPT.clear()
    return dict(globals())
