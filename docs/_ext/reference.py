"""Writes the pages of the reference: groups of names by purpose, a page a class, and the C functions by header."""

from __future__ import annotations

import inspect
from pathlib import Path

from sphinx.application import Sphinx

import llama_cffi
import operations
from codegen.api import c_text
from codegen.api.model import Function
from codegen.rules import naming, policy
from members import class_page, heading, link, nested, table
from names import API, facade_name, find, first_line, is_class

# The groups: file name, title, an introduction, and the packages whose names belong to it. `first` come first.
_GROUPS: list[tuple[str, str, str, tuple[str, ...], str]] = [
    (
        "one-object",
        "One object for a first program",
        "`load` returns an `LLM`, which completes prompts, chats and embeds. It stands on the classes below.",
        ("llm",),
        "load LLM Completion ChatCompletion",
    ),
    (
        "models",
        "Models and tokens",
        "Load model files, read their metadata, quantize them, add LoRA adapters, and tokenize texts.",
        ("model", "vocab"),
        "Model Model.Params Model.QuantizeParams Adapter Vocab tokenize detokenize infillPrompt",
    ),
    (
        "contexts",
        "Contexts, batches and the KV cache",
        "A `Context` computes: it decodes a `Batch` of tokens and keeps their KV cache, which `Memory` edits.",
        ("context",),
        "Context Context.Params Batch BatchExt Memory",
    ),
    (
        "generating",
        "Generating text",
        "`Generation` streams one text. An `Engine` generates many at once.",
        (
            "generation.generation",
            "generation.steps",
            "generation.prompt_lookup",
            "generation.draft_model",
            "generation.prompt_cache",
        ),
        "Generation GenerationSteps GenerationStep PromptLookup DraftModel PromptCache PromptCacheTotals",
    ),
    (
        "sampling",
        "Samplers",
        "From logits to a token: temperature, top-k, top-p, min-p, penalties, grammars, and your own samplers.",
        ("sampling", "generation.default_sampler"),
        "Sampler Sampler.ChainParams defaultSampler SamplerI",
    ),
    (
        "chatting",
        "Chats and tool calls",
        "Sessions, chat templates, tool calls, thoughts, and parsers of answers.",
        ("chat",),
        "ChatSession ChatTemplate ChatAnswer ChatEvent",
    ),
    (
        "constraints",
        "Constrained output",
        "Output that follows a JSON Schema, a type of Python, a regular expression or a grammar.",
        ("constrain",),
        "",
    ),
    ("embeddings", "Embeddings and reranking", "Vectors of texts, and the relevance of documents.", ("embedding",), ""),
    (
        "scoring",
        "Scoring and perplexity",
        "Log-probabilities of a given text, the best of several continuations, and perplexity.",
        ("scoring", "generation.score"),
        "score Score choose Choice perplexity Perplexity",
    ),
    (
        "engines",
        "Many requests at once",
        "An `Engine` shares one model among many requests, with continuous batching and prefix sharing.",
        ("engine",),
        "Engine Request RequestUsage EngineLoad EngineTotals",
    ),
    (
        "ggml",
        "Tensors, backends and devices: Ggml",
        "Tensors and graphs, training, CPU variants, GPUs, RPC workers, thread pools, and ggml's enumerations.",
        ("ggml",),
        "Ggml.compute Ggml.Context Ggml.Tensor Ggml.CGraph Ggml.Opt Ggml.OptDataset Ggml.OptResult Ggml.BackendSched "
        "Ggml.Backend Ggml.BackendDevice Ggml.BackendReg Ggml.BackendBufferType Ggml.Rpc Ggml.Threadpool",
    ),
    (
        "media",
        "Images and sounds: Mtmd",
        "Prompts with images and sounds, for models with a projector file (mmproj).",
        ("mtmd",),
        "Mtmd.Context Mtmd.Bitmap Mtmd.Chunks Mtmd.Chunk",
    ),
    (
        "system",
        "The system, the log, types and constants",
        "What this build of llama.cpp supports, its log, and the types of tokens and positions.",
        (),  # and every name that no other group has
        "version printSystemInfo supportsGpuOffload logSet logGet",
    ),
    ("errors", "Errors", "Every error of the package is a `LlamaError`.", ("errors",), "LlamaError"),
    ("enumerations", "Enumerations", "Members are also accepted by name.", ("_generated.enums",), ""),
]
_ALIASES = {"Ggml.ThreadPool": "Ggml.Threadpool", "Ggml.Graph": "Ggml.CGraph"}

