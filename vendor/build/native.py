"""Build llama.cpp's libraries with CMake and ninja: `python -m vendor.build.native [backend ...]`.

A backend is a row of `recipe.BACKENDS`. The result is a folder of shared libraries in the cache, under a digest of
everything that went into it (source, options, compilers, overrides): the same inputs are never built twice. A backend
with a ninja target is built separately, so adding it to an existing build recompiles nothing else.

Environment variables:

- `GGML_USE_VULKAN=1` adds the Vulkan backend, and `CMAKE_ARGS` passes further options to CMake.
- `LLAMA_CFFI_PREFIX=<folder>` uses the libraries in that folder and builds none: see `prefix.py`.
- `LLAMA_CFFI_BUILD=small` builds only what this machine needs: its variant of the CPU backend and the plainest one, and
  none of the RPC module, the chat library and the library for images and sound. What the cache has already is used.
- `LLAMA_CFFI_CPU_VARIANTS=<names>` builds only these variants of the CPU backend: see `variants.py`.
- `LLAMA_CFFI_ARCH=aarch64` builds for that machine type, with Debian's cross compiler.
- `LLAMA_CFFI_SANITIZE=address` (or `thread`) builds for a sanitizer: see `tests/sanitizers`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vendor.build import overrides, variants
from vendor.build.chat import library
from vendor.build.cmake import Build
from vendor.build.libraries import Libraries, module_name
from vendor.build.mtmd import library as mtmd
from vendor.build.prefix import Prefix
from vendor.build.recipe import (
    ALONE,
    ALONE_HOOK,
    BACKENDS,
    GCC_LICENSES,
    LINKED,
    LOADER,
    ONE_VARIANT,
    OPTIONS,
    RECIPE,
    SANITIZED,
    SANITIZERS,
    SUFFIX,
    VARIANTS_HOOK,
    VENDOR,
    Backend,
    Sanitizer,
)
from vendor.progress import say
from vendor.source import fetch, pin as pins, trees
from vendor.tools import BuildError, FetchError, compilers, is_cross, machine, version_of
from vendor.vulkan import vulkan


@dataclass(frozen=True)
class Plan(Libraries):
    """The builds that make up a package: the first has the libraries that the extension is linked with."""

    source: Path
    builds: tuple[Build, ...]
    versions: Mapping[str, str]  # of tools beside the compilers
    notices: tuple[Path, ...] = ()  # the licences of headers whose code is in a module
    flags: tuple[str, ...] = ()  # a sanitizer's, for the extension too; empty in an ordinary build
    note: str = ""  # what is not built, and why
    left_out: tuple[str, ...] = ()  # what a build without LLAMA_CFFI_BUILD and LLAMA_CFFI_CPU_VARIANTS has in addition

    @property
    def digest(self) -> str:
        return self.builds[0].digest

    @property
    def lib(self) -> Path:
        return self.builds[0].lib

    @property
    def headers(self) -> list[Path]:
        return [self.source / "include", self.source / "ggml" / "include", fetch.mtmd_dir() / "tools" / "mtmd"]

    @property
    def linked(self) -> list[str]:
        return [f"lib{name}{SUFFIX}.so" for name in LINKED]

    def make(self) -> None:
        if self.note:
            say(self.note)
        for build in self.builds:
            build.make()

    def files(self) -> dict[str, Path]:
        return {path.name: path for build in self.builds for path in sorted(build.lib.iterdir())}

    def licenses(self) -> dict[str, Path]:
        found = {"llama.cpp.txt": self.source / "LICENSE"}
        found |= {f"llama.cpp-{path.name}.txt": path for path in sorted((self.source / "licenses").glob("*"))}
        found |= {f"{name}.txt": Path("/usr") / place for name, place in GCC_LICENSES.items()}
        found |= {f"{path.parent.name}.txt": path for path in self.notices}
        for build in self.builds:
            if build.backends[0].name == "mtmd":
                found |= mtmd.licenses(fetch.mtmd_dir(), build.prefix / "licenses")
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
        other = os.environ.get("LLAMA_CPP_SOURCE")
        return {
            "llama_cpp": f"the tree in {self.source}" if other else pins.load().label,
            "origin": f"LLAMA_CPP_SOURCE={other}" if other else "pinned",
            "arguments": [argument for build in self.builds for argument in build.arguments],
            "compilers": [version_of(words) for words in compilers()],
            "tools": dict(self.versions),
            "left_out": list(self.left_out),
            "overrides": {file: state for build in self.builds for file, state in build.overrides.items()},
        }


def plan(names: Sequence[str] = ()) -> Plan | Prefix:
    """Decide what to build: the default backends, those in `names`, and those that the environment asks for.

    A sanitizer build has one variant of the CPU backend and no other backend. `LLAMA_CFFI_PREFIX` names a folder with
    llama.cpp's libraries and headers, which are then used unchanged. Raises BuildError or FetchError.
    """
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise BuildError(f"unknown backend {unknown[0]!r}: choose from {', '.join(BACKENDS)}")
    chosen = [row for row in BACKENDS.values() if row.default or row.name in names or _asked_for(row)]
    if os.environ.get("LLAMA_CFFI_PREFIX"):
        prefix = Prefix.at(Path(os.environ["LLAMA_CFFI_PREFIX"]))
        prefix.require([row.name for row in chosen if not row.default])
        return prefix
    sanitizer = _sanitizer()
    source = fetch.source_dir()
    common = {**OPTIONS, **_cross()}
    commit = "" if os.environ.get("LLAMA_CPP_SOURCE") else pins.load().revision[:9]
    common["LLAMA_BUILD_COMMIT"] = commit or "unknown"
    flags: tuple[str, ...] = ()
    if sanitizer is not None:
        chosen = [ONE_VARIANT]
        flags = (*SANITIZED, *sanitizer.flags)
        common |= sanitizer.options
        for key in ("CMAKE_C_FLAGS", "CMAKE_CXX_FLAGS"):
            common[f"{key}_RELEASE"] = "-DNDEBUG"  # without -O3, which would come last and win
            common[key] = " ".join((common[key], *flags))
    versions: dict[str, str] = {}
    notices: tuple[Path, ...] = ()
    linked = tuple(f"lib{name}{SUFFIX}.so" for name in LINKED)
    small = _small() and sanitizer is None
    rows = [row for row in chosen if not row.target]
    builds = [_planned(source, common, rows, linked, sanitized=sanitizer is not None)]
    left_out: list[str] = []
    if sanitizer is None:
        some = variants.chosen(source)
        if small and not some and not builds[0].lib.is_dir():
            some = variants.for_this_machine(source)
        if some:
            left_out += [f"cpu-{name}" for name in variants.buildable(source) if name not in some]
        builds = [_with_variants(builds[0], some or variants.limited(source))]
    notes = []
    if sanitizer is None:  # a sanitizer replaces the operators that limit the chat code
        chat, note = _chat()
        builds += chat
        notes.append(note)
    media, note = _mtmd(builds[0].lib, flags)
    builds += media
    notes.append(note)
    for row in chosen:
        if row.target:
            tools = vulkan.find() if row.name == "vulkan" else None
            if tools is not None:
                versions |= dict(tools.versions)
                notices += tools.notices
            base = builds[0].lib / f"libggml-base{SUFFIX}.so"
            builds.append(_planned(source, common | ALONE, [row], (), tools, base=base))
    if small:
        omitted = [build for build in builds[1:] if build.backends[0].name in _OMITTED and not build.lib.is_dir()]
        builds = [build for build in builds if build not in omitted]
        left_out += [build.backends[0].name for build in omitted]
    return Plan(source, tuple(builds), versions, notices, flags, "\n".join(filter(None, notes)), tuple(left_out))


# What a small build leaves out, unless the cache has it.
_OMITTED = ("rpc", "chat", "mtmd")


def _small() -> bool:
    """True if the environment asks for a build of what this machine needs. Raises BuildError for an unknown word."""
    word = os.environ.get("LLAMA_CFFI_BUILD", "")
    if word not in ("", "small"):
        raise BuildError(f"LLAMA_CFFI_BUILD must be small or unset, got {word!r}")
    return word == "small"


def _with_variants(build: Build, names: tuple[str, ...]) -> Build:
    """The first build, with these variants of the CPU backend only; with all if `names` is empty.

    The hook takes them off the targets that all others need. It changes no object file and no library, so it is not
    part of the digest.
    """
    places = (*build.places, ("CMAKE_PROJECT_INCLUDE", f"{VENDOR}/build/{VARIANTS_HOOK}"))
    return replace(build, places=places, variants=names, targets=variants.targets(names))


def _chat() -> tuple[list[Build], str]:
    """The build of llama.cpp's chat code; none where its interface is another one, and the reason."""
    tree = fetch.chat_dir()
    missing = library.lacking(tree)
    if missing is not None:
        return [], f"the chat library is not built: this llama.cpp has no {missing}"
    identity = pins.load().sha256 if fetch.is_pinned(tree) else library.identity(tree)
    seed = (RECIPE, *(version_of(tool) for tool in compilers()), _machine())
    options = [f"-D{key}={value}" for key, value in _cross().items()]
    options += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    return [library.plan(tree, identity, options, lambda items: _hashed((*seed, *items)))], ""


