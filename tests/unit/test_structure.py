"""The script that measures the structure: chains, circles, and the table of imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import structure

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path, **sources: str) -> None:
    for name, source in sources.items():
        path = root / "llama_cffi" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


def test_a_chain_and_a_circle(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="from llama_cffi import b\nimport os",
        b="from llama_cffi.low.c import thing",
        low__c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llama_cffi.low.d import D",
        low__d="from llama_cffi.low import c, e\n",
        low__e="pass\n" * 7,
        _generated__long="pass\n" * 99,
    )
    found = structure.measure(tmp_path, "llama_cffi")
    assert found.circles == [["llama_cffi.low.c", "llama_cffi.low.d"]] and found.unit_circles == []
    assert found.chain == ["llama_cffi.a", "llama_cffi.b", "llama_cffi.low.c", "llama_cffi.low.e"]
    assert found.unit_chain == ["a", "b", "low"]
    assert found.folders == {"llama_cffi": 2, "llama_cffi/_generated": 1, "llama_cffi/low": 3}
    assert found.longest == (7, "llama_cffi.low.e") and found.rows is None
    assert "circles of modules      1" in structure.text(found)


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("LAYERS = ({'a'}, {'b'}, {'c'})", {"llama_cffi": 3}),
        ("PACKAGES: dict = {'llama_cffi': ({'a'}, {'b'}), 'vendor': ({'a'},)}", {"llama_cffi": 2, "vendor": 1}),
    ],
)
def test_rows_of_the_table_of_both_kinds(source: str, rows: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "tests" / "contract" / "test_imports.py"
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    assert structure.table_rows(tmp_path) == rows


@pytest.mark.parametrize("top", structure.TOPS)
def test_the_house_stays_in_order(top: str) -> None:
    found = structure.measure(ROOT, top)
    assert found.circles == [] and found.unit_circles == []
    assert found.longest[0] <= 400, found.longest
    assert found.rows is not None and found.rows <= 20
    assert len(found.chain) > 3


# Where threads, locks and C objects are: an exception that is raised while Python closes a generator is lost.
_INTERRUPTIBLE = ("chat", "context", "embedding", "engine", "generation", "llm", "sampling", "scoring")


@pytest.mark.parametrize("package", _INTERRUPTIBLE)
def test_generators_are_not_left_before_their_end(package: str) -> None:
    """See `_core/ownership.py`. What is rendered by jinja2 is interrupted between its own steps anyway."""
    found = []
    for path in sorted((ROOT / "llama_cffi" / package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="any" | "all"), args=[ast.GeneratorExp()]):
                    found.append(f"{path.name}:{node.lineno}")
    assert [place for place in found if not place.startswith("jinja")] == []
