"""The naming map: the specification's names, the rule that gives most of them, and the tables for the rest."""

from __future__ import annotations

import keyword
from collections import Counter
from dataclasses import replace
from types import ModuleType

import pytest

from codegen.api.model import Api, CodegenError, Enum, Enumerator, Field, Function, Param, Record
from codegen.emit import python
from codegen.fit import complete
from codegen.rules import naming, spec

ROWS = spec.load()
API = complete.load()
TABLES = ("FUNCTIONS", "TYPES", "FIELDS", "ENUMERATORS", "CONSTANTS", "VIRTUAL_FIELDS")


# The specification


def test_the_specification_has_194_rows() -> None:
    assert len(ROWS) == 194
    assert len(set(ROWS)) == 194
    assert Counter(row.kind for row in ROWS) == {
        "type": 4, "constant": 2, "enum": 20, "field": 75, "classmethod": 20, "property": 19, "method": 38,
        "function": 16,
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.name}")
def test_row_maps(names: ModuleType, row: spec.Row) -> None:
    assert facade_name(names, row) == row.name


def facade_name(names: ModuleType, row: spec.Row) -> str:
    """What the generated tables call the C name of a row."""
    match row.kind:
        case "type":
            found = names.TYPES[row.c_name]
        case "constant":
            found = names.CONSTANTS[row.c_name]
        case "enum":
            found = names.ENUMERATORS[row.c_name or flash_attention(row.name)]
        case "field":
            found = facade_field(names, row)
        case _:
            found = names.FUNCTIONS[row.c_name]
    return str(found)


def flash_attention(name: str) -> str:
    """The specification gives no C name for these three."""
    owner, _, member = name.partition(".")
    assert owner == "FlashAttnType"
    return f"LLAMA_FLASH_ATTN_TYPE_{member}"


def facade_field(names: ModuleType, row: spec.Row) -> str:
    """By way of the struct whose class owns the field, or of a field that only older headers have."""
    owner = row.name.rpartition(".")[0]
    structs = [c_name for c_name, name in names.TYPES.items() if name == owner]
    assert structs
    attributes = {names.FIELDS[key] for tag in structs if (key := f"{tag}.{row.c_name}") in names.FIELDS}
    attributes |= {names.VIRTUAL_FIELDS[key]} if (key := f"{owner}.{row.c_name}") in names.VIRTUAL_FIELDS else set()
    assert len(attributes) == 1
    return f"{owner}.{attributes.pop()}"


def test_values_that_the_specification_gives() -> None:
    values: dict[str, object] = {c.name: c.value for c in API.constants}
    values |= {member.name: member.value for enum in API.enums for member in enum.members}
    rows = [row for row in ROWS if row.kind in ("constant", "enum") and row.signature]
    assert len(rows) == 5
    assert {r.name: int(r.signature, 0) for r in rows} == {
        r.name: values[r.c_name or flash_attention(r.name)] for r in rows
    }


# The tables


def test_every_c_name_is_in_the_tables(names: ModuleType) -> None:
    assert set(names.FUNCTIONS) == {f.name for f in API.functions} | {r.c_name for r in naming.EXCEPTIONS if r.absent}
    assert set(names.CONSTANTS) == {c.name for c in API.constants}
    assert set(names.ENUMERATORS) == {m.name for e in API.enums if e.tag or e.alias for m in e.members}
    assert set(names.TYPES) >= {r.tag or r.alias for r in API.records} | {t.name for t in API.typedefs}
    assert "llama_model_kv_override.val_i64" in names.FIELDS


@pytest.mark.parametrize("table", TABLES)
def test_every_name_can_be_written_in_python(names: ModuleType, table: str) -> None:
    parts = [part for name in getattr(names, table).values() for part in name.split(".")]
    assert parts
    assert not [part for part in parts if not part.isidentifier() or keyword.iskeyword(part)]


def test_deprecated_functions_keep_the_headers_hint(names: ModuleType) -> None:
    assert names.DEPRECATED == {f.name: f.deprecated for f in API.functions if f.deprecated}
    assert names.DEPRECATED["llama_n_vocab"] == "use llama_vocab_n_tokens instead"


# The rule


@pytest.mark.parametrize(
    ("c_name", "name"),
    [
        ("n_ctx_train", "nCtxTrain"),
        ("free", "free"),
        ("init_top_k", "initTopK"),
        ("conv_2d_s1_ph", "conv2dS1Ph"),
        ("_leading__double_", "leadingDouble"),
        ("keepsCase", "keepsCase"),
        ("async", "async_"),
        ("is_not", "isNot"),
    ],
)
def test_camel(c_name: str, name: str) -> None:
    assert naming.camel(c_name) == name


