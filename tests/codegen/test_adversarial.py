"""Constructs that C allows and llama.cpp's headers do not use yet, compiled by cffi and called from Python."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codegen.api import snapshot
from codegen.api.model import Api, Field, Function, Record, flat_fields
from codegen.emit import guard, layout, python, stub as emit_stub
from codegen.read import headers, parse
from codegen.rules import policy


def record(api: Api, spelling: str) -> Record:
    return next(r for r in api.records if r.spelling == spelling)


def member(api: Api, spelling: str, name: str) -> Field:
    return next(f for f in flat_fields(record(api, spelling)) if f.name == name)


def function(api: Api, name: str) -> Function:
    return next(f for f in api.functions if f.name == name)


# Values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("M_PLAIN", 42),
        ("M_EXPRESSION", 19),
        ("M_NEGATIVE", -7),
        ("M_U32", 0xFFFFFFFF),
        ("M_U64", 0xFFFFFFFFFFFFFFFF),
        ("M_LOWEST", -(2**63)),
        ("M_CAST", -1),
        ("M_CAST_SYSTEM", 5),
        ("M_CAST_FLOAT", 0.25),
        ("M_CAST_REAL", 3.0),
        ("M_FLOAT", 1.5),
        ("M_WHOLE_FLOAT", 2.0),
        ("M_SMALL", 1e-3),
        ("M_STRING", "two parts"),
        ("M_QUOTED", 'a "quoted" \\ line\n, \u00e9'),
        ("M_CHARACTER", ord("c")),
        ("M_ENUMERATOR", 9),
        ("M_SIZEOF_TYPE", 8),
        ("M_CHAIN", 19),
        ("M_TERNARY", 1),
        ("M_COMPARISON", 1),
        ("M_CONSTANT", 4),
        ("S_INT", 3),
        ("S_REAL", 0.5),
        ("S_SIZE", 4),
    ],
)
def test_constant(api: Api, ffi: Any, lib: Any, name: str, value: int | float | str) -> None:
    constant = next(c for c in api.constants if c.name == name)
    assert constant.value == value
    assert type(constant.value) is type(value)
    compiled = getattr(lib, name)
    if isinstance(value, str):
        compiled = ffi.string(compiled).decode()
    assert compiled == value


def test_sizeof_macro_is_what_cffi_computes(ffi: Any, lib: Any) -> None:
    assert lib.M_SIZEOF == ffi.sizeof("struct bits")


def test_macros_without_a_value_are_left_out_with_their_reason(api: Api) -> None:
    left_out = api.macros_left_out
    reasons = {name: left_out[name].partition(",")[0] for name in left_out if name.startswith(("N_", "COLOUR_"))}
    assert reasons == {
        "COLOUR_NEXT": "has the name of an enumerator or a constant",
        "N_ATTRIBUTE": "expands to attributes",
        "N_CALL": "expands to an expression that is neither a constant number nor a string",
        "N_FUNCTION": "expands to an expression that is neither a constant number nor a string",
        "N_NULL": "expands to an expression that is neither a constant number nor a string",
        "N_STATEMENT": "expands to attributes",
        "N_TAKES": "takes arguments",
        "N_TYPE": "expands to attributes",
        "N_WIDE": "expands to an expression that is neither a constant number nor a string",
    }
    assert not [c.name for c in api.constants if c.name.startswith("N_")]


def test_a_relative_folder_will_do(read: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = read("#define ONE 1\n#define TAKES(x) x\nint f(void); // one\n")
    monkeypatch.chdir(tmp_path)
    source = headers.preprocess([Path(".")], ["sample.h"])
    assert [macro.name for macro in source.macros] == ["ONE"]
    relative = parse.parse(source, "test", ["sample.h"])
    assert relative.macros_left_out == absolute.macros_left_out == {"TAKES": "takes arguments"}
    assert [f.doc for f in relative.functions] == [f.doc for f in absolute.functions] == ["one"]


def test_withdrawn_macro_is_none(api: Api) -> None:
    names = {c.name for c in api.constants} | set(api.macros_left_out)
    assert {"M_PLAIN", "N_NULL"} <= names
    assert "N_WITHDRAWN" not in names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COLOUR_NONE", -1),
        ("COLOUR_RED", 8),
        ("COLOUR_ALSO_RED", 8),
        ("COLOUR_NEXT", 9),
        ("COLOUR_COUNT", 5),
        ("LONELY", 77),
        ("LONELY_NEXT", 78),
        ("SHADE_LIGHT", 0),
        ("SHADE_DARK", 3),
        ("WIDE_TOP", 0xFFFFFFFF),
        ("WIDE_BIT", 2**31),
        ("MOOD_BAD", 1),
    ],
)
def test_enumerator(api: Api, lib: Any, name: str, value: int) -> None:
    found = [m.value for enum in api.enums for m in enum.members if m.name == name]
    assert found == [value]
    assert getattr(lib, name) == value


# Layout


def test_every_layout_is_that_of_cffi(api: Api, ffi: Any) -> None:
    measured = [r for r in api.records if r.fields is not None]
    assert len(measured) == 13
    for r in measured:
        assert ffi.sizeof(r.spelling) == r.size, r.spelling
        offsets = {f.name: f.offset for f in flat_fields(r) if f.bits is None}
        assert offsets == {name: ffi.offsetof(r.spelling, name) for name in offsets}, r.spelling


def test_bit_fields(api: Api, ffi: Any, lib: Any) -> None:
    bits = ffi.new("struct bits *")
    lib.sample_bits(bits)
    assert (bits.low, bits.high, bits.flag, bits.tint, bits.last) == (5, -8, True, 8, 2)
    fields = record(api, "struct bits").fields or ()
    assert [(f.name, f.bits) for f in fields] == [
        ("low", 3), ("", 5), ("high", 4), ("flag", 1), ("tint", 6), ("", 0), ("last", 2),
    ]  # fmt: skip


def test_anonymous_members_two_deep(api: Api, ffi: Any, lib: Any) -> None:
    nest = ffi.new("struct nest *")
    lib.sample_nest(nest)
    assert (nest.head, nest.a, nest.c, nest.named.head, nest.many[2].s, nest.far.q) == (1, 2, 0.5, 3, 5, 6)
    assert getattr(nest.named, "in").deep == b"\x04"
    assert [f.name for f in flat_fields(record(api, "struct nest"))] == [
        "head", "a", "b", "c", "whole", "named", "many", "far",
    ]  # fmt: skip
    assert member(api, "struct nest", "c").offset == 12


def test_offsets_below_a_named_member_are_not_taken_for_its_parents(api: Api) -> None:
    named = member(api, "struct nest", "named").inner
    assert named is not None and named.fields is not None
    assert [(f.name, f.offset) for f in named.fields] == [("head", None), ("in", None)]


def test_array_lengths_are_numbers_in_the_snapshot(api: Api, ffi: Any) -> None:
    fields = record(api, "struct arrays").fields or ()
    assert [f.type for f in fields] == ["char [42]", "int32_t [16]", "float [2][3]", "int [5]"]
    guid = next(t for t in api.typedefs if t.name == "sample_guid")
    assert guid.type == "uint8_t [16]"
    assert ffi.sizeof("sample_guid") == 16


def test_flexible_array(api: Api, ffi: Any) -> None:
    items = member(api, "struct flexible", "items")
    assert (items.type, items.offset, items.size) == ("int []", 8, None)
    flexible = ffi.new("struct flexible *", {"n": 2, "items": [7, 8]})
    assert list(ffi.unpack(flexible.items, 2)) == [7, 8]


def test_structs_declared_in_place_are_defined(api: Api, ffi: Any, lib: Any) -> None:
    outer = ffi.new("struct outer *", {"two": [{"depth": 1}, {"depth": 2}]})
    assert (outer.two[1].depth, outer.mood) == (2, lib.MOOD_GOOD)
    assert record(api, "struct tag_only").fields is None
    assert record(api, "struct hidden").fields is None


def test_forward_declaration_takes_the_place_of_its_definition(api: Api) -> None:
    spellings = [r.spelling for r in api.records]
    assert spellings.count("struct later") == 1
    assert record(api, "struct later").fields is not None
    assert record(api, "struct never").fields is None


def test_two_names_for_one_untagged_struct_are_one_type(ffi: Any) -> None:
    assert ffi.typeof("untagged") is ffi.typeof("untagged_too")
    assert ffi.typeof("twice_p") is ffi.typeof("struct twice *") is ffi.typeof("twice_t *")


# Calls


def test_function_pointers(ffi: Any, lib: Any) -> None:
    assert lib.sample_choose(b"+")(3, 4) == 7
    assert lib.sample_pick(b"*")(3, 4) == 12
    assert lib.sample_fold([1, 2, 3], 3, lib.sample_pick(b"+"), 10) == 16

    @ffi.callback("int(int(*)(int))")  # type: ignore[untyped-decorator]
    def outer(f: Any) -> int:
        return int(f(2))

    assert lib.sample_relay(outer)(5) == 15
    assert lib.sample_apply(lib.sample_relay(outer), 4) == 12


def test_function_pointers_in_structs(ffi: Any) -> None:
    fields = dict(ffi.typeof("struct pinned").fields)
    types = {name: field.type.cname for name, field in fields.items()}
    assert types == {
        "names": "char * *",
        "fixed": "char *",
        "ops": "int(*[2])(int(*)(int), int)",
        "steady": "int(*)(int)",
        "chain": "int(* *)(int)",
        "indirect": "int(* *)(int)",
        "maker": "int(*(*)(char))(int, int)",
        "row": "int(*)[3]",
        "plain": "int(*)(int)",
    }


def test_pointers_to_arrays(ffi: Any, lib: Any) -> None:
    rows = ffi.new("int[2][3]", [[1, 2, 3], [4, 5, 6]])
    assert list(lib.sample_row(rows, 1)[0]) == [4, 5, 6]
    grid = ffi.new("float[2][3]", [[1, 2, 3], [4, 5, 6]])
    assert lib.sample_grid_sum(grid) == 21


def test_const_pointers(api: Api, ffi: Any, lib: Any) -> None:
    n = ffi.new("size_t *")
    names = lib.sample_names(n)
    assert [ffi.string(names[i]) for i in range(n[0])] == [b"one", b"two"]
    listed = ffi.new("char *[]", [names[0], names[1], ffi.NULL])
    assert lib.sample_count(listed, ffi.NULL) == 2
    assert [p.type for p in function(api, "sample_count").params] == ["const char * const *", "char * const *"]
    assert member(api, "struct pinned", "fixed").type == "char * const"


def test_structs_by_value(ffi: Any, lib: Any) -> None:
    assert lib.sample_later(9).value == 9
    arrays = ffi.new("struct arrays *")
    arrays.params[15], arrays.table[4] = 1000, 100
    u = ffi.new("untagged *", {"op": lib.sample_pick(b"*"), "id": 3, "by_value": {"value": 4}})
    assert lib.sample_pass(arrays[0], u[0], ffi.new("union number *", {"i": 7})[0]) == 1119


def test_variadic_and_long_double_and_hidden(ffi: Any, lib: Any) -> None:
    assert lib.sample_sum(3, *(ffi.cast("int", x) for x in (1, 2, 3))) == 6
    assert float(lib.sample_stretch(5.0)) == 2.5
    assert ffi.typeof(lib.sample_hidden()) is ffi.typeof("struct hidden *")


def test_void_and_nameless_parameters(api: Api, lib: Any) -> None:
    assert function(api, "sample_nothing").params == ()
    assert lib.sample_nothing() == 11
    assert [p.name for p in function(api, "sample_add").params] == ["", ""]
    assert lib.sample_add(2, 3) == 5


def test_name_of_both_an_enum_and_a_function(ffi: Any, lib: Any) -> None:
    assert lib.mode() == lib.MODE_ON == 4
    assert ffi.typeof("enum mode").relements == {"MODE_OFF": 0, "MODE_ON": 4}


def test_python_keywords_are_callable(ffi: Any, lib: Any) -> None:
    assert getattr(lib, "import")(1, 2, 3) == 321
    words = ffi.new("struct words *", {"lambda": 1, "from": 2, "async": 3})
    assert [getattr(words, name) for name in ("lambda", "from", "async")] == [1, 2, 3]


def test_spellings_of_c_alone(build: Callable[[str, str], Any]) -> None:
    """What C++ does not know, and spellings of GNU C."""
    text = """
        _Static_assert(1, "fine");
        struct plain { _Bool yes; _Static_assert(1, "no member"); struct aside { int depth; }; };
        int walk(const int * restrict xs, int ys[static 2], int zs[const 2], int rows[*][2], unsigned n);
        __extension__ typedef long long very_long;
        __inline__ static very_long twice(very_long x) { return 2 * x; }
        very_long thrice(__const int * __restrict__ x, register int factor) __asm__("thrice_impl");
        int unspecified() __attribute((unused));
    """
    definitions = """
        int walk(const int * restrict xs, int ys[static 2], int zs[const 2], int rows[*][2], unsigned n);
        int walk(const int * xs, int ys[], int zs[], int rows[][2], unsigned n) {
            return xs[0] + ys[1] + zs[1] + rows[n][1];
        }
        very_long thrice(const int * x, int factor) { return (very_long) factor * *x; }
        int unspecified() { return 5; }
    """
    api, ffi, lib = build(text, definitions)
    assert lib.walk([1], [0, 2], [0, 3], [[0, 0], [0, 4]], 1) == 10
    assert lib.thrice(ffi.new("int *", 2**30), 3) == 3 * 2**30
    assert lib.twice(4) == 8
    assert lib.unspecified() == 5
    assert [p.type for p in function(api, "walk").params] == [
        "const int *", "int [2]", "int [2]", "int [][2]", "unsigned",
    ]  # fmt: skip
    assert [f.name for f in flat_fields(record(api, "struct plain"))] == ["yes"]
    assert (ffi.sizeof("struct plain"), ffi.sizeof("struct aside")) == (1, 4)


# What stands beside the cdef


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sample_old_inside", 'use sample_add (left, right), or none; it\'s "fine"'),
        ("sample_old_outside", "use sample_apply instead"),
        ("sample_old_pick", "use sample_pick instead"),
        ("sample_old_bare", "the header gives no reason"),
        ("sample_add", None),
    ],
)
def test_deprecated(api: Api, name: str, hint: str | None) -> None:
    assert function(api, name).deprecated == hint


def test_functions_left_out_and_why(api: Api, lib: Any) -> None:
    reasons = {f.name: policy.left_out(f) for f in api.functions if policy.left_out(f)}
    assert reasons == {
        "sample_inline": "declared, but exported by no library",
        "sample_missing": "declared, but exported by no library",
        "sample_open": "returns a FILE *: a C library's private object, which Python does not have",
        "sample_print": "takes a va_list, which only C code can make",
    }
    assert not [name for name in reasons if hasattr(lib, name)]


def test_generated_python_is_python(api: Api) -> None:
    for emit in (python.emit_enums, python.emit_names, layout.emit_tables):
        scope: dict[str, Any] = {"__name__": "generated"}
        exec(compile(emit(api), emit.__name__, "exec"), scope)
        assert len(scope) > 3
    stub = ast.parse(emit_stub.emit(api, ""))
    library = next(node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "_Lib")
    functions = {node.name for node in library.body if isinstance(node, ast.FunctionDef)}
    assert functions == {f.name for f in policy.bound(api)} - {"import"}


@pytest.mark.parametrize("doc", ['says "this"', "ends in \\", 'holds """ three', "long " * 40 + '"end"'])
def test_any_comment_makes_a_docstring(doc: str) -> None:
    """Comments with quotes and backslashes at their ends, where they could close a docstring or keep it open."""
    committed = snapshot.load()
    params = record(committed, "struct llama_model_params")
    fields = tuple(replace(f, doc=doc) for f in params.fields or ())
    changed = replace(committed, records=(*committed.records, replace(params, fields=fields)))
    functions = tuple(replace(f, doc=doc) for f in committed.functions)
    for text in (python.emit_structs(changed), emit_stub.emit(replace(committed, functions=functions), "")):
        strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        words = {" ".join(str(string).split()) for string in strings}
        assert any(" ".join(doc.replace('"""', "'''").split()) in text for text in words)


def test_snapshot_survives_a_round_trip(api: Api) -> None:
    text = snapshot.dumps(api)
    assert snapshot.loads(text) == api
    assert snapshot.dumps(snapshot.loads(text)) == text


def test_guard_compiles(
    api: Api, everything: Path, shim: Path, run: Callable[[Sequence[str]], str], tmp_path: Path
) -> None:
    source = guard.emit_source(api).replace("../_shim/guard.hpp", "guard.hpp")
    assert "guard_sample_shadow(int function, int guarded, int guard, int module_function)" in source
    (tmp_path / "guard.h").write_text(guard.emit_header(api), encoding="utf-8")
    (tmp_path / "guard.cpp").write_text(source, encoding="utf-8")
    include = [f"-I{folder}" for folder in (tmp_path, everything, shim)]
    run(["c++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", *include, str(tmp_path / "guard.cpp")])
