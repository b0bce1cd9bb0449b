"""Fixtures for the tests of the generator: reading headers, and compiling what was generated from them.

Nothing here needs the native build. Some fixtures need a C compiler, cffi, or the pinned source.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from codegen.api.model import Api
from codegen.emit import cdef
from codegen.read import exports, headers, parse, probe
from vendor.build import native
from vendor.source import pin

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Extension(NamedTuple):
    """A header as the generator sees it, and as the extension does that was compiled from its cdef."""

    api: Api
    ffi: Any
    lib: Any


def read_headers(folder: Path, names: Sequence[str]) -> Api:
    """The API of headers in `folder`, as if one library exported every function."""
    api = probe.measure(parse.parse(headers.preprocess([folder], names), "test", names), [folder])
    return replace(api, functions=tuple(replace(f, home="sample") for f in api.functions))


def make_extension(api: Api, header: str, include: Path, folder: Path, link: Sequence[str]) -> Extension:
    """Compile the cdef of `api` as cffi does, but with one compiler call and no build system."""
    import cffi  # local: most tests do not compile

    builder = cffi.FFI()
    builder.cdef(cdef.emit(api))
    builder.set_source("_sample", f'#include "{header}"')
    generated, module = folder / "_sample.c", folder / f"_sample{sysconfig.get_config_var('EXT_SUFFIX')}"
    builder.emit_c_code(str(generated))
    python = f"-I{sysconfig.get_path('include')}"
    run_tool(["cc", "-w", "-shared", "-fPIC", python, f"-I{include}", str(generated), *link, "-o", str(module)])
    compiled = load_module(module, "_sample")
    return Extension(api, compiled.ffi, compiled.lib)


def load_module(path: Path, name: str) -> ModuleType:
    """Import one file by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tool(command: Sequence[str]) -> str:
    """Run a program that must succeed; returns what it printed."""
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def run() -> Callable[[Sequence[str]], str]:
    return run_tool


@pytest.fixture(scope="session")
def shim() -> Path:
    """The folder of the hand-written part of the guard."""
    return ROOT / "llama_cffi" / "_shim"


# Small headers


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Api]:
    """Writes `text` as sample.h, further headers by keyword (`other="..."` is other.h), and reads them all."""

    def write_and_read(text: str, **others: str) -> Api:
        for name, content in {"sample": text, **others}.items():
            (tmp_path / f"{name}.h").write_text(content, encoding="utf-8")
        return read_headers(tmp_path, ["sample.h", *(f"{name}.h" for name in others)])

    return write_and_read


@pytest.fixture
def build(tmp_path: Path, read: Callable[..., Api]) -> Callable[[str, str], Extension]:
    """Reads a header as `read` does, and compiles its cdef with C definitions into a module."""

    def read_and_compile(text: str, definitions: str) -> Extension:
        api = read(text)
        source = tmp_path / "sample.c"
        source.write_text(f'#include "sample.h"\n{definitions}\n', encoding="utf-8")
        return make_extension(api, "sample.h", tmp_path, tmp_path, [str(source)])

    return read_and_compile


# everything.h


@pytest.fixture(scope="session")
def _everything(tmp_path_factory: pytest.TempPathFactory) -> Extension:
    folder = tmp_path_factory.mktemp("everything")
    source, library = HERE / "everything", folder / "libsample.so"
    run_tool(["cc", "-w", "-shared", "-fPIC", str(source / "everything.c"), "-o", str(library)])
    api = exports.assign_homes(read_headers(source, ["everything.h"]), {"sample": library})
    return make_extension(api, "everything.h", source, folder, [str(library), f"-Wl,-rpath,{folder}"])


@pytest.fixture(scope="session")
def everything() -> Path:
    """The folder of everything.h."""
    return HERE / "everything"


@pytest.fixture(scope="session")
def api(_everything: Extension) -> Api:
    """The API of everything.h, with homes from the library that was built from everything.c."""
    return _everything.api


@pytest.fixture(scope="session")
def ffi(_everything: Extension) -> Any:
    """The `ffi` of the extension over everything.h."""
    return _everything.ffi


@pytest.fixture(scope="session")
def lib(_everything: Extension) -> Any:
    """The `lib` of the extension over everything.h."""
    return _everything.lib


# llama.cpp's headers, and what is committed of them


@pytest.fixture(scope="session")
def real_folders() -> list[Path]:
    """Where the pinned public headers are; fetched on first use."""
    return native.plan().headers


@pytest.fixture(scope="session")
def real_headers(real_folders: list[Path]) -> dict[str, Path]:
    """The public headers by name."""
    return headers.find_headers(real_folders)


@pytest.fixture(scope="session")
def real_api(real_folders: list[Path]) -> Api:
    """The pinned headers, read anew. No function has a home: that takes the libraries."""
    return probe.measure(parse.parse(headers.preprocess(real_folders), pin.load().label), real_folders)


@pytest.fixture(scope="session")
def names() -> ModuleType:
    """The committed names.py, imported without the package around it."""
    return load_module(ROOT / "llama_cffi" / "_generated" / "names.py", "generated_names")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what `python -m codegen check` reads."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "lib")
    for name in ("codegen", "llama_cffi"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path
