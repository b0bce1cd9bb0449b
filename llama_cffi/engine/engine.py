"""Many requests at once over one context, each with its own sampler, as they come and go."""

from __future__ import annotations

import importlib.util
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi
from llama_cffi._host.resources import usable_cpus
from llama_cffi.context.context import Context
from llama_cffi.engine.cell_pool import ENDLESS
from llama_cffi.engine.job import Job, claim, release
from llama_cffi.engine.request import Request, RequestUsage
from llama_cffi.engine.scheduler import EngineLoad, Loop
from llama_cffi.errors import BusyError, ClosedError, ContextFullError, ForkError
from llama_cffi.generation.steps import defaultSampler
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import tokenize

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Engine", "EngineLoad", "Request", "RequestUsage"]

_MOST = (1 << 31) - 1
_NO_TEXT = "an engine is for models that write a text from its beginning to its end, with a decoder alone"
_engines: weakref.WeakSet[Engine]


class Engine:
    """Runs many requests at once with one model: a context of its own, and one thread that decodes for all of them::

        with Engine(model) as engine:
            requests = [engine.submit(prompt, maxTokens=100) for prompt in prompts]
            for request in requests:
                print(request.result())

    Requests join and leave at any step. Each step decodes one token for every request that generates, and with them
    the prompts of new ones. What a prompt shares with that of another request, or of an earlier one whose cells were
    not needed since, is not decoded again. All methods may be called from any thread.
    """

    def __init__(
        self,
        model: Model,
        *,
        nCtx: int = 4096,
        nSeqMax: int = 16,
        nBatch: int = 512,
        nThreads: int | None = None,
        keepPrefixes: bool = True,
        params: Context.Params | None = None,
    ) -> None:
        """`nCtx` is the room for all requests together, in tokens; `nSeqMax` how many run at once, `nBatch` how many
        tokens a step decodes: a larger one reads prompts faster, and lets the others wait longer meanwhile. `nThreads`
        None takes every CPU that the process may use. `keepPrefixes` keeps what a request leaves in the memory until
        the room is needed. `params` are further parameters of the context, which the ones here are put into.

        Raises ValueError for a model that does not write text, and for parameters that cannot be; ContextError.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one")
        if params is not None and not isinstance(params, Context.Params):
            raise TypeError(f"params is a Context.Params, not {type(params).__name__}")
        if model.hasEncoder or model.isDiffusion:
            raise ValueError(_NO_TEXT)
        model.vocab._require_tokenizer()
        threads = nThreads if nThreads is not None else usable_cpus()
        context = Context.initFromModel(model, _params(params, nCtx, nSeqMax, nBatch, threads))
        if not context._limits.decodes:
            context.close()
            raise ValueError(_NO_TEXT)
        self._model = model
        self._nCtx = context.nCtx
        self._loop = Loop(context, context.nBatch, keepPrefixes)
        self._room = min(self._loop.load.nCells or ENDLESS, context._limits.n_pos or ENDLESS)
        _engines.add(self)
        self._loop.thread.start()

    @property
    def model(self) -> Model:
        """The model that all requests use."""
        return self._model

    @property
    def nCtx(self) -> int:
        """The room for all requests together, in tokens."""
        return self._nCtx

    @property
    def load(self) -> EngineLoad:
        """How many requests run and wait, and how much of the memory is used, after the last step."""
        return self._loop.load

    @property
    def closed(self) -> bool:
        """Whether it takes no requests any more."""
        return self._loop.closing is not None

    def submit(
        self,
        prompt: str | Sequence[Token],
        *,
        sampler: Sampler | None = None,
        maxTokens: int = 256,
        stop: Sequence[str] = (),
        stopTokens: Iterable[Token] = (),
        priority: int = 0,
        seed: int = DEFAULT_SEED,
        logProbs: int | None = None,
        special: bool = False,
    ) -> Request:
        """Ask for a text. Returns at once; the request is an iterator over the text, and has methods to wait for it.

        `prompt` is a text, or its tokens: `tokenize(vocab, text, parseSpecial=True)` where it holds control tokens.
        `sampler` belongs to this request until that ends, and is reset first; None means `defaultSampler(seed=seed)`.
        `maxTokens` is the most that it may become. A request begins when the memory has room for all of that, so a
        smaller number lets more of them run at once. `stop` lists strings that end the text before them, `stopTokens`
        tokens that do; `special` spells control tokens out. Requests of a higher `priority` begin first, and their
        prompts are decoded first; but no more than 32 later requests go before one that waits. `logProbs` asks for the
        probabilities of each step, and of so many alternatives: see `Request.steps`.

        Raises ContextFullError for a request that the context has no room for, even alone; ValueError, TypeError for
        what cannot be; ClosedError. What goes wrong later is raised by the request.
        """
        if self._loop.closing is not None:
            self._loop.refuse()
        model = self._model
        tokens = _read(model, prompt)
        most = integer(maxTokens, 1, _MOST, "maxTokens")
        if len(tokens) + most - 1 > self._room:
            raise ContextFullError(
                f"a prompt of {len(tokens)} tokens and maxTokens {most} need room for {len(tokens) + most - 1} tokens, "
                f"and there is room for {self._room}: shorten the prompt, lower maxTokens, or raise nCtx of the engine"
            )
        integer(priority, -_MOST, _MOST, "priority")
        if logProbs is not None:
            integer(logProbs, 0, model.vocab.nTokens, "logProbs")
            if importlib.util.find_spec("numpy") is None:
                raise ImportError("logProbs needs numpy: pip install 'llama-cffi[numpy]'")
        stream = TextStream(model.vocab, stop, special)
        ends = [integer(token, 0, model.vocab.nTokens - 1, "a token of stopTokens") for token in stopTokens]
        chosen = _sampler(sampler, seed)
        request = Request(tokens, priority, self._loop.poke, self)
        job = Job(request, chosen, sampler is None, stream, most, ends, logProbs)
        try:
            self._loop.submit(job)
        except BaseException:
            job.letGo()
            raise
        return request

    # The end

    def close(self) -> None:
        """End the thread, and free the context. Closing twice is harmless.

        On the CPU, a step that is being computed is stopped. Requests that have not ended raise ClosedError at their
        consumers, after the text that there is. Raises BusyError on the engine's own thread: in a sampler or another
        callback.
        """
        if self._loop.thread is threading.current_thread():
            raise BusyError("the engine cannot be closed by a sampler or a callback that runs inside it")
        self._loop.stop(ClosedError("this engine cannot be used: it was closed"))
        if not isinstance(self._loop.closing, ForkError):
            self._loop.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is not None:
            loop.stop(ClosedError("this engine cannot be used: it was collected"))

    def __repr__(self) -> str:
        if self.closed:
            return "<Engine closed>"
        return f"<Engine {self.load.running} running, {self.load.waiting} waiting>"


def _params(given: Context.Params | None, nCtx: int, nSeqMax: int, nBatch: int, nThreads: int) -> Context.Params:
    """A copy with what an engine needs."""
    params = Context.Params()
    if given is not None:
        if given.embeddings:
            raise ValueError("an engine writes text: leave params.embeddings at False")
        if given._keep.get("samplers"):
            raise ValueError("each request of an engine has its own sampler: leave params.samplers empty")
        ffi.memmove(params._c, given._c, ffi.sizeof(params._c[0]))
        params._keep.update(given._keep)
    params.nCtx, params.nSeqMax, params.nBatch = nCtx, nSeqMax, nBatch
    params.nThreads = params.nThreadsBatch = nThreads
    params.kvUnified = True  # sequences share cells
    if has("llama_context_params.n_outputs_max"):
        params.nOutputsMax = nSeqMax
    return params


def _read(model: Model, prompt: str | Sequence[Token]) -> list[Token]:
    vocab = model.vocab
    if isinstance(prompt, str):
        tokens = tokenize(vocab, prompt)
    elif isinstance(prompt, (bytes, bytearray)):
        raise TypeError("prompt is a str or a list of tokens, not bytes: decode them first")
    else:
        tokens = [integer(token, 0, vocab.nTokens - 1, "a token of the prompt") for token in prompt]
    if not tokens:
        raise ValueError(
            "the prompt is empty, and this model adds no token that begins a text: pass at least a word or a token"
        )
    return tokens


def _sampler(sampler: Sampler | None, seed: int) -> Sampler:
    """The sampler of a request, which nobody else has."""
    if sampler is None:
        chosen = defaultSampler(seed=seed)
    elif not isinstance(sampler, Sampler):
        raise TypeError(f"sampler is a Sampler, not {type(sampler).__name__}: defaultSampler() makes one")
    elif seed != DEFAULT_SEED:
        raise ValueError("seed is for the default sampler: give the sampler its own, as Sampler.initDist(seed) does")
    elif sampler._chain is not None:
        raise ValueError("this sampler belongs to a chain: pass the chain, or the sampler's clone()")
    else:
        chosen = sampler
    claim(chosen)
    try:
        chosen.reset()
    except BaseException:
        release(chosen)
        raise
    return chosen


_engines = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine._loop.afterFork(
            ForkError(
                "this engine belongs to the parent process: make one after the fork, or start processes with spawn"
            )
        )


os.register_at_fork(after_in_child=_after_fork)
