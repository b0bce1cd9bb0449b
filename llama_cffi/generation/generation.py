"""Text that a model goes on with, piece by piece."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, cast

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, ContextFullError
from llama_cffi.generation.async_steps import AsyncSteps
from llama_cffi.generation.run import Run
from llama_cffi.generation.steps import GenerationStep, StopReason, Usage, defaultSampler
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.generation.token_cache import TokenCache, room_of
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from types import GeneratorType

    from typing_extensions import Self

_MOST = (1 << 31) - 1


class Generation(Iterator[str]):
    """An iterator over the text that a model goes on with after a prompt: a piece as soon as its characters are whole.

    `for text in Generation(ctx, "Once upon a time", maxTokens=100): print(text, end="", flush=True)`

    With `async for` the computing is done on a thread of its own. What the context's memory already holds of the prompt
    is not computed again. When the iterator ends, `stopReason` says why; `text`, `tokens` and `usage` are up to date
    at any time. Closing it, or letting go of it, cancels it.

    One thread at a time computes with a context; another one gets BusyError. Several generations may take turns in
    different sequences of a context; in the same sequence a new one ends the turn of the one before.
    """

    def __init__(
        self,
        ctx: Context,
        prompt: str | Sequence[Token],
        *,
        sampler: Sampler | None = None,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        stopTokens: Iterable[Token] = (),
        logProbs: int | None = None,
        overflow: Literal["stop", "shift"] = "stop",
        nKeep: int | None = None,
        seqId: SeqId = 0,
        special: bool = False,
    ) -> None:
        """Nothing is computed before the first text is asked for.

        `prompt` is a text, or its tokens: `tokenize(vocab, text, parseSpecial=True)` where it holds control tokens.
        `sampler` None means `defaultSampler()`; whichever it is, it is reset first. `maxTokens` None means until the
        model is done. `stop` lists strings that end the text before them, `stopTokens` tokens that do; `special` spells
        control tokens out. `logProbs` asks for the probabilities of each step and of so many alternatives; see `steps`.

        A prompt that does not fit the context raises ContextFullError. When the context becomes full later on, "stop"
        ends with StopReason.CONTEXT_FULL. "shift" forgets half of what stands after the first `nKeep` tokens (None: the
        token that begins a text, if there is one) and goes on, for ever unless `maxTokens` ends it.

        Raises ValueError and TypeError for what cannot be, NativeError for a model without a tokenizer.
        """
        _require_context(ctx)
        if sampler is not None and not isinstance(sampler, Sampler):
            raise TypeError(f"sampler is a Sampler, not {type(sampler).__name__}: defaultSampler() makes one")
        if overflow not in ("stop", "shift"):
            raise ValueError(f'overflow is "stop" or "shift", not {overflow!r}')
        if logProbs is not None and importlib.util.find_spec("numpy") is None:
            raise ImportError("logProbs needs numpy: pip install 'llama-cffi[numpy]'")
        model = ctx.getModel()
        vocab = model.vocab
        cache, stream = TokenCache(ctx, seqId), TextStream(vocab, stop, special)
        tokens = _prompt_tokens(vocab, prompt)
        room = _room(ctx, tokens)
        least = int(tokens[0] == vocab.bos) if nKeep is None else nKeep
        keep = integer(least, 0, _MOST if room is None else max(room - 2, 1), "nKeep", "the context holds no more")
        most = _MOST if maxTokens is None else integer(maxTokens, 1, _MOST, "maxTokens")
        odds = None if logProbs is None else integer(logProbs, 0, vocab.nTokens, "logProbs")
        stop_tokens = frozenset(integer(token, 0, vocab.nTokens - 1, "a token of stopTokens") for token in stopTokens)

        run = self._run = Run(ctx, cache, defaultSampler() if sampler is None else sampler, stream)
        run.owns_sampler = sampler is None
        run.prompt, run.room, run.keep = tokens, room, keep if overflow == "shift" else -1
        run.most, run.odds, run.stop_tokens = most, odds, stop_tokens
        self._steps = cast("GeneratorType[str, None, None]", run.steps())

    # About it

    @property
    def prompt(self) -> list[Token]:
        """The tokens of the prompt."""
        return list(self._run.prompt)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._run.texts)

    @property
    def tokens(self) -> list[Token]:
        """The tokens so far; the one that ended the generation is not among them."""
        return list(self._run.tokens)

    @property
    def stopReason(self) -> StopReason | None:
        """Why it stopped; None while it goes on, and where an exception ended it."""
        return self._run.reason

    @property
    def stopString(self) -> str | None:
        """The one of `stop` that ended the text."""
        return self._run.stream.stopped

    @property
    def stopToken(self) -> Token | None:
        """The token that ended it: one that ends every generation of this model, or one of `stopTokens`."""
        return self._run.stop_token

    @property
    def usage(self) -> Usage:
        """What it took so far."""
        run = self._run
        return Usage(len(run.prompt), run.reused, len(run.tokens), run.prompt_seconds, run.seconds)

    # Iterating

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        steps = self._steps
        if steps.gi_running:
            self._require_idle()
        for text in steps:
            if text:
                return text
        raise StopIteration

    def __aiter__(self) -> AsyncSteps[str]:
        return AsyncSteps(self, self.close)

    def steps(self) -> GenerationSteps:
        """The same as an iterator over tokens, each with its text and, where `logProbs` asks for it, probabilities.

        For `for` and `async for`.
        """
        return GenerationSteps(self)

    def _require_idle(self) -> None:
        if self._steps.gi_running:
            raise BusyError("this generation is at work on another thread: one thread at a time asks for its text")

    # Ending

    def cancel(self) -> None:
        """Have it stop, from any thread: before the next token, or in the middle of a long prompt (on the CPU; else at
        the end of the batch). The iterator then ends with StopReason.CANCELLED.
        """
        self._run.cancel()

    def close(self) -> None:
        """End it now, or, where another thread is at work with it, soon. Closing twice is harmless."""
        run = self._run
        run.cancel()
        if not self._steps.gi_running:
            if self._steps.gi_frame is not None:  # it has not come to an end by itself
                run.reason = run.reason or StopReason.CANCELLED
            self._steps.close()
            run.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        reason = self.stopReason
        return f"<Generation, {len(self._run.tokens)} tokens{f', stopped: {reason.value}' if reason else ''}>"


class GenerationSteps(Iterator[GenerationStep]):
    """The steps of a generation; `Generation.steps` makes it."""

    def __init__(self, generation: Generation) -> None:
        """Not for users: `generation.steps()` makes it."""
        self._generation = generation

    def __next__(self) -> GenerationStep:
        self._generation._require_idle()
        run = self._generation._run
        run.step = None
        text = next(self._generation._steps)
        return run.step or GenerationStep(run.tokens[-1], text)

    def __aiter__(self) -> AsyncSteps[GenerationStep]:
        return AsyncSteps(self, self._generation.close)


def _require_context(ctx: Context) -> None:
    """Refuse what generates no text."""
    if not isinstance(ctx, Context):
        raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
    model = ctx.getModel()
    if model.isDiffusion:
        raise ValueError("this model writes a whole text at once (diffusion), not token after token: use ctx.decode")
    if not ctx._limits.decodes:
        raise ValueError("this model has no decoder and generates no text: it gives embeddings")


def _prompt_tokens(vocab: Vocab, prompt: str | Sequence[Token]) -> list[Token]:
    if isinstance(prompt, (bytes, bytearray)):
        raise TypeError(f"prompt is a str or a list of tokens, not {type(prompt).__name__}: decode it")
    if isinstance(prompt, str):
        tokens = tokenize(vocab, prompt)
    elif isinstance(prompt, Iterable):
        tokens = [integer(token, 0, vocab.nTokens - 1, "a token of the prompt") for token in prompt]
    else:
        raise TypeError(f"prompt is a str or a list of tokens, not {type(prompt).__name__}")
    if not tokens:
        raise ValueError("the prompt is empty, and this model has no token that begins a text: pass at least a word")
    return tokens


def _room(ctx: Context, prompt: list[Token]) -> int | None:
    """How many tokens fit the sequence. Refuses a prompt that does not."""
    model, room = ctx.getModel(), room_of(ctx)
    if room is not None and len(prompt) > room and not model.hasEncoder:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens, and a sequence of the context takes {room}: shorten the prompt, or "
            f"raise Context.Params.nCtx (this model was trained for {model.nCtxTrain})"
        )
    return room