def _mtmd(libraries: Path, flags: tuple[str, ...]) -> tuple[list[Build], str]:
    """The build of llama.cpp's code for images and sound; none where files are missing, and the reason."""
    tree = fetch.mtmd_dir()
    missing = mtmd.lacking(tree)
    if missing is not None:
        return [], f"the library for images and sound is not built: this llama.cpp has no {missing}"
    identity = pins.load().sha256 if fetch.is_pinned(tree) else mtmd.identity(tree)
    seed = (RECIPE, *(version_of(tool) for tool in compilers()), _machine())
    options = [f"-D{key}={value}" for key, value in _cross().items()]
    if flags:
        options += [f"-DCMAKE_{language}_FLAGS={' '.join(flags)}" for language in ("C", "CXX")]
        options += [f"-DCMAKE_{language}_FLAGS_RELEASE=-DNDEBUG -DLLAMA_CFFI_SANITIZED" for language in ("C", "CXX")]
    options += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    return [mtmd.plan(tree, libraries, identity, options, lambda items: _hashed((*seed, *items)), bool(flags))], ""


def _planned(
    source: Path,
    options: Mapping[str, str],
    rows: Sequence[Backend],
    linked: tuple[str, ...],
    tools: vulkan.Toolchain | None = None,
    sanitized: bool = False,
    base: Path | None = None,
) -> Build:
    everything = dict(options)
    seed = [] if tools is None else [*map(str, tools.versions), vulkan.LOADER.read_text(encoding="utf-8")]
    for row in rows:
        everything |= row.options
        for override in overrides.of(row.name):
            everything["CMAKE_CXX_FLAGS"] += f" -include {VENDOR}/build/overrides/{override.file}"
            seed.append(override.path.read_text(encoding="utf-8"))
    places = {} if tools is None else {**tools.options, "Vulkan_LIBRARY": LOADER}
    if base is not None:  # a module, which is linked with the ggml-base of the first build
        places |= {"CMAKE_PROJECT_INCLUDE": f"{VENDOR}/build/{ALONE_HOOK}", "LLAMA_CFFI_BASE": str(base)}
    arguments = [f"-D{key}={value}" for key, value in sorted(everything.items())]
    arguments += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    return Build(
        source=source,
        backends=tuple(rows),
        expected=(*linked, *(row.modules for row in rows)),
        arguments=tuple(arguments),
        places=tuple(places.items()),
        targets=tuple(row.target for row in rows if row.target),
        sanitized=sanitized,
        digest=_digest(source, [*arguments, *seed]),
    )


