"""Errors about arguments: each names the argument, the value and the limits."""

from __future__ import annotations

import pytest

from llama_cffi._core import checks


def test_a_wrong_type_names_both_types_and_the_next_step() -> None:
    assert str(checks.expected("a Model", 3)) == "expected a Model, got int"
    assert str(checks.expected("a Model", "x", "Model.load(path) makes one", "draft")) == (
        "draft: expected a Model, got str: Model.load(path) makes one"
    )
    assert isinstance(checks.expected("a Model", None), TypeError)


def test_a_number_out_of_range_names_itself_and_the_limits() -> None:
    error = checks.out_of_range("nCtx", 0, 1, 4096)
    assert isinstance(error, ValueError) and str(error) == "nCtx must be between 1 and 4096, got 0"
    assert str(checks.out_of_range("nCtx", 0, 1, 4096, "0 is the model's own")).endswith("got 0: 0 is the model's own")


class Index:
    """An integer of another library."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize("value", [1, 7, 10, True, Index()])
def test_integers_in_range(value: int) -> None:
    number = checks.integer(value, 1, 10, "n")
    assert type(number) in (int, bool) and 1 <= number <= 10


@pytest.mark.parametrize("value", [True, False, 1, 0])
def test_booleans(value: bool) -> None:
    assert checks.boolean(value, "noPerf") is bool(value)


@pytest.mark.parametrize("value", [2, "yes", None, []])
def test_other_values_are_not_booleans(value: object) -> None:
    with pytest.raises(TypeError, match=r"noPerf must be True or False, got "):
        checks.boolean(value, "noPerf")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 11, -(1 << 70), 1 << 70])
def test_integers_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match=rf"n .*1 .*10.* {value}"):
        checks.integer(value, 1, 10, "n")


@pytest.mark.parametrize("value", [1.5, 2.0, "3", None, b"4"])
def test_what_is_not_an_integer(value: object) -> None:
    with pytest.raises(TypeError, match="n must be an integer"):
        checks.integer(value, 1, 10, "n")  # type: ignore[arg-type]


def test_a_token_that_a_vocabulary_lacks() -> None:
    error = checks.no_such_token(32000, 32000)
    assert isinstance(error, IndexError)
    assert "31999" in str(error) and "32000" in str(error)
