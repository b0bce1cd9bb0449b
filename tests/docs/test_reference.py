"""The site: it builds without warnings, the reference has every name and a page for each class, the search finds it."""

from __future__ import annotations

import functools
import http.server
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from sphinx.util.inventory import InventoryFile

import llama_cffi
from codegen.fit import complete
from llama_cffi._core import fields
from llama_cffi._generated.pin import PIN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# Bytes. Larger pages take long to load and to read. The index of all names on one page is there beside that by letter.
LARGEST = 180_000

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# The machine that says so has a browser; on others, the search and the layout are not tested.
_REQUIRED = os.environ.get("LLAMA_CFFI_TEST_PAGE") == "1"
_IN_BROWSER = pytest.mark.skipif(
    not _CHROMIUM and not _REQUIRED, reason="needs Chromium (Debian: apt install chromium)"
)

# What people type, and the pages of which one must be among the first three results.
QUERIES = {
    "how many threads": ["howto/threads.html"],
    "LoRA": ["howto/lora.html", "howto/serve.html#lora-adapters"],
    "lora adapter": ["reference/Adapter.html"],
    "save session": ["howto/chat.html#save-and-load-a-session"],
    "openai": ["howto/server.html"],
    "quantize": ["howto/quantize.html", "reference/Model.QuantizeParams.html"],
    "repeat penalty": ["howto/sampling.html", "howto/generate.html#choose-a-sampler"],
    "stop generation": ["howto/generate.html"],
    "json schema": ["howto/constrain.html#json-schema"],
    "gpu layers": ["howto/gpu.html", "reference/Model.Params.html"],
    "embedding": ["howto/embed.html"],
    "function calling": ["howto/chat.html"],
    "context length": ["reference/Context.Params.html"],
    "download model": ["howto/models.html"],
    "flash attention": ["reference/Context.Params.html"],
    "Model.load": ["reference/Model.html#llama_cffi.Model.load"],
    "nGpuLayers": ["reference/Model.Params.html"],
    "llama_decode": ["reference/c/llama-1.html#c.llama_decode"],
    "ContextFullError": ["reference/errors.html#llama_cffi.ContextFullError"],
    "mulMat": ["reference/operations-reductions.html#llama_cffi.Ggml.Context.mulMat"],
    "ggml tensors": ["howto/tensors.html"],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("site")
    for folder in ("codegen", "llama_cffi"):
        (top / folder).symlink_to(ROOT / folder)
    # The build writes pages beside their sources.
    shutil.copytree(ROOT / "docs", top / "docs", ignore=shutil.ignore_patterns("_build", "reference"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    result = subprocess.run(
        [*command, str(top / "docs"), str(top / "html")], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return top / "html"


@pytest.fixture(scope="module")
def names(site: Path) -> dict[str, set[str]]:
    return {kind: set(entries) for kind, entries in _inventory(site).items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _inventory(site: Path) -> Any:
    return InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data


def _pages(site: Path) -> list[str]:
    """The pages but for those of the source, by their paths."""
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if "_modules" not in path.parts)


def _classes() -> Iterator[tuple[str, type]]:
    """The public classes and enumerations by name, but for the errors, which share a page."""
    for owner, public in (("", llama_cffi), ("Ggml.", llama_cffi.Ggml)):
        for name in public.__all__:
            value = getattr(public, name)
            other = name in ("ThreadPool", "Graph")  # other names of Threadpool and CGraph
            if inspect.isclass(value) and value is not int and not issubclass(value, Exception) and not other:
                yield f"{owner}{name}", value


# What is there


def test_every_c_function_is_there(names: dict[str, set[str]]) -> None:
    assert {f.name for f in complete.load().functions} <= names["c:function"]


def test_every_public_name_is_there(names: dict[str, set[str]]) -> None:
    documented = set().union(*(entries for kind, entries in names.items() if kind.startswith("py:")))
    expected = {f"llama_cffi.{name}" for name in llama_cffi.__all__} - {
        f"llama_cffi.{x}" for x in ("Ggml", "Mtmd", "ffi", "lib")
    }
    for name, cls in _classes():
        bases = [base for base in (str, tuple, MutableMapping, Mapping) if issubclass(cls, base)]
        inherited = {*dir(int), *(dir(bases[0]) if bases else ())}
        members = [m for m in dir(cls) if not m.startswith("_") and m not in inherited]
        expected |= {f"llama_cffi.{name}"}
        expected |= {f"llama_cffi.{name}.{m}" for m in members if not inspect.isclass(getattr(cls, m))}
    expected |= {"llama_cffi.Ggml.ThreadPool", "llama_cffi.Ggml.Graph"}
    for params in ("Context.Params", "Model.Params", "Model.QuantizeParams", "Sampler.ChainParams"):
        owner, _, inner = params.partition(".")
        expected |= {f"llama_cffi.{params}.{name}" for name in getattr(getattr(llama_cffi, owner), inner)._fields()}
    assert sorted(expected - documented) == []


def test_each_class_has_a_page_with_its_short_name(site: Path) -> None:
    entries = _inventory(site)["py:class"]
    for name, _ in _classes():
        page, _, anchor = entries[f"llama_cffi.{name}"].uri.partition("#")
        assert anchor.replace("$", f"llama_cffi.{name}") == f"llama_cffi.{name}"
        assert page == f"reference/{name}.html"
        text = (site / page).read_text(encoding="utf-8")
        assert f"<title>{name} - llama_cffi" in text and f"<h1>{name}<" in text


def test_a_class_begins_with_a_table_of_its_members(site: Path) -> None:
    text = (site / "reference" / "Model.html").read_text(encoding="utf-8")
    tables = text[: text.index('id="llama_cffi.Model.load"')]
    rows = dict(re.findall(r'href="#llama_cffi\.Model\.(\w+)".*?</td>\s*<td><p>(.*?)</p>', tables, re.DOTALL))
    assert {"load", "quantize", "metaValStr", "nEmbd", "vocab", "close"} <= set(rows)
    assert rows["load"] == "Load a model from a GGUF file."


def test_fields_have_type_default_and_unit(site: Path) -> None:
    text = (site / "reference" / "Context.Params.html").read_text(encoding="utf-8")
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]
    found = {row[0]: " ".join(row[1:]) for row in rows if row}
    params = llama_cffi.Context.Params
    assert set(params._fields()) <= set(found)
    assert found["nCtx"].startswith(f"int , 0 or more {params().nCtx} tokens")
    assert found["flashAttnType"].startswith("FlashAttnType : AUTO, DISABLED, ENABLED AUTO")
    assert "usable CPUs" in found["nThreads"]  # and not the number of this machine's
    for name in params._fields():
        assert fields.unit(name) in found[name]


def test_members_lead_to_their_source(site: Path) -> None:
    for page, name in (("Model", "Model.nEmbd"), ("Context.Params", "Context.Params"), ("Sampler", "Sampler.initTopK")):
        text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        link = re.search(rf'href="(\.\./_modules/[^"#]*)#{re.escape(name)}"', text)
        assert link, name
        assert f'id="{name}"' in (site / "reference" / link[1]).resolve().read_text(encoding="utf-8")


def test_a_c_function_leads_to_its_python_name_and_back(site: Path) -> None:
    c_page = (site / "reference" / "c" / "llama-1.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./Context.html#llama_cffi.Context.decode"', c_page)
    reference = (site / "reference" / "Context.html").read_text(encoding="utf-8")
    assert re.search(r'href="c/llama-1.html#c.llama_decode"', reference)


def test_guides_lead_to_the_reference(site: Path) -> None:
    text = (site / "howto" / "chat.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./reference/ChatTemplate.html#llama_cffi.ChatTemplate"', text)


def test_the_first_page_has_versions_and_a_card_for_each_guide(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert PIN in text and f"Version {llama_cffi.__version__}" in text
    cards = re.findall(r'<a class="sd-stretched-link[^"]*" href="(howto/[^"]*)"', text)
    listed = re.findall(r"^   (howto/\S+)$", (ROOT / "docs" / "index.rst").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(cards) == {f"{name}.html" for name in listed if name != "howto/first-program"}


def test_no_page_is_huge(site: Path) -> None:
    sizes = {path: (site / path).stat().st_size for path in _pages(site) if path != "genindex-all.html"}
    assert {path: size for path, size in sizes.items() if size > LARGEST} == {}


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


# The search, with Sphinx's own program

# What the page does when it is loaded with a query; loading takes longer than searching.
_SEARCH = """query => {
    history.replaceState(null, "", "?q=" + encodeURIComponent(query));
    document.getElementById("search-results").replaceChildren();
    Search.init();
}"""


def test_results_have_short_names_and_no_parameters(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    objects = {
        f"{prefix}.{entry[4]}".lstrip("."): entry for prefix, found in index["objects"].items() for entry in found
    }
    assert {"Model", "Model.load", "Ggml.Backend", "server.Limits", "llama_decode"} <= set(objects)
    assert [name for name in objects if name.startswith("llama_cffi.")] == []
    assert "llama_decode.ctx" not in objects


@_IN_BROWSER
def test_the_search_finds_what_people_look_for(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}search.html")
    missed = {}
    for query, expected in QUERIES.items():
        page.evaluate(_SEARCH, query)
        expect(page.locator(".search-summary")).to_contain_text("Search finished", timeout=30_000)
        links = page.locator("#search-results ul.search > li > a")
        first = [str(links.nth(i).get_attribute("href")) for i in range(min(3, links.count()))]
        if not any(link == goal or link.startswith(f"{goal}#") for link in first for goal in expected):
            missed[query] = first
    page.close()
    assert missed == {}


@_IN_BROWSER
def test_results_lead_to_places_that_exist(browser: Browser, address: str) -> None:
    page = browser.new_page()
    for query in ("Batch", "Limits", "save session", "llama_decode"):
        page.goto(f"{address}search.html?q={query.replace(' ', '+')}")
        page.locator("#search-results ul.search > li > a").first.click()
        page.wait_for_load_state()
        anchor = page.evaluate("decodeURIComponent(location.hash.slice(1))")
        assert not anchor or page.evaluate("name => document.getElementById(name) !== null", anchor), page.url
    page.close()


# The layout


@_IN_BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_on_a_phone(browser: Browser, address: str, site: Path, scheme: Any) -> None:
    """No page is wider than the window: wide code and tables scroll in boxes of their own."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    guides = [path for path in _pages(site) if not path.startswith(("reference/", "genindex"))]
    reference = ["Context", "Context.Params", "Model", "Sampler", "Usage", "errors", "Ggml.Op", "index", "c/ggml-1"]
    wide = {}
    for path in guides if scheme == "light" else ["index.html"]:
        page.goto(address + path)
        wide[path] = page.evaluate("document.documentElement.scrollWidth")
    for name in reference if scheme == "light" else ["Context.Params"]:
        page.goto(f"{address}reference/{name}.html")
        wide[name] = page.evaluate("document.documentElement.scrollWidth")
        # Tables with an entry for each member do not even scroll.
        assert page.evaluate("[...document.querySelectorAll('table.fields')].every(t => t.scrollWidth <= 390)"), name
    context.close()
    assert {path: width for path, width in wide.items() if width > 390} == {}
