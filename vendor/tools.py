"""Programs that the build calls: find them, name their versions, and say how to install those that are missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ARCH = "LLAMA_CFFI_ARCH"

_INSTALL = {
    "cc": "a C compiler (Debian: apt install build-essential)",
    "c++": "a C++17 compiler (Debian: apt install build-essential)",
    "cmake": "CMake 3.15 or newer (Debian: apt install cmake; or pip install cmake)",
    "ninja": "ninja (Debian: apt install ninja-build; or pip install ninja)",
    "readelf": "the binary utilities (Debian: apt install binutils)",
    "aarch64-linux-gnu-gcc": "a C compiler for aarch64 (Debian: apt install g++-aarch64-linux-gnu)",
    "aarch64-linux-gnu-g++": "a C++17 compiler for aarch64 (Debian: apt install g++-aarch64-linux-gnu)",
}

_MACHINES = ("x86_64", "aarch64")  # what a build can be for, on whatever machine


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


def machine() -> str:
    """The machine type that is built for: LLAMA_CFFI_ARCH, or that of this machine. Raises BuildError."""
    name = os.environ.get(ARCH) or os.uname().machine
    if name not in (*_MACHINES, os.uname().machine):
        raise BuildError(f"{ARCH} must be one of {', '.join(_MACHINES)}, got {name!r}")
    return name


def is_cross() -> bool:
    """True if the build is for another machine type than this one."""
    return machine() != os.uname().machine


def target_tool(name: str) -> str:
    """The name of a program of the compiler's family (`strip`, `gcc`) for the machine that is built for."""
    return f"{machine()}-linux-gnu-{name}" if is_cross() else name


def compilers() -> tuple[list[str], list[str]]:
    """The commands of the C and the C++ compiler: CC and CXX, or cc and c++. Raises BuildError if one is missing."""
    names = (("CC", "gcc"), ("CXX", "g++")) if is_cross() else (("CC", "cc"), ("CXX", "c++"))
    c, cxx = (shlex.split(os.environ.get(name) or target_tool(default)) for name, default in names)
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
