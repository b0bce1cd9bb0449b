"""Why a sampler found no token: the exceptions, and their words."""

from __future__ import annotations

from llama_cffi._core.ffi import lib
from llama_cffi._core.process import leave_if_ending
from llama_cffi.errors import NativeMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from llama_cffi.sampling.logits_source import LogitsSource

NAN = (
    "a logit of this output is NaN, which cannot be ranked: the model file is damaged, or an adapter, a control vector "
    "or a callback wrote it"
)

NO_PICK = "no sampler picked a token: end the chain with Sampler.initDist or initGreedy"

NONE_LEFT = (
    "no candidate has a probability: the logits are all -inf, or one of them became +inf or NaN. Look at the biases, "
    "grammars and samplers that change logits"
)


def no_token(reason: int, ctx: LogitsSource, idx: int) -> NoReturn:
    """Raise the error for a `shim_no_token`."""
    leave_if_ending()
    match reason:
        case lib.SHIM_SAMPLE_NO_OUTPUT:
            raise IndexError(ctx._no_output(idx))
        case lib.SHIM_SAMPLE_NAN:
            raise ValueError(NAN)
        case lib.SHIM_SAMPLE_NO_PICK:
            raise ValueError(NO_PICK)
        case lib.SHIM_SAMPLE_NONE_LEFT:
            raise ValueError(NONE_LEFT)
    raise NativeMemoryError(f"out of memory for {ctx._nVocab} candidates", operation="llama_sampler_sample")
