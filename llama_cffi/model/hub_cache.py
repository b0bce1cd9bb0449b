"""The models that are on this machine already: list them, and remove them from the caches.

Two folders are searched: the cache of huggingface_hub, which `hf:` names use, and the folder of the models that the
source tree's tools fetch. Nothing outside of them is ever removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

from llama_cffi._core.arguments import HUB_PREFIX
from llama_cffi.errors import ModelLoadError
from llama_cffi.model.hub import SPLIT_FILE_RE, cache_folder

_REPO_PREFIX = "models--"
_BLOCK = 1 << 20
_DIGEST_RE = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 of a blob in git, or SHA-256 of a large file


class CachedModel(NamedTuple):
    """A model in a cache: a GGUF file, or all files of a split model."""

    name: str
    """What `Model.load` and the option -m take."""
    names: frozenset[str]
    """All names that lead to these files: by a branch, a tag or a commit."""
    size: int
    """Bytes of the files that are there."""
    used: float
    """When a file was last read, or written if the file system does not record reads; seconds since 1970."""
    complete: bool
    """False if a part of a split model is missing."""
    entries: frozenset[str]
    """The paths of the files in the cache; in huggingface_hub's cache these are links."""
    folder: str
    """The folder that everything of this model is in."""


def models() -> list[CachedModel]:
    """Return the models in the caches, those used last first."""
    found = [*_hub_models(cache_folder()), *_plain_models(tools_folder())]
    return sorted(found, key=lambda model: (-model.used, model.name))


def tools_folder() -> str:
    """The folder of the models that the source tree's tools fetch."""
    root = os.environ.get("LLAMA_CFFI_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "llama-cffi"
    )
    return os.path.join(os.path.abspath(os.path.expanduser(root)), "models")


def _plain_models(folder: str) -> Iterator[CachedModel]:
    for path in _gguf_files(folder):
        stat = os.stat(path)
        yield CachedModel(path, frozenset([path]), stat.st_size, _used(stat), True, frozenset([path]), folder)


def _hub_models(cache: str) -> Iterator[CachedModel]:
    for entry in _folders(cache):
        organization, sign, repo = entry.removeprefix(_REPO_PREFIX).partition("--")
        if entry.startswith(_REPO_PREFIX) and sign:
            yield from _repo_models(os.path.join(cache, entry), f"{HUB_PREFIX}{organization}/{repo}")


def _repo_models(folder: str, repo: str) -> Iterator[CachedModel]:
    """The models of a repository. Commits that hold the same files of a model share one entry."""
    refs = _refs(os.path.join(folder, "refs"))
    groups: dict[tuple[str, frozenset[str]], list[tuple[str, list[str]]]] = {}
    snapshots = os.path.join(folder, "snapshots")
    for commit in _folders(snapshots):
        top = os.path.join(snapshots, commit)
        parts: dict[str, list[str]] = {}
        for path in _gguf_files(top):
            parts.setdefault(_first_part(os.path.relpath(path, top)), []).append(path)
        for file, paths in parts.items():
            key = file, frozenset(map(os.path.realpath, paths))
            groups.setdefault(key, []).append((commit, paths))
    for (file, targets), places in groups.items():
        commits = [commit for commit, _ in places]
        names = [f"{repo}@{quote(ref, safe='')}/{file}" for ref, commit in refs.items() if commit in commits]
        names += [f"{repo}@{commit}/{file}" for commit in commits]
        if refs.get("main") in commits:
            names.insert(0, f"{repo}/{file}")
        stats = [os.stat(target) for target in targets]
        split = SPLIT_FILE_RE.fullmatch(file)
        yield CachedModel(
            names[0],
            frozenset(names),
            sum(stat.st_size for stat in stats),
            max(map(_used, stats)),
            split is None or len(places[0][1]) == int(split[3]),
            frozenset(path for _, paths in places for path in paths),
            folder,
        )


def _refs(folder: str) -> dict[str, str]:
    """The commits of the branches and tags that are known."""
    found = {}
    for top, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(top, name)
            with open(path, encoding="ascii", errors="replace") as file:
                found[os.path.relpath(path, folder)] = file.read(100).strip()
    return found


def _folders(folder: str) -> list[str]:
    """The names of the folders in a folder; links are left out, because they may lead out of the cache."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _gguf_files(folder: str) -> Iterator[str]:
    for top, _, files in os.walk(folder):
        for name in sorted(files):
            path = os.path.join(top, name)
            if name.endswith(".gguf") and os.path.isfile(path):
                yield path


def _first_part(file: str) -> str:
    part = SPLIT_FILE_RE.fullmatch(file)
    return f"{part[1]}-00001-of-{part[3]}.gguf" if part else file


def _used(stat: os.stat_result) -> float:
    return max(stat.st_atime, stat.st_mtime)


# Removal


def remove(model: CachedModel) -> int:
    """Remove the files of a model from its cache. Returns the bytes that were freed.

    A file that another commit of the repository shares stays, and so does what a link outside of the cache points to.
    Raises ValueError, and removes nothing, if an entry is not inside of the cache.
    """
    folder = os.path.realpath(model.folder)
    for entry in model.entries:
        if not _is_inside(os.path.realpath(os.path.dirname(entry)), folder):
            raise ValueError(f"{entry} is not inside of {folder}: nothing was removed")
    targets = {os.path.realpath(entry) for entry in model.entries if os.path.islink(entry)}
    freed = 0
    for entry in model.entries:
        freed += 0 if os.path.islink(entry) else os.path.getsize(entry)
        os.unlink(entry)
    if os.path.basename(folder).startswith(_REPO_PREFIX):
        freed += _remove_blobs(targets, folder)
        _remove_empty(folder)
    return freed


def _remove_blobs(targets: set[str], folder: str) -> int:
    """Remove the files that nothing links to any more. Returns their size."""
    snapshots, blobs = os.path.join(folder, "snapshots"), os.path.join(folder, "blobs")
    linked = {os.path.realpath(os.path.join(top, name)) for top, _, files in os.walk(snapshots) for name in files}
    freed = 0
    for target in targets - linked:
        if _is_inside(os.path.dirname(target), blobs):
            freed += os.path.getsize(target)
            os.unlink(target)
    return freed


def _is_inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _remove_empty(folder: str) -> None:
    """Remove the folders of a repository that became empty, and all of it if only its branches are left."""
    for top, _, _ in os.walk(os.path.join(folder, "snapshots"), topdown=False):
        _remove_if_empty(top)
    _remove_if_empty(os.path.join(folder, "blobs"))
    if not {"snapshots", "blobs"} & {*os.listdir(folder)}:
        shutil.rmtree(folder)


def _remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:  # it has files, or does not exist
        pass


# Check


def verify(path: str, progress: Callable[[float], object]) -> None:
    """Compare a downloaded file with the checksum that is its name in huggingface_hub's cache.

    Does nothing for a file without one. A file that differs is removed, and ModelLoadError says to download it again.
    """
    target = os.path.realpath(path)
    expected = os.path.basename(target)
    if not _DIGEST_RE.fullmatch(expected):
        return
    size = os.path.getsize(target)
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    done = 0
    with open(target, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress(done / size)
    if digest.hexdigest() != expected:
        os.unlink(path)
        os.unlink(target)
        raise ModelLoadError(
            f"{path} was damaged on the way or on the disk: its checksum is {digest.hexdigest()}, and it must be "
            f"{expected}. It was removed: download it again"
        )