@pytest.mark.parametrize(
    ("c_name", "first", "expected"),
    [
        ("llama_model_n_layer", "const struct llama_model *", ("Model", "nLayer")),
        ("llama_n_ctx", "const struct llama_context *", ("Context", "nCtx")),
        ("llama_backend_init", "", ("", "backendInit")),
        ("llama_batch_ext_clear", "struct llama_batch_ext *", ("BatchExt", "clear")),
        ("llama_batch_free", "struct llama_batch", ("Batch", "free")),
        ("ggml_backend_dev_name", "ggml_backend_dev_t", ("Ggml.BackendDevice", "name")),
        ("ggml_backend_name", "ggml_backend_t", ("Ggml.Backend", "name")),
        ("ggml_add", "struct ggml_context *", ("Ggml.Context", "add")),
        ("ggml_nelements", "const struct ggml_tensor *", ("Ggml.Tensor", "nElements")),
        ("ggml_graph_size", "struct ggml_cgraph *", ("Ggml.CGraph", "size")),
        ("ggml_build_forward_select", "struct ggml_cgraph *", ("Ggml.CGraph", "buildForwardSelect")),
        ("ggml_type_name", "enum ggml_type", ("Ggml", "typeName")),
        ("llama_opt_param_filter_all", "const struct ggml_tensor *", ("", "optParamFilterAll")),
        ("gguf_free", "struct gguf_context *", ("Gguf", "free")),
        ("llama_memory_seq_rm", "llama_memory_t", ("Memory", "seqRemove")),
        ("other_function", "int", ("", "otherFunction")),
    ],
)
def test_function_name(c_name: str, first: str, expected: tuple[str, str]) -> None:
    params = (Param(first, "x"),) if first else ()
    assert naming.function_name(Function(c_name, "llama.h", "void", params)) == expected


def test_a_constructor_of_ggml_belongs_to_its_context_whatever_its_prefix() -> None:
    context, tensor = Param("struct ggml_context *", "ctx"), "struct ggml_tensor *"
    made = Function("ggml_opt_step_sgd", "ggml.h", tensor, (context,))
    other = Function("ggml_opt_step_sgd", "ggml.h", "void", (context,))
    assert naming.function_name(made) == ("Ggml.Context", "optStepSgd")
    assert naming.function_name(other) == ("Ggml.Opt", "stepSgd")


@pytest.mark.parametrize(
    ("c_name", "name"),
    [
        ("llama_split_mode", "SplitMode"),
        ("llama_model_params", "Model.Params"),
        ("ggml_backend_buffer_type_t", "Ggml.BackendBufferType"),
        ("ggml_backend_dev_t", "Ggml.BackendDevice"),
        ("gguf_type", "Gguf.Type"),
        ("other_thing_t", "OtherThing"),
    ],
)
def test_type_name(c_name: str, name: str) -> None:
    assert naming.type_name(c_name) == name


def enum_of(tag: str, *names: str) -> Enum:
    return Enum(tag, "llama.h", tuple(Enumerator(name) for name in names))


@pytest.mark.parametrize(
    ("enum", "members"),
    [
        (enum_of("llama_mode", "LLAMA_MODE_NONE", "LLAMA_MODE_ALL"), ["NONE", "ALL"]),
        (enum_of("axis", "AXIS_0", "AXIS_1", "AXIS_NONE"), ["AXIS_0", "AXIS_1", "AXIS_NONE"]),
        (enum_of("split_axis", "LLAMA_SPLIT_0", "LLAMA_SPLIT_NONE"), ["SPLIT_0", "SPLIT_NONE"]),
        (enum_of("ggml_scale", "GGML_BIG_X", "GGML_BIG_XY"), ["X", "XY"]),
        (enum_of("", "GGML_ONLY_ONE"), ["ONLY_ONE"]),
        (enum_of("", "FIRST", "SECOND"), ["FIRST", "SECOND"]),
        (enum_of("is", "IS_None", "IS_x"), ["None_", "x"]),
        (enum_of("e", "E_", "E_A"), ["E_", "E_A"]),
    ],
)
def test_member_names(enum: Enum, members: list[str]) -> None:
    assert list(naming.member_names(enum).values()) == members


# The check


def test_the_committed_tables_fit() -> None:
    naming.check(API)


def with_functions(*functions: Function) -> Api:
    return replace(API, functions=API.functions + functions)


def test_two_functions_with_one_name_collide() -> None:
    clash = Function("llama_model_chat_template_", "llama.h", "void")
    with pytest.raises(CodegenError, match=r"llama_model_chat_template.* both map to Model\.chatTemplate: add a row"):
        naming.check(with_functions(clash))


def test_a_deprecated_function_may_share_its_successors_name() -> None:
    old = Function("llama_model_n_embd_", "llama.h", "int", deprecated="use llama_model_n_embd")
    naming.check(with_functions(old))
    naming.check(with_functions(replace(old, name="llama_model_gone"), replace(old, name="llama_model__gone")))
    with pytest.raises(CodegenError, match="both map to Model.nEmbd"):
        naming.check(with_functions(old, replace(old, name="llama_model__n_embd", deprecated=None)))


