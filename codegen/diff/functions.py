"""Lists the changes of functions between two versions of the API."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from codegen.api.model import Api, Function, Param, declare
from codegen.diff import renames
from codegen.diff.change import Change


def changes(old: Api, new: Api) -> Iterable[Change]:
    """Yield every change of a function."""
    before = {function.name: function for function in old.functions}
    after = {function.name: function for function in new.functions}
    gone = [function for name, function in before.items() if name not in after]
    hinted = {function.name: name for function in gone for name in [successor(function, after)] if name}
    guessed = renames.functions(
        [function for function in gone if function.name not in hinted],
        [function for name, function in after.items() if name not in before and name not in hinted.values()],
    )
    for function in gone:
        other = hinted.get(function.name) or guessed.get(function.name)
        hint = function.deprecated or ""
        if other is None:
            yield Change("removed", "function", function.name, function.header, old=prototype(function), hint=hint)
            continue
        texts = prototype(function), prototype(after[other])
        sure = function.name in hinted
        yield Change("renamed", "function", function.name, function.header, *texts, detail=other, hint=hint, sure=sure)
    for name, function in after.items():
        if name in before:
            yield from _changed(before[name], function)
        elif name not in guessed.values():
            hint = function.deprecated or ""
            yield Change("added", "function", name, function.header, new=prototype(function), hint=hint)


def successor(function: Function, after: Mapping[str, Function]) -> str | None:
    """Return the function that the deprecation hint recommends, if the newer header has it."""
    words = re.findall(r"\buse `?((?:llama|ggml|gguf)_\w+)", function.deprecated or "", re.IGNORECASE)
    return next((word for word in words if word in after and word != function.name), None)


def prototype(function: Function) -> str:
    """Return the declaration as C text. Unlike `c_text.prototype`, unnamed parameters stay unnamed."""
    params = [declare(param.type, param.name) for param in function.params] + ["..."] * function.variadic
    return declare(function.returns, f"{function.name}({', '.join(params) or 'void'})")


def _changed(old: Function, new: Function) -> Iterable[Change]:
    texts = prototype(old), prototype(new)
    if shape(old) != shape(new):
        yield Change("signature", "function", new.name, new.header, *texts, detail=_difference(old, new))
    else:
        detail = _names(old.params, new.params)
        if detail:
            yield Change("parameter names", "function", new.name, new.header, *texts, detail=detail)
    if old.header != new.header:
        yield Change("header", "function", new.name, new.header, old.header, new.header)
    if old.deprecated != new.deprecated:
        detail = "" if old.deprecated is None else "no longer" if new.deprecated is None else "another hint"
        hint = new.deprecated or old.deprecated or ""
        yield Change("deprecated", "function", new.name, new.header, *texts, detail=detail, hint=hint)


def shape(function: Function) -> tuple[str, tuple[str, ...], bool]:
    """Return the types of a function: its result, its parameters, and True if it is variadic."""
    return function.returns, tuple(param.type for param in function.params), function.variadic


def _difference(old: Function, new: Function) -> str:
    """Describe what changed in a signature."""
    before = {param.name: param.type for param in old.params if param.name}
    after = {param.name: param.type for param in new.params if param.name}
    parts: list[str] = []
    if old.returns != new.returns:
        parts.append(f"returns {new.returns}, was {old.returns}")
    parts += [f"parameter {name} removed" for name in before if name not in after]
    parts += [f"parameter {name} ({ctype}) added" for name, ctype in after.items() if name not in before]
    common = [name for name in before if name in after]
    parts += [f"{name} is {after[name]}, was {before[name]}" for name in common if before[name] != after[name]]
    if common != [name for name in after if name in before]:
        parts.append("parameters in another order")
    if old.variadic != new.variadic:
        parts.append("takes further arguments" if new.variadic else "takes no further arguments")
    return "; ".join(parts) or "parameter types changed"


def _names(old: tuple[Param, ...], new: tuple[Param, ...]) -> str:
    """Describe the renaming of parameters whose types stayed. A name that was added or removed does not count."""
    pairs = [(a.name, b.name) for a, b in zip(old, new, strict=True) if a.name != b.name and a.name and b.name]
    if not pairs:
        return ""
    before = {param.name for param in old}
    if any(b in before for _, b in pairs):
        return "permuted: " + ", ".join(f"{a} is now {b}" for a, b in pairs)
    return ", ".join(f"{a} is now {b}" for a, b in pairs)
