"""README.md as the description of the package on an index, where its relative links lead nowhere.

The address of the repository has one place: `Repository` in [project.urls] of pyproject.toml. With it, each relative
link becomes an absolute one, to the file as it was in this version. Without it, links become plain text and pictures
are left out, so that no dead link is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from posixpath import normpath

ROOT = Path(__file__).resolve().parents[2]
URL_NAME = "Repository"

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|`[^`]*`)*)\]\((?P<target>[^()\s]+)\)")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)


def for_index(text: str, urls: Mapping[str, str], version: str) -> str:
    """The text with links that work outside of the repository."""
    address = urls.get(URL_NAME, "").rstrip("/")
    parts = _FENCED.split(text)
    return "".join(part if part.startswith("```") else _relink(part, address, version) for part in parts)


def _relink(text: str, address: str, version: str) -> str:
    def replace(link: re.Match[str]) -> str:
        target = link["target"]
        if _ABSOLUTE.match(target):
            return link[0]
        if not address:
            return "" if link["picture"] else link["text"]
        path, hash_, anchor = target.partition("#")
        kind = "raw" if link["picture"] else "tree" if (ROOT / path).is_dir() else "blob"
        return f"{link['picture']}[{link['text']}]({address}/{kind}/v{version}/{normpath(path)}{hash_}{anchor})"

    return _LINK.sub(replace, text)
