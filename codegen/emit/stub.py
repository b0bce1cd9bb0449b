"""`_native.pyi`: the types of `lib` and `ffi`, with the headers' own comments as docstrings."""

from __future__ import annotations

import keyword
import re

from codegen.api.model import Api, CodegenError, Function
from codegen.emit.cdef import argument, prototype
from codegen.rules import policy

_TOP = '''
from typing import Any, Final, TypeAlias

# An object of C, as cffi holds it. cffi has no types to tell one from another.
_CData: TypeAlias = Any

class _Ffi:
    """cffi's interface to C types and memory: https://cffi.readthedocs.io/en/stable/ref.html"""

    NULL: Final[_CData]
    CData: type[Any]
    CType: type[Any]
    buffer: type[Any]
    error: type[Exception]
    errno: int
    def new(self, cdecl: str | Any, init: Any = ..., /) -> _CData: ...
    def new_allocator(self, alloc: Any = ..., free: Any = ..., should_clear_after_alloc: bool = ...) -> Any: ...
    def cast(self, cdecl: str | Any, source: Any, /) -> _CData: ...
    def string(self, cdata: _CData, maxlen: int = ...) -> Any: ...
    def unpack(self, cdata: _CData, length: int) -> Any: ...
    def sizeof(self, cdecl: str | Any, /) -> int: ...
    def typeof(self, cdecl: Any, /) -> Any: ...
    def offsetof(self, cdecl: str | Any, /, *fields: str | int) -> int: ...
    def from_buffer(self, cdecl: Any, python_buffer: Any = ..., require_writable: bool = ...) -> _CData: ...
    def memmove(self, dest: Any, src: Any, n: int) -> None: ...
    def addressof(self, cdata: Any, /, *fields: str | int) -> _CData: ...
    def new_handle(self, x: object, /) -> _CData: ...
    def from_handle(self, x: _CData, /) -> Any: ...
    def gc(self, cdata: _CData, destructor: Any, size: int = ...) -> _CData: ...
    def release(self, cdata: _CData, /) -> None: ...
    def def_extern(self, name: str = ..., error: Any = ..., onerror: Any = ...) -> Any: ...

class _Lib:
    """The C API, by its C names. Guarded: a failed assert or a C++ exception raises `llama_cffi.NativeError`."""

'''

_INTEGERS = re.compile(
    r"u?int(8|16|32|64|ptr)_t|s?size_t|ptrdiff_t|(un)?signed|((un)?signed )?(char|int|(short|long|long long)( int)?)"
)


def emit(api: Api, shim: str) -> str:
    """The text of `_native.pyi`, without its banner. `shim` is the stub text of the hand-written C functions."""
    types = _TypeMap(api)
    constants = {c.name: "_CData" if c.kind == "str" else c.kind for c in api.constants}
    constants |= {m.name: "int" for enum in api.enums for m in enum.members}
    lines = [_unless_keyword(name, f"    {name}: Final[{ptype}]") for name, ptype in sorted(constants.items())]
    functions = [_unless_keyword(f.name, _function(f, types)) for f in policy.bound(api)]
    body = "\n".join([*lines, "", *functions])
    return f"{_TOP}{body}\n{shim}\nffi: Final[_Ffi]\nlib: Final[_Lib]\n"


def _unless_keyword(name: str, text: str) -> str:
    """The text, or for a name that Python cannot spell as an attribute, how to reach it all the same."""
    return f'    # getattr(lib, "{name}")' if keyword.iskeyword(name) else text


class _TypeMap:
    """C types to Python ones. Whatever is not a number, a boolean or nothing is an object of C."""

    def __init__(self, api: Api) -> None:
        self._typedefs = {typedef.name: typedef.type for typedef in api.typedefs}
        self._records = {record.alias for record in api.records if record.alias}
        self._enums = {enum.alias for enum in api.enums if enum.alias}

    def of(self, ctype: str) -> str:
        bare = _bare(ctype)
        while bare in self._typedefs:
            bare = _bare(self._typedefs[bare])
        if bare == "void":
            return "None"
        if bare in ("bool", "_Bool"):
            return "bool"
        if bare in ("float", "double"):
            return "float"
        if bare == "long double":  # more digits than a Python float holds: cffi keeps it as it is
            return "_CData"
        if _INTEGERS.fullmatch(bare) or bare.startswith("enum ") or bare in self._enums:
            return "int"
        if bare.endswith(("*", "]", ")")) or bare.startswith(("struct ", "union ")) or bare in self._records:
            return "_CData"
        raise CodegenError(f"no Python type for the C type {ctype!r}: teach codegen/emit/stub.py")


def _bare(ctype: str) -> str:
    return " ".join(re.sub(r"\b(const|volatile)\b", "", ctype).split())


def _function(function: Function, types: _TypeMap) -> str:
    params = ["self"]
    for index, param in enumerate(function.params):
        params.append(f"{_identifier(argument(function, index))}: {_argument_type(param.type, types)}")
    params.append("/")
    if function.variadic:
        params.append("*args: _CData")
    head = f"    def {function.name}({', '.join(params)}) -> {types.of(function.returns)}:"
    return f"{head}\n{_docstring(function)}"


def _argument_type(ctype: str, types: _TypeMap) -> str:
    if ctype == "const char *":
        return "bytes | _CData"
    return "int" if types.of(ctype) == "bool" else types.of(ctype)  # C takes 0 and 1 for a bool


def _identifier(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) or name == "self" else name


def _docstring(function: Function) -> str:
    text = [*function.doc.splitlines()] if function.doc else []
    if function.deprecated:
        text.append(f"Deprecated: {function.deprecated}.")
    module = policy.module_of(function)
    if module:
        text.append(f"Lives in the {module} backend module: raises UnavailableError until that is loaded.")
    text = [f"`{prototype(function, named=True)}`", *([""] if text else []), *text]
    safe = [line.rstrip().replace("\\", "\\\\").replace('"""', "'''") for line in text]
    if len(safe) == 1 and len(safe[0]) < 105:
        return f'        """{safe[0]}"""\n        ...'
    return '        """' + "\n        ".join(safe).replace("\n        \n", "\n\n") + '\n        """\n        ...'
