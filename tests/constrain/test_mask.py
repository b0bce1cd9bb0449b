"""The sampler of a constraint: in chains, at the end of a text, for several sequences, and its errors."""

from __future__ import annotations

import gc
import json
import math
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    ClosedError,
    Constraint,
    Context,
    Model,
    Sampler,
    TokenAttr,
    TokenDataArray,
    tokenize,
)
from llama_cffi.constrain import tokenizer as tokens
from tests import tiny_models

WORDS = Constraint.fromRegex("(yes|no) ?(sir)?")


def _left(sampler: Sampler, model: Model, seed: int = 0) -> dict[int, float]:
    """The candidates that a sampler leaves of all tokens with random logits, in any order."""
    logits = np.random.default_rng(seed).standard_normal(model.vocab.nTokens).astype(np.float32)
    candidates = TokenDataArray.fromLogits(logits)
    sampler.apply(candidates)
    rows = np.asarray(candidates)
    assert all(logits[rows["id"]] == rows["logit"])
    assert len(set(rows["id"].tolist())) == len(rows)
    return dict(zip(rows["id"].tolist(), rows["logit"].tolist(), strict=True))


def _token(model: Model, text: str) -> int:
    """The first token with just this text."""
    return next(t for t in range(model.vocab.nTokens) if model.vocab._piece(t) == text.encode())


def _texts(model: Model, ids: object) -> set[bytes]:
    return {model.vocab._piece(token) for token in ids}  # type: ignore[attr-defined]


def test_exactly_the_tokens_that_may_come_are_left(tiny: Model) -> None:
    vocab = tiny.vocab
    sampler = WORDS.sampler(vocab)
    expected = {
        t for t in range(vocab.nTokens) if (p := vocab._piece(t)) and (b"yes".startswith(p) or b"no".startswith(p))
    }
    expected |= {t for t in range(vocab.nTokens) for p in [vocab._piece(t)] if p in (b"yes ", b"no ", b"nos")}
    assert {*_left(sampler, tiny)} == expected
    assert sampler.name == "constraint"


def test_most_tokens_may_come_in_a_string(tiny: Model) -> None:
    vocab = tiny.vocab
    sampler = Constraint.fromJsonSchema({"type": "string"}).sampler(vocab)
    for letter in '"a':
        sampler.accept(_token(tiny, letter))
    left = _left(sampler, tiny)
    pieces = [vocab._piece(t) for t in range(vocab.nTokens)]
    plain = {
        t
        for t, piece in enumerate(pieces)
        if piece.decode("utf-8", "replace").isprintable() and piece.isascii() and piece and not {*piece} & {*b'"\\'}
    }
    assert plain - {*left} == set()
    assert not any(b"\n" in pieces[t] for t in left)
    assert vocab.eos not in left and vocab.bos not in left


def test_the_end_is_allowed_then_asked_for(tiny: Model) -> None:
    vocab = tiny.vocab
    sampler = WORDS.sampler(vocab)
    assert vocab.eos not in _left(sampler, tiny)
    for letter in "no":
        sampler.accept(_token(tiny, letter))
    assert vocab.eos in _left(sampler, tiny)
    for letter in " sir":
        sampler.accept(_token(tiny, letter))
    assert {*_left(sampler, tiny)} == {t for t in range(vocab.nTokens) if vocab.isEog(t)}
    sampler.accept(vocab.eos)
    with pytest.raises(ValueError, match="output has ended.*reset"):
        _left(sampler, tiny)
    with pytest.raises(ValueError, match="does not allow"):
        sampler.accept(vocab.eos)


def test_a_refused_token_changes_nothing(tiny: Model) -> None:
    sampler = WORDS.sampler(tiny.vocab)
    before = _left(sampler, tiny)
    for token in (tiny.vocab.eos, tiny.vocab.bos, tokenize(tiny.vocab, "maybe", addSpecial=False)[0]):
        with pytest.raises(ValueError, match=f"does not allow token {token} here.*start of the chain"):
            sampler.accept(token)
    assert _left(sampler, tiny) == before


def test_reset_and_clone(tiny: Model) -> None:
    vocab = tiny.vocab
    n = _token(tiny, "n")
    chain = WORDS.chain(vocab, Sampler.initGreedy())
    start = _left(WORDS.sampler(vocab), tiny)
    first = chain.chainGet(0)
    first.accept(n)
    twin = chain.clone()
    assert _texts(tiny, _left(first, tiny)) == _texts(tiny, _left(twin.chainGet(0), tiny)) != _texts(tiny, start)
    chain.reset()
    assert _left(first, tiny) == start
    assert _left(twin.chainGet(0), tiny) != start  # the clone has a separate state
    twin.chainGet(0).accept(_token(tiny, "o"))
    assert vocab.eos in _left(twin.chainGet(0), tiny)
    assert vocab.eos not in _left(first, tiny)


