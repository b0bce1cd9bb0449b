"""Compares arguments with the annotations of a function, to say which one made Python raise an error inside it."""

from __future__ import annotations

import inspect
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Number
from typing import Any, Literal, get_origin

from llama_cffi._generated import enums

_INTEGERS = ("int", "Token", "SeqId", "Pos")
_ITEMS = ("Sequence", "Iterable", "list", "tuple", "Iterator", "Collection")
_MAPPINGS = ("Mapping", "dict")
_BUFFERS = ("OutBuffer", "Buffer", "TokenSequence")
_NAMES = {
    **dict.fromkeys(_INTEGERS, "an integer"),
    "float": "a number",
    "str": "a str",
    "bytes": "bytes",
    "bool": "True or False",
    "BoolLike": "True or False",
    "StrOrBytes": "a str or bytes",
    "StrPath": "a path",
    "None": "None",
}


def wrong_type(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    """Return the message for the first argument of a wrong type by its annotation, or "" if there is none."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*arguments, **keywords).arguments
    except TypeError:
        return ""
    values = [
        (name, str(parameter.annotation).strip("\"'"), one)
        for name, value in bound.items()
        if (parameter := signature.parameters[name]).annotation is not parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        for one in (value if parameter.kind is parameter.VAR_POSITIONAL else [value])
    ]
    for name, annotation, one in values:
        problem = _problem(annotation, one, function)
        if problem:
            return f"{name} must be {problem}"
    for name, annotation, one in values:
        if _is_odd(annotation, one):
            return f"{name} must be a number, got {type(one).__name__}: int() converts it"
    return ""


def _is_odd(annotation: str, value: Any) -> bool:
    """Return True if a number is expected, and the value only converts to one."""
    for kind in _split(annotation, "|"):
        outer, inner = _parts(kind)
        if outer in _ITEMS and inner and isinstance(value, (list, tuple)):
            return any(_is_odd(inner[0], one) for one in value)
        if kind in (*_INTEGERS, "float") and hasattr(value, "__index__") and not isinstance(value, Number):
            return True
    return False


def _problem(annotation: str, value: Any, function: Any) -> str:
    """Return what was expected and what came; "" if the value fits."""
    kinds = _split(annotation, "|")
    if any(_fits(kind, value, function) for kind in kinds):
        return ""
    expected = [_described(kind) for kind in dict.fromkeys(kinds)]
    text = " or ".join(dict.fromkeys(expected))
    for kind in kinds:
        outer, inner = _parts(kind)
        if outer in _ITEMS and isinstance(value, (list, tuple)) and inner:
            wrong = next(one for one in value if not _fits_any(inner[0], one, function))
            return f"{text}, got an item of type {type(wrong).__name__}"
    return f"{text}, got {type(value).__name__}"


def _fits_any(annotation: str, value: Any, function: Any) -> bool:
    return any(_fits(kind, value, function) for kind in _split(annotation, "|"))


def _fits(kind: str, value: Any, function: Any) -> bool:
    """Return False only if a value certainly has the wrong type."""
    outer, inner = _parts(kind)
    if kind == "Any":
        return True
    if kind in _INTEGERS:
        return _converts(operator.index, value)
    if kind == "float":
        return _converts(float, value) and not isinstance(value, (str, bytes, bytearray))
    if kind in ("bool", "BoolLike"):
        return type(value).__name__ in ("bool", "bool_", "int")  # bool_: numpy's, in version 1
    if kind == "None":
        return value is None
    if kind in ("str", "bytes"):
        return type(value).__name__ == kind or isinstance(value, str if kind == "str" else bytes)
    if kind == "StrOrBytes":
        return isinstance(value, (str, bytes, bytearray, memoryview))
    if kind == "StrPath":
        return isinstance(value, (str, bytes, os.PathLike))
    if outer in _MAPPINGS:
        return isinstance(value, Mapping)
    if outer in _ITEMS:
        if not isinstance(value, Iterable) or isinstance(value, Mapping):
            return False
        if isinstance(value, str) and inner and inner[0] in _INTEGERS:
            return False
        if outer == "Sequence" and not hasattr(value, "__len__"):
            return False
        if hasattr(value, "__array_interface__") and inner:  # an array of numpy
            return all(one in (*_INTEGERS, "float") for one in _split(inner[0], "|"))
        checkable = isinstance(value, (list, tuple)) and inner and inner[0] != "Any"
        return not checkable or all(_fits_any(inner[0], one, function) for one in value)
    if kind in _BUFFERS:
        return not (value is None or isinstance(value, (int, float, complex, type, str, Mapping)) or callable(value))
    if outer == "Callable":
        return callable(value)
    if outer == "Literal":
        return isinstance(value, str)
    name = kind.split(".")[0]
    cls = function.__globals__.get(name) or getattr(sys.modules["llama_cffi"], name, None) or getattr(enums, name, None)
    if get_origin(cls) is Literal:
        return isinstance(value, str)
    if isinstance(cls, type) and hasattr(cls, "__members__") and isinstance(value, int):
        return True
    return not isinstance(cls, type) or "." in kind or isinstance(value, cls)


def _converts(convert: Callable[[Any], object], value: Any) -> bool:
    try:
        convert(value)
    except OverflowError:  # an int that is too large for a float
        return True
    except Exception:  # an object may raise anything
        return False
    return True


def _described(kind: str) -> str:
    outer, inner = _parts(kind)
    if outer in _MAPPINGS:
        return "a dict"
    if outer in _ITEMS:
        return "a list" + (f" of {inner[0]}" if inner else "")
    if kind in _BUFFERS:
        return "a buffer" if kind != "TokenSequence" else "a list of tokens"
    if outer == "Callable":
        return "a function"
    if outer == "Literal":
        return " or ".join(inner)
    return _NAMES.get(kind) or f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def _parts(kind: str) -> tuple[str, list[str]]:
    """Split `Sequence[str]` into `Sequence` and its arguments."""
    outer, bracket, rest = kind.partition("[")
    return outer, _split(rest[:-1], ",") if bracket else []


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator that is in no brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "[(") - (character in ")]")
        if character == separator and not depth:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]
