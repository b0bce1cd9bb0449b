"""The sampler of a constraint: drops all candidates except the tokens that llguidance allows next."""

from __future__ import annotations

from typing import Any

from llama_cffi._core.base_types import Token
from llama_cffi.constrain.guidance import Grammar, reason
from llama_cffi.constrain.tokenizer import tokenizer_of
from llama_cffi.sampling.token_data_array import TokenDataArray
from llama_cffi.vocab.vocab import Vocab


class Mask:
    """A `SamplerI` for one sequence. It owns its matcher.

    The matchers of one constraint share a lexer, which stays unusable once a text has exceeded its limits. So a mask
    whose matcher fails makes a new one, which shares nothing, and follows the same text with it. Only the text that
    exceeds the limits fails again.
    """

    name = "constraint"

    def __init__(self, vocab: Vocab, grammar: Grammar, source: Mask | None = None) -> None:
        import numpy

        self._numpy, self._vocab, self._grammar = numpy, vocab, grammar
        self._generation: int = source._generation if source else grammar.generation
        self._matcher: Any = (
            source._matcher.deep_copy() if source else grammar.matcher(vocab._model, tokenizer_of(vocab))
        )
        self._tokens: list[Token] = source._tokens[:] if source else []  # accepted since the start
        self._failure: str = source._failure if source else ""  # why this text cannot be continued
        self._ended: bool = source._ended if source else False
        self._words = numpy.zeros((vocab.nTokens + 31) // 32, numpy.uint32)
        self._address = self._words.ctypes.data
        self._current = False  # True if _words is the mask of the matcher's present state

    def clone(self) -> Mask:
        """Return a mask in the same state, for another sequence."""
        return Mask(self._vocab, self._grammar, self)

    def reset(self) -> None:
        """Return to the initial state."""
        self._current = self._ended = False
        self._tokens.clear()
        failed, self._failure = bool(self._failure), ""
        if failed or self._generation != self._grammar.generation:
            self._renew(False)
        self._matcher.reset()

    def accept(self, token: Token) -> None:
        """Follow the text by a token. Raises ValueError, without a change, if the constraint does not allow it."""
        end = self._vocab.isEog(token)
        if not self._allows(token, end):
            raise ValueError(
                f"the constraint does not allow token {token} here: put the constraint at the start of the chain, "
                "accept only tokens that come after the prompt, and stop at the end-of-generation token"
            )
        self._current = False
        self._ended = end
        self._tokens.append(token)
        if not self._matcher.consume_token(token):
            self._renew(True)

    def _allows(self, token: Token, end: bool) -> bool:
        if self._ended:
            return False
        if self._current and self._words[token >> 5] >> (token & 31) & 1:
            return True
        self._follow_others()
        if self._matcher.is_accepting() if end else self._matcher.validate_tokens([token]) == 1:
            return True
        self._renew(self._matcher.is_error())  # the answer of a lexer that was spoiled just now may be wrong
        allowed = self._matcher.is_accepting() if end else self._matcher.validate_tokens([token]) == 1
        if not allowed and self._matcher.is_error():
            self._fail(self._matcher.get_error())
        return bool(allowed)

    def _follow_others(self) -> None:
        """Leave a lexer that another text has spoiled. Raises ValueError if this text has failed."""
        if self._failure:
            self._fail(self._failure)
        if self._generation != self._grammar.generation:
            self._renew(False)

    def _renew(self, failed: bool) -> None:
        """Follow the same text with a new matcher: one that shares nothing if this one failed. Raises ValueError."""
        if self._failure:
            self._fail(self._failure)
        key, tokenizer = self._vocab._model, tokenizer_of(self._vocab)
        self._matcher = self._grammar.replacement(key, tokenizer) if failed else self._grammar.matcher(key, tokenizer)
        self._generation = self._grammar.generation
        if not self._matcher.consume_tokens(self._tokens):
            self._fail(self._matcher.get_error())

    def _fail(self, why: str) -> None:
        self._current, self._failure = False, reason(why)
        raise ValueError(f"llguidance cannot continue this text: {self._failure}; reset() the sampler for another text")

    def apply(self, candidates: TokenDataArray) -> None:
        """Drop the candidates that the constraint does not allow next."""
        self._vocab._c  # noqa: B018  raises
        if self._ended:
            raise ValueError(
                "the output has ended: stop at the end-of-generation token, or reset() the sampler for another text"
            )
        np = self._numpy
        allowed = self._allowed()
        rows = np.asarray(candidates)
        n = len(rows)
        size = self._move_to_front(rows, allowed, candidates.sorted)
        if not size:
            raise ValueError(
                f"the constraint allows none of the {n} candidates: put it before the samplers that drop candidates"
            )
        if size < n:
            candidates.size, candidates.selected = size, -1
        if rows["logit"][0] == -np.inf and rows["logit"][:size].max() == -np.inf:
            raise ValueError(
                f"all {size} tokens that the constraint allows have logits of -inf: do not rule out all of them, such "
                f"as {rows['id'][: min(size, 5)].tolist()}"
            )

    def _move_to_front(self, rows: Any, allowed: Any, ordered: bool) -> int:
        """Move the rows of allowed tokens to the front and return their number. Keeps their order if `ordered`."""
        np, n = self._numpy, len(rows)
        # The candidates of a context are all tokens in order: then only the smaller part of them has to be moved.
        if n == self._vocab.nTokens:
            mostly_allowed = 2 * np.count_nonzero(allowed[:n]) > n and not ordered
            marked = np.flatnonzero(~allowed[:n] if mostly_allowed else allowed[:n])
            if (rows["id"][marked] == marked).all():
                if not mostly_allowed:
                    rows[: len(marked)] = rows[marked]
                    return len(marked)
                size = n - len(marked)
                inside = np.searchsorted(marked, size)
                behind = np.ones(n - size, bool)  # the allowed rows after the first `size`
                behind[marked[inside:] - size] = False
                rows[marked[:inside]] = rows[size:][behind]
                return size
        chosen = np.flatnonzero(allowed[rows["id"]])
        rows[: len(chosen)] = rows[chosen]
        return len(chosen)

    def _allowed(self) -> Any:
        """Return an array of bools: for each token, True if it is allowed next."""
        if not self._current:
            self._follow_others()
            self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
            failed = self._matcher.is_error()
            if failed or not self._words.any():
                self._renew(failed)
                self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
                if self._matcher.is_error():
                    self._fail(self._matcher.get_error())
            self._current = True
        return self._numpy.unpackbits(self._words.view(self._numpy.uint8), bitorder="little").view(bool)
