"""Names of the facade and of C, and where the reference documents them. Backticks in docstrings become links here."""

from __future__ import annotations

import inspect
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import llama_cffi
from codegen.api import snapshot
from codegen.api.model import Function
from codegen.rules import naming

API = snapshot.load()
FUNCTIONS = {function.name: function for function in API.functions}
_DATA = ("ffi", "lib")

for _name in llama_cffi.__all__:
    getattr(llama_cffi, _name)  # names are loaded when they are first used; `find` does not load them
for _space in (llama_cffi.Ggml, llama_cffi.Mtmd):
    for _name in _space.__all__:
        getattr(_space, _name)


def find(path: str) -> Any:
    """Return what a dotted name of the package stands for, or None."""
    found: Any = llama_cffi
    for part in path.split("."):
        found = inspect.getattr_static(found, part, None)
        if found is None:
            return None
    return found


def facade_name(function: Function) -> str | None:
    """Return the facade's name of a C function; None if only `lib` has it."""
    owner, name = naming.function_name(function)
    path = ".".join(filter(None, (owner, name)))
    return path if find(path) is not None else None


def is_class(value: Any) -> bool:
    """Return True for a class of the package: `Token`, `Pos` and `SeqId` are `int`."""
    return inspect.isclass(value) and value is not int


def first_line(doc: str | None) -> str:
    """Return the first sentence or paragraph of a docstring, in one line, without the last colons of a code block."""
    paragraph = " ".join((doc or "").strip().split("\n\n")[0].split())
    if paragraph.startswith("Maps to"):
        return ""
    sentence, found, _ = paragraph.partition(". ")
    if found and sentence.count("`") % 2 == 0 and not sentence.endswith(("e.g", "i.e", "ref")):
        paragraph = f"{sentence}."
    return f"{paragraph[:-2]}." if paragraph.endswith("::") else paragraph


def _target(text: str, cls: str | None) -> tuple[str, str, str] | None:
    """Return domain, role and name of what a text in backticks names; `cls` is the class of the docstring."""
    name = text.removesuffix("()")
    if name in FUNCTIONS:
        return "c", "func", name
    if not name.replace(".", "").replace("_", "").isalnum() or name in _DATA:
        return None
    for path in (f"{cls}.{name}" if cls else "", name):
        head, _, last = path.rpartition(".")
        if path == cls or not path or last[:1] == "_" or (head and not head[0].isupper()):
            continue
        value = find(path)
        if is_class(value) or (value is not None and (head or inspect.isroutine(value))):
            return "py", "obj", f"llama_cffi.{path}"
    return None


def _link(literal: nodes.literal, target: tuple[str, str, str]) -> addnodes.pending_xref:
    domain, role, goal = target
    link = addnodes.pending_xref("", literal, refdomain=domain, reftype=role, reftarget=goal, refwarn=False)
    link["py:module"], link["py:class"] = None, None
    return link


def code_or_reference(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Make a link of `text` in a docstring if it names something, else code."""
    cls = inliner.document.settings.env.ref_context.get("py:class")
    target = _target(text, cls)
    return [_link(nodes.literal(text, text), target) if target else nodes.literal(text, text)], []


def link_code(app: Sphinx, doctree: nodes.document) -> None:
    """Make links of `Model.load` and the like in the pages that people write."""
    if app.env.docname == "index" or app.env.docname.startswith("reference/"):  # cards are links already
        return
    for literal in list(doctree.findall(nodes.literal)):
        parents, node = [], literal.parent
        while node is not None:
            parents.append(node)
            node = node.parent
        if any(isinstance(node, (nodes.title, nodes.reference, addnodes.pending_xref)) for node in parents):
            continue
        target = _target(literal.astext(), None)
        is_name = "." in literal.astext() or literal.astext() != literal.astext().lower()
        if target and (target[0] == "c" or is_name):  # `load` may mean anything
            literal.replace_self(_link(literal.deepcopy(), target))


def builtin_types(app: Sphinx, doctree: nodes.document) -> None:
    """Take the links off `type` in signatures: Sphinx would find attributes of that name."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.get("reftype") == "class" and link["reftarget"] == "type":
            link.replace_self(nodes.Text(link["reftarget"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("code-or-reference", code_or_reference)
    app.connect("doctree-read", builtin_types)
    app.connect("doctree-read", link_code)
    return {"parallel_read_safe": True}
