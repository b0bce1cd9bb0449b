"""A llama.cpp tree that no package carries: its digest, and the pin that names it."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from vendor.source.pin import Pin
from vendor.tools import FetchError

# What of llama.cpp's tree determines a build.
SOURCE_PARTS = ("CMakeLists.txt", "cmake", "ggml", "include", "src", "vendor")


def digest(tree: Path) -> str:
    """The sha256 of what a build reads of a tree: names and contents."""
    found = hashlib.sha256()
    for part in SOURCE_PARTS:
        top = tree / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and ".git" not in path.parts:
                found.update(str(path.relative_to(tree)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def checked(tree: Path, name: str) -> Path:
    """The top folder of a llama.cpp tree; `name` is how the user called it. Raises FetchError where it is none."""
    tree = tree.expanduser().resolve()
    if not (tree / "include" / "llama.h").is_file():
        raise FetchError(
            f"{name} is not a llama.cpp checkout: it has no include/llama.h. "
            "Point it at the top folder of one, or unset it to use the pinned source."
        )
    return tree


def pin_of(tree: Path) -> Pin:
    """The pin of a checkout or of a plain folder.

    A checkout without changes in what a build reads is named by its commit, and by the repository that it came from.
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
    """An address without a user's name and password; empty where it is a folder of this machine."""
    if "://" not in url and not re.match(r"[\w.@-]+:(?!//)", url):
        return ""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url)


def _git(tree: Path, *arguments: str) -> str:
    """What git says; empty where it is missing or refuses."""
    try:
        result = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
