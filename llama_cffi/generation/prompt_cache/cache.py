"""`PromptCache`: keeps the KV cache of long prompts on disk, for programs that start again."""

from __future__ import annotations

import atexit
import os
import threading
import time
from array import array
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from llama_cffi._core.arguments import StrPath
from llama_cffi._core.checks import expected, integer, number, out_of_range
from llama_cffi._core.compat import has
from llama_cffi._core.ownership import WeakRefs, locked
from llama_cffi._core.process import fork_safe_lock
from llama_cffi._core.user_warnings import warn
from llama_cffi._host.resources import available_memory
from llama_cffi.context import sequence_state
from llama_cffi.generation.checkpoints import BEFORE_END
from llama_cffi.generation.prefix import common_length
from llama_cffi.generation.prompt_cache.folder import Folder
from llama_cffi.generation.prompt_cache.identity import file_digest, is_settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_cffi._core.base_types import SeqId
    from llama_cffi.context.context import Context
    from llama_cffi.context.sequence_state import SequenceState
    from llama_cffi.generation.prompt_cache.entry import Entry
    from llama_cffi.generation.prompt_cache.identity import Identity, Source

    _Waiting = tuple[tuple[object, ...], array[int]]  # what it depends on, and the tokens

_MAX_BYTES = 1 << 62
_MAX_TOKENS = (1 << 31) - 1
_MAX_WAITING = 1 << 30  # bytes of copies that wait to be written, besides the first
_HEAD = 2048  # bytes of a file besides tokens and state, at most
_PAUSE = 60.0  # seconds without a write after one has failed
_EXIT_SECONDS = 30.0  # what the end of the process waits for writes

_lock = fork_safe_lock(threading.RLock())  # of the state of all caches, for moments
_caches = WeakRefs()  # of PromptCache


@dataclass(frozen=True)
class PromptCacheTotals:
    """What a prompt cache has done in this process. The numbers only grow."""

    used: int
    """Prompts of which a prefix was read from disk."""
    tokens: int
    """Tokens of these prefixes, which were not decoded."""
    written: int
    """Prompts that were written."""
    removed: int
    """Files that were removed to stay within `maxBytes`."""
    damaged: int
    """Files that were damaged: they were not used, and removed."""
    failed: int
    """Prompts that were not written: the disk was full, the folder read-only, or too many waited to be written."""


