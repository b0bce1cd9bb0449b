"""The checked arguments of a request for text: what `Generation` and `Engine.submit` have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi.generation.steps import StopReason
from llama_cffi.generation.stop_rules import StopRules
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi.generation.speculation import Guesses

INT32_MAX = (1 << 31) - 1


class RequestOptions:
    """What to generate: the prompt as tokens, and when to stop."""

    __slots__ = (
        *(
            "begin",
            "guesses",
            "log_probs",
            "max_tokens",
            "penalizes_prompt",
            "prompt",
            "prompt_log_probs",
            "scored_from",
        ),
        *("shares_prefix", "stop_tokens", "stream"),
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
        if isinstance(stopTokens, (str, bytes)) or not isinstance(stopTokens, Iterable):
            raise expected("a list of tokens", stopTokens, "strings go to stop", "stopTokens")
        ends = frozenset(integer(token, 0, last, "a token of stopTokens") for token in stopTokens)
        return cls(tokens, stream, most, ends, count, boolean(penalizePrompt, "penalizePrompt"), scores)

    def start(self, sampler: Sampler) -> None:
        """Prepare the sampler for this text: reset it, and let its penalties see the prompt."""
        sampler.reset()
        if self.penalizes_prompt:
            sampler._accept_prompt(self.prompt)
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


def read_prompt(vocab: Vocab, prompt: str | Sequence[Token]) -> list[Token]:
    """The tokens of a prompt: of a str with what the model adds to every text; tokens as they are."""
    if isinstance(prompt, str):
        tokens = tokenize(vocab, prompt)
    elif isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Iterable):
        hint = "decode it" if isinstance(prompt, (bytes, bytearray)) else ""
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
