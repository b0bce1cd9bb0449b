"""Changes to llama.cpp's source: the files of `vendor/patches`, applied to a copy of it.

A patch is a unified diff with an explanation on top. Nothing is guessed: what a hunk changes must be there once.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("patches")


class PatchError(RuntimeError):
    """A patch does not fit the source; the text says where."""


class Hunk(NamedTuple):
    """One change of one file."""

    file: str
    before: str
    after: str


def patches() -> list[Path]:
    """The patches, in the order in which they are applied."""
    return sorted(FOLDER.glob("*.patch"))


def hunks(patch: Path) -> Iterator[Hunk]:
    """Read a patch."""
    file, before, after, left = "", [""], [""], [0, 0]
    for line in patch.read_text(encoding="utf-8").splitlines(keepends=True):
        if any(left):
            for index, (side, signs) in enumerate(((before, " -"), (after, " +"))):
                if line[0] in signs:
                    side.append(line[1:])
                    left[index] -= 1
            if not any(left):
                yield Hunk(file, "".join(before), "".join(after))
        elif line.startswith("+++ b/"):
            file = line[len("+++ b/") :].strip()
        elif match := re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            before, after = [], []
            left = [int(count or "1") for count in match.groups()]


def copy(source: Path, parts: Sequence[str], to: Path) -> None:
    """Copy `parts` of the source to the folder `to`."""
    to.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if (source / part).is_dir():
            shutil.copytree(source / part, to / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, to / part)


def apply(patch: Path, tree: Path) -> None:
    """Apply a patch to the source in `tree`. Raises PatchError where it does not fit, and then changes nothing."""
    texts: dict[Path, str] = {}
    for hunk in hunks(patch):
        path = tree / hunk.file
        text = texts.get(path) or (path.read_text(encoding="utf-8") if path.is_file() else "")
        if text.count(hunk.before) != 1:
            first = hunk.before.splitlines()[0].strip()
            raise PatchError(f"{patch.name} does not fit {hunk.file} of this llama.cpp (near {first!r})")
        texts[path] = text.replace(hunk.before, hunk.after)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
