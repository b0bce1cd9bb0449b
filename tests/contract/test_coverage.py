"""Everything that llama.h offers and does not deprecate has its place in the facade, under the generated naming map."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llama_cffi
from codegen.api.model import Function
from codegen.fit import complete, needs
from codegen.rules import naming, policy
from llama_cffi._core.compat import is_pinned_version
from tests.contract import ggml_coverage

# What a user has no use for, or must not have. Under ten rows.
EXCLUDED = {
    "llama_model_init_from_user": "weights come from a C callback that gets a raw tensor to fill: not from Python",
    "llama_opt_init": "`fineTune` calls it on a context of its own: such a context can do nothing else",
    "llama_opt_epoch": "`fineTune` calls it",
    "llama_opt_param_filter_all": "`fineTune` passes it",
}

FUNCTIONS = [f for f in complete.load().functions if f.header == "llama.h" and not f.deprecated]


def _reachable(function: Function) -> bool:
    owner, name = naming.function_name(function)
    holder: object = llama_cffi
    for part in filter(None, owner.split(".")):
        holder = getattr(holder, part, None)
    return hasattr(holder, name)


def test_every_function_has_its_place() -> None:
    expected = [f for f in FUNCTIONS if f.name not in EXCLUDED and policy.left_out(f) is None]
    if not is_pinned_version():  # what another llama.cpp has beside that is for whoever moves the facade there
        known = {f.name for f in needs.load().api.functions}
        expected = [f for f in expected if f.name in known]
    missing = {f.name: ".".join(filter(None, naming.function_name(f))) for f in expected if not _reachable(f)}
    assert not missing
    assert len(expected) > 200


def test_exclusions_are_few_and_true() -> None:
    assert len(EXCLUDED) < 10
    names = {f.name: f for f in FUNCTIONS}
    assert all(reason for reason in EXCLUDED.values())
    assert not [
        name
        for name in EXCLUDED
        if (name not in names and is_pinned_version()) or (name in names and _reachable(names[name]))
    ]


# The headers of ggml


@pytest.mark.parametrize("header", ggml_coverage.HEADERS)
def test_what_the_facade_lacks_of_ggml_has_a_reason(header: str) -> None:
    names = {f.name for f in ggml_coverage.functions(header)}
    assert names
    if is_pinned_version():
        assert [name for name, row in ggml_coverage.rest().items() if name in names and row is None] == []


def test_each_reason_is_of_functions_that_exist() -> None:
    names = [f.name for header in ggml_coverage.HEADERS for f in ggml_coverage.functions(header)]
    unused = [row[0] for row in ggml_coverage.ROWS if not any(re.fullmatch(row[0], name) for name in names)]
    assert unused == [] or not is_pinned_version()
    assert {form for _, form, _ in ggml_coverage.ROWS} == {ggml_coverage.OTHER, ggml_coverage.LIB}


def test_the_guide_has_the_counts() -> None:
    text = (Path(llama_cffi.__file__).parents[1] / "docs/howto/tensors.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- python -m tests.contract.ggml_coverage -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found and (found[1] == ggml_coverage.table() or not is_pinned_version())
