"""Statements: declarations, assignments, blocks, `if` and loops over ranges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chat.cpp.expressions import Expressions
from tests.chat.cpp.tokens import Token, Unsupported
from tests.chat.cpp.values import Function, Record, Return, Scope, Skipped, copied


@dataclass
class Interpreter(Expressions):
    """Runs one source file. `structs` makes values of known types; `names` are functions and constants in Python."""

    tokens: list[Token]
    structs: dict[str, Callable[[list[Any]], Any]]
    names: dict[str, Any]
    skipped: list[Skipped] = field(default_factory=list)
    called: set[int] = field(default_factory=set)  # the positions of names that were called
    at: int = 0

    def __post_init__(self) -> None:
        self.globals = Scope()
        self.globals.update(self.names)
        self.scope = self.globals
        while self.peek().kind != "end":
            self._statement(tolerant=True, top=True)

    def call(self, name: str) -> Scope:
        """Run a test function without arguments, statement by statement, and return its variables."""
        function = self.globals.find(name)
        scope = Scope(self.globals)
        for parameter, _ in function.parameters:
            scope[parameter] = False
        with self.moved(function.body, scope), contextlib.suppress(Return):
            self.block(tolerant=True)
        return scope

    def block(self, tolerant: bool) -> None:
        self.expect("{")
        while not self.take("}"):
            if self.peek().kind == "end":
                raise Unsupported("an open block")
            self._statement(tolerant)

    def _statement(self, tolerant: bool, top: bool = False) -> None:
        start = self.at
        scope = self.scope
        try:
            if top and self._function():
                return
            self._run_statement(tolerant)
        except Unsupported as error:
            self.scope = scope
            if not tolerant:
                raise
            self.at = start
            self.skip_statement()
            if self.at == start:
                self.at += 1
            self.skipped.append(Skipped(start, self.at, str(error)))

    def _run_statement(self, tolerant: bool) -> None:
        if self.is_sign("{"):
            with self.moved(self.at, Scope(self.scope)) as inner:
                self.block(tolerant)
                inner.keep()
        elif self.take("for"):
            self._loop(tolerant)
        elif self.take("if"):
            self._if(tolerant)
        elif self.take("return"):
            raise Return(None if self.is_sign(";") else self.expression())
        elif self.is_sign("struct", "class", "template", "enum", "namespace"):
            self.skip_statement()
        elif self.take(";"):
            pass
        elif not self._declaration() and not self._assignment():
            self.expression()
            self.expect(";")

    def _loop(self, tolerant: bool) -> None:
        self.expect("(")
        self._type()
        names = []
        if self.take("["):
            while not self.take("]"):
                names.append(self.next().value)
                self.take(",")
        else:
            names.append(self.next().value)
        self.expect(":")
        items = self.expression()
        self.expect(")")
        body = self.at
        for item in items:
            scope = Scope(self.scope)
            scope.update({names[0]: item} if len(names) == 1 else dict(zip(names, item, strict=True)))
            with self.moved(body, scope):
                self._statement(tolerant)
        self._skip_body()

    def _if(self, tolerant: bool) -> None:
        self.expect("(")
        value = self.expression()
        self.expect(")")
        for chosen in (bool(value), not value):
            if chosen:
                self._statement(tolerant)
            else:
                self._skip_body()
            if not self.take("else"):
                return

    def _skip_body(self) -> None:
        if self.is_sign("{"):
            self.skip_balanced()
        else:
            self.skip_statement()

    def _assignment(self) -> bool:
        """Run `name = value`, where the name may have fields and keys behind it, if there is one here."""
        start = self.at
        name = self.next()
        keys: list[Any] = []
        while name.kind == "name" and self.is_sign(".", "["):
            if self.take("["):
                keys.append(self.expression())
                self.expect("]")
            else:
                self.expect(".")
                keys.append(self.next().value)
        if not self.take("="):
            self.at = start
            return False
        value = copied(self.expression())
        self.expect(";")
        if not keys:
            self.scope.assign(name.value, value)
            return True
        owner = self.scope.find(name.value)
        for key in keys[:-1]:
            owner = owner.get_field(key) if isinstance(owner, Record) else owner[key]
        if not isinstance(owner, Record):
            raise Unsupported(f"an assignment to {keys[-1]} of a {type(owner).__name__}")
        owner[keys[-1]] = value
        return True

    def _declaration(self) -> bool:
        start = self.at
        try:
            kind = self._type()
        except Unsupported:
            kind = ""
        name = self.peek()
        follows = self.peek(1).value if self.peek(1).kind == "sign" else ""
        if not kind or name.kind != "name" or follows not in ("=", "{", "(", ";"):
            self.at = start
            return False
        self.at += 1
        if self.take("="):
            value = self.converted(kind, copied(self.expression()))
        elif self.is_sign("{"):
            value = self.converted(kind, self.items("{"))
        elif self.is_sign("("):
            value = self._called(self.scope.find(kind), kind, self.items("("))
        else:
            value = self.converted(kind, [])
        self.expect(";")
        self.scope[name.value] = value
        return True

    def _function(self) -> bool:
        """Read the definition of a function at the top of the file, if there is one here."""
        start = self.at
        try:
            self._type()
            name = self.next()
            if name.kind == "name" and self.is_sign("("):
                parameters = self._parameters()
                if self.is_sign("{"):
                    body = self.at
                    self.skip_balanced()
                    if name.value not in self.names:
                        self.globals[name.value] = Function(name.value, parameters, body, self.at)
                    return True
        except Unsupported:
            pass
        self.at = start
        return False
