"""A header that is completed by what the facade needs: adapted, absent, or refused with both forms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cffi
import pytest

from codegen import generate
from codegen.api import snapshot
from codegen.api.model import (
    Api,
    CodegenError,
    Constant,
    Enum,
    Enumerator,
    Field,
    Function,
    Param,
    Record,
    Typedef,
    flat_fields,
)
from codegen.diff import history
from codegen.emit import cdef, guard, python
from codegen.fit import needs
from codegen.fit.compare import ADVICE
from codegen.fit.complete import complete
from codegen.fit.needs import Needs, plain
from codegen.rules import policy
from codegen.rules.adapters import ADAPTERS, FIELDS, Adapter

FACADE = needs.load()
PIN = snapshot.load()
CTX = Param("struct llama_context *", "ctx")
DECODE = Function("llama_decode", "llama.h", "int32_t", (CTX, Param("struct llama_batch", "batch")), home="llama")
VERSIONS = ("0.3.20", "0.3.36")


def api(*functions: Function, **more: object) -> Api:
    return replace(Api("other", ("llama.h",), functions), **more)  # type: ignore[arg-type]


def wants(*functions: Function, members: tuple[str, ...] = (), **more: object) -> Needs:
    wanted = replace(api(*functions, **more), pin="ours")
    return Needs(wanted, frozenset(members), dict.fromkeys(needs.names_of(wanted), VERSIONS))


def history_of(version: str) -> Api:
    """A known version's API, as if a library exported every function."""
    known = history.load(history.FOLDER / f"{version}.json").api
    return replace(known, functions=tuple(replace(f, home=f.home or "llama") for f in known.functions))


HISTORY = {version: history_of(version) for version in history.names()}


# Functions


def test_what_the_header_has_stays_its_own() -> None:
    done = complete(api(DECODE), wants(DECODE))
    assert done.functions == (DECODE,)
    assert done.absent == {}


def test_a_missing_function_is_absent_with_its_versions() -> None:
    done = complete(api(), wants(DECODE))
    assert done.absent == {"llama_decode": "0.3.20 to 0.3.36"}
    source = guard.emit_source(done)
    assert 'guard::record_absent("llama_decode", "0.3.20 to 0.3.36");\n    return {};' in source
    assert "llama_decode(struct llama_context *, struct llama_batch);" in cdef.emit(done)


def test_versions_in_words() -> None:
    one = replace(wants(DECODE), versions={"llama_decode": ("0.3.36", "0.3.36")})
    assert complete(api(), one).absent == {"llama_decode": "0.3.36"}


def test_a_function_that_no_library_exports_is_missing() -> None:
    done = complete(api(replace(DECODE, home=None)), wants(DECODE))
    assert done.absent == {"llama_decode": "0.3.20 to 0.3.36"}


def test_an_adapter_is_chosen_by_form_and_its_body_is_called() -> None:
    older = replace(DECODE, params=(CTX,))
    types = ("int32_t", "struct llama_context *")
    rows = (
        Adapter("llama_decode", "return 1;", {"llama_decode": (*types, "bool")}),
        Adapter("llama_decode", "return llama_decode(ctx);", {"llama_decode": types}),
        Adapter("llama_decode", "return 3;", {"llama_decode": types}),
    )
    done = complete(api(older), wants(DECODE), rows)
    assert [f.body for f in done.functions] == ["return llama_decode(ctx);"]
    assert done.absent == {}
    source = guard.emit_source(done)
    assert "guard_llama_decode(struct llama_context *ctx, struct llama_batch batch) {" in source
    assert re.search(r"\[&\]\(\) -> int32_t \{\s+return llama_decode\(ctx\);\s+\}\(\)", source)


def test_an_adapter_may_need_nothing() -> None:
    done = complete(api(), wants(DECODE), (Adapter("llama_decode", "return 0;"),))
    assert [f.body for f in done.functions] == ["return 0;"]


def test_a_row_without_a_body_says_that_it_cannot_be_had() -> None:
    older = replace(DECODE, returns="void")
    row = Adapter("llama_decode", "", {"llama_decode": ("void", "struct llama_context *", "struct llama_batch")})
    done = complete(api(older), wants(DECODE), (row,))
    assert done.absent == {"llama_decode": "0.3.20 to 0.3.36"}


