"""ARCHITECTURE.md names files, functions and rows that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.unit.test_imports import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:llama_cffi|codegen|vendor|tests)/[\w./-]*)(?::([\w.]+))?`", TEXT)))
GENERATED_BY_THE_BUILD = {"llama_cffi/lib", "llama_cffi/_native.abi3.so"}


def _members(node: ast.AST, name: str) -> list[ast.AST]:
    """The definitions of a name directly inside of a module or a class."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, kinds) and child.name == name]


def test_enough_is_named() -> None:
    assert len(NAMED) > 60 and sum(bool(name) for _, name in NAMED) > 15


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[":".join(filter(None, pair)) for pair in NAMED])
def test_what_it_names_is_there(path: str, name: str) -> None:
    if path.rstrip("/") not in GENERATED_BY_THE_BUILD:
        assert (ROOT / path).exists(), path
    if name:
        found: list[ast.AST] = [ast.parse((ROOT / path).read_text(encoding="utf-8"))]
        for part in name.split("."):
            found = [member for node in found for member in _members(node, part)]
        assert found, f"{path} does not define {name}"


def test_its_table_of_packages_is_the_one_that_imports_are_held_to() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", TEXT, re.MULTILINE)
    listed = [set(re.findall(r"`([\w.]+)`", cells.split(", whose")[0])) for _, cells in rows]
    assert listed == [row - {"_native"} for row in PACKAGES["llama_cffi"]]
