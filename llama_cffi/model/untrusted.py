"""Untrusted models: a child process loads and uses the files first, so that a crash ends the child alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from llama_cffi._host.child_process import ChildError, ask, can_ask
from llama_cffi.errors import ModelLoadError, UnavailableError
from llama_cffi.model.params import ModelParams

_CHILD = Path(__file__).resolve().parent.parent / "_children" / "load_model.py"
_TIMEOUT_S = 60.0  # for an empty file, on a busy machine
_BYTES_PER_SECOND = 20_000_000  # of a slow disk
_EXTRA_MEMORY = 4 << 30  # bytes, besides twice the files: Python, the libraries, buffers for a short context
_FORWARDED_PARAMS = ("vocabOnly", "checkTensors", "useExtraBufts", "loadMtp", "lazyMode")


class Identity(NamedTuple):
    """Two equal ones mean the same file with the same content, unless somebody set the clock back."""

    device: int
    inode: int
    size: int
    changed: int


@contextmanager
def tried_in_child(names: Sequence[bytes], split: bool, params: ModelParams, files: Sequence[bytes]) -> Iterator[None]:
    """Load a model in a child process, then run the block, which loads the same files here.

    `files` are all files of the model, `names` those to pass to llama.cpp: one for each file if `split`, else the
    first one. Raises ModelLoadError if the child fails, or if a file has changed after the child or after the block.
    """
    before = identify(files)
    load_in_child(names, split, params, sum(file.size for file in before))
    check_unchanged(files, before)
    yield
    check_unchanged(files, before)


def identify(paths: Sequence[bytes]) -> list[Identity]:
    """Return what tells whether files have changed."""
    return [Identity(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in map(os.stat, paths)]


def check_unchanged(paths: Sequence[bytes], before: list[Identity]) -> None:
    """Raise ModelLoadError if a file was replaced or written to."""
    for path, old, new in zip(paths, before, identify(paths), strict=True):
        if old != new:
            raise ModelLoadError(f"{os.fsdecode(path)} changed between its trial and its load: load it again")


def load_in_child(names: Sequence[bytes], split: bool, params: ModelParams, size: int) -> None:
    """Load and use a model of `size` bytes in a child process.

    Raises ModelLoadError if the child crashes, fails or times out.
    """
    require_children()
    request = {
        "files": [os.fsdecode(name) for name in (names if split else names[:1])],
        "split": split,
        "params": {name: getattr(params, name) for name in _FORWARDED_PARAMS},
        "overrides": dict(params.kvOverrides or {}),
        "memory": _EXTRA_MEMORY + 2 * size,
    }
    seconds = _TIMEOUT_S + size / _BYTES_PER_SECOND
    name = os.fsdecode(names[0])
    # Idle threads sleep, because the child computes only a few tokens; and it uses the CPU alone.
    environment = {"OMP_WAIT_POLICY": "passive", "GGML_USE_VULKAN": ""}
    try:
        answer = ask(_CHILD, request, seconds, environment)
    except ChildError as error:
        raise failed(name, error.how, error.log) from None
    if "error" in answer:
        raise failed(name, f"raised {answer['error']}")


def require_children() -> None:
    """Raise UnavailableError if this program cannot start a Python interpreter."""
    if not can_ask():
        raise UnavailableError(
            "untrusted=True starts a Python interpreter, but sys.executable does not name one: use it outside of "
            "frozen programs"
        )


def failed(name: str, how: str, log: str = "", operation: str = "llama_model_load_from_file") -> ModelLoadError:
    """Return the error for a file whose trial failed; `how` completes "the child ..."."""
    return ModelLoadError(f"{name} was not loaded: a trial load in a child process {how}", operation=operation, log=log)