class PromptCache:
    """Keeps the KV cache of long prompts on disk, for `Engine`, `ChatSession` and `Generation`::

        with Engine(model, promptCache=PromptCache("prompts", maxBytes=10 << 30)) as engine:
            engine.submit(system + question).result()

    A later prompt that begins with the same tokens, in this process or another one, reads their keys and values from
    the file and decodes only the rest. A file is used only with the same model, LoRA adapters, llama.cpp and parameters
    of the context, all compared by content, and only if its digest is right. Files are written on another thread, and
    appear when they are complete. Several objects and processes can share a folder. All methods are thread-safe.
    """

    def __init__(self, path: StrPath, *, maxBytes: int = 10 << 30, minTokens: int = 512) -> None:
        """`path` is a folder, which is made if it does not exist. What users wrote can be read from its files: a new
        folder can be read by you alone. `maxBytes` limits the size of all files; those go first that were not used for
        the longest time. `minTokens` is how many tokens of a prompt must be missing on disk for it to be written, and
        how many a file must save to be read.

        Raises OSError for a path that is not a folder, ValueError and TypeError for wrong arguments. A folder that
        cannot be written, or a full disk, issues one RuntimeWarning, and nothing is written for a minute.
        """
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise expected("a str or a path", path, "name a folder", "path")
        self._maxBytes = integer(maxBytes, 0, _MAX_BYTES, "maxBytes")
        self._minTokens = integer(minTokens, 1, _MAX_TOKENS, "minTokens")
        self._path = os.path.realpath(os.fsdecode(path))
        self._folder = Folder(self._path, self._maxBytes)
        self._digests: dict[tuple[int, ...], str] = {}  # of files, by `file_identity`
        self._unknown: set[tuple[int, ...]] = set()  # files that were changed after they had been loaded
        self._work: deque[tuple[int, Callable[[], None]]] = deque()  # bytes that wait, and how to write them
        self._thread: threading.Thread | None = None
        self._pending: list[_Waiting] = []  # prompts that wait to be written
        self._used = self._tokens = self._written = self._failed = 0
        self._warned, self._resume = False, 0.0
        try:
            self._folder.make()
        except OSError as error:
            if isinstance(error, (FileExistsError, NotADirectoryError)):
                raise
            self._failed_to_write(error)
        _caches.add(self)

    @classmethod
    def _of(cls, value: PromptCache | StrPath) -> PromptCache:
        """Return a cache for what a parameter `promptCache` got."""
        if isinstance(value, PromptCache):
            return value
        if isinstance(value, (str, bytes, os.PathLike)):
            return cls(value)
        raise expected("a PromptCache or a path", value, "PromptCache(path) makes one", "promptCache")

    @property
    def path(self) -> str:
        """The folder."""
        return self._path

    @property
    def maxBytes(self) -> int:
        """The most bytes that the files take."""
        return self._maxBytes

    @property
    def minTokens(self) -> int:
        """How many tokens of a prompt must be missing on disk for it to be written."""
        return self._minTokens

    @property
    def totals(self) -> PromptCacheTotals:
        """What the cache has done in this process."""
        folder = self._folder
        return PromptCacheTotals(self._used, self._tokens, self._written, folder.removed, folder.damaged, self._failed)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all prompts so far are written, at most for `timeout` seconds (None: without a limit).

        Returns False if that time was too short. The end of the process waits 30 seconds by itself.
        """
        end = None if timeout is None else monotonic() + _seconds(timeout)
        done = threading.Event()
        with locked(_lock):
            if self._thread is None and not self._work:
                return True
            self._work.append((0, done.set))
            self._start()
            if self._thread is None:
                return False
        return done.wait(None if end is None else max(0.0, end - monotonic()))

    def clear(self) -> None:
        """Remove all prompts from the folder. Raises OSError if it cannot be read."""
        with locked(_lock):
            self._folder.clear()

    def __repr__(self) -> str:
        return f"<PromptCache {self._path!r}, maxBytes={self._maxBytes}, minTokens={self._minTokens}>"

    # Reading

    def _key(self, identity: Identity) -> str | None:
        """Return the digest of what a context computes with; None while that of a file is not known yet."""
        with locked(_lock):
            for source in identity.sources:
                if source[1] in self._digests or source[1] in self._unknown:
                    continue
                found = self._folder.known_digest(source[1])
                if found is not None:
                    self._digests[source[1]] = found
            if not identity.sources or any([source[1] not in self._digests for source in identity.sources]):
                return None
            return identity.digest(self._digests.__getitem__)

    def _learn(self, identity: Identity) -> None:
        """Find out the digests of files, on the thread that writes."""
        if self._key(identity) is None and not any([source[1] in self._unknown for source in identity.sources]):
            self._add(0, lambda: self._hash_files(identity))

    def _find(
        self, identity: Identity, tokens: array[int], reused: int, capacity: int | None
    ) -> tuple[Entry | None, int]:
        """Find a stored prompt that saves at least `minTokens` more than `reused` tokens. Returns also how many.

        The sequence takes `capacity` tokens.
        """
        if len(tokens) - 1 < reused + self._minTokens:
            return None, 0
        key = self._key(identity)
        if key is None:
            return None, 0
        with locked(_lock):
            entry, length = self._folder.find(key, tokens, capacity)
        return (entry, length) if length >= reused + self._minTokens else (None, 0)

    def _read(self, entry: Entry, seq: SeqId, n_streams: int) -> bytearray | None:
        """Return the state of a stored prompt for a sequence. None if it cannot be used."""
        free, size = available_memory(), sum(entry.sizes)
        if free is not None and size > free:
            return None
        return self._folder.read(entry, seq, n_streams)

    def _note_use(self, length: int) -> None:
        with locked(_lock):
            self._used += 1
            self._tokens += length

    # Writing

    def _place(self, identity: Identity, ctx: Context, tokens: array[int], reused: int) -> int:
        """Return after how many tokens of a prompt its state is to be written, if it begins with `reused` ones.

        That is its end, unless the state can only be used as a whole. Then it is where the prompt leaves others that
        are stored, as after a system prompt that they share; or a bit before the end, where the next one may differ.
        What comes after an image or a sound, whose tokens are negative, is not written.
        """
        if min(tokens) < 0:
            tokens = tokens[: next(i for i, token in enumerate(tokens) if token < 0)]
        if not _is_whole(ctx, len(tokens)):
            return len(tokens)
        key, mine = self._key(identity), identity.before_digests
        with locked(_lock):
            shared = [common_length(tokens, waiting) for other, waiting in self._pending if other == mine]
            if key is not None:
                shared += [common_length(tokens, entry.tokens) for entry in self._folder.entries(key)]
        last = max(len(tokens) - BEFORE_END, 1)
        most = max(shared, default=0)
        return most if reused + self._minTokens <= most < last else last

    def _offer(self, identity: Identity, ctx: Context, seq: SeqId, tokens: array[int]) -> None:
        """Copy the state of a sequence and have it written, if enough of its tokens are not stored yet.

        `tokens` are all that the sequence holds. Takes as long as the copy, and raises nothing.
        """
        if len(tokens) < self._minTokens or monotonic() < self._resume or min(tokens) < 0:
            return
        if not self._lacks(identity, tokens):
            return
        size = ctx.stateSeqGetSize(seq) + 4 * len(tokens) + _HEAD
        free = available_memory()
        waiting = sum(waits for waits, _ in list(self._work))
        if size > self._maxBytes:
            return
        if (waiting and waiting + size > _MAX_WAITING) or (free is not None and 2 * size > free):
            self._failed += 1
            return
        state = sequence_state.read(ctx, seq, sequence_state.n_streams(ctx))
        if state is None:
            return
        item = identity.before_digests, tokens
        least = len(tokens) if _is_whole(ctx, len(tokens)) else 1
        with locked(_lock):
            self._pending.append(item)
        self._add(size, lambda: self._write(identity, item, least, state))

    def _lacks(self, identity: Identity, tokens: array[int]) -> bool:
        """Return True if at least `minTokens` of these tokens are not stored, and do not wait to be."""
        if any([source[1] in self._unknown for source in identity.sources]):
            return False
        key, mine = self._key(identity), identity.before_digests
        with locked(_lock):
            stored = [common_length(tokens, waiting) for other, waiting in self._pending if other == mine]
            if key is not None:
                stored.append(self._folder.stored(key, tokens))
        return len(tokens) - max(stored, default=0) >= self._minTokens

    def _write(self, identity: Identity, item: _Waiting, least: int, state: SequenceState) -> None:
        try:
            self._hash_files(identity)
            key = self._key(identity)
            if key is not None and monotonic() >= self._resume:
                self._folder.write(key, item[1], least, state)
                self._written += 1
        except OSError as error:
            self._failed_to_write(error)
        finally:
            with locked(_lock):
                self._pending = [other for other in self._pending if other is not item]

    def _hash_files(self, identity: Identity) -> None:
        """Compute the digests of files that are not known yet."""
        if self._key(identity) is not None:
            return
        for source in identity.sources:
            if source[1] not in self._digests and source[1] not in self._unknown:
                self._hash_file(source)

    def _hash_file(self, source: Source) -> None:
        now, digest = time.time_ns(), file_digest(source)
        with locked(_lock):
            if digest is None:
                self._unknown.add(source[1])
            else:
                self._digests[source[1]] = digest
        if digest is None:
            self._warn(
                f"{os.fsdecode(source[0])} was changed after it had been loaded: prompts with it are not kept on disk; "
                "load it again"
            )
            return
        if is_settled(source[1], now) and monotonic() >= self._resume:
            try:
                self._folder.remember_digest(source[1], digest)
            except OSError as error:
                self._failed_to_write(error)

    def _failed_to_write(self, error: OSError) -> None:
        self._failed += 1
        self._resume = monotonic() + _PAUSE
        if not self._warned:
            self._warned = True
            self._warn(
                f"the prompt cache in {self._path} cannot be written ({error}): it goes on with what it has, and tries "
                "again after a minute; free space, or name another folder"
            )

    def _warn(self, text: str) -> None:
        with suppress(RuntimeWarning):  # a filter makes errors of warnings, and nobody catches one on this thread
            warn(text, RuntimeWarning)

    # The thread

    def _add(self, size: int, work: Callable[[], None]) -> None:
        with locked(_lock):
            self._work.append((size, work))
            self._start()

    def _start(self) -> None:
        """Start the thread if it does not run. The lock is held."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="llama_cffi-prompt-cache", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # there are no more threads, or the process ends
                self._work.clear()
                self._pending.clear()
                self._thread = None
                self._failed += 1

    def _run(self) -> None:
        """Do all work, then end: a cache without work has no thread."""
        while True:
            with locked(_lock):
                if not self._work:
                    self._thread = None
                    return
                _, work = self._work[0]
            try:
                work()
            except Exception as error:  # a defect, or too little memory: the prompt is not stored
                self._failed_to_write(OSError(f"{type(error).__name__}: {error}"))
            del work
            with locked(_lock):
                self._work.popleft()

    def _after_fork(self) -> None:
        self._thread = None
        self._work.clear()
        self._pending.clear()


def _is_whole(ctx: Context, count: int) -> bool:
    """Return True if a state of `count` tokens cannot be cut to a prefix of them.

    A recurrent state cannot go back. Of layers with a sliding window, llama.cpp writes what the next token attends to.
    """
    model = ctx.getModel()
    if model.isRecurrent or not has("llama_model_is_hybrid") or model.isHybrid:
        return True
    return 0 < model.nSwa < count


def _seconds(timeout: float) -> float:
    found = number(timeout, "timeout", " of seconds")
    if not 0 <= found <= threading.TIMEOUT_MAX:
        raise out_of_range("timeout", timeout, 0, threading.TIMEOUT_MAX)
    return found


def _after_fork() -> None:
    for cache in _caches:
        cache._after_fork()


def _at_exit() -> None:
    end = monotonic() + _EXIT_SECONDS
    for cache in _caches:
        cache.flush(max(0.0, end - monotonic()))


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
