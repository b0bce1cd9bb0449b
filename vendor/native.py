"""Builds llama.cpp's libraries with CMake and ninja: `python -m vendor.native`.

A backend is a row of `BACKENDS`. The result is a folder of shared libraries in the cache, under a digest of everything
that went into it (source, options, compilers); the same inputs are never built twice.

`LLAMA_CFFI_SANITIZE=address` (or `thread`) in the environment builds the same libraries for a sanitizer, beside the
ordinary ones: see `tests/sanitizers`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vendor import fetch, patch
from vendor import pin as pins
from vendor.progress import Progress

# Libraries carry this suffix, in file name and SONAME, so that a process which also loads another build of llama.cpp
# (llama-cpp-python, say) never has the dynamic linker give one package the other's library.
SUFFIX = "-cffi"

# What the extension links against; everything else is a module, loaded when asked for.
LINKED = ("llama", "ggml", "ggml-base")


@dataclass(frozen=True)
class Backend:
    """One ggml backend: the CMake options that build it and the modules that it must produce."""

    name: str
    options: dict[str, str]
    modules: str  # glob of the files it yields
    default: bool = False
    needs: tuple[str, ...] = field(default=())  # programs, beside the compilers


BACKENDS = {
    row.name: row
    for row in (
        Backend("cpu", {"GGML_CPU": "ON", "GGML_CPU_ALL_VARIANTS": "ON"}, f"libggml-cpu-*{SUFFIX}.so", default=True),
        Backend("rpc", {"GGML_RPC": "ON"}, f"libggml-rpc{SUFFIX}.so", default=True),
        Backend("vulkan", {"GGML_VULKAN": "ON"}, f"libggml-vulkan{SUFFIX}.so", needs=("glslc",)),
    )
}


@dataclass(frozen=True)
class Sanitizer:
    """A build that watches itself while it runs: slower, larger, and only for the tests."""

    name: str
    flags: tuple[str, ...]  # for every C and C++ file, those of the extension too
    options: dict[str, str] = field(default_factory=dict)


# One variant of the CPU backend is enough to look for mistakes in: all of them would compile for an hour.
_ONE_VARIANT = Backend("cpu", {"GGML_CPU": "ON", "GGML_CPU_ALL_VARIANTS": "OFF"}, f"libggml-cpu{SUFFIX}.so")

SANITIZERS = {
    row.name: row
    for row in (
        # The macro makes std::vector tell AddressSanitizer where its elements end, within what it has reserved.
        # Numbers that no enumerator has are given to the raw layer on purpose: llama.cpp's own checks must see them.
        Sanitizer("address", ("-fsanitize=address,undefined", "-fno-sanitize=enum", "-D_GLIBCXX_SANITIZE_VECTOR")),
        # libgomp is not instrumented, so that its barriers would look like races; ggml's own threads do not need it.
        Sanitizer("thread", ("-fsanitize=thread",), {"GGML_OPENMP": "OFF"}),
    )
}

_SANITIZED = ("-O1", "-g1", "-fno-omit-frame-pointer")  # readable stack traces, with lines

_SOURCE = "@SOURCE@"  # replaced when CMake is called: where the source lies does not change the build

_VENDOR = "@VENDOR@"

RECIPE = "1"  # to be raised when this module makes something else of the same inputs

OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",  # crash checks rely on NDEBUG: a debug build aborts where a release one returns NULL
    "CMAKE_RELEASE_POSTFIX": SUFFIX,
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",  # wheels cannot hold symbolic links
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    # The guard's exceptions pass through C frames. Assertions name files without this machine's folders.
    "CMAKE_C_FLAGS": f"-fexceptions -ffile-prefix-map={_SOURCE}=llama.cpp",
    "CMAKE_CXX_FLAGS": f"-fno-gnu-unique -ffile-prefix-map={_SOURCE}=llama.cpp -include {_VENDOR}/tile_config.h",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_COMMON": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_NUMBER": "0",  # else CMake asks git about whatever repository surrounds the source
}

SOURCE_PARTS = ("CMakeLists.txt", "cmake", "ggml", "include", "src", "vendor")


class BuildError(RuntimeError):
    """The native build cannot be done or failed; the text says what to do."""


@dataclass(frozen=True)
class Plan:
    """Everything that determines the native build."""

    source: Path
    backends: tuple[Backend, ...]
    arguments: tuple[str, ...]  # CMake -D options, sorted, then the user's CMAKE_ARGS
    digest: str
    flags: tuple[str, ...] = ()  # a sanitizer's, for the extension too; empty in an ordinary build

    @property
    def prefix(self) -> Path:
        """Where the build is, or will be: `lib/` with the libraries, `headers/` with the public headers."""
        return pins.cache_root() / "native" / self.digest

    @property
    def lib(self) -> Path:
        return self.prefix / "lib"

    @property
    def headers(self) -> list[Path]:
        return [self.source / "include", self.source / "ggml" / "include"]


def plan(names: Sequence[str] = ()) -> Plan:
    """Decide what to build: the default backends, those named, and those that the environment asks for.

    `GGML_USE_VULKAN=1` adds Vulkan; `CMAKE_ARGS` passes further options to CMake. `LLAMA_CFFI_SANITIZE` names a
    sanitizer, which works with one variant of the CPU backend and nothing else.
    """
    chosen = [row for row in BACKENDS.values() if row.default or row.name in names or _asked_for(row)]
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise BuildError(f"no backend is called {unknown[0]!r}: choose from {', '.join(BACKENDS)}")
    sanitizer = _sanitizer()
    source = fetch.source_dir()
    options = dict(OPTIONS)
    flags: tuple[str, ...] = ()
    if sanitizer is not None:
        chosen = [_ONE_VARIANT]
        flags = (*_SANITIZED, *sanitizer.flags)
        options |= sanitizer.options
        for key in ("CMAKE_C_FLAGS", "CMAKE_CXX_FLAGS"):
            options[f"{key}_RELEASE"] = "-DNDEBUG"  # without -O3, which comes last and would win
            options[key] = " ".join((options[key], *flags))
    for row in chosen:
        options.update(row.options)
    commit = "unknown" if os.environ.get("LLAMA_CPP_SOURCE") else pins.load().commit[:9]
    options["LLAMA_BUILD_COMMIT"] = commit
    arguments = [f"-D{key}={value}" for key, value in sorted(options.items())]
    arguments += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    return Plan(source, tuple(chosen), tuple(arguments), _digest(source, arguments), flags)


def _sanitizer() -> Sanitizer | None:
    name = os.environ.get("LLAMA_CFFI_SANITIZE", "")
    if name and name not in SANITIZERS:
        raise BuildError(f"LLAMA_CFFI_SANITIZE={name} is none of {', '.join(SANITIZERS)}")
    return SANITIZERS.get(name)


def _asked_for(row: Backend) -> bool:
    return row.name == "vulkan" and os.environ.get("GGML_USE_VULKAN") == "1"


def _digest(source: Path, arguments: Sequence[str]) -> str:
    seed = hashlib.sha256()
    for item in (RECIPE, _source_digest(source), *arguments, *(_version_of(tool) for tool in _compilers()), _machine()):
        seed.update(item.encode() + b"\0")
    for path in (Path(__file__).with_name("tile_config.h"), *patch.patches()):
        seed.update(path.read_bytes())
    return seed.hexdigest()[:16]


def _machine() -> str:
    return f"{os.uname().sysname} {os.uname().machine}"


def _source_digest(source: Path) -> str:
    if not os.environ.get("LLAMA_CPP_SOURCE"):
        return pins.load().sha256
    digest = hashlib.sha256()
    for part in SOURCE_PARTS:
        top = source / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and ".git" not in path.parts:
                digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _compilers() -> tuple[str, str]:
    return os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")


def _version_of(tool: str) -> str:
    words = shlex.split(tool)
    if not words or shutil.which(words[0]) is None:
        raise BuildError(_missing([words[0] if words else tool]))
    return subprocess.run([*words, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[0]


_INSTALL = {
    "cc": "a C compiler (Debian: apt install build-essential)",
    "c++": "a C++17 compiler (Debian: apt install build-essential)",
    "cmake": "CMake 3.14 or newer (Debian: apt install cmake; or pip install cmake)",
    "ninja": "ninja (Debian: apt install ninja-build; or pip install ninja)",
    "glslc": "the Vulkan shader compiler (glslc 2024 or newer)",
}


def _missing(tools: Sequence[str]) -> str:
    lines = "\n".join(f"  {tool}: {_INSTALL.get(tool, 'named by CC or CXX, but not on PATH')}" for tool in tools)
    return f"the native build of llama.cpp lacks:\n{lines}"


def _find(tool: str) -> str | None:
    """A program on PATH or, for those that come from PyPI, beside this Python (pip does not put that on PATH)."""
    return shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))


def build(todo: Plan) -> Path:
    """Build what `todo` says unless the cache has it; returns the folder with the libraries."""
    if not todo.lib.is_dir():
        tools = ["cmake", "ninja", *(need for row in todo.backends for need in row.needs)]
        missing = [tool for tool in tools if _find(tool) is None]
        if missing:
            raise BuildError(_missing(missing))
        todo.prefix.parent.mkdir(parents=True, exist_ok=True)
        work = todo.prefix.with_name(f".build-{todo.digest}")  # kept when interrupted: ninja goes on from there
        with _alone(work.with_name(f"{work.name}.lock")):
            if not todo.lib.is_dir():  # nobody else made it while this process waited
                _configure(todo, work)
                _compile(todo, work)
                _collect(todo, work)
                shutil.rmtree(work, ignore_errors=True)
    return todo.lib


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two builds of the same inputs would write the same files: the second waits."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another build of the same libraries", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _configure(todo: Plan, work: Path) -> None:
    names = ", ".join(row.name for row in todo.backends)
    print(f"configuring llama.cpp ({names}; digest {todo.digest})", file=sys.stderr, flush=True)
    source = _patched(todo.source, work / "source")
    command = [_find("cmake") or "cmake", "-S", str(source), "-B", str(work), "-G", "Ninja"]
    here = str(Path(__file__).parent)
    command += [x.replace(_SOURCE, str(source)).replace(_VENDOR, here) for x in todo.arguments]
    command.append(f"-DCMAKE_MAKE_PROGRAM={_find('ninja')}")
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"CMake could not configure llama.cpp:\n{_tail(result.stdout)}")


def _patched(source: Path, to: Path) -> Path:
    """A copy of the source with our patches. One that does not fit is left out where the source is the user's own."""
    patch.copy(source, SOURCE_PARTS, to)
    for each in patch.patches():
        try:
            patch.apply(each, to)
        except patch.PatchError as error:
            if not os.environ.get("LLAMA_CPP_SOURCE"):
                raise BuildError(f"{error}: make it fit the new pin, or remove it if it is not needed") from None
            print(f"note: {error}: it is left out (it begins with what it is for)", file=sys.stderr, flush=True)
    return to


