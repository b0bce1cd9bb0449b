"""Temporary folders beside what they become, to publish by one rename; those of killed processes are removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".scratch-"


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a temporary folder in `parent`. At the end it is removed, unless the block has renamed it.

    It is locked until then. A killed process loses the lock, so the next call removes its folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    path, lock = _locked(parent)
    try:
        yield path
    finally:
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # another process has swept it before it was locked
            continue
        with contextlib.suppress(OSError):  # a file system without locks, where nobody sweeps either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError for one in use
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
