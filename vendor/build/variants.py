"""Quick builds: `LLAMA_CFFI_CPU_VARIANTS=x64,haswell` builds only these variants of ggml's CPU backend.

`make check-upgrade` builds two: the one that runs everywhere, and the one with the most features that this CPU has. See
`quick_variants.py`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vendor.tools import BuildError

VARIABLE = "LLAMA_CFFI_CPU_VARIANTS"

# ggml's name of an architecture (in its CMakeLists.txt), by os.uname().machine.
_ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "ARM",
    "ppc64le": "PowerPC",
    "s390x": "s390x",
    "riscv64": "riscv64",
}

# The flags of /proc/cpuinfo that the compiler options of each of ggml's features require.
_FLAGS = {
    "SSE42": ("sse4_2",),
    "AVX": ("avx",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "AVX2": ("avx2",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AVX_VNNI": ("avx_vnni",),
    "AMX_TILE": ("amx_tile",),
    "AMX_INT8": ("amx_int8",),
}


def available(source: Path, machine: str = os.uname().machine) -> dict[str, tuple[str, ...]]:
    """The CPU variants that a llama.cpp tree has for Linux on this machine type, with the features that each uses."""
    text = (source / "ggml" / "src" / "CMakeLists.txt").read_text(encoding="utf-8")
    found: dict[str, tuple[str, ...]] = {}
    architecture = system = ""
    for line in text.splitlines():
        if where := re.search(r'GGML_SYSTEM_ARCH STREQUAL "(\w+)"', line):
            architecture, system = where[1], "Linux"
        elif where := re.search(r'CMAKE_SYSTEM_NAME MATCHES "(\w+)"', line):
            system = where[1]
        elif (row := re.search(r"^\s*ggml_add_cpu_backend_variant\(([\w.]+)([^)]*)\)", line)) and system == "Linux":
            if architecture == _ARCHITECTURES.get(machine):
                found[row[1]] = tuple(row[2].split())
    return found


def chosen(source: Path) -> tuple[str, ...]:
    """The variants that the environment names; empty means all. Raises BuildError if one does not exist."""
    names = tuple(dict.fromkeys(name for name in re.split(r"[\s,]+", os.environ.get(VARIABLE, "")) if name))
    there = available(source) if names else {}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise BuildError(
            f"{VARIABLE}={os.environ[VARIABLE]}: this llama.cpp has no CPU variant {unknown[0]!r} for "
            f"{os.uname().machine}. Choose from {', '.join(there) or 'none'}, or unset the variable to build all."
        )
    return names


def for_this_machine(source: Path, flags: frozenset[str] | None = None) -> tuple[str, ...]:
    """The variant that runs everywhere, and the one with the most features that runs on this CPU.

    Empty, which means all, on anything but x86-64: the features of other variants are not known.
    """
    have = _cpu_flags() if flags is None else flags
    runs = {name: features for name, features in available(source, "x86_64").items() if _runs(features, have)}
    if os.uname().machine != "x86_64" or not runs:
        return ()
    by_features = sorted(runs, key=lambda name: len(runs[name]))
    return tuple(dict.fromkeys((by_features[0], by_features[-1])))


def _runs(features: tuple[str, ...], flags: frozenset[str]) -> bool:
    return all(feature in _FLAGS and flags.issuperset(_FLAGS[feature]) for feature in features)


def _cpu_flags() -> frozenset[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def options(names: tuple[str, ...], folder: str) -> dict[str, str]:
    """CMake's options for a quick build; `folder` holds variants.cmake."""
    if not names:
        return {}
    return {VARIABLE: ";".join(names), "CMAKE_PROJECT_INCLUDE": f"{folder}/variants.cmake"}


def targets(names: tuple[str, ...]) -> tuple[str, ...]:
    """ninja's targets; empty means all."""
    return ("llama", *(f"ggml-cpu-{name}" for name in names)) if names else ()
