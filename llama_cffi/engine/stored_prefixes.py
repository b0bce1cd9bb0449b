"""A prompt cache on disk for an engine: reads prefixes of new requests from it, and has their prompts written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi.context import sequence_state
from llama_cffi.engine.adapter_set import NO_ADAPTERS
from llama_cffi.errors import LlamaError, StateError

if TYPE_CHECKING:
    from llama_cffi.engine.adapter_set import AdapterKey, AdapterSet
    from llama_cffi.engine.job import Job
    from llama_cffi.engine.memory_layout import MemoryLayout
    from llama_cffi.engine.sequence_pool import EngineSequence
    from llama_cffi.generation.prompt_cache.cache import PromptCache
    from llama_cffi.generation.prompt_cache.entry import Entry
    from llama_cffi.generation.prompt_cache.identity import Identity

_MAX_IDENTITIES = 64  # adapters with other scales are others


class StoredPrefixes:
    """Opens the sequences of requests. All methods run on the engine's thread, but for the constructor."""

    def __init__(self, layout: MemoryLayout) -> None:
        self._layout, self._cache = layout, layout.disk
        self._context = layout.context
        self._identities: dict[AdapterKey, Identity] = {}
        self._decoding: list[tuple[Job, EngineSequence]] = []  # whose prompts are to be written
        if self._cache is not None:
            self._identity(self._cache, NO_ADAPTERS)  # the digest of the model may take long

    def open(self, job: Job, running: Iterable[Job]) -> EngineSequence:
        """Return a sequence for a job, with its longest prefix in the KV cache, or on disk if that saves more."""
        live = [other.sequence for other in running if other.sequence]
        sequence, cache = None, self._cache
        if cache is not None and job.stores:
            sequence = self._open_stored(cache, job, running, live)
        if sequence is None:
            sequence = self._layout.pool.open(job.shareable, live, job.adapters.key)
        if cache is not None and job.stores and len(job.request.prompt) >= cache.minTokens:
            prompt = job.tokens[: len(job.request.prompt)]
            identity = self._identity(cache, job.adapters)
            job.pause = cache._place(identity, self._context, prompt, len(sequence.tokens))
            self._decoding.append((job, sequence))
        return sequence

    def _open_stored(
        self, cache: PromptCache, job: Job, running: Iterable[Job], live: list[EngineSequence]
    ) -> EngineSequence | None:
        """Return a sequence with a prefix from disk; None if it is not much longer than one in the KV cache."""
        pool, tokens = self._layout.pool, job.shareable
        shared = pool.find(tokens, live, job.adapters.key)[1]
        # A copy that waits for the next decode would take what is read here for what was there before.
        if pool.copying or len(tokens) - 1 < shared + cache.minTokens:
            return None
        entry, length = cache._find(self._identity(cache, job.adapters), tokens, shared, pool.per_sequence)
        if entry is None or not self._has_room(job, entry, running):
            return None
        sequence = pool.open(tokens[:0], live, job.adapters.key)
        if self._read(cache, entry, sequence) and pool._truncate(sequence, length):
            cache._note_use(length)
            if not job.request.tokens:
                job.request.usage.tokensFromDisk = length
            return sequence
        pool.close(sequence, keep=False)
        return None

    def _has_room(self, job: Job, entry: Entry, running: Iterable[Job]) -> bool:
        """Evict what is kept for the cells of a stored prompt, all of which are needed at first."""
        jobs = [other for other in running if other.sequence is not None]
        held = sum(len(other.sequence.tokens) for other in jobs if other.sequence is not None)
        outstanding = sum(other.reserved for other in jobs) - held
        needed = max(job.reserved, len(entry.tokens))
        return self._layout.pool.evict_for(needed, outstanding)

    def _read(self, cache: PromptCache, entry: Entry, sequence: EngineSequence) -> bool:
        layout, pool = self._layout, self._layout.pool
        context = layout.context
        data = cache._read(entry, sequence.id, sequence_state.n_streams(context))
        if data is None:
            return False
        try:
            context.stateSeqSetData(data, destSeqId=sequence.id)
        except StateError:  # which may have cleared the context
            for other in [*pool._all]:
                layout._verify(other)
            return False
        pool.grow(sequence, entry.tokens)
        return pool._ends(sequence, len(entry.tokens))

    def save(self) -> None:
        """Have the prompts written that are decoded by now."""
        cache = self._cache
        if cache is None or not self._decoding or self._layout.pool.copying:
            return
        left, pool = [], self._layout.pool
        for job, begun in self._decoding:
            sequence = job.sequence or begun
            if len(sequence.tokens) < job.pause:
                if job.sequence is not None:
                    left.append((job, sequence))
            elif sequence in pool._all:
                self._offer(cache, job, sequence)
        self._decoding = left

    def _offer(self, cache: PromptCache, job: Job, sequence: EngineSequence) -> None:
        identity = self._identity(cache, job.adapters)
        try:
            cache._offer(identity, self._layout.context, sequence.id, sequence.tokens[:])
        except LlamaError:  # the engine ends
            pass

    def _identity(self, cache: PromptCache, adapters: AdapterSet) -> Identity:
        from llama_cffi.generation.prompt_cache.identity import Identity

        if self._context is not self._layout.context or len(self._identities) >= _MAX_IDENTITIES:
            self._context = self._layout.context  # with sequences of another size
            self._identities.clear()
        if adapters.key not in self._identities:
            self._identities[adapters.key] = Identity(self._context, adapters.sources)
            cache._learn(self._identities[adapters.key])
        return self._identities[adapters.key]
