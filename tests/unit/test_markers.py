"""Markers for older versions of llama.cpp, and the rule that a marker names something that the facade uses."""

from __future__ import annotations

import pytest

from tests import older

ABSENT = {"llama_n_ctx_seq": "0.3.20 to 0.3.36", "llama_context_params.n_rs_seq": "0.3.26 to 0.3.36"}


def mark(decorator: pytest.MarkDecorator) -> pytest.Mark:
    return decorator.mark


def test_a_test_that_needs_what_is_there_runs() -> None:
    needs = mark(pytest.mark.needs("llama_n_ctx_seq", "llama_context_params.n_rs_seq"))
    assert older.marks(needs, {}) == []
    assert older.marks(mark(pytest.mark.needs("llama_decode")), ABSENT) == []


def test_a_test_that_needs_what_is_absent_is_skipped_and_says_what() -> None:
    (skip,) = older.marks(mark(pytest.mark.needs("llama_decode", "llama_context_params.n_rs_seq")), ABSENT)
    assert skip.name == "skip"
    assert skip.kwargs["reason"] == "unavailable: llama_context_params.n_rs_seq (0.3.26 to 0.3.36)"


def test_a_test_of_other_behaviour_must_fail_there() -> None:
    (xfail,) = older.marks(mark(pytest.mark.older("llama_n_ctx_seq", "rounds in another way")), ABSENT)
    assert xfail.name == "xfail"
    assert xfail.kwargs == {"reason": "0.3.20 to 0.3.36 differ: rounds in another way", "strict": True}
    (some,) = older.marks(mark(pytest.mark.older("llama_n_ctx_seq", "rounds in another way", some=True)), ABSENT)
    assert some.kwargs["strict"] is False
    assert older.marks(mark(pytest.mark.older("llama_n_ctx_seq", "rounds in another way")), {}) == []


@pytest.mark.parametrize(
    "decorator",
    [
        pytest.mark.needs("llama_dekode"),
        pytest.mark.needs("llama_decode", "llama_context_params.n_what"),
        pytest.mark.needs,
        pytest.mark.needs("llama_decode", 3),
        pytest.mark.needs("llama_decode", reason="so"),
        pytest.mark.older("llama_decode"),
        pytest.mark.older("llama_dekode", "differs"),
        pytest.mark.older("llama_decode", "differs", "twice"),
        pytest.mark.older("llama_n_ctx_seq", "differs", some=False),
        pytest.mark.older("llama_n_ctx_seq", "differs", strict=False),
    ],
    ids=lambda decorator: str(decorator.mark.args),
)
def test_a_marker_that_says_nothing_is_an_error(decorator: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.UsageError, match=r"needs"):
        older.marks(mark(decorator), {})
