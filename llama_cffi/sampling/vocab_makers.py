"""Constructors of samplers that read a vocabulary, whose model they keep alive: DRY, infill, grammars."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cffi._core.arguments import StrOrBytes, TokenSequence, token_array
from llama_cffi._core.base_types import TOKEN_NULL
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.errors import GrammarError, NativeError, NativeMemoryError
from llama_cffi.sampling import checks as check
from llama_cffi.sampling.base import Deferred, SamplerBase, Traits, own_sampler
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from llama_cffi._core.ownership import Owned


_DRY_BREAKERS = ("\n", ":", '"', "*")  # as in llama.cpp's own tools


class VocabSamplerMakers(SamplerBase):
    """Constructors of `Sampler` that read a vocabulary."""

    @classmethod
    def initDry(
        cls,
        vocab: Vocab,
        dryMultiplier: float,
        dryBase: float = 1.75,
        dryAllowedLength: int = 2,
        dryPenaltyLastN: int = -1,
        seqBreakers: Iterable[StrOrBytes] = _DRY_BREAKERS,
    ) -> Self:
        """DRY (don't repeat yourself): lowers the logits of tokens that would continue a repetition.

        A token that would continue a repetition of n accepted tokens, where n is at least `dryAllowedLength`, loses
        `dryMultiplier * dryBase ** (n - dryAllowedLength)`; a multiplier of 0 turns it off. `dryPenaltyLastN` is the
        number of latest tokens that count (-1: the context size, known from the first `sample` on). Texts of
        `seqBreakers`, of up to 40 bytes each, end a repetition; the whole vocabulary is read once for each of them.
        Keeps its model alive.

        Maps to `llama_sampler_init_dry`.
        """
        check.tokenizer(vocab)
        base, multiplier = check.finite(dryBase, "dryBase"), check.finite(dryMultiplier, "dryMultiplier")
        if multiplier < 0 or base < 1:
            raise ValueError(
                f"dryMultiplier must be at least 0 (which turns it off) and dryBase at least 1, got {dryMultiplier} "
                f"and {dryBase}"
            )
        length = integer(dryAllowedLength, 0, check.LAST_N_LIMIT, "dryAllowedLength")
        n = check.last_n(dryPenaltyLastN, "dryPenaltyLastN")
        breakers = check.strings(seqBreakers, "seqBreakers")
        for breaker in breakers:
            if len(breaker) > 40:
                raise ValueError(f"an item of seqBreakers must have at most 40 bytes, got {len(breaker)}: shorten it")

        def make(n_ctx: int, n_vocab: int) -> Owned:
            array, owned = check.string_array(breakers)
            size = n_ctx if n == -1 else n
            return own_sampler(lib.llama_sampler_init_dry, vocab._c, multiplier, base, length, size, array, len(owned))

        recipe = ("llama_sampler_init_dry", vocab._model, multiplier, base, length, n, *breakers)
        sampler = cls._make(make(0, 0), Traits(recipe, n_vocab=vocab.nTokens, last_n=n), vocab._model)
        if n == -1:
            sampler._deferred = Deferred(make, required=True)
        return sampler

    @classmethod
    def initInfill(cls, vocab: Vocab) -> Self:
        """Infill (fill in the middle): merges candidates that are prefixes of each other, and ends the text in time.

        Put it after top-k and top-p, as its time grows with the square of the number of candidates. Keeps the
        vocabulary's model alive. Raises ValueError for a vocabulary without an end token.

        Maps to `llama_sampler_init_infill`.
        """
        pointer = check.tokenizer(vocab)
        if TOKEN_NULL == lib.llama_vocab_eot(pointer) == lib.llama_vocab_eos(pointer):
            raise ValueError("infill needs an end-of-turn or end-of-sequence token, and this vocabulary has neither")
        traits = Traits(("llama_sampler_init_infill", vocab._model), n_vocab=vocab.nTokens, reads_ids=True)
        return cls._make(own_sampler(lib.llama_sampler_init_infill, pointer), traits, vocab._model)

    @classmethod
    def initGrammar(cls, vocab: Vocab, grammarStr: StrOrBytes, grammarRoot: StrOrBytes = "root") -> Self:
        """Grammar: masks with -inf the tokens that a GBNF grammar does not allow. Put it at the start of the chain.

        `grammarRoot` names the rule to start from. The sampler follows the text by `accept`, which `sample` calls; a
        token that the grammar does not allow raises ValueError there. Keeps the vocabulary's model alive. This
        package's own code follows the grammar, with the masks of llama.cpp but with limits (docs/safety.md).

        Raises GrammarError with the line and the reason for a grammar that cannot be parsed, begins a rule with itself
        or has more than 4,194,304 elements; and in `apply`, `accept` and `sample` if a token takes more than 33,554,432
        steps, after which the sampler is as before.

        Maps to `llama_sampler_init_grammar`.
        """
        pointer, text, root = check.tokenizer(vocab), check.grammar_text(grammarStr), check.root_name(grammarRoot)
        made = own_sampler(lib.shim_grammar, pointer, text, root, False, ffi.NULL, 0, ffi.NULL, 0)
        return cls._make(made, _grammar_traits("llama_sampler_init_grammar", vocab, (text, root)), vocab._model)

    @classmethod
    def initGrammarLazyPatterns(
        cls,
        vocab: Vocab,
        grammarStr: StrOrBytes,
        grammarRoot: StrOrBytes = "root",
        triggerPatterns: Iterable[StrOrBytes] = (),
        triggerTokens: TokenSequence = (),
    ) -> Self:
        """Lazy grammar: allows any token until it is triggered; see `initGrammar`.

        A token of `triggerTokens` triggers it, and is the first one that must fit the grammar. Text that matches one of
        `triggerPatterns` (regular expressions of C++) triggers it too: the grammar then starts at the first group of
        the pattern, or at the match if there are no groups. Each token makes it search all the text again, so write
        `(<tool>)` without `.*` around it; after a megabyte of text, `accept` raises ValueError. Raises GrammarError for
        a pattern that C++ cannot parse, and ValueError for a repeated group that contains a repetition.

        Maps to `llama_sampler_init_grammar_lazy_patterns`.
        """
        pointer, text, root = check.tokenizer(vocab), check.grammar_text(grammarStr), check.root_name(grammarRoot)
        found = check.patterns(triggerPatterns, "triggerPatterns")
        tokens, n_tokens = token_array(triggerTokens, None, "triggerTokens")
        bad = lib.shim_first_outside(tokens, n_tokens, vocab.nTokens)
        if bad >= 0:
            vocab._check(tokens[bad])
        if not found and not n_tokens:
            raise ValueError("nothing would ever trigger this grammar: pass triggerPatterns or triggerTokens")
        array, owned = check.string_array(found)
        operation = "llama_sampler_init_grammar_lazy_patterns"
        what = (text, root, *found, *ffi.unpack(tokens, n_tokens))

        def make() -> Owned:
            return own_sampler(lib.shim_grammar, pointer, text, root, True, array, len(owned), tokens, n_tokens)

        from llama_cffi._core.large_stack import PATTERN_STACK, on_large_stack

        try:
            made = on_large_stack(make, PATTERN_STACK) if found else make()
        except (NativeMemoryError, GrammarError):
            raise
        except NativeError as error:
            raise GrammarError(
                f"a pattern of triggerPatterns is not a C++ (ECMAScript) regular expression: {error}",
                operation=operation,
            ) from None
        traits = _grammar_traits(operation, vocab, what, lazy=True, searches=bool(found))
        return cls._make(made, traits, vocab._model)


def _grammar_traits(
    operation: str, vocab: Vocab, what: tuple[Any, ...], lazy: bool = False, searches: bool = False
) -> Traits:
    recipe = (operation, vocab._model, *what)
    return Traits(recipe, n_vocab=vocab.nTokens, reads_ids=True, grammar=True, lazy=lazy, searches=searches)
