"""Emits the constructors of ggml as methods, for `Ggml.Context`: one for each function that makes a tensor."""

from __future__ import annotations

import re
import textwrap

from codegen.api.c_text import INTEGERS, argument
from codegen.api.model import Api, CodegenError, Function, Param
from codegen.rules import constructors, naming

_HEAD = '''"""The constructors of ggml as methods: one for each function that takes a context and makes a tensor."""

from __future__ import annotations

from llama_cffi._core.arguments import int_array
from llama_cffi._core.checks import boolean, integer, number
from llama_cffi._core.ffi import lib
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Generic, TypeVar

    from llama_cffi._generated.enums import (
%s    )

    T = TypeVar("T")
else:
    from llama_cffi._core.stand_ins import Generic

    T = object


class Constructors(Generic[T]):
    """Base class of `Ggml.Context`. T is the class of tensors."""

    __slots__ = ()

    def _make(self, function: Any, *arguments: Any) -> T:
        """Call a constructor of C. Tensors among the arguments are those that `_tensor` returned."""
        raise NotImplementedError

    def _tensor(self, value: T | None, name: str, optional: bool = False) -> Any:
        """Check a tensor. None becomes NULL if it is optional."""
        raise NotImplementedError

    def _enum(self, kind: Any, value: Any, name: str) -> Any:
        """Check an enumerator."""
        raise NotImplementedError
'''


def emit(api: Api) -> str:
    """Return the text of `_generated/constructors.py` without its banner."""
    functions = constructors.constructors(api)
    kinds = sorted({_enum(p) for f in functions for p in f.params if p.type.startswith("enum ")})
    head = _HEAD % "".join(f"        {kind},\n" for kind in kinds)
    return head + "".join("\n" + _method(function) for function in functions)


def _method(function: Function) -> str:
    params = function.params[1:]
    names = [_name(function, index) for index in range(1, len(function.params))]
    values = [_value(function, param, name) for param, name in zip(params, names, strict=True)]
    signature = [f"{name}: {_type(function, param)}" for param, name in zip(params, names, strict=True)]
    line = f"    def {naming.function_name(function)[1]}(self, {', '.join(signature)}) -> T:"
    if len(line) > 120:
        line = f"    def {naming.function_name(function)[1]}(\n        self,\n"
        line += "".join(f"        {part},\n" for part in signature) + "    ) -> T:"
    arguments = [f"lib.{function.name}", *values]
    call = f"        return self._make({', '.join(arguments)})"
    if len(call) > 120:
        call = "        return self._make(\n" + "".join(f"            {part},\n" for part in arguments) + "        )"
    return f"{line}\n{_docstring(function)}\n{call}\n"


def _name(function: Function, index: int) -> str:
    return naming.camel(argument(function, index))


def _enum(param: Param) -> str:
    return naming.class_name(param.type.removeprefix("enum "))


def _is_tensor(param: Param) -> bool:
    return bool(re.fullmatch(r"(const )?struct ggml_tensor \*", param.type))


def _optional(function: Function, param: Param) -> bool:
    return (function.name, param.name) in constructors.OPTIONAL


def _type(function: Function, param: Param) -> str:
    if _is_tensor(param):
        return "T | None" if _optional(function, param) else "T"
    if param.type.startswith("enum "):
        return _enum(param)
    if param.name in constructors.ARRAYS:
        return "Sequence[int]"
    if param.type in ("bool", "float"):
        return param.type
    if param.type in INTEGERS:
        return "int"
    raise CodegenError(
        f"{function.header}: {function.name} takes {param.type} {param.name}, which no generated method can: add it "
        "to BY_HAND in codegen/rules/constructors.py"
    )


def _value(function: Function, param: Param, name: str) -> str:
    if _is_tensor(param):
        return f'self._tensor({name}, "{name}"{", optional=True" if _optional(function, param) else ""})'
    if param.type.startswith("enum "):
        return f'self._enum(enums.{_enum(param)}, {name}, "{name}")'
    if param.name in constructors.ARRAYS:
        count, ctype = constructors.ARRAYS[param.name]
        low, high = constructors.RANGES.get(param.name, constructors.RANGES["ne0"])
        return f'int_array({name}, "{ctype}", {count}, {low}, {high}, "{name}")'
    if param.type == "bool":
        return f'boolean({name}, "{name}")'
    if param.type == "float":
        return f'number({name}, "{name}")'
    bits, signed = INTEGERS[param.type]
    low, high = constructors.integer_range(function, param)
    return f'integer({name}, {low}, {min(high, (1 << (bits - signed)) - 1)}, "{name}")'


def _docstring(function: Function) -> str:
    first = constructors.summary(function)
    header = [_clean(line) for line in function.doc.splitlines()]
    if not first:
        first = f"A tensor by `{function.name}`."
    lines = [first]
    if any(header):  # text that is laid out by hand is shown as it is
        literal = any(line.startswith(" ") for line in header)
        lines += ["", *(["::", "", *(f"  {line}" for line in header)] if literal else header)]
    lines += ["", f"Maps to `{function.name}`."]
    wrapped = [part for line in lines for part in _wrapped(line)]
    body = "\n".join(f"        {line}".rstrip() for line in wrapped)
    return f'        """{body.lstrip()}\n        """'


def _wrapped(line: str) -> list[str]:
    """Break a long line; its parts are indented alike."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, 110, subsequent_indent=indent, break_long_words=False) or [""]


def _clean(line: str) -> str:
    return line.rstrip().replace("\\", "\\\\").replace('"""', "'''")
