"""A model loaded and used in a child process first: what kills the child, the caller only hears about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llama_cffi._host.child_process import ChildError, ask, can_ask
from llama_cffi.errors import ModelLoadError, UnavailableError
from llama_cffi.model.params import ModelParams

_CHILD = Path(__file__).resolve().parent.parent / "_children" / "load_model.py"
_SECONDS = 60.0  # for a file of no size, on a busy machine
_BYTES_PER_SECOND = 20_000_000  # of a slow disk
_MEMORY = 4 << 30  # bytes beside twice the files: Python, the libraries, buffers for a short context
_PLAIN = ("vocabOnly", "checkTensors", "useExtraBufts", "loadMtp", "lazyMode")


class Identity(NamedTuple):
    """What makes a file the same file with the same content, short of somebody who sets clocks back."""

    device: int
    inode: int
    size: int
    changed: int


def identify(paths: Sequence[bytes]) -> list[Identity]:
    """Which files these are now. Raises OSError."""
    return [Identity(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in map(os.stat, paths)]


def check_unchanged(paths: Sequence[bytes], before: list[Identity]) -> None:
    """Raise ModelLoadError where one of the files is another one by now, or was written to."""
    for path, old, new in zip(paths, before, identify(paths), strict=True):
        if old != new:
            raise ModelLoadError(f"{os.fsdecode(path)} changed between its trial and its load: load it again")


def load_in_child(paths: Sequence[bytes], split: bool, params: ModelParams, size: int) -> None:
    """Load and use a model of `size` bytes in a child process. Raises ModelLoadError for a child that does not make it.

    `split` says that `paths` are all files of a model with names of their own; otherwise the first one is named.
    """
    if not can_ask():
        raise UnavailableError("untrusted=True starts a Python of its own, and sys.executable does not name one")
    request = {
        "files": [os.fsdecode(path) for path in (paths if split else paths[:1])],
        "split": split,
        "params": {name: getattr(params, name) for name in _PLAIN},
        "overrides": dict(params.kvOverrides or {}),
        "memory": _MEMORY + 2 * size,
    }
    seconds = _SECONDS + size / _BYTES_PER_SECOND
    name = os.fsdecode(paths[0])
    # A few tokens are not worth threads that spin, and a stranger's model computes on the CPU.
    environment = {"OMP_WAIT_POLICY": "passive", "GGML_USE_VULKAN": ""}
    try:
        answer = ask(_CHILD, request, seconds, environment)
    except ChildError as error:
        raise _failed(name, error.how, error.log) from None
    if "error" in answer:
        raise _failed(name, f"raised {answer['error']}")


def _failed(name: str, how: str, log: str = "") -> ModelLoadError:
    return ModelLoadError(
        f"{name} was not loaded: a trial load in a child process {how}", operation="llama_model_load_from_file", log=log
    )