def test_a_changed_function_is_refused_with_both_prototypes_and_the_place() -> None:
    with pytest.raises(CodegenError) as error:
        complete(api(replace(DECODE, params=(*DECODE.params, Param("bool", "all")))), wants(DECODE))
    text = str(error.value)
    assert re.match(r"llama\.h: llama_decode\b.*chang", text)
    assert "    int32_t llama_decode(struct llama_context *ctx, struct llama_batch batch, bool all);\n" in text
    assert re.search(r"\bllama_cffi/\S+:\d+\b", text)
    assert "    int32_t llama_decode(struct llama_context *ctx, struct llama_batch batch);\n" in text
    assert text.endswith(ADVICE)


@pytest.mark.parametrize(
    "theirs",
    [
        replace(DECODE, returns="int"),
        replace(DECODE, returns="enum ggml_status"),
        replace(DECODE, params=(Param("const struct llama_context *", "ctx"), DECODE.params[1])),
        replace(DECODE, params=(replace(CTX, name="context"), DECODE.params[1])),
        replace(DECODE, params=tuple(replace(p, name="") for p in DECODE.params)),
        replace(DECODE, deprecated="use another", doc="Decodes."),
    ],
)
def test_what_is_no_change(theirs: Function) -> None:
    assert complete(api(theirs), wants(DECODE)).functions == (theirs,)


@pytest.mark.parametrize(
    "theirs",
    [
        replace(DECODE, returns="int64_t"),
        replace(DECODE, returns="bool"),
        replace(DECODE, variadic=True),
        replace(DECODE, params=DECODE.params[::-1]),
        replace(DECODE, params=(CTX, Param("struct llama_batch *", "batch"))),
    ],
)
def test_what_is_a_change(theirs: Function) -> None:
    with pytest.raises(CodegenError, match="llama_decode .*changed"):
        complete(api(theirs), wants(DECODE))


def test_parameters_that_changed_places() -> None:
    ours = replace(DECODE, params=(CTX, Param("int32_t", "first"), Param("int32_t", "last")))
    theirs = replace(DECODE, params=(CTX, Param("int32_t", "last"), Param("int32_t", "first")))
    with pytest.raises(CodegenError, match=r"(?s)chang.*\n    ctx, last, first\n.*\n    ctx, first, last"):
        complete(api(theirs), wants(ours))


def test_a_row_may_adapt_what_changed_places() -> None:
    ours = replace(DECODE, params=(CTX, Param("int32_t", "first"), Param("int32_t", "last")))
    theirs = replace(DECODE, params=(CTX, Param("int32_t", "last"), Param("int32_t", "first")))
    row = Adapter("llama_decode", "return llama_decode(ctx, last, first);", names=("ctx", "last", "first"))
    done = complete(api(theirs), wants(ours), (row,))
    assert [f.body for f in done.functions] == ["return llama_decode(ctx, last, first);"]
    assert [p.name for p in done.functions[0].params] == ["ctx", "first", "last"]


def test_one_parameter_that_is_elsewhere_is_enough() -> None:
    ours = replace(DECODE, params=(CTX, Param("int32_t", "first"), Param("int32_t", "last")))
    theirs = replace(DECODE, params=(CTX, Param("int32_t", "stride"), Param("int32_t", "first")))
    with pytest.raises(CodegenError, match="the parameters of llama_decode .*changed places"):
        complete(api(theirs), wants(ours))


# Types and constants that a header lacks


def test_missing_types_get_definitions() -> None:
    enum = Enum("llama_mode", "llama.h", (Enumerator("LLAMA_MODE_A", value=-1), Enumerator("LLAMA_MODE_B", value=4)))
    record = Record("struct", "llama_row", "llama.h", (Field("int32_t", "n"),), size=4)
    opaque = Record("struct", "llama_thing", "llama.h")
    typedef = Typedef("llama_row_callback", "void (*)(struct llama_row *)", "llama.h")
    constant = Constant("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY", "llama.h", "int", 1)
    done = complete(
        api(),
        wants(enums=(enum,), records=(record, opaque), typedefs=(typedef,), constants=(constant,)),
    )
    header = guard.emit_header(done)
    for text in (
        "enum llama_mode {\n    LLAMA_MODE_A = -1,\n    LLAMA_MODE_B = 4,\n};\n",
        "struct llama_row {\n    int32_t n;\n};\n",
        "struct llama_thing;\n",
        "typedef void (*llama_row_callback)(struct llama_row *);\n",
        "#define LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY 1\n",
    ):
        assert text in header
    assert set(done.absent) == {"llama_mode", "llama_row", "llama_thing", "LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY"}


