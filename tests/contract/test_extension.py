"""The compiled extension against the generated Python: every name, every value, every layout."""

from __future__ import annotations

import ast
import enum
from pathlib import Path

import pytest

import llama_cffi
from codegen.fit import complete
from codegen.rules import naming, policy
from llama_cffi._generated import enums, layout
from llama_cffi._generated.pin import PIN
from vendor.source import pin

API = complete.load()
STUB = Path(llama_cffi.__file__).with_name("_native.pyi")


def test_every_bound_function_is_callable() -> None:
    missing = [name for name in layout.FUNCTIONS if not callable(getattr(llama_cffi.lib, name, None))]
    assert not missing
    assert len(layout.FUNCTIONS) == sum(policy.left_out(f) is None for f in API.functions)


def test_functions_left_out_are_not_there() -> None:
    out = [f.name for f in API.functions if policy.left_out(f)]
    assert out
    assert not [name for name in out if hasattr(llama_cffi.lib, name)]


def test_every_constant_has_the_compilers_value() -> None:
    for name, value in layout.CONSTANTS.items():
        found = getattr(llama_cffi.lib, name)
        assert (llama_cffi.ffi.string(found).decode() if isinstance(value, str) else found) == value, name


def test_every_enumerator_has_the_compilers_value() -> None:
    assert layout.ENUMERATORS == {name: getattr(llama_cffi.lib, name) for name in layout.ENUMERATORS}


@pytest.mark.parametrize("c_enum", API.enums, ids=lambda e: e.tag or e.alias)
def test_every_int_enum_equals_the_extension(c_enum: object) -> None:
    cls = getattr(enums, naming.class_name(c_enum.tag or c_enum.alias))  # type: ignore[attr-defined]
    assert issubclass(cls, enum.IntEnum)
    members = naming.member_names(c_enum)  # type: ignore[arg-type]
    assert {name: cls[short].value for name, short in members.items()} == {
        name: getattr(llama_cffi.lib, name) for name in members
    }
    assert set(cls.__members__) == set(members.values())


@pytest.mark.parametrize("spelling", sorted(layout.RECORDS))
def test_every_struct_has_the_compilers_layout(spelling: str) -> None:
    size, offsets = layout.RECORDS[spelling]
    assert llama_cffi.ffi.sizeof(spelling) == size
    assert {name: llama_cffi.ffi.offsetof(spelling, name) for name in offsets} == offsets


def test_the_stub_names_exactly_what_the_extension_has() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    lib = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Lib")
    named = {node.name for node in lib.body if isinstance(node, ast.FunctionDef)}
    named |= {
        node.target.id for node in lib.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert named == {name for name in dir(llama_cffi.lib) if not name.startswith("__")}


def test_the_stub_has_the_headers_comments() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    lib = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Lib")
    docs = {node.name: ast.get_docstring(node) or "" for node in lib.body if isinstance(node, ast.FunctionDef)}
    assert "could not find a KV slot" in docs["llama_decode"]
    assert all("`" in docs[name] for name in layout.FUNCTIONS)


def test_one_pin_everywhere() -> None:
    assert pin.load().label == PIN == API.pin == llama_cffi.ffi.string(llama_cffi.lib.LLAMA_CFFI_PIN).decode()


def test_the_libraries_are_those_of_the_package() -> None:
    maps = Path("/proc/self/maps").read_text()
    loaded = {Path(line.split()[-1]) for line in maps.splitlines() if "-cffi.so" in line}
    folder = Path(llama_cffi.__file__).resolve().parent / "lib"
    assert {path.name for path in loaded} >= {"libllama-cffi.so", "libggml-cffi.so", "libggml-base-cffi.so"}
    assert {path.resolve().parent for path in loaded} == {folder}
