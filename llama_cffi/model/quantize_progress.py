"""How far `Model.quantize` is: llama.cpp does not say, so the file that it writes is looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.native_log import native_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PAUSE = 0.1  # seconds between two looks
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")


def final_size(source: bytes, target: bytes, params: Any) -> float:
    """Return how many bytes of tensors will be written; 0 if this llama.cpp cannot say that."""
    if not has("llama_model_quantize_params.dry_run"):
        return 0
    trial = ffi.new(ffi.typeof(params), params[0])
    trial.dry_run = True
    found = None if lib.llama_model_quantize(source, target, trial) else _SIZE.search(native_log())
    return float(found[1]) * (1 << 20) if found else 0


@contextmanager
def watched(folder: str, total: float, progress: Callable[[float], object] | None) -> Iterator[None]:
    """Call `progress` with the share of `total` bytes in a folder while the block runs, on another thread.

    An exception of it is raised at the end of the block.
    """
    if progress is None:
        yield
        return
    import threading

    ended, raised = threading.Event(), []

    def watch() -> None:
        try:
            while total and not ended.wait(_PAUSE):
                progress(min(_size(folder) / total, 1.0))
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=watch, name="llama_cffi quantize", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if raised:
        raise raised[0]
    progress(1.0)


def _size(folder: str) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)
