"""Changing how a context computes: adapters, control vectors, threads, attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from llama_cffi._core.arguments import read_buffer
from llama_cffi._core.checks import expected, out_of_range
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.structs import FLOAT_MAX
from llama_cffi._generated.enums import PoolingType
from llama_cffi._host.resources import check_threads
from llama_cffi.context.base import ContextBase, null_if_none
from llama_cffi.context.checks import check_pooled
from llama_cffi.context.compute_callbacks import abort_pointers
from llama_cffi.errors import NativeError
from llama_cffi.ggml.threadpool import Threadpool
from llama_cffi.model.adapter import Adapter

_ANY = (1 << 31) - 1  # more outputs than there are


class ContextTuning(ContextBase):
    """The settings of a context that may change during its life."""

    # LoRA: newer headers take the whole list at once, so the context keeps it.

    def setAdapterLora(self, ad: Adapter, scale: float = 1.0) -> int:
        """Add an adapter, or change its scale. Several add up. Returns 0.

        Maps to `llama_set_adapters_lora`, and to `llama_set_adapter_lora` of older headers.
        """
        self._check_adapter(ad, scale)
        self._set_adapters({**self._adapters, ad: scale})
        return 0

    def _check_adapter(self, ad: Adapter, scale: float) -> None:
        if not isinstance(ad, Adapter):
            raise expected("an Adapter", ad, "Adapter.loraInit(model, path) makes one")
        if ad._model is not self._model:
            raise ValueError("this adapter was loaded for another model: load it for the model of the context")
        if isinstance(scale, str) or not hasattr(scale, "__float__"):
            raise TypeError(f"scale is a number, not {scale!r}")
        if not abs(float(scale)) <= FLOAT_MAX:
            raise ValueError(f"scale must be finite, got {scale}")
        ad._c  # noqa: B018  raises for a freed one

    def removeAdapterLora(self, ad: Adapter) -> int:
        """Take an adapter away. Returns 0, or -1 if it was not there.

        Maps to `llama_set_adapters_lora`, and to `llama_rm_adapter_lora` of older headers.
        """
        if ad not in self._adapters:
            return -1
        self._set_adapters({other: scale for other, scale in self._adapters.items() if other is not ad})
        return 0

    def clearAdapterLora(self) -> None:
        """Take all adapters away.

        Maps to `llama_set_adapters_lora`, and to `llama_clear_adapter_lora` of older headers.
        """
        self._set_adapters({})

    def setAdaptersLora(self, adapters: Sequence[Adapter], scales: Sequence[float] | None = None) -> int:
        """Use these adapters and no others, each with its scale (None: 1.0 for all). Returns 0.

        Maps to `llama_set_adapters_lora`.
        """
        chosen = [1.0] * len(adapters) if scales is None else list(scales)
        if len(chosen) != len(adapters):
            raise ValueError(f"there are {len(adapters)} adapters, but {len(chosen)} scales")
        for ad, scale in zip(adapters, chosen, strict=True):
            self._check_adapter(ad, scale)
        if len(set(adapters)) < len(adapters):
            raise ValueError("an adapter is there twice: name it once, with the sum of its scales")
        self._set_adapters(dict(zip(adapters, chosen, strict=True)))
        return 0

    def _set_adapters(self, adapters: dict[Adapter, float]) -> None:
        with ExitStack() as stack:  # none of them is freed before it knows that this context uses it
            pointers = ffi.new(
                "struct llama_adapter_lora *[]", [stack.enter_context(ad._exclusive()) for ad in adapters]
            )
            scales = ffi.new("float[]", list(adapters.values()))
            code = self._run(lib.llama_set_adapters_lora, pointers, len(adapters), scales)
            if code != 0:
                raise NativeError(
                    f"llama_set_adapters_lora returned {code}", operation="llama_set_adapters_lora", code=code
                )
            self._adapters = adapters
            self._memory._changed()  # what it holds was computed without them
            for ad in adapters:
                ad._users.add(self)

    def setAdapterCvec(
        self, data: Any, len: int | None = None, nEmbd: int = 0, ilStart: int = 1, ilEnd: int = -1
    ) -> int:
        """Apply a control vector, or with `data` None take it away. Returns 0.

        `data` is a buffer of floats: a row of `nEmbd` (0: the model's) for each layer from layer 1 on. The layers from
        `ilStart` to `ilEnd` (-1: the last) are changed, both included.

        Maps to `llama_set_adapter_cvec`.
        """
        n_embd, last = self._model.nEmbd, self._model.nLayer - 1
        if nEmbd not in (0, n_embd):
            raise ValueError(f"nEmbd is {nEmbd}, but the model's embeddings have {n_embd} floats")
        end = last if ilEnd == -1 else ilEnd
        array, n = ffi.NULL, 0
        if data is not None:
            array, n = read_buffer(data, "float", len, "data", "len")
            if not n or n % n_embd or n // n_embd > last:
                raise ValueError(
                    f"data has {n} floats, and the vector takes 1 to {last} whole rows of {n_embd}; None takes it away"
                )
            if not all(map(math.isfinite, ffi.unpack(array, n))):
                raise ValueError("data holds a number that is not finite")
            if not 1 <= ilStart <= end <= last:
                raise ValueError(
                    f"ilStart and ilEnd are layers from 1 to {last}, in this order, not {ilStart} and {ilEnd}"
                )
        code: int = self._run(lib.llama_set_adapter_cvec, array, n, n_embd, ilStart, end)
        if code != 0:
            raise NativeError(f"llama_set_adapter_cvec returned {code}", operation="llama_set_adapter_cvec", code=code)
        self._memory._changed()
        return code

    # Threads

    @property
    def nThreads(self) -> int:
        """How many threads compute a batch of one token.

        Maps to `llama_n_threads`.
        """
        return lib.llama_n_threads(self._c)

    @property
    def nThreadsBatch(self) -> int:
        """How many threads compute a larger batch.

        Maps to `llama_n_threads_batch`.
        """
        return lib.llama_n_threads_batch(self._c)

    def setNThreads(self, nThreads: int, nThreadsBatch: int | None = None) -> None:
        """Change the numbers of threads, each from 1 to 512.

        Maps to `llama_set_n_threads`.
        """
        batch = nThreads if nThreadsBatch is None else nThreadsBatch
        for name, n in (("nThreads", nThreads), ("nThreadsBatch", batch)):
            if not 1 <= n <= lib.GGML_MAX_N_THREADS:
                raise out_of_range(name, n, 1, lib.GGML_MAX_N_THREADS)
            check_threads(name, n)
        self._check_pools(nThreads, batch)
        self._run(lib.llama_set_n_threads, nThreads, batch)

    def attachThreadpool(self, tp: Threadpool, tpBatch: Threadpool | None = None) -> None:
        """Compute on threads of a pool: `tp` for single tokens, `tpBatch` (None: the same) for larger batches.

        A pool serves one context at a time, and must have as many threads as the context uses.

        Maps to `llama_attach_threadpool`.
        """
        pools = tp, tp if tpBatch is None else tpBatch
        for pool in pools:
            if not isinstance(pool, Threadpool):
                raise expected("a Ggml.Threadpool", pool, "Ggml.Threadpool(n) makes one")
        self._check_pools(self.nThreads, self.nThreadsBatch, pools)

        def attach(context: Any) -> None:
            for pool in pools:
                self._kept += pool._attach(self)
            lib.llama_attach_threadpool(context, tp._c, null_if_none(tpBatch and tpBatch._c))
            for pool in self._pools or ():
                if pool not in pools:
                    pool._detach(self)
            self._pools = pools

        self._run(attach)

    def detachThreadpool(self) -> None:
        """Compute on threads of the context's own again. The pool may be freed, and is gone with the context.

        Maps to `llama_detach_threadpool`.
        """

        def detach(context: Any) -> None:
            lib.llama_detach_threadpool(context)
            for pool in self._pools or ():
                pool._detach(self)
            self._pools = None

        self._run(detach)

    def _check_pools(self, n: int, n_batch: int, pools: tuple[Threadpool, Threadpool] | None = None) -> None:
        for pool, threads, name in zip(
            pools or self._pools or (), (n, n_batch), ("nThreads", "nThreadsBatch"), strict=False
        ):
            if pool.nThreads < threads:
                raise ValueError(
                    f"the thread pool has {pool.nThreads} threads, but the context's {name} is {threads}: "
                    "call setNThreads first, or make a larger pool"
                )

    # Attention, outputs

    def setEmbeddings(self, embeddings: bool) -> None:
        """Whether the outputs have embeddings.

        Maps to `llama_set_embeddings`.
        """
        limits = self._limits
        if embeddings and lib.llama_pooling_type(self._c) == PoolingType.MEAN:
            check_pooled(limits.n_ubatch, self._nSeqMax, limits.n_outputs)
        self._reserve_outputs(_ANY)  # the layout of the output buffer changes
        limits.reserved = 0
        self._run(lib.llama_set_embeddings, bool(embeddings))
        limits.embeds = bool(embeddings)

    def setCausalAttn(self, causalAttn: bool) -> None:
        """Whether a token sees only those before it. Without that, a batch may have at most nUbatch tokens.

        Maps to `llama_set_causal_attn`.
        """
        self._run(lib.llama_set_causal_attn, bool(causalAttn))
        self._limits.causal = bool(causalAttn)
        self._memory._changed()

    def getCausalAttn(self) -> bool:
        """Whether a token sees only those before it.

        Maps to `llama_get_causal_attn`.
        """
        if not has("llama_get_causal_attn"):
            return bool(self._limits.causal)
        return lib.llama_get_causal_attn(self._c)

    def setWarmup(self, warmup: bool) -> None:
        """Whether a decode only touches every weight, to load them. Deprecated: warns so, with the header's own hint.

        Maps to `llama_set_warmup`.
        """
        self._run(lib.llama_set_warmup, bool(warmup))

    def synchronize(self) -> None:
        """Wait until everything is computed. Reading an output does so by itself.

        Maps to `llama_synchronize`.
        """
        self._run(lib.llama_synchronize)

    def setAbortCallback(self, abortCallback: Callable[[], bool] | None) -> None:
        """Have a function asked during computations whether to stop; None takes it away.

        It is asked for every node of the graph, and its exceptions reach the caller of `decode`. Works on the CPU.

        Maps to `llama_set_abort_callback`.
        """
        function, data, kept = abort_pointers(abortCallback, None, self._stop)
        self._run(lib.llama_set_abort_callback, function, data)
        self._abort = kept
