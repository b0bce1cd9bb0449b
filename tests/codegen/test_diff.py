"""Comparing versions: the known releases against a list checked by hand, and each class of changes by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.__main__ import main
from codegen.api import compact, snapshot
from codegen.api.model import Api, Constant, Enum, Enumerator, Field, Function, Param, Record, Typedef
from codegen.diff import changes as diff, command, history, text as diff_text
from codegen.diff.change import KINDS, Change
from codegen.diff.history import Version
from codegen.diff.text import Report
from codegen.read import defaults
from tests.codegen.conftest import read_headers
from vendor.source import pin

VERSIONS = history.names()
NEIGHBOURS = list(zip(VERSIONS[:-1], VERSIONS[1:], strict=True))
KNOWN = [
    line.split("\t")
    for line in Path(__file__).with_name("known_changes.tsv").read_text(encoding="utf-8").splitlines()[1:]
]


def stored(version: str) -> Version:
    return history.load(history.FOLDER / f"{version}.json")


@pytest.fixture(scope="module")
def reports() -> dict[tuple[str, str], Report]:
    return {(old, new): command.compare(stored(old), stored(new)) for old, new in NEIGHBOURS}


# Snapshots


def test_every_known_release_has_a_small_snapshot() -> None:
    assert [name for name, one in history.releases().items() if not one.is_tree] == VERSIONS
    for version in VERSIONS:
        path = history.FOLDER / f"{version}.json"
        assert path.stat().st_size < 200_000
        assert history.dumps(history.load(path)) == path.read_text(encoding="utf-8")
        assert history.load(path).api.pin == history.releases()[version].label


@pytest.mark.skipif(pin.load().is_tree, reason="the history has releases only")
def test_the_pinned_one_is_that_of_api_json() -> None:
    assert stored(pin.load().name).api == compact.bare(snapshot.load())
    assert main(["diff", pin.load().name, str(snapshot.SNAPSHOT)]) == 0


def test_defaults_of_all_are_known() -> None:
    for version in VERSIONS:
        defaults = stored(version).defaults
        assert defaults is not None and defaults["llama_context_params.n_batch"] == 2048


def test_changes_md_is_up_to_date() -> None:
    for path, page in command.changes_pages().items():
        assert path.read_text(encoding="utf-8") == page


# The releases


@pytest.mark.parametrize(("old", "new", "kind", "detail", "name", "facade", "breaks"), KNOWN)
def test_a_known_change_is_found(
    reports: dict[tuple[str, str], Report],
    old: str,
    new: str,
    kind: str,
    detail: str,
    name: str,
    facade: str,
    breaks: str,
) -> None:
    found = [f for f in reports[old, new].findings if f.change.name == name and f.change.kind == kind]
    found = [f for f in found if f.change.detail == detail]
    assert [(f.facade[:1], f.breaks) for f in found] == [((facade,) if facade else (), breaks)]
    assert found[0].why


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_differs_from_itself(version: str) -> None:
    assert diff.changes(stored(version), stored(version)) == []


@pytest.mark.parametrize(("old", "new"), NEIGHBOURS)
def test_what_is_added_one_way_is_gone_the_other_way(old: str, new: str) -> None:
    def functions(changes: Iterable[Change], *kinds: str) -> set[str]:
        return {change.name for change in changes if change.what == "function" and change.kind in kinds}

    there, back = diff.changes(stored(old), stored(new)), diff.changes(stored(new), stored(old))
    gone = {f.name for f in stored(old).api.functions} - {f.name for f in stored(new).api.functions}
    assert functions(there, "removed", "renamed") == gone
    guesses = {change.detail for change in back if change.kind == "renamed" and not change.sure}
    assert functions(back, "added") | guesses >= gone


def test_renames_tell_hints_from_guesses(reports: dict[tuple[str, str], Report]) -> None:
    renamed = {f.change.name: f.change for f in reports["0.3.16", "0.3.20"].findings if f.change.kind == "renamed"}
    assert (
        renamed["llama_kv_self_clear"].sure
        and renamed["llama_kv_self_clear"].hint == "Use llama_memory_clear() instead"
    )
    assert not renamed["llama_set_adapter_lora"].sure
    assert "llama_kv_self_update" not in renamed  # its hint names a function, but not as its successor


# Each class by itself


def api(**parts: tuple[object, ...]) -> Version:
    return Version(replace(Api("test", ("llama.h",)), **parts))  # type: ignore[arg-type]


def function(name: str, *params: tuple[str, str], returns: str = "void", hint: str | None = None) -> Function:
    return Function(name, "llama.h", returns, tuple(Param(*param) for param in params), deprecated=hint)


def record(*fields: tuple[str, str, int], tag: str = "llama_x", size: int = 8) -> Record:
    members = tuple(Field(ctype, name, offset=offset, size=4) for ctype, name, offset in fields)
    return Record("struct", tag, "llama.h", members, size=size)


def enum(tag: str = "llama_e", **members: int) -> Enum:
    return Enum(tag, "llama.h", tuple(Enumerator(name, value=value) for name, value in members.items()))


def constant(name: str, value: int) -> Constant:
    return Constant(name, "llama.h", "int", value)


def pair(part: str, old: object, new: object) -> tuple[Version, Version]:
    def side(value: object) -> Version:
        return api(**{part: tuple(value) if isinstance(value, list) else (value,)})

    return side(old), side(new)


A, B = ("int", "alpha"), ("int", "beta")
CASES: dict[str, tuple[tuple[Version, Version], list[tuple[str, str, str]]]] = {
    "function added": (pair("functions", [], function("llama_f")), [("added", "llama_f", "")]),
    "function removed": (pair("functions", function("llama_f"), []), [("removed", "llama_f", "")]),
    "renamed by hint": (
        pair("functions", function("llama_old", hint="use llama_new instead"), function("llama_new", A)),
        [("renamed", "llama_old", "llama_new"), ("added", "llama_new", "")],
    ),
    "names that are not alike enough": (
        pair("functions", function("llama_apply_cvec", A), function("llama_set_cvec", A)),
        [("removed", "llama_apply_cvec", ""), ("added", "llama_set_cvec", "")],
    ),
    "renamed by likeness": (
        pair("functions", function("llama_get_vocab_type", A), function("llama_get_vocab_types", A)),
        [("renamed", "llama_get_vocab_type", "llama_get_vocab_types")],
    ),
    "two candidates are none": (
        pair("functions", function("llama_get_it", A), [function("llama_get_it1", A), function("llama_get_it2", A)]),
        [("removed", "llama_get_it", ""), ("added", "llama_get_it1", ""), ("added", "llama_get_it2", "")],
    ),
    "signature": (
        pair("functions", function("llama_f", A), function("llama_f", A, B)),
        [("signature", "llama_f", "parameter beta (int) added")],
    ),
    "parameter names": (
        pair("functions", function("llama_f", A), function("llama_f", B)),
        [("parameter names", "llama_f", "alpha is now beta")],
    ),
    "permuted": (
        pair("functions", function("llama_f", A, B), function("llama_f", B, A)),
        [("parameter names", "llama_f", "permuted: alpha is now beta, beta is now alpha")],
    ),
    "deprecated": (
        pair("functions", function("llama_f"), function("llama_f", hint="stop")),
        [("deprecated", "llama_f", "")],
    ),
    "no longer deprecated": (
        pair("functions", function("llama_f", hint="stop"), function("llama_f")),
        [("deprecated", "llama_f", "no longer")],
    ),
    "another header": (
        pair("functions", function("llama_f"), replace(function("llama_f"), header="ggml.h")),
        [("header", "llama_f", "")],
    ),
    "field inserted": (
        pair("records", record(("int", "a", 0)), record(("int", "z", 0), ("int", "a", 4), size=12)),
        [
            ("struct layout", "llama_x.z", "field added"),
            ("struct layout", "struct llama_x", "fields moved"),
            ("struct layout", "struct llama_x", "size"),
        ],
    ),
    "field removed": (
        pair("records", record(("int", "a", 0), ("int", "b", 4)), record(("int", "a", 0))),
        [("struct layout", "llama_x.b", "field removed")],
    ),
    "field type": (
        pair("records", record(("int", "a", 0)), record(("float", "a", 0))),
        [("struct layout", "llama_x.a", "field type changed")],
    ),
    "field renamed": (
        pair("records", record(("int", "n_token", 0)), record(("int", "n_tokens", 0))),
        [("struct layout", "llama_x.n_token", "field renamed")],
    ),
    "fields swapped": (
        pair("records", record(("int", "a", 0), ("int", "b", 4)), record(("int", "b", 0), ("int", "a", 4))),
        [("struct layout", "struct llama_x", "fields reordered")],
    ),
    "made opaque": (
        pair("records", record(("int", "a", 0)), Record("struct", "llama_x", "llama.h")),
        [("struct layout", "struct llama_x", "made opaque")],
    ),
    "struct renamed": (
        pair("records", record(("int", "a", 0)), record(("int", "a", 0), tag="llama_y")),
        [("renamed", "struct llama_x", "")],
    ),
    "renumbered": (
        pair("enums", enum(LLAMA_A=0, LLAMA_B=1), enum(LLAMA_A=0, LLAMA_NEW=1, LLAMA_B=2)),
        [("enum value", "LLAMA_B", "renumbered"), ("enum value", "LLAMA_NEW", "added")],
    ),
    "enumerator removed": (
        pair("enums", enum(LLAMA_A=0, LLAMA_B=1), enum(LLAMA_A=0)),
        [("enum value", "LLAMA_B", "removed")],
    ),
    "enumerator renamed": (
        pair("enums", enum(LLAMA_TYPE_DEFAULT=0), enum(LLAMA_TYPE_DEFAULTS=0)),
        [("enum value", "LLAMA_TYPE_DEFAULT", "renamed")],
    ),
    "enum renamed": (
        pair("enums", enum(LLAMA_A=0), enum("llama_other", LLAMA_A=0)),
        [("renamed", "enum llama_e", "")],
    ),
    "constant": (
        pair("constants", constant("LLAMA_N", 1), constant("LLAMA_N", 2)),
        [("constant value", "LLAMA_N", "")],
    ),
    "macro to enumerator": (
        (
            api(constants=(constant("LLAMA_N", 1),), enums=(enum(LLAMA_A=0),)),
            api(enums=(enum(LLAMA_A=0, LLAMA_N=1),)),
        ),
        [("macro to enumerator", "LLAMA_N", "macro to enumerator")],
    ),
    "enumerator to macro": (
        (
            api(enums=(enum(LLAMA_A=0, LLAMA_N=1),)),
            api(constants=(constant("LLAMA_N", 1),), enums=(enum(LLAMA_A=0),)),
        ),
        [("macro to enumerator", "LLAMA_N", "enumerator to macro")],
    ),
    "typedef": (
        pair("typedefs", Typedef("llama_t", "int", "llama.h"), Typedef("llama_t", "long", "llama.h")),
        [("typedef", "llama_t", "")],
    ),
    "default": (
        (
            replace(api(records=(record(("int", "a", 0)),)), defaults={"llama_x.a": 1}),
            replace(api(records=(record(("int", "a", 0)),)), defaults={"llama_x.a": 2, "llama_x.b": 3}),
        ),
        [("default", "llama_x.a", "")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_class_of_changes(name: str) -> None:
    (old, new), expected = CASES[name]
    found = diff.changes(old, new)
    assert sorted((c.kind, c.name, c.detail) for c in found) == sorted(expected)
    assert bool(diff.changes(new, old))
    command.compare(old, new)  # each can be judged


def test_every_class_is_tried() -> None:
    assert {change[0] for _, expected in CASES.values() for change in expected} == set(KINDS)


def test_a_permutation_is_dangerous() -> None:
    finding = command.compare(*CASES["permuted"][0]).findings[0]
    assert finding.breaks == "raw" and finding.why.startswith("DANGEROUS")


# Defaults


def test_defaults_are_asked_of_the_libraries(tmp_path: Path, run: Callable[[Sequence[str]], str]) -> None:
    header, source = tmp_path / "llama.h", tmp_path / "llama.c"
    header.write_text(
        "#include <stdbool.h>\nenum llama_mode { LLAMA_MODE_A = 3 };\n"
        "struct llama_x_params { int n; float f; double inf; bool b; enum llama_mode mode, odd; void * p; };\n"
        "struct llama_x_params llama_x_default_params(void);\nstruct llama_x_params llama_y_default_params(void);\n"
    )
    source.write_text(
        '#include "llama.h"\nstruct llama_x_params llama_x_default_params(void) {\n'
        "    struct llama_x_params it = { -2, 0.1f, 1e999, true, LLAMA_MODE_A, (enum llama_mode)9, 0 };\n"
        "    return it;\n}\n"
    )
    for name in ("ggml-base", "ggml", "llama"):
        run(["cc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / f"lib{name}.so")])
    found = defaults.ask(read_headers(tmp_path, ["llama.h"]), [tmp_path], tmp_path)
    values = {"n": -2, "f": 0.100000001, "inf": "inf", "b": True, "mode": "LLAMA_MODE_A", "odd": 9}
    assert found == {f"llama_x_params.{name}": value for name, value in values.items()}


@pytest.mark.native
def test_a_folder_without_libraries_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", VERSIONS[-1], VERSIONS[-1], "--old-lib", str(tmp_path)]) == 2
    assert f"{tmp_path} has no libggml-base.so" in capsys.readouterr().err


# What is printed


@pytest.mark.parametrize(("old", "new"), NEIGHBOURS)
def test_markdown_holds_every_header_and_few_lines(reports: dict[tuple[str, str], Report], old: str, new: str) -> None:
    report = reports[old, new]
    text = diff_text.markdown(report)
    assert text.startswith(f"## {report.old} to {report.new}\n")
    for header in {finding.change.header for finding in report.findings}:
        assert f"\n- `{header}`\n" in text
    assert len(text.splitlines()) < 140
    assert sum("renumbered" in line for line in text.splitlines()) <= 6  # one an enumeration


def test_json_has_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "0.3.26", "0.3.30", "--format", "json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert sum(data["kinds"].values()) == sum(data["breaks"].values()) == len(data["changes"])
    assert data["defaults_compared"] is True
    assert {"kind", "what", "name", "old", "new", "facade", "breaks", "why", "sure"} <= set(data["changes"][0])
    assert [change["breaks"] for change in data["changes"]] == sorted(
        (change["breaks"] for change in data["changes"]), key=["facade", "raw", "no"].index
    )


def test_a_changelog_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "0.3.26", "0.3.36", "--changelog"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("## llama.cpp 7c158fbb -> 0c1e5709 (llama-cpp-python 0.3.26 -> 0.3.36)\n\n### Breaking\n")
    sections = [line for line in text.splitlines() if line.startswith("### ")]
    assert sections == ["### Breaking", "### Added", "### Changed", "### Deprecated"]
    assert "- `Sampler.initPenalties` (`llama_sampler_init_penalties: parameter n_vocab" in text


@pytest.mark.parametrize(
    "old, new, heading",
    [
        (f"{'1' * 12} (a 1.0)", f"{'2' * 12} (a 2.0)", "llama.cpp 11111111 -> 22222222 (a 1.0 -> 2.0)"),
        (f"{'1' * 12} (a 1.0)", "b11549 (b 2026.10)", "llama.cpp 11111111 -> b11549 (a 1.0 -> b 2026.10)"),
        ("b11549 (b 2026.10)", f"{'1' * 12} (a 1.0)", "llama.cpp b11549 -> 11111111 (b 2026.10 -> a 1.0)"),
        ("b7 (b 1)", f"{'1' * 12}", f"llama.cpp b7 (b 1) -> llama.cpp {'1' * 12}"),
    ],
)
def test_the_heading_of_a_changelog_entry(old: str, new: str, heading: str) -> None:
    report = Report(f"llama.cpp {old}", f"llama.cpp {new}", ())
    assert diff_text.changelog(report).splitlines()[0] == f"## {heading}"


def test_exit_status(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["diff", "0.3.36", str(history.FOLDER / "0.3.36.json")]) == 0
    assert capsys.readouterr().out.count("no differences") == 1
    (tmp_path / "broken.json").write_text("[]", encoding="utf-8")
    for argument, words in (
        ("nonsense", "0.3.16, 0.3.20"),
        (str(tmp_path), "it has no include/llama.h"),
        (str(tmp_path / "broken.json"), "not a snapshot of an API"),
    ):
        assert main(["diff", argument, "0.3.36"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and words in captured.err
