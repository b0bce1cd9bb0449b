"""The site's search. Sphinx finds the pages that have all words; this ranks them, and leads to the best section.

For each section, and for each entry of the reference, BM25 says how much it is about a word. The browser adds these
weights up (`search_scorer.js`). Sphinx alone would sort pages with the word somewhere in the text by their titles.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import snowballstemmer
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.c import CDomain
from sphinx.domains.python import PythonDomain
from sphinx.search.en import SearchEnglish

_FILE = "search_weights.js"

# Words that people type, and that say nothing about what they look for.
_STOPWORDS = frozenset(
    "can could do does get give had has have how i just let like make many me much my need set should some than use "
    "used using want way what when where which who why will would you your".split()
)

# Words that people look for and a page lacks. Pages of prose may have them in their front matter, too: `keywords`.
_KEYWORDS = {
    "backends": "gpu cuda metal rocm hip device",
    "building": "install compile wheel cmake",
    "howto/chat": "save session conversation history reasoning thinking function calling",
    "howto/constrain": "structured output pydantic regex gbnf",
    "howto/embed": "embedding embeddings vector similarity rag",
    "howto/lora": "adapter finetune",
    "howto/gpu": "gpu layers offload vram cuda metal",
    "howto/state": "save load session restore prompt cache",
    "howto/sampling": "repeat penalty repetition temperature seed top",
    "howto/troubleshooting": "error crash out memory",
    "howto/generate": "stop sampling streaming temperature seed penalty",
    "howto/logging": "verbose quiet silence",
    "howto/models": "download hub huggingface quantized",
    "howto/server": "openai http api rest endpoint",
    "howto/tensors": "ggml tensor matrix graph compute numpy train gradient",
    "howto/threads": "cpu cores performance slow",
    "performance": "benchmark speed",
    "reference/Adapter": "lora alora adapter finetune",
    "reference/Context.Params": "context length size window rope kv cache quantization flash attention",
    "reference/Model.Params": "gpu layers offload vram cuda",
    "reference/Sampler": "repeat penalty repetition frequency presence",
}
# What is preferred among pages that say the same: guides to classes, and these to lists of names.
_PRIORS = (
    ("howto/cli", 6),
    ("howto/first-program", 8),
    ("howto/from-", 4),
    ("howto/", 16),
    ("tutorial", 8),
    ("changes", -12),
    ("stability", -4),
    ("upgrade", -6),
    ("versions", -6),
    ("index", -20),
    ("reference/c/", -60),
    ("reference/index", -40),
    ("reference/Context.Params", 12),  # the settings
    ("reference/Model.Params", 12),
    ("reference/", 4),
    ("", 8),
)
_TITLE, _PAGE_TITLE, _KEYWORD = 6, 2, 5  # how often a word counts there
_SATURATION, _LENGTH = 1.2, 0.6  # BM25's k1 and b
_LEAST = 0.12  # weights below it, of the highest that a word can have, are left out


class English(SearchEnglish):
    """English in which `nGpuLayers` also stands for its words."""

    stopwords = SearchEnglish.stopwords | _STOPWORDS

    def split(self, input: str) -> list[str]:
        words = super().split(input)
        return words + [part for word in words for part in _parts(word)]


def _parts(word: str) -> list[str]:
    """Return the words of a name in camelCase, but for single letters."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", word) if re.search("[a-z][A-Z]", word) else []
    return [part for part in found if len(part) > 1]


class Section(NamedTuple):
    """A part of a page that a result can lead to. The first one of a page stands for all of it, without an anchor."""

    title: str
    anchor: str
    words: Counter[str]


_stem = cache(snowballstemmer.stemmer("english").stemWord)
_split = English({}).split


def _words(text: str, times: int = 1) -> Counter[str]:
    found: Counter[str] = Counter()
    for word in _split(text):
        if word.lower() not in English.stopwords and not word.isdigit():
            found[_stem(word.lower())] += times
    return found


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Count the words of a page by section and by entry, and add its keywords for Sphinx's own index."""
    name = app.env.docname
    keywords = _KEYWORDS.get(name, "")
    if keywords:
        doctree.insert(0, nodes.meta(name="keywords", content=keywords.replace(" ", ",")))
    if not hasattr(app.env, "site_sections"):
        app.env.site_sections = {}  # type: ignore[attr-defined]
    if name.startswith("reference/c/"):
        return
    titles = doctree.next_node(nodes.title)
    title = titles.astext() if titles else name
    page = Section(title, "", _words(title, _TITLE))
    for meta in doctree.findall(nodes.meta):
        if meta.get("name") == "keywords":
            page.words.update(_words(meta["content"].replace(",", " "), _KEYWORD))
    sections = [page]

    def visit(node: nodes.Node, into: Section) -> None:
        if isinstance(node, nodes.Text):
            found = _words(node.astext())
            page.words.update(found)
            if into is not page:
                into.words.update(found)
            return
        for child in node.children:
            visit(child, _begin(child, into, sections, title))

    visit(doctree, page)
    app.env.site_sections[name] = sections  # type: ignore[attr-defined]


