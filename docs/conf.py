"""Sphinx configuration. The reference is built from the package's docstrings and the generated naming map."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import llama_cffi  # noqa: E402
from codegen.api import c_text, snapshot  # noqa: E402
from codegen.api.model import Function  # noqa: E402
from codegen.rules import naming, policy  # noqa: E402

project = "llama_cffi"
extensions = ["sphinx.ext.autodoc", "myst_parser"]
myst_heading_anchors = 2
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "llama_cffi"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
default_role = "code-or-reference"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
nitpicky = True
# Names without a page: C types in prototypes, and types of other packages in signatures.
nitpick_ignore_regex = [("c:identifier", ".*"), ("py:class", ".*"), ("py:data", ".*")]

API = snapshot.load()
FUNCTIONS = {function.name: function for function in API.functions}


def facade_name(function: Function) -> str | None:
    """The facade's name of a C function; None if only `lib` has it."""
    owner, name = naming.function_name(function)
    path = ".".join(filter(None, (owner, name)))
    return path if _resolve(path) is not None else None


def _resolve(path: str) -> Any:
    found: Any = llama_cffi
    for part in path.split("."):
        found = inspect.getattr_static(found, part, None)
        if found is None:
            return None
    return found


def documented_name(path: str) -> str:
    """The name under which the reference documents a facade name: that of the defining module for nested classes."""
    if path.startswith("Ggml."):
        return f"llama_cffi.ggml.{path.removeprefix('Ggml.')}"
    parts = path.split(".")
    nested = _resolve(".".join(parts[:2]))
    if len(parts) >= 2 and inspect.isclass(nested):
        return ".".join([nested.__module__, nested.__name__, *parts[2:]])
    return f"llama_cffi.{path}"


# `text` in a docstring: a link if it names something, else code.


def code_or_reference(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    literal = nodes.literal(text, text)
    target = text.removesuffix("()")
    if target in FUNCTIONS:
        reference = ("c", "func", target)
    elif target[:1].isupper() and _resolve(target) is not None and "." in target:
        reference = ("py", "obj", documented_name(target))
    else:
        return [literal], []
    domain, kind, goal = reference
    link = addnodes.pending_xref("", literal, refdomain=domain, reftype=kind, reftarget=goal, refwarn=True)
    link["py:module"], link["py:class"] = None, None
    return [link], []


# Pages written at build time.


def _class_block(name: str) -> str:
    return f".. autoclass:: llama_cffi.{name}\n   :members:\n   :inherited-members: IntEnum, int, str, Exception\n\n"


def _nested(cls: type) -> list[str]:
    return [n for n, value in vars(cls).items() if inspect.isclass(value) and n[0].isupper() and n != "Params"]


def _ggml_block(name: str) -> str:
    """A name of ggml. Enumerations are written out: autodoc shows an alias of a generated class without members."""
    value = getattr(llama_cffi.Ggml, name)
    if not issubclass(value, int):
        return f".. autoclass:: llama_cffi.ggml.{name}\n   :members:\n   :inherited-members: tuple\n\n"
    members = "".join(f"   .. py:attribute:: {m.name}\n      :value: {m.value}\n\n" for m in value)
    return f".. py:class:: llama_cffi.ggml.{name}\n\n   {inspect.getdoc(value)}\n\n{members}"


_TWO_NAMES = """\
Some things have two names, because the specification has both. Both are public and stay; prefer the first:

- ``Ggml.Threadpool``, also ``Ggml.ThreadPool``: the same class.
- ``close()`` or ``with``, also ``free()`` and ``Adapter.loraFree()``: they free an object that owns memory. ``free`` is
  the name in C, and can be called on the class as well: ``Model.free(model)``.
"""


def reference_page() -> str:
    """The page of all public names of the package."""
    enums, errors, classes, functions, data = [], [], [], [], []
    for name in llama_cffi.__all__:
        value = getattr(llama_cffi, name)
        if name in ("Ggml", "ffi", "lib"):
            continue
        if not inspect.isclass(value) or value is int:  # Token, Pos and SeqId are int
            (functions if inspect.isroutine(value) else data).append(name)
        elif issubclass(value, Exception):
            errors.append(name)
        elif issubclass(value, int):
            enums.append(name)
        else:
            classes.append(name)
    out = ["Reference\n=========\n", _TWO_NAMES]
    out.append("Classes\n-------\n")
    for name in classes:
        cls = getattr(llama_cffi, name)
        out.append(_class_block(name))
        for inner in ("Params", "ChainParams", "QuantizeParams"):
            if inner in vars(cls):
                nested = vars(cls)[inner]
                out.append(
                    f".. autoclass:: {nested.__module__}.{nested.__name__}\n   :members:\n   :inherited-members:\n\n"
                )
    out.append("Functions\n---------\n")
    out += [f".. autofunction:: llama_cffi.{name}\n\n" for name in functions]
    out.append("Ggml\n----\n")
    out += [_ggml_block(name) for name in llama_cffi.Ggml.__all__]
    out.append("Enumerations\n------------\n")
    out += [
        f".. autoclass:: llama_cffi.{name}\n   :members:\n   :undoc-members:\n   :member-order: bysource\n\n"
        for name in enums
    ]
    out.append("Errors\n------\n")
    out += [f".. autoexception:: llama_cffi.{name}\n   :show-inheritance:\n\n" for name in errors]
    out.append("Types and constants\n-------------------\n\n.. py:currentmodule:: llama_cffi\n")
    out += [f".. py:data:: {name}\n\n   {_data_doc(name)}\n\n" for name in data]
    return "\n".join(out)


def _data_doc(name: str) -> str:
    c_names = {row: c for c, row in ((c, naming.constant_name(c)) for c in (x.name for x in API.constants))}
    types = {naming.type_name(t.name): t.name for t in API.typedefs}
    return f"Maps to `{c_names.get(name) or types.get(name, name)}`."


def c_page() -> str:
    """The page of all C functions with their names in Python."""
    out = ["C names\n=======\n"]
    out.append(
        "The Python name of every function of the nine public headers. Functions that the facade lacks are in "
        "``llama_cffi.lib``,\nunder their C names, like all the others.\n"
    )
    for header in API.headers:
        out.append(f"{header}\n{'-' * len(header)}\n")
        for function in (f for f in API.functions if f.header == header):
            out.append(_c_entry(function))
    return "\n".join(out)


def _c_entry(function: Function) -> str:
    place, why_not = facade_name(function), policy.left_out(function)
    if why_not:
        text = f"Not bound: {why_not}.".replace("*", "\\*")
    elif place:
        text = f"Python: :py:obj:`{place} <{documented_name(place)}>`."
    else:
        text = f"Python: ``lib.{function.name}``."
    if function.deprecated:
        text += f" Deprecated: {function.deprecated}."
    prototype = c_text.prototype(function, named=True)
    return f".. c:function:: {prototype}\n\n   {text}\n"


def write_pages(app: Sphinx) -> None:
    for name, text in (("reference.rst", reference_page()), ("c_names.rst", c_page())):
        path = Path(app.srcdir) / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def builtin_types(app: Sphinx, doctree: nodes.document) -> None:
    """Take the links off `type` in signatures: Sphinx would find attributes of that name."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.get("reftype") == "class" and link["reftarget"] == "type":
            link.replace_self(nodes.Text(link["reftarget"]))


def setup(app: Sphinx) -> None:
    app.add_role("code-or-reference", code_or_reference)
    app.connect("doctree-read", builtin_types)
    app.connect("builder-inited", write_pages, priority=1)
