"""Writing files so that a failure leaves nothing half-made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from llama_cffi._buffers import Path, path_bytes


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[str]:
    """A new file beside `path` to write to; renamed to it at the end, removed when something goes wrong."""
    import tempfile  # rarely needed, and slow to import

    target = os.fsdecode(path_bytes(path))
    handle, scratch = tempfile.mkstemp(prefix=".llama-", dir=os.path.dirname(target) or ".")
    os.close(handle)
    try:
        yield scratch
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)  # as if it had been opened for writing; mkstemp is for the owner alone
        os.replace(scratch, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise
