"""Judges what a change means for users: the facade's names that it affects, and the code that it breaks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from codegen.api.model import Api, Enum, Function, Record, flat_fields
from codegen.api.paths import ROOT
from codegen.diff.change import KINDS, Change
from codegen.rules import naming, policy
from codegen.rules.spec import Row

# The code that breaks, the most serious first: users of the facade, users of lib and ffi, nobody.
BREAKS = ("facade", "raw", "no")

PACKAGE = ROOT / "llama_cffi"

# Functions of llama.h that no user of the facade reaches.
_INTERNAL = frozenset(("llama_model_init_from_user", "llama_opt_init", "llama_opt_epoch", "llama_opt_param_filter_all"))


@dataclass(frozen=True)
class Finding:
    """A change with its impact. `breaks` is one of `BREAKS`, `why` the reason as a clause."""

    change: Change
    facade: tuple[str, ...]
    breaks: str
    why: str

    @property
    def rank(self) -> tuple[int, int, str, str]:
        """The sort key: the most serious change first, and changes of one owner together."""
        change = self.change
        return BREAKS.index(self.breaks), KINDS.index(change.kind), change.header, change.owner or change.name


@dataclass(frozen=True)
class Facade:
    """The part of the C API that the hand-written package exposes, read from its source without importing it."""

    package: Path = PACKAGE

    @cached_property
    def functions(self) -> frozenset[str]:
        """The C functions that the facade calls."""
        texts = (path.read_text(encoding="utf-8") for path in self._modules())
        return frozenset(name for text in texts for name in re.findall(r"\blib\.(\w+)", text))

    def _modules(self) -> Iterable[Path]:
        return (path for path in sorted(self.package.rglob("*.py")) if "_generated" not in path.parts)

    @cached_property
    def names(self) -> frozenset[str]:
        """The public names of the package and of `Ggml`."""
        names = _lazy_names(self.package / "__init__.py")
        return frozenset(names | {f"Ggml.{name}" for name in _lazy_names(self.package / "ggml" / "__init__.py")})

    def has_type(self, name: str) -> bool:
        """Return True if the facade has a class, which may be nested (`Model.Params`)."""
        outer = name if name.startswith("Ggml.") else name.partition(".")[0]
        return outer in self.names


def _lazy_names(path: Path) -> set[str]:
    """Return the names that a package makes at their first use."""
    table = _assigned(path, "_MODULES")
    return {str(name) for group in table.values() for name in group} if isinstance(table, dict) else set()


def _assigned(path: Path, name: str) -> object:
    """Return the literal that a module assigns to a name; None if there is none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return ast.literal_eval(node.value)
    return None


