"""How busy an engine is, and what it has done so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.engine.request import Request
    from llama_cffi.generation.steps import StopReason


@dataclass(frozen=True)
class EngineLoad:
    """How busy an engine is."""

    running: int
    """Requests that have a sequence."""
    waiting: int
    """Requests in the queue."""
    nCells: int | None
    """Capacity of the KV cache in tokens; None for a memory that does not grow with the text."""
    usedCells: int
    """Cells in use by running requests."""
    keptCells: int
    """Cells kept for later requests with the same prefix."""


@dataclass(frozen=True)
class EngineTotals:
    """What an engine has done since it was made. The numbers only grow, as counters of Prometheus do."""

    ended: dict[str, int]
    """Requests that have ended, by the value of their `stopReason`; "error" counts those that an exception ended."""
    promptTokens: int
    """Tokens of the prompts that the engine has begun with, including the reused ones."""
    reusedTokens: int
    """Tokens of these prompts that were in the KV cache already."""
    generatedTokens: int
    """Generated tokens, also of requests that still run."""
    steps: int
    """Batches that were decoded."""
    seconds: float
    """Seconds that the engine has computed: decoding, and sampling in C."""
    tokensFromDisk: int = 0
    """Reused tokens that were read from a prompt cache on disk."""


class Counters:
    """The numbers of `EngineTotals` but for the tokens of open requests. The scheduler's lock guards `ended`."""

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}
        self.prompt = self.reused = self.generated = self.steps = self.from_disk = 0
        self.seconds = 0.0

    def step(self, seconds: float) -> None:
        """Count a batch."""
        self.steps += 1
        self.seconds += seconds

    def begin(self, request: Request) -> None:
        """Count the prompt of a request. Once, even if the request is preempted and begins again."""
        if not request._begun:
            request._begun = True
            self.prompt += len(request.prompt)
            self.reused += request.usage.reusedTokens
            self.from_disk += request.usage.tokensFromDisk

    def end(self, request: Request, reason: StopReason | None) -> None:
        """Count a request that ends now."""
        name = "error" if reason is None else reason.value
        self.ended[name] = self.ended.get(name, 0) + 1
        self.generated += request.usage.generatedTokens

    def totals(self, generated: int) -> EngineTotals:
        """The numbers so far, with the tokens of open requests."""
        ended, generated = dict(self.ended), self.generated + generated
        return EngineTotals(ended, self.prompt, self.reused, generated, self.steps, self.seconds, self.from_disk)
