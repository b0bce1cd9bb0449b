"""Every constructor of ggml computes what numpy does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from codegen.api import snapshot
from codegen.rules import constructors, naming
from llama_cffi import Ggml
from llama_cffi._core.compat import is_pinned_version
from llama_cffi._generated.constructors import Constructors
from tests.ggml.operations import CASES, UNTESTED

METHODS = {name for name in vars(Constructors) if name[0] != "_"}
DEPRECATED = {"add1", "add1Inplace", "ropeCustom", "ropeCustomInplace", "upscaleExt"}
UNORDERED = {"topK"}


def test_each_constructor_has_a_row_or_is_listed_as_untested() -> None:
    assert not CASES.keys() & UNTESTED
    known = CASES.keys() | UNTESTED
    if is_pinned_version():
        assert known == METHODS
        assert len(METHODS) == 232
    assert len(UNTESTED) <= 34, "it may only become shorter"


def test_the_generated_methods_and_those_by_hand_are_all_constructors_of_the_header() -> None:
    found = [f for f in snapshot.load().functions if naming.is_constructor(f)]
    assert len(found) == 245 or not is_pinned_version()
    for function in found:
        owner, name = naming.function_name(function)
        assert owner == "Ggml.Context"
        if function.name not in LACKING:
            assert callable(getattr(Ggml.Context, name)), function.name
    assert LACKING <= constructors.BY_HAND.keys()


# Operations in Python, to be made.
LACKING = {
    "ggml_map_custom1",
    "ggml_map_custom1_inplace",
    "ggml_map_custom2",
    "ggml_map_custom2_inplace",
    "ggml_map_custom3",
    "ggml_map_custom3_inplace",
    "ggml_custom_4d",
    "ggml_custom_inplace",
}


def same(found: Any, expected: Any, tolerance: float, unordered: bool = False) -> None:
    wanted = np.asarray(expected)
    while wanted.ndim > 1 and wanted.shape[0] == 1:
        wanted = wanted[0]
    if unordered:
        found, wanted = np.sort(found, -1), np.sort(wanted, -1)
    assert found.shape == wanted.shape
    scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)) or 1.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale + 1e-30)


@pytest.mark.parametrize("name", CASES)
def test_a_constructor_computes_what_numpy_does(name: str) -> None:
    case = CASES[name]
    with Ggml.Context() as ctx, warnings.catch_warnings():
        warnings.simplefilter("ignore" if name in DEPRECATED else "error", DeprecationWarning)
        tensors = [ctx.tensor(array) for array in case.arrays]
        result = case.call(ctx, *tensors)
        assert isinstance(result, Ggml.Tensor) and result.context is ctx
        same(Ggml.compute(result), case.expected(*case.arrays), case.tolerance, name in UNORDERED)


@pytest.mark.parametrize("name", ["mulMat", "add", "softMax", "getRows", "cpy", "rope", "conv2d", "swiglu", "setRows"])
def test_without_memory_for_data_an_allocator_gives_it(name: str) -> None:
    case = CASES[name]
    with Ggml.Context(noAlloc=True) as ctx:
        result = case.call(ctx, *(ctx.tensor(array) for array in case.arrays))
        same(Ggml.compute(result), case.expected(*case.arrays), case.tolerance)
        same(Ggml.compute(result), case.expected(*case.arrays), case.tolerance)
        same(Ggml.compute(result, nThreads=1), case.expected(*case.arrays), case.tolerance)
