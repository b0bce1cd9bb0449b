"""Samplers written in Python: what they can do, and which caller gets their exceptions."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    BusyError,
    ClosedError,
    Context,
    Model,
    NativeError,
    Sampler,
    TokenDataArray,
    ffi,
    lib,
    tokenize,
)


@pytest.fixture
def decoded(ctx: Context, tiny: Model) -> Context:
    ctx.decode(Batch.getOne(tokenize(tiny.vocab, "Once upon a time")))
    return ctx


def logits(ctx: Context) -> np.ndarray:
    n = ctx.getModel().vocab.nTokens
    return np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(ctx._c, -1), 4 * n), np.float32).copy()


class Only:
    """Rules out all tokens but some; remembers everything."""

    name = "only"

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)
        self.accepted: list[int] = []
        self.ctx: object = None

    def apply(self, candidates: TokenDataArray) -> None:
        rows = np.asarray(candidates)
        rows["logit"][~np.isin(rows["id"], self.tokens)] = -np.inf
        candidates.sorted = False

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def reset(self) -> None:
        self.accepted.clear()

    def clone(self) -> Only:
        twin = Only(*self.tokens)
        twin.accepted = list(self.accepted)
        return twin


class Second:
    """Picks the second most likely token, with nothing but apply."""

    def apply(self, candidates: TokenDataArray) -> None:
        candidates.sort()
        candidates.selected = 1


def test_alone(decoded: Context) -> None:
    with Sampler.init(Second()) as sampler:
        assert sampler.name == "Second"
        assert sampler.sample(decoded) == np.argsort(-logits(decoded))[1]
        candidates = TokenDataArray.fromLogits(logits(decoded))
        sampler.apply(candidates)
        assert (candidates.selected, candidates.sorted) == (1, True)
        sampler.accept(3)
        sampler.reset()
        assert sampler.getSeed() == 0xFFFFFFFF


def test_in_a_chain(decoded: Context) -> None:
    only = Only(5, 6, 7)
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.init(only, ctx={"any": "object"}))
    chain.chainAdd(Sampler.initPenalties(8, 1.0, 0.0, 1000.0))
    chain.chainAdd(Sampler.initGreedy())
    expected = sorted((5, 6, 7), key=lambda t: -logits(decoded)[t])
    assert [chain.sample(decoded) for _ in range(3)] == expected == only.accepted
    assert only.ctx == {"any": "object"} and chain.chainGet(0).name == "only"
    assert chain.perfSampler.nSample == 3
    chain.reset()
    assert only.accepted == []
    chain.accept(9)
    assert only.accepted == [9]


def test_clones_go_their_own_way(decoded: Context) -> None:
    only = Only(5, 6)
    chain, inner = Sampler.chainInit(), Sampler.chainInit()
    inner.chainAdd(Sampler.init(only, ctx="context"))
    chain.chainAdd(inner)
    chain.chainAdd(Sampler.initGreedy())
    chain.accept(1)
    twin = chain.clone()
    custom = twin.chainGet(0).chainGet(0)._custom
    assert custom is not None and custom.iface is not only and custom.iface.ctx == "context"  # type: ignore[attr-defined]
    chain.free()
    twin.accept(2)
    assert custom.iface.accepted == [1, 2] and only.accepted == [1]  # type: ignore[attr-defined]
    assert twin.sample(decoded) in (5, 6)
    assert twin.chainGet(0).chainGet(0).name == "only"


def test_views_outlive_the_call(decoded: Context) -> None:
    kept: list[object] = []

    class Keeper:
        def apply(self, candidates: TokenDataArray) -> None:
            kept.extend((candidates, np.asarray(candidates), candidates[0]))
            candidates.size = 2
            candidates.selected = 0

    with Sampler.init(Keeper()) as sampler:
        assert sampler.sample(decoded) == 0
    candidates, rows, item = kept
    with pytest.raises(ClosedError, match=r"apply\(\)"):
        candidates.size  # type: ignore[attr-defined]  # noqa: B018
    assert rows["id"].tolist() == list(range(32000))  # type: ignore[index]
    assert item.id == 0  # type: ignore[attr-defined]


class Broken(Only):
    """Raises in one method."""

    def __init__(self, where: str, error: type[BaseException] = LookupError) -> None:
        super().__init__(5)
        self.where = where
        self.error = error

    def fail_in_python(self, where: str) -> None:
        if where == self.where:
            raise self.error(where)

    def apply(self, candidates: TokenDataArray) -> None:
        self.fail_in_python("apply")
        super().apply(candidates)

    def accept(self, token: int) -> None:
        self.fail_in_python("accept")

    def reset(self) -> None:
        self.fail_in_python("reset")

    def clone(self) -> Broken:
        self.fail_in_python("clone")
        return Broken(self.where)


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("where", ["apply", "accept", "reset", "clone", "sample"])
def test_exceptions_reach_the_caller(decoded: Context, where: str, chained: bool, error: type[BaseException]) -> None:
    sampler = Sampler.init(Broken("apply" if where == "sample" else where, error))
    if chained:
        chain = Sampler.chainInit()
        chain.chainAdd(sampler)
        chain.chainAdd(Sampler.init(Only(5)))
        chain.chainAdd(Sampler.initGreedy())
        sampler = chain
    candidates = TokenDataArray(8)
    calls: dict[str, Callable[[], object]] = {
        "apply": lambda: sampler.apply(candidates),
        "accept": lambda: sampler.accept(5),
        "reset": sampler.reset,
        "clone": sampler.clone,
        "sample": lambda: sampler.sample(decoded),
    }
    with pytest.raises(error) as caught:
        calls[where]()
    assert "fail_in_python" in "".join(traceback.format_tb(caught.value.__traceback__))
    for other in (
        set(calls) - {where, "apply" if where == "sample" else "sample"} - ({"sample"} if not chained else set())
    ):
        if not (where == "accept" and other == "sample"):
            calls[other]()  # nothing is left behind, and the sampler works
    assert not sampler.closed and decoded.decode(Batch.getOne([5])) == 0


def test_a_failed_apply_leaves_the_candidates_of_c_alone() -> None:
    class Half:
        def apply(self, candidates: TokenDataArray) -> None:
            candidates[0].logit = 99
            raise LookupError

    candidates = TokenDataArray(3)
    with Sampler.init(Half()) as sampler, pytest.raises(LookupError):
        sampler.apply(candidates)
    assert candidates[0].logit == 0


def test_reentry_raises(decoded: Context) -> None:
    calls: list[Callable[[], object]] = []
    errors: list[str] = []

    class Reentrant:
        def apply(self, candidates: TokenDataArray) -> None:
            for call in calls:
                with pytest.raises(BusyError) as caught:
                    call()
                errors.append(str(caught.value))

    chain = Sampler.chainInit()
    member = Sampler.init(Reentrant())
    chain.chainAdd(member)
    chain.chainAdd(Sampler.initGreedy())
    calls += [
        lambda: chain.sample(decoded),
        lambda: chain.chainAdd(Sampler.initGreedy()),
        lambda: chain.chainRemove(1),
        lambda: chain.accept(1),
        chain.reset,
        chain.clone,
        chain.free,
        lambda: member.accept(1),
        lambda: chain.chainGet(1).sample(decoded),
        lambda: decoded.decode(Batch.getOne([5])),
        decoded.free,
        decoded.getModel().free,
        lambda: Sampler.initGreedy().sample(decoded),
    ]
    assert chain.sample(decoded) == logits(decoded).argmax()
    assert len(errors) == len(calls)


def test_nothing_picked(decoded: Context) -> None:
    class Idle:
        def apply(self, candidates: TokenDataArray) -> None: ...

    class Dreamer:
        def apply(self, candidates: TokenDataArray) -> None:
            candidates[0].id = 99999
            candidates.selected = 0

    with Sampler.init(Idle()) as sampler, pytest.raises(ValueError, match="candidates.selected"):
        sampler.sample(decoded)
    with Sampler.init(Dreamer()) as sampler, pytest.raises(ValueError, match="token.*31999.*got 99999"):
        sampler.sample(decoded)
    assert decoded.decode(Batch.getOne([5])) == 0


def test_a_grammar_after_a_narrow_choice_raises(decoded: Context, tiny: Model) -> None:
    """In C this would end the process, or with the guard the context and the chain."""
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initTopK(1))
    chain.chainAdd(Sampler.initGrammar(tiny.vocab, 'root ::= "yes"'))
    chain.chainAdd(Sampler.initGreedy())
    with pytest.raises(ValueError, match="does not allow token .*chain"):
        chain.sample(decoded)
    assert not chain.closed and decoded.decode(Batch.getOne([5])) == 0


def test_a_grammar_writes_what_it_says(decoded: Context, tiny: Model) -> None:
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initGrammar(tiny.vocab, 'root ::= "yes" | "no"'))
    chain.chainAdd(Sampler.initGreedy())
    text = ""
    while not tiny.vocab.isEog(token := chain.sample(decoded)):
        text += tiny.vocab.tokenToPiece(token)
        decoded.decode(Batch.getOne([token]))
    assert text in ("yes", "no")


def test_collected_with_their_sampler() -> None:
    only = Only(5)
    alive = weakref.ref(only)
    sampler = Sampler.init(only)
    only.me = sampler  # type: ignore[attr-defined]
    chain = Sampler.chainInit()
    chain.chainAdd(sampler)
    twin = chain.clone()
    del only
    gc.collect()
    assert alive() is not None
    del sampler
    chain.free()
    del chain
    gc.collect()
    assert alive() is None
    twin.accept(4)
    twin.free()


def test_what_cannot_be() -> None:
    class Slots:
        __slots__ = ()

        def apply(self, candidates: TokenDataArray) -> None: ...

    class NamedByNumber(Slots):
        name = 3

    class NoMethod(Slots):
        accept = 3

    class BadClone(Slots):
        def clone(self) -> int:
            return 3

    for iface, words in (
        (object(), "expected.*apply.*got object"),
        (Only, "write Only()"),
        (NamedByNumber(), "str"),
        (NoMethod(), "NoMethod.accept.*got int"),
    ):
        with pytest.raises(TypeError, match=words.replace("(", r"\(").replace(")", r"\)")):
            Sampler.init(iface)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="leave ctx out"):
        Sampler.init(Slots(), ctx=3)
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.init(Slots()))
    for sampler in (chain, Sampler.init(Slots())):
        with pytest.raises(TypeError, match=r"Slots.*clone\(\)"):
            sampler.clone()
        with pytest.raises(TypeError, match="use clone"):
            sampler.copy(Sampler.init(Slots()))
    with pytest.raises(TypeError, match="returned 3.*apply"):
        Sampler.init(BadClone()).clone()


def test_names_are_text_of_c() -> None:
    only = Only(1)
    only.name = "mein Würfler\0!"
    assert Sampler.init(only).name == "mein Würfler!"


@pytest.mark.needs("llama_load_mode_from_str")
def test_a_native_error_inside_apply_comes_through() -> None:
    class Caller:
        def apply(self, candidates: TokenDataArray) -> None:
            lib.llama_load_mode_from_str(b"nonsense")

    with Sampler.init(Caller()) as sampler, pytest.raises(NativeError, match="llama_load_mode_from_str"):
        sampler.apply(TokenDataArray(2))
    assert sampler.closed


# Copies of state, and time


@pytest.mark.needs("llama_sampler_init_adaptive_p", "llama_sampler_copy")
def test_copy(decoded: Context) -> None:
    def make(last_n: int = 8, seed: int = 3) -> Sampler:
        chain = Sampler.chainInit()
        chain.chainAdd(Sampler.initPenalties(last_n, 1.0, 0.0, 1000.0))
        chain.chainAdd(Sampler.initAdaptiveP(0.3, 0.9, seed))
        chain.chainAdd(Sampler.initDist(seed))
        return chain

    source, target = make(), make()
    first = [source.sample(decoded) for _ in range(4)]
    source.copy(target)
    assert not {target.sample(decoded) for _ in range(4)} & set(first)
    for other in (make(9), make(8, 4), Sampler.initGreedy()):
        with pytest.raises(ValueError, match="dst.*equal arguments"):
            source.copy(other)
    with pytest.raises(ValueError, match="same chain"):
        source.copy(source)
    with pytest.raises(TypeError, match="expected a Sampler"):
        source.copy(None)  # type: ignore[arg-type]


def test_perf(decoded: Context) -> None:
    chain = Sampler.chainInit(Sampler.ChainParams(noPerf=False))
    chain.chainAdd(Sampler.initTemp(0.9))  # of every candidate, which takes more than the clock's microsecond
    chain.chainAdd(Sampler.initDist(1))
    for _ in range(3):
        chain.sample(decoded)
    data = chain.perfSampler
    assert data.nSample == 3 and data.tSampleMs > 0
    chain.perfSamplerPrint()
    chain.perfSamplerReset()
    assert (chain.perfSampler.nSample, chain.perfSampler.tSampleMs) == (0, 0.0)
    with Sampler.initGreedy() as greedy:
        for call in (lambda: greedy.perfSampler, greedy.perfSamplerPrint, greedy.perfSamplerReset):
            with pytest.raises(TypeError, match="perfSampler.*greedy.*Sampler.chain"):
                call()


def test_a_sampler_of_another_vocabulary(decoded: Context) -> None:
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initLogitBias(100, {1: 1.0}))
    chain.chainAdd(Sampler.initGreedy())
    with pytest.raises(ValueError, match="a vocabulary of 100 tokens"):
        chain.sample(decoded)


def test_dry_with_the_context_size(decoded: Context, tiny: Model) -> None:
    best = int(logits(decoded).argmax())
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initDry(tiny.vocab, 100.0, seqBreakers=[]))
    chain.chainAdd(Sampler.initGreedy())
    for token in (7, 8, 9, best, 7, 8, 9):
        chain.accept(token)
    assert chain.sample(decoded) != best
    chain.reset()
    assert chain.sample(decoded) == best
