"""Headers that the generator must not guess about: it stops, names the place and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.api.model import Api, CodegenError
from codegen.emit import stub
from codegen.read import headers
from codegen.rules import policy

Read = Callable[..., Api]


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("\nfloat _Complex turn(float x);\n", "sample.h:2", "the type float _Complex"),
        ("\n\nvoid big(__int128 x);\n", "sample.h:3", "the type __int128"),
        ("\n_Atomic int * counter(void);\n", "sample.h:2", "the qualifier _Atomic"),
        ("\nstruct s { _Alignas(16) int x; };\n", "sample.h:2", "kind of member"),
        ("\nstruct s {\n    enum { A, B } x;\n};\n", "sample.h:3", "a member of an unnamed enum"),
        ("\ntypedef struct { int x; } * handle;\n", "sample.h:2", "the typedef handle of an unnamed type"),
        ("\nvoid f(struct { int x; } * p);\n", "sample.h:2", "an unnamed type"),
        ("\nextern int global;\n", "sample.h:2", "kind of declaration"),
        ("\nstatic const char * const NAME = 0;\n", "sample.h:2", "kind of declaration"),
        ("\nstruct t { int a; };\nstatic const struct t T = { 1 };\n", "sample.h:3", "the constant T"),
        ("\nstruct s { unsigned x : sizeof(int); };\n", "sample.h:2", "the width of the bit field x"),
        ("\nvoid f(a, b);\n", "sample.h:2", "kind of parameter"),
        ("\n#pragma pack(push, 1)\nstruct s { char c; int i; };\n", "sample.h:2", "kind of declaration"),
        ("struct s {\n#pragma pack(1)\n    char c;\n};\n", "sample.h:2", "kind of member"),
    ],
)
def test_unknown_declaration_stops_with_place_and_advice(read: Read, text: str, place: str, what: str) -> None:
    with pytest.raises(CodegenError) as error:
        read(text)
    assert place in str(error.value)
    assert what in str(error.value)
    assert str(error.value).endswith("codegen/read/parse.py")


@pytest.mark.parametrize(
    "text",
    [
        '\nint f(void) __asm("g");\n',
        "\n[[deprecated]] int f(void);\n",
        "\n__typeof__(1) f(void);\n",
        "\n_Float16 half(void);\n",
        "\nunknown_type f(void);\n",
    ],
)
def test_unreadable_text_stops_with_place_and_advice(read: Read, text: str) -> None:
    with pytest.raises(CodegenError, match=r"cannot read the headers: .*sample\.h:2.*codegen/read/headers\.py"):
        read(text)


@pytest.mark.parametrize("attribute", ["packed", "aligned(16)", "__packed__", "regparm(3)", "unused, mode(DI)"])
def test_attribute_that_may_change_a_layout_or_a_call(read: Read, attribute: str) -> None:
    name = attribute.split(",")[-1].strip().strip("_").partition("(")[0]
    pattern = rf"sample\.h:3: attribute '{name}' may change .*_HARMLESS_ATTRIBUTES"
    with pytest.raises(CodegenError, match=pattern):
        read(f"\nstruct s {{ char c; }};\nstruct t {{ int i; }} __attribute__(({attribute}));\n")


@pytest.mark.parametrize(
    "text",
    [
        '\nstruct s { int i; } __attribute__((deprecated("x")));\n',
        '\nenum e { A __attribute__((deprecated("x"))) };\n',
        '\ntypedef int (*f)(int) __attribute__((deprecated("x")));\n',
        '\nextern int x __attribute__((deprecated("x")));\n',
    ],
)
def test_deprecated_that_is_not_a_function(read: Read, text: str) -> None:
    with pytest.raises(CodegenError, match=r"sample\.h:2: `deprecated` .*function"):
        read(text)


def test_conflicting_typedefs(read: Read) -> None:
    with pytest.raises(CodegenError, match=r"other\.h:2:\d+: typedef t\b.*'long'.*'int'"):
        read("typedef int t;\n", other="\ntypedef long t;\n")


def test_conflicting_functions(read: Read) -> None:
    with pytest.raises(CodegenError, match=r"sample\.h:2:\d+: f is declared twice"):
        read("int f(int x);\nint f(int x, ...);\n")


def test_struct_defined_twice(read: Read) -> None:
    with pytest.raises(CodegenError, match=r"sample\.h:2:\d+: struct s is defined twice"):
        read("struct s { int a; };\nstruct s { int a; };\n")


def test_unknown_system_header(read: Read) -> None:
    with pytest.raises(CodegenError, match=r"(?s)sample\.h:1.*complex\.h.*_FAKE_HEADERS"):
        read("#include <complex.h>\n")


def test_included_header_that_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "private.h").write_text("int hidden(void);\n", encoding="utf-8")
    (tmp_path / "public.h").write_text('#include "private.h"\nint shown(void);\n', encoding="utf-8")
    with pytest.raises(CodegenError, match=r"include .*private\.h: add private\.h to PUBLIC_HEADERS"):
        headers.preprocess([tmp_path], ["public.h"])


def test_missing_public_header(tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match=r"llama\.h is not in .*PUBLIC_HEADERS"):
        headers.preprocess([tmp_path])


def test_missing_compiler(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(CodegenError, match="no-such-compiler is not on PATH: install a C compiler"):
        read("int f(void);\n")


def test_constant_that_is_not_finite(read: Read) -> None:
    with pytest.raises(CodegenError, match=r"sample\.h: ENDLESS .*\binf\b"):
        read("#define ENDLESS (1.0 / 0.0)\n")


def test_callback_that_takes_a_va_list(read: Read) -> None:
    api = read("#include <stdarg.h>\ntypedef void (*printer)(const char * format, va_list arguments);\n")
    with pytest.raises(CodegenError, match=r"sample\.h: the type printer takes a va_list.*codegen/rules/policy\.py"):
        policy.check(api)


def test_type_that_python_has_no_word_for(read: Read) -> None:
    api = read("struct s { int a; };\nstruct s f(void);\n")
    strange = replace(api, functions=(replace(api.functions[0], returns="strange"),))
    assert "def f(self, /) -> _CData" in stub.emit(api, "")
    with pytest.raises(CodegenError, match=r"no Python type for the C type 'strange'"):
        stub.emit(strange, "")