def test_what_is_there_gets_no_definition() -> None:
    assert "these headers lack" not in guard.emit_header(complete(PIN, FACADE))


def test_an_enum_that_took_another_name_is_refused() -> None:
    ours = Enum("llama_mode", "llama.h", (Enumerator("LLAMA_MODE_A", value=0),))
    with pytest.raises(CodegenError, match=r"enum llama_mode .*chang.*\n    LLAMA_MODE_A: enum llama_way\n"):
        complete(api(enums=(replace(ours, tag="llama_way"),)), wants(enums=(ours,)))


def test_a_constant_that_nobody_asks_for_cannot_be_made_up() -> None:
    ours = Constant("LLAMA_DEFAULT_SEED", "llama.h", "int", 7)
    where = r"llama_cffi/_core/base_types\.py:\d+"
    with pytest.raises(CodegenError, match=rf"LLAMA_DEFAULT_SEED\b.*{where}.*\n    #define LLAMA_DEFAULT_SEED 7\n"):
        complete(api(), wants(constants=(ours,)))


def test_an_enumerator_that_the_sources_name_cannot_be_made_up() -> None:
    theirs = Enum("llama_load_mode", "llama.h", (Enumerator("LLAMA_LOAD_MODE_AUTO", value=0),))
    with pytest.raises(CodegenError, match=r"LoadMode\.MMAP\b.*llama_cffi/\S+:\d+.*AUTO"):
        complete(api(enums=(theirs,)), wants(members=("LoadMode.AUTO", "LoadMode.MMAP")))


# Fields that a header lacks


def without(field: str, *instead: Field) -> Api:
    """The pin, and one of its structs without a field."""
    tag, _, name = field.partition(".")
    records = tuple(
        replace(r, fields=(*(f for f in r.fields or () if f.name != name), *instead)) if r.tag == tag else r
        for r in PIN.records
    )
    return replace(PIN, pin="other", records=records)


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("llama_context_params.n_rs_seq", 'nRsSeq = AbsentField("llama_context_params.n_rs_seq", 0, "0.3.2'),
        ("llama_context_params.op_offload", 'opOffload = AbsentField("llama_context_params.op_offload", False, "0.'),
        (
            "llama_context_params.rope_freq_base",
            'ropeFreqBase = AbsentField("llama_context_params.rope_freq_base", 0.0',
        ),
        (
            "llama_model_params.lazy_mode",
            'lazyMode = AbsentField("llama_model_params.lazy_mode", enums.LazyMode(0), "0.3.36',
        ),
        (
            "llama_model_params.load_mode",
            'loadMode = AbsentField("llama_model_params.load_mode", enums.LoadMode(0), "0.3.36',
        ),
    ],
)
def test_a_missing_field_has_a_stand_in(field: str, line: str) -> None:
    done = complete(without(field), FACADE)
    assert field in done.absent
    text = python.emit_structs(done)
    assert line in text and f'"{FACADE.has(field)}")' in text
    assert "from llama_cffi._core.compat_fields import AbsentField\n" in text


def test_a_field_is_made_up_from_others_where_all_of_them_are_there() -> None:
    mapped, locked = Field("bool", "use_mmap"), Field("bool", "use_mlock")
    both = python.emit_structs(complete(without("llama_model_params.load_mode", mapped, locked), FACADE))
    assert 'loadMode = LoadModeField["LoadMode"]("load_mode", "LoadMode")' in both
    one = python.emit_structs(complete(without("llama_model_params.load_mode", mapped), FACADE))
    assert "LoadModeField" not in one


def test_a_pointer_that_the_facade_sets_cannot_be_missing() -> None:
    pattern = r"llama_context_params has no field cb_eval\b.*context/params\.py:\d+"
    with pytest.raises(CodegenError, match=rf"(?s){pattern}"):
        complete(without("llama_context_params.cb_eval"), FACADE)


def test_a_pointer_that_the_facade_asks_for_may_be_missing() -> None:
    assert "llama_context_params.samplers" in complete(without("llama_context_params.samplers"), FACADE).absent


# The versions that are known


def _has(version: str, name: str) -> bool:
    known = list(HISTORY)
    first, last = (known.index(one) for one in FACADE.versions[name])
    return first <= known.index(version) <= last


