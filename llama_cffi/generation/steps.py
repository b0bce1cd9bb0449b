"""What a generation yields and reports: its steps, why it stopped, and how much it computed."""

from __future__ import annotations

import enum

from llama_cffi._core.base_types import Token
from llama_cffi._suggest import SuggestingEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from llama_cffi._core.stand_ins import dataclass


_set = object.__setattr__  # frozen classes refuse their own


class StopReason(enum.Enum, metaclass=SuggestingEnum):
    """Why a generation stopped. The values are stable codes, for JSON."""

    END = "end"
    """The model ended the text, with an end-of-generation token."""
    STOP_STRING = "stop_string"
    """The text reached one of `stop`; `stopString` says which."""
    STOP_TOKEN = "stop_token"
    """The model produced one of `stopTokens`; `stopToken` says which."""
    LENGTH = "length"
    """The text has `maxTokens` tokens."""
    CONTEXT_FULL = "context_full"
    """The context window is full; `overflow="shift"` goes on."""
    CANCELLED = "cancelled"
    """`cancel` was called, the generation was closed, or Ctrl-C was pressed."""


@dataclass(frozen=True)
class Alternative:
    """A token that could have been picked, its text, and the natural logarithm of its probability."""

    token: Token
    text: str
    logProb: float

    def __init__(self, token: Token, text: str, logProb: float) -> None:
        _set(self, "token", token)
        _set(self, "text", text)
        _set(self, "logProb", logProb)


@dataclass(frozen=True)
class GenerationStep:
    """One token and the text it completed: "" if the text waits for the rest of a character or of a stop string.

    If text is left after the last token, one more step carries it, with `token` None.
    """

    token: Token | None
    text: str
    logProb: float | None = None
    """With `logProbs`: the natural logarithm of the token's probability, by the model's logits, before any sampler."""
    alternatives: tuple[Alternative, ...] = ()
    """The most probable tokens, best first: as many as `logProbs` says."""

    def __init__(
        self,
        token: Token | None,
        text: str,
        logProb: float | None = None,
        alternatives: tuple[Alternative, ...] = (),
    ) -> None:
        _set(self, "token", token)
        _set(self, "text", text)
        _set(self, "logProb", logProb)
        _set(self, "alternatives", alternatives)


@dataclass()
class Usage:
    """How many tokens a generation processed and how long it took. Time that your code spends is not counted."""

    promptTokens: int = 0
    """Tokens of the prompt, including the reused ones."""
    reusedTokens: int = 0
    """Tokens of the prompt that were in the KV cache already."""
    generatedTokens: int = 0
    """Generated tokens, without the one that ended the text."""
    promptSeconds: float = 0.0
    """Seconds from the start to the first token."""
    generationSeconds: float = 0.0
    """Seconds from the first token to the end."""
    checkpoints: int = 0
    """Checkpoints of the sequence: at most 8, for models whose memory cannot go back by itself."""
    checkpointBytes: int = 0
    """Memory that the checkpoints take, at most 512 MiB."""
    restoredTokens: int = 0
    """Reused tokens that would have been decoded again without a checkpoint."""
    guessedTokens: int = 0
    """With `speculation`: tokens that were guessed."""
    acceptedTokens: int = 0
    """Guessed tokens that became part of the text."""
    tokensFromDisk: int = 0
    """With `promptCache`: reused tokens that were read from disk."""

    def __init__(
        self,
        promptTokens: int = 0,
        reusedTokens: int = 0,
        generatedTokens: int = 0,
        promptSeconds: float = 0.0,
        generationSeconds: float = 0.0,
        checkpoints: int = 0,
        checkpointBytes: int = 0,
        restoredTokens: int = 0,
        guessedTokens: int = 0,
        acceptedTokens: int = 0,
        tokensFromDisk: int = 0,
    ) -> None:
        self.promptTokens = promptTokens
        self.reusedTokens = reusedTokens
        self.generatedTokens = generatedTokens
        self.promptSeconds = promptSeconds
        self.generationSeconds = generationSeconds
        self.checkpoints = checkpoints
        self.checkpointBytes = checkpointBytes
        self.restoredTokens = restoredTokens
        self.guessedTokens = guessedTokens
        self.acceptedTokens = acceptedTokens
        self.tokensFromDisk = tokensFromDisk
