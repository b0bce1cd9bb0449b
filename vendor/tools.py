"""Programs that the build calls: find them, name their versions, and say how to install those that are missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_INSTALL = {
    "cc": "a C compiler (Debian: apt install build-essential)",
    "c++": "a C++17 compiler (Debian: apt install build-essential)",
    "cmake": "CMake 3.15 or newer (Debian: apt install cmake; or pip install cmake)",
    "ninja": "ninja (Debian: apt install ninja-build; or pip install ninja)",
    "readelf": "the binary utilities (Debian: apt install binutils)",
}


class BuildError(RuntimeError):
    """The native build failed, or cannot start; the message says what to do."""


class FetchError(RuntimeError):
    """A llama.cpp source cannot be fetched; the message says what to do."""


def find(tool: str) -> str | None:
    """The path of a program: on PATH or, as pip installs it, beside this Python. None if there is none."""
    return shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))


def require(tools: Sequence[str]) -> None:
    """Raise BuildError if a program is missing, with the commands that install it."""
    missing = [tool for tool in tools if find(tool) is None]
    if missing:
        lines = "\n".join(f"  {tool}: {_INSTALL.get(tool, 'named by CC or CXX, but not on PATH')}" for tool in missing)
        raise BuildError(f"the native build of llama.cpp needs programs that are missing:\n{lines}")


def compilers() -> tuple[list[str], list[str]]:
    """The commands of the C and the C++ compiler: CC and CXX, or cc and c++. Raises BuildError if one is missing."""
    c, cxx = (shlex.split(os.environ.get(name) or default) for name, default in (("CC", "cc"), ("CXX", "c++")))
    for words in (c, cxx):
        require(words[:1])
    return c, cxx


def jobs() -> int:
    """How many compilers to run at the same time: CMAKE_BUILD_PARALLEL_LEVEL, or as many as there are CPUs."""
    text = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "")
    return int(text) if text.isdecimal() and int(text) else len(os.sched_getaffinity(0))


def version_of(words: Sequence[str]) -> str:
    """The first line that a program prints for --version; `unknown` if it prints none."""
    answer = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    return answer[0] if answer else "unknown"
