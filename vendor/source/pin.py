"""The pin: which llama.cpp this tree is generated and built from.

`pin.json` is the only place where a version of llama.cpp is written down; `make upgrade` writes it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

PIN_FILE = Path(__file__).with_name("pin.json")
RELEASES = Path(__file__).with_name("releases.json")

_ORDER = ("package", "version", "sha256", "commit", "modified", "repository")


@dataclass(frozen=True)
class Pin:
    """A llama.cpp tree, named by the source package that carries it, or by itself."""

    sha256: str  # of the package's sdist; of the tree's parts that a build reads where there is no package
    commit: str = ""  # empty where nobody knows
    package: str = ""  # empty: the tree is a checkout or a plain folder
    version: str = ""
    modified: bool = False  # the checkout had changes that are in no commit
    repository: str = ""  # where git gets the commit

    @property
    def is_tree(self) -> bool:
        """Whether no package carries the tree."""
        return not self.package

    @property
    def label(self) -> str:
        """One line for banners and error messages; the same text is compiled into the extension."""
        if not self.is_tree:
            return f"llama.cpp {self.commit[:12] or 'unknown'} ({self.package} {self.version})"
        tree = f"tree {self.sha256[:12]}"
        if not self.commit:
            return f"llama.cpp {tree}"
        return f"llama.cpp {self.commit[:12]}{f', modified ({tree})' if self.modified else ''}"

    def dumps(self) -> str:
        """The pin file's text: what is empty is left out."""
        values = asdict(self)
        return json.dumps({key: values[key] for key in _ORDER if values[key]}, indent=2) + "\n"


def load(path: Path = PIN_FILE) -> Pin:
    """Read the pin file."""
    return Pin(**json.loads(path.read_text(encoding="utf-8")))


def known() -> list[Pin]:
    """The carrier's releases that the project knows, oldest first."""
    return [Pin(**row) for row in json.loads(RELEASES.read_text(encoding="utf-8"))]


def cache_root() -> Path:
    """The folder that outlives a clone: downloads, unpacked sources and native builds, each under a digest.

    `LLAMA_CFFI_CACHE` overrides it.
    """
    override = os.environ.get("LLAMA_CFFI_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llama-cffi"
