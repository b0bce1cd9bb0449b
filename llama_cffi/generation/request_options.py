"""The checked arguments of a request for text: what `Generation` and `Engine.submit` have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi._core.handle import Handle
from llama_cffi.generation.prefix import MediaTokens, media_of, texts_only
from llama_cffi.generation.steps import StopReason
from llama_cffi.generation.stop_rules import StopRules
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.generation.projector import Projector
    from llama_cffi.generation.speculation import Guesses
    from llama_cffi.model.model import Model

_PROJECTOR = "Mtmd.Context.initFromFile(mmproj, model) makes one"
INT32_MAX = (1 << 31) - 1


class RequestOptions:
    """What to generate: the prompt as tokens, and when to stop."""

    __slots__ = (
        *("begin", "guesses", "log_probs", "max_tokens", "media", "penalizes_prompt", "prompt", "prompt_log_probs"),
        *("scored_from", "shares_prefix", "stop_tokens", "stream"),
    )

    def __init__(
        self,
        prompt: list[Token],
        stream: TextStream,
        max_tokens: int | None,
        stop_tokens: frozenset[Token],
        log_probs: int | None,
        penalizes_prompt: bool,
        prompt_log_probs: int | None,
    ) -> None:
        self.prompt = prompt
        self.media = media_of(prompt)  # images and sounds in the prompt, by their marks
        self.stream = stream
        self.max_tokens = max_tokens
        self.stop_tokens = stop_tokens
        self.log_probs = log_probs  # how many alternatives to report for each token
        self.prompt_log_probs = prompt_log_probs  # the same for the tokens of the prompt
        self.scored_from = 1  # the first token of the prompt that `prompt_log_probs` is about
        self.penalizes_prompt = penalizes_prompt
        self.shares_prefix = True  # of the prompt, with other requests of an engine
        self.guesses: Guesses | None = None  # of an engine
        self.begin: Callable[[], None] | None = None  # called when the sampler has been reset

    @classmethod
    def check(
        cls,
        vocab: Vocab,
        prompt: str | Sequence[Token],
        maxTokens: int | None,
        stop: Sequence[str],
        stopTokens: Iterable[Token],
        logProbs: int | None,
        special: bool,
        penalizePrompt: bool,
        promptLogProbs: int | None = None,
    ) -> RequestOptions:
        """Raises TypeError or ValueError for a wrong argument, by its public name."""
        last = vocab.nTokens - 1
        stream = TextStream(vocab, stop, special)
        tokens = read_prompt(vocab, prompt)
        most = None if maxTokens is None else integer(maxTokens, 0, INT32_MAX, "maxTokens", "None means until the end")
        count = None if logProbs is None else integer(logProbs, 0, vocab.nTokens, "logProbs")
        scores = None if promptLogProbs is None else integer(promptLogProbs, 0, vocab.nTokens, "promptLogProbs")
        if scores is not None and media_of(tokens) is not None:
            raise ValueError("promptLogProbs is for prompts of text alone: leave it out, or the images and sounds")
        if isinstance(stopTokens, (str, bytes)) or not isinstance(stopTokens, Iterable):
            raise expected("a list of tokens", stopTokens, "strings go to stop", "stopTokens")
        ends = frozenset(integer(token, 0, last, "a token of stopTokens") for token in stopTokens)
        return cls(tokens, stream, most, ends, count, boolean(penalizePrompt, "penalizePrompt"), scores)

    def start(self, sampler: Sampler) -> None:
        """Prepare the sampler for this text: reset it, and let its penalties see the prompt."""
        sampler.reset()
        if self.penalizes_prompt:
            sampler._accept_prompt(self.prompt if self.media is None else texts_only(self.prompt))
        if self.begin is not None:
            self.begin()

    def stop_rules(self, capacity: int | None) -> StopRules:
        """The stop rules in a context window of `capacity` tokens (None: without a limit).

        The last token of a text is not decoded, so it needs no place in the window.
        """
        if self.max_tokens is not None:
            return StopRules(self.stream, self.stop_tokens, self.max_tokens)
        limit = INT32_MAX if capacity is None else capacity - len(self.prompt) + 1
        return StopRules(self.stream, self.stop_tokens, limit, StopReason.CONTEXT_FULL)


def with_media(prompt: Any, media: Any, mtmd: Any, limits: Any, model: Model) -> Any:
    """Return the tokens of a prompt with images and sounds, which a context of these limits can decode.

    A prompt without a projector and without media is returned as it is.
    """
    if mtmd is None and isinstance(media, (list, tuple)) and not media:
        return prompt
    return require_projector(mtmd)._read_prompt(prompt, media, limits, model)


def require_projector(mtmd: Any) -> Projector:
    """Return a projector; raise ValueError if there is none, TypeError for something else."""
    from llama_cffi.generation.projector import Projector

    if mtmd is None:
        raise ValueError(f"images and sounds need a projector: pass mtmd=, {_PROJECTOR}")
    if not isinstance(mtmd, Projector):
        raise expected("an Mtmd.Context", mtmd, _PROJECTOR, "mtmd")
    return mtmd


def read_prompt(vocab: Vocab, prompt: str | Sequence[Token]) -> list[Token]:
    """The tokens of a prompt: of a str with what the model adds to every text; tokens as they are."""
    if isinstance(prompt, MediaTokens):
        return prompt
    if isinstance(prompt, str):
        tokens = tokenize(vocab, prompt)
    elif isinstance(prompt, (bytes, bytearray, Handle)) or not isinstance(prompt, Iterable):
        hint = "decode it" if isinstance(prompt, (bytes, bytearray)) else ""
        hint = "pass mtmd=, the projector that made the chunks" if isinstance(prompt, Handle) else hint
        raise expected("a str or a list of tokens", prompt, hint, "prompt")
    else:
        tokens = [integer(token, 0, vocab.nTokens - 1, "a token of the prompt") for token in prompt]
    if not tokens:
        raise ValueError("the prompt is empty, and this model has no BOS token to start from: pass at least a word")
    return tokens


def require_sampler(sampler: Sampler) -> Sampler:
    """Return a sampler; raise TypeError if it is something else."""
    if not isinstance(sampler, Sampler):
        raise expected("a Sampler", sampler, "defaultSampler() makes one", "sampler")
    return sampler
