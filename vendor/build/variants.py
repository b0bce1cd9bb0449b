"""Variants of ggml's CPU backend: all of a llama.cpp tree, those that the environment names, those for this machine.

`LLAMA_CFFI_CPU_VARIANTS=x64,haswell` builds only these. `make run` and `make check-upgrade` build the plainest one and
the one that ggml chooses on this CPU.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

from vendor.tools import BuildError, compilers, machine as target

VARIABLE = "LLAMA_CFFI_CPU_VARIANTS"

# ggml's name of an architecture (in its CMakeLists.txt), by os.uname().machine.
_ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "ARM",
    "ppc64le": "PowerPC",
    "s390x": "s390x",
    "riscv64": "riscv64",
}

# The flags of /proc/cpuinfo that the compiler options of each of ggml's features require. A later feature counts more
# than all before it, as in ggml's own choice (cpu-feats.cpp).
_FLAGS = {
    "x86": {
        "FMA": ("fma",),
        "F16C": ("f16c",),
        "SSE42": ("sse4_2",),
        "BMI2": ("bmi2",),
        "AVX": ("avx",),
        "AVX2": ("avx2",),
        "AVX_VNNI": ("avx_vnni",),
        "AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
        "AVX512_VBMI": ("avx512vbmi",),
        "AVX512_BF16": ("avx512_bf16",),
        "AVX512_VNNI": ("avx512_vnni",),
        "AMX_TILE": ("amx_tile",),
        "AMX_INT8": ("amx_int8",),
    },
    "ARM": {
        "DOTPROD": ("asimddp",),
        "FP16_VECTOR_ARITHMETIC": ("fphp", "asimdhp"),
        "SVE": ("sve",),
        "MATMUL_INT8": ("i8mm",),
        "SVE2": ("sve2",),
        "SME": ("sme",),
    },
}

# Features that older compilers do not know, with the option that they refuse. ggml uses SME in KleidiAI's kernels only,
# which this build does not have, so nothing is lost.
_NEW = {"SME": "-march=armv9.2-a+sme"}

# The package does not use a variant with one of these where a trial of it fails.
_TRIED = {"AMX_TILE", "AMX_INT8"}


def available(source: Path, machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """The CPU variants that a llama.cpp tree has for Linux on a machine type (default: the one that is built for), with
    the features that each uses."""
    machine = machine or target()
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


def buildable(source: Path) -> tuple[str, ...]:
    """The CPU variants of a llama.cpp tree that the compiler can build."""
    return tuple(name for name, features in available(source).items() if all(map(_known, features)))


def limited(source: Path) -> tuple[str, ...]:
    """The variants to build where the compiler cannot build all; empty means all."""
    names = buildable(source)
    return names if len(names) < len(available(source)) else ()


@functools.cache
def _known(feature: str) -> bool:
    if feature not in _NEW:
        return True
    command = [*compilers()[0], _NEW[feature], "-E", "-x", "c", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def chosen(source: Path) -> tuple[str, ...]:
    """The variants that the environment names; empty means all. Raises BuildError if one does not exist."""
    names = tuple(dict.fromkeys(name for name in re.split(r"[\s,]+", os.environ.get(VARIABLE, "")) if name))
    there = available(source) if names else {}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise BuildError(
            f"{VARIABLE}={os.environ[VARIABLE]}: this llama.cpp has no CPU variant {unknown[0]!r} for "
            f"{target()}. Choose from {', '.join(there) or 'none'}, or unset the variable to build all."
        )
    return names


def for_this_machine(
    source: Path, flags: frozenset[str] | None = None, machine: str = os.uname().machine
) -> tuple[str, ...]:
    """The plainest variant, which runs everywhere, and the one that ggml chooses on this CPU.

    If that one uses AMX, also the best one without it. Empty, which means all, on anything but x86-64 and ARM: the
    features of other variants are not known.
    """
    known = _FLAGS.get(_ARCHITECTURES.get(machine, ""), {})
    have = _cpu_flags() if flags is None else flags
    there = available(source, machine)
    runs = [name for name, features in there.items() if all(f in known and have.issuperset(known[f]) for f in features)]
    if not known or not runs:
        return ()
    order = list(known)
    best_last = sorted(runs, key=lambda name: sum(1 << order.index(feature) for feature in there[name]))
    without = [name for name in best_last if not _TRIED.intersection(there[name])]
    return tuple(dict.fromkeys((best_last[0], *without[-1:], best_last[-1])))


def _cpu_flags() -> frozenset[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def targets(names: tuple[str, ...]) -> tuple[str, ...]:
    """ninja's targets; empty means all."""
    return ("llama", *(f"ggml-cpu-{name}" for name in names)) if names else ()
