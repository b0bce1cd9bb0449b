"""The embeddings of images and sounds that were encoded, so that the same one is not encoded again."""

from __future__ import annotations

from llama_cffi.generation.prefix import MediumKey

MOST_BYTES = 256 << 20
MOST_ENTRIES = 1024


class Embeddings:
    """What a projector encoded last, at most 256 MiB of it. The caller has exclusive use of the projector."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[MediumKey, bytes] = {}  # the one that was used last comes last

    def find(self, key: MediumKey | None) -> bytes | None:
        """Return the embeddings of a content, or None."""
        found = None if key is None else self._kept.get(key)
        if found is not None and key is not None:
            del self._kept[key]
            self._kept[key] = found
        return found

    def keep(self, key: MediumKey | None, data: bytes) -> None:
        """Keep embeddings, in place of the ones that were not used for longest."""
        if key is None or len(data) > MOST_BYTES:
            return
        kept = self._kept
        while kept and (len(kept) >= MOST_ENTRIES or sum(map(len, kept.values())) + len(data) > MOST_BYTES):
            del kept[next(iter(kept))]
        kept[key] = data
