"""Log-probabilities of a given text: the tokens to score after a context, and the result."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from math import exp, fsum, inf

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi.context.context import Context
from llama_cffi.generation.generation import Generation
from llama_cffi.generation.prefix import common_length
from llama_cffi.generation.steps import GenerationStep
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from llama_cffi._core.stand_ins import dataclass

_LARGEST = 709.0  # exp of more overflows


@dataclass()
class Score:
    """How probable a model finds a text: the log-probability of each token, given what comes before it."""

    tokens: list[Token]
    """The scored tokens: those of the text, and the end of the context if a token spans both."""
    logProbs: array[float]
    """The natural logarithm of each token's probability, as doubles. `numpy.asarray` makes an array without a copy."""
    pieces: list[str]
    """The text of each token."""
    nBytes: int
    """The length of the text in UTF-8, without the context."""

    def __init__(self, tokens: list[Token], logProbs: array[float], pieces: list[str], nBytes: int) -> None:
        self.tokens = tokens
        self.logProbs = logProbs
        self.pieces = pieces
        self.nBytes = nBytes

    @property
    def sum(self) -> float:
        """The log-probability of the whole text."""
        return fsum(self.logProbs)

    @property
    def mean(self) -> float:
        """The mean log-probability of a token. NaN without tokens."""
        return self.sum / len(self.tokens) if self.tokens else float("nan")

    @property
    def perplexity(self) -> float:
        """exp(-mean). Infinity if a token is impossible."""
        return exp_or_inf(-self.mean)


class ScoredTokens:
    """The tokens that a score decodes, and where the scored ones begin."""

    __slots__ = ("first", "n_bytes", "start_added", "tokens")

    def __init__(self, tokens: list[Token], first: int, n_bytes: int, start_added: bool = False) -> None:
        self.tokens = tokens
        self.first = first  # at least 1: the first token of all has nothing before it
        self.n_bytes = n_bytes
        self.start_added = start_added  # the first token is a start token, which the model does not add to its texts

    @classmethod
    def check(
        cls, vocab: Vocab, text: str | Sequence[Token], context: str | Sequence[Token], name: str = "text"
    ) -> ScoredTokens:
        """Raises TypeError or ValueError for wrong arguments. `name` is that of `text` in errors."""
        if isinstance(text, str):
            if not isinstance(context, str):
                raise expected("a str", context, f"{name} is one: pass both as str or both as tokens", "context")
            found = cls._of_text(vocab, text, context)
        else:
            found = cls._of_tokens(vocab, text, context, name)
        if found.first >= len(found.tokens):
            after = " after the context" if len(context) else ""
            raise ValueError(f"{name} has no tokens to score{after}: pass at least a word")
        return found

    @classmethod
    def _of_text(cls, vocab: Vocab, text: str, context: str) -> ScoredTokens:
        """Tokenize the context and the text together: a token may span both, and is scored then."""
        before = tokenize(vocab, context, addSpecial=False) if context else []
        whole = tokenize(vocab, context + text, addSpecial=False) if text else before
        added = [vocab.bos] if vocab.getAddBos() and vocab.bos != TOKEN_NULL else []
        first = len(added) + common_length(before, whole)
        found = cls(added + whole, first, len(text.encode()))
        if first == 0:
            found.add_start(vocab)
        return found

    @classmethod
    def _of_tokens(cls, vocab: Vocab, text: Sequence[Token], context: str | Sequence[Token], name: str) -> ScoredTokens:
        tokens = read_tokens(vocab, text, name)
        if isinstance(context, str) and context:
            raise expected("a list of tokens", context, f"{name} is one: pass both as str or both as tokens", "context")
        before = [] if isinstance(context, str) else read_tokens(vocab, context, "context")
        n_bytes = sum(len(vocab._piece(token, special=True)) for token in tokens)
        found = cls(before + tokens, len(before), n_bytes)
        if not before and tokens:
            if tokens[0] == _start_token(vocab):
                found.first = 1
            else:
                found.add_start(vocab)
        return found

    def add_start(self, vocab: Vocab) -> None:
        """Put the BOS token before all, or the EOS token of a model without one, so that the first token has a score.

        Raises ValueError for a model without both.
        """
        start = _start_token(vocab)
        if start == TOKEN_NULL:
            raise ValueError("this model has no BOS and no EOS token to start from: pass a context")
        self.tokens.insert(0, start)
        self.first, self.start_added = self.first + 1, True

    def score(self, steps: Sequence[GenerationStep]) -> Score:
        """The score, from the steps of the scored tokens."""
        return Score(
            self.tokens[self.first :],
            log_probs_of(steps),
            [step.text for step in steps],
            self.n_bytes,
        )


def _start_token(vocab: Vocab) -> Token:
    """The token that a text without a context is scored after; TOKEN_NULL if the model has none."""
    return vocab.bos if vocab.bos != TOKEN_NULL else vocab.eos


def read_tokens(vocab: Vocab, tokens: Iterable[Token], name: str) -> list[Token]:
    """Return tokens as a list. Raises TypeError or ValueError if they are something else, NativeError if they have no
    texts."""
    vocab._require_tokenizer()
    if isinstance(tokens, (bytes, bytearray)) or not isinstance(tokens, Iterable):
        hint = "decode it" if isinstance(tokens, (bytes, bytearray)) else ""
        raise expected("a str or a list of tokens", tokens, hint, name)
    return [integer(token, 0, vocab.nTokens - 1, f"a token of {name}") for token in tokens]


def score_in_context(ctx: Context, tokens: list[Token], first: int) -> list[GenerationStep]:
    """Compute the steps of the tokens from `first` on, with sequence 0 of a context, of which a prefix is reused."""
    with Generation(ctx, tokens, maxTokens=0, promptLogProbs=0, penalizePrompt=False) as generation:
        generation._run.scored_from = first
        generation.result()
        return [step for step in generation._run.prompt_steps if step is not None]


def log_probs_of(steps: Iterable[GenerationStep]) -> array[float]:
    """The log-probabilities of steps that have one."""
    return array("d", [step.logProb for step in steps if step.logProb is not None])


def exp_or_inf(value: float) -> float:
    """exp(value), or infinity where that overflows."""
    return inf if value > _LARGEST else exp(value)
