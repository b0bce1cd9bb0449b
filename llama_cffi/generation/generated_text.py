"""What `Generation` and `Request` have in common, so that code can take either."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol

from llama_cffi._core.base_types import Token
from llama_cffi.generation.steps import GenerationStep, StopReason, Usage


class GeneratedText(Protocol):
    """A text that a model writes. Iterate over its pieces with `for` or `async for`, or wait for all of it."""

    @property
    def prompt(self) -> list[Token]:
        """The tokens of the prompt."""
        ...

    @property
    def text(self) -> str:
        """The text so far."""
        ...

    @property
    def tokens(self) -> list[Token]:
        """The tokens so far, without the one that ended the text."""
        ...

    @property
    def promptLogProbs(self) -> list[GenerationStep | None]:
        """With `promptLogProbs`: a step for each token of the prompt. None for the first; empty otherwise."""
        ...

    @property
    def stopReason(self) -> StopReason | None:
        """Why the text ended. None before that, and if an exception ended it."""
        ...

    @property
    def stopString(self) -> str | None:
        """The one of `stop` that ended the text."""
        ...

    @property
    def stopToken(self) -> Token | None:
        """The token that ended the text: an end-of-generation token, or one of `stopTokens`."""
        ...

    @property
    def usage(self) -> Usage:
        """Counts and times, up to date at any time."""
        ...

    @property
    def done(self) -> bool:
        """True if the text has ended, for whatever reason."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Iterate over the pieces of the text."""
        ...

    def __aiter__(self) -> Any:
        """The same for `async for`."""
        ...

    def __await__(self) -> Generator[Any, None, str]:
        """Wait for the whole text."""
        ...

    def steps(self) -> Iterator[GenerationStep]:
        """Iterate over tokens instead, with `for` or `async for`."""
        ...

    def result(self) -> str:
        """Wait for the whole text."""
        ...

    def cancel(self) -> None:
        """Stop before the next token. Can be called from any thread."""
        ...
