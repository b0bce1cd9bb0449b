"""Plans the build of `libmtmd-cffi.so`: llama.cpp's code for images and sound (`tools/mtmd`), without its programs.

It is built separately, so that the other libraries keep their digests, and loaded when one of its functions is called
for the first time. Video is off: llama.cpp would start ffmpeg for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from vendor.build.cmake import Build
from vendor.build.recipe import SUFFIX, Backend

FOLDER = Path(__file__).resolve().parent
FILE = f"libmtmd{SUFFIX}.so"
ROW = Backend("mtmd", {}, FILE)

_INPUTS = ("CMakeLists.txt", "media_limits.cpp", "media_limits.h", "mtmd.map")

# What must be in a tree.
NEEDS = ("tools/mtmd/mtmd.h", "tools/mtmd/mtmd-helper.h", "tools/mtmd/clip.cpp", "vendor/stb/stb_image.h")

# The licences of libraries inside: the file that has the text, and the line that it begins with; all of it if empty.
_LICENSES = {
    "stb_image.txt": ("vendor/stb/stb_image.h", "This software is available under 2 licenses"),
    "miniaudio.txt": ("vendor/miniaudio/miniaudio.h", "This software is available as a choice of the following"),
    "sha256.txt": ("vendor/hash/sha256/LICENSE", ""),
    "rotate-bits.txt": ("vendor/hash/rotate-bits/LICENSE.md", ""),
}


def lacking(tree: Path) -> str | None:
    """Return the first file that a tree of llama.cpp lacks; None if it has all that the build needs."""
    return next((name for name in NEEDS if not (tree / name).is_file()), None)


def plan(
    tree: Path,
    libraries: Path,
    identity: str,
    options: Sequence[str],
    digest: Callable[[Sequence[str]], str],
    sanitized: bool = False,
) -> Build:
    """The build, linked with the finished `libraries`. `identity` stands for the sources in `tree` in its digest."""
    arguments = ("-DCMAKE_BUILD_TYPE=Release", *options)
    ours = [(FOLDER / name).read_text(encoding="utf-8") for name in _INPUTS]
    return Build(
        source=FOLDER,
        backends=(ROW,),
        expected=(ROW.modules,),
        arguments=arguments,
        places=(("LLAMA_CPP", str(tree)), ("LIBRARIES", str(libraries))),
        targets=(),
        sanitized=sanitized,
        digest=digest([identity, *arguments, *ours]),
    )


def identity(tree: Path) -> str:
    """A digest of the files of a tree that the library is built of."""
    found = hashlib.sha256()
    for folder in ("tools/mtmd", "include", "ggml/include", "vendor"):
        for path in sorted((tree / folder).rglob("*")):
            if path.is_file():
                found.update(str(path.relative_to(tree)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def licenses(tree: Path, folder: Path) -> dict[str, Path]:
    """Write the licences of the libraries inside to `folder`, and return their paths by name."""
    found: dict[str, Path] = {}
    for name, (file, begin) in _LICENSES.items():
        source = tree / file
        text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
        text = text[text.index(begin) :].replace("*/", "").strip() + "\n" if begin and begin in text else text
        if text:
            folder.mkdir(exist_ok=True)
            found[name] = folder / name
            found[name].write_text(text, encoding="utf-8")
    return found
