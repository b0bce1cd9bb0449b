"""State: after saving and restoring it, logits are bit-equal; a state that does not fit is rejected."""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Batch, Context, Model, Sampler, StateError, UnavailableError, ffi, lib
from llama_cffi._core.compat import has

PROMPT = list(range(100, 130))


def make(model: Model, **params: int) -> Context:
    return Context.initFromModel(model, Context.Params(nCtx=128, **params))


def after(ctx: Context, token: int = 7) -> np.ndarray:
    ctx.decode(Batch.getOne([token]))
    return np.array(ctx.getLogitsIth(-1))


def test_bytes(tiny: Model) -> None:
    with make(tiny) as one, make(tiny) as other:
        one.decode(Batch.getOne(PROMPT))
        state = one.stateGetData()
        assert len(state) == one.stateSize
        for source in (state, bytearray(state), memoryview(state), np.frombuffer(state, np.uint8)):
            other.getMemory().clear()
            assert other.stateSetData(source) == len(state)
            assert other.getMemory().seqPosMax(0) == len(PROMPT) - 1
        assert np.array_equal(after(one), after(other))


def test_outputs_of_another_text_are_gone(tiny: Model, tmp_path: Path) -> None:
    """A state has none, and those from before belong to another text."""
    with make(tiny) as ctx:
        ctx.decode(Batch.getOne(PROMPT))
        state = ctx.stateGetData()
        ctx.stateSaveFile(tmp_path / "state")
        for restore in (lambda: ctx.stateSetData(state), lambda: ctx.stateLoadFile(tmp_path / "state")):
            after(ctx, 9)
            restore()
            for use in (lambda: ctx.getLogitsIth(-1), lambda: Sampler.initGreedy().sample(ctx, -1)):
                with pytest.raises(IndexError, match="no outputs: decode"):
                    use()
            after(ctx)


def test_into_a_buffer(tiny: Model) -> None:
    with make(tiny) as one, make(tiny) as other:
        one.decode(Batch.getOne(PROMPT))
        size = one.stateSize
        buffer = bytearray(size + 10)
        assert one.stateGetData(buffer, size) == size
        assert other.stateSetData(buffer, size) == size
        assert np.array_equal(after(one), after(other))
        with pytest.raises(StateError, match="stateSize"):
            one.stateGetData(bytearray(10), 10)
        with pytest.raises(ValueError, match="room for 10"):
            one.stateGetData(bytearray(10), size)
        with pytest.raises(ValueError, match="has 10 elements"):
            one.stateSetData(bytes(10), 11)


