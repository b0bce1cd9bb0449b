"""`Llama.from_pretrained`: files of the Hugging Face Hub by a pattern."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch

from llama_cffi._core.arguments import HUB_PREFIX as PREFIX
from llama_cffi.model.hub import HubFile, _cached, _fail, _fetch, _hub, _is_failure, local_path, parse


def hub_path(
    repo_id: str,
    filename: str | None,
    additional_files: Sequence[str] | None,
    local_dir: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None,
) -> str:
    """Download the file that a pattern names, and return its path. The parts of a split model come with the first.

    Raises ValueError if no file matches or several do, ImportError without huggingface_hub, ModelLoadError if the Hub
    cannot be reached.
    """
    if not isinstance(filename, str):
        raise ValueError(f"filename must be the name of a .gguf file in {repo_id}, or a pattern, got {filename!r}")
    names = [_matching(repo_id, pattern) for pattern in (filename, *(additional_files or ()))]
    if local_dir is None and cache_dir is None:
        return str([local_path(f"{PREFIX}{repo_id}/{name}") for name in names][0])
    wanted = [parse(f"{PREFIX}{repo_id}/{name}") for name in names]
    return [_fetch(file, local_dir=local_dir, cache_dir=cache_dir) for file in wanted][0]


def _matching(repo_id: str, pattern: str) -> str:
    if not any(sign in pattern for sign in "*?["):
        return pattern
    hub = _hub()
    try:
        names = hub.HfApi().list_repo_files(repo_id)
    except Exception as error:
        if not _is_failure(error):
            raise
        names = _cached(repo_id)  # offline
        if not names:
            _fail(HubFile(repo_id, None, pattern), error)
    found = [name for name in names if fnmatch(name, pattern)]
    if len(found) == 1:
        return str(found[0])
    which = "no file" if not found else f"{len(found)} files"
    raise ValueError(f"{which} of {repo_id} match {pattern!r}: name one of {', '.join(found or names)}")
