"""Define the extension `llama_cffi._native`: cffi in API mode over llama.cpp's libraries, with the guard in between.

Reads the committed cdef and guard, and never parses a header. cffi calls `ffibuilder`, which setup.py names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import cffi

from vendor.build.libraries import Libraries

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "llama_cffi"
GENERATED = PACKAGE / "_generated"
SHIM = PACKAGE / "_shim"


def ffibuilder() -> cffi.FFI:
    """The builder for the native build that this process has planned."""
    from vendor.build import commands  # which imports this module

    return make_ffibuilder(commands.plan())


def sources() -> list[Path]:
    """The C++ files that the extension is compiled from, beside what cffi generates."""
    return [GENERATED / "guard.cpp", GENERATED / "layout.cpp", *sorted(SHIM.glob("*.cpp"))]


def inputs() -> list[Path]:
    """Every file that the extension depends on, except llama.cpp's headers."""
    generated = [GENERATED / name for name in ("cdef.h", "guard.h", "pin.py")]
    chat = ROOT / "vendor" / "build" / "chat" / "chat_api.h"
    return [*sources(), *generated, *sorted(SHIM.glob("*.h*")), chat, ROOT / "build_ffi.py"]


def make_ffibuilder(plan: Libraries) -> cffi.FFI:
    """The builder for one native build."""
    openmp = ["-fopenmp"] if (plan.lib / "libgomp.so.1").is_file() else []
    builder = cffi.FFI()
    builder.cdef((GENERATED / "cdef.h").read_text(encoding="utf-8"))
    builder.cdef((SHIM / "callbacks.h").read_text(encoding="utf-8"))
    builder.cdef(_shim_cdef() + "\nstatic char *const LLAMA_CFFI_PIN;\n")
    builder.set_source(
        "llama_cffi._native",
        _preamble(),
        sources=[os.path.relpath(path, ROOT) for path in sources()],
        include_dirs=[str(path) for path in (*plan.headers, GENERATED, SHIM)],
        library_dirs=[str(plan.lib)],
        libraries=[f":{name}" for name in plan.linked],  # the linker's notation for a file name
        language="c++",  # for the linker; what cffi generates is C
        extra_compile_args=[*(plan.flags or ("-O2", "-g0")), *openmp, "-fvisibility=hidden"],
        # DT_RPATH, not DT_RUNPATH: LD_LIBRARY_PATH must not make the extension load another llama.cpp.
        extra_link_args=[
            *("-Wl,-rpath,$ORIGIN/lib", "-Wl,--disable-new-dtags", "-Wl,-z,now", "-Wl,--no-as-needed"),
            *(plan.flags or ("-Wl,-s",)),
            *openmp,
        ],
        define_macros=[("Py_LIMITED_API", "0x030A0000")],
        py_limited_api=True,
    )
    return builder


def generated_pin() -> str:
    """The pin that the committed cdef and guard were generated from."""
    match = re.search(r'^PIN = "(.*)"$', (GENERATED / "pin.py").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise RuntimeError("llama_cffi/_generated/pin.py does not define PIN: run `make generate`")
    return match[1]


def _shim_cdef() -> str:
    text = (SHIM / "shim.h").read_text(encoding="utf-8")
    return text.split("/* CDEF begin */")[1].split("/* CDEF end */")[0]


def _preamble() -> str:
    return (
        # A struct that differs from the cdef must stop the build, with older compilers too.
        '#pragma GCC diagnostic error "-Wincompatible-pointer-types"\n'
        '#include "guard.h"\n#include "shim.h"\n#include "raise.h"\n'
        f'#define LLAMA_CFFI_PIN "{generated_pin()}"\n'
    )
