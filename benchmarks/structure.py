"""Measures how the source is arranged: `python -m benchmarks.structure [--root DIR]`.

For each top package: its modules and folders, the longest chain of imports, circles of imports, the longest module that
was written by hand, and the rows of the import table in the tests. Imports for type checkers count like any other.
`--root` takes another checkout of this project, so that two commits can be compared.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("llama_cffi", "codegen", "vendor")
_TABLES = ("tests/unit/test_imports.py", "tests/contract/test_imports.py")
_GENERATED = "_generated"

Graph = Mapping[str, set[str]]


def modules(root: Path, top: str) -> dict[str, Path]:
    """The modules of a top package by their dotted name; the package itself is `top.__init__`."""
    named = {}
    for path in sorted((root / top).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return named


def imports(known: Mapping[str, Path], top: str, path: Path) -> set[str]:
    """The modules of `top` that a module imports, when it runs or for its types alone."""
    found: set[str] = set()
    for node in _statements(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == top:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = named & known.keys()
            found |= inside | ({node.module or ""} if named - inside else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == top}
    return {f"{top}.__init__" if name == top else name for name in found}


@cache
def _statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))


def import_graph(root: Path, top: str) -> dict[str, set[str]]:
    """The modules of `top`, each with the others of them that it imports."""
    known = modules(root, top)
    return {name: (imports(known, top, path) & known.keys()) - {name} for name, path in known.items()}


def by_unit(graph: Graph) -> dict[str, set[str]]:
    """The same between what lies directly in the top package: folders and single modules.

    Generated modules, which lie in one folder whatever they import, count one by one.
    """
    units: dict[str, set[str]] = {}
    for name, imported in graph.items():
        units.setdefault(_unit(name), set()).update(_unit(other) for other in imported)
    return {unit: others - {unit} for unit, others in units.items()}


def _unit(module: str) -> str:
    parts = module.split(".")[1:]
    return ".".join(parts if parts[0] == _GENERATED else parts[:1])


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {tuple(sorted({b for b in reached[a] if a in reached[b]} | {a})) for a in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    pending = list(graph[start])
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += graph[name]
    return found


def longest_chain(graph: Graph) -> list[str]:
    """The longest way down through imports, from the top; of a circle it counts one module."""
    home = {name: group[0] for group in circles(graph) for name in group}
    merged: dict[str, set[str]] = {home.get(name, name): set() for name in graph}
    for name, imported in graph.items():
        merged[home.get(name, name)] |= {home.get(other, other) for other in imported}
    chains: dict[str, list[str]] = {}

    def below(name: str) -> list[str]:
        if name not in chains:
            others = [below(other) for other in sorted(merged[name] - {name})]
            chains[name] = [name, *max(others, key=len, default=[])]
        return chains[name]

    return max((below(name) for name in sorted(merged)), key=len, default=[])


def table_rows(root: Path) -> dict[str, int]:
    """The rows of the import table in the tests, by top package: PACKAGES; in older commits LAYERS, of one package."""
    path = next((root / name for name in _TABLES if (root / name).is_file()), None)
    if path is None:
        return {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        name = target.id if isinstance(target, ast.Name) else ""
        if name == "LAYERS" and isinstance(value, ast.Tuple):
            return {TOPS[0]: len(value.elts)}
        if name == "PACKAGES" and isinstance(value, ast.Dict):
            pairs = zip(value.keys, value.values, strict=True)
            return {ast.literal_eval(key): len(rows.elts) for key, rows in pairs if key and isinstance(rows, ast.Tuple)}
    return {}


class Structure(NamedTuple):
    """The figures of one top package."""

    top: str
    folders: dict[str, int]  # how many modules are in each
    chain: list[str]
    unit_chain: list[str]
    circles: list[list[str]]
    unit_circles: list[list[str]]
    longest: tuple[int, str]  # lines and name of the longest hand-written module
    rows: int | None


def measure(root: Path, top: str) -> Structure:
    """The figures of one top package of a checkout."""
    known, graph = modules(root, top), import_graph(root, top)
    folders = Counter(path.parent.relative_to(root).as_posix() for path in known.values() if _lines(path))
    by_hand = {name: path for name, path in known.items() if _GENERATED not in name.split(".")}
    return Structure(
        top,
        dict(sorted(folders.items())),
        longest_chain(graph),
        longest_chain(by_unit(graph)),
        circles(graph),
        circles(by_unit(graph)),
        max(((_lines(path), name) for name, path in by_hand.items()), default=(0, "")),
        table_rows(root).get(top),
    )


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _group(circle: Iterable[str]) -> str:
    return ", ".join(circle)


def text(found: Structure) -> str:
    """The figures for people."""
    most = max(found.folders, key=lambda folder: found.folders[folder])
    lines = [
        found.top,
        f"  modules                 {sum(found.folders.values())} in {len(found.folders)} folders, "
        f"at most {found.folders[most]} in one ({most})",
        *(f"    {count:3}  {folder}" for folder, count in found.folders.items()),
        f"  longest import chain    {len(found.chain)} modules",
        f"    of boxes              {len(found.unit_chain)} (folder or module): {' > '.join(found.unit_chain)}",
        f"  circles of modules      {len(found.circles)}",
        *(f"    {len(circle):3}  {_group(circle)}" for circle in found.circles),
        f"  circles of boxes        {len(found.unit_circles)}",
        *(f"    {len(circle):3}  {_group(circle)}" for circle in found.unit_circles),
        f"  longest module          {found.longest[0]} lines ({found.longest[1]})",
        f"  rows of import table    {found.rows if found.rows is not None else 'none'}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout of this project (default: this one)")
    root = parser.parse_args().root.resolve()
    print("\n\n".join(text(measure(root, top)) for top in TOPS if (root / top).is_dir()))


if __name__ == "__main__":
    main()
