"""What is remembered of a request for the access log and the metrics."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.generation.steps import Usage


@dataclass
class Record:
    """A request, from its head to the end of its answer."""

    method: str
    path: str
    client: str
    route: str  # the path for metrics
    id: str = field(default_factory=lambda: f"req_{uuid.uuid4().hex}")
    model: str | None = None
    status: int = 0
    error: str | None = None
    gone: bool = False
    sent: int = 0
    stream: bool = False
    named_events: bool = False  # /v1/responses names its events
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    embedded_tokens: int = 0
    started: float = field(default_factory=perf_counter)
    time: float = field(default_factory=time)
    first: float | None = None

    def first_byte(self) -> None:
        """Note the time of the first piece of the answer."""
        if self.first is None:
            self.first = perf_counter()

    def count(self, usage: Usage) -> None:
        """Add the tokens of a text."""
        self.prompt_tokens += usage.promptTokens
        self.cached_tokens += usage.reusedTokens
        self.generated_tokens += usage.generatedTokens
