"""`Sampler.chain`: a chain in one expression, which takes all of its members or none of them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from llama_cffi import Batch, BusyError, ClosedError, Context, Sampler, TokenDataArray
from llama_cffi._core.ownership import n_owned
from llama_cffi.sampling.base import SamplerBase


@pytest.fixture
def decoded(ctx: Context) -> Iterator[Context]:
    ctx.decode(Batch.getOne([5, 6, 7]))
    yield ctx


def test_members_run_in_their_order(decoded: Context) -> None:
    penalties, greedy = Sampler.initPenalties(8, 1.0, 0.0, 1000.0), Sampler.initGreedy()
    with Sampler.initGreedy() as alone, Sampler.chain(penalties, greedy) as chain:
        best = alone.sample(decoded)
        assert (chain.name, chain.chainCount) == ("chain", 2)
        assert chain.chainGet(0) is penalties and chain.chainGet(1) is greedy
        assert chain.sample(decoded) == best
        assert chain.sample(decoded) != best
    with pytest.raises(ClosedError, match="its chain was freed"):
        greedy.sample(decoded)


def test_is_what_init_and_add_make(decoded: Context) -> None:
    added = Sampler.chainInit()
    for member in (Sampler.initTopK(40), Sampler.initTemp(0.8), Sampler.initDist(7)):
        added.chainAdd(member)
    with Sampler.chain(Sampler.initTopK(40), Sampler.initTemp(0.8), Sampler.initDist(7)) as chain, added:
        assert [chain.sample(decoded) for _ in range(20)] == [added.sample(decoded) for _ in range(20)]
        assert chain._top_n == added._top_n == 40


def test_no_perf(decoded: Context) -> None:
    with Sampler.chain(Sampler.initDist(1)) as timed, Sampler.chain(Sampler.initDist(1), noPerf=True) as untimed:
        for chain in (timed, untimed):
            for _ in range(20):
                chain.sample(decoded)
        assert timed.perfSampler.tSampleMs > 0
        assert untimed.perfSampler.tSampleMs == 0


def test_an_empty_chain(decoded: Context) -> None:
    with Sampler.chain() as chain:
        assert chain.chainCount == 0
        with pytest.raises(ValueError, match="initDist"):
            chain.sample(decoded)
        chain.chainAdd(Sampler.initGreedy())
        with Sampler.initGreedy() as alone:
            assert chain.sample(decoded) == alone.sample(decoded)


def test_chains_in_a_chain(decoded: Context) -> None:
    inner = Sampler.chain(Sampler.initTopK(5), Sampler.initTemp(0.5))
    with Sampler.chain(inner, Sampler.chain(Sampler.initDist(3))) as outer:
        flat = Sampler.chain(Sampler.initTopK(5), Sampler.initTemp(0.5), Sampler.initDist(3))
        assert [outer.sample(decoded) for _ in range(8)] == [flat.sample(decoded) for _ in range(8)]
        with pytest.raises(ValueError, match="belongs to a chain"):
            Sampler.chain(inner)
        assert outer.chainRemove(0) is inner
    inner.free()


def test_a_clone(decoded: Context) -> None:
    with Sampler.chain(Sampler.initPenalties(8, 1.0, 0.0, 1000.0), Sampler.chain(Sampler.initGreedy())) as chain:
        first = chain.sample(decoded)
        with chain.clone() as twin:
            names = [twin.chainGet(0).name, twin.chainGet(1).name, twin.chainGet(1).chainGet(0).name]
            assert names == ["penalties", "chain", "greedy"]
            chain.reset()
            assert chain.sample(decoded) == first
            assert twin.chainGet(1).chainGet(0) is not chain.chainGet(1).chainGet(0)


def _bad_type() -> object:
    return 3


def _in_a_chain() -> object:
    return _kept(Sampler.chain(Sampler.initTopK(3))).chainGet(0)


def _freed() -> object:
    sampler = Sampler.initTopK(3)
    sampler.free()
    return sampler


_chains: list[Sampler] = []


def _kept(chain: Sampler) -> Sampler:
    _chains.append(chain)
    return chain


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (_bad_type, TypeError, "expected a Sampler, got int"),
        (_in_a_chain, ValueError, "belongs to a chain"),
        (_freed, ClosedError, "freed"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_member_is_lost(
    decoded: Context, make: Callable[[], object], error: type[Exception], words: str, place: int
) -> None:
    good = [Sampler.initTopK(40), Sampler.initGreedy()]
    members = [*good[:place], make(), *good[place:]]
    with pytest.raises(error, match=words):
        Sampler.chain(*members)  # type: ignore[arg-type]
    gc.collect()
    good[0].apply(TokenDataArray(100))
    with Sampler.chain(*good) as chain, Sampler.initGreedy() as alone:
        assert chain.sample(decoded) == alone.sample(decoded)
    for kept in _chains:
        assert kept.chainCount == 1
        kept.free()
    _chains.clear()


def test_a_member_given_twice_stays_the_callers(decoded: Context) -> None:
    one = Sampler.initGreedy()
    with pytest.raises(ValueError, match="member 2.*twice"):
        Sampler.chain(Sampler.initTopK(3), one, one)
    assert one.sample(decoded) >= 0
    one.free()


def test_the_new_chain_is_freed_where_a_member_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = SamplerBase._make.__func__  # type: ignore[attr-defined]

    def record(cls: type[Sampler], *arguments: object) -> Sampler:
        sampler: Sampler = make(cls, *arguments)
        made.append(weakref.ref(sampler))
        return sampler

    one = Sampler.initTopK(3)
    monkeypatch.setattr(SamplerBase, "_make", classmethod(record))
    alive = n_owned()
    with pytest.raises(TypeError):
        Sampler.chain(one, None)  # type: ignore[arg-type]
    gc.collect()
    assert len(made) == 1 and made[0]() is None
    assert n_owned() == alive and not one.closed


def test_a_member_in_use() -> None:
    class Chaining:
        def apply(self, candidates: TokenDataArray) -> None:
            with pytest.raises(BusyError, match="in use"):
                Sampler.chain(other, own)
            candidates.selected = 0

    other, own = Sampler.initTopK(3), Sampler.init(Chaining())
    own.apply(TokenDataArray(9))
    with Sampler.chain(other, own) as chain:
        assert chain.chainCount == 2
