"""Emits _native.pyi: the Python types of `lib` and `ffi`, with the headers' comments as docstrings."""

from __future__ import annotations

import keyword
import re

from codegen.api.c_text import argument, prototype
from codegen.api.model import Api, CodegenError, Function
from codegen.rules import policy

_TOP = '''
from typing import Any, Final, TypeAlias

# Any C object (cdata). cffi has no Python types to tell one C type from another.
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
    """The C API by its C names. Calls are guarded: failed asserts and C++ exceptions raise `llama_cffi.NativeError`."""

'''

_INTEGERS = re.compile(
    r"u?int(8|16|32|64|ptr)_t|s?size_t|ptrdiff_t|(un)?signed|((un)?signed )?(char|int|(short|long|long long)( int)?)"
)


# Constants that build_ffi.py adds to the extension.
_OF_THE_BUILD = {"LLAMA_CFFI_PIN": "_CData"}


def emit(api: Api, shim: Api | None = None) -> str:
    """Return the text of `_native.pyi` without its banner. `shim` is what the hand-written C code declares."""
    types = _TypeMap(api)
    constants = {c.name: "_CData" if c.kind == "str" else c.kind for c in api.constants} | _OF_THE_BUILD
    enums = [*api.enums, *(shim.enums if shim else ())]
    constants |= {m.name: "int" for enum in enums for m in enum.members}
    lines = [_unless_keyword(name, f"    {name}: Final[{ptype}]") for name, ptype in sorted(constants.items())]
    bound = [*policy.bound(api), *(shim.functions if shim else ())]
    functions = [_unless_keyword(f.name, _function(f, types)) for f in bound]
    body = "\n".join([*lines, "", *functions])
    return f"{_TOP}{body}\n\nffi: Final[_Ffi]\nlib: Final[_Lib]\n"


def _unless_keyword(name: str, text: str) -> str:
    """Return the text. If the name is a Python keyword, return a comment that says how to reach it instead."""
    return f'    # getattr(lib, "{name}")' if keyword.iskeyword(name) else text


class _TypeMap:
    """Maps C types to Python types. Anything but a number, a boolean and void is a C object (`_CData`)."""

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
        if bare == "long double":  # a Python float would lose digits, so cffi keeps it as a C object
            return "_CData"
        if _INTEGERS.fullmatch(bare) or bare.startswith("enum ") or bare in self._enums:
            return "int"
        if bare.endswith(("*", "]", ")")) or bare.startswith(("struct ", "union ")) or bare in self._records:
            return "_CData"
        raise CodegenError(f"no Python type for the C type {ctype!r}: add one to codegen/emit/stub.py")


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
        text.append(f"Part of the {module} backend module: raises UnavailableError until the module is loaded.")
    text = [f"`{prototype(function, named=True)}`", *([""] if text else []), *text]
    safe = [line.rstrip().replace("\\", "\\\\").replace('"""', "'''") for line in text]
    if len(safe) == 1 and len(safe[0]) < 105:
        return f'        """{safe[0]}"""\n        ...'
    return '        """' + "\n        ".join(safe).replace("\n        \n", "\n\n") + '\n        """\n        ...'