def _sanitizer() -> Sanitizer | None:
    name = os.environ.get("LLAMA_CFFI_SANITIZE", "")
    if name and name not in SANITIZERS:
        raise BuildError(f"LLAMA_CFFI_SANITIZE must be one of {', '.join(SANITIZERS)}, got {name!r}")
    return SANITIZERS.get(name)


def _asked_for(row: Backend) -> bool:
    return row.name == "vulkan" and os.environ.get("GGML_USE_VULKAN") == "1"


def _cross() -> dict[str, str]:
    """CMake's options for a build for another machine type than this one."""
    if not is_cross():
        return {}
    c, cxx = compilers()
    return {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": machine(),
        "CMAKE_C_COMPILER": c[0],
        "CMAKE_CXX_COMPILER": cxx[0],
    }


def _digest(source: Path, arguments: Sequence[str]) -> str:
    return _hashed(
        [RECIPE, _source_digest(source), *arguments, *(version_of(tool) for tool in compilers()), _machine()]
    )


def _hashed(items: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(item.encode() + b"\0" for item in items)).hexdigest()[:16]


def _machine() -> str:
    return f"{os.uname().sysname} {machine()}"


def _source_digest(source: Path) -> str:
    return pins.load().sha256 if fetch.is_pinned(source) else trees.digest(source)


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