_TWO_NAMES = """\
Some things have two names, because the specification has both. Both are public and stay; prefer the first:

- ``Ggml.Threadpool``, also ``Ggml.ThreadPool``, and ``Ggml.CGraph``, also ``Ggml.Graph``: the same classes.
- ``close()`` or ``with``, also ``free()`` and ``Adapter.loraFree()``: they free an object that owns memory. ``free`` is
  the name in C, and can be called on the class as well: ``Model.free(model)``.
"""


def groups() -> dict[str, list[str]]:
    """Return the public names by group. A name belongs to the group of its package."""
    homes = {name: home for home, names in llama_cffi._MODULES.items() for name in names}
    homes |= {f"Ggml.{name}": "ggml" for name in llama_cffi.Ggml.__all__}
    homes |= {f"Mtmd.{name}": "mtmd" for name in llama_cffi.Mtmd.__all__}
    found: dict[str, list[str]] = {slug: [] for slug, *_ in _GROUPS}
    for name, home in homes.items():
        if name in ("Ggml", "Mtmd", "ffi", "lib") or name in _ALIASES:
            continue
        parts = [home, home.partition(".")[0]]
        slug = next((slug for part in parts for slug, _, _, packages, _ in _GROUPS if part in packages), "system")
        found[slug].append(name)
        value = find(name)
        if is_class(value) and slug not in ("errors", "enumerations"):
            found[slug] += [f"{name}.{inner}" for inner in nested(value)]
    for slug, _, _, _, first in _GROUPS:
        order = first.split()
        found[slug].sort(key=lambda name: order.index(name) if name in order else len(order))
    return found


def _summary(names: list[str]) -> str:
    return table([], [[link(name), _what(name)] for name in names])


def _what(name: str) -> str:
    return first_line(inspect.getdoc(find(name))) if _has_doc(name) else _data_doc(name)


def _has_doc(name: str) -> bool:
    return is_class(find(name)) or inspect.isroutine(find(name))


def _data_doc(name: str) -> str:
    c_names = {naming.constant_name(constant.name): constant.name for constant in API.constants}
    types = {naming.type_name(typedef.name): typedef.name for typedef in API.typedefs}
    c_name = c_names.get(name) or types.get(name)
    if c_name is None:
        return ""
    value = find(name)
    return f"Maps to `{c_name}`." if is_class(value) or not isinstance(value, int) else f"{value}. Maps to `{c_name}`."


def group_page(slug: str, title: str, text: str, names: list[str]) -> str:
    """Return the page of a group: a table, then the functions and constants, which have no pages of their own."""
    pages = [name for name in names if is_class(find(name)) and slug != "errors"]
    parts = [heading(title), f"{text}\n" if text else "", _errors_table(names) if slug == "errors" else _summary(names)]
    if pages:
        parts.append(".. toctree::\n   :hidden:\n\n" + "".join(f"   {name}\n" for name in pages))
    for name in (name for name in names if name not in pages):
        if slug == "errors":
            parts.append(f".. autoexception:: llama_cffi::{name}\n   :show-inheritance:\n")
        elif inspect.isroutine(find(name)):
            parts.append(f".. autofunction:: llama_cffi::{name}\n")
        else:
            parts.append(f".. py:data:: {name}\n   :module: llama_cffi\n\n   {_data_doc(name)}\n")
    return "\n".join(parts)


def _errors_table(names: list[str]) -> str:
    rows = []
    for name in names:
        bases = [base.__name__ for base in find(name).__mro__[1:] if base not in (Exception, BaseException, object)]
        rows.append([link(name), ", ".join(f"`{base}`" for base in bases), first_line(inspect.getdoc(find(name)))])
    return table(["Error", "Is also a", "When"], rows)


