"""The compiler's word on what was generated: guard and layout, the shim, and the C code that cffi makes of the cdef."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sysconfig
from pathlib import Path
from unittest import mock

from tests.mutations.model import Result

_CPP = ("c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror")
# Any three will do for the check at import, which setup.py names with what it links.
_LINKED = '-DLLAMA_CFFI_LIBRARIES={"a","1"},{"b","2"},{"c","3"}'
_C = ("cc", "-std=gnu11", "-fsyntax-only", "-w", "-Werror=incompatible-pointer-types")


def complaint(result: Result, folders: list[Path], scratch: Path) -> str:
    """What the compiler says against the generated files with these headers; empty for nothing."""
    import build_ffi  # which needs the native build
    from vendor.build import native

    generated = scratch / "package" / "_generated"
    generated.mkdir(parents=True)
    (scratch / "package" / "_shim").symlink_to(build_ffi.SHIM)
    for name, text in (result.files or {}).items():
        (generated / Path(name).name).write_text(text, encoding="utf-8")
    include = [f"-I{folder}" for folder in (generated, build_ffi.SHIM)]
    include += [f"-isystem{folder}" for folder in (*folders, sysconfig.get_path("include"))]  # others' warnings
    sources = [*sorted(generated.glob("*.cpp")), *sorted(build_ffi.SHIM.glob("*.cpp"))]
    # cffi only writes its C code here: the other sources are compiled below, and lie outside the repository.
    with mock.patch.multiple(build_ffi, GENERATED=generated, sources=list):
        try:
            builder = build_ffi.make_ffibuilder(native.plan())
            with contextlib.redirect_stdout(io.StringIO()):  # it says what it writes
                builder.emit_c_code(str(scratch / "_native.c"))
        except Exception as error:  # cffi raises its own, pycparser's and plain ones
            return f"cffi: {type(error).__name__}: {error}"
    return _said([*_CPP, _LINKED, *include, *map(str, sources)]) or _said([*_C, *include, str(scratch / "_native.c")])


def _said(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    return "" if result.returncode == 0 else "\n".join(lines[:5]) or result.stderr
