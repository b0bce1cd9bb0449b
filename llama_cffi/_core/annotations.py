"""Compares arguments with the annotations of a function, to say which one made Python raise an error inside it."""

from __future__ import annotations

import inspect
import operator
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

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
    for name, value in bound.items():
        parameter = signature.parameters[name]
        annotation = str(parameter.annotation)
        if parameter.annotation is parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
            continue
        many = parameter.kind is parameter.VAR_POSITIONAL
        for one in value if many else [value]:
            problem = _problem(annotation, one, function)
            if problem:
                return f"{name} must be {problem}"
    return ""


def _problem(annotation: str, value: Any, function: Any) -> str:
    """Return what was expected and what came; "" if the value fits."""
    kinds = _split(annotation.strip("\"'"), "|")
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
        return _is_integer(value)
    if kind == "float":
        return hasattr(type(value), "__float__") or _is_integer(value)
    if kind in ("bool", "BoolLike"):
        return type(value) in (bool, int)
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
        if outer == "Sequence" and not hasattr(value, "__len__"):
            return False
        checkable = isinstance(value, (list, tuple)) and inner and inner[0] != "Any"
        return not checkable or all(_fits_any(inner[0], one, function) for one in value)
    if kind in _BUFFERS:
        return not (value is None or isinstance(value, (int, float, complex, type, str, Mapping)) or callable(value))
    if outer == "Callable":
        return callable(value)
    cls = function.__globals__.get(kind.split(".")[0]) or getattr(sys.modules["llama_cffi"], kind.split(".")[0], None)
    return not isinstance(cls, type) or "." in kind or isinstance(value, cls)


def _is_integer(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
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
