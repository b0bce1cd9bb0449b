"""The builds of the CPU backend in this package, and which of them is the best that runs here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from llama_cffi._core import manifest as _manifest
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.errors import UnavailableError

LINKED = "linked"  # the name of a CPU backend that is part of libggml
_NAME = re.compile(r"libggml-cpu(?:-(?P<name>.+?))?(?:-cffi)?\.so[0-9.]*")


class CpuVariant(NamedTuple):
    """One build of the CPU backend, and whether this machine runs it."""

    name: str
    path: Path
    score: int
    """ggml's own ranking; 0 where the CPU lacks something."""
    reason: str
    """Why it was passed over; empty for one that runs."""

    @property
    def runs(self) -> bool:
        return not self.reason


def amx_works() -> bool:
    """Multiply two small matrices on AMX, in a child process. `LLAMA_CFFI_AMX=0` says that it does not work."""
    return os.environ.get("LLAMA_CFFI_AMX") != "0" and bool(lib.shim_amx_works())


def variants() -> list[CpuVariant]:
    """All of them, best first. Raises UnavailableError where the build left no manifest."""
    manifest = _manifest.read()
    paths = manifest.modules.get("cpu", ())
    if "cpu" in manifest.modules and not paths:
        return [CpuVariant(LINKED, library_of(manifest), 1, "")]
    amx: list[bool] = []

    def has_amx() -> bool:
        if not amx:  # ask once, and only if a variant wants it
            amx.append(amx_works())
        return amx[0]

    found = [_ask(path, has_amx) for path in sorted(paths)]
    return sorted(found, key=lambda variant: (-variant.score, variant.name))


def library_of(manifest: _manifest.Manifest) -> Path:
    """The library through which the functions of a linked backend are found: libllama needs all of the others."""
    return next((path for path in manifest.linked if path.name.startswith("libllama")), _manifest.FOLDER)


def choose(variants: list[CpuVariant], wanted: str | None) -> CpuVariant:
    """The first one that runs, or the one of the name `wanted`. Raises UnavailableError."""
    if not variants:
        raise UnavailableError(
            f"there is no CPU backend in {_manifest.FOLDER}: run `make build` in the source tree, or reinstall the "
            "package"
        )
    if wanted:
        for variant in variants:
            if variant.name == wanted:
                if variant.reason:
                    raise UnavailableError(f"LLAMA_CFFI_CPU_VARIANT={wanted} does not run here: {variant.reason}")
                return variant
        names = ", ".join(variant.name for variant in variants)
        raise UnavailableError(f"LLAMA_CFFI_CPU_VARIANT={wanted} is none of {names}")
    for variant in variants:
        if variant.runs:
            return variant
    reasons = "; ".join(f"{variant.name}: {variant.reason}" for variant in variants)
    raise UnavailableError(f"no variant of the CPU backend runs on this machine: {reasons}")


def _ask(path: Path, has_amx: Callable[[], bool]) -> CpuVariant:
    match = _NAME.fullmatch(path.name)
    name = (match["name"] if match else None) or "default"
    answer = ffi.new("struct shim_variant *")
    lib.shim_variant_ask(os.fsencode(path), answer)
    reason = ""
    if not answer.loadable:
        reason = "the file cannot be loaded" if path.exists() else "the file is missing"
    elif answer.score <= 0:
        reason = "this CPU lacks instructions that it uses"
    elif answer.uses_avx512 and not lib.shim_avx512_works():
        reason = "the operating system does not enable AVX-512"
    elif answer.uses_amx and not has_amx():
        reason = "AMX is advertised, but does not work"
    return CpuVariant(name, path, answer.score, reason)
