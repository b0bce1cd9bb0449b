"""Each sampler of llama.h on known logits, against numpy."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from llama_cffi import DEFAULT_SEED, GrammarError, Model, Sampler, TokenDataArray, tokenize
from llama_cffi._generated.names import DEPRECATED, FUNCTIONS

Floats = npt.NDArray[np.float64]
N = 300
LOGITS = np.random.default_rng(5).normal(0, 3, N).astype(np.float32)
INF = float("inf")


def softmax(values: npt.ArrayLike) -> Floats:
    shifted = np.asarray(values, np.float64)
    weights = np.exp(shifted - shifted.max())
    return np.asarray(weights / weights.sum())


P = softmax(LOGITS)
ORDER = np.argsort(-LOGITS)


def run(sampler: Sampler, logits: npt.ArrayLike = LOGITS) -> TokenDataArray:
    with sampler:
        candidates = TokenDataArray.fromLogits(np.asarray(logits, np.float32))
        sampler.apply(candidates)
        return candidates


def ids(candidates: TokenDataArray) -> set[int]:
    return set(np.asarray(candidates)["id"].tolist())


def by_id(candidates: TokenDataArray) -> Floats:
    """The logits in the order of the tokens; -inf for a token that was dropped."""
    values = np.full(N, -INF)
    found = np.asarray(candidates)
    values[found["id"]] = found["logit"]
    return values


def test_all_of_llama_h_is_there() -> None:
    mine = {
        c: name.split(".")[1] for c, name in FUNCTIONS.items() if name.startswith("Sampler.") and c not in DEPRECATED
    }
    assert len(mine) > 35
    assert [c for c, name in mine.items() if not hasattr(Sampler, name)] == []
    for c, name in mine.items():
        member = inspect.getattr_static(Sampler, name)
        doc = (member.__func__ if isinstance(member, classmethod) else member).__doc__
        assert doc.rstrip().endswith(f"Maps to `{c}`."), name


# Dropping


@pytest.mark.parametrize("k", [1, 7, 129, 1000])
def test_top_k(k: int) -> None:
    candidates = run(Sampler.initTopK(k))
    assert np.asarray(candidates)["id"].tolist() == ORDER[:k].tolist()
    assert candidates.sorted
    assert len(run(Sampler.initTopK(0))) == N


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_top_p(p: float) -> None:
    count = int(np.searchsorted(np.cumsum(P[ORDER]), p)) + 1
    assert ids(run(Sampler.initTopP(p))) == set(ORDER[:count].tolist())
    assert len(run(Sampler.initTopP(0.0, 9))) == 9
    assert len(run(Sampler.initTopP(1.0))) == N


@pytest.mark.parametrize("p", [0.05, 0.3, 1.0])
def test_min_p(p: float) -> None:
    assert ids(run(Sampler.initMinP(p))) == set(np.flatnonzero(p * P.max() <= P * (1 + 1e-6)).tolist())
    assert len(run(Sampler.initMinP(1.0, 12))) == 12
    assert len(run(Sampler.initMinP(0.0))) == N


@pytest.mark.parametrize("p", [0.2, 0.6, 0.95])
def test_typical(p: float) -> None:
    entropy = -(P * np.log(P)).sum()
    order = np.argsort(np.abs(-np.log(P) - entropy))
    count = int((np.cumsum(P[order]) <= p).sum()) + 1
    assert ids(run(Sampler.initTypical(p))) == set(order[:count].tolist())
    assert len(run(Sampler.initTypical(0.0, 5))) == 5
    assert len(run(Sampler.initTypical(1.0))) == N


def test_top_n_sigma() -> None:
    found = by_id(run(Sampler.initTopNSigma(1.5)))
    threshold = LOGITS.max() - 1.5 * LOGITS.astype(np.float64).std()
    expected = np.where(threshold > LOGITS, -np.inf, LOGITS)
    np.testing.assert_allclose(found, expected)
    assert np.isfinite(by_id(run(Sampler.initTopNSigma(0.0)))).all()


def test_xtc() -> None:
    above = int((P >= 0.05).sum())
    assert above > 2
    candidates = run(Sampler.initXtc(1.0, 0.05, 1, 3))
    found = np.asarray(candidates)
    assert found["id"].tolist() == ORDER[above - 1 :].tolist()  # the pointer that C moved is followed
    np.testing.assert_allclose(found["logit"], LOGITS[ORDER[above - 1 :]])
    assert len(run(Sampler.initXtc(1.0, 0.05, N, 3))) == N
    assert len(run(Sampler.initXtc(0.0, 0.05))) == N
    sampler = Sampler.initXtc(0.5, 0.05, 1, 3)
    sizes = Counter()
    for _ in range(400):
        candidates = TokenDataArray.fromLogits(LOGITS)
        sampler.apply(candidates)
        sizes[len(candidates)] += 1
    assert set(sizes) == {N, N - above + 1} and 150 < sizes[N] < 250
    sampler.free()


def test_xtc_again_on_what_it_moved() -> None:
    candidates = TokenDataArray.fromLogits(LOGITS)
    with Sampler.initXtc(1.0, 0.02, 1, 3) as sampler:
        for _ in range(40):
            sampler.apply(candidates)
    assert set(np.asarray(candidates)["id"]) <= set(range(N))


# Reweighing


def test_temp() -> None:
    np.testing.assert_allclose(by_id(run(Sampler.initTemp(0.7))), LOGITS / 0.7, rtol=1e-6)
    found = by_id(run(Sampler.initTemp(0.0)))
    assert np.isfinite(found).nonzero()[0].tolist() == [ORDER[0]] and found[ORDER[0]] == LOGITS[ORDER[0]]


@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_temp_ext(exponent: float) -> None:
    share = -(P * np.log(P)).sum() / np.log(N)
    temperature = 0.5 + (1.5 - 0.5) * share**exponent
    candidates = run(Sampler.initTempExt(1.0, 0.5, exponent))
    np.testing.assert_allclose(by_id(candidates), LOGITS / temperature, rtol=1e-5)
    found = np.asarray(candidates)
    np.testing.assert_allclose(found["p"], softmax(LOGITS / temperature)[found["id"]], rtol=1e-4)
    np.testing.assert_allclose(by_id(run(Sampler.initTempExt(0.7))), LOGITS / 0.7, rtol=1e-6)


def test_penalties() -> None:
    sampler = Sampler.initPenalties(4, 1.5, 0.25, 0.5)
    for token in (9, 1, 2, 2, 3):  # 9 is out of the window
        sampler.accept(token)
    expected = LOGITS.astype(np.float64)
    for token, count in ((1, 1), (2, 2), (3, 1)):
        value = expected[token]
        expected[token] = (value / 1.5 if value > 0 else value * 1.5) - 0.25 * count - 0.5
    np.testing.assert_allclose(by_id(run(sampler)), expected, rtol=1e-6)


def test_logit_bias(tiny: Model) -> None:
    for biases in ({3: 1.5, 7: -INF}, [(3, 1.5), (7, -INF)]):
        expected = LOGITS.astype(np.float64)
        expected[3] += 1.5
        expected[7] = -INF
        np.testing.assert_allclose(by_id(run(Sampler.initLogitBias(N, biases))), expected, rtol=1e-6)
    shuffled = TokenDataArray([(int(t), float(LOGITS[t])) for t in ORDER])
    with Sampler.initLogitBias(tiny.vocab, {3: 1.5}) as sampler:
        sampler.apply(shuffled)
    assert by_id(shuffled)[3] == pytest.approx(LOGITS[3] + 1.5)
    with pytest.raises(IndexError, match=rf"token.*\b0\b.*\b{N - 1}\b.*got {N}"):
        Sampler.initLogitBias(N, {N: 1.0})
    with pytest.raises(ValueError, match="two biases"):
        Sampler.initLogitBias(N, [(1, 1.0), (1, 2.0)])
    with pytest.raises(ValueError, match="-inf"):
        Sampler.initLogitBias(N, {1: float("nan")})


def test_dry(tiny: Model) -> None:
    logits = np.zeros(tiny.vocab.nTokens)
    a, b, c, d = 100, 200, 300, 400
    sampler = Sampler.initDry(tiny.vocab, 0.8, 1.75, 2, 64, [])
    for token in (a, b, c, d, a, b, c):
        sampler.accept(token)
    found = np.asarray(run(sampler, logits))["logit"]
    assert found[d] == pytest.approx(-0.8 * 1.75 ** (3 - 2), rel=1e-5)
    assert np.count_nonzero(found) == 1


def test_dry_breakers_end_a_repetition(tiny: Model) -> None:
    newline = tokenize(tiny.vocab, "\n", addSpecial=False)[-1]
    a, b, d = 1000, 2000, 4000
    for breakers, penalized in (([], True), (["\n"], False)):
        sampler = Sampler.initDry(tiny.vocab, 0.8, 1.75, 2, 64, breakers)
        for token in (a, b, newline, d, a, b, newline):
            sampler.accept(token)
        found = np.asarray(run(sampler, np.zeros(tiny.vocab.nTokens)))["logit"]
        assert (found[d] < 0) == penalized


@pytest.mark.needs("llama_sampler_init_adaptive_p")
def test_adaptive_p_prefers_the_target() -> None:
    probabilities = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    with Sampler.initAdaptiveP(0.15, 0.9, 4) as sampler:
        candidates = TokenDataArray.fromLogits(np.log(probabilities))
        sampler.apply(candidates)
        distance = np.abs((probabilities - 0.15) / 0.3)
        expected = 5.0 - 10.0 * distance**2 / (1 + distance)
        np.testing.assert_allclose(np.asarray(candidates)["logit"], expected, rtol=1e-4)
        np.testing.assert_allclose(np.asarray(candidates)["p"], softmax(expected), rtol=1e-4)
        assert candidates.selected >= 0
        sampler.reset()
        first = [pick(sampler, np.log(probabilities)) for _ in range(50)]
        sampler.reset()
        assert [pick(sampler, np.log(probabilities)) for _ in range(50)] == first


@pytest.mark.needs("llama_sampler_init_adaptive_p")
def test_adaptive_p_clones_between_apply_and_accept() -> None:
    sampler = Sampler.initAdaptiveP(0.3, 0.9, 4)
    candidates = TokenDataArray.fromLogits(LOGITS)
    sampler.apply(candidates)
    twin = sampler.clone()
    twin.accept(candidates[candidates.selected].id)  # in C, this reads beyond an empty vector
    sampler.accept(candidates[candidates.selected].id)


# Picking


def pick(sampler: Sampler, logits: npt.ArrayLike = LOGITS) -> int:
    candidates = TokenDataArray.fromLogits(np.asarray(logits, np.float32))
    sampler.apply(candidates)
    token = candidates[candidates.selected].id
    sampler.accept(token)
    return token


def test_greedy() -> None:
    assert pick(Sampler.initGreedy()) == ORDER[0]


def test_dist() -> None:
    logits = np.log([0.5, 0.3, 0.2])
    with Sampler.initDist(8) as sampler:
        counts = Counter(pick(sampler, logits) for _ in range(4000))
        assert [counts[i] / 4000 for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
        sampler.reset()
        again = [pick(sampler) for _ in range(20)]
    with Sampler.initDist(8) as twin:
        assert [pick(twin) for _ in range(20)] == again


@pytest.mark.parametrize(
    "make",
    [
        lambda tau: Sampler.initMirostat(N, 7, tau, 0.2),
        lambda tau: Sampler.initMirostatV2(7, tau, 0.2),
    ],
    ids=["v1", "v2"],
)
def test_mirostat_steers_the_surprise(make: Callable[[float], Sampler]) -> None:
    logits = -1.2 * np.log(np.arange(1, N + 1))  # Zipf's law, as mirostat assumes
    surprise = -np.log2(softmax(logits))
    means = []
    for tau in (2.0, 4.0):
        with make(tau) as sampler:
            means.append(np.mean([surprise[pick(sampler, logits)] for _ in range(600)]))
            sampler.reset()
            again = [pick(sampler, logits) for _ in range(30)]
        with make(tau) as twin:
            assert [pick(twin, logits) for _ in range(30)] == again
    assert means[0] + 0.5 < means[1]


def test_mirostat_v2_on_the_first_token() -> None:
    """Until it has learned, what is more surprising than twice tau is dropped."""
    candidates = run(Sampler.initMirostatV2(7, 2.0, 0.1))
    assert ids(candidates) == set(np.flatnonzero(-np.log2(P) <= 4.0).tolist())


def test_seeds() -> None:
    for sampler, expected in (
        (Sampler.initDist(5), 5),
        (Sampler.initMirostat(N, 6), 6),
        (Sampler.initMirostatV2(7), 7),
        (Sampler.initGreedy(), DEFAULT_SEED),
    ):
        assert sampler.getSeed() == expected
    assert Sampler.initDist().getSeed() != DEFAULT_SEED
    chain = Sampler.chainInit(Sampler.chainDefaultParams())
    chain.chainAdd(Sampler.initDist(5))
    chain.chainAdd(Sampler.initGreedy())
    assert chain.getSeed() == 5


# Grammars and infill


def allowed(sampler: Sampler, model: Model) -> set[int]:
    candidates = TokenDataArray(model.vocab.nTokens)
    sampler.apply(candidates)
    found = np.asarray(candidates)
    return set(found["id"][np.isfinite(found["logit"])].tolist())


def test_grammar(tiny: Model) -> None:
    vocab = tiny.vocab
    with Sampler.initGrammar(vocab, 'root ::= "yes" | "no"') as sampler:
        assert {vocab.tokenToPiece(t, special=True) for t in allowed(sampler, tiny)} == {"y", "ye", "yes", "n", "no"}
        for token in tokenize(vocab, "yes", addSpecial=False):
            piece = vocab.tokenToPiece(token)
            if piece.strip():
                sampler.accept(next(t for t in allowed(sampler, tiny) if vocab.tokenToPiece(t) == piece.strip()))
        assert allowed(sampler, tiny) == {vocab.eos}
        twin = sampler.clone()
        sampler.accept(vocab.eos)
        sampler.reset()
        assert {vocab.tokenToPiece(t) for t in allowed(sampler, tiny)} == {"y", "ye", "yes", "n", "no"}
        assert allowed(twin, tiny) == {vocab.eos}
        twin.free()


def test_grammar_refuses_tokens_without_harm(tiny: Model) -> None:
    vocab = tiny.vocab
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initGrammar(vocab, 'root ::= [a-z]+ "."'))
    chain.chainAdd(Sampler.initPenalties(8, 1.0, 0.0, 5.0))
    for token in (vocab.eos, vocab.bos, tokenize(vocab, "A", addSpecial=False)[0]):
        with pytest.raises(ValueError, match=f"does not allow token {token}"):
            chain.accept(token)
    with pytest.raises(IndexError, match="31999"):
        chain.accept(32000)
    with pytest.raises(ValueError, match="token.*got -1"):
        chain.accept(-1)
    with pytest.raises(IndexError, match=r"candidate 0: token.*31999.*got 32000"):
        chain.apply(TokenDataArray([(32000, 1.0)]))
    assert not chain.closed and len(allowed(chain, tiny)) > 26
    chain.free()


@pytest.mark.older("llama_n_ctx_seq", "a trigger token that the grammar does not take is dropped")
def test_lazy_grammar(tiny: Model) -> None:
    vocab = tiny.vocab
    text = [t for t in tokenize(vocab, "call ", addSpecial=False)]
    x, one, two = (next(t for t in range(3, 32000) if vocab.tokenToPiece(t) == c) for c in "x12")
    with Sampler.initGrammarLazyPatterns(vocab, 'root ::= "x" "1"', "root", ["(x)"]) as sampler:
        for token in text:
            sampler.accept(token)
        assert len(allowed(sampler, tiny)) == vocab.nTokens
        sampler.accept(x)
        assert {vocab.tokenToPiece(t) for t in allowed(sampler, tiny)} == {"1"}
        with pytest.raises(ValueError, match="does not allow"):
            sampler.accept(two)
        sampler.accept(one)
        assert allowed(sampler, tiny) == {vocab.eos}
    with Sampler.initGrammarLazyPatterns(vocab, 'root ::= "x" "1"', triggerTokens=[x, two]) as sampler:
        sampler.accept(one)
        with pytest.raises(ValueError, match="does not allow"):
            sampler.accept(two)  # a trigger that does not fit
        sampler.accept(x)
        assert {vocab.tokenToPiece(t) for t in allowed(sampler, tiny)} == {"1"}


NOT_LOGGED = pytest.mark.older("llama_n_ctx_seq", "the reason is no log line")


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ('root ::= "a', "cannot parse"),
        ("root ::= other", "cannot parse"),
        pytest.param('other ::= "a"', "root", marks=NOT_LOGGED),
        pytest.param("root ::= root", "recursion", marks=NOT_LOGGED),
        pytest.param(
            'root ::= "a"{3000,3001}',
            "cannot parse",
            marks=pytest.mark.older("llama_n_ctx_seq", "repetitions have no limit"),
        ),
        ('root ::= "a\0"', "NUL"),
        ("root ::= " + "(" * 20000 + '"a"' + ")" * 20000, "256"),
        ('root ::= "' + "a" * (1 << 20) + '"', "524288"),
        (b'root ::= "\xff"', "utf-8"),
    ],
)
def test_grammars_that_cannot_be(tiny: Model, grammar: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampler.initGrammar(tiny.vocab, grammar)


def test_grammar_brackets_in_literals_do_not_nest(tiny: Model) -> None:
    for literal in ('"' + "(" * 300 + '"', "[" + "(" * 300 + "]", '"a" # ' + "(" * 300):
        Sampler.initGrammar(tiny.vocab, f"root ::= {literal}\n").free()


@NOT_LOGGED
def test_grammar_errors_carry_the_log(tiny: Model) -> None:
    with pytest.raises(GrammarError, match="does not contain a 'start' symbol") as caught:
        Sampler.initGrammar(tiny.vocab, 'root ::= "a"', "start")
    assert caught.value.operation == "llama_sampler_init_grammar"
    with pytest.raises(GrammarError, match=r"triggerPatterns.*regular expression"):
        Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"', triggerPatterns=["(a"])
    for pattern in ("(a*)*b", "x(?:(a+)b)+", "(a{2,})*"):
        with pytest.raises(ValueError, match="triggerPatterns.*repeat only one"):
            Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"', triggerPatterns=[pattern])
    for pattern in (r"[\s\S]*?(<tool>)", r"(a*)b+", r"(?:ab)+c*", r"(\(*)x", r"([*+]x)*", "(a)?(b*)?"):
        Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"', triggerPatterns=[pattern]).free()
    with pytest.raises(ValueError, match="256 deep"):
        Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"', triggerPatterns=["(" * 1000 + "a" + ")" * 1000])
    with pytest.raises(ValueError, match="nothing would ever trigger"):
        Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"')
    with pytest.raises(TypeError, match="triggerPatterns.*texts, got str"):
        Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"', triggerPatterns="a")
    with pytest.raises(IndexError, match="32000"):
        Sampler.initGrammarLazyPatterns(tiny.vocab, 'root ::= "a"', triggerTokens=[32000])


def test_infill_joins_prefixes_and_ends(tiny: Model) -> None:
    vocab = tiny.vocab
    find = {vocab.tokenToPiece(t): t for t in range(3, 32000)}
    rows = [
        (find[piece], float(np.log(p))) for piece, p in (("hel", 0.5), ("hell", 0.2), ("hello", 0.2)) if piece in find
    ]
    rows += [(find["x"], float(np.log(0.1)))]
    assert len(rows) >= 3
    candidates = TokenDataArray(rows)
    with Sampler.initInfill(vocab) as sampler:
        sampler.apply(candidates)
        assert ids(candidates) == {rows[0][0]}
        ending = TokenDataArray([(find["x"], 0.0), (vocab.eos, 0.0)])
        sampler.apply(ending)
        assert ids(ending) == {vocab.eos}
        with pytest.raises(IndexError, match=r"candidate 0: token.*31999.*got -1"):
            sampler.apply(TokenDataArray([(-1, 0.0)]))


# What cannot be


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sampler.initMinP(float("nan")), "finite"),
        (lambda: Sampler.initMinP(0.1, -1), "minKeep"),
        (lambda: Sampler.initTypical(INF), "finite"),
        (lambda: Sampler.initTempExt(1.0, float("nan")), "delta"),
        (lambda: Sampler.initTempExt(1.0, 0.5, -1.0), "exponent"),
        (lambda: Sampler.initXtc(1.5), "p must be between 0 and 1"),
        (lambda: Sampler.initXtc(0.5, -0.1), "t must be between 0 and 1"),
        (lambda: Sampler.initXtc(0.5, 0.1, 1, -1), "seed"),
        (lambda: Sampler.initTopNSigma(float("nan")), "finite"),
        (lambda: Sampler.initTopK(1 << 31), "k must be between"),
        (lambda: Sampler.initMirostat(0), "nVocab"),
        (lambda: Sampler.initMirostat(N, 1, 0.0), "tau"),
        (lambda: Sampler.initMirostat(N, 1, 5.0, 0.1, 1), "m must be between 2"),
        (lambda: Sampler.initMirostatV2(1, 5.0, 2.0), "eta"),
        (lambda: Sampler.initAdaptiveP(1.5), "target"),
        (lambda: Sampler.initAdaptiveP(0.5, 1.0), "decay"),
        (lambda: Sampler.initTemp(1e39), "finite"),
    ],
)
def test_ranges(make: Callable[[], Sampler], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_vocabularies_that_cannot_be(tiny: Model) -> None:
    for call in (
        lambda: Sampler.initGrammar(tiny, 'root ::= "a"'),  # type: ignore[arg-type]
        lambda: Sampler.initDry(None, 0.8),  # type: ignore[arg-type]
        lambda: Sampler.initInfill(3),  # type: ignore[arg-type]
        lambda: Sampler.initMirostat(tiny),  # type: ignore[arg-type]
        lambda: Sampler.initLogitBias(True, {}),
    ):
        with pytest.raises(TypeError, match=r"model\.vocab"):
            call()
    for make in (
        lambda: Sampler.initDry(tiny.vocab, -1.0),
        lambda: Sampler.initDry(tiny.vocab, 0.8, 0.5),
        lambda: Sampler.initDry(tiny.vocab, 0.8, 1.75, -1),
        lambda: Sampler.initDry(tiny.vocab, 0.8, 1.75, 2, 1 << 30),
        lambda: Sampler.initDry(tiny.vocab, 0.8, seqBreakers=[""]),
        lambda: Sampler.initDry(tiny.vocab, 0.8, seqBreakers=["x" * 41]),
        lambda: Sampler.initDry(tiny.vocab, 0.8, seqBreakers=[b"\xff"]),
    ):
        with pytest.raises(ValueError):
            make()
