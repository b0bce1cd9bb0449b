"""The temporary copy of the tree, in the cache, in which an upgrade is tried."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vendor.source import pin as pins
from vendor.tools import BuildError


@dataclass(frozen=True)
class Copy:
    """A copy of the tree, in a folder that also holds the logs."""

    folder: Path
    lock: int  # a locked file descriptor, which marks the copy as in use

    @property
    def tree(self) -> Path:
        return self.folder / "tree"


@contextlib.contextmanager
def copied(root: Path, keep: bool = False) -> Iterator[Copy]:
    """Copy the files that git tracks or does not ignore, with uncommitted changes. Removed afterwards unless `keep`."""
    above = pins.cache_root() / "upgrade"
    above.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(above)
    folder = Path(tempfile.mkdtemp(dir=above))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for name in listed(root):
                _copy(root / name, folder / "tree" / name)
            yield Copy(folder, lock.fileno())
        finally:
            if keep:
                (folder / "kept").touch()
                print(f"the copy is kept: {folder}", file=sys.stderr, flush=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def listed(root: Path) -> list[str]:
    """The files of a tree that `git add -A` would commit. Raises BuildError."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        raise BuildError(f"an upgrade needs a git checkout, and {root} is not one: {answer.stderr.strip()}")
    return sorted({name for name in answer.stdout.split("\0") if name and os.path.lexists(root / name)})


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():  # a repository inside the tree
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _remove_abandoned(above: Path) -> None:
    """Remove the copies of runs that were killed: their locks are free."""
    for folder in above.iterdir():
        lock = folder / "lock"
        if (folder / "kept").exists() or not lock.is_file():
            continue
        with lock.open("w") as stream, contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
