"""Reads the declarations of the hand-written C code, for the stub: `llama_cffi/_shim/shim.h` and `callbacks.h`.

A small reader without pycparser, so that `generate` and `check` need nothing installed and have no copy of the
declarations that could become stale. It reads enums, structs of plain fields and functions, and raises CodegenError
for anything else. A test compares it with pycparser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from codegen.api.model import Api, CodegenError, Enum, Enumerator, Field, Function, Param, Record
from codegen.api.paths import ROOT
from codegen.read.comments import Comments

FOLDER = ROOT / "llama_cffi" / "_shim"

# cffi and this module read the text between these marks of shim.h.
_BEGIN, _END = "/* CDEF begin */", "/* CDEF end */"
_PYTHON = 'extern "Python+C"'  # before each function of callbacks.h

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DECLARATION = re.compile(r"\s*(?P<text>[^;{}\s][^;{}]*(?:\{[^{}]*\}\s*)?);")
_BLOCK = re.compile(r"(?P<kind>enum|struct) (?P<tag>\w+)\s*\{(?P<body>.*)\}\s*", re.DOTALL)
_FUNCTION = re.compile(r"(?P<head>[\w\s*]+)\((?P<params>[\w\s*,]+)\)\s*")
_ENUMERATOR = re.compile(r"\s*(?P<name>\w+)\s*(?:=\s*-?\d+\s*)?")

_TYPE = re.compile(r"(?:const )?(?:struct \w+|void|bool|char|int|float|double|size_t|u?int(?:8|16|32|64)_t)(?: \*+)?")


def load(folder: Path = FOLDER) -> Api:
    """Return what shim.h and callbacks.h declare."""
    files = [
        _File("shim.h", _declared_part((folder / "shim.h").read_text(encoding="utf-8"))),
        _File("callbacks.h", (folder / "callbacks.h").read_text(encoding="utf-8")),
    ]
    names: set[str] = set()
    for file in files:
        for name, line in file.lines.items():
            if name in names:
                raise CodegenError(f"llama_cffi/_shim/{file.name}:{line}: {name} is declared twice")
            names.add(name)
    return Api(
        pin="",
        headers=tuple(file.name for file in files),
        functions=tuple(function for file in files for function in file.functions),
        records=tuple(record for file in files for record in file.records),
        enums=tuple(enum for file in files for enum in file.enums),
    )


def _declared_part(text: str) -> str:
    """Return the text between the marks, after as many empty lines as stand before it."""
    parts = re.split(f"{re.escape(_BEGIN)}|{re.escape(_END)}", text)
    if len(parts) != 3 or text.index(_BEGIN) > text.index(_END):
        raise CodegenError(f"llama_cffi/_shim/shim.h must hold {_BEGIN} and then {_END}, once each")
    return "\n" * parts[0].count("\n") + parts[1]


class _File:
    """The declarations of one file."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.functions: list[Function] = []
        self.records: list[Record] = []
        self.enums: list[Enum] = []
        self.lines: dict[str, int] = {}  # every name that the file declares -> its line
        self._comments = Comments(text.splitlines())
        # Blanks for comments and the prefix keep every declaration in its line.
        self._code = _COMMENT.sub(_blank, text).replace(_PYTHON, " " * len(_PYTHON))
        self._read()

    def _read(self) -> None:
        position = 0
        while match := _DECLARATION.match(self._code, position):
            self._declaration(match["text"], match.start("text"))
            position = match.end()
        rest = self._code[position:]
        if rest.strip():
            raise self._unreadable(rest.strip(), position + len(rest) - len(rest.lstrip()))

    def _declaration(self, text: str, start: int) -> None:
        if block := _BLOCK.fullmatch(text):
            line = self._declare(block["tag"], start + block.start("tag"))
            body = start + block.start("body")
            if block["kind"] == "enum":
                members = tuple(self._enumerators(block["body"], body))
                self.enums.append(Enum(block["tag"], self.name, members, self._comments.of(line)))
            else:
                fields = tuple(self._fields(block["body"], body))
                self.records.append(Record("struct", block["tag"], self.name, fields, self._comments.of(line)))
        elif function := _FUNCTION.fullmatch(text):
            returns, name = self._typed(function["head"], start)
            line = self._declare(name, start + text.rindex(name, 0, function.end("head")))
            params = tuple(self._params(function["params"], start + function.start("params")))
            self.functions.append(Function(name, self.name, returns, params, doc=self._comments.of(line)))
        else:
            raise self._unreadable(text, start)

    def _declare(self, name: str, start: int) -> int:
        line = self._line(start)
        if name in self.lines:
            raise CodegenError(f"llama_cffi/_shim/{self.name}:{line}: {name} is declared twice")
        self.lines[name] = line
        return line

    def _enumerators(self, body: str, start: int) -> Iterator[Enumerator]:
        for text, offset in _split(body, ","):
            match = _ENUMERATOR.fullmatch(text)
            if match is None:
                raise self._unreadable(text, start + offset)
            self._declare(match["name"], start + offset + match.start("name"))
            yield Enumerator(match["name"])

    def _fields(self, body: str, start: int) -> Iterator[Field]:
        for text, offset in _split(body, ";"):
            yield Field(*self._typed(text, start + offset))

    def _params(self, text: str, start: int) -> Iterator[Param]:
        if text.strip() != "void":
            for param, offset in _split(text + ",", ","):  # unlike an enum, it must not end in a comma
                yield Param(*self._typed(param, start + offset))

    def _typed(self, text: str, start: int) -> tuple[str, str]:
        """Return the type and the name of a field, a parameter or a function."""
        *words, name = re.findall(r"\w+|\*+|[^\w\s*]+", text) or [""]
        ctype = " ".join(words)
        if not name.isidentifier() or not _TYPE.fullmatch(ctype):
            raise self._unreadable(text, start)
        return ctype, name

    def _line(self, start: int) -> int:
        return self._code.count("\n", 0, start) + 1

    def _unreadable(self, text: str, start: int) -> CodegenError:
        place = f"llama_cffi/_shim/{self.name}:{self._line(start + len(text) - len(text.lstrip()))}"
        what = "only enums, structs of plain fields and functions with named parameters can be declared here"
        return CodegenError(
            f"{place}: cannot read {' '.join(text.split())[:80]!r}: {what}. Change the declaration, or "
            "codegen/read/shim.py"
        )


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _split(text: str, mark: str) -> Iterator[tuple[str, int]]:
    """Yield the parts that end in `mark`, and the last part unless it is blank, each with its offset."""
    offset = 0
    parts = text.split(mark)
    for index, part in enumerate(parts):
        if part.strip() or index + 1 < len(parts):
            yield part, offset
        offset += len(part) + 1
