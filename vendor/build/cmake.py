"""One run of CMake and ninja: configure, compile, check the overrides, strip, and publish the result in the cache."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vendor.build import overrides
from vendor.build.recipe import ALONE_HOOK, ONE_VARIANT, SOURCE, SUFFIX, VARIANTS_HOOK, VENDOR, WORK, Backend
from vendor.progress import Progress, say
from vendor.scratch import scratch_folder
from vendor.source import pin as pins
from vendor.tools import BuildError, compilers, find, jobs, require, target_tool
from vendor.vulkan import vulkan

_VENDOR_DIR = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Build:
    """One run of CMake, and everything that determines its result."""

    source: Path
    backends: tuple[Backend, ...]
    expected: tuple[str, ...]  # globs of the files that it must yield
    arguments: tuple[str, ...]  # CMake -D options, sorted, then the user's CMAKE_ARGS
    places: tuple[tuple[str, str], ...]  # further options: paths of this machine, which are not in the digest
    targets: tuple[str, ...]  # ninja's targets; empty: all
    sanitized: bool  # keeps names and lines of functions, which a sanitizer reports
    digest: str
    variants: tuple[str, ...] = ()  # of ggml's CPU backend, if only these are built; empty: all, or not a CPU build

    @property
    def prefix(self) -> Path:
        """The folder in the cache. Its name is the digest; a build of some variants has their names behind it."""
        return self.whole.with_name("-".join((self.digest, *self.variants)))

    @property
    def whole(self) -> Path:
        """The folder in the cache of the same build with all variants."""
        return pins.cache_root() / "native" / self.digest

    @property
    def work(self) -> Path:
        """The folder that CMake and ninja work in. Builds with few and with all variants share it, so that each object
        file is compiled once. It is kept until all variants are built."""
        return self.whole.with_name(f".build-{self.digest}")

    @property
    def lib(self) -> Path:
        """Where the libraries are, or will be."""
        return self.prefix / "lib"

    @property
    def overrides(self) -> dict[str, str]:
        """The state of each override of these backends, by its file. Only after `make`."""
        states: dict[str, str] = json.loads((self.prefix / "manifest.json").read_text(encoding="utf-8"))["overrides"]
        return states

    def make(self) -> None:
        """Run CMake and ninja, unless the cache has the result. Raises BuildError.

        Warns about overrides that had no effect, also when the result comes from the cache.
        """
        if not self.lib.is_dir():
            require(["cmake", "ninja"])
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.work.with_name(f"{self.work.name}.lock")):
                if self.lib.is_dir():  # another process has made it while this one waited
                    pass
                elif self.variants and (self.whole / "lib").is_dir():
                    _select(self)
                else:
                    _configure(self, self.work)
                    _compile(self, self.work)
                    _collect(self, self.work)
                    if not self.variants:
                        shutil.rmtree(self.work, ignore_errors=True)
        print(overrides.warning(self.overrides), end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two builds of the same inputs would write the same files: the second one waits."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of the same libraries")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _configure(build: Build, work: Path) -> None:
    names = ", ".join(row.name for row in build.backends)
    if build.variants:
        names += f", variants {' and '.join(build.variants)}"
    say(f"configuring llama.cpp ({names}; digest {build.digest})")
    _forget_other_source(build, work)
    places = {SOURCE: str(build.source), VENDOR: str(work / "vendor"), WORK: str(work)}
    _copy_inputs(build, work / "vendor")
    command = [find("cmake") or "cmake", "-S", SOURCE, "-B", WORK, "-G", "Ninja"]
    command += [f"-D{key}={value}" for key, value in build.places]
    command += [*build.arguments, f"-DCMAKE_MAKE_PROGRAM={find('ninja')}"]
    for name, place in places.items():
        command = [word.replace(name, place) for word in command]
    headers = dict(build.places).get("Vulkan_INCLUDE_DIR")
    if headers is not None:
        work.mkdir(exist_ok=True)
        vulkan.compile_loader(Path(headers), work / "libvulkan.a")
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"CMake could not configure llama.cpp:\n{_tail(result.stdout)}")


def _forget_other_source(build: Build, work: Path) -> None:
    """Empty the folder if an interrupted build used the same source at another path, which CMake refuses."""
    cache = work / "CMakeCache.txt"
    home = f"CMAKE_HOME_DIRECTORY:INTERNAL={build.source}\n"
    if cache.is_file() and home not in cache.read_text(encoding="utf-8", errors="replace"):
        shutil.rmtree(work)


def _copy_inputs(build: Build, target: Path) -> None:
    """Copy the files of this repository that the compiler or CMake reads, so that another clone's build can go on.

    Files with the same contents stay as they are: ninja compiles again what depends on a newer file.
    """
    names = [f"build/{hook}" for hook in (VARIANTS_HOOK, ALONE_HOOK)]
    names += [f"build/overrides/{override.file}" for row in build.backends for override in overrides.of(row.name)]
    for name in names:
        text, copy = (_VENDOR_DIR / name).read_bytes(), target / name
        if not copy.is_file() or copy.read_bytes() != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(text)


def _compile(build: Build, work: Path) -> None:
    command = [find("ninja") or "ninja", "-C", str(work), "-j", str(jobs()), *build.targets]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output: list[str] = []
        progress: Progress | None = None
        for done, total, line in _ninja_steps(process.stdout):
            output.append(line)
            if total:
                progress = progress or Progress("compiling llama.cpp", total)
                progress.total = max(total, progress.total)  # a nested build may have come first
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


def _collect(build: Build, work: Path) -> None:
    """Copy the libraries, stripped, beside the OpenMP runtime that they need, and publish all by one rename."""
    with scratch_folder(build.prefix.parent) as made:
        _copy_libraries(build, work, made)
        _publish(build, made)


def _select(build: Build) -> None:
    """Copy a build of some variants from the one with all of them."""
    with scratch_folder(build.prefix.parent) as made:
        shutil.copytree(build.whole, made, dirs_exist_ok=True)
        for path in (made / "lib").glob(build.backends[0].modules):
            if not _included(build, path):
                path.unlink()
        _publish(build, made)


def _publish(build: Build, made: Path) -> None:
    try:
        os.rename(made, build.prefix)
    except OSError:
        if not build.lib.is_dir():  # otherwise another process was faster
            raise


def _included(build: Build, path: Path) -> bool:
    """True if a file belongs to this build. The folder may hold variants of another build, or of an interrupted one."""
    module = re.fullmatch(rf"libggml-cpu-(.+){SUFFIX}\.so", path.name)
    return module is None or not build.variants or module[1] in build.variants


def _copy_libraries(build: Build, work: Path, made: Path) -> None:
    lib = made / "lib"
    lib.mkdir()
    patterns = list(build.expected)
    if build.backends[0].name == "cpu":
        patterns.append(f"libggml-*{SUFFIX}.so")  # further modules, which CMAKE_ARGS asks for
    for pattern in patterns:
        found = [path for path in sorted((work / "bin").glob(pattern)) if _included(build, path)]
        if not found:
            raise BuildError(f"the build made no {pattern}: does CMAKE_ARGS switch it off?")
        for path in found:
            if build.sanitized:
                shutil.copyfile(path, lib / _variant_name(path.name))
            else:
                strip = [target_tool("strip"), "--strip-unneeded", "-o", str(lib / path.name), str(path)]
                subprocess.run(strip, check=True)
    _bundle_openmp(lib)
    manifest = {
        "arguments": build.arguments,
        "backends": [row.name for row in build.backends],
        "digest": build.digest,
        "overrides": _inspect(build, work),
    }
    (made / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _inspect(build: Build, work: Path) -> dict[str, str]:
    """The state of each override; reads the modules as they were linked, with all symbols."""
    states: dict[str, str] = {}
    for row in build.backends:
        modules = [path for path in sorted((work / "bin").glob(row.modules)) if _included(build, path)]
        states |= overrides.inspect(overrides.of(row.name), modules)
    return states


def _variant_name(name: str) -> str:
    """The name of a sanitized library: the only CPU module is called like a variant, which the package looks for."""
    return f"libggml-cpu-sanitized{SUFFIX}.so" if name == ONE_VARIANT.modules else name


def _bundle_openmp(lib: Path) -> None:
    """Copy the compiler's libgomp, which machines without a compiler often lack."""
    module = next(iter(sorted(lib.glob("libggml-cpu-*.so"))), None)
    if module is None or b"libgomp.so.1\0" not in module.read_bytes():
        return
    cxx = compilers()[1]
    answer = subprocess.run([*cxx, "-print-file-name=libgomp.so.1"], capture_output=True, text=True, check=True)
    path = Path(answer.stdout.strip())
    if not path.is_file():  # the compiler prints the bare name when it does not know
        raise BuildError("the modules need libgomp.so.1, and the compiler does not know where it is: install libgomp1")
    shutil.copyfile(path.resolve(), lib / path.name)
