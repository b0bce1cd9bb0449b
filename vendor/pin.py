"""The pin: which llama.cpp this tree is generated and built from.

`pin.json` is the only place where a version of llama.cpp is written by hand.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

PIN_FILE = Path(__file__).with_name("pin.json")


@dataclass(frozen=True)
class Pin:
    """A llama.cpp tree, named by the source package that carries it."""

    package: str
    version: str
    sha256: str
    commit: str

    @property
    def label(self) -> str:
        """One line for banners and error messages; the same text is compiled into the extension."""
        return f"llama.cpp {self.commit[:12]} ({self.package} {self.version})"


def load(path: Path = PIN_FILE) -> Pin:
    """Read the pin file."""
    return Pin(**json.loads(path.read_text(encoding="utf-8")))


def cache_root() -> Path:
    """The folder that outlives a clone: downloads, unpacked sources and native builds, each under a digest.

    `LLAMA_CFFI_CACHE` overrides it.
    """
    override = os.environ.get("LLAMA_CFFI_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llama-cffi"
