"""Speculation in an engine: which requests of a step guess tokens, and how many, without holding up the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi.generation.speculation import Guesses, require_memory_that_goes_back, require_speculation

if TYPE_CHECKING:
    from typing import Literal

    from llama_cffi._core.base_types import Token
    from llama_cffi.context.context import Context
    from llama_cffi.engine.job import Job
    from llama_cffi.generation.pace import Cost
    from llama_cffi.generation.speculation import Speculation
    from llama_cffi.model.model import Model

FEW = 4  # with more requests, batches are full enough


class StepGuesses:
    """Plans the guesses of an engine's steps.

    A step has guesses only while at most 4 requests run and none of them reads its prompt. With other requests beside
    it, a request guesses no more than what makes the step 5 % longer.
    """

    __slots__ = ("_cost", "_has_streams", "_paused", "_room", "_watches")

    def __init__(self, context: Context, has_streams: bool, most: int, cost: Cost) -> None:
        """`most` is the number of tokens and outputs that a step can have."""
        self._room, self._has_streams, self._cost = min(most, context._limits.n_ubatch), has_streams, cost
        self._paused = False  # the next step has no guesses
        self._watches = False  # the duration of this step is noted

    def plan(self, jobs: list[Job], others: int) -> dict[Job, list[Token]]:
        """Return the guesses of each job in the next batch. `others` is how many requests run besides a single one."""
        self._watches = False
        if others >= FEW or all([job.guesses is None for job in jobs]) or not all([job.generates for job in jobs]):
            return {}
        self._watches = True
        if self._paused:
            self._paused = False
            return {}
        found, room = {}, self._room - len(jobs)
        for job in jobs:
            guesses = job.guess(room, others, self._room - len(jobs) - room)
            if guesses:
                found[job] = guesses
                room -= len(guesses)
        if self._has_streams and len(jobs) > 1:  # only what is equally long is computed together
            count = min(len(found.get(job, ())) for job in jobs)
            found = {job: guesses[:count] for job, guesses in found.items() if count}
        return found

    def pause(self) -> None:
        """Leave guesses out of the next step: there are not enough cells."""
        self._paused = True

    def took(self, tokens: int, seconds: float) -> None:
        """Note the seconds of a step of this many tokens."""
        if self._watches:
            self._cost.took(tokens, seconds)


def require_guesses(speculation: Speculation | None, model: Model) -> Speculation | None:
    """Return how the requests of an engine guess. Raises TypeError or ValueError if they cannot."""
    if speculation is None:
        return None
    require_speculation(speculation)._require_engine()
    require_memory_that_goes_back(model)
    return speculation


def guesses_of(
    speculation: Speculation | Literal[False] | None, default: Speculation | None, model: Model, cost: Cost
) -> Guesses | None:
    """Return the guesses of a request. `speculation` None is the engine's, False none."""
    chosen = None if speculation is False else require_guesses(speculation, model) or default
    return None if chosen is None else Guesses(chosen, chosen._start_in_engine(model.vocab), cost)
