"""Move many files into the tree, all or none: `python -m vendor.upgrade.journal` completes an interrupted move.

The new files are first written into git's folder. Then one rename creates a journal there, which lists them. Before
that rename the tree is unchanged. After it, `finish` completes the move, however often it is interrupted; the Makefile
calls it if it finds a journal.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_JOURNAL = "journal.json"


class JournalError(RuntimeError):
    """The tree has changed since the journal was written; the message says what to do."""


def folder(root: Path) -> Path:
    """The folder for the journal, the new files and the report: inside git's folder, so never committed."""
    answer = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--git-path", "llama-cffi-upgrade"], capture_output=True, text=True
    )
    if answer.returncode != 0:
        raise JournalError(f"an upgrade needs a git checkout, and {root} is not one: {answer.stderr.strip()}")
    return root / answer.stdout.strip()


def move(root: Path, files: Mapping[str, bytes | None]) -> None:
    """Write these contents to files of the tree, or remove the file if it is None: all or nothing."""
    with _alone(root) as place:
        _clear(place)
        staged = place / "new"
        staged.mkdir()
        rows = []
        for number, (name, content) in enumerate(sorted(files.items())):
            row = {"target": name, "staged": "", "before": _digest(root / name), "after": ""}
            if content is not None:
                path = staged / str(number)
                path.write_bytes(content)
                path.chmod((root / name).stat().st_mode & 0o777 if (root / name).is_file() else 0o644)
                row |= {"staged": path.name, "after": hashlib.sha256(content).hexdigest()}
            rows.append(row)
        os.sync()
        scratch = place / f"{_JOURNAL}.new"
        scratch.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        os.replace(scratch, place / _JOURNAL)
        _finish(root, place)


def finish(root: Path) -> bool:
    """Complete an interrupted move. Returns True if there was one. Raises JournalError."""
    with _alone(root) as place:
        if (place / _JOURNAL).is_file():
            _finish(root, place)
            return True
        _clear(place)
        return False


def _finish(root: Path, place: Path) -> None:
    rows = json.loads((place / _JOURNAL).read_text(encoding="utf-8"))
    for row in rows:
        found = _digest(root / row["target"])
        if found not in (row["before"], row["after"]):
            raise JournalError(
                f"{row['target']} was changed while an upgrade was being moved into the tree. Undo that change and run "
                f"make again, or remove {place / _JOURNAL} and run `git checkout .` to return to the last commit."
            )
    with _undisturbed():
        for row in rows:
            target = root / row["target"]
            if not row["after"]:
                target.unlink(missing_ok=True)
            elif _digest(target) != row["after"]:
                target.parent.mkdir(parents=True, exist_ok=True)
                _rename(place / "new" / row["staged"], target)
        os.sync()
        (place / _JOURNAL).unlink()
    _clear(place)


def _rename(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.upgrade")
        shutil.copy2(source, beside)
        os.replace(beside, target)


def _clear(place: Path) -> None:
    """Remove what a run left behind that was killed before its journal existed."""
    shutil.rmtree(place / "new", ignore_errors=True)
    (place / f"{_JOURNAL}.new").unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[Path]:
    place = folder(root)
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP until the files are in place, which takes milliseconds."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def main() -> int:
    try:
        if finish(ROOT):
            print("completed an upgrade that was interrupted while it was moved into the tree", file=sys.stderr)
    except JournalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
