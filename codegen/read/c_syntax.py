"""Questions about pycparser's syntax tree: what a declarator stands for, its innermost type, its copy without names.

This is the only module that imports pycparser; `parse.py` takes its names from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from pycparser import c_ast, c_generator, c_parser

from codegen.api.model import CodegenError

__all__ = ["c_ast", "c_generator", "c_parser"]


def unknown(node: c_ast.Node, what: str) -> CodegenError:
    return CodegenError(f"{node.coord}: cannot read {what} ({type(node).__name__}): extend codegen/read/parse.py")


def keyword(node: c_ast.Node) -> str:
    return type(node).__name__.lower()


def innermost(node: c_ast.Node) -> c_ast.Node:
    """The type that pointers and arrays are made around."""
    while isinstance(node, (c_ast.PtrDecl, c_ast.ArrayDecl, c_ast.TypeDecl)):
        node = node.type
    return node


def around(node: c_ast.Node, spelling: str) -> c_ast.Node:
    """Return a copy of a declarator around another type, given by its spelling."""
    if not isinstance(node, (c_ast.PtrDecl, c_ast.ArrayDecl, c_ast.TypeDecl)):
        kind, _, tag = spelling.rpartition(" ")
        if kind:
            return getattr(c_ast, kind.capitalize())(tag, None, node.coord)
        return c_ast.IdentifierType([spelling], node.coord)
    out = copy(node)
    out.type = around(node.type, spelling)
    return out


def number_words(node: c_ast.Node) -> list[str]:
    """Return the words of a type that may be a number; none for pointers, structs and others."""
    match node:
        case c_ast.TypeDecl(type=c_ast.IdentifierType(names=names)):
            return list(names)
        case c_ast.TypeDecl(type=c_ast.Enum()):
            return ["enum"]
        case _:
            return []


def has_body(node: c_ast.Node) -> bool:
    match node:
        case c_ast.Struct() | c_ast.Union():
            return node.decls is not None
        case c_ast.Enum():
            return node.values is not None
        case _:
            return False


def bits(node: c_ast.Decl) -> int | None:
    if node.bitsize is None:
        return None
    if not isinstance(node.bitsize, c_ast.Constant):
        raise unknown(node.bitsize, f"the width of the bit field {node.name}, which is not a plain number")
    return int(node.bitsize.value.rstrip("uUlL"), 0)


def nameless(node: c_ast.Node, words: set[str]) -> c_ast.Node:
    """Return a copy of a type without the declared name, and with tags instead of bodies. `words` are known types."""
    out = copy(node)
    match out:
        case c_ast.TypeDecl() | c_ast.PtrDecl():
            if isinstance(out, c_ast.TypeDecl):
                out.declname = None
            out.quals = [qual for qual in out.quals if qual != "restrict"]
            if not {"const", "volatile"}.issuperset(out.quals):
                raise unknown(node, f"the qualifier {' '.join(out.quals)}")
            out.type = nameless(out.type, words)
        case c_ast.ArrayDecl():
            out.dim_quals = []  # `static` and qualifiers of a parameter are not part of its type
            out.dim = None if isinstance(out.dim, c_ast.ID) and out.dim.name == "*" else out.dim
            out.type = nameless(out.type, words)
        case c_ast.FuncDecl():
            out.args = copy(out.args)
            if out.args is not None:
                out.args.params = [_nameless_param(x, words) for x in out.args.params]
            out.type = nameless(out.type, words)
        case c_ast.Struct() | c_ast.Union() | c_ast.Enum():
            if not out.name:
                raise unknown(node, "an unnamed type where a name is needed")
            if isinstance(out, c_ast.Enum):
                out.values = None
            else:
                out.decls = None
        case c_ast.IdentifierType():
            if not words.issuperset(out.names):
                raise unknown(node, f"the type {' '.join(out.names)}")
        case _:
            raise unknown(node, "an unknown kind of type")
    return out


def _nameless_param(node: c_ast.Node, words: set[str]) -> c_ast.Node:
    match node:
        case c_ast.EllipsisParam():
            return node
        case c_ast.Decl() | c_ast.Typename():
            return c_ast.Typename(None, [], None, nameless(node.type, words), node.coord)
        case _:
            raise unknown(node, "an unknown kind of parameter")


def references(node: c_ast.Node) -> Iterator[c_ast.Node]:
    """Yield every struct and union that a type names."""
    if isinstance(node, (c_ast.Struct, c_ast.Union)):
        yield node
    for _, child in node.children():
        yield from references(child)
