"""shim.h and callbacks.h are the only declarations of the shim: the stub has what they declare, and nothing else."""

from __future__ import annotations

import ast
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.api.model import Api, CodegenError, Function, Param
from codegen.emit import stub
from codegen.read import headers, parse, shim as shim_reader

NOTHING = Api("test", ())
SHIM = shim_reader.load()
BEGIN, END = "/* CDEF begin */", "/* CDEF end */"


def names_in(text: str) -> set[str]:
    """The members of `lib` that a stub declares."""
    lib = next(x for x in ast.parse(text).body if isinstance(x, ast.ClassDef) and x.name == "_Lib")
    functions = {x.name for x in lib.body if isinstance(x, ast.FunctionDef)}
    return functions | {
        x.target.id for x in lib.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)
    }


def declared(api: Api) -> set[str]:
    return {f.name for f in api.functions} | {m.name for enum in api.enums for m in enum.members}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shim's headers."""
    for name in ("shim.h", "callbacks.h"):
        shutil.copy(shim_reader.FOLDER / name, tmp_path / name)
    return tmp_path


def edit(folder: Path, old: str, new: str, name: str = "shim.h") -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / name).write_text(text.replace(old, new), encoding="utf-8")


# The stub


def test_the_stub_has_exactly_what_the_headers_declare() -> None:
    assert names_in(stub.emit(NOTHING, SHIM)) == declared(SHIM) | {"LLAMA_CFFI_PIN"}
    assert {"shim_init", "shim_compute", "SHIM_BATCH_TOKEN", "python_abort"} <= declared(SHIM)


def test_a_function_that_is_added_to_the_header_appears(folder: Path) -> None:
    added = (
        "/* Counts the words of a text.\n * Slowly. */\n"
        "size_t shim_words(const char * text,\n                  const struct llama_vocab * vocab, bool fast);\n\n"
    )
    edit(folder, END, added + END)
    text = stub.emit(NOTHING, shim_reader.load(folder))
    assert "    def shim_words(self, text: bytes | _CData, vocab: _CData, fast: int, /) -> int:\n" in text
    assert "`size_t shim_words(const char *text, const struct llama_vocab *vocab, bool fast)`" in text
    assert "Counts the words of a text.\n        Slowly.\n" in text


def test_what_is_taken_out_of_the_header_is_gone(folder: Path) -> None:
    edit(folder, "void shim_init(void);\n", "")
    edit(folder, "    SHIM_SAMPLE_NO_MEMORY = -4,\n", "")
    gone = names_in(stub.emit(NOTHING, SHIM)) - names_in(stub.emit(NOTHING, shim_reader.load(folder)))
    assert gone == {"shim_init", "SHIM_SAMPLE_NO_MEMORY"}


def test_what_is_not_between_the_marks_is_not_declared() -> None:
    assert not {"shim_pending", "shim_failed", "shim_enter_python"} & declared(SHIM)


def test_a_comment_belongs_to_the_declaration_below_it() -> None:
    docs = {function.name: function.doc for function in SHIM.functions}
    assert (
        docs["shim_abi"]
        == "Returns the digest of everything that _generated/layout.cpp asserts about llama.cpp's headers."
    )
    assert "ImportError" in docs["shim_init"]
    assert [name for name, doc in docs.items() if name.startswith("shim_") and not doc] == []


# The reader


def test_pycparser_reads_the_same(tmp_path: Path) -> None:
    text = (shim_reader.FOLDER / "shim.h").read_text(encoding="utf-8")
    callbacks = (shim_reader.FOLDER / "callbacks.h").read_text(encoding="utf-8")
    includes = "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n"
    (tmp_path / "shim.h").write_text(includes + text.split(BEGIN)[1].split(END)[0], encoding="utf-8")
    (tmp_path / "callbacks.h").write_text(includes + callbacks.replace('extern "Python+C" ', ""), encoding="utf-8")
    names = ("shim.h", "callbacks.h")
    api = parse.parse(headers.preprocess([tmp_path], names), "", names)
    ours = {function.name: function for function in SHIM.functions}
    assert {function.name: function for function in api.functions} == ours
    enums = [replace(e, members=tuple(replace(m, doc="") for m in e.members)) for e in api.enums]
    assert enums == list(SHIM.enums)
    records = [r for r in api.records if r.fields is not None]
    assert [replace(r, fields=tuple(replace(f, doc="") for f in r.fields or ())) for r in records] == list(SHIM.records)


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("int f(void);", Function("f", "callbacks.h", "int")),
        ("const char * f ( int  n ) ;", Function("f", "callbacks.h", "const char *", (Param("int", "n"),))),
        ("void * f(char ** p);", Function("f", "callbacks.h", "void *", (Param("char **", "p"),))),
        (
            "struct s * f(const struct t * t);",
            Function("f", "callbacks.h", "struct s *", (Param("const struct t *", "t"),)),
        ),
        ("uint64_t f(void); // a comment; f(x);", Function("f", "callbacks.h", "uint64_t")),
    ],
)
def test_a_function(folder: Path, text: str, function: Function) -> None:
    (folder / "callbacks.h").write_text(text, encoding="utf-8")
    (found,) = (f for f in shim_reader.load(folder).functions if f.header == "callbacks.h")
    assert replace(found, doc="") == function


@pytest.mark.parametrize(
    "text",
    [
        "int f(int);",
        "int f();",
        "int f(int n, ...);",
        "int f(int n,);",
        "int f(int n[4]);",
        "int f(void (*g)(int));",
        "int f(llama_token token);",
        "unsigned f(void);",
        "f(void);",
        "int global;",
        "typedef int t;",
        "#define X 1\nint f(void);",
        "enum { A };",
        "enum e { A = 1 << 2 };",
        "enum e { A,, B };",
        "struct s { int x : 3; };",
        "struct s { int x[4]; };",
        "struct s { struct t { int x; } y; };",
        "union u { int x; };",
        "struct s;",
        "int f(void) { return 1; }",
        "int f(void)",
    ],
)
def test_anything_else_is_an_error_with_its_place(folder: Path, text: str) -> None:
    (folder / "callbacks.h").write_text(f"\n/* one;\n */ \n{text}\n", encoding="utf-8")
    with pytest.raises(CodegenError, match=r"^llama_cffi/_shim/callbacks\.h:4: cannot read .*codegen/read/shim\.py$"):
        shim_reader.load(folder)


@pytest.mark.parametrize(
    "text", ["int f(void);\nint f(void);", "enum e { A };\nenum d { A };", "int f(void);\nvoid shim_init(void);"]
)
def test_a_name_that_is_declared_twice(folder: Path, text: str) -> None:
    (folder / "callbacks.h").write_text(text, encoding="utf-8")
    with pytest.raises(CodegenError, match=r"callbacks\.h:2: (f|A|shim_init) is declared twice"):
        shim_reader.load(folder)


@pytest.mark.parametrize("mark", [BEGIN, END])
def test_a_missing_mark(folder: Path, mark: str) -> None:
    edit(folder, mark, "")
    with pytest.raises(CodegenError, match=re.escape(mark)):
        shim_reader.load(folder)
