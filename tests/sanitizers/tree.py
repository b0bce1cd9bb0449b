"""A copy of the checkout with an instrumented build in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from vendor.build.recipe import SANITIZED, SANITIZERS
from vendor.source import fetch
from vendor.tools import compilers

ROOT = Path(__file__).resolve().parents[2]

_FOLDERS = ("llama_cffi", "codegen", "vendor", "tests", "examples")
_FILES = ("setup.py", "build_ffi.py", "pyproject.toml", "README.md", "LICENSE")
_IGNORED = shutil.ignore_patterns("lib", "*.so", "*.c", "__pycache__")


def make(name: str) -> Path:
    """Copy what is there now, and build it for the sanitizer of that name; the cache has what was built before."""
    tree = ROOT / "build" / f"sanitize-{name}"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in _FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=_IGNORED)
    for file in _FILES:
        shutil.copy2(ROOT / file, tree / file)
    environment = {**os.environ, "LLAMA_CFFI_SANITIZE": name}
    for command in (["-m", "vendor.build.native"], ["setup.py", "--quiet", "build_ext", "--inplace"]):
        result = subprocess.run(
            [sys.executable, *command], cwd=tree, env=environment, stdout=subprocess.PIPE, text=True
        )
        if result.returncode != 0:
            raise SystemExit(f"error: the instrumented build failed:\n{result.stdout}")
    return tree


def compile_program(tree: Path, sanitizer: str, name: str) -> Path:
    """Compile `programs/<name>.cpp` with `_shim/<name>.cpp`, but without OpenMP's runtime. Returns the program."""
    source, shim = fetch.source_dir(), tree / "llama_cffi" / "_shim"
    folders = (source / "include", source / "ggml" / "include", shim, tree / "llama_cffi" / "_generated")
    common = [
        *compilers()[1],
        "-std=c++17",
        *SANITIZED,
        *SANITIZERS[sanitizer].flags,
        *(f"-I{path}" for path in folders),
    ]
    part, program = tree / f"{name}.o", tree / f"program-{name}"
    subprocess.run([*common, "-fopenmp", "-c", shim / f"{name}.cpp", "-o", part], check=True)
    own = tree / "tests" / "sanitizers" / "programs" / f"{name}.cpp"
    subprocess.run([*common, own, part, "-o", program, "-pthread"], check=True)
    return program
