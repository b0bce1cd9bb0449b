"""Arrays of candidates: their sources, use as one numpy array, sorting, and arguments that they reject."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from llama_cffi import BusyError, ClosedError, Sampler, TokenData, TokenDataArray, ffi


def test_fields_of_one_candidate() -> None:
    item = TokenData(id=5, logit=1.5)
    assert (item.id, item.logit, item.p) == (5, 1.5, 0.0)
    item.p = 0.25
    assert tuple(item) == (5, 1.5, 0.25) and repr(item) == "TokenData(id=5, logit=1.5, p=0.25)"
    with pytest.raises(AttributeError, match="did you mean 'logit'"):
        item.logits = 3  # type: ignore[attr-defined]


def test_from_a_number() -> None:
    candidates = TokenDataArray(4)
    assert [tuple(c) for c in candidates] == [(i, 0.0, 0.0) for i in range(4)]
    assert (candidates.size, candidates.selected, candidates.sorted, len(candidates)) == (4, -1, False, 4)


@pytest.mark.parametrize(
    "logits",
    [
        np.array([1, 2.5, -3], np.float32),
        np.array([1, 2.5, -3], np.float64),
        np.array([9, 1, 9, 2.5, 9, -3], np.float32)[1::2],
        array("f", [1, 2.5, -3]),
        [1, 2.5, -3],
        ffi.new("float[]", [1, 2.5, -3]),
        (x for x in (1, 2.5, -3)),
    ],
    ids=["float32", "float64", "strided", "array", "list", "cffi", "generator"],
)
def test_from_logits(logits: object) -> None:
    candidates = TokenDataArray.fromLogits(logits)  # type: ignore[arg-type]
    assert [tuple(c) for c in candidates] == [(0, 1.0, 0.0), (1, 2.5, 0.0), (2, -3.0, 0.0)]


def test_from_rows() -> None:
    assert [tuple(c) for c in TokenDataArray([(7, 1.0), (3, 2.0, 0.5), TokenData(id=1)])] == [
        (7, 1.0, 0.0),
        (3, 2.0, 0.5),
        (1, 0.0, 0.0),
    ]
    rows = np.array([(7, 1.0, 0.5), (3, 2.0, 0.25)], TokenDataArray.dtype())
    assert [tuple(c) for c in TokenDataArray(rows)] == [(7, 1.0, 0.5), (3, 2.0, 0.25)]
    assert [tuple(c) for c in TokenDataArray(rows[::-1])] == [(3, 2.0, 0.25), (7, 1.0, 0.5)]
    assert [tuple(c) for c in TokenDataArray(TokenDataArray(rows))] == [(7, 1.0, 0.5), (3, 2.0, 0.25)]


def test_numpy_shares_the_memory() -> None:
    candidates = TokenDataArray.fromLogits([1.0, 2.0, 3.0])
    for shared in (np.asarray(candidates), np.asarray(candidates.view())):
        assert shared.dtype == TokenDataArray.dtype()
        shared["logit"][1] += 5
    assert candidates[1].logit == 12.0
    candidates.data[2].p = 0.5
    assert np.asarray(candidates)["p"].tolist() == [0.0, 0.0, 0.5]
    assert candidates.view().format == "T{<i:id:<f:logit:<f:p:}"
    kept = np.asarray(candidates)
    del candidates
    assert kept["id"].tolist() == [0, 1, 2]


def test_data_is_indexed_and_assigned() -> None:
    candidates = TokenDataArray(3)
    candidates.data[0] = (9, 1.0)
    candidates[-1] = (8, 2.0, 0.5)
    assert [tuple(c) for c in candidates.data] == [(9, 1.0, 0.0), (1, 0.0, 0.0), (8, 2.0, 0.5)]
    candidates.selected = 2
    candidates.data = [(1, 1.0), (2, 2.0)]
    assert (len(candidates.data), candidates.size, candidates.selected) == (2, 2, -1)
    candidates.size = 3
    with pytest.raises(ValueError, match="3 candidates, got 4"):
        candidates.data = [(1, 1.0)] * 4
    for index in (3, -4):
        with pytest.raises(IndexError, match="3 candidates"):
            candidates[index]


@pytest.mark.parametrize("n", [1, 2, 100, 129, 5000])
@pytest.mark.parametrize("infinite", [False, True])
def test_sort(n: int, infinite: bool) -> None:
    values = np.random.default_rng(n).normal(0, 8, n).astype(np.float32)
    if infinite:
        values[n // 2], values[n // 3] = np.inf, -np.inf
    candidates = TokenDataArray.fromLogits(values)
    candidates.selected = n // 2
    candidates.sort()
    found = np.asarray(candidates)
    assert found["logit"].tolist() == sorted(values.tolist(), reverse=True)
    assert (values[found["id"]] == found["logit"]).all()
    assert candidates.sorted and candidates[candidates.selected].id == n // 2


def test_size_and_selected() -> None:
    candidates = TokenDataArray(5)
    candidates.selected = 4
    candidates.size = 4
    assert candidates.selected == -1
    for size in (0, -1, 6):
        with pytest.raises(ValueError, match="between 1 and 5"):
            candidates.size = size
    for index in (4, -2):
        with pytest.raises(IndexError, match=f"selected.*3, got {index}"):
            candidates.selected = index


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TokenDataArray(0), ValueError, "candidates.*1 and .*got 0"),
        (lambda: TokenDataArray(-1), ValueError, "candidates.*1 and .*got -1"),
        (lambda: TokenDataArray([]), ValueError, "candidates.*1 and .*got 0"),
        (lambda: TokenDataArray("text"), TypeError, "fromLogits"),
        (lambda: TokenDataArray(b"bytes"), TypeError, "fromLogits"),
        (lambda: TokenDataArray(None), TypeError, "NoneType"),
        (lambda: TokenDataArray([1, 2]), TypeError, "id, logit.*got 1"),
        (lambda: TokenDataArray([(1, 2, 3, 4)]), TypeError, "id, logit"),
        (lambda: TokenDataArray([(1.5, 2)]), TypeError, "id, logit"),
        (lambda: TokenDataArray.fromLogits(np.zeros((2, 3), np.float32)), ValueError, "one row"),
        (lambda: TokenDataArray.fromLogits([]), ValueError, "candidates.*1 and .*got 0"),
    ],
)
def test_what_cannot_be(make: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()  # type: ignore[operator]


def test_nan_is_refused() -> None:
    candidates = TokenDataArray([(4, 0.0), (9, float("nan"))])
    with pytest.raises(ValueError, match=r"candidate 1 \(token 9\) is NaN"):
        Sampler.initTopK(2).apply(candidates)
    with pytest.raises(ValueError, match="is NaN"):
        candidates.sort()


def test_busy_and_expired() -> None:
    candidates = TokenDataArray(2)
    with candidates._exclusive(), pytest.raises(BusyError, match="for each thread"):
        candidates.size = 1
    candidates._expire()
    with pytest.raises(ClosedError, match="copy what you need"):
        candidates[0]
    assert repr(candidates) == "<TokenDataArray, expired>"
