"""Untrusted projector files: a child process loads and uses the file first, so that a crash ends the child alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_cffi._host.child_process import ChildError, ask
from llama_cffi.model import untrusted
from llama_cffi.model.model import Model

_CHILD = Path(__file__).resolve().parent.parent / "_children" / "load_projector.py"
_TIMEOUT_S = 120.0  # for a small file, on a busy machine
_BYTES_PER_SECOND = 5_000_000  # of a large encoder on two threads
_EXTRA_MEMORY = 4 << 30  # bytes, besides twice the file: Python, the libraries, buffers
_OPERATION = "mtmd_init_from_file"


@contextmanager
def tried_in_child(name: bytes, model: Model) -> Iterator[None]:
    """Load a projector in a child process, then run the block, which loads the same file here.

    Raises ModelLoadError if the child fails, or if the file has changed after the child or after the block.
    """
    untrusted.require_children()
    before = untrusted.identify([name])
    size = before[0].size
    request = {
        "file": os.fsdecode(name),
        "architecture": model.metaValStr("general.architecture") or "llama",
        "memory": _EXTRA_MEMORY + 2 * size,
    }
    environment = {"OMP_WAIT_POLICY": "passive", "GGML_USE_VULKAN": ""}
    shown = os.fsdecode(name)
    try:
        answer = ask(_CHILD, request, _TIMEOUT_S + size / _BYTES_PER_SECOND, environment)
    except ChildError as error:
        raise untrusted.failed(shown, error.how, error.log, _OPERATION) from None
    if "error" in answer:
        raise untrusted.failed(shown, f"raised {answer['error']}", "", _OPERATION)
    untrusted.check_unchanged([name], before)
    yield
    untrusted.check_unchanged([name], before)