def test_several_sequences_of_one_context(tiny: Model) -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 2, "maxItems": 4}
    constraint = Constraint.fromJsonSchema(schema)
    vocab = tiny.vocab
    model = constraint.chain(vocab, Sampler.initDist(7))
    chains = [model, model.clone(), constraint.chain(vocab, Sampler.initDist(8))]
    with Context.initFromModel(tiny, Context.Params(nCtx=768, nSeqMax=3, nThreads=1, nThreadsBatch=1)) as ctx:
        batch, texts, running = Batch.init(3, 0, 1), [b"", b"", b""], [0, 1, 2]
        latest, place = [vocab.bos] * 3, 0
        while running and place < 200:
            batch.clear()
            for seq in running:
                batch.add(latest[seq], place, [seq], True)
            ctx.decode(batch)
            for index, seq in enumerate(running):
                latest[seq] = chains[seq].sample(ctx, index)
                texts[seq] += b"" if vocab.isEog(latest[seq]) else vocab._piece(latest[seq])
            running = [seq for seq in running if not vocab.isEog(latest[seq])]
            place += 1
    assert not running
    assert all(2 <= len(json.loads(text)) <= 4 for text in texts)
    assert texts[0] == texts[1] != texts[2]  # the same seed


def test_before_and_after_samplers_that_drop(tiny: Model) -> None:
    vocab = tiny.vocab
    logits = np.random.default_rng(3).standard_normal(vocab.nTokens).astype(np.float32)
    chain = WORDS.chain(vocab, Sampler.initTopK(5), Sampler.initTopP(0.5, 1), Sampler.initDist(1))
    candidates = TokenDataArray.fromLogits(logits)
    chain.apply(candidates)
    allowed = _left(WORDS.sampler(vocab), tiny)
    assert candidates[candidates.selected].id in allowed
    late = Sampler.chainInit()
    for member in (Sampler.initTopK(5), WORDS.sampler(vocab), Sampler.initGreedy()):
        late.chainAdd(member)
    with pytest.raises(ValueError, match="none of the 5 candidates.*before"):
        late.apply(TokenDataArray.fromLogits(logits))
    logits[list(allowed)[0]] = 99
    picked = TokenDataArray.fromLogits(logits)
    late.apply(picked)
    assert picked.size == 1 and picked[0].id == list(allowed)[0]


def test_sorted_candidates_stay_sorted(tiny: Model) -> None:
    sampler = Constraint.fromRegex("[^a]*").sampler(tiny.vocab)
    candidates = TokenDataArray.fromLogits(np.random.default_rng(5).standard_normal(tiny.vocab.nTokens).astype("f4"))
    candidates.sort()
    sampler.apply(candidates)
    logits = np.asarray(candidates)["logit"]
    assert candidates.sorted and 1000 < len(logits) < tiny.vocab.nTokens
    assert (np.diff(logits) <= 0).all()


@pytest.mark.parametrize("pattern", ["(yes|no) ?(sir)?", "[^a]*", "[^a-y]*", "(?s:.*)"])
@pytest.mark.parametrize("order", ["own", "shuffled", "reversed", "half"])
def test_any_order_of_candidates(tiny: Model, pattern: str, order: str) -> None:
    """The candidates kept are those of llguidance's mask, in any order of the candidates."""
    vocab, rng = tiny.vocab, np.random.default_rng(11)
    sampler = Constraint.fromRegex(pattern).sampler(vocab)
    assert sampler._custom is not None
    allowed = sampler._custom.iface._allowed()  # type: ignore[attr-defined]
    ids = np.arange(vocab.nTokens)
    ids = {"own": ids, "shuffled": rng.permutation(ids), "reversed": ids[::-1], "half": ids[1::2]}[order]
    logits = rng.standard_normal(len(ids)).astype(np.float32)
    rows = np.zeros(len(ids), TokenDataArray.dtype())
    rows["id"], rows["logit"] = ids, logits
    candidates = TokenDataArray(rows)
    sampler.apply(candidates)
    left = np.asarray(candidates)
    expected = {(int(i), float(x)) for i, x in zip(ids, logits, strict=True) if allowed[i]}
    assert len(left) == len(expected)
    assert {*zip(left["id"].tolist(), left["logit"].tolist(), strict=True)} == expected


