"""The build manifest, `lib/manifest.json`: which libraries the package contains and what they were built from."""

from __future__ import annotations

import os

from llama_cffi.errors import UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib")


class Manifest:
    """The libraries of this build, by their paths, and their origin."""

    def __init__(self, data: Any) -> None:
        """Check the content of the file. Raises KeyError, TypeError, ValueError or AttributeError."""
        self.llama_cpp = str(data["llama_cpp"])
        """The source of llama.cpp: its commit, and the package that contained it."""
        self.origin = str(data["origin"])
        """`pinned`, or the variable that named another llama.cpp and its value."""
        self.linked = _files(data["linked"])
        """The libraries that the extension is linked with."""
        self.modules: Mapping[str, tuple[str, ...]] = {
            str(name): _files(files) for name, files in data["modules"].items()
        }
        """The files of each backend module: `cpu`, `rpc`, `vulkan`. Empty for one that is part of libggml."""
        self.arguments = tuple(map(str, data.get("arguments", ())))
        """The arguments of CMake."""
        self.compilers = tuple(map(str, data.get("compilers", ())))
        self.tools = {str(tool): str(version) for tool, version in data.get("tools", {}).items()}
        self.left_out = tuple(map(str, data.get("left_out", ())))
        """What a build of everything has in addition: `cpu-zen4` for a CPU variant, `rpc`, `chat`."""
        self.ids = {str(file): str(id) for file, id in data.get("ids", {}).items()}
        """The id of each file: its build ID, or a digest of its code."""


def read() -> Manifest:
    """Read the manifest. Raises UnavailableError if it is missing or malformed."""
    path = os.path.join(FOLDER, "manifest.json")
    try:
        with open(path, encoding="utf-8") as file:
            return Manifest(_parsed(file.read()))
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    raise UnavailableError(f"{path} {problem}: run `make build` in the source tree, or reinstall the package")


class _JsonSettings:
    """What the scanner of `json` reads from its decoder."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float, parse_int = float, int


def _parsed(text: str) -> Any:
    """Parse JSON. `json` imports `re`, and both take a seventh of the time that this package may take to import."""
    try:
        from _json import make_scanner  # the scanner that `json` uses

        value, end = make_scanner(_JsonSettings)(text, 0)  # type: ignore[arg-type,unused-ignore]
        if not text[end:].strip():
            return value
    except Exception:  # another Python, or a malformed text
        pass
    import json

    return json.loads(text)


def _files(names: list[str]) -> tuple[str, ...]:
    """Return the paths of files in the folder of the manifest. Raises ValueError for a path elsewhere."""
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, got {names!r}")
    for name in names:
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not a plain file name")
    return tuple(os.path.join(FOLDER, name) for name in names)
