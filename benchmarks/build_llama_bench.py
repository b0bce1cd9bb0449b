"""Builds llama.cpp's programs against the libraries of this package: `python benchmarks/build_llama_bench.py [all]`.

The programs are llama-bench, llama-batched-bench and llama-server; without `all`, only llama-bench is built. The
sources are those of the pinned llama.cpp, and the programs link the library files in `llama_cffi/lib`, so that a
comparison measures the callers only. Programs and object files are kept in the cache under a digest of their inputs, so
an interrupted build goes on where it was. A program looks for its libraries in its own folder, where
`benchmarks/llama_bench.py` puts them for a run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vendor.build.recipe import LINKED, SUFFIX  # noqa: E402
from vendor.progress import Progress  # noqa: E402
from vendor.source import fetch, pin as pins  # noqa: E402
from vendor.tools import FetchError  # noqa: E402

LIB = ROOT / "llama_cffi" / "lib"

COMMON = ("common/**/*.cpp", "vendor/cpp-httplib/httplib.cpp", "vendor/hash/hash.cpp", "vendor/hash/sha256/sha256.c")
PROGRAMS = {
    "llama-bench": ("tools/llama-bench/*.cpp",),
    "llama-batched-bench": ("tools/batched-bench/*.cpp",),
    "llama-server": ("tools/server/*.cpp", "tools/mtmd/*.cpp", "tools/mtmd/models/*.cpp"),
}
"""The sources of each program, besides `COMMON`."""
OTHER_PROGRAMS = {"tools/mtmd/mtmd-cli.cpp", "tools/mtmd/deprecation-warning.cpp"}

INCLUDES = ("include", "ggml/include", "common", "src", "vendor", "vendor/hash", "tools/mtmd", "tools/server")
OPTIMIZE = ("-O2", "-DNDEBUG", "-ffunction-sections")
FLAGS = ("-std=c++17",)
# As in llama.cpp's build: without them clients of llama-server wait for acknowledgements, or are refused.
DEFINES = ("-DCPPHTTPLIB_TCP_NODELAY=1", "-DCPPHTTPLIB_LISTEN_BACKLOG=512")
LINK_FLAGS = ("-pthread", "-s", "-Wl,--gc-sections", "-Wl,--as-needed", "-Wl,-rpath,$ORIGIN")

BUILD_INFO = {
    "LLAMA_BUILD_NUMBER": str(pins.load().build),
    "LLAMA_BUILD_COMMIT": pins.load().commit[:9] or "unknown",
    "BUILD_COMPILER": "unknown",
    "BUILD_TARGET": "unknown",
}
NO_PAGES = {"N_ASSETS": "0", "ASSET_ARRAYS": "", "ASSET_TABLE": "", "USE_GZIP": "false"}
"""llama-server without its web pages."""
TEMPLATES = {
    "common/build-info.cpp.in": BUILD_INFO,
    "tools/ui/ui.h.in": NO_PAGES,
    "tools/ui/ui.cpp.in": NO_PAGES,
}
"""Files that llama.cpp's CMake would fill in, with the values; those that the tree lacks are skipped."""


class BuildError(RuntimeError):
    """A program of llama.cpp cannot be built; the message says what to do."""


def executable(program: str = "llama-bench") -> Path:
    """The path of a program. It is compiled first, in a few minutes, unless it is in the cache."""
    missing = [name for name in map(_library, LINKED) if not (LIB / name).is_file()]
    if missing:
        raise BuildError(f"{LIB} has no {missing[0]}: run `make build`, or use the {program} of your own llama.cpp")
    tree, compiler = fetch.programs_dir(), shlex.split(os.environ.get("CXX") or "c++")
    folder = pins.cache_root() / "programs-built" / _digest(tree, compiler)
    target = folder / program
    if not target.is_file():
        objects = _compile(program, tree, compiler, folder)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as scratch:
            made = Path(scratch) / program
            libraries = [str(LIB / _library(name)) for name in LINKED]
            _run([*compiler, *map(str, objects), *libraries, *LINK_FLAGS, "-o", str(made)])
            os.replace(made, target)
    return target


