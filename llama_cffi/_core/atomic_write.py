"""Atomic writes of files: write next to the target, check, flush to disk, then rename. A failure leaves the old file.

Each save writes to a folder of its own beside the target and locks it. A process that is killed loses the lock, so the
next save to that directory removes what it left behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from llama_cffi._core.ownership import own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi._core.ownership import Owned

_PREFIX = ".llama-cffi-save-"
_TRIAL_BYTES = 1 << 20
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)  # file systems that cannot flush a folder


@contextmanager
def atomic_write(target: str) -> Iterator[str]:
    """Yield a path in a new folder to write to. If the block succeeds, all files in that folder move to `target`'s.

    A file that is replaced keeps its mode and, if possible, its owner. A symbolic link stays: the file that it names is
    replaced. Raises OSError if a file cannot be written, flushed to disk or renamed; the old file is then untouched.
    """
    try:
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise OSError(f"{target} is not a regular file, and would be replaced by one: name a file")
    except FileNotFoundError:
        pass
    folder = os.path.dirname(os.path.realpath(target)) if os.path.islink(target) else os.path.dirname(target)
    scratch, lock = _make_scratch(folder or ".")
    try:
        yield os.path.join(scratch, os.path.basename(target))
        _publish(scratch, target)
    except OSError as error:
        hidden = error.filename is None or os.fsdecode(error.filename).startswith(scratch)
        if error.errno is None or not hidden:
            raise
        raise OSError(error.errno, error.strerror, target) from error
    finally:
        _remove(scratch)
        lock.finish()


def require_size(path: str, target: str, size: int) -> None:
    """Raise OSError unless C has written a file of this size: it does not report a full disk."""
    actual = os.path.getsize(path) if os.path.exists(path) else 0
    if actual != size:
        raise write_error(path, target, f"{actual} bytes were written, but the file needs {size}")


def write_error(path: str, target: str, problem: str) -> OSError:
    """Return the OSError for a file that C could not write, with the reason if it lasts: no space, a limit, a quota."""
    try:
        with open(path, "ab", buffering=0) as file:
            count = 0
            while count < _TRIAL_BYTES:
                count += file.write(bytes(_TRIAL_BYTES - count))
    except OSError as error:
        return OSError(error.errno, f"{error.strerror}: {problem}", target)
    return OSError(errno.EIO, f"{problem}: is the disk full?", target)


def _make_scratch(folder: str) -> tuple[str, Owned]:
    """Make a locked folder in `folder`, and remove the ones of processes that were killed. Returns path and lock."""
    import tempfile  # rarely needed, and slow to import

    _sweep(folder)
    while True:
        scratch = tempfile.mkdtemp(prefix=_PREFIX, dir=folder)
        try:
            lock = _open(scratch)
            with suppress(OSError):  # a file system without locks, where nobody sweeps either
                fcntl.flock(lock.pointer, fcntl.LOCK_EX)
            os.stat(scratch)
            return scratch, lock
        except FileNotFoundError:  # another process has swept it before it was locked
            pass
        except BaseException:
            _remove(scratch)
            raise


def _open(folder: str, flags: int = 0) -> Owned:
    """Open a folder; it is closed at the latest when Python destroys the result."""
    return own(os.close, os.open, folder, os.O_RDONLY | flags)


def _sweep(folder: str) -> None:
    """Remove the folders that killed processes have left."""
    with suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
        for path in left:
            with suppress(OSError):
                lock = _open(path, os.O_DIRECTORY | os.O_NOFOLLOW)
                fcntl.flock(lock.pointer, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError for one in use
                if os.fstat(lock.pointer).st_uid == os.geteuid():
                    _remove(path)
                lock.finish()


def _remove(scratch: str) -> None:
    with suppress(OSError):
        for name in os.listdir(scratch):
            with suppress(OSError):
                os.unlink(os.path.join(scratch, name))
        os.rmdir(scratch)


def _publish(scratch: str, target: str) -> None:
    """Flush the files to disk, then rename them."""
    moves = []
    for name in sorted(os.listdir(scratch)):
        written, place = os.path.join(scratch, name), os.path.join(os.path.dirname(target), name)
        place = os.path.realpath(place) if os.path.islink(place) else place
        moves.append((written, place))
        with open(written, "r+b", buffering=0) as file:
            with suppress(FileNotFoundError):
                _copy_mode(os.stat(place), file.fileno())
            os.fsync(file.fileno())
    for written, place in moves:
        os.replace(written, place)
    for folder in {os.path.dirname(place) for _, place in moves}:
        _flush_folder(folder or ".")


def _copy_mode(old: os.stat_result, file: int) -> None:
    with suppress(OSError):  # only root can give files away
        os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, stat.S_IMODE(old.st_mode))


def _flush_folder(path: str) -> None:
    """Flush the new name of a file to disk."""
    try:
        folder = _open(path)
    except PermissionError:  # it can be written but not read
        return
    try:
        os.fsync(folder.pointer)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        folder.finish()
