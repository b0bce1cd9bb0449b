"""What an engine is besides its requests: its thread, its load, and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED, Token
from llama_cffi._core.checks import boolean, integer
from llama_cffi.engine.adapter_set import AdapterSet
from llama_cffi.engine.after_fork import watch
from llama_cffi.engine.arguments import chosen_sampler, most_cells, require_room, seconds
from llama_cffi.engine.job import Job
from llama_cffi.engine.request import Request
from llama_cffi.engine.scores import score_all
from llama_cffi.errors import BusyError, ClosedError, ForkError
from llama_cffi.generation.prefix import shown
from llama_cffi.generation.request_options import INT32_MAX, RequestOptions

if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import Self

    from llama_cffi.engine.load import EngineLoad, EngineTotals
    from llama_cffi.engine.memory_layout import MemoryLayout
    from llama_cffi.engine.scheduler import Scheduler
    from llama_cffi.engine.scores import Work
    from llama_cffi.generation.steps import GenerationStep
    from llama_cffi.model.adapter import Adapter
    from llama_cffi.model.model import Model
    from llama_cffi.sampling.sampler import Sampler

    R = TypeVar("R", bound=Request)


class EngineBase:
    """The thread of an engine. `Engine` submits requests to it."""

    def _begin(self, model: Model, layout: MemoryLayout, scheduler: Scheduler) -> None:
        context = layout.context
        self._model, self._scheduler = model, scheduler
        self._nCtx = context.nCtx if layout.fixed else max(context.nCtx, layout.nCtx)
        self._capacity = most_cells(context, layout)
        watch(scheduler)
        self._collected = scheduler.when_collected()
        self._collected.__enter__()  # before the thread runs: after Ctrl-C in between, nobody could end it
        scheduler.thread.start()

    @property
    def model(self) -> Model:
        """The model that all requests use."""
        return self._model

    @property
    def nCtx(self) -> int:
        """The size of the KV cache in tokens, for all requests together."""
        return self._nCtx

    @property
    def nSeqMax(self) -> int:
        """The number of requests that run at once."""
        return self._scheduler.nSeqMax

    @property
    def load(self) -> EngineLoad:
        """The number of running and waiting requests, and the use of the KV cache, after the last step."""
        return self._scheduler.load

    @property
    def closed(self) -> bool:
        """True if the engine takes no more requests."""
        return self._scheduler.closes

    @property
    def totals(self) -> EngineTotals:
        """What the engine has done so far, in numbers that only grow. Does not wait for a step."""
        return self._scheduler.totals

    def requests(self) -> list[Request]:
        """Return the requests that have not ended, in the order in which they were submitted. Does not wait for a step.

        See `id`, `state`, `prompt`, `tokens` and `seconds` of a request.
        """
        return [job.request for job in sorted(self._scheduler.jobs(), key=_serial)]

    # Requests

    def _score(
        self, work: Iterable[Work], priority: int = 0, adapters: Iterable[tuple[Adapter, float]] = ()
    ) -> Iterator[list[GenerationStep]]:
        loras = AdapterSet.check(self._model, adapters)

        def submit(tokens: list[Token], first: int) -> Request:
            self._scheduler.require_place()
            options = RequestOptions.check(self._model.vocab, tokens, 0, (), (), None, False, False, 0)
            options.scored_from = first
            return self._submit(Request, options, None, priority, DEFAULT_SEED, loras)

        return score_all(work, submit, 2 * self.nSeqMax)

    def _submit(
        self,
        kind: type[R],
        options: RequestOptions,
        sampler: Sampler | None,
        priority: int,
        seed: int,
        adapters: AdapterSet,
    ) -> R:
        require_room(len(options.prompt), options.max_tokens, self._capacity)
        # As an int: the engine's thread negates it, and minus an unsigned number of numpy is a large one.
        priority = integer(priority, -INT32_MAX, INT32_MAX, "priority")
        chosen = chosen_sampler(sampler, seed)
        request = kind(shown(options.prompt), priority, self._scheduler.notify, self)
        job = Job(request, options, chosen, sampler is None, self._capacity, self._scheduler.ahead, adapters)
        try:
            self._scheduler.submit(job)
        except BaseException:  # also Ctrl-C, after which nobody has the request
            if job.is_open:
                request.cancel()
            elif sampler is None:
                chosen.close()
            raise
        return request

    # The end

    def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """End the thread and free the context. Closing twice is harmless.

        On the CPU, a running step is interrupted. Requests that have not ended raise ClosedError where their text is
        waited for, after the text so far. With `drain`, the engine takes no more requests, but first completes those it
        has, for at most `timeout` seconds (None: without a limit). Raises BusyError on the engine's thread: in a
        sampler or another callback.
        """
        if self._scheduler.thread is threading.current_thread():
            raise BusyError("the engine cannot be closed by a sampler or a callback that runs inside it")
        limit = None if timeout is None else seconds(timeout)
        if boolean(drain, "drain"):
            self._scheduler.drain(limit)
        elif limit is not None:
            raise ValueError("timeout is for drain=True: without it, close does not wait for requests")
        self._scheduler.stop(ClosedError("this engine cannot be used: it was closed"))
        if not isinstance(self._scheduler.closing, ForkError):
            self._scheduler.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Engine closed>"
        load = self.load
        return f"<Engine nCtx={self._nCtx}, {load.running} running, {load.waiting} waiting, {self._model!r}>"


def _serial(job: Job) -> int:
    return job.serial