def server_page() -> str:
    """Return the page of `llama_cffi.server`, which is a module of its own."""
    import llama_cffi.server as server

    names = sorted(server.__all__, key=lambda name: (name not in ("serve", "create_app", "ServedModel"), name))
    full = [f":py:obj:`{name} <llama_cffi.server.{name}>`" for name in names]
    rows = [[full[i], first_line(inspect.getdoc(getattr(server, name)))] for i, name in enumerate(names)]
    parts = [heading("Server"), f"{inspect.getdoc(server)}\n", table([], rows)]
    for name in names:
        kind = "class" if inspect.isclass(getattr(server, name)) else "function"
        parts.append(f".. auto{kind}:: llama_cffi.server::{name}\n" + ("   :members:\n" if kind == "class" else ""))
    return "\n".join(parts)


def index_page(found: dict[str, list[str]]) -> str:
    """Return the page that lists every name by purpose."""
    parts = [heading("Reference"), "Every public name, by purpose. The search finds them, and :ref:`genindex`.\n"]
    toctree = ".. toctree::\n   :hidden:\n\n"
    for slug, title, text, _, _ in _GROUPS:
        parts += [heading(title, "-"), f"{text} :doc:`All of it on a page <{slug}>`.\n", _summary(found[slug])]
        toctree += f"   {slug}\n"
        if slug == "engines":
            toctree += "   server\n"
            parts += [heading("Server", "-"), ":doc:`Models over HTTP <server>`, by OpenAI's protocol.\n"]
    parts += [heading("Two names for one thing", "-"), _TWO_NAMES, toctree]
    return "\n".join(parts)


# The C functions.

_PER_PAGE = 140


def c_pages() -> dict[str, str]:
    """Return the pages of all C functions with their names in Python: one a header, or several for a long one."""
    pages: dict[str, str] = {}
    lines = []
    for header in API.headers:
        functions = sorted((f for f in API.functions if f.header == header), key=lambda function: function.name)
        parts = [functions[i : i + _PER_PAGE] for i in range(0, len(functions), _PER_PAGE)]
        for number, part in enumerate(parts, 1):
            title = f"{header}, {number} of {len(parts)}" if len(parts) > 1 else header
            name = header.removesuffix(".h") + (f"-{number}" if len(parts) > 1 else "")
            pages[f"c/{name}"] = "\n".join([heading(title), *map(_c_entry, part)])
            lines.append([f":doc:`{title} <{name}>`", f"{len(part)} functions", f"``{part[0].name}``"])
    toctree = ".. toctree::\n   :hidden:\n\n" + "".join(f"   {name.removeprefix('c/')}\n" for name in pages)
    text = (
        "The Python name of every function of the public headers. Functions that the facade lacks are in "
        "``llama_cffi.lib``,\nunder their C names, like all the others.\n"
    )
    return {
        "c/index": "\n".join([heading("C names"), text, table(["Header", "Holds", "From"], lines), toctree]),
        **pages,
    }


def _c_entry(function: Function) -> str:
    place, why_not = facade_name(function), policy.left_out(function)
    if why_not:
        text = f"Not bound: {why_not}.".replace("*", "\\*")
    elif place:
        text = f"Python: {link(place)}."
    else:
        text = f"Python: ``lib.{function.name}``."
    if function.deprecated:
        text += f" Deprecated: {function.deprecated}."
    prototype = c_text.prototype(function, named=True)
    return f".. c:function:: {prototype}\n   :no-typesetting:\n\n``{prototype}``\n   {text}\n"


def pages() -> dict[str, str]:
    """Return the text of every page by its name, below `reference/`."""
    found = groups()
    out = {"index": index_page(found), "server": server_page(), **c_pages()}
    for slug, title, text, _, _ in _GROUPS:
        out[slug] = group_page(slug, title, text, found[slug])
        if slug != "errors":
            out |= {name: class_page(name) for name in found[slug] if is_class(find(name))}
    out[operations.OWNER] = class_page(operations.OWNER, operations.NAMES, operations.overview())
    out |= operations.pages()
    for alias, name in _ALIASES.items():
        out[name] += f"\n.. py:class:: {alias}\n   :module: llama_cffi\n\n   Another name of `{name}`.\n"
    return out


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference"
    wanted = {folder / f"{name}.rst": text for name, text in pages().items()}
    for path in set(folder.rglob("*.rst")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages, priority=1)
    return {"parallel_read_safe": True}
