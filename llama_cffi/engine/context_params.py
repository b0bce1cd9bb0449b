"""The parameters of an engine's context: the user's, with those that an engine sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi
from llama_cffi._host.resources import usable_cpus
from llama_cffi.context.context import Context
from llama_cffi.generation.log_probs import scored_rows

if TYPE_CHECKING:
    from llama_cffi.model.model import Model


def context_params(
    model: Model, given: Context.Params | None, nCtx: int, nSeqMax: int, nBatch: int, nThreads: int | None
) -> Context.Params:
    """A copy of the user's parameters, with those that an engine sets."""
    params = Context.Params()
    if given is not None:
        if given.embeddings:
            raise ValueError("an engine generates text: leave params.embeddings at False")
        if given._keep.get("samplers"):
            raise ValueError("each request of an engine has its own sampler: leave params.samplers empty")
        ffi.memmove(params._c, given._c, ffi.sizeof(params._c[0]))
        params._keep.update(given._keep)
    params.nCtx, params.nSeqMax, params.nBatch = nCtx, nSeqMax, nBatch
    if nThreads is not None:
        params.nThreads = params.nThreadsBatch = nThreads
    elif "adaptThreads" not in params._keep:  # neither was set
        params._c.n_threads = params._c.n_threads_batch = _default_threads(usable_cpus())
    if has("llama_context_params.n_outputs_max"):
        rows = nSeqMax + scored_rows(model.vocab.nTokens)
        params.nOutputsMax = max(nSeqMax, min(nBatch, rows))
    return params


def _default_threads(cpus: int) -> int:
    """Leave CPUs to Python and to the clients, which work while a step is computed: a compute thread that loses its CPU
    to them stops all the others. With few CPUs, a thread less costs more than that."""
    return cpus - cpus // 8
