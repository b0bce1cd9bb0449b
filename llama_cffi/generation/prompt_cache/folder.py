"""The folder of a prompt cache: which prompts it holds, and which go when it is full.

Several processes may read, write and clean it at once. Files appear whole, by a rename, and one that another process
has removed is as if it had never been there. A file that is open stays readable.
"""

from __future__ import annotations

import os
import re
import stat
import time
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

from llama_cffi._core.atomic_write import atomic_write
from llama_cffi.generation.prefix import common_length
from llama_cffi.generation.prompt_cache.entry import (
    DamagedError,
    Entry,
    entry_name,
    entry_size,
    open_private,
    read_entry,
    read_state,
    write_entry,
)
from llama_cffi.generation.prompt_cache.identity import identity_name

if TYPE_CHECKING:
    from llama_cffi._core.base_types import SeqId
    from llama_cffi.context.sequence_state import SequenceState

_PROMPT = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.prompt")
_DIGEST = re.compile(r"[0-9a-f]{64}\.digest")
_SKEW_NS = 60 * 10**9  # a file that is newer has the time of a clock that was wrong
_HEX = re.compile(r"[0-9a-f]{64}")


class Folder:
    """Files of one prompt cache. Not thread-safe: its user holds a lock."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path, self._max_bytes = path, max_bytes
        self._entries: dict[str, Entry | None] = {}  # by file; None: it cannot be used
        self.damaged = self.removed = 0

    def make(self) -> None:
        """Make the folder if it is not there. Raises OSError."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)

    # Prompts

    def find(self, key: str, tokens: array[int], capacity: int | None = None) -> tuple[Entry | None, int]:
        """Find the prompt whose prefix these tokens can use most of, without the last one. Returns also how much.

        A sequence takes `capacity` tokens, and a stored prompt is read as a whole at first.
        """
        best, most = None, 0
        for entry in self.entries(key):
            length = min(common_length(tokens, entry.tokens), len(tokens) - 1)
            if length < entry.least and length < len(entry.tokens):
                continue
            if capacity is not None and len(entry.tokens) > capacity:
                continue
            if length > most or (best is not None and length == most and len(entry.tokens) < len(best.tokens)):
                best, most = entry, length
        return best, most

    def stored(self, key: str, tokens: array[int]) -> int:
        """Return how many of the first tokens a later prompt would find. What is found counts as used."""
        entry, length = self.find(key, tokens + array("i", [-1]))
        if entry is not None:
            self.touch(entry)
        return length

    def read(self, entry: Entry, seq: SeqId, n_streams: int) -> bytearray | None:
        """Return the state of a prompt. None if it is gone, or damaged: then it is removed."""
        try:
            data = read_state(self.path, entry, seq, n_streams)
        except DamagedError:
            self.drop(entry)
        except (OSError, MemoryError):
            self._entries[entry.name] = None
        else:
            self.touch(entry)
            return data
        return None

    def drop(self, entry: Entry) -> None:
        """Remove a prompt that is damaged."""
        self.damaged += 1
        self._remove(entry.name)

    def write(self, key: str, tokens: array[int], least: int, state: SequenceState) -> int:
        """Write a prompt, and remove what it makes useless. Returns the size of its file. Raises OSError."""
        self.make()
        self.make_room(entry_size(tokens, state))
        self._entries.pop(entry_name(key, tokens), None)
        size = write_entry(self.path, key, tokens, least, state)
        for other in self.entries(key):
            shorter = len(tokens) // 2 <= len(other.tokens) < len(tokens)
            if shorter and least <= len(other.tokens) and other.tokens == tokens[: len(other.tokens)]:
                self._remove(other.name)
        self.make_room(0)
        return size

    def entries(self, key: str) -> list[Entry]:
        """The prompts of a context. Reads the beginning of files that are new."""
        known, found = self._entries, []
        with suppress(OSError):
            present = {name for name in os.listdir(self.path) if _PROMPT.fullmatch(name)}
            for name in [name for name in [*known] if name not in present]:
                known.pop(name, None)
            for name in present:
                if not name.startswith(key[:32]):
                    continue
                if name not in known:
                    known[name] = self._read_entry(name)
                entry = known.get(name)
                if entry is not None and entry.key == key:
                    found.append(entry)
        return found

    def _read_entry(self, name: str) -> Entry | None:
        try:
            return read_entry(self.path, name)
        except DamagedError:
            self.damaged += 1
            self._remove(name)
        except OSError:
            pass
        return None

    # Digests of files

    def known_digest(self, identity: tuple[int, ...]) -> str | None:
        """Return the digest of a file that was remembered; None if there is none."""
        name = identity_name(identity)
        path = os.path.join(self.path, f"{name}.digest")
        try:
            with open(path, "rb") as file:
                found, _, check = file.read(200).decode("ascii", "replace").partition(" ")
                mine = os.fstat(file.fileno()).st_uid == os.geteuid()
        except OSError:
            return None
        if not mine or not _HEX.fullmatch(found) or check != identity_name((*identity, int(found, 16))):
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def remember_digest(self, identity: tuple[int, ...], digest: str) -> None:
        """Remember the digest of a file. Raises OSError."""
        check = identity_name((*identity, int(digest, 16)))
        self.make()
        with atomic_write(os.path.join(self.path, f"{identity_name(identity)}.digest")) as scratch:
            with open(scratch, "w", encoding="ascii", opener=open_private) as file:
                file.write(f"{digest} {check}")

    # Room

    def touch(self, entry: Entry) -> None:
        """Make a prompt the one that was used last."""
        with suppress(OSError):
            now = time.time_ns()
            os.utime(os.path.join(self.path, entry.name), ns=(now, now))

    def make_room(self, size: int) -> None:
        """Remove what was not used for the longest time, until `size` bytes more are within the limit.

        Digests go last: they are small, and a large file would be read again.
        """
        files, total, now = [], size, time.time_ns()
        if size > self._max_bytes:  # it is not written
            return
        with suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if _PROMPT.fullmatch(entry.name) or _DIGEST.fullmatch(entry.name):
                    with suppress(OSError):
                        found = entry.stat(follow_symlinks=False)
                        if not stat.S_ISDIR(found.st_mode):
                            is_digest = _DIGEST.fullmatch(entry.name) is not None
                            used = found.st_mtime_ns if found.st_mtime_ns < now + _SKEW_NS else 0
                            files.append((is_digest, used, entry.name, found.st_size))
                            total += found.st_size
        for _, _, name, length in sorted(files):
            if total <= self._max_bytes:
                break
            self._remove(name)
            self.removed += 1
            total -= length

    def clear(self) -> None:
        """Remove all prompts, and what is remembered of files."""
        for name in os.listdir(self.path):
            if _PROMPT.fullmatch(name) or _DIGEST.fullmatch(name):
                self._remove(name)

    def _remove(self, name: str) -> None:
        self._entries.pop(name, None)
        with suppress(OSError):
            os.unlink(os.path.join(self.path, name))
