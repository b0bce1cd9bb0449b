"""Where a model comes from: a path, or a file of a repository of the Hugging Face Hub, `hf:org/repo/file.gguf`.

Fetching is huggingface_hub's (the extra `hf`): its cache, its progress bar, its settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote

from llama_cffi._core.arguments import StrPath
from llama_cffi.errors import ModelLoadError

PREFIX = "hf:"
_FORM = "hf:ORG/REPO/FILE.gguf, or hf:ORG/REPO@REVISION/FOLDER/FILE.gguf"
_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_WHOLE = re.compile(rf"({_NAME}/{_NAME})(?:@([^/\s]+))?(?:/(.*))?", re.ASCII)
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_LISTED = 20  # names in an error


class HubFile(NamedTuple):
    """A file of a repository, at a branch, a tag or a commit; None: its main branch."""

    repo: str
    revision: str | None
    file: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}/{self.file}"


def is_hub_name(path: object) -> bool:
    """Whether a path is text that names a file of the Hub. A file here of such a name is `./hf:...`."""
    return isinstance(path, str) and path.startswith(PREFIX)


def local_path(path: StrPath, parts: bool = True) -> StrPath:
    """The path of a model on this machine: fetched where `path` names one of the Hub, else `path` itself.

    Of a split model, whose first file is named, all parts are fetched unless `parts` is False. Raises ValueError for a
    name that has not the form of one, ImportError without huggingface_hub, ModelLoadError where there is no such
    file, or no way to it.
    """
    if not isinstance(path, str) or not is_hub_name(path):
        return path
    wanted = parse(path)
    names = list(_parts(wanted.file)) if parts else [wanted.file]
    found = [_fetch(wanted._replace(file=name)) for name in names]
    if len({os.path.dirname(name) for name in found}) > 1:
        raise ModelLoadError(f"{wanted}: the repository changed while its parts were fetched: load the model again")
    return found[0]


def parse(name: str) -> HubFile:
    """Take a name apart. Raises ValueError for what is none."""
    match = _WHOLE.fullmatch(name.removeprefix(PREFIX))
    if match is None or "--" in match[1] or ".." in match[1]:
        raise ValueError(f"{name!r} is no name of a file of the Hugging Face Hub: write {_FORM}")
    repo, revision, file = match[1], match[2] and unquote(match[2]), match[3] or ""
    if not file:
        raise ValueError(
            f"{name!r} names a repository, and no file in it: write {_FORM}{_choices(_files(repo, revision))}"
        )
    if "@" in file and ".gguf@" in file:
        raise ValueError(f"{name!r} has its revision behind the file, and it belongs to the repository: write {_FORM}")
    if not file.endswith(".gguf") or any(part in ("", ".", "..") for part in file.split("/")) or "\\" in file:
        raise ValueError(f"{name!r} does not name a file that ends in .gguf: write {_FORM}")
    part = _PART.fullmatch(file)
    if part and int(part[2]) != 1:
        first = f"{part[1]}-00001-of-{part[3]}.gguf"
        raise ValueError(f"{name!r} is part {int(part[2])} of a split model: name its first file, {first}")
    return HubFile(repo, revision, file)


def _parts(file: str) -> Iterator[str]:
    """All files of a split model, by the first one; of any other, the file itself."""
    part = _PART.fullmatch(file)
    if part is None:
        yield file
        return
    for number in range(1, int(part[3]) + 1):
        yield f"{part[1]}-{number:05}-of-{part[3]}.gguf"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise ImportError(
            f"a name that begins with {PREFIX} is fetched by huggingface_hub, which is not installed: "
            "pip install 'llama-cffi[hf]'"
        ) from None
    return huggingface_hub


def _fetch(wanted: HubFile) -> str:
    hub = _hub()
    try:
        path: str = hub.hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision)
    except (OSError, ValueError) as error:  # the bases of all that huggingface_hub raises
        _fail(wanted, error)
    except Exception as error:  # of the HTTP library under it, which differs from version to version
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        _fail(wanted, error)
    return path


def _fail(wanted: HubFile, error: Exception) -> NoReturn:
    """Say what is wrong in words of ours, and what to do. The original error is the cause."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{wanted.repo}"
    if isinstance(error, errors.LocalEntryNotFoundError) or type(error).__name__ == "OfflineModeIsEnabled":
        if constants.HF_HUB_OFFLINE:
            why = (
                f"it is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE=1 forbids to fetch it: unset that"
            )
        else:
            why = (
                f"it is not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be reached: look at "
                "the connection (HTTPS_PROXY, HF_ENDPOINT), or load a file of this machine by its path"
            )
        why += _choices(_cached(wanted.repo), "In the cache")
    elif isinstance(error, errors.GatedRepoError):
        why = f"who wants it must accept its terms at {page} and log in: `hf auth login`, or HF_TOKEN=..."
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"the repository has no branch, tag or commit {wanted.revision}: look at {page}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = f"there is no repository {wanted.repo}, or it is private: look at {page}; log in with `hf auth login`"
    elif isinstance(error, errors.EntryNotFoundError):
        names = _files(wanted.repo, wanted.revision)
        why = f"the repository has no file {wanted.file}" + (
            _choices(names) if names else f": look at {page}/tree/main"
        )
    else:
        why = f"it could not be fetched: {type(error).__name__}: {error}"
    raise ModelLoadError(f"{wanted} was not loaded: {why}", operation="hf_hub_download") from error


def _files(repo: str, revision: str | None) -> list[str]:
    """The GGUF files of a repository, or those in the cache; empty where neither can be listed."""
    try:
        names = _hub().HfApi().list_repo_files(repo, revision=revision)
    except Exception:  # a list is a help, and no more
        return _cached(repo)
    return sorted(name for name in names if name.endswith(".gguf"))


def _cached(repo: str) -> list[str]:
    """The GGUF files of a repository that the cache has."""
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return []
    snapshots = os.path.join(constants.HF_HUB_CACHE, "models--" + repo.replace("/", "--"), "snapshots")
    found = set()
    for folder, _, files in os.walk(snapshots):
        inside = PurePath(folder).relative_to(snapshots).parts[1:]  # without the commit
        found |= {"/".join([*inside, name]) for name in files if name.endswith(".gguf")}
    return sorted(found)


def _choices(names: list[str], what: str = "Its GGUF files") -> str:
    """The end of a sentence that lists files; nothing where there are none."""
    if not names:
        return ""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f". {what}: {', '.join(names[:_LISTED])}{more}"
