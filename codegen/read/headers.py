"""Runs the C preprocessor over the headers, for text that pycparser can read. Collects `#define`s and deprecations."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import environ
from pathlib import Path

from codegen.api.model import CodegenError

PUBLIC_HEADERS = (
    "llama.h",
    "ggml.h",
    "ggml-alloc.h",
    "ggml-backend.h",
    "ggml-cpu.h",
    "ggml-opt.h",
    "ggml-rpc.h",
    "ggml-vulkan.h",
    "gguf.h",
    "mtmd.h",
    "mtmd-helper.h",
)

# Headers of a library of its own. A tree or an installed llama.cpp may lack them: then there is nothing to read.
OPTIONAL_HEADERS = ("mtmd.h", "mtmd-helper.h")

# Stand-ins for the system's headers, which are never read. They define the names that llama.cpp's headers use.
_FAKE_HEADERS = {
    "stddef.h": "typedef unsigned long size_t;\ntypedef long ptrdiff_t;\n#define NULL ((void *)0)\n",
    "stdint.h": "".join(
        f"typedef {sign}{base} {'u' if sign else ''}int{bits}_t;\n"
        for bits, base in ((8, "char"), (16, "short"), (32, "int"), (64, "long"))
        for sign in ("", "unsigned ")
    )
    + "typedef unsigned long uintptr_t;\ntypedef long intptr_t;\n#define UINTPTR_MAX 0xFFFFFFFFFFFFFFFFUL\n",
    "stdio.h": "typedef struct FILE FILE;\n",
    "stdbool.h": "typedef _Bool bool;\n#define true 1\n#define false 0\n",
    "stdarg.h": "typedef void * va_list;\n",
    "string.h": "",
    "assert.h": "#define static_assert _Static_assert\n",
}

# Attributes that change neither a layout nor a call. Any other attribute is an error.
_HARMLESS_ATTRIBUTES = frozenset(
    "always_inline cold const deprecated format gnu_inline hot malloc noinline nonnull noreturn pure "
    "returns_nonnull unused used visibility warn_unused_result".split()
)

_ATTRIBUTE = re.compile(r"__attribute(?:__)?\s*\(\(")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LINE_MARKER = re.compile(r'^# (\d+) "([^"]*)"', re.MULTILINE)


@dataclass(frozen=True)
class Macro:
    """An object-like `#define` of a public header, and the text that it expands to."""

    name: str
    header: str
    line: int
    expansion: str


@dataclass(frozen=True)
class Preprocessed:
    """The output of the C preprocessor, ready for parsing."""

    text: str
    macros: tuple[Macro, ...]
    function_like_macros: dict[str, str]  # name -> header
    deprecated: Mapping[str, str]  # function -> the header's hint
    sources: Mapping[str, tuple[str, ...]] = field(repr=False)  # header name -> its lines


def find_headers(folders: Sequence[Path], names: Sequence[str] = PUBLIC_HEADERS) -> dict[str, Path]:
    """Return the path of each public header. Raises CodegenError if one is missing that is not optional."""
    found: dict[str, Path] = {}
    for name in names:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None and name in OPTIONAL_HEADERS:
            continue
        if path is None:
            where = ", ".join(map(str, folders))
            raise CodegenError(
                f"{name} is not in {where}: if upstream has removed it, delete it from PUBLIC_HEADERS in "
                "codegen/read/headers.py"
            )
        found[name] = path
    return found


def preprocess(folders: Sequence[Path], names: Sequence[str] = PUBLIC_HEADERS) -> Preprocessed:
    """Run the C preprocessor over the public headers found in `folders`."""
    paths = find_headers(folders, names)
    names = tuple(paths)
    with tempfile.TemporaryDirectory() as scratch:
        fakes = Path(scratch).resolve()
        for name, content in _FAKE_HEADERS.items():
            (fakes / name).write_text(content, encoding="utf-8")
        unit = fakes / "unit.c"
        unit.write_text("".join(f'#include "{name}"\n' for name in names), encoding="utf-8")
        include = ["-nostdinc", f"-I{fakes}", *(f"-I{folder}" for folder in folders)]
        text = _cpp([*include, str(unit)])
        _check_includes(text, paths, fakes)
        macros, function_like = _macros(_cpp(["-dD", *include, str(unit)]), paths)
        macros = _expand(macros, unit, include)
    sources = {name: tuple(path.read_text(encoding="utf-8").splitlines()) for name, path in paths.items()}
    text, deprecated = _strip_attributes(text)
    return Preprocessed(text, macros, function_like, deprecated, sources)


def _cpp(arguments: Sequence[str]) -> str:
    command = [*shlex.split(environ.get("CC", "cc")), "-E", "-std=gnu11"]
    # GNU spellings of standard C, and extensions that have no meaning for a binding.
    command += ["-D__extension__=", "-D__asm__(x)=", "-D__const=const"]
    command += [f"-D{word}{tail}={word[2:]}" for word in ("__restrict", "__inline") for tail in ("", "__")]
    command += arguments
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise CodegenError(f"{command[0]} is not on PATH: install a C compiler, or set CC to one") from None
    if result.returncode != 0:
        hint = "A new system header needs an entry in _FAKE_HEADERS of codegen/read/headers.py."
        raise CodegenError(f"the C preprocessor failed:\n{result.stderr.strip()}\n{hint}")
    return result.stdout


def _check_includes(text: str, paths: Mapping[str, Path], fakes: Path) -> None:
    """Raise CodegenError for an included header of llama.cpp that is not listed: its declarations would be missing."""
    known = {path.resolve() for path in paths.values()}
    for name in dict.fromkeys(marker[2] for marker in _LINE_MARKER.finditer(text)):
        path = Path(name)
        if not name.startswith("<") and path.parent != fakes and path.resolve() not in known:
            raise CodegenError(
                f"the public headers include {path}: add {path.name} to PUBLIC_HEADERS in codegen/read/headers.py"
            )


def _macros(dump: str, paths: Mapping[str, Path]) -> tuple[tuple[Macro, ...], dict[str, str]]:
    by_path = {path.resolve(): name for name, path in paths.items()}
    objects: dict[str, Macro] = {}
    functions: dict[str, str] = {}
    header, line = None, 0
    for text in dump.splitlines():
        marker = _LINE_MARKER.match(text)
        if marker:
            header, line = by_path.get(Path(marker[2]).resolve()), int(marker[1]) - 1
            continue
        line += 1
        define = re.match(r"#(?:define|undef) (\w+)(\()?(.*)", text)
        if not define or header is None:
            continue
        objects.pop(define[1], None)
        functions.pop(define[1], None)
        if define[2]:
            functions[define[1]] = header
        elif define[3].strip():
            objects[define[1]] = Macro(define[1], header, line, define[3].strip())
    return tuple(objects.values()), functions


def _expand(macros: Sequence[Macro], unit: Path, include: Sequence[str]) -> tuple[Macro, ...]:
    """Return the macros with their full expansions."""
    probes = unit.with_name("expand.c")
    lines = [f'#include "{unit.name}"\n'] + [f"@@{i}@ {macro.name}\n" for i, macro in enumerate(macros)]
    probes.write_text("".join(lines), encoding="utf-8")
    output = " ".join(x for x in _cpp([*include, str(probes)]).splitlines() if not x.startswith("#"))
    pieces = re.split(r"@@(\d+)@", output)[1:]
    expansion = {int(i): " ".join(text.split()) for i, text in zip(pieces[::2], pieces[1::2], strict=True)}
    return tuple(Macro(m.name, m.header, m.line, expansion[i]) for i, m in enumerate(macros))


def _strip_attributes(text: str) -> tuple[str, dict[str, str]]:
    """Blank out `__attribute__((...))`. Return the text, and the hint of each deprecated function."""
    hints: list[tuple[int, str]] = []
    out: list[str] = []
    position = 0
    while match := _ATTRIBUTE.search(text, position):
        end = _closing(text, match.end() - 2)
        body = text[match.start() : end]
        names = _attribute_names(text[match.end() : end - 2])
        unknown = sorted(names - _HARMLESS_ATTRIBUTES)
        if unknown:
            what = f"{_place(text, match.start())}: attribute {unknown[0]!r} may change a layout or a call"
            raise CodegenError(f"{what}. If it does not, add it to _HARMLESS_ATTRIBUTES in codegen/read/headers.py.")
        if "deprecated" in names:
            words = "".join(re.sub(r"\\(.)", r"\1", words) for words in _STRING.findall(body))
            hints.append((match.start(), words or "the header gives no reason"))
        out += [text[position : match.start()], re.sub(r"[^\n]", " ", body)]
        position = end
    clean = "".join([*out, text[position:]])
    return clean, {_declared_function(clean, offset): words for offset, words in hints}


def _attribute_names(inside: str) -> set[str]:
    """Return the names in a list such as `format(printf, 1, 2), __unused__`, without underscores and arguments."""
    inside = _STRING.sub("", inside)
    while "(" in inside:
        inside = re.sub(r"\([^()]*\)", "", inside)
    return {name.strip().removeprefix("__").removesuffix("__") for name in inside.split(",") if name.strip()}


def _place(text: str, offset: int) -> str:
    """Return `file:line` of an offset in preprocessed text."""
    markers = list(_LINE_MARKER.finditer(text, 0, offset))
    if not markers:
        return "<unknown>"
    return f"{markers[-1][2]}:{int(markers[-1][1]) + text.count(chr(10), markers[-1].end(), offset) - 1}"


def _closing(text: str, opening: int) -> int:
    """Return the offset just after the parenthesis that closes the one at `opening`. Strings may hold parentheses."""
    depth = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[()]', text[opening:]):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return opening + token.end()
    raise CodegenError(f"an __attribute__ is never closed: {text[opening : opening + 80]!r}")


def _declared_function(text: str, offset: int) -> str:
    start = max(text.rfind(mark, 0, offset) for mark in ";{}") + 1
    end = min((x for x in (text.find(mark, offset) for mark in ";{") if x >= 0), default=len(text))
    statement = "\n".join(line for line in text[start:end].splitlines() if not line.startswith("#"))
    name = re.search(r"(\w+)\s*\((?!\s*\*)", statement)  # `(*` groups a declarator
    if not name or statement.split()[0] == "typedef":
        what = " ".join(statement.split())
        raise CodegenError(
            f"{_place(text, offset)}: `deprecated` must be on a function, got {what!r}: change codegen/read/headers.py"
        )
    return name[1]
