"""Limits of the server: sizes, times, and how many requests it holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """What the server accepts. A request above a limit is refused with an error that names the limit."""

    maxBody: int = 8 << 20
    """Bytes of a request's body (413 above it)."""
    maxPrompt: int | None = None
    """Tokens of a prompt (400 above it); None: what fits the KV cache."""
    maxTokens: int | None = None
    """The most tokens that a request may ask for, and the default where it names none; None: what fits the cache."""
    maxChoices: int = 16
    """`n` and `best_of` of a request, and the prompts of a request multiplied by them (400 above it)."""
    maxInputs: int = 2048
    """Texts of a request for embeddings, and documents of a request to rerank (400 above it)."""
    maxWaiting: int = 64
    """Texts of a model that wait for a sequence, beside those that run (429 above it)."""
    maxRequests: int = 512
    """Requests that are open at once, for all models together (429 above it). Streams count until they are sent."""
    seconds: float = 600.0
    """The time of a request, from its head to the last byte of the answer (504 above it)."""
    bodySeconds: float = 30.0
    """The time in which the body of a request must arrive (408 above it)."""


@dataclass(frozen=True)
class Settings:
    """How an application behaves; the parameters of `create_app`."""

    limits: Limits = field(default_factory=Limits)
    api_keys: tuple[bytes, ...] = ()
    strict: bool = False
    page: bool = True
    allowed_hosts: frozenset[str] = frozenset()
