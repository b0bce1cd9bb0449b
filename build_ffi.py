"""Builds `llama_cffi._native`: cffi in API mode over llama.cpp's libraries, with the guard in between.

Reads the committed cdef and guard; never parses a header. `setup.py` finds `ffibuilder` here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # setuptools runs this file by its path

from vendor.build import native  # noqa: E402
from vendor.build.libraries import Libraries  # noqa: E402

PACKAGE = ROOT / "llama_cffi"
GENERATED = PACKAGE / "_generated"
SHIM = PACKAGE / "_shim"

# Everything beside llama.cpp's headers that the extension is compiled from.
SOURCES = [GENERATED / "guard.cpp", GENERATED / "layout.cpp", *sorted(SHIM.glob("*.cpp"))]
INPUTS = [
    *SOURCES,
    GENERATED / "cdef.h",
    GENERATED / "guard.h",
    GENERATED / "pin.py",
    *sorted(SHIM.glob("*.h*")),
    ROOT / "build_ffi.py",
]


def _shim_cdef() -> str:
    text = (SHIM / "shim.h").read_text(encoding="utf-8")
    return text.split("/* CDEF begin */")[1].split("/* CDEF end */")[0]


def generated_pin() -> str:
    """The pin that the committed cdef and guard were generated from."""
    match = re.search(r'^PIN = "(.*)"$', (GENERATED / "pin.py").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise RuntimeError("llama_cffi/_generated/pin.py holds no PIN: run `make generate`")
    return match[1]


def _preamble() -> str:
    return (
        # A struct that differs from the cdef must stop the build, with older compilers too.
        '#pragma GCC diagnostic error "-Wincompatible-pointer-types"\n'
        '#include "guard.h"\n#include "shim.h"\n#include "raise.h"\n'
        f'#define LLAMA_CFFI_PIN "{generated_pin()}"\n'
    )


def make_ffibuilder(plan: Libraries) -> cffi.FFI:
    """The builder for one native build."""
    builder = cffi.FFI()
    builder.cdef((GENERATED / "cdef.h").read_text(encoding="utf-8"))
    builder.cdef((SHIM / "callbacks.h").read_text(encoding="utf-8"))
    builder.cdef(_shim_cdef() + "\nstatic char *const LLAMA_CFFI_PIN;\n")
    builder.set_source(
        "llama_cffi._native",
        _preamble(),
        sources=[str(path.relative_to(ROOT)) for path in SOURCES],
        include_dirs=[str(path) for path in (*plan.headers, GENERATED, SHIM)],
        library_dirs=[str(plan.lib)],
        libraries=[f":{name}" for name in plan.linked],  # the linker's way to name a file
        language="c++",  # the linker's language; the generated part is C
        extra_compile_args=[*(plan.flags or ("-O2", "-g0")), "-fvisibility=hidden"],
        # DT_RPATH, not DT_RUNPATH: LD_LIBRARY_PATH must not slip another llama.cpp under the extension.
        extra_link_args=[
            *("-Wl,-rpath,$ORIGIN/lib", "-Wl,--disable-new-dtags", "-Wl,-z,now", "-Wl,--no-as-needed"),
            *(plan.flags or ("-Wl,-s",)),
        ],
        define_macros=[("Py_LIMITED_API", "0x030A0000")],
        py_limited_api=True,
    )
    return builder


ffibuilder = make_ffibuilder(native.plan())
