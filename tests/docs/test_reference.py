"""The API reference: it builds without warnings and contains every public name and every C function."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

import llama_cffi
from codegen.fit import complete

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("site")
    for folder in ("docs", "codegen", "llama_cffi"):  # the build writes pages beside their sources
        (top / folder).symlink_to(ROOT / folder)
    (top / "docs").unlink()
    shutil.copytree(ROOT / "docs", top / "docs", ignore=shutil.ignore_patterns("_build"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    result = subprocess.run(
        [*command, str(top / "docs"), str(top / "html")], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return top / "html"


@pytest.fixture(scope="module")
def names(site: Path) -> dict[str, set[str]]:
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    return {kind: set(entries) for kind, entries in inventory.items()}


def test_every_c_function_is_there(names: dict[str, set[str]]) -> None:
    assert {f.name for f in complete.load().functions} <= names["c:function"]


def test_every_public_name_is_there(names: dict[str, set[str]]) -> None:
    documented = set().union(*(entries for kind, entries in names.items() if kind.startswith("py:")))
    expected = {f"llama_cffi.{name}" for name in llama_cffi.__all__} - {
        f"llama_cffi.{x}" for x in ("Ggml", "ffi", "lib")
    }
    for name in llama_cffi.__all__:
        cls = getattr(llama_cffi, name)
        if inspect.isclass(cls) and not issubclass(cls, Exception):
            inherited = {*dir(int), *(dir(str) if issubclass(cls, str) else ())}
            members = [m for m in dir(cls) if not m.startswith("_") and m not in inherited]
            expected |= {f"llama_cffi.{name}.{m}" for m in members if not inspect.isclass(getattr(cls, m))}
    assert sorted(expected - documented) == []


def test_the_pages_are_searchable(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "getlogitsith" in index.lower() and "llama_get_logits_ith" in index


def test_a_c_function_leads_to_its_python_name_and_back(site: Path) -> None:
    c_page = (site / "c_names.html").read_text(encoding="utf-8")
    assert re.search(r'href="reference.html#llama_cffi.Context.decode"', c_page)
    reference = (site / "reference.html").read_text(encoding="utf-8")
    assert re.search(r'href="c_names.html#c.llama_decode"', reference)


def test_every_mapped_name_exists() -> None:
    """`Maps to` names something of this header, or of an older one that the specification was written for."""
    api = complete.load()
    known = {f.name for f in api.functions} | {c.name for c in api.constants} | {t.name for t in api.typedefs}
    known |= {r.tag or r.alias for r in api.records} | {e.tag or e.alias for e in api.enums}
    known |= {f.name for r in api.records for f in r.fields or ()} | {"llama_vocab", "llama_memory"}
    known |= {"llama_set_adapter_lora", "llama_rm_adapter_lora", "llama_clear_adapter_lora"}
    unknown = []
    for path in sorted((ROOT / "llama_cffi").rglob("*.py")):
        for line in re.findall(r"Maps to [^\n]*", path.read_text(encoding="utf-8")):
            unknown += [f"{path.name}: {name}" for name in re.findall(r"`(\w+)`", line) if name not in known]
    assert not unknown
