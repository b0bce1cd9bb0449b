"""A module imports from its own package and from rows of PACKAGES before its own; no imports go round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from benchmarks import structure

ROOT = Path(__file__).resolve().parents[2]

# Low to high. Packages of one row do not import each other.
PACKAGES: Mapping[str, tuple[set[str], ...]] = {
    "llama_cffi": (
        {"_suggest"},
        {"errors", "_host", "_native", "_generated"},
        {"_core"},
        {"_generated.structs", "_generated.constructors"},
        {"ggml", "vocab", "log", "doctor"},
        {"model", "sampling", "system"},
        {"context", "constrain"},
        {"generation", "embedding"},
        {"mtmd"},
        {"chat"},
        {"engine"},
        {"llm", "scoring"},
        {"__init__"},
        {"server"},
        {"cli", "_children", "compat"},
        {"__main__"},
    ),
    "codegen": ({"api"}, {"read"}, {"rules"}, {"emit", "fit", "diff"}, {"generate"}, {"__main__"}),
    "vendor": ({"tools", "progress", "scratch"}, {"source"}, {"vulkan"}, {"build"}, {"upgrade"}),
}


MODULES = {top: structure.modules(ROOT, top) for top in PACKAGES}


def _imports(top: str, path: Path) -> set[str]:
    return structure.imports(MODULES[top], top, path)


def _rank(top: str, module: str) -> int:
    """The row of a module in PACKAGES: its own, else its package's."""
    rows = PACKAGES[top]
    parts = module.removeprefix(f"{top}.").split(".")
    for name in (".".join(parts[:2]), parts[0]):
        for rank, row in enumerate(rows):
            if name in row:
                return rank
    raise AssertionError(f"{module} has no row: give {parts[0]} a place in PACKAGES")


def _package(top: str, module: str) -> str:
    return module.removeprefix(f"{top}.").split(".")[0]


@pytest.mark.parametrize("top", PACKAGES)
def test_imports_go_down(top: str) -> None:
    for module, path in MODULES[top].items():
        if module == f"{top}.__init__" and top != "llama_cffi":
            continue
        for imported in _imports(top, path):
            low, high = _rank(top, imported), _rank(top, module)
            same = low == high and _package(top, imported) == _package(top, module)
            assert low < high or same, f"{module} imports {imported}, which comes before it in no row of PACKAGES"


@pytest.mark.parametrize("top", PACKAGES)
def test_no_imports_go_round_in_a_circle(top: str) -> None:
    graph = {module: _imports(top, path) - {module} for module, path in MODULES[top].items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_only_ffi_imports_the_extension() -> None:
    modules = MODULES["llama_cffi"]
    assert [name for name, path in modules.items() if "llama_cffi._native" in _imports("llama_cffi", path)] == [
        "llama_cffi._core.ffi"
    ]


@pytest.mark.parametrize(
    ("folder", "stranger"), [("codegen", "llama_cffi"), ("vendor", "llama_cffi"), ("llama_cffi", "codegen")]
)
def test_the_generator_and_the_package_do_not_know_each_other(folder: str, stranger: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == stranger], path


def test_emitters_do_not_import_each_other() -> None:
    emitters = {name: path for name, path in MODULES["codegen"].items() if name.startswith("codegen.emit.")}
    assert len(emitters) > 5
    for name, path in emitters.items():
        assert not _imports("codegen", path) & (emitters.keys() | {"codegen.emit"}), name


def test_pycparser_appears_in_one_module() -> None:
    users = [p.name for p in (ROOT / "codegen").rglob("*.py") if "from pycparser" in p.read_text(encoding="utf-8")]
    assert users == ["c_syntax.py"]