@pytest.mark.parametrize("version", HISTORY)
def test_a_known_version_is_completed_and_generated(version: str) -> None:
    files = generate.generate(HISTORY[version], FACADE)
    done = complete(HISTORY[version], FACADE)
    wanted = {f.name for f in FACADE.api.functions}
    assert wanted <= {f.name for f in policy.bound(done)}
    wrapped = set(re.findall(r"\bguard_(\w+)\([^\n]*\) \{$", files["llama_cffi/_generated/guard.cpp"], re.M))
    assert wanted <= wrapped
    assert bool(done.absent) == any(not _has(version, name) for name in FACADE.versions)
    for name in (n for n in done.absent if n in wanted):
        assert f'guard::record_absent("{name}", ' in files["llama_cffi/_generated/guard.cpp"]
    cffi.FFI().cdef(files["llama_cffi/_generated/cdef.h"])  # raises if a type is not declared


def test_nothing_is_absent_for_the_pin() -> None:
    done = complete(PIN, FACADE)
    assert done.absent == {}
    assert not any(f.body or f.absent for f in done.functions)
    assert done.functions == PIN.functions


def test_a_field_of_an_older_form_counts_as_missing() -> None:
    absent = complete(HISTORY["0.3.16"], FACADE).absent
    for name in ("imatrix", "kv_overrides", "prune_layers"):
        assert absent[f"llama_model_quantize_params.{name}"] == f"0.3.20 to {list(HISTORY)[-1]}"


# The tables


def test_needs_json_is_up_to_date() -> None:
    found = needs.gather(PIN)
    assert found.api == FACADE.api
    assert found.members == FACADE.members


def test_what_a_new_pin_lacks_stays_needed() -> None:
    """A function, a field and an enumeration that upstream drops while the facade still uses them."""
    less = replace(
        without("llama_model_params.lazy_mode"),
        functions=tuple(f for f in PIN.functions if f.name != "llama_model_desc"),
        enums=tuple(e for e in PIN.enums if e.tag != "llama_process_type"),
    )
    found = needs.gather(needs.with_former(less, FACADE.api))
    assert needs.names_of(found.api) == needs.names_of(FACADE.api)
    assert found.members == FACADE.members
    assert "llama_model_desc" in complete(less, replace(found, versions=FACADE.versions)).absent


def test_what_the_sources_use_no_more_is_needed_no_more(tmp_path: Path) -> None:
    (tmp_path / "llama_cffi" / "_shim").mkdir(parents=True)
    (tmp_path / "llama_cffi" / "model.py").write_text("lib.llama_model_desc(model)\n", encoding="utf-8")
    found = needs.gather(needs.with_former(PIN, FACADE.api), tmp_path)
    assert [f.name for f in found.api.functions] == ["llama_model_desc"]


def test_every_name_has_its_versions() -> None:
    assert set(FACADE.versions) == needs.names_of(FACADE.api)


def fits(row: Adapter, known: Api) -> bool:
    """Whether a version lacks the function's present form, and has what the row requires."""
    functions = {f.name: [plain(x) for x in (f.returns, *(p.type for p in f.params))] for f in known.functions}
    ours = next(f for f in FACADE.api.functions if f.name == row.name)
    if row.names:
        return any(f.name == row.name and tuple(p.name for p in f.params) == row.names for f in known.functions)
    if not row.always and functions.get(row.name) == [plain(x) for x in (ours.returns, *(p.type for p in ours.params))]:
        return False
    return all(functions.get(name) == [plain(x) for x in types] for name, types in row.requires.items())


@pytest.mark.parametrize("row", ADAPTERS, ids=[f"{i}-{row.name}" for i, row in enumerate(ADAPTERS)])
def test_every_adapter_fits_a_known_version(row: Adapter) -> None:
    assert any(fits(row, known) for known in HISTORY.values())


@pytest.mark.parametrize("name", FIELDS)
def test_every_adapter_of_a_field_fits_a_known_version(name: str) -> None:
    tag, _, field = name.partition(".")
    fields = [{f.name for r in known.records if r.tag == tag for f in flat_fields(r)} for known in HISTORY.values()]
    assert any(field not in have and set(FIELDS[name].requires) <= have for have in fields)


@pytest.mark.parametrize("name", policy.OPTIONAL_CONSTANTS)
def test_what_may_be_missing_is_missing_in_a_known_version(name: str) -> None:
    assert any(name in complete(known, FACADE).absent for known in HISTORY.values())


@pytest.mark.parametrize("table", ["EXACT_RECORDS", "FILLED_RECORDS"])
def test_a_row_for_an_unknown_struct_is_an_error(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, table, {"llama_gone": "why"})
    with pytest.raises(CodegenError, match=rf"policy\.py: {table} names llama_gone\b"):
        policy.check(PIN)
