"""Builds llama.cpp's libraries with CMake and ninja: `python -m vendor.build.native`.

A backend is a row of `recipe.BACKENDS`. The result is a folder of shared libraries in the cache, under a digest of
everything that went into it (source, options, compilers); the same inputs are never built twice. A backend with a
target of its own is built by itself, so that adding it to a build that is there compiles nothing anew.

`LLAMA_CFFI_PREFIX=<folder>` takes the libraries from there and builds none: see `prefix.py`.
`LLAMA_CFFI_CPU_VARIANTS=<names>` builds only these of the CPU backend's variants: see `variants.py`.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vendor.build import variants
from vendor.build.libraries import Libraries, module_name
from vendor.build.prefix import Prefix
from vendor.build.recipe import (
    ALONE,
    BACKENDS,
    GCC_LICENSES,
    LINKED,
    LOADER,
    ONE_VARIANT,
    OPTIONS,
    RECIPE,
    SANITIZED,
    SANITIZERS,
    SOURCE,
    SUFFIX,
    VENDOR,
    WORK,
    Backend,
    Sanitizer,
)
from vendor.progress import Progress
from vendor.source import fetch, pin as pins, trees
from vendor.tools import BuildError, FetchError, compilers, find, require, version_of
from vendor.vulkan import vulkan

OVERRIDES = Path(__file__).with_name("overrides")  # headers that go before llama.cpp's own files


@dataclass(frozen=True)
class Build:
    """One run of CMake, and everything that determines what comes out."""

    backends: tuple[Backend, ...]
    wanted: tuple[str, ...]  # globs of the files that it yields
    arguments: tuple[str, ...]  # CMake -D options, sorted, then the user's CMAKE_ARGS
    places: tuple[tuple[str, str], ...]  # further options, which say where things lie and are in no digest
    targets: tuple[str, ...]  # what ninja is asked for; nothing means everything
    digest: str

    @property
    def prefix(self) -> Path:
        return pins.cache_root() / "native" / self.digest

    @property
    def lib(self) -> Path:
        """Where the libraries are, or will be."""
        return self.prefix / "lib"


@dataclass(frozen=True)
class Plan(Libraries):
    """The builds that make up a package: the first has the libraries that the extension is linked with."""

    source: Path
    builds: tuple[Build, ...]
    versions: Mapping[str, str]  # of tools beside the compilers
    notices: tuple[Path, ...] = ()  # the licences of headers that got into a module
    flags: tuple[str, ...] = ()  # a sanitizer's, for the extension too; empty in an ordinary build

    @property
    def digest(self) -> str:
        return self.builds[0].digest

    @property
    def lib(self) -> Path:
        return self.builds[0].lib

    @property
    def headers(self) -> list[Path]:
        return [self.source / "include", self.source / "ggml" / "include"]

    @property
    def linked(self) -> list[str]:
        return [f"lib{name}{SUFFIX}.so" for name in LINKED]

    def make(self) -> None:
        for one in self.builds:
            _build(self, one)

    def files(self) -> dict[str, Path]:
        return {path.name: path for one in self.builds for path in sorted(one.lib.iterdir())}

    def licenses(self) -> dict[str, Path]:
        found = {"llama.cpp.txt": self.source / "LICENSE"}
        found |= {f"llama.cpp-{path.name}.txt": path for path in sorted((self.source / "licenses").glob("*"))}
        found |= {f"{name}.txt": Path("/usr") / place for name, place in GCC_LICENSES.items()}
        found |= {f"{path.parent.name}.txt": path for path in self.notices}
        return {name: path for name, path in found.items() if path.is_file()}

    def modules(self) -> dict[str, list[str]]:
        named: dict[str, list[str]] = {}
        for file in self.files():
            name = module_name(file, SUFFIX)
            if name is not None and file not in self.linked:
                named.setdefault(name, []).append(file)
        return named

    @property
    def about(self) -> dict[str, object]:
        override = os.environ.get("LLAMA_CPP_SOURCE")
        return {
            "llama_cpp": f"the tree in {self.source}" if override else pins.load().label,
            "origin": f"LLAMA_CPP_SOURCE={override}" if override else "pinned",
            "arguments": [argument for one in self.builds for argument in one.arguments],
            "compilers": [version_of(words) for words in compilers()],
            "tools": dict(self.versions),
        }


def plan(names: Sequence[str] = ()) -> Plan | Prefix:
    """Decide what to build: the default backends, those named, and those that the environment asks for.

    `GGML_USE_VULKAN=1` adds Vulkan; `CMAKE_ARGS` passes further options to CMake. `LLAMA_CFFI_SANITIZE` names a
    sanitizer, which works with one variant of the CPU backend and nothing else. `LLAMA_CFFI_PREFIX` names a folder
    with llama.cpp's libraries and headers, which are then used as they are.
    """
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise BuildError(f"no backend is called {unknown[0]!r}: choose from {', '.join(BACKENDS)}")
    chosen = [row for row in BACKENDS.values() if row.default or row.name in names or _asked_for(row)]
    if os.environ.get("LLAMA_CFFI_PREFIX"):
        prefix = Prefix.at(Path(os.environ["LLAMA_CFFI_PREFIX"]))
        prefix.require([row.name for row in chosen if not row.default])
        return prefix
    sanitizer = _sanitizer()
    source = fetch.source_dir()
    common = dict(OPTIONS)
    commit = "" if os.environ.get("LLAMA_CPP_SOURCE") else pins.load().commit[:9]
    common["LLAMA_BUILD_COMMIT"] = commit or "unknown"
    flags: tuple[str, ...] = ()
    if sanitizer is not None:
        chosen = [ONE_VARIANT]
        flags = (*SANITIZED, *sanitizer.flags)
        common |= sanitizer.options
        for key in ("CMAKE_C_FLAGS", "CMAKE_CXX_FLAGS"):
            common[f"{key}_RELEASE"] = "-DNDEBUG"  # without -O3, which comes last and would win
            common[key] = " ".join((common[key], *flags))
    versions: dict[str, str] = {}
    notices: tuple[Path, ...] = ()
    linked = tuple(f"lib{name}{SUFFIX}.so" for name in LINKED)
    few = () if sanitizer else variants.chosen(source)
    seed = [Path(__file__).with_name("variants.cmake").read_text(encoding="utf-8")] if few else []
    first = common | variants.options(few, VENDOR)
    rows = [row for row in chosen if not row.target]
    builds = [_planned(source, first, rows, linked, seed=seed, targets=variants.targets(few))]
    for row in chosen:
        if row.target:
            tools = vulkan.find() if row.name == "vulkan" else None
            if tools is not None:
                versions |= dict(tools.versions)
                notices += tools.notices
            builds.append(_planned(source, common | ALONE, [row], (), tools))
    return Plan(source, tuple(builds), versions, notices, flags)


def _planned(
    source: Path,
    options: Mapping[str, str],
    rows: Sequence[Backend],
    linked: tuple[str, ...],
    tools: vulkan.Toolchain | None = None,
    seed: Sequence[str] = (),
    targets: tuple[str, ...] = (),
) -> Build:
    everything = dict(options)
    seed = [*seed, *([] if tools is None else [*map(str, tools.versions), vulkan.LOADER.read_text(encoding="utf-8")])]
    for row in rows:
        everything |= row.options
        if row.include:
            everything["CMAKE_CXX_FLAGS"] += f" -include {VENDOR}/overrides/{row.include}"
            seed.append((OVERRIDES / row.include).read_text(encoding="utf-8"))
    places = {} if tools is None else {**tools.options, "Vulkan_LIBRARY": LOADER}
    arguments = [f"-D{key}={value}" for key, value in sorted(everything.items())]
    arguments += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    wanted = (*linked, *(row.modules for row in rows))
    digest = _digest(source, [*arguments, *seed])
    targets = targets or tuple(row.target for row in rows if row.target)
    return Build(tuple(rows), wanted, tuple(arguments), tuple(places.items()), targets, digest)


def _sanitizer() -> Sanitizer | None:
    name = os.environ.get("LLAMA_CFFI_SANITIZE", "")
    if name and name not in SANITIZERS:
        raise BuildError(f"LLAMA_CFFI_SANITIZE={name} is none of {', '.join(SANITIZERS)}")
    return SANITIZERS.get(name)


def _asked_for(row: Backend) -> bool:
    return row.name == "vulkan" and os.environ.get("GGML_USE_VULKAN") == "1"


def _digest(source: Path, arguments: Sequence[str]) -> str:
    seed = hashlib.sha256()
    for item in (RECIPE, _source_digest(source), *arguments, *(version_of(tool) for tool in compilers()), _machine()):
        seed.update(item.encode() + b"\0")
    for included in ("tile_config.h", "prefetch.h"):
        seed.update((OVERRIDES / included).read_bytes())
    return seed.hexdigest()[:16]


def _machine() -> str:
    return f"{os.uname().sysname} {os.uname().machine}"


def _source_digest(source: Path) -> str:
    if source != fetch.BUNDLED and not os.environ.get("LLAMA_CPP_SOURCE"):
        return pins.load().sha256
    return trees.digest(source)


def _build(todo: Plan, one: Build) -> None:
    """Run CMake and ninja, unless the cache has what they would make."""
    if one.lib.is_dir():
        return
    require(["cmake", "ninja"])
    one.prefix.parent.mkdir(parents=True, exist_ok=True)
    work = one.prefix.with_name(f".build-{one.digest}")  # kept when interrupted: ninja goes on from there
    with _alone(work.with_name(f"{work.name}.lock")):
        if not one.lib.is_dir():  # nobody else made it while this process waited
            _configure(todo, one, work)
            _compile(one, work)
            _collect(todo, one, work)
            shutil.rmtree(work, ignore_errors=True)


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


def _configure(todo: Plan, one: Build, work: Path) -> None:
    names = ", ".join(row.name for row in one.backends)
    print(f"configuring llama.cpp ({names}; digest {one.digest})", file=sys.stderr, flush=True)
    places = {SOURCE: str(todo.source), VENDOR: str(OVERRIDES.parent), WORK: str(work)}
    command = [find("cmake") or "cmake", "-S", SOURCE, "-B", WORK, "-G", "Ninja"]
    command += [f"-D{key}={value}" for key, value in one.places]
    command += [*one.arguments, f"-DCMAKE_MAKE_PROGRAM={find('ninja')}"]
    for name, place in places.items():
        command = [word.replace(name, place) for word in command]
    if one.places:
        work.mkdir(exist_ok=True)
        vulkan.compile_loader(Path(dict(one.places)["Vulkan_INCLUDE_DIR"]), work / "libvulkan.a")
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"CMake could not configure llama.cpp:\n{_tail(result.stdout)}")


def _compile(one: Build, work: Path) -> None:
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(len(os.sched_getaffinity(0)))
    command = [find("ninja") or "ninja", "-C", str(work), "-j", jobs, *one.targets]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output: list[str] = []
        progress: Progress | None = None
        for done, total, line in _ninja_steps(process.stdout):
            output.append(line)
            if total:
                progress = progress or Progress("compiling llama.cpp", total)
                progress.total = max(total, progress.total)  # a build inside the build may have come first
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


def _collect(todo: Plan, one: Build, work: Path) -> None:
    """Copy the libraries, stripped, beside the OpenMP runtime that they need, and publish them in one rename."""
    made = Path(tempfile.mkdtemp(prefix=".tmp-", dir=one.prefix.parent))
    lib = made / "lib"
    lib.mkdir()
    patterns = list(one.wanted)
    if one.backends[0].name == "cpu":
        patterns.append(f"libggml-*{SUFFIX}.so")  # those that CMAKE_ARGS asks for
    for pattern in patterns:
        found = sorted((work / "bin").glob(pattern))
        if not found:
            raise BuildError(f"the build made no {pattern}: does CMAKE_ARGS switch it off?")
        for path in found:
            if todo.flags:  # a sanitizer's reports name functions and lines
                shutil.copyfile(path, lib / _variant_name(path.name))
            else:
                subprocess.run(["strip", "--strip-unneeded", "-o", str(lib / path.name), str(path)], check=True)
    _bundle_openmp(lib)
    manifest = {"arguments": one.arguments, "backends": [row.name for row in one.backends], "digest": one.digest}
    (made / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    try:
        os.rename(made, one.prefix)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not one.lib.is_dir():
            raise


def _variant_name(name: str) -> str:
    """The only CPU module gets a variant's name: the package looks for nothing else."""
    return f"libggml-cpu-sanitized{SUFFIX}.so" if name == ONE_VARIANT.modules else name


def _bundle_openmp(lib: Path) -> None:
    """The compiler's libgomp travels along: a machine without a compiler often has none."""
    module = next(iter(sorted(lib.glob("libggml-cpu-*.so"))), None)
    if module is None or b"libgomp.so.1\0" not in module.read_bytes():
        return
    cxx = compilers()[1]
    answer = subprocess.run([*cxx, "-print-file-name=libgomp.so.1"], capture_output=True, text=True, check=True)
    path = Path(answer.stdout.strip())
    if not path.is_file():  # the compiler answers with the bare name when it does not know
        raise BuildError("the modules need libgomp.so.1, and the compiler does not know where it is: install libgomp1")
    shutil.copyfile(path.resolve(), lib / path.name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.build.native", description=__doc__.splitlines()[0])
    parser.add_argument("backends", nargs="*", help=f"backends to add to the default ones: {', '.join(BACKENDS)}")
    args = parser.parse_args()
    try:
        todo = plan(args.backends)
        todo.make()
        print(todo.lib)
    except (BuildError, FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