class Impact:
    """Judges the impact of the changes between two versions."""

    def __init__(self, old: Api, new: Api, spec: Iterable[Row] = (), facade: Facade | None = None) -> None:
        self._old, self._new = _Side(old), _Side(new)
        self._facade = facade or Facade()
        self._spec: dict[str, list[Row]] = {}
        for row in spec:
            self._spec.setdefault(row.c_name, []).append(row)

    def findings(self, changes: Iterable[Change]) -> list[Finding]:
        """Return the changes with their impact, the most serious first."""
        return sorted((self.judge(change) for change in changes), key=lambda finding: finding.rank)

    def judge(self, change: Change) -> Finding:
        """Return one change with its impact."""
        match change.what:
            case "function":
                return self._function(change)
            case "field" | "default":
                return self._field(change)
            case "enum" | "enumerator":
                return self._enum(change)
            case _:
                return self._other(change)

    # Functions

    def _shown(self, function: Function) -> bool:
        owner, _ = naming.function_name(function)
        if owner and not self._facade.has_type(owner):
            return False
        if function.name in self._facade.functions or function.name in self._spec:
            return True
        bound = (
            policy.left_out(replace(function, home="some")) is None
        )  # source trees do not say which functions a library exports
        return bound and function.header == "llama.h" and not function.deprecated and function.name not in _INTERNAL

    def _function_names(self, name: str) -> tuple[str, ...]:
        sides = [side.functions[name] for side in (self._old, self._new) if name in side.functions]
        if not any(map(self._shown, sides)):
            return ()
        rule = ".".join(filter(None, naming.function_name(sides[0])))
        return tuple(dict.fromkeys([rule, *(row.name for row in self._spec.get(name, ()))]))

    def _stays(self, change: Change, names: tuple[str, ...]) -> str:
        """Return the function that keeps the facade's names of a removed function; empty if there is none."""
        for row in naming.EXCEPTIONS:
            if row.c_name == change.name and row.absent in self._new.functions:
                return row.absent
        others = (f for f in self._new.functions.values() if self._shown(f))
        return next((f.name for f in others if ".".join(filter(None, naming.function_name(f))) in names), "")

    def _function(self, change: Change) -> Finding:
        names = self._function_names(change.name)
        successor = f"; use {change.detail}" if change.kind == "renamed" else ""
        if change.kind in ("removed", "renamed"):
            stand_in = self._stays(change, names) if names else ""
            if stand_in:
                return Finding(
                    change,
                    names,
                    "raw",
                    f"lib.{change.name} was removed; the facade keeps its name and calls {stand_in}",
                )
            if names:
                return Finding(change, names, "facade", f"{names[0]} was removed{successor}")
            return Finding(change, names, "raw", f"lib.{change.name} was removed{successor}")
        if change.kind == "signature":
            sides = self._old.functions[change.name], self._new.functions[change.name]
            if _called(sides[0]) == _called(sides[1]):
                return Finding(change, names, "no", f"calls need no change: {change.detail}")
            return Finding(change, names, "raw", f"calls of lib.{change.name} must change: {change.detail}")
        if change.kind == "parameter names":
            if change.detail.startswith("permuted"):
                return Finding(change, names, "raw", f"DANGEROUS: same types in another order, {change.detail}")
            return Finding(change, names, "no", "C has no keyword arguments")
        if change.kind == "deprecated":
            return Finding(change, names, "no", "it still works")
        return Finding(change, names, "no", "new" if change.kind == "added" else "cffi does not use headers")

    # Fields and defaults

    def _field(self, change: Change) -> Finding:
        tag, _, name = change.name.partition(".")
        record = self._new.records.get(tag) or self._old.records[tag]
        owner = naming.type_name(tag)
        if not self._facade.has_type(owner) or tag in policy.HANDLES or tag.endswith("_i"):
            return self._raw_field(change)
        virtual = naming.VIRTUAL_FIELDS.get((owner, name))
        rule = virtual[0] if virtual else naming.field_name(record, name)
        in_spec = [row.name for row in self._spec.get(name, ()) if row.name.rpartition(".")[0] == owner]
        names = tuple(dict.fromkeys([f"{owner}.{rule}", *in_spec]))
        if change.kind == "default":
            return Finding(change, names, "facade", "code that does not set it gets another value")
        if change.detail in ("field removed", "field renamed"):
            if virtual and self._new.has_field(virtual[1]):
                return Finding(change, names, "raw", f"the facade keeps its name and uses {virtual[1]}")
            return Finding(change, names, "facade", f"{names[0]} was removed")
        if change.detail == "field type changed" and not _same_in_python(change):
            return Finding(change, names, "facade", f"{names[0]} takes another type")
        return self._raw_field(change, names)

    def _raw_field(self, change: Change, names: tuple[str, ...] = ()) -> Finding:
        if change.detail == "field added":
            return Finding(change, names, "no", "new")
        if change.kind == "default":
            return Finding(change, names, "raw", "code that does not set it gets another value")
        return Finding(change, names, "raw", f"code that uses {change.name} must change")

    # Enumerations

    def _enum(self, change: Change) -> Finding:
        spelling = change.owner or change.name
        enum = self._new.enums.get(spelling) or self._old.enums.get(spelling)
        owner = naming.type_name(enum.tag or enum.alias) if enum and enum.spelling else ""
        shown = bool(owner) and self._facade.has_type(owner)
        if change.what == "enum":
            names: tuple[str, ...] = (owner,) if shown else ()
            if change.kind == "added":
                return Finding(change, names, "no", "new")
            why = f"{owner} was removed" if shown else "its names were removed from lib"
            return Finding(change, names, "facade" if shown else "raw", why)
        names = self._member(spelling, change.name, owner) if shown else ()
        if change.detail in ("added", "count changed"):
            return Finding(change, names, "no", "new" if change.detail == "added" else "it only counts the others")
        why = {
            "renumbered": "stored or hard-coded numbers have another meaning",
            "removed": "the name was removed",
        }.get(change.detail, "the name has changed")
        return Finding(change, names, "facade" if names else "raw", why)

    def _member(self, spelling: str, c_name: str, owner: str) -> tuple[str, ...]:
        for side in (self._new, self._old):
            enum = side.enums.get(spelling)
            if enum is not None and any(member.name == c_name for member in enum.members):
                rule = f"{owner}.{naming.member_names(enum)[c_name]}"
                return tuple(dict.fromkeys([rule, *(row.name for row in self._spec.get(c_name, ()))]))
        return ()

    # Everything else

    def _other(self, change: Change) -> Finding:
        c_name = change.name.rpartition(" ")[2]
        name = naming.constant_name(c_name) if change.what == "constant" else naming.type_name(c_name)
        names = (
            (name,)
            if (self._facade.has_type(name) and (change.what != "constant" or name in self._facade.names))
            else ()
        )
        gone = "facade" if names else "raw"
        match change.kind:
            case "added":
                return Finding(change, names, "no", "new")
            case "removed" | "renamed":
                return Finding(change, names, gone, f"{name} was removed" if names else f"{c_name} was removed")
            case "constant value":
                return Finding(change, names, gone, _why_constant(c_name))
            case "macro to enumerator":
                same = change.old == change.new
                return Finding(
                    change, names, "no" if same else gone, "lib has the same number" if same else "another number"
                )
            case "typedef":
                return Finding(change, names, "raw", "code that creates or passes one must change")
            case _:
                return Finding(
                    change, names, "raw", "code that fills it by position, copies its bytes or depends on its size"
                )


