"""A small interpreter for the C++ in which llama.cpp writes its chat tests: data, helper functions and calls of builders.

It knows declarations, assignments, blocks, `if`, loops over ranges, lambdas without parameters and expressions of
literals, names, calls and a few operators. Anything else raises `Unsupported`. In a test function, only the statement
that cannot be run is skipped, and `Interpreter.skipped` says which one and why.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Unsupported(Exception):
    """C++ that this interpreter does not know."""


class Token(NamedTuple):
    kind: str  # "text", "number", "name", "sign" or "end"
    value: Any
    line: int


_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*)
    |(?P<raw>(?:u8)?R"(?P<mark>[^()\\\s]*)\((?P<body>.*?)\)(?P=mark)")
    |(?P<text>(?:u8)?"(?:[^"\\]|\\.)*")
    |(?P<char>'(?:[^'\\]|\\.)+')
    |(?P<number>\d[\w.]*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>::|->|\+=|==|!=|<=|>=|&&|\|\||\+\+|--|<<|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]+)|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\n": b""}


def _unescaped(literal: str) -> str:
    def one(match: re.Match[bytes]) -> bytes:
        byte, short, long, octal, letter = match.groups()
        if short or long:
            return chr(int(short or long, 16)).encode()
        if byte or octal:
            return bytes([int(byte, 16) if byte else int(octal, 8)])
        return _LETTERS.get(letter, letter)

    return _ESCAPE.sub(one, literal.encode()).decode()


def tokenize(source: str) -> list[Token]:
    """Return the tokens of a source file, without comments and directives. Adjacent literals of text become one."""
    tokens: list[Token] = []
    line, position = 1, 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise Unsupported(f"line {line}: {source[position : position + 20]!r}")
        kind, text = match.lastgroup, match.group()
        position = match.end()
        if match["raw"] is not None:
            kind, value = "text", match["body"]
        elif match["text"] is not None:
            value = _unescaped(text[text.index('"') + 1 : -1])
        elif match["char"] is not None:
            kind, value = "text", _unescaped(text[1:-1])
        else:
            value = text
        if kind == "text" and tokens and tokens[-1].kind == "text":
            tokens[-1] = tokens[-1]._replace(value=tokens[-1].value + value)
        elif kind != "space":
            tokens.append(Token(str(kind), value, line))
        line += text.count("\n")
    tokens.append(Token("end", "", line))
    return tokens


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


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


_CLOSING = {"(": ")", "[": "]", "{": "}"}
_BINARY = [(), ("||",), ("&&",), ("==", "!="), ("<", ">", "<=", ">="), ("+", "-")]
_METHODS: dict[str, Callable[..., Any]] = {
    "empty": lambda value: len(value) == 0,
    "size": len,
    "push_back": lambda value, item: value.append(item),
    "c_str": lambda value: value,
    "get": lambda value: value,
    "find": lambda value, text: value.find(text),
}


@dataclass
class Interpreter:
    """Runs one source file. `structs` makes the values of known types; `names` are functions and constants in Python."""

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

    # Tokens.

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def is_sign(self, *values: str) -> bool:
        return self.peek().kind in ("sign", "name") and self.peek().value in values

    def take(self, value: str) -> bool:
        found = self.is_sign(value)
        self.at += found
        return found

    def expect(self, value: str) -> None:
        if not self.take(value):
            raise Unsupported(f"{self.peek().value!r} in place of {value!r}")

    def skip_balanced(self) -> None:
        """Move behind the bracket that closes the one here."""
        depth = 0
        while self.peek().kind != "end":
            token = self.next()
            if token.kind == "sign":
                depth += (token.value in _CLOSING) - (token.value in _CLOSING.values())
            if depth == 0:
                return

    def skip_statement(self) -> None:
        while self.peek().kind != "end" and not self.is_sign("}"):
            if self.is_sign("{"):
                self.skip_balanced()
                if not self.is_sign(";", ",", ")", ".", "(", "}"):
                    if not self.is_sign("else", "catch"):
                        return
            elif self.is_sign("(", "["):
                self.skip_balanced()
            elif self.next().value == ";" and self.tokens[self.at - 1].kind == "sign":
                return

    # Statements.

    def call(self, name: str) -> Scope:
        """Run a test function without arguments, statement by statement, and return its variables."""
        function = self.globals.find(name)
        scope = Scope(self.globals)
        for parameter, _ in function.parameters:
            scope[parameter] = False
        with self._moved(function.body, scope), contextlib.suppress(_Return):
            self._block(tolerant=True)
        return scope

    def _moved(self, position: int, scope: Scope) -> _Moved:
        return _Moved(self, position, scope)

    def _block(self, tolerant: bool) -> None:
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
            with self._moved(self.at, Scope(self.scope)) as inner:
                self._block(tolerant)
                inner.keep()
        elif self.take("for"):
            self._loop(tolerant)
        elif self.take("if"):
            self._if(tolerant)
        elif self.take("return"):
            raise _Return(None if self.is_sign(";") else self.expression())
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
            with self._moved(body, scope):
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

    def _skip_angles(self) -> None:
        depth = 0
        while True:
            value = self.next().value
            depth += (value == "<") - (value == ">")
            if depth == 0:
                return
            if value in (";", "{", ""):
                raise Unsupported("a comparison")

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

    def converted(self, kind: str, value: Any) -> Any:
        """Return a value of a type, made of a list in braces where it is one."""
        if kind in ("string", "char") and value == []:
            return ""
        return self.structs[kind](value) if kind in self.structs and type(value) is list else value

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

    # Expressions.

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
        while not self.take(_CLOSING[opening]):
            found.append(self.expression())
            if not self.take(",") and not self.is_sign(_CLOSING[opening]):
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
                with self._moved(default, self.globals):
                    scope[parameter] = self.expression()
            else:
                raise Unsupported(f"a call of {function.name} without {parameter}")
        with self._moved(function.body, scope):
            try:
                self._block(tolerant=False)
            except _Return as end:
                return end.value
        return None


class _Moved:
    """Runs other tokens in another scope, and returns to these ones."""

    def __init__(self, interpreter: Interpreter, position: int, scope: Scope) -> None:
        self.interpreter, self.position, self.inner = interpreter, position, scope

    def __enter__(self) -> _Moved:
        self.before = self.interpreter.at, self.interpreter.scope
        self.interpreter.at, self.interpreter.scope = self.position, self.inner
        return self

    def keep(self) -> None:
        """Continue behind the tokens that were run."""
        self.before = self.interpreter.at, self.before[1]

    def __exit__(self, *_: object) -> None:
        self.interpreter.at, self.interpreter.scope = self.before


def copied(value: Any) -> Any:
    """Return a copy of a struct or a list: C++ copies them where they are assigned."""
    return copy.deepcopy(value) if isinstance(value, Record | list) else value


def sites(tokens: list[Token], *names: str) -> Iterator[int]:
    """Yield the positions where one of these functions or methods is called."""
    for index, (one, two) in enumerate(zip(tokens, tokens[1:], strict=False)):
        if one.kind == "name" and one.value in names and two.kind == "sign" and two.value == "(":
            yield index