def test_candidates_are_the_same_with_numpy_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results with and without numpy imported are equal."""
    logits = np.random.default_rng(9).standard_normal(1000).astype(np.float32)
    broken = logits.copy()
    broken[999] = math.nan
    several = [logits, broken, logits[::-2], np.float32([-math.inf]), logits.tobytes(), list(logits[:7])]
    found = []
    for present in (True, False):
        with monkeypatch.context() as patch:
            if not present:
                patch.setitem(sys.modules, "numpy", None)
            made = [TokenDataArray.fromLogits(values) for values in several]
            found.append([(bytes(rows._words("f")), rows._has_nan()) for rows in made])
    assert found[0] == found[1]
    assert [nan for _, nan in found[0]] == [False, True, False, False, False, False]


def test_all_that_may_come_was_ruled_out(tiny: Model) -> None:
    sampler = WORDS.sampler(tiny.vocab)
    logits = np.zeros(tiny.vocab.nTokens, np.float32)
    logits[[*_left(sampler, tiny)]] = -math.inf
    with pytest.raises(ValueError, match=r"logits of -inf.*such as \["):
        sampler.apply(TokenDataArray.fromLogits(logits))


def test_a_vocabulary_without_an_end(monkeypatch: pytest.MonkeyPatch, tiny_path: Path) -> None:
    monkeypatch.setattr(tokens, "_read", lambda vocab: ([b"a"], [], []))
    with Model.load(tiny_path) as model, pytest.raises(ValueError, match="no end-of-generation token"):
        WORDS.sampler(model.vocab)


# The table of tokens


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "gpt-2", "phi-3", "qwen2", "falcon"])
def test_the_bytes_of_tokens_are_those_of_the_text(vectors: Path, name: str) -> None:
    with Model.load(vectors / f"ggml-vocab-{name}.gguf", Model.Params(vocabOnly=True)) as model:
        vocab = model.vocab
        pieces, hidden, ends = tokens._read(vocab)
        assert len(pieces) == vocab.nTokens
        assert {*ends} == {t for t in range(vocab.nTokens) if vocab.isEog(t)} <= {*hidden}
        assert all(t in hidden for t in range(vocab.nTokens) if vocab.getAttr(t) & TokenAttr.CONTROL)
        text = 'Grüße, {"a": [1, 2]}\n\t日本語 \N{PILE OF POO} don\'t  stop'
        found = tokenize(vocab, text, addSpecial=False)
        assert b"".join(pieces[t] for t in found).lstrip() == text.encode()
        source = tokens._Source(weakref.ref(model), pieces, hidden, ends)
        for part in (b'{"name":"', b" a", b"\n\n x", b"name", "日".encode()[:2], "\N{PILE OF POO}".encode(), b""):
            spelt = source(part)
            assert b"".join(pieces[t] for t in spelt) == part
        assert source(b'name":"')[0] == source(b"name")[0]  # whole words, not letters
        assert b"".join(pieces[t] for t in source._greedy(text.encode())) == text.encode()


def test_the_table_is_made_once_for_a_model_and_goes_with_it(tiny_path: Path) -> None:
    model = Model.load(tiny_path)
    table = tokens.tokenizer_of(model.vocab)
    assert tokens.tokenizer_of(model.vocab) is table
    sampler = WORDS.sampler(model.vocab)
    gone = weakref.ref(model)
    del table, model
    gc.collect()
    assert gone() is not None  # the sampler reads its vocabulary
    _left(sampler, gone())
    del sampler
    gc.collect()
    assert gone() is None


def test_after_the_model_was_freed(tiny_path: Path) -> None:
    with Model.load(tiny_path) as model:
        sampler = WORDS.sampler(model.vocab)
        size = model.vocab.nTokens
    with pytest.raises(ClosedError):
        sampler.apply(TokenDataArray(size))


def test_tokenizers_of_other_kinds(tmp_path: Path) -> None:
    for name, write in (("gpt2", tiny_models.write_gpt2), ("t5", tiny_models.write_t5)):
        with Model.load(write(tmp_path / f"{name}.gguf")) as model:
            sampler = Constraint.fromRegex("hello[0-9]").sampler(model.vocab)
            text = b""
            for _ in range(10):
                left = _left(sampler, model)
                token = max(left, key=left.__getitem__)
                if model.vocab.isEog(token):
                    break
                text += model.vocab._piece(token)
                sampler.accept(token)
            assert text[:5] == b"hello" and text[5:].isdigit() and len(text) == 6
