"""Exceptions for batches that a context did not compute. The reasons come from `shim_compute`; see `_shim/shim.h`."""

from __future__ import annotations

from llama_cffi._core.checks import no_such_token, no_threads, out_of_range
from llama_cffi._core.ffi import lib
from llama_cffi._core.native_log import native_log
from llama_cffi.context.memory import POSITION_LIMIT
from llama_cffi.errors import BusyError, ContextFullError, DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CODES = {
    2: "it was aborted; tokens computed until then stay in the KV cache",
    -1: "llama.cpp rejects the batch: positions must continue where the sequence ends",
    -2: "out of memory",
}


def batch_error(reason: int, limits: Any, width: int, operation: str) -> Exception:
    """Return the exception for a batch. `limits` is the context's `shim_limits`, `width` the batch's nSeqMax."""
    index, value = limits.index, limits.value
    match reason:
        case lib.SHIM_BATCH_FAILED:
            return _failed(value, index, operation)
        case lib.SHIM_BATCH_EMPTY:
            return ValueError("the batch is empty: add tokens to it first")
        case lib.SHIM_BATCH_SIZE:
            return ValueError(
                f"a batch can have at most {limits.n_batch} tokens (nBatch), got {value}: "
                "raise Context.Params.nBatch, or split the batch"
            )
        case lib.SHIM_BATCH_OVER_UBATCH:
            return ValueError(
                f"without causal attention, a batch can have at most {limits.n_ubatch} tokens (nUbatch), got {value}: "
                "raise Context.Params.nUbatch, or split the batch"
            )
        case lib.SHIM_BATCH_TOKEN:
            return ValueError(f"entry {index}: {no_such_token(value, limits.n_vocab)}")
        case lib.SHIM_BATCH_POSITION:
            return out_of_range(f"entry {index}: the position", value, 0, POSITION_LIMIT - 1)
        case lib.SHIM_BATCH_UNKNOWN:
            return unknown_position(value, limits, f"entry {index}: ")
        case lib.SHIM_BATCH_COUNT:
            return out_of_range(
                f"entry {index}: the number of sequences", value, 1, width, "raise nSeqMax in Batch.init for more"
            )
        case lib.SHIM_BATCH_SEQUENCE:
            return out_of_range(
                f"entry {index}: the sequence", value, 0, limits.n_seq - 1, "raise Context.Params.nSeqMax for more"
            )
        case lib.SHIM_BATCH_OUTPUTS:
            return ValueError(
                f"a batch can have at most {limits.n_outputs} outputs (nOutputsMax), got {value}: request fewer, "
                "or raise Context.Params.nOutputsMax"
            )
        case lib.SHIM_BATCH_PINNED:
            return pinned(value, limits)
        case lib.SHIM_BATCH_WIDTH:
            return ValueError(f"embeddings must have {limits.n_embd} floats for this model, got {value}")
        case lib.SHIM_BATCH_POSITION_DIMS:
            return ValueError(
                f"positions of embeddings have {value} dimensions in this model, and 1 in a Batch: use BatchExt"
            )
        case lib.SHIM_BATCH_THREADS:
            what = f"{operation}: the process cannot start the {value} threads of this computation"
            return no_threads(what, "lower nThreads and nThreadsBatch", operation)
        case lib.SHIM_BATCH_NOT_ENCODED:
            return ValueError("this model decodes the output of its encoder: call encode first")
    raise AssertionError(reason)


def unknown_position(position: int, limits: Any, where: str = "") -> ValueError:
    """Return the error for a position beyond those that the model was trained for."""
    hint = "the model supports no others; shorten the text, or split it"
    return out_of_range(f"{where}the position", position, 0, limits.n_pos - 1, hint)


def pinned(outputs: int, limits: Any) -> BusyError:
    """Return the error for a call that would move the output buffer while arrays use it."""
    return BusyError(
        f"an array of this context's outputs is in use, and {outputs} outputs need a larger buffer, which would move "
        f"it (its capacity is {limits.reserved}): drop the array, or copy it"
    )


def _failed(code: int, n: int, operation: str) -> DecodeError:
    if code == 1:
        return ContextFullError(
            f"the KV cache has no room for {n} more tokens: remove some with ctx.getMemory().seqRemove, or raise "
            "Context.Params.nCtx",
            operation=operation,
            code=code,
            log=native_log(),
        )
    reason = _CODES.get(code, "the computation failed")
    return DecodeError(f"{operation} returned {code}: {reason}", operation=operation, code=code, log=native_log())