def _compile(todo: Plan, work: Path) -> None:
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(len(os.sched_getaffinity(0)))
    command = [_find("ninja") or "ninja", "-C", str(work), "-j", jobs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output: list[str] = []
        progress: Progress | None = None
        for done, total, line in _ninja_steps(process.stdout):
            output.append(line)
            if total:
                progress = progress or Progress("compiling llama.cpp", total)
                progress.update(done)
    if process.returncode != 0:
        failed = next((i for i, line in enumerate(output) if line.startswith("FAILED:")), -40)
        raise BuildError(f"llama.cpp did not compile:\n{_tail(''.join(output[failed:]))}")
    if progress is not None:
        progress.finish()


def _ninja_steps(lines: Iterator[str]) -> Iterator[tuple[int, int, str]]:
    for line in lines:
        match = re.match(r"\[(\d+)/(\d+)\]", line)
        yield (int(match[1]), int(match[2]), line) if match else (0, 0, line)


def _tail(text: str, lines: int = 40) -> str:
    return "\n".join(text.splitlines()[-lines:])


def _collect(todo: Plan, work: Path) -> None:
    """Copy the libraries, stripped, beside the OpenMP runtime that they need, and publish them in one rename."""
    made = Path(tempfile.mkdtemp(prefix=".tmp-", dir=todo.prefix.parent))
    lib = made / "lib"
    lib.mkdir()
    wanted = [f"lib{name}{SUFFIX}.so" for name in LINKED] + [row.modules for row in todo.backends]
    for pattern in wanted:
        found = sorted((work / "bin").glob(pattern))
        if not found:
            raise BuildError(f"the build made no {pattern}: does CMAKE_ARGS switch it off?")
        for path in found:
            if todo.flags:  # a sanitizer's reports name functions and lines
                shutil.copyfile(path, lib / _variant_name(path.name))
            else:
                subprocess.run(["strip", "--strip-unneeded", "-o", str(lib / path.name), str(path)], check=True)
    _bundle_openmp(lib)
    manifest = {"arguments": todo.arguments, "backends": [row.name for row in todo.backends], "digest": todo.digest}
    (made / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    try:
        os.rename(made, todo.prefix)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not todo.lib.is_dir():
            raise


def _variant_name(name: str) -> str:
    """The only CPU module gets a variant's name: the package looks for nothing else."""
    return f"libggml-cpu-sanitized{SUFFIX}.so" if name == _ONE_VARIANT.modules else name


def _bundle_openmp(lib: Path) -> None:
    """The compiler's libgomp travels along: a machine without a compiler often has none."""
    module = next(iter(sorted(lib.glob("libggml-cpu-*.so"))), None)
    if module is None or b"libgomp.so.1\0" not in module.read_bytes():
        return
    cxx = shlex.split(_compilers()[1])
    answer = subprocess.run([*cxx, "-print-file-name=libgomp.so.1"], capture_output=True, text=True, check=True)
    path = Path(answer.stdout.strip())
    if not path.is_file():  # the compiler answers with the bare name when it does not know
        raise BuildError("the modules need libgomp.so.1, and the compiler does not know where it is: install libgomp1")
    shutil.copyfile(path.resolve(), lib / path.name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.native", description=__doc__.splitlines()[0])
    parser.add_argument("backends", nargs="*", help=f"backends to add to the default ones: {', '.join(BACKENDS)}")
    args = parser.parse_args()
    try:
        print(build(plan(args.backends)))
    except (BuildError, fetch.FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
