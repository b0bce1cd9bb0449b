"""What llama.cpp logs about the memory that it takes."""

from __future__ import annotations

import re

_BUFFER = re.compile(r"(\S+) (model|KV|compute|RS|output) +buffer size = +([\d.]+) MiB")


class Lines:
    """Lines of its log; `logSet(lines.add)` collects them."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def add(self, level: object, text: str, data: object) -> None:
        self.all.append(text)

    def memory(self, kind: str) -> dict[str, float]:
        """MiB by type of memory (`CPU_Mapped`, `Vulkan0`) of all buffers of a kind: `model`, `KV`, `compute`."""
        found: dict[str, float] = {}
        for line in self.all:
            match = _BUFFER.search(line)
            if match and match[2] == kind:
                found[match[1]] = found.get(match[1], 0.0) + float(match[3])
        return found

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.all)
