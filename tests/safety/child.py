"""What a snippet has at hand that runs in an interpreter of its own; see `isolated.py`."""

from __future__ import annotations

import array
import atexit
import copy
import ctypes
import gc
import itertools
import json
import logging
import math
import mmap
import os
import pickle
import resource
import struct
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_cffi import *
from llama_cffi import Batch, ClosedError, Context, Model, Mtmd, Sampler, ffi, lib
from llama_cffi._generated.enums import *

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
N_VOCAB = 364  # tokens of the tiny Llama's vocabulary


def path(name: str = "llama") -> Path:
    """The file of one of the tiny models; see `models.py`."""
    return FOLDER / f"{name}.gguf"


def load(name: str = "llama", **params: Any) -> Model:
    return Model.load(path(name), Model.Params(**params))


def context(model: Model | str = "llama", **params: Any) -> Context:
    """A context of 64 tokens for a model or the name of one."""
    return Context.initFromModel(
        load(model) if isinstance(model, str) else model, Context.Params(**{"nCtx": 64, **params})
    )


def projector(name: str = "llava", model: Any = None, **params: Any) -> Mtmd.Context:
    """A projector for a tiny Llama."""
    given = Mtmd.Context.Params(**{"nThreads": 2, "useGpu": False, "warmup": False, **params})
    return Mtmd.Context.initFromFile(FOLDER / f"{name}.mmproj", load() if model is None else model, given)


def batch(n: int = 1, token: int = 5) -> Batch:
    """A batch of `n` equal tokens."""
    return Batch.getOne([token] * n)


def decoded(model: Model | str = "llama", **params: Any) -> Context:
    """A context with one output."""
    made = context(model, **params)
    assert made.decode(batch()) == 0
    return made


def grammar(model: Model) -> Sampler:
    return Sampler.initGrammar(model.vocab, 'root ::= "yes" | "no"')


def raises(kind: type[BaseException], call: Callable[[], object], words: str = "") -> None:
    try:
        call()
    except kind as error:
        assert words in str(error), str(error)
    else:
        raise SystemExit(f"no {kind.__name__}")


def wrong_handles(kind: str, handle: Any, live: dict[str, Any], error: type[BaseException], words: str) -> int:
    """Call every function of C that takes an object of a kind with `handle` in its place, and `live` ones for others.

    Each call must raise. Returns how many there were.
    """
    count = 0
    for name in dir(lib):
        function = getattr(lib, name)
        if name.startswith("shim_") or not isinstance(function, type(lib.llama_free)):
            continue
        types = ffi.typeof(function).args
        for place in [place for place, ctype in enumerate(types) if _struct(ctype) == kind]:
            if handle == ffi.NULL and ("_free" in name or (name, place) in _NULL_IS_FINE):
                continue
            arguments = [live.get(_struct(ctype), _zero(ctype)) for ctype in types]
            arguments[place] = handle
            raises(error, lambda function=function, arguments=arguments: function(*arguments), words)
            count += 1
    return count


_NULL_IS_FINE = {
    *(("mtmd_bitmap_init_lazy", 0), ("mtmd_decode_use_non_causal", 1), ("ggml_opt_default_params", 0)),
    *(("ggml_opt_eval", 1), ("ggml_opt_epoch", 2), ("ggml_opt_epoch", 3), ("llama_opt_epoch", 2)),
    *(("llama_opt_epoch", 3),),
}
"""Functions and places of arguments for which NULL means something."""


def _struct(ctype: Any) -> str:
    """The struct that a C type points to; "" for any other type."""
    return ctype.item.cname.removeprefix("struct ") if ctype.kind == "pointer" and ctype.item.kind == "struct" else ""


def _zero(ctype: Any) -> Any:
    """An argument of a C type."""
    if ctype.kind in ("pointer", "function"):
        return ffi.NULL
    if ctype.kind in ("struct", "union"):
        return ffi.new(f"{ctype.cname} *")[0]
    return 0.0 if ctype.cname in ("float", "double") else 0


def scratch(name: str = "scratch") -> str:
    """A path in a folder of the snippet's own, where no file is yet."""
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    return os.path.join(folder.name, name)


_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed at the end


def written(data: bytes) -> str:
    """A file with these bytes."""
    name = scratch()
    Path(name).write_bytes(data)
    return name


def patched(name: str, key: str, value: bytes) -> str:
    """A model's file with other bytes for the value of a metadata entry."""
    data = bytearray(path(name).read_bytes())
    place = data.index(key.encode()) + len(key) + 4  # a type of four bytes comes first
    data[place : place + len(value)] = value
    return written(bytes(data))


def together(*calls: Callable[[], object], times: int = 50) -> list[BaseException]:
    """Make calls at the same time, again and again, each on a thread of its own. Returns what they raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def work(call: Callable[[], object]) -> None:
        barrier.wait()
        for _ in range(times):
            try:
                call()
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def only(errors: list[BaseException], *kinds: type[BaseException]) -> None:
    """Hold that nothing else was raised."""
    for error in errors:
        if not isinstance(error, kinds):
            raise error


def misuse(code: str, error: str, words: str, alone: bool) -> None:
    """Run code that misuses something. It must raise an `error` (a class's name) with these words, or succeed if that
    is empty; and then everything must still work: a context that was there before (not where it must be `alone`), and
    a new one.
    """
    witness = None if alone else decoded()
    names = {**globals(), "__name__": "__main__"}
    try:
        exec(compile(code, "<misuse>", "exec"), names)
    except Exception as caught:
        if type(caught).__name__ != error:
            raise
        if words not in str(caught):
            raise AssertionError(f"the message lacks {words!r}") from caught
    else:
        if error:
            raise AssertionError(f"no {error} was raised")
    gc.collect()
    if witness is not None:
        assert witness.decode(batch()) == 0
    survivor = decoded()
    assert 0 <= Sampler.initGreedy().sample(survivor) < N_VOCAB
    assert survivor.getModel().vocab.tokenToPiece(5)