def test_a_file_with_its_tokens(tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    with make(tiny) as one, make(tiny) as other, make(tiny) as third:
        one.decode(Batch.getOne(PROMPT))
        assert one.stateSaveFile(path, array("i", PROMPT), len(PROMPT)) is True
        assert other.stateLoadFile(path) == PROMPT
        out, count = array("i", [0] * 64), ffi.new("size_t[1]")
        assert third.stateLoadFile(path, out, 64, count) is True
        assert (count[0], list(out[: len(PROMPT)])) == (len(PROMPT), PROMPT)
        expected = after(one)
        assert np.array_equal(expected, after(other))
        assert np.array_equal(expected, after(third))
        with pytest.raises(StateError, match="cap.*30.*got 5"):
            other.stateLoadFile(path, out, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["state.bin"]


def test_files_are_llama_cpps_own_format(tiny: Model, tmp_path: Path) -> None:
    with make(tiny) as one, make(tiny) as other:
        one.decode(Batch.getOne(PROMPT))
        one.stateSaveFile(tmp_path / "ours", PROMPT)
        tokens, count = ffi.new("llama_token[]", 64), ffi.new("size_t *")
        assert lib.llama_state_load_file(other._c, str(tmp_path / "ours").encode(), tokens, 64, count)
        assert list(tokens[0 : count[0]]) == PROMPT
        raw = ffi.new("llama_token[]", PROMPT)
        assert lib.llama_state_save_file(one._c, str(tmp_path / "theirs").encode(), raw, len(PROMPT))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_one_sequence_into_another(tiny: Model, tmp_path: Path) -> None:
    with make(tiny, nSeqMax=2) as ctx, make(tiny, nSeqMax=2) as other:
        ctx.decode(Batch.getOne(PROMPT))
        state = ctx.stateSeqGetData(seqId=0)
        assert len(state) == ctx.stateSeqGetSize(0)
        buffer = bytearray(len(state))
        assert ctx.stateSeqGetData(buffer, len(buffer), 0) == len(state) and buffer == state
        assert other.stateSeqSetData(state, None, 1) == len(state)
        assert other.getMemory().seqPosMax(1) == len(PROMPT) - 1
        assert ctx.stateSeqSaveFile(tmp_path / "seq", 0, PROMPT) == (tmp_path / "seq").stat().st_size
        assert other.stateSeqLoadFile(tmp_path / "seq", 0) == PROMPT
        assert np.array_equal(after(ctx), after(other))
        for seq in (-1, 2):
            with pytest.raises(ValueError, match="between 0 and 1"):
                other.stateSeqSetData(state, None, seq)
        with pytest.raises(ValueError if has("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY") else UnavailableError):
            ctx.stateSeqGetSize(0, lib.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE)
        with pytest.raises(StateError, match="sequence 1 is empty now"):
            other.stateSeqSetData(state[:-9], None, 1)


@pytest.mark.parametrize("cut", [0, 1, 4, 11, 12, 40, 200, 5000, -1])
def test_truncated_states(tiny: Model, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "state"
    with make(tiny) as one, make(tiny) as other:
        one.decode(Batch.getOne(PROMPT))
        one.stateSaveFile(path, PROMPT)
        data, state = path.read_bytes(), one.stateGetData()
        path.write_bytes(data[:cut])
        with pytest.raises(StateError):
            other.stateLoadFile(path)
        with pytest.raises(StateError):
            other.stateSetData(state[:cut])
        assert other.getMemory().seqPosMax(0) == -1
        assert other.decode(Batch.getOne(PROMPT)) == 0  # the context still works


def test_states_that_are_none(tiny: Model, gemma: Model, tmp_path: Path) -> None:
    with make(tiny) as ctx, Context.initFromModel(gemma, Context.Params(nCtx=64)) as stranger:
        ctx.decode(Batch.getOne(PROMPT))
        with pytest.raises(StateError, match="expected a state of a gemma3 model"):
            stranger.stateSetData(ctx.stateGetData())
        with pytest.raises(StateError, match="expected a state of a llama"):
            ctx.stateSetData(b"\xff" * 100)  # llama.cpp would allocate the 4 GB that this claims
        wrong = tmp_path / "wrong"
        for header, words in (
            (struct.pack("<III", 1, 10, 0), "state file.*got 0x1"),
            (struct.pack("<III", lib.LLAMA_SESSION_MAGIC, 99, 0), "version.*got 99"),
            (struct.pack("<III", lib.LLAMA_SESSION_MAGIC, lib.LLAMA_SESSION_VERSION, 1 << 31), "too short"),
        ):
            wrong.write_bytes(header + bytes(64))
            with pytest.raises(StateError, match=words):
                ctx.stateLoadFile(wrong)
        with pytest.raises(FileNotFoundError):
            ctx.stateLoadFile(tmp_path / "none")
        with pytest.raises(OSError):
            ctx.stateSaveFile(tmp_path / "no" / "folder")


@pytest.mark.parametrize("position", [-2, -(1 << 31), 1 << 30, (1 << 31) - 1])
def test_positions_that_cannot_be(tiny: Model, position: int) -> None:
    with make(tiny) as one, make(tiny) as other:
        one.decode(Batch.getOne(PROMPT))
        whole, sequence = bytearray(one.stateGetData()), bytearray(one.stateSeqGetData(seqId=0))
        for state, load in ((whole, other.stateSetData), (sequence, other.stateSeqSetData)):
            place = state.index(struct.pack("<iI", 3, 1))  # a cell: its position, and its number of sequences
            struct.pack_into("<i", state, place, position)
            with pytest.raises(StateError, match=f"positions .*{position}.* in sequence 0.*; .* is empty now"):
                load(state)
            assert other.getMemory().seqPosMax(0) == -1
        assert other.decode(Batch.getOne(PROMPT)) == 0