def test_two_successors_of_one_deprecated_function_collide() -> None:
    old = Function("llama_model_new", "llama.h", "int", deprecated="use another")
    successors = [Function(name, "llama.h", "int") for name in ("llama_model__new", "llama_model_new_")]
    naming.check(with_functions(old, successors[0]))
    with pytest.raises(CodegenError, match="llama_model_new_ and llama_model__new both map to Model.new"):
        naming.check(with_functions(old, *successors))


def test_two_fields_with_one_name_collide() -> None:
    record = Record("struct", "llama_x", "llama.h", (Field("int", "n_ctx"), Field("int", "nCtx")))
    with pytest.raises(CodegenError, match=r"struct llama_x\.nCtx and struct llama_x\.n_ctx both map to nCtx"):
        naming.check(replace(API, records=(*API.records, record)))


def test_two_enums_with_one_name_collide() -> None:
    with pytest.raises(CodegenError, match=r"enum llama_split_mode_t and enum llama_split_mode both map to SplitMode"):
        naming.check(replace(API, enums=(*API.enums, enum_of("llama_split_mode_t", "A"))))


def test_an_exception_for_an_unknown_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    row = naming.NameException("llama_gone", "Model", "gone", "upstream dropped it")
    monkeypatch.setattr(naming, "EXCEPTIONS", (*naming.EXCEPTIONS, row))
    with pytest.raises(CodegenError, match=r"EXCEPTIONS has a row for llama_gone\b"):
        naming.check(API)


@pytest.mark.parametrize(("c_name", "absent"), [("llama_decode", "llama_encode"), ("llama_gone", "llama_gone_too")])
def test_a_stand_in_must_be_needed_and_there(monkeypatch: pytest.MonkeyPatch, c_name: str, absent: str) -> None:
    row = naming.NameException(c_name, "Context", "x", "a stand-in", absent)
    monkeypatch.setattr(naming, "EXCEPTIONS", (*naming.EXCEPTIONS, row))
    with pytest.raises(CodegenError, match=f"EXCEPTIONS has a row for {c_name} "):
        naming.check(API)


@pytest.mark.parametrize(
    ("table", "key", "value", "shown"),
    [
        ("PREFIXES", "llama_gone_", "Gone", "llama_gone_"),
        ("FIRST_PARAMETER", "llama_gone", "Gone", "llama_gone"),
        ("TYPE_EXCEPTIONS", "llama_gone", ("Gone", "why"), "llama_gone"),
        ("FIELD_EXCEPTIONS", ("llama_batch", "gone"), ("x", "why"), r"llama_batch\.gone"),
        ("FIELD_EXCEPTIONS", ("llama_gone", "logits"), ("x", "why"), r"llama_gone\.logits"),
        ("VIRTUAL_FIELDS", ("Model.Params", "gone"), ("x", "llama_model_params.gone"), r"Model\.Params\.gone"),
        (
            "VIRTUAL_FIELDS",
            ("Model.Params", "vocab_only"),
            ("x", "llama_model_params.load_mode"),
            r"Model\.Params\.vocab_only",
        ),
    ],
)
def test_a_row_that_fits_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, table: str, key: object, value: object, shown: str
) -> None:
    monkeypatch.setitem(getattr(naming, table), key, value)
    with pytest.raises(CodegenError, match=f"{table} has a row for {shown} that matches nothing"):
        naming.check(API)


def test_no_row_repeats_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {f.name: f for f in API.functions}
    exceptions, types = naming.EXCEPTIONS, dict(naming.TYPE_EXCEPTIONS)
    monkeypatch.setattr(naming, "EXCEPTIONS", ())
    monkeypatch.setattr(naming, "TYPE_EXCEPTIONS", {})
    plain = [r.c_name for r in exceptions if not r.absent]
    assert len(plain) > 10
    by_rule = {name: naming.function_name(functions[name]) for name in plain}
    assert not [r.c_name for r in exceptions if by_rule.get(r.c_name) == (r.owner, r.name)]
    assert not [name for name, (given, _) in types.items() if naming.type_name(name) == given]
    assert not [key for key, (given, _) in naming.FIELD_EXCEPTIONS.items() if naming.camel(key[1]) == given]


def test_every_row_gives_a_reason() -> None:
    assert all(row.reason for row in naming.EXCEPTIONS)
    rows = [*naming.TYPE_EXCEPTIONS.values(), *naming.FIELD_EXCEPTIONS.values(), *naming.VIRTUAL_FIELDS.values()]
    assert len(rows) > 10
    assert all(name and reason for name, reason in rows)


def test_a_struct_that_the_facade_needs_and_the_header_lacks_is_an_error() -> None:
    header = replace(API, records=tuple(r for r in API.records if r.tag != "llama_model_params"))
    with pytest.raises(CodegenError, match=r"NEEDED_RECORDS names llama_model_params\b"):
        python.emit_structs(header)
