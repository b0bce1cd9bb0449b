"""Model files on the Hugging Face Hub: parses names such as `hf:org/repo/file.gguf` and downloads the files.

huggingface_hub (the extra `hf`) does the download, with its cache, its progress bar and its settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote

from llama_cffi._core.arguments import HUB_PREFIX as PREFIX, StrPath, is_hub_name
from llama_cffi.errors import ModelLoadError

_FORM = "hf:ORG/REPO/FILE.gguf, or hf:ORG/REPO@REVISION/FOLDER/FILE.gguf"
_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_HUB_NAME_RE = re.compile(rf"({_NAME}/{_NAME})(?:@([^/\s]+))?(?:/(.*))?", re.ASCII)
SPLIT_FILE_RE = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_MAX_LISTED = 20  # names in an error message


class HubFile(NamedTuple):
    """A file in a repository. `revision` is a branch, a tag or a commit; None means the main branch."""

    repo: str
    revision: str | None
    file: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}/{self.file}"


def local_path(path: StrPath, parts: bool = True) -> StrPath:
    """Return the local path of a model: `path` itself, or that of the downloaded file if `path` names one on the Hub.

    For the first file of a split model, all files are downloaded unless `parts` is False. Raises ValueError for a
    malformed name, ImportError without huggingface_hub, ModelLoadError if the file does not exist or cannot be reached.
    """
    if not isinstance(path, str) or not is_hub_name(path):
        return path
    wanted = parse(path)
    names = list(_parts(wanted.file)) if parts else [wanted.file]
    found = [_fetch(wanted._replace(file=name)) for name in names]
    if len({os.path.dirname(name) for name in found}) > 1:
        raise ModelLoadError(f"{wanted}: the repository changed while its files were downloaded: load the model again")
    return found[0]


def parse(name: str) -> HubFile:
    """Parse a name that begins with `hf:`. Raises ValueError if it is malformed."""
    match = _HUB_NAME_RE.fullmatch(name.removeprefix(PREFIX))
    if match is None or "--" in match[1] or ".." in match[1]:
        raise ValueError(f"{name!r} is not the name of a file on the Hugging Face Hub: write {_FORM}")
    repo, revision, file = match[1], match[2] and unquote(match[2]), match[3] or ""
    if not file:
        files, why = _listed(repo, revision)
        raise ValueError(f"{name!r} names a repository without a file: write {_FORM}{_choices(files)}{why}")
    if "@" in file and ".gguf@" in file:
        raise ValueError(
            f"{name!r} has the revision after the file, but it belongs after the repository: write {_FORM}"
        )
    if not file.endswith(".gguf") or any(part in ("", ".", "..") for part in file.split("/")) or "\\" in file:
        raise ValueError(f"{name!r} does not name a .gguf file: write {_FORM}")
    part = SPLIT_FILE_RE.fullmatch(file)
    if part and int(part[2]) != 1:
        first = f"{part[1]}-00001-of-{part[3]}.gguf"
        raise ValueError(f"{name!r} is part {int(part[2])} of a split model: name its first file, {first}")
    return HubFile(repo, revision, file)


def cache_folder() -> str:
    """The folder that huggingface_hub keeps its downloads in. Works without huggingface_hub, too."""
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        home = os.environ.get("HF_HOME") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
        )
        return os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    folder: str = constants.HF_HUB_CACHE
    return folder


def downloaded(name: str) -> list[str]:
    """Download the file that `name` leads to, and the other parts of a split model. Returns their paths in the cache.

    Raises as `local_path` does.
    """
    first = os.fsdecode(local_path(name))
    return [os.path.join(os.path.dirname(first), os.path.basename(part)) for part in _parts(parse(name).file)]


def _parts(file: str) -> Iterator[str]:
    """The names of all files of a split model, from that of the first one; of another model, the file itself."""
    part = SPLIT_FILE_RE.fullmatch(file)
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
            f"a name that begins with {PREFIX} needs huggingface_hub, which is not installed: "
            "pip install huggingface_hub"
        ) from None
    return huggingface_hub


def _fetch(wanted: HubFile, **folders: Any) -> str:
    hub = _hub()
    try:
        path: str = hub.hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, **folders)
    except Exception as error:
        if not _is_failure(error):
            raise
        _fail(wanted, error)
    return path


def _is_failure(error: Exception) -> bool:
    """Return True for an error of huggingface_hub, or of the HTTP library that its version uses."""
    return isinstance(error, (OSError, ValueError)) or type(error).__module__.startswith(
        ("httpx", "httpcore", "requests", "urllib3")
    )


def _fail(wanted: HubFile, error: Exception) -> NoReturn:
    """Raise ModelLoadError with the reason and the next step. The original error is its cause."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{wanted.repo}"
    if isinstance(error, errors.LocalEntryNotFoundError) or type(error).__name__ == "OfflineModeIsEnabled":
        if constants.HF_HUB_OFFLINE:
            why = f"it is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE=1 forbids a download: unset it"
        else:
            why = (
                f"it is not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be reached: check "
                "the connection (HTTPS_PROXY, HF_ENDPOINT), or load a local file by its path"
            )
        why += _choices(_cached(wanted.repo), "In the cache")
    elif isinstance(error, errors.GatedRepoError):
        why = f"it is gated: accept its terms at {page} and log in with `hf auth login`, or set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"the repository does not have a branch, tag or commit {wanted.revision}: see {page}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = f"the repository {wanted.repo} does not exist or is private: see {page}; log in with `hf auth login`"
    elif isinstance(error, errors.EntryNotFoundError):
        names = _files(wanted.repo, wanted.revision)
        why = f"the repository does not contain {wanted.file}" + (
            _choices(names) if names else f": see {page}/tree/main"
        )
    else:
        why = f"it could not be downloaded: {type(error).__name__}: {error}"
    raise ModelLoadError(f"{wanted} was not loaded: {why}", operation="hf_hub_download") from error


def _files(repo: str, revision: str | None) -> list[str]:
    """The names of a repository's GGUF files, or of those in the cache; empty if neither can be listed."""
    return _listed(repo, revision)[0]


def _listed(repo: str, revision: str | None) -> tuple[list[str], str]:
    """The names of `_files`; and why the repository could not be listed, for an error message."""
    try:
        names = _hub().HfApi().list_repo_files(repo, revision=revision)
    except ImportError:
        why = "huggingface_hub, which is not installed: pip install huggingface_hub"
        return _cached(repo), f". Listing its files needs {why}"
    except Exception as error:  # the list only helps the reader of an error message
        reason = str(error).partition("\n")[0]
        return _cached(repo), f". Its files could not be listed ({type(error).__name__}: {reason})"
    return sorted(name for name in names if name.endswith(".gguf")), ""


def _cached(repo: str) -> list[str]:
    """The names of a repository's GGUF files in the cache."""
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
    """The part of an error message that lists files; empty without files."""
    if not names:
        return ""
    more = f", and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f". {what}: {', '.join(names[:_MAX_LISTED])}{more}"
