"""Opening files that a caller names: only regular ones, because a FIFO waits for a writer that may never come."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_BUFFERED: Callable[[int, str], BufferedReader] = open  # type: ignore[assignment,unused-ignore]


def open_regular(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> BufferedReader:
    """Open a file for reading. Raises OSError if it is not a regular file, or cannot be read.

    It is looked at before it is opened, which alone may change a device, and after that, as it may have been replaced.
    """
    name = os.fsdecode(path)
    _require_regular(os.stat(name).st_mode, name)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    file = next(map(_BUFFERED, map(os.open, [name], [flags]), ["rb"]))  # one call of C; see `atomic`
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, name)
        return file
    except BaseException:
        file.close()
        raise


def file_identity(path: str | bytes) -> tuple[int, ...]:
    """Identify a file and its contents without reading it: device, inode, size, and the times of its last changes.

    Programs can set the time of the last write, but not that of the last change (`st_ctime`).
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def require_regular(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
    """Raise OSError for what is not a regular file, or cannot be read: C would not say why, or wait."""
    open_regular(path).close()


def is_regular(path: bytes) -> bool:
    """Return True for a regular file that exists."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise OSError(errno.EINVAL, f"expected a regular file, got {kind}: copy its contents to one", path)