def _begin(node: nodes.Node, into: Section, sections: list[Section], page_title: str) -> Section:
    """Return the section that a node begins, or the one it belongs to."""
    if isinstance(node, nodes.section) and not isinstance(node.parent, nodes.document):
        title, anchor = node.next_node(nodes.title), node["ids"][0]
        words = title.astext() if title else ""
        words = f"{page_title} > {words}"
    else:
        anchor = _entry(node)
        words = anchor.removeprefix("llama_cffi.")
        if words in ("", page_title):
            return into
    own = words.removeprefix(f"{page_title} > ").removeprefix(f"{page_title}.")
    sections.append(Section(words, anchor, _words(own, _TITLE) + _words(page_title, _PAGE_TITLE)))
    return sections[-1]


def _entry(node: nodes.Node) -> str:
    """Return the anchor of an entry of the reference, or of a row of a table that describes a field; else ""."""
    if isinstance(node, addnodes.desc) and node["domain"] == "py":
        signature = node.next_node(addnodes.desc_signature)
        ids = signature["ids"] if signature else []
    elif isinstance(node, nodes.row):
        ids = [name for target in node.findall(nodes.target) for name in target["ids"]]
    else:
        ids = []
    return next((name for name in ids if name.startswith("llama_cffi.")), "")


def weights(pages: dict[str, list[Section]]) -> dict[str, Any]:
    """Return what the browser needs: the sections, and for each word the sections with its weight there."""
    units = [(name, section) for name in sorted(pages) for section in pages[name]]
    numbers: dict[str, int] = {}
    for number, (name, _) in enumerate(units):
        numbers.setdefault(name, number)
    have = Counter(word for _, section in units for word in section.words)
    means = [
        mean(section.words.total() for _, section in units if (section.anchor == "") is whole)
        for whole in (False, True)
    ]
    terms: dict[str, list[int]] = defaultdict(list)
    for number, (_, section) in enumerate(units):
        norm = _SATURATION * (1 - _LENGTH + _LENGTH * section.words.total() / means[section.anchor == ""])
        for word, count in section.words.items():
            share = count / (count + norm)
            if share >= _LEAST:
                terms[word] += [number, round(100 * share)]
    rarity = {word: round(10 * math.log(1 + len(units) / have[word])) for word in terms}
    return {
        "pages": {name: [number, len(pages[name]), _prior(name)] for name, number in numbers.items()},
        "sections": [[section.title, section.anchor] for _, section in units],
        "terms": {word: [rarity[word], *found] for word, found in terms.items()},
    }


def _prior(name: str) -> int:
    return next((prior for start, prior in _PRIORS if name.startswith(start)), 0)


def write_weights(app: Sphinx, pagename: str, templatename: str, context: Any, doctree: Any) -> None:
    if pagename != "search":
        return
    pages = {name: app.env.site_sections[name] for name in app.env.site_sections if name in app.env.found_docs}  # type: ignore[attr-defined]
    text = json.dumps(weights(pages), separators=(",", ":"), ensure_ascii=False)
    path = Path(app.outdir) / "_static" / _FILE
    path.write_text(f"var WEIGHTS = {text};\n", encoding="utf-8")
    app.add_js_file(_FILE)


# The names of objects in results: `Model.load`, and no parameters of C functions.


def _short_names(self: PythonDomain) -> Any:
    for name, _, kind, page, anchor, priority in _OBJECTS(self):
        yield name, name.removeprefix("llama_cffi."), kind, page, anchor, priority


def _without_parameters(self: CDomain) -> Any:
    for found in _C_OBJECTS(self):
        if found[2] != "functionParam":
            yield found


_OBJECTS, _C_OBJECTS = PythonDomain.get_objects, CDomain.get_objects


def setup(app: Sphinx) -> dict[str, bool]:
    PythonDomain.get_objects = _short_names  # type: ignore[method-assign]
    CDomain.get_objects = _without_parameters  # type: ignore[method-assign]
    app.add_search_language(English)
    app.connect("doctree-read", collect)
    app.connect("html-page-context", write_weights)
    return {"parallel_read_safe": False}
