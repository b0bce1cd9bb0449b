"""Values of the interpreter: structs, functions and scopes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.chat.cpp.tokens import Unsupported


class Record(dict[str, Any]):
    """A struct: its fields, by name."""

    def get_field(self, name: str) -> Any:
        if name not in self:
            raise Unsupported(f"the field {name}")
        return self[name]


@dataclass
class Function:
    """A function or a lambda: its parameters with the positions of their defaults, and the position of its body."""

    name: str
    parameters: list[tuple[str, int | None]]
    body: int
    end: int
    scope: Scope | None = None


class Scope(dict[str, Any]):
    def __init__(self, outer: Scope | None = None) -> None:
        super().__init__()
        self.outer = outer

    def find(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope:
                return scope[name]
            scope = scope.outer
        raise Unsupported(f"the name {name}")

    def assign(self, name: str, value: Any) -> None:
        scope: Scope | None = self
        while scope is not None and name not in scope:
            scope = scope.outer
        (self if scope is None else scope)[name] = value


class Skipped(NamedTuple):
    """A statement that could not be run: the positions of its tokens, and why."""

    start: int
    end: int
    reason: str


class Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


def copied(value: Any) -> Any:
    """Return a copy of a struct or a list: C++ copies them where they are assigned."""
    return copy.deepcopy(value) if isinstance(value, Record | list) else value
