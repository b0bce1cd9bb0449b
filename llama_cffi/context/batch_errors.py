"""Why a context did not compute a batch, in words. The reasons come from `shim_compute`; see `_shim/shim.h`."""

from __future__ import annotations

from typing import Any

from llama_cffi._core.checks import no_such_token
from llama_cffi._core.ffi import lib
from llama_cffi._core.native_log import native_log
from llama_cffi.errors import BusyError, ContextFullError, DecodeError

_CODES = {
    2: "it was aborted; what was computed until then stays in the memory",
    -1: "llama.cpp does not accept the batch: positions must go on where the sequence ends",
    -2: "there was no memory for it",
}


def batch_error(reason: int, limits: Any, width: int, operation: str) -> Exception:
    """The exception for a batch. `limits` is the context's `shim_limits`, `width` the batch's nSeqMax."""
    index, value = limits.index, limits.value
    match reason:
        case lib.SHIM_BATCH_FAILED:
            return _failed(value, index, operation)
        case lib.SHIM_BATCH_EMPTY:
            return ValueError("the batch is empty: add tokens to it first")
        case lib.SHIM_BATCH_SIZE:
            return ValueError(
                f"the batch has {value} tokens, but nBatch is {limits.n_batch}: "
                "raise Context.Params.nBatch, or split the batch"
            )
        case lib.SHIM_BATCH_OVER_UBATCH:
            return ValueError(
                f"the batch has {value} tokens, but nUbatch is {limits.n_ubatch}, and a model that is not causal "
                "sees a batch at once: raise Context.Params.nUbatch, or split the batch"
            )
        case lib.SHIM_BATCH_TOKEN:
            return ValueError(f"entry {index}: {no_such_token(value, limits.n_vocab)}")
        case lib.SHIM_BATCH_POSITION:
            return ValueError(f"entry {index} has position {value}: positions go from 0 to {(1 << 30) - 1}")
        case lib.SHIM_BATCH_UNKNOWN:
            return ValueError(
                f"entry {index} has position {value}, but this model knows positions from 0 to {limits.n_pos - 1}: "
                "shorten the text, or split it"
            )
        case lib.SHIM_BATCH_COUNT:
            return ValueError(
                f"entry {index} belongs to {value} sequences, but the batch has room for 1 to {width}: "
                "raise nSeqMax in Batch.init"
            )
        case lib.SHIM_BATCH_SEQUENCE:
            return ValueError(
                f"entry {index}: the sequence must be between 0 and {limits.n_seq - 1}, got {value}: "
                "raise Context.Params.nSeqMax, or use fewer"
            )
        case lib.SHIM_BATCH_OUTPUTS:
            return ValueError(
                f"the batch asks for {value} outputs, but nOutputsMax is {limits.n_outputs}: ask for fewer, or raise "
                "Context.Params.nOutputsMax"
            )
        case lib.SHIM_BATCH_PINNED:
            return pinned(value, limits)
        case lib.SHIM_BATCH_WIDTH:
            return ValueError(f"the batch has embeddings of {value} floats, but the model takes {limits.n_embd}")
        case lib.SHIM_BATCH_POSITION_DIMS:
            return ValueError(
                f"the position of an embedding has {value} numbers in this model, and a Batch holds one: use BatchExt"
            )
        case lib.SHIM_BATCH_NOT_ENCODED:
            return ValueError("this model decodes what its encoder gave: call encode first")
    raise AssertionError(reason)


def pinned(outputs: int, limits: Any) -> BusyError:
    """For a call that would move the memory of outputs while arrays look at it."""
    return BusyError(
        f"an array of this context's outputs is still in use, and {outputs} outputs need a larger buffer, which would "
        f"move it (it has room for {limits.reserved}): drop the array, or copy it"
    )


def _failed(code: int, n: int, operation: str) -> DecodeError:
    if code == 1:
        return ContextFullError(
            f"the context has no room for {n} more tokens: remove some with ctx.getMemory().seqRemove, or raise "
            "Context.Params.nCtx",
            operation=operation,
            code=code,
            log=native_log(),
        )
    reason = _CODES.get(code, "the computation failed")
    return DecodeError(f"{operation} returned {code}: {reason}", operation=operation, code=code, log=native_log())
