"""Expressions: literals, names, calls, members, lists in braces, lambdas and a few operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chat.cpp.tokens import CLOSING, Cursor, Unsupported
from tests.chat.cpp.values import Function, Return, Scope, copied

_BINARY = [(), ("||",), ("&&",), ("==", "!="), ("<", ">", "<=", ">="), ("+", "-")]
_METHODS: dict[str, Callable[..., Any]] = {
    "empty": lambda value: len(value) == 0,
    "size": len,
    "push_back": lambda value, item: value.append(item),
    "c_str": lambda value: value,
    "get": lambda value: value,
    "find": lambda value, text: value.find(text),
}


class Expressions(Cursor):
    """Evaluates the expression at the cursor."""

    structs: dict[str, Callable[[list[Any]], Any]]
    globals: Scope
    scope: Scope
    called: set[int]

    def block(self, tolerant: bool) -> None:
        """Run the block at the cursor."""
        raise NotImplementedError

    def moved(self, position: int, scope: Scope) -> Moved:
        return Moved(self, position, scope)

    def expression(self, level: int = 0) -> Any:
        if level == 0:
            value = self.expression(1)
            return self._choice(value) if self.take("?") else value
        if level == len(_BINARY):
            return self._unary()
        left = self.expression(level + 1)
        while self.is_sign(*_BINARY[level]):
            sign = self.next().value
            if sign in ("||", "&&") and bool(left) == (sign == "||"):
                before = len(self.skipped)
                self.expression(level + 1)
                del self.skipped[before:]
            else:
                left = self._operate(sign, left, self.expression(level + 1))
        return left

    def _choice(self, condition: Any) -> Any:
        first = self.expression()
        self.expect(":")
        second = self.expression()
        return first if condition else second

    def _operate(self, sign: str, left: Any, right: Any) -> Any:
        operations: dict[str, Callable[[], Any]] = {
            **{"||": lambda: bool(right), "&&": lambda: bool(right), "==": lambda: left == right},
            **{"!=": lambda: left != right, "<": lambda: left < right, ">": lambda: left > right},
            **{"<=": lambda: left <= right, ">=": lambda: left >= right, "+": lambda: left + right},
            "-": lambda: left - right,
        }
        try:
            return operations[sign]()
        except TypeError as error:
            raise Unsupported(f"{sign!r}: {error}") from None

    def _unary(self) -> Any:
        if self.take("!"):
            value = self._unary()
            return value.negated() if hasattr(value, "negated") else not value
        if self.take("-"):
            return -self._unary()
        value = self._primary()
        while True:
            if self.is_sign("."):
                value = self._member(value)
            elif self.is_sign("("):
                value = self._called(value, "a value", self.items("("))
            else:
                return value

    def _member(self, value: Any) -> Any:
        self.expect(".")
        name = self.next().value
        if not self.is_sign("("):
            return value.get_field(name) if hasattr(value, "get_field") else self._no_member(value, name)
        self.called.add(self.at - 1)
        arguments = self.items("(")
        if name in _METHODS and isinstance(value, str | list | dict):
            return _METHODS[name](value, *arguments)
        method = getattr(value, "call_" + name, None)
        return method(*arguments) if method is not None else self._no_member(value, name)

    def _no_member(self, value: Any, name: str) -> Any:
        raise Unsupported(f"{name} of a {type(value).__name__}")

    def _primary(self) -> Any:
        token = self.peek()
        if token.kind == "text":
            return self.next().value
        if token.kind == "number":
            return float(self.next().value) if "." in token.value else int(self.next().value)
        if self.is_sign("{"):
            return self.items("{")
        if self.is_sign("["):
            return self._lambda()
        if self.take("("):
            value = self.expression()
            self.expect(")")
            return value
        if token.kind != "name":
            raise Unsupported(f"the expression {token.value!r}")
        return self._name()

    def _name(self) -> Any:
        name = self.next().value
        while self.take("::"):
            name = self.next().value
        self.called.add(self.at - 1)
        if name in ("true", "false", "nullptr"):
            return {"true": True, "false": False}.get(name)
        if self.is_sign("<") and name in ("vector", "map", "pair"):
            self._skip_angles()
        if self.is_sign("{"):
            return self.converted(name, self.items("{"))
        if name in ("string", "vector", "move") and self.is_sign("("):
            arguments = self.items("(")
            if len(arguments) != 1:
                raise Unsupported(f"{name} of {len(arguments)} arguments")
            return arguments[0]
        return self.scope.find(name)

    def _lambda(self) -> Function:
        self.skip_balanced()  # the captures
        parameters = self._parameters() if self.is_sign("(") else []
        body = self.at
        self.skip_balanced()
        return Function("a lambda", parameters, body, self.at, self.scope)

    def items(self, opening: str) -> list[Any]:
        """Read the values between two brackets."""
        self.expect(opening)
        found = []
        while not self.take(CLOSING[opening]):
            found.append(self.expression())
            if not self.take(",") and not self.is_sign(CLOSING[opening]):
                raise Unsupported(f"{self.peek().value!r} in a list")
        return found

    def _called(self, function: Any, name: str, arguments: list[Any]) -> Any:
        if not isinstance(function, Function):
            if not callable(function):
                raise Unsupported(f"a call of {name}")
            return function(*arguments)
        scope = Scope(function.scope or self.globals)
        for index, (parameter, default) in enumerate(function.parameters):
            if index < len(arguments):
                scope[parameter] = copied(arguments[index])
            elif default is not None:
                with self.moved(default, self.globals):
                    scope[parameter] = self.expression()
            else:
                raise Unsupported(f"a call of {function.name} without {parameter}")
        with self.moved(function.body, scope):
            try:
                self.block(tolerant=False)
            except Return as end:
                return end.value
        return None

    def converted(self, kind: str, value: Any) -> Any:
        """Return a value of a type, made of a list in braces where it is one."""
        if kind in ("string", "char") and value == []:
            return ""
        return self.structs[kind](value) if kind in self.structs and type(value) is list else value

    def _skip_angles(self) -> None:
        depth = 0
        while True:
            value = self.next().value
            depth += (value == "<") - (value == ">")
            if depth == 0:
                return
            if value in (";", "{", ""):
                raise Unsupported("a comparison")

    def _type(self) -> str:
        """Read a type, and return the last part of its name: `std::vector<X> &` is "vector"."""
        while self.take("static") or self.take("const") or self.take("constexpr") or self.take("inline"):
            pass
        if self.peek().kind != "name":
            raise Unsupported(f"{self.peek().value!r} in place of a type")
        name = self.next().value
        while self.take("::"):
            name = self.next().value
        if self.is_sign("<"):
            self._skip_angles()
        while self.take("const") or self.take("&") or self.take("*"):
            pass
        return str(name)

    def _parameters(self) -> list[tuple[str, int | None]]:
        found: list[tuple[str, int | None]] = []
        self.expect("(")
        while not self.take(")"):
            if self._type() == "void" and self.is_sign(")"):
                continue
            name, default = self.next().value, None
            if self.take("="):
                default = self.at
                while not self.is_sign(",", ")"):
                    self.skip_balanced()
            found.append((name, default))
            self.take(",")
        return found


class Moved:
    """Runs other tokens in another scope, and returns to these ones."""

    def __init__(self, interpreter: Expressions, position: int, scope: Scope) -> None:
        self.interpreter, self.position, self.inner = interpreter, position, scope

    def __enter__(self) -> Moved:
        self.before = self.interpreter.at, self.interpreter.scope
        self.interpreter.at, self.interpreter.scope = self.position, self.inner
        return self

    def keep(self) -> None:
        """Continue behind the tokens that were run."""
        self.before = self.interpreter.at, self.before[1]

    def __exit__(self, *_: object) -> None:
        self.interpreter.at, self.interpreter.scope = self.before
