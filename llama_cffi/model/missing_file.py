"""What was meant by the path of a model file that does not exist: a name on the Hub, a URL, a model in the cache."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)(?:/(?:resolve|blob|raw|tree)/([^/?#]+)(?:/([^?#]*))?)?"
)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def hint(path: str) -> str:
    """Return the next step for a path that does not lead to a file; "" if nothing is near."""
    if found := _URL.match(path):
        repo, revision, file = found[1], found[2] or "main", unquote(found[3] or "")
        at = "" if revision == "main" else f"@{quote(unquote(revision), safe='')}"
        return f"write hf:{repo}{at}/{file if file.endswith('.gguf') else 'FILE.gguf'}"
    if re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE):
        return (
            "a URL is not downloaded: download the file, or write hf:ORG/REPO/FILE.gguf for one of the Hugging Face Hub"
        )
    if path.startswith("~") and os.path.exists(os.path.expanduser(path)):
        return "~ is not expanded here: pass os.path.expanduser(path)"
    cached = in_cache(path)
    if cached:
        return f"the cache has {' and '.join(cached)}"
    parts = path.split("/")
    if os.path.isabs(path) or os.path.exists(parts[0]) or not _REPO.match(path):
        return ""
    if path.endswith(".gguf"):
        return f"for a file of the Hugging Face Hub, write hf:{path}" if len(parts) > 2 else ""
    return f"for a file of the Hugging Face Hub, write hf:{path}/FILE.gguf" if len(parts) == 2 else ""


def in_cache(name: str) -> list[str]:
    """Return the names of the models in the caches whose file has this name, with or without its `.gguf`."""
    from llama_cffi.model.hub_cache import models

    if "/" in name or not name:
        return []
    try:
        known = [model.name for model in models()]
    except OSError:
        return []
    return [one for one in known if os.path.basename(one) in (name, f"{name}.gguf")]


def explained(error: OSError, path: str) -> OSError:
    """Return the error of a file that does not exist, with the next step."""
    step = hint(path) if isinstance(error, (FileNotFoundError, NotADirectoryError)) else ""
    return type(error)(error.errno, f"{error.strerror} ({step})", path) if step else error