def _library(name: str) -> str:
    return f"lib{name}{SUFFIX}.so"


def _digest(tree: Path, compiler: Sequence[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    source = str(tree) if os.environ.get("LLAMA_CPP_SOURCE") else pins.load().sha256
    recipe = (INCLUDES, OPTIMIZE, FLAGS, DEFINES, LINK_FLAGS, TEMPLATES, LINKED, SUFFIX)
    return hashlib.sha256(repr((source, version, recipe)).encode()).hexdigest()[:16]


def _sources(program: str, tree: Path, generated: Path) -> list[Path]:
    """The sources of a program; templates are filled in and written to the folder `generated`."""
    generated.mkdir(parents=True, exist_ok=True)
    for name, values in TEMPLATES.items():
        if (tree / name).is_file():
            text = re.sub(r"#cmakedefine.*", "", (tree / name).read_text(encoding="utf-8"))
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            _replace(generated / Path(name).stem, text)
    found = [generated / "build-info.cpp"]
    if program == "llama-server" and (generated / "ui.cpp").is_file():
        found.append(generated / "ui.cpp")
    if not any(tree.glob(PROGRAMS[program][0])):
        raise BuildError(
            f"{pins.load().label} has no {PROGRAMS[program][0]}, which {program} is built of: set LLAMA_CPP_SOURCE to "
            f"a llama.cpp checkout of that version, or use the {program} of your own llama.cpp"
        )
    for pattern in (*COMMON, *PROGRAMS[program]):
        found += [path for path in sorted(tree.glob(pattern)) if str(path.relative_to(tree)) not in OTHER_PROGRAMS]
    return found


def _replace(path: Path, text: str) -> None:
    """Write a file that is complete at any time."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def _compile(program: str, tree: Path, compiler: Sequence[str], folder: Path) -> list[Path]:
    """Compile a program and everything it may need, on all CPUs. Returns the object files."""
    generated = folder / "generated"
    sources = _sources(program, tree, generated)
    objects = [folder / "objects" / f"{_object_name(source, tree)}.o" for source in sources]
    todo = [(source, made) for source, made in zip(sources, objects, strict=True) if not made.is_file()]
    (folder / "objects").mkdir(exist_ok=True)
    options = [*OPTIMIZE, *DEFINES, *(f"-I{tree / name}" for name in INCLUDES), f"-I{generated}"]
    progress = Progress(f"compiling {program}", len(todo))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [pool.submit(_compile_one, compiler, options, source, made) for source, made in todo]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                progress.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress.finish()
    return objects


def _object_name(source: Path, tree: Path) -> str:
    inside = source.relative_to(tree) if source.is_relative_to(tree) else Path(source.name)
    return str(inside).replace("/", "-")


def _compile_one(compiler: Sequence[str], options: Sequence[str], source: Path, made: Path) -> None:
    language = ["-x", "c"] if source.suffix == ".c" else FLAGS
    scratch = made.with_name(f".{made.name}.{os.getpid()}")
    try:
        _run([*compiler, *language, *options, "-c", str(source), "-o", str(scratch)])
        scratch.replace(made)
    finally:
        scratch.unlink(missing_ok=True)


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        lines = "\n".join(result.stdout.splitlines()[:20])
        raise BuildError(f"a program of llama.cpp could not be built: {shlex.join(command)}\n{lines}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"{', '.join(PROGRAMS)}, or all")
    given = parser.parse_args()
    chosen = [*PROGRAMS] if given.programs == ["all"] else given.programs or ["llama-bench"]
    unknown = [name for name in chosen if name not in PROGRAMS]
    if unknown:
        parser.error(f"PROGRAM must be one of {', '.join(PROGRAMS)}, or all, got {unknown[0]}")
    try:
        for name in chosen:
            print(executable(name), flush=True)
    except (BuildError, FetchError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
