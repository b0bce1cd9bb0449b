"""Variants of the CPU backend, one for each instruction set, and the choice of the best one for this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from llama_cffi._core import manifest as _manifest
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.errors import UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from llama_cffi.ggml.facts import CpuVariant

    V = TypeVar("V", "Candidate", CpuVariant)

LINKED = "linked"  # the name of a CPU backend that is part of libggml


class Candidate:
    """A variant, as `CpuVariant` tells it; `file` is its path."""

    __slots__ = ("file", "name", "reason", "score")

    def __init__(self, name: str, file: str, score: int, reason: str) -> None:
        self.name, self.file, self.score, self.reason = name, file, score, reason


def amx_works() -> bool:
    """Return True if a product of small matrices on AMX works, in a child process. LLAMA_CFFI_AMX=0 disables AMX."""
    return os.environ.get("LLAMA_CFFI_AMX") != "0" and bool(lib.shim_amx_works())


def candidates() -> list[Candidate]:
    """Return all variants, best first. Raises UnavailableError if the build manifest is missing."""
    manifest = _manifest.read()
    paths = manifest.modules.get("cpu", ())
    if "cpu" in manifest.modules and not paths:
        return [Candidate(LINKED, library_of(manifest), 1, "")]
    amx: list[bool] = []

    def has_amx() -> bool:
        if not amx:  # once, and only if a variant uses AMX
            amx.append(amx_works())
        return amx[0]

    found = [_ask(path, has_amx) for path in sorted(paths)]
    return sorted(found, key=lambda variant: (-variant.score, variant.name))


def library_of(manifest: _manifest.Manifest) -> str:
    """The library to look up functions of a linked backend in: libllama, which depends on all the others."""
    found = (path for path in manifest.linked if os.path.basename(path).startswith("libllama"))
    return next(found, _manifest.FOLDER)


def choose(variants: Sequence[V], wanted: str | None) -> V:
    """Return the variant called `wanted`, or the first one that runs. Raises UnavailableError."""
    if not variants:
        raise UnavailableError(
            f"{_manifest.FOLDER} does not contain a CPU backend: run `make build` in the source tree, or reinstall the "
            "package"
        )
    if wanted:
        for variant in variants:
            if variant.name == wanted:
                if variant.reason:
                    raise UnavailableError(f"LLAMA_CFFI_CPU_VARIANT={wanted} does not run here: {variant.reason}")
                return variant
        names = ", ".join(variant.name for variant in variants)
        raise UnavailableError(f"LLAMA_CFFI_CPU_VARIANT must be one of {names}, got {wanted}")
    for variant in variants:
        if not variant.reason:
            return variant
    reasons = "; ".join(f"{variant.name}: {variant.reason}" for variant in variants)
    raise UnavailableError(f"no variant of the CPU backend runs on this machine: {reasons}")


def _ask(path: str, has_amx: Callable[[], bool]) -> Candidate:
    answer = ffi.new("struct shim_variant *")
    lib.shim_variant_ask(os.fsencode(path), answer)
    reason = ""
    if not answer.loadable:
        reason = "the file cannot be loaded" if os.path.exists(path) else "the file is missing"
    elif answer.score <= 0:
        reason = "this CPU lacks instructions that the variant uses"
    elif answer.uses_avx512 and not lib.shim_avx512_works():
        reason = "the operating system does not enable AVX-512"
    elif answer.uses_amx and not has_amx():
        reason = "the CPU advertises AMX, but it does not work"
    return Candidate(_name_of(path), path, answer.score, reason)


def _name_of(path: str) -> str:
    """The name in a file name: `zen4` in `libggml-cpu-zen4-cffi.so`, `default` in `libggml-cpu.so.0`."""
    stem, _, _ = os.path.basename(path).removeprefix("libggml-cpu").rpartition(".so")
    return stem.removesuffix("-cffi").removeprefix("-") or "default"
