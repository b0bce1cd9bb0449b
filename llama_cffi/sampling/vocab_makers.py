"""Samplers that read the text of tokens, and keep the model of their vocabulary alive: the constructors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import StrOrBytes, TokenSequence, token_array
from llama_cffi._core.base_types import TOKEN_NULL
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.large_stack import GRAMMAR_STACK_PER_BYTE, on_large_stack
from llama_cffi._core.native_log import native_log
from llama_cffi.errors import GrammarError, NativeError, NativeMemoryError
from llama_cffi.sampling import checks as check
from llama_cffi.sampling.base import SamplerBase, Traits
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from typing_extensions import Self


# llama.cpp follows the rules of a grammar recursively, and a repetition becomes up to 2,000 rules.
_REPEATED = 8192  # bytes of text that take as much stack as a repetition
_DRY_BREAKERS = ("\n", ":", '"', "*")  # as in llama.cpp's own tools


class ReadingSamplers(SamplerBase):
    """Constructors of `Sampler`."""

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
        """Makes tokens less likely that would continue a repetition of what was accepted.

        A token that would continue a repetition of n tokens, where n is at least `dryAllowedLength`, loses
        `dryMultiplier * dryBase ** (n - dryAllowedLength)`; a multiplier of 0 switches it off. `dryPenaltyLastN` is how
        many tokens back count (-1: the context size, known with the first `sample`). Texts of `seqBreakers`, of up to
        40 bytes each, end a repetition. Reads the whole vocabulary once for each. Keeps its model alive.

        Maps to `llama_sampler_init_dry`.
        """
        check.tokenizer(vocab)
        base, multiplier = check.finite(dryBase, "dryBase"), check.finite(dryMultiplier, "dryMultiplier")
        if multiplier < 0 or base < 1:
            raise ValueError(
                f"dryMultiplier is 0 (off) or more and dryBase 1 or more, not {dryMultiplier} and {dryBase}"
            )
        length = integer(dryAllowedLength, 0, check.LAST_N_LIMIT, "dryAllowedLength")
        n = check.last_n(dryPenaltyLastN, "dryPenaltyLastN")
        breakers = check.strings(seqBreakers, "seqBreakers")
        for breaker in breakers:
            if len(breaker) > 40:
                raise ValueError(f"an item of seqBreakers has {len(breaker)} bytes, and the limit is 40: shorten it")

        def make(n_ctx: int, n_vocab: int) -> Any:
            array, owned = check.string_array(breakers)
            size = n_ctx if n == -1 else n
            return lib.llama_sampler_init_dry(vocab._c, multiplier, base, length, size, array, len(owned))

        recipe = ("llama_sampler_init_dry", vocab._model, multiplier, base, length, n, *breakers)
        sampler = cls._make(make(0, 0), Traits(recipe, n_vocab=vocab.nTokens), vocab._model)
        if n == -1:
            sampler._deferred_init, sampler._needs_context = make, True
        return sampler

    @classmethod
    def initInfill(cls, vocab: Vocab) -> Self:
        """For text in the middle: joins tokens of which one begins the other, and ends when the text after it fits.

        Belongs after top-k and top-p: its work grows with the square of the number of candidates. Keeps the model of
        the vocabulary alive.

        Maps to `llama_sampler_init_infill`.
        """
        pointer = check.tokenizer(vocab)
        if TOKEN_NULL == lib.llama_vocab_eot(pointer) == lib.llama_vocab_eos(pointer):
            raise ValueError("this vocabulary has neither an end-of-turn nor an end-of-sequence token, as infill needs")
        traits = Traits(("llama_sampler_init_infill", vocab._model), n_vocab=vocab.nTokens, reads_ids=True)
        return cls._make(lib.llama_sampler_init_infill(pointer), traits, vocab._model)

    @classmethod
    def initGrammar(cls, vocab: Vocab, grammarStr: StrOrBytes, grammarRoot: StrOrBytes = "root") -> Self:
        """Masks with -inf the tokens that would break a grammar, written in GBNF. Belongs at a chain's beginning.

        `grammarRoot` names the rule to start from. Give it each token with `accept`, as `sample` does: a token that the
        grammar does not allow raises ValueError. Keeps the vocabulary's model alive. Raises GrammarError for a grammar
        that llama.cpp cannot read.

        Maps to `llama_sampler_init_grammar`.
        """
        pointer, text, root = check.tokenizer(vocab), check.grammar_text(grammarStr), check.root_name(grammarRoot)
        operation = "llama_sampler_init_grammar"
        return cls._grammar(vocab, operation, (text, root), lambda: lib.llama_sampler_init_grammar(pointer, text, root))

    @classmethod
    def initGrammarLazyPatterns(
        cls,
        vocab: Vocab,
        grammarStr: StrOrBytes,
        grammarRoot: StrOrBytes = "root",
        triggerPatterns: Iterable[StrOrBytes] = (),
        triggerTokens: TokenSequence = (),
    ) -> Self:
        """A grammar that allows anything until it is triggered; see `initGrammar`.

        A token of `triggerTokens` triggers it and must fit the grammar. So does text that matches one of
        `triggerPatterns` (regular expressions of C++): the grammar then starts with the pattern's first group, or with
        the match where it has none. The patterns are searched for in all of the text, again with every token: write
        `(<tool>)`, and no `.*` around it; after a megabyte of text, `accept` refuses. Raises GrammarError for a pattern
        that C++ cannot read, and ValueError for one that repeats what repeats something itself.

        Maps to `llama_sampler_init_grammar_lazy_patterns`.
        """
        pointer, text, root = check.tokenizer(vocab), check.grammar_text(grammarStr), check.root_name(grammarRoot)
        found = check.patterns(triggerPatterns, "triggerPatterns")
        tokens, n_tokens = token_array(triggerTokens, None, "triggerTokens")
        bad = lib.shim_first_outside(tokens, n_tokens, vocab.nTokens)
        if bad >= 0:
            vocab._check(tokens[bad])
        if not found and not n_tokens:
            raise ValueError("nothing would ever trigger this grammar: give triggerPatterns or triggerTokens")
        array, owned = check.string_array(found)
        operation = "llama_sampler_init_grammar_lazy_patterns"
        what = (text, root, *found, *ffi.unpack(tokens, n_tokens))
        return cls._grammar(
            vocab,
            operation,
            what,
            lambda: lib.llama_sampler_init_grammar_lazy_patterns(
                pointer, text, root, array, len(owned), tokens, n_tokens
            ),
            lazy=True,
            searches=bool(found),
        )

    @classmethod
    def _grammar(
        cls,
        vocab: Vocab,
        operation: str,
        what: tuple[Any, ...],
        make: Callable[[], Any],
        lazy: bool = False,
        searches: bool = False,
    ) -> Self:
        def read() -> tuple[Any, str]:
            pointer = make()
            return pointer, native_log() if pointer == ffi.NULL else ""  # the log is this thread's

        stack = (len(what[0]) + _REPEATED) * GRAMMAR_STACK_PER_BYTE
        try:
            pointer, log = on_large_stack(read, stack)
        except NativeMemoryError:
            raise
        except NativeError as error:
            raise GrammarError(
                f"a pattern of triggerPatterns is no regular expression of C++ (ECMAScript): {error}",
                operation=operation,
            ) from None
        if pointer == ffi.NULL:
            raise GrammarError(
                "llama.cpp cannot read this grammar: see its log below, and grammars/README.md of llama.cpp",
                operation=operation,
                log=log,
            )
        recipe = (operation, vocab._model, *what)
        traits = Traits(
            recipe, n_vocab=vocab.nTokens, reads_ids=True, grammar=True, lazy=lazy, searches=searches, stack=stack
        )
        return cls._make(pointer, traits, vocab._model)
