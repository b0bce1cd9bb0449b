"""The sampler that keeps to a constraint: asks llguidance which tokens may come next, and drops the others."""

from __future__ import annotations

from typing import Any

from llama_cffi._core.base_types import Token
from llama_cffi.sampling.token_data_array import TokenDataArray
from llama_cffi.vocab.vocab import Vocab


class Mask:
    """A `SamplerI` for one sequence. `matcher` is its own from now on."""

    name = "constraint"

    def __init__(self, vocab: Vocab, matcher: Any) -> None:
        import numpy

        self._numpy, self._vocab, self._matcher = numpy, vocab, matcher
        self._words = numpy.zeros((vocab.nTokens + 31) // 32, numpy.uint32)
        self._address = self._words.ctypes.data
        self._known = False  # whether the words are those of the present state
        self._ended = False

    def clone(self) -> Mask:
        """A mask in the same state, for another sequence."""
        twin = Mask(self._vocab, self._matcher.deep_copy())
        twin._ended = self._ended
        return twin

    def reset(self) -> None:
        """Begin anew."""
        self._known = self._ended = False
        self._matcher.reset()

    def accept(self, token: Token) -> None:
        """Follow the text. Raises ValueError, and stays as it is, for a token that the constraint does not allow."""
        end = self._vocab.isEog(token)
        if not self._may_come(token, end):
            self._check()
            raise ValueError(
                f"the constraint does not allow token {token} here. Put it at the beginning of the chain, give it only "
                "tokens that came after the prompt, and stop at the end-of-generation token"
            )
        self._known = False
        self._ended = end
        self._matcher.consume_token(token)
        self._check()

    def _may_come(self, token: Token, end: bool) -> bool:
        if self._ended:
            return False
        if self._known and self._words[token >> 5] >> (token & 31) & 1:
            return True
        return bool(self._matcher.is_accepting() if end else self._matcher.validate_tokens([token]) == 1)

    def apply(self, candidates: TokenDataArray) -> None:
        """Drop the candidates that may not come next."""
        self._vocab._c  # noqa: B018  raises
        if self._ended:
            raise ValueError(
                "the output is complete, and was ended: stop there, or reset() the sampler for another one"
            )
        np = self._numpy
        allowed = self._allowed()
        rows = np.asarray(candidates)
        n = len(rows)
        size = self._keep(rows, allowed, candidates.sorted)
        if not size:
            raise ValueError(
                f"none of the {n} candidates that are left may come next: put the constraint before the samplers that "
                "drop candidates"
            )
        if size < n:
            candidates.size, candidates.selected = size, -1
        if rows["logit"][0] == -np.inf and rows["logit"][:size].max() == -np.inf:
            raise ValueError(
                f"all {size} tokens that may come next were ruled out before, by logits of -inf: allow some of them, "
                f"such as {rows['id'][: min(size, 5)].tolist()}"
            )

    def _keep(self, rows: Any, allowed: Any, ordered: bool) -> int:
        """Move the rows of allowed tokens to the beginning, in their order where it matters. Returns their number."""
        np, n = self._numpy, len(rows)
        # A context's own candidates are all tokens in order: then it is enough to look at the lesser part of them.
        if n == self._vocab.nTokens:
            most = 2 * np.count_nonzero(allowed[:n]) > n and not ordered
            marked = np.flatnonzero(~allowed[:n] if most else allowed[:n])
            if (rows["id"][marked] == marked).all():
                if not most:
                    rows[: len(marked)] = rows[marked]
                    return len(marked)
                size = n - len(marked)
                inside = np.searchsorted(marked, size)
                late = np.ones(n - size, bool)
                late[marked[inside:] - size] = False
                rows[marked[:inside]] = rows[size:][late]
                return size
        chosen = np.flatnonzero(allowed[rows["id"]])
        rows[: len(chosen)] = rows[chosen]
        return len(chosen)

    def _allowed(self) -> Any:
        """For each token, whether it may come next."""
        if not self._known:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
            self._check()
            self._known = True
        return self._numpy.unpackbits(self._words.view(self._numpy.uint8), bitorder="little").view(bool)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"the constraint cannot be followed any further: {_first_line(self._matcher.get_error())}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
