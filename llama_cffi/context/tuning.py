"""Settings of a context that can change: adapters, control vectors, threads, attention, outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_cffi._core.arguments import read_buffer
from llama_cffi._core.callbacks import abort_pointers
from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._core.structs import FLOAT_MAX
from llama_cffi._generated import enums
from llama_cffi._host.resources import check_threads, cpu_limits
from llama_cffi.context.base import ContextBase, null_if_none
from llama_cffi.context.checks import check_pooled
from llama_cffi.context.params import ContextParams
from llama_cffi.errors import NativeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.ggml.threadpool import Threadpool
    from llama_cffi.model.adapter import Adapter

_ALL_OUTPUTS = (1 << 31) - 1  # more than there are


class ContextTuning(ContextBase):
    """The settings of a context that can change during its life."""

    # LoRA: llama.cpp takes the whole list at once, so the context keeps it.

    def setAdapterLora(self, ad: Adapter, scale: float = 1.0) -> int:
        """Add an adapter, or change its scale. The effects of several adapters add up. Returns 0.

        Maps to `llama_set_adapters_lora`, and to `llama_set_adapter_lora` of older headers.
        """
        self._check_adapter(ad, scale)
        self._set_adapters({**self._adapters, ad: scale})
        return 0

    def _check_adapter(self, ad: Adapter, scale: float) -> None:
        from llama_cffi.model.adapter import require_usable

        require_usable(self._model, ad, scale)

    def removeAdapterLora(self, ad: Adapter) -> int:
        """Remove an adapter. Returns 0, or -1 if it is not in use.

        Maps to `llama_set_adapters_lora`, and to `llama_rm_adapter_lora` of older headers.
        """
        if ad not in self._adapters:
            return -1
        self._set_adapters({other: scale for other, scale in self._adapters.items() if other is not ad})
        return 0

    def clearAdapterLora(self) -> None:
        """Remove all adapters.

        Maps to `llama_set_adapters_lora`, and to `llama_clear_adapter_lora` of older headers.
        """
        self._set_adapters({})

    def setAdaptersLora(self, adapters: Sequence[Adapter], scales: Sequence[float] | None = None) -> int:
        """Use exactly these adapters, each with its scale (None: 1.0 for all). Returns 0.

        Maps to `llama_set_adapters_lora`.
        """
        chosen = [1.0] * len(adapters) if scales is None else list(scales)
        if len(chosen) != len(adapters):
            raise ValueError(f"scales must have {len(adapters)} items, one per adapter, got {len(chosen)}")
        for ad, scale in zip(adapters, chosen, strict=True):
            self._check_adapter(ad, scale)
        if len(set(adapters)) < len(adapters):
            raise ValueError("an adapter is given twice: pass it once, with the sum of its scales")
        self._set_adapters(dict(zip(adapters, chosen, strict=True)))
        return 0

    def _set_adapters(self, adapters: dict[Adapter, float]) -> None:
        with exclusive(*adapters):  # so that no adapter is freed before it knows that this context uses it
            pointers = ffi.new("struct llama_adapter_lora *[]", [ad._c for ad in adapters])
            scales = ffi.new("float[]", list(adapters.values()))
            for ad in adapters:  # first: one that is freed is removed from all contexts that might use it
                ad._users.add(self)
            self._memory._changed()  # the KV cache was computed with other adapters
            code = self._run(lib.llama_set_adapters_lora, pointers, len(adapters), scales)
            if code != 0:
                raise NativeError(
                    f"llama_set_adapters_lora returned {code}", operation="llama_set_adapters_lora", code=code
                )
            self._adapters = adapters
            self._memory._changed()

    def setAdapterCvec(
        self, data: Any, len: int | None = None, nEmbd: int = 0, ilStart: int = 1, ilEnd: int = -1
    ) -> int:
        """Apply a control vector to layers `ilStart` to `ilEnd` (-1: the last), inclusive; `data` None removes it.

        `data` is a buffer of floats: a row of `nEmbd` (0: the model's) for each layer from layer 1 on. Returns 0.

        Maps to `llama_set_adapter_cvec`.
        """
        n_embd, last = self._model.nEmbd, self._model.nLayer - 1
        if nEmbd not in (0, n_embd):
            raise ValueError(f"nEmbd must be {n_embd} for this model, got {nEmbd}: 0 means the model's")
        end = last if ilEnd == -1 else ilEnd
        array, n = ffi.NULL, 0
        if data is not None:
            array, n = read_buffer(data, "float", len, "data", "len")
            if not n or n % n_embd or n // n_embd > last:
                raise ValueError(
                    f"data must have 1 to {last} whole rows of {n_embd} floats, got {n} floats; None removes the vector"
                )
            if not all([abs(number) <= FLOAT_MAX for number in ffi.unpack(array, n)]):
                raise ValueError("data must be finite, and has NaN or infinity")
            if not 1 <= ilStart <= end <= last:
                raise ValueError(
                    f"ilStart and ilEnd must be layers between 1 and {last}, in order, got {ilStart} and {ilEnd}"
                )
        code: int = self._run(lib.llama_set_adapter_cvec, array, n, n_embd, ilStart, end)
        if code != 0:
            raise NativeError(f"llama_set_adapter_cvec returned {code}", operation="llama_set_adapter_cvec", code=code)
        self._steered = data is not None
        self._memory._changed()
        return code

    # Threads

    @property
    def nThreads(self) -> int:
        """Number of threads for a batch of one token, at present: `adaptThreads` changes it.

        Maps to `llama_n_threads`.
        """
        return lib.llama_n_threads(self._c)

    @property
    def nThreadsBatch(self) -> int:
        """Number of threads for larger batches, at present: `adaptThreads` changes it.

        Maps to `llama_n_threads_batch`.
        """
        return lib.llama_n_threads_batch(self._c)

    @property
    def adaptThreads(self) -> bool:
        """True if the context uses fewer threads while other programs need the CPUs; see `Context.Params`."""
        self._c  # noqa: B018  raises if the context was freed
        return bool(self._threads)

    def setNThreads(self, nThreads: int, nThreadsBatch: int | None = None, *, adaptThreads: bool = False) -> None:
        """Set the numbers of threads, each from 1 to 512; `nThreadsBatch` None means `nThreads`.

        With `adaptThreads`, the context uses fewer while other programs need the CPUs; see `Context.Params`.

        Maps to `llama_set_n_threads`.
        """
        adapts = boolean(adaptThreads, "adaptThreads")
        single = integer(nThreads, 1, lib.GGML_MAX_N_THREADS, "nThreads")
        batch = single if nThreadsBatch is None else integer(nThreadsBatch, 1, lib.GGML_MAX_N_THREADS, "nThreadsBatch")
        for name, n in (("nThreads", single), ("nThreadsBatch", batch)):
            check_threads(name, n)
        self._check_pools(single, batch)

        def set_threads(context: Any) -> None:
            lib.llama_set_n_threads(context, single, batch)
            self._threads = _adapting(single, batch) if adapts else ffi.NULL

        self._run(set_threads)

    def attachThreadpool(self, tp: Threadpool, tpBatch: Threadpool | None = None) -> None:
        """Compute on the threads of a pool: `tp` for single tokens, `tpBatch` (None: the same) for larger batches.

        A pool serves one context at a time and must have at least as many threads as the context uses: raises BusyError
        or ValueError otherwise. This turns `adaptThreads` off: the context uses all its threads again.

        Maps to `llama_attach_threadpool`.
        """
        from llama_cffi.ggml.threadpool import Threadpool

        pools = tp, tp if tpBatch is None else tpBatch
        for pool in pools:
            if not isinstance(pool, Threadpool):
                raise expected("a Ggml.Threadpool", pool, "Ggml.Threadpool(n) makes one")
        adapted = self._threads
        n, n_batch = (adapted.single, adapted.batch) if adapted else (self.nThreads, self.nThreadsBatch)
        self._check_pools(n, n_batch, pools)

        def attach(context: Any) -> None:
            for pool in pools:
                pool._attach(self)
            lib.llama_attach_threadpool(context, tp._c, null_if_none(tpBatch and tpBatch._c))
            for pool in self._pools or ():
                if pool not in pools:
                    pool._detach(self)
            self._pools = pools
            lib.llama_set_n_threads(context, n, n_batch)
            self._threads = ffi.NULL

        self._run(attach)

    def detachThreadpool(self) -> None:
        """Compute on the context's own threads again. The pool can then be freed.

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
                    f"the thread pool must have at least {threads} threads ({name}), got {pool.nThreads}: "
                    "call setNThreads first, or make a larger pool"
                )

    # Attention, outputs

    def setEmbeddings(self, embeddings: bool) -> None:
        """Set whether `decode` computes embeddings.

        Maps to `llama_set_embeddings`.
        """
        limits = self._limits
        if embeddings and lib.llama_pooling_type(self._c) == enums.PoolingType.MEAN:
            check_pooled(limits.n_ubatch, self._nSeqMax, limits.n_outputs)
        self._reserve_outputs(_ALL_OUTPUTS)  # the layout of the output buffer changes
        limits.reserved = 0
        self._run(lib.llama_set_embeddings, bool(embeddings))
        limits.embeds = bool(embeddings)

    def setCausalAttn(self, causalAttn: bool) -> None:
        """Turn causal attention on or off. Without it, tokens see later ones, and a batch has at most nUbatch tokens.

        Maps to `llama_set_causal_attn`.
        """
        self._run(lib.llama_set_causal_attn, bool(causalAttn))
        self._limits.causal = bool(causalAttn)
        self._memory._changed()

    def getCausalAttn(self) -> bool:
        """Return True if attention is causal: a token sees only those before it.

        Maps to `llama_get_causal_attn`.
        """
        if not has("llama_get_causal_attn"):
            return bool(self._limits.causal)
        return lib.llama_get_causal_attn(self._c)

    def setWarmup(self, warmup: bool) -> None:
        """Turn warm-up on or off: `decode` then uses all weights, to load them. Emits a DeprecationWarning.

        Maps to `llama_set_warmup`.
        """
        self._run(lib.llama_set_warmup, bool(warmup))

    def synchronize(self) -> None:
        """Wait until all computations are done. Reading outputs does so as well.

        Maps to `llama_synchronize`.
        """
        self._run(lib.llama_synchronize)

    def setAbortCallback(self, abortCallback: Callable[[], bool] | None) -> None:
        """Set a function that stops the computation by returning True; None removes it. CPU only.

        It is called for each node of the graph, and its exceptions reach the caller of `decode`.

        Maps to `llama_set_abort_callback`.
        """
        function, data, kept = abort_pointers(abortCallback, None, self._stop)
        self._run(lib.llama_set_abort_callback, function, data)
        self._abort = kept


def adapting_threads(params: ContextParams) -> Any:
    """The struct with which a new context adapts its threads; NULL if it does not."""
    return _adapting(params.nThreads, params.nThreadsBatch) if params.adaptThreads else ffi.NULL


def _adapting(n: int, n_batch: int) -> Any:
    state, limits = ffi.new("struct shim_threads *"), cpu_limits()
    lib.shim_threads_start(state, n, n_batch, limits.present if limits.allowed == limits.present else 0)
    return state
