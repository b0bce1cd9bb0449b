"""Atomic writes of files: write next to the target, then rename, so that a failure leaves no partial file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def atomic_write(target: str) -> Iterator[str]:
    """Yield a path in a new folder to write to. If the block succeeds, all files in that folder move to `target`'s."""
    import tempfile  # rarely needed, and slow to import

    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(f"{target} is not a regular file, and would be replaced by one: name a file")
    folder, name = os.path.split(target)
    with tempfile.TemporaryDirectory(prefix=".llama-", dir=folder or ".") as scratch:
        yield os.path.join(scratch, name)
        for written in sorted(os.listdir(scratch)):
            os.replace(os.path.join(scratch, written), os.path.join(folder, written))
