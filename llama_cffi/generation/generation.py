"""Streaming text generation from a prompt, in one sequence of a context."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, ContextFullError
from llama_cffi.generation.default_sampler import defaultSampler
from llama_cffi.generation.overflow import check_overflow
from llama_cffi.generation.prefix import shown
from llama_cffi.generation.request_options import INT32_MAX, RequestOptions, require_sampler, with_media
from llama_cffi.generation.run import Run
from llama_cffi.generation.steps import GenerationStep, StopReason, Usage
from llama_cffi.generation.token_cache import TokenCache, context_capacity
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import GeneratorType
    from typing import Any, Literal, cast

    from typing_extensions import Self

    from llama_cffi._core.arguments import StrPath
    from llama_cffi.generation.async_steps import AsyncSteps
    from llama_cffi.generation.projector import MediaInput, Projector, PromptChunks
    from llama_cffi.generation.prompt_cache.cache import PromptCache
    from llama_cffi.generation.speculation import Speculation, SpeculativeDecoder
else:
    from llama_cffi._core.stand_ins import cast


class Generation(Iterator[str]):
    """Generates text after a prompt: an iterator over its pieces, each as soon as its characters are whole.

    `for text in Generation(ctx, "Once upon a time", maxTokens=100): print(text, end="", flush=True)`

    `result()` returns the whole text; `async for` and `await` compute on another thread. The prefix of the prompt that
    is in the context's KV cache already is not decoded again. `text`, `tokens` and `usage` are up to date at any time,
    and `stopReason` says why the text ended. Closing or dropping the generation cancels it.

    One thread at a time computes with a context; another one gets BusyError. Several generations can alternate in
    different sequences of a context; a new one in the same sequence ends the one before.
    """

    def __init__(
        self,
        ctx: Context,
        prompt: str | Sequence[Token] | PromptChunks,
        *,
        media: Sequence[MediaInput] = (),
        mtmd: Projector | None = None,
        sampler: Sampler | None = None,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        stopTokens: Iterable[Token] = (),
        logProbs: int | None = None,
        overflow: Literal["stop", "error", "shift"] = "stop",
        nKeep: int | None = None,
        seqId: SeqId = 0,
        special: bool = False,
        penalizePrompt: bool = True,
        promptLogProbs: int | None = None,
        speculation: Speculation | None = None,
        promptCache: PromptCache | StrPath | None = None,
    ) -> None:
        """Checks the arguments; nothing is computed before you ask for the first text.

        `prompt` is a text, or its tokens: use `tokenize(vocab, text, parseSpecial=True)` for control tokens. `sampler`
        is reset first; None means `defaultSampler()`. `maxTokens` None means until the model ends the text or the
        context window is full. `stop` lists strings that end the text before them, `stopTokens` tokens that do;
        `special` spells control tokens out. `logProbs` is the number of alternatives to report with each token's
        log-probability; see `steps`. `promptLogProbs` is the same for the tokens of the prompt: `promptLogProbs` of the
        generation has them when the prompt is decoded, and no prefix is reused. `maxTokens` 0 decodes the prompt alone.
        Penalties and DRY of the sampler count the tokens of the prompt too, as in llama-server, unless
        `penalizePrompt` is False; grammars and constraints start after the prompt. `speculation` guesses tokens and
        checks several in one decode: `PromptLookup()` or a `DraftModel`. The sampler still picks each token; in
        quantized models, larger batches are rounded differently. `promptCache` keeps long prompts on disk: a
        `PromptCache`, or its folder.

        `media` are images and sounds, for the markers in the text of `prompt` (`Mtmd.Context.getMarker`), in order:
        each an `Mtmd.Bitmap`, a path, the bytes of a file, an array of pixels or samples, or an image of Pillow. `mtmd`
        is the projector that encodes them; with it, `prompt` may be `Mtmd.Chunks`, too. What it encoded last (256 MiB)
        is kept, so that the same image is not encoded again. The context cannot shift with media in it.

        A prompt that does not fit the context window raises ContextFullError. If the window becomes full later,
        `overflow="stop"` (or "error") ends with StopReason.CONTEXT_FULL; "shift" discards half of the tokens after the
        first `nKeep` and goes on, without an end unless you set `maxTokens`. `nKeep` None keeps the BOS token, if the
        prompt starts with it.

        Raises ValueError and TypeError for wrong arguments, NativeError for a model without a tokenizer.
        """
        _require_context(ctx)
        chosen = None if sampler is None else require_sampler(sampler)
        check_overflow(overflow, ("stop", "error", "shift"))
        model = ctx.getModel()
        cache = TokenCache(ctx, seqId)
        text = with_media(prompt, media, mtmd, ctx._limits, model)
        options = RequestOptions.check(
            model.vocab, text, maxTokens, stop, stopTokens, logProbs, special, penalizePrompt, promptLogProbs
        )
        if promptLogProbs is not None:
            _require_scores(ctx)
        if options.media is not None and overflow == "shift":
            raise ValueError('overflow="shift" is for prompts of text alone: a context cannot shift images and sounds')
        options.penalizes_prompt &= not model.hasEncoder  # its prompt is not part of the text that the decoder writes
        guesses = None if speculation is None else _speculate(speculation, ctx, cache)
        tokens = options.prompt
        capacity = _capacity_for(ctx, tokens)
        least = int(tokens[0] == model.vocab.bos) if nKeep is None else nKeep
        most = INT32_MAX if capacity is None else max(capacity - 2, 1)
        keep = integer(least, 0, most, "nKeep", "the context holds no more")

        # `Run` checks the capacity itself: an encoder's prompt takes no cells, and a context shift frees some.
        run = self._run = Run(ctx, cache, chosen or defaultSampler(), options.stop_rules(None))
        run.owns_sampler = chosen is None
        run.prompt, run.capacity, run.keep = tokens, capacity, keep if overflow == "shift" else -1
        run.log_probs, run.prompt_log_probs = options.log_probs, options.prompt_log_probs
        run.start_sampler, run.speculation = options.start, guesses
        if promptCache is not None:
            from llama_cffi.generation.prompt_cache.sequence import StoredSequence

            run.stored = StoredSequence(promptCache, ctx, cache, seqId)
        self._steps = cast("GeneratorType[str, None, None]", run.steps())

    # State

    @property
    def prompt(self) -> list[Token]:
        """The tokens of the prompt; TOKEN_NULL for each token of an image or a sound."""
        return shown(self._run.prompt)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._run.texts)

    @property
    def tokens(self) -> list[Token]:
        """The tokens so far, without the one that ended the text."""
        return list(self._run.rules.tokens)

    @property
    def promptLogProbs(self) -> list[GenerationStep | None]:
        """With `promptLogProbs`: a step for each token of the prompt, as far as it is decoded, with its text,
        log-probability and alternatives. None for the first token, which nothing precedes. Empty otherwise.
        """
        return list(self._run.prompt_steps)

    @property
    def stopReason(self) -> StopReason | None:
        """Why the text ended. None before that, and if an exception ended it."""
        return self._run.rules.reason

    @property
    def stopString(self) -> str | None:
        """The one of `stop` that ended the text."""
        return self._run.rules.stop_string

    @property
    def stopToken(self) -> Token | None:
        """The token that ended the text: an end-of-generation token, or one of `stopTokens`."""
        return self._run.rules.stop_token

    @property
    def usage(self) -> Usage:
        """Counts and times so far."""
        run = self._run
        usage = Usage(len(run.prompt), run.reused, len(run.rules.tokens), run.prompt_seconds, run.seconds)
        if run.speculation is not None:
            guesses = run.speculation.guesses
            usage.guessedTokens, usage.acceptedTokens = guesses.guessed, guesses.accepted
        kept = run.cache.contents.checkpoints
        if kept is not None:
            usage.checkpoints, usage.checkpointBytes, usage.restoredTokens = len(kept), kept.size, run.restored
        usage.tokensFromDisk = run.from_disk
        return usage

    @property
    def done(self) -> bool:
        """True if the text has ended, for whatever reason."""
        return self._steps.gi_frame is None

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
        from llama_cffi.generation.async_steps import AsyncSteps

        return AsyncSteps(self, self.close)

    def steps(self) -> GenerationSteps:
        """Iterate over tokens instead, each with its text and, with `logProbs`, its log-probability and alternatives.

        For `for` and `async for`.
        """
        return GenerationSteps(self)

    def result(self) -> str:
        """Compute the rest and return the whole text, including what you have iterated over already.

        After `cancel` or `close`: the text until then. Raises what iterating would raise; RuntimeError if an exception
        ended this generation before.
        """
        for _ in self:
            pass
        if self._run.error:
            raise RuntimeError(
                f"this generation was ended by an exception ({self._run.error}), and its text is incomplete: `text` "
                "has what came before; make a new Generation"
            )
        return self.text

    def __await__(self) -> Generator[Any, None, str]:
        """Wait for the whole text, which another thread computes. Cancelling the task cancels the generation."""
        from llama_cffi.generation.async_steps import run_in_thread

        return run_in_thread(self.result, self.close).__await__()

    def _require_idle(self) -> None:
        if self._steps.gi_running:
            raise BusyError("another thread iterates over this generation: use it from one thread at a time")

    # Ending

    def cancel(self) -> None:
        """Stop before the next token, or in the middle of a long prompt (on a GPU: after the present batch).

        Returns at once, and can be called from any thread. The iterator ends with StopReason.CANCELLED.
        """
        self._run.cancel()

    def close(self) -> None:
        """End the generation now; if another thread computes with it, soon. Closing twice is harmless."""
        run = self._run
        run.cancel()
        if not self._steps.gi_running:
            if self._steps.gi_frame is not None:  # it has not ended by itself
                run.rules.reason = run.rules.reason or StopReason.CANCELLED
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

    def _repr_html_(self) -> str:
        from llama_cffi._core.html import table

        return table(repr(self), {"text": self.text})

    def __repr__(self) -> str:
        name, reason = type(self).__name__, self.stopReason
        if not self._run.begun and not self.done:
            return f"<{name}, not started: iterate over it, or call result()>"
        return f"<{name}, {len(self._run.rules.tokens)} tokens{f', stopped: {reason.value}' if reason else ''}>"


class GenerationSteps(Iterator[GenerationStep]):
    """An iterator over the steps of a generation; `Generation.steps` makes it."""

    _MADE_BY = "generation.steps() makes one"

    def __init__(self, generation: Generation) -> None:
        """Not for users: `generation.steps()` makes it."""
        self._generation = generation

    def __next__(self) -> GenerationStep:
        self._generation._require_idle()
        run = self._generation._run
        run.step = None
        text = next(self._generation._steps)
        return run.step or GenerationStep(run.rules.tokens[-1], text)

    def __aiter__(self) -> AsyncSteps[GenerationStep]:
        from llama_cffi.generation.async_steps import AsyncSteps

        return AsyncSteps(self, self._generation.close)


def _require_context(ctx: Context) -> None:
    """Raise an error for anything but a context that can generate text token by token."""
    if not isinstance(ctx, Context):
        raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
    model = ctx.getModel()
    if model.isDiffusion:
        raise ValueError("this is a diffusion model, which writes all tokens of a text at once: use ctx.decode")
    if not ctx._limits.decodes:
        raise ValueError("this model has no decoder and generates no text: use it for embeddings")


def _require_scores(ctx: Context) -> None:
    """Raise an error for a context whose logits do not score the tokens of a prompt."""
    if ctx.getModel().hasEncoder:
        raise ValueError(
            "promptLogProbs and scores are for models with a decoder alone: this one reads its prompt with an encoder"
        )
    if ctx._samples:
        raise ValueError(
            "promptLogProbs and scores need a context without samplers of its own (setSampler): make another one"
        )


def _speculate(speculation: Speculation, ctx: Context, cache: TokenCache) -> SpeculativeDecoder:
    """Check that guesses can be taken back in a context, and begin them."""
    from llama_cffi.generation.speculation import (
        SpeculativeDecoder,
        require_memory_that_goes_back,
        require_speculation,
    )

    require_speculation(speculation)
    require_memory_that_goes_back(ctx.getModel())
    if ctx._samples:
        raise ValueError("speculation needs a context without samplers of its own (setSampler): make another one")
    return SpeculativeDecoder(speculation, ctx, cache)


def _capacity_for(ctx: Context, prompt: list[Token]) -> int | None:
    """The most tokens that the sequence holds. Raises ContextFullError if the prompt has more."""
    model, capacity = ctx.getModel(), context_capacity(ctx)
    if capacity is not None and len(prompt) > capacity and not model.hasEncoder:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens, but a sequence of the context takes {capacity}: shorten the prompt, "
            f"or raise Context.Params.nCtx (this model was trained with {model.nCtxTrain})"
        )
    return capacity
