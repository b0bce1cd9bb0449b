"""llama.cpp trees that no package carries: their digest, and the pin of a checkout or folder."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vendor.source.pin import Pin
from vendor.tools import FetchError

# The parts of llama.cpp's tree that determine a build.
SOURCE_PARTS = ("CMakeLists.txt", "cmake", "ggml", "include", "src", "vendor")


def digest(tree: Path, parts: Sequence[str] = SOURCE_PARTS) -> str:
    """The sha256 of the names and contents of the files that a build reads, or of those in other parts of the tree."""
    found = hashlib.sha256()
    for part in parts:
        top = tree / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and ".git" not in path.parts:
                found.update(str(path.relative_to(tree)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def checked(tree: Path, name: str) -> Path:
    """The top folder of a llama.cpp tree. Raises FetchError if it is not one, with the user's `name` for it."""
    tree = tree.expanduser().resolve()
    if not (tree / "include" / "llama.h").is_file():
        raise FetchError(
            f"{name} is not a llama.cpp checkout: it has no include/llama.h. "
            "Name the top folder of one, or unset it to use the pinned source."
        )
    return tree


def pin_of(tree: Path) -> Pin:
    """The pin of a checkout or of a plain folder.

    A checkout is named by its commit and, if nothing that a build reads was changed, by the repository it came from.
    """
    found = digest(tree)
    if _git(tree, "rev-parse", "--show-toplevel") != str(tree):
        return Pin(sha256=found)
    commit = _git(tree, "rev-parse", "HEAD")
    modified = bool(_git(tree, "status", "--porcelain", "--ignored", "--", *SOURCE_PARTS))
    origin = _git(tree, "config", "--get", "remote.origin.url")
    repository = "" if modified or not commit else _public(origin)
    return Pin(sha256=found, commit=commit, modified=modified and bool(commit), repository=repository)


def _public(url: str) -> str:
    """A repository's address without user name and password; empty for a folder of this machine."""
    if "://" not in url and not re.match(r"[\w.@-]+:(?!//)", url):
        return ""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url)


def _git(tree: Path, *arguments: str) -> str:
    """What git prints; empty if git is missing or fails."""
    try:
        result = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
