"""The build manifest, `lib/manifest.json`: which libraries the package contains and what they were built from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llama_cffi.errors import UnavailableError

FOLDER = Path(__file__).resolve().parent.parent / "lib"


class Manifest(NamedTuple):
    """The libraries of this build, and their origin."""

    llama_cpp: str
    """The source of llama.cpp: its commit, and the package that contained it."""
    origin: str
    """`pinned`, or the variable that named another llama.cpp and its value."""
    linked: tuple[Path, ...]
    """The libraries that the extension is linked with."""
    modules: Mapping[str, tuple[Path, ...]]
    """The files of each backend module: `cpu`, `rpc`, `vulkan`. Empty for one that is part of libggml."""
    arguments: tuple[str, ...]
    """The arguments of CMake."""
    compilers: tuple[str, ...]
    tools: Mapping[str, str]
    ids: Mapping[str, str]
    """The id of each file: its build ID, or a digest of its code."""


def read() -> Manifest:
    """Read the manifest. Raises UnavailableError if it is missing or malformed."""
    path = FOLDER / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            llama_cpp=str(data["llama_cpp"]),
            origin=str(data["origin"]),
            linked=_files(data["linked"]),
            modules={str(name): _files(files) for name, files in data["modules"].items()},
            arguments=tuple(map(str, data.get("arguments", ()))),
            compilers=tuple(map(str, data.get("compilers", ()))),
            tools={str(tool): str(version) for tool, version in data.get("tools", {}).items()},
            ids={str(file): str(id) for file, id in data.get("ids", {}).items()},
        )
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    raise UnavailableError(f"{path} {problem}: run `make build` in the source tree, or reinstall the package")


def _files(names: list[str]) -> tuple[Path, ...]:
    """Return the paths of files in the folder of the manifest. Raises ValueError for a path elsewhere."""
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, got {names!r}")
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a plain file name")
    return tuple(FOLDER / name for name in names)
