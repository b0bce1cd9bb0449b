"""Builds llama-bench against the libraries of this package: `python benchmarks/build_llama_bench.py`.

The sources are those of the pinned llama.cpp, and the program links the library files in `llama_cffi/lib`, so that a
comparison measures the callers only. The program is kept in the cache under a digest of its inputs. It looks for its
libraries in its own folder, where `benchmarks/llama_bench.py` puts them for a run.
"""

from __future__ import annotations

import hashlib
import os
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

SOURCES = ("tools/llama-bench/*.cpp", "common/**/*.cpp", "vendor/cpp-httplib/httplib.cpp")
INCLUDES = ("include", "ggml/include", "common", "vendor")
FLAGS = ("-std=c++17", "-O2", "-DNDEBUG", "-ffunction-sections")
LINK_FLAGS = ("-pthread", "-s", "-Wl,--gc-sections", "-Wl,--as-needed", "-Wl,-rpath,$ORIGIN")

BUILD_INFO = {
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_COMMIT": pins.load().commit[:9],
    "BUILD_COMPILER": "unknown",
    "BUILD_TARGET": "unknown",
}


class BuildError(RuntimeError):
    """llama-bench cannot be built; the message says what to do."""


def executable() -> Path:
    """The path of llama-bench. It is compiled first, in a few minutes, unless it is in the cache."""
    missing = [name for name in map(_library, LINKED) if not (LIB / name).is_file()]
    if missing:
        raise BuildError(f"{LIB} has no {missing[0]}: run `make build`, or use the llama-bench of your own llama.cpp")
    tree, compiler = fetch.bench_dir(), shlex.split(os.environ.get("CXX") or "c++")
    target = pins.cache_root() / "llama-bench" / _digest(tree, compiler) / "llama-bench"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
            made = Path(folder) / "llama-bench"
            _link(compiler, _compile(tree, compiler, Path(folder)), made)
            os.replace(made, target)
    return target


def _library(name: str) -> str:
    return f"lib{name}{SUFFIX}.so"


def _digest(tree: Path, compiler: Sequence[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    source = str(tree) if os.environ.get("LLAMA_CPP_SOURCE") else pins.load().sha256
    seed = repr((source, version, SOURCES, FLAGS, LINK_FLAGS, BUILD_INFO, LINKED, SUFFIX))
    return hashlib.sha256(seed.encode()).hexdigest()[:16]


def _compile(tree: Path, compiler: Sequence[str], folder: Path) -> list[Path]:
    """Compile llama-bench and everything it may need, on all CPUs. Returns the object files."""
    info = folder / "build-info.cpp"
    text = (tree / "common" / "build-info.cpp.in").read_text(encoding="utf-8")
    for key, value in BUILD_INFO.items():
        text = text.replace(f"@{key}@", value)
    info.write_text(text, encoding="utf-8")
    sources = [info, *(path for pattern in SOURCES for path in sorted(tree.glob(pattern)))]
    includes = [f"-I{tree / name}" for name in INCLUDES]
    objects = [folder / f"{number}.o" for number in range(len(sources))]
    progress = Progress("compiling llama-bench", len(sources))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [
            pool.submit(_run, [*compiler, *FLAGS, *includes, "-c", str(source), "-o", str(made)])
            for source, made in zip(sources, objects, strict=True)
        ]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                progress.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress.finish()
    return objects


def _link(compiler: Sequence[str], objects: Sequence[Path], target: Path) -> None:
    libraries = [str(LIB / _library(name)) for name in LINKED]
    _run([*compiler, *map(str, objects), *libraries, *LINK_FLAGS, "-o", str(target)])


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        lines = "\n".join(result.stdout.splitlines()[:20])
        raise BuildError(f"llama-bench could not be built; this command failed:\n{shlex.join(command)}\n{lines}")


def main() -> int:
    try:
        print(executable())
    except (BuildError, FetchError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
