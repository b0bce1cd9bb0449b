"""Files that C writes: beside their place first, then renamed, so that a failure leaves nothing half-made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def beside(target: str) -> Iterator[str]:
    """Yield a path for C to write to. What lies there (or beside it) when the block ends well takes its place."""
    import tempfile  # rarely needed, and slow to import

    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(f"{target} is no regular file, and would be replaced by one: name a file")
    folder, name = os.path.split(target)
    with tempfile.TemporaryDirectory(prefix=".llama-", dir=folder or ".") as scratch:
        yield os.path.join(scratch, name)
        for written in sorted(os.listdir(scratch)):
            os.replace(os.path.join(scratch, written), os.path.join(folder, written))