class _Side:
    """One of the two versions, by C name."""

    def __init__(self, api: Api) -> None:
        self.functions: dict[str, Function] = {function.name: function for function in api.functions}
        self.records: dict[str, Record] = {record.tag or record.alias: record for record in api.records}
        self.enums: dict[str, Enum] = {enum.spelling: enum for enum in api.enums if enum.spelling}

    def has_field(self, path: str) -> bool:
        tag, _, name = path.partition(".")
        return tag in self.records and any(field.name == name for field in flat_fields(self.records[tag]))


def _called(function: Function) -> tuple[object, ...]:
    """Return the types that matter to a caller, without the differences between `int` and `int32_t`, and of `const`."""
    types = (function.returns, *(param.type for param in function.params))
    plain = (re.sub(r"\bint\b", "int32_t", re.sub(r"\bconst\b", "", ctype)) for ctype in types)
    return *("".join(ctype.split()) for ctype in plain), function.variadic


def _why_constant(c_name: str) -> str:
    if c_name.endswith("_VERSION") and "RPC" not in c_name:
        return "files written by the other version may be rejected"
    if "RPC_PROTO" in c_name:
        return "client and worker must have the same version"
    return "stored or hard-coded numbers have another meaning"


def _same_in_python(change: Change) -> bool:
    """Return True if a field with a new type still has the same kind for Python: a pointer, an integer, ..."""
    return _kind(change.old) == _kind(change.new)


def _kind(declaration: str) -> str:
    if "*" in declaration or "[" in declaration:
        return "pointer"
    words = declaration.split()[:-1]
    if words[:1] == ["enum"]:
        return " ".join(words)
    for kind, among in (("bool", {"bool", "_Bool"}), ("float", {"float", "double"}), ("struct", {"struct", "union"})):
        if among & set(words):
            return kind
    return "int"
