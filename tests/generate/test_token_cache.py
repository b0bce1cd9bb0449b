"""Prefix reuse: a common prefix is kept, the rest is decoded again, and changes by others are noticed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llama_cffi import Batch, Context, Model, Sampler
from llama_cffi.generation.prefix import common_length
from llama_cffi.generation.token_cache import TokenCache
from tests.generate.conftest import Counted, Kind, plain

FIRST = [5 + 11 * i % 240 for i in range(300)]
EDITED = FIRST[:30] + [200, 201] + FIRST[35:]
CLOSE = 0.05
LATE = FIRST[:290] + [200, 201]


def _next(ctx: Context) -> int:
    with Sampler.initGreedy() as sampler:
        return sampler.sample(ctx, -1)


def _logits(ctx: Context) -> np.ndarray:
    return np.array(ctx.getLogitsIth(-1))


def _read(cache: TokenCache, tokens: list[int]) -> int:
    """Bring the tokens into the memory; how many were there."""
    reused = cache.adapt_to(tokens)
    cache.decode(tokens[reused:])
    assert cache.tokens == tokens
    return reused


def _gap(logits: np.ndarray, kind: Kind, tokens: list[int]) -> float:
    """How far off the logits are from those of a fresh context. Batches of another size differ a little."""
    key = kind.name, *tokens
    if key not in _fresh:
        with kind.context() as ctx:
            ctx.decode(Batch.getOne(tokens))
            _fresh[key] = _logits(ctx)
    return float(np.abs(logits - _fresh[key]).max())


_fresh: dict[tuple[object, ...], np.ndarray] = {}


def test_common_length() -> None:
    assert common_length([], [1]) == 0
    assert common_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_length([1, 2], [1, 2, 4]) == common_length([1, 2, 4], [1, 2]) == 2


def test_an_edit_in_the_middle_gives_what_a_fresh_context_gives(kind: Kind, counted: Counted) -> None:
    with kind.context() as ctx:
        cache = TokenCache(ctx)
        assert _read(cache, FIRST) == 0
        counted.tokens = 0
        reused = _read(cache, EDITED)
        assert counted.tokens == len(EDITED) - reused
        assert reused == (30 if kind.forgets_parts and kind.swa_full else 0)
        assert ctx.getMemory().seqPosMax(0) == len(EDITED) - 1
        assert _gap(_logits(ctx), kind, EDITED) < CLOSE
        if kind.forgets_parts:  # a state fades
            assert _gap(_logits(ctx), kind, FIRST) > 2 * CLOSE, "the edit changes too little to notice"


def test_an_edit_that_a_moving_window_still_sees(kind: Kind) -> None:
    with kind.context() as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST)
        assert _read(cache, LATE) == (290 if kind.forgets_parts else 0)
        assert _gap(_logits(ctx), kind, LATE) < CLOSE
        assert _gap(_logits(ctx), kind, FIRST) > 2 * CLOSE


def test_a_longer_text_is_read_from_where_it_goes_on(kind: Kind, counted: Counted) -> None:
    with kind.context() as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST[:280])
        counted.tokens = 0
        assert _read(TokenCache(ctx), FIRST) == 280  # what is known is the context's
        assert counted.tokens == 20
        assert _gap(_logits(ctx), kind, FIRST) < CLOSE


def test_the_same_text_again_leaves_one_token_to_decode(kind: Kind) -> None:
    with kind.context() as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST)
        assert _read(cache, FIRST) == (len(FIRST) - 1 if kind.forgets_parts else 0)
        assert _gap(_logits(ctx), kind, FIRST) < CLOSE


def test_token_by_token_is_the_same(kind: Kind) -> None:
    with kind.context() as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST[:280])
        for token in FIRST[280:]:
            cache.push(token)
        assert cache.tokens == FIRST and len(cache) == 300
        assert _gap(_logits(ctx), kind, FIRST) < CLOSE


def test_long_texts_go_in_pieces(kind: Kind) -> None:
    with kind.context(n_batch=16, n_ubatch=16) as ctx:
        assert _read(TokenCache(ctx), FIRST) == 0
        assert _gap(_logits(ctx), kind, FIRST) < CLOSE


# Changes behind its back


def _decode_by_hand(ctx: Context) -> None:
    ctx.decode(Batch.getOne([7]))


def _replace_by_hand(ctx: Context) -> None:
    """The same number of other tokens: positions alone do not tell."""
    ctx.getMemory().clear()
    ctx.decode(Batch.getOne(FIRST[::-1]))


def _load_a_state(ctx: Context) -> None:
    state = ctx.stateGetData()
    _replace_by_hand(ctx)
    other = ctx.stateGetData()
    ctx.stateSetData(state)
    ctx.stateSetData(other)


def _copy_over(ctx: Context) -> None:
    memory = ctx.getMemory()
    other = TokenCache(ctx, 1)
    other.decode(FIRST[::-1])
    memory.seqRemove(0)
    memory.seqCopy(1, 0)


CHANGES: dict[str, Callable[[Context], object]] = {
    "decode": _decode_by_hand,
    "clear": lambda ctx: ctx.getMemory().clear(),
    "clear and decode": _replace_by_hand,
    "seqRemove": lambda ctx: ctx.getMemory().seqRemove(0, 50),
    "seqRemove of all": lambda ctx: ctx.getMemory().seqRemove(-1),
    "seqKeep": lambda ctx: ctx.getMemory().seqKeep(1),
    "seqCopy": _copy_over,
    "stateSetData": _load_a_state,
    "setAdapterCvec": lambda ctx: ctx.setAdapterCvec([0.5] * ctx.getModel().nEmbd),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_others_changed_is_not_believed(tiny: Model, change: str) -> None:
    longer = [*FIRST, 77]
    params = Context.Params(nCtx=1024, nThreads=2, nThreadsBatch=2, nSeqMax=2, kvUnified=True)
    with Context.initFromModel(tiny, params) as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST)
        CHANGES[change](ctx)
        assert _read(cache, longer) == 0
        logits = _logits(ctx)
        ctx.getMemory().clear()
        ctx.decode(Batch.getOne(longer))
        assert np.allclose(logits, _logits(ctx), atol=2e-3)


def test_shifted_by_others(ctx: Context) -> None:
    cache = TokenCache(ctx)
    _read(cache, FIRST[:60])
    memory = ctx.getMemory()
    memory.seqRemove(0, 0, 10)
    memory.seqAdd(0, 10, -1, -10)
    ctx.decode(Batch.getOne(FIRST[:10]))  # as many as before
    assert memory.seqPosMax(0) == 59
    assert _read(cache, FIRST[:70]) == 0


def test_the_raw_layer_is_noticed_where_positions_tell(ctx: Context) -> None:
    from llama_cffi import lib

    cache = TokenCache(ctx)
    _read(cache, FIRST[:60])
    lib.llama_memory_seq_rm(lib.llama_get_memory(ctx._c), 0, 50, -1)
    assert _read(cache, FIRST[:70]) == 0


def test_sequences_are_kept_apart(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=1536, nSeqMax=3)) as ctx:
        first, second = TokenCache(ctx, 1), TokenCache(ctx, 2)
        _read(first, FIRST)
        _read(second, EDITED)
        second.clear()
        assert _read(first, [*FIRST, 9]) == len(FIRST)
        ctx.getMemory().clear()
        assert _read(first, [*FIRST, 9]) == 0
        expected = plain(ctx, [*FIRST, 9], 1)
        ctx.getMemory().clear()
        _read(first, [*FIRST, 9])
        assert [_next(ctx)] == expected
        with pytest.raises(ValueError, match="seqId must be between 0 and 2"):
            TokenCache(ctx, 3)


# Failures


def test_after_a_failed_decode_the_memory_is_what_is_known(kind: Kind) -> None:
    with kind.context(n_batch=32, n_ubatch=16) as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST[:20])
        ctx._stop[0] = 1
        with pytest.raises(Exception, match="aborted"):
            cache.decode(FIRST[20:])
        ctx._stop[0] = 0
        known = cache.tokens
        assert known == FIRST[: len(known)]
        assert ctx.getMemory().seqPosMax(0) == len(known) - 1
        assert _read(cache, FIRST) == len(known)
        assert len(known) == (20 if kind.forgets_parts else 0)
        assert _gap(_logits(ctx), kind, FIRST) < CLOSE


def test_a_failure_in_the_middle_of_a_batch(kind: Kind) -> None:
    """Where one part of the batch was computed and the next one not."""
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > limit

    limit = 1 << 30
    with kind.context() as ctx:
        ctx.setAbortCallback(stop)
        cache = TokenCache(ctx)
        _read(cache, FIRST)
        limit = calls // 2
        calls = 0
        cache.clear()
        with pytest.raises(Exception, match="aborted"):
            cache.decode(FIRST)
        assert calls
        ctx.setAbortCallback(None)
        assert ctx.getMemory().seqPosMax(0) == len(cache) - 1 == -1
        _read(cache, EDITED)
        assert _gap(_logits(ctx), kind, EDITED) < CLOSE


def test_what_never_fits_a_context_leaves_it_usable(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=32)) as ctx:
        cache = TokenCache(ctx)
        with pytest.raises(Exception, match="no room"):
            cache.decode([77] * 400)
        assert len(cache) == 256 == ctx.getMemory().seqPosMax(0) + 1
        assert _read(cache, FIRST[:200]) == 0


# Making room


def test_a_part_is_forgotten(kind: Kind) -> None:
    with kind.context() as ctx:
        cache = TokenCache(ctx)
        _read(cache, FIRST)
        cache.discard(10, 20)
        assert cache.tokens == FIRST[:10] + FIRST[30:]
        assert ctx.getMemory().seqPosMax(0) == 279
        cache.push(99)
        shifted = kind.name in ("llama", "window")
        gap = _gap(_logits(ctx), kind, [*FIRST[:10], *FIRST[30:], 99])
        assert gap < (_gap(_logits(ctx), kind, [*FIRST, 99]) if shifted else CLOSE)
        # What was moved was computed with more before it, so another text does not get it.
        longer = [*cache.tokens, 98]
        # And llama.cpp then reuses the cells at the beginning that a window does not see any more.
        assert _read(cache, longer) == {"llama": 10, "window": 0}.get(kind.name, 281)
        assert _gap(_logits(ctx), kind, longer) < CLOSE
