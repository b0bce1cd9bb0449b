"""The constructors of samplers, one for each of llama.h."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llama_cffi import _sampler_checks as check
from llama_cffi._buffers import Text, Tokens, token_array
from llama_cffi._custom_sampler import CustomSampler, SamplerI
from llama_cffi._ffi import ffi, lib
from llama_cffi._handle import native_log
from llama_cffi._sampler_base import SamplerBase, Traits
from llama_cffi.errors import GrammarError, NativeError, NativeMemoryError
from llama_cffi.tokens import DEFAULT_SEED, TOKEN_NULL
from llama_cffi.vocab import Vocab

if TYPE_CHECKING:
    from typing_extensions import Self

_DRY_BREAKERS = ("\n", ":", '"', "*")  # as in llama.cpp's own tools


class SamplerMakers(SamplerBase):
    """The constructors of `Sampler`."""

    @classmethod
    def init(cls, iface: SamplerI, ctx: object = None) -> Self:
        """A sampler written in Python: `iface` is an object with a method `apply(candidates)`; see `SamplerI`.

        It may be used alone or in a chain, and picks a token where its `apply` sets `candidates.selected`. `ctx` may be
        any object: it is there as `iface.ctx`, for the clones too. Both live as long as the sampler.

        Maps to `llama_sampler_init`.
        """
        custom = CustomSampler(iface, ctx)
        sampler = cls._make(custom.make(), Traits(("llama_sampler_init", type(iface)), picks=True))
        sampler._custom = custom
        sampler._watch()
        return sampler

    # Samplers that pick

    @classmethod
    def initGreedy(cls) -> Self:
        """Picks the most likely token.

        Maps to `llama_sampler_init_greedy`.
        """
        return cls._make(lib.llama_sampler_init_greedy(), Traits(("llama_sampler_init_greedy",), picks=True))

    @classmethod
    def initDist(cls, seed: int = DEFAULT_SEED) -> Self:
        """Picks a token by chance, each by its probability. The same seed gives the same picks.

        `seed` is a 32-bit number; DEFAULT_SEED takes a random one.

        Maps to `llama_sampler_init_dist`.
        """
        return cls._plain("llama_sampler_init_dist", lib.llama_sampler_init_dist, check.seed_number(seed), picks=True)

    @classmethod
    def initMirostat(
        cls, nVocab: Vocab | int, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1, m: int = 100
    ) -> Self:
        """Picks a token so that the surprise, in bits, stays near `tau`; adapts how many candidates it looks at.

        `nVocab` is the vocabulary or its size, `eta` how fast it adapts (0 to 1), `m` how many candidates the
        estimate is made from (2 or more). Mirostat replaces top-k, top-p and the like. The candidates must not have
        been masked with -inf before.

        Maps to `llama_sampler_init_mirostat`.
        """
        size = check.vocab_size(nVocab)
        arguments = (
            size,
            check.seed_number(seed),
            check.positive(tau, "tau"),
            check.within(eta, 0, 1, "eta"),
            check.integer(m, 2, 1 << 30, "m"),
        )
        return cls._plain(
            "llama_sampler_init_mirostat", lib.llama_sampler_init_mirostat, *arguments, picks=True, n_vocab=size
        )

    @classmethod
    def initMirostatV2(cls, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1) -> Self:
        """Picks a token so that the surprise, in bits, stays near `tau`; drops what would be more surprising than that.

        `eta` is how fast it adapts (0 to 1).

        Maps to `llama_sampler_init_mirostat_v2`.
        """
        arguments = (check.seed_number(seed), check.positive(tau, "tau"), check.within(eta, 0, 1, "eta"))
        return cls._plain("llama_sampler_init_mirostat_v2", lib.llama_sampler_init_mirostat_v2, *arguments, picks=True)

    @classmethod
    def initAdaptiveP(cls, target: float, decay: float = 0.9, seed: int = DEFAULT_SEED) -> Self:
        """Picks a token with a probability near `target`, averaged over the tokens picked so far.

        `target` goes from 0 to 1; a negative one picks by the probabilities as they are. `decay` (0 to 0.99) says how
        long the average reaches back: 1 / (1 - decay) tokens. It learns from `accept`, and belongs at the chain's end.

        Maps to `llama_sampler_init_adaptive_p`.
        """
        if check.finite(target, "target") > 1:
            raise ValueError(f"target is a probability from 0 to 1, or negative to switch it off, not {target}")
        arguments = (float(target), check.within(decay, 0, 0.99, "decay"), check.seed_number(seed))
        return cls._plain(
            "llama_sampler_init_adaptive_p", lib.llama_sampler_init_adaptive_p, *arguments, picks=True, adaptive=True
        )

    # Samplers that drop candidates

    @classmethod
    def initTopK(cls, k: int) -> Self:
        """Keeps the `k` most likely tokens; 0 or less keeps all.

        Maps to `llama_sampler_init_top_k`.
        """
        number = check.integer(k, -(1 << 31), (1 << 31) - 1, "k")
        return cls._plain("llama_sampler_init_top_k", lib.llama_sampler_init_top_k, number)

    @classmethod
    def initTopP(cls, p: float, minKeep: int = 1) -> Self:
        """Keeps the most likely tokens whose probabilities add up to `p`, and at least `minKeep`; 1 or more keeps all.

        Maps to `llama_sampler_init_top_p`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._plain("llama_sampler_init_top_p", lib.llama_sampler_init_top_p, *arguments)

    @classmethod
    def initMinP(cls, p: float, minKeep: int = 1) -> Self:
        """Keeps the tokens that are at least `p` times as likely as the likeliest, and at least `minKeep` tokens.

        0 or less keeps all.

        Maps to `llama_sampler_init_min_p`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._plain("llama_sampler_init_min_p", lib.llama_sampler_init_min_p, *arguments)

    @classmethod
    def initTypical(cls, p: float, minKeep: int = 1) -> Self:
        """Keeps the tokens whose surprise is nearest to the expected one, until their probabilities exceed `p`.

        At least `minKeep` are kept; a `p` of 1 or more keeps all. The candidates must not have been masked with -inf.

        Maps to `llama_sampler_init_typical`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._plain("llama_sampler_init_typical", lib.llama_sampler_init_typical, *arguments)

    @classmethod
    def initXtc(cls, p: float, t: float = 0.1, minKeep: int = 1, seed: int = DEFAULT_SEED) -> Self:
        """With probability `p`, drops all of the tokens of probability `t` or more but the least likely of them.

        At least `minKeep` tokens are kept. A `p` of 0 or a `t` above 0.5 switches it off.

        Maps to `llama_sampler_init_xtc`.
        """
        arguments = (
            check.within(p, 0, 1, "p"),
            check.within(t, 0, 1, "t"),
            check.min_keep(minKeep),
            check.seed_number(seed),
        )
        return cls._plain("llama_sampler_init_xtc", lib.llama_sampler_init_xtc, *arguments)

    @classmethod
    def initTopNSigma(cls, n: float) -> Self:
        """Masks with -inf the tokens whose logit is more than `n` standard deviations below the largest.

        0 or less keeps all.

        Maps to `llama_sampler_init_top_n_sigma`.
        """
        return cls._plain("llama_sampler_init_top_n_sigma", lib.llama_sampler_init_top_n_sigma, check.finite(n, "n"))

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

    # Samplers that change logits

    @classmethod
    def initTemp(cls, t: float) -> Self:
        """Divides the logits by `t`: below 1 the choice narrows, above it widens; 0 or less keeps only the likeliest.

        Maps to `llama_sampler_init_temp`.
        """
        return cls._plain("llama_sampler_init_temp", lib.llama_sampler_init_temp, check.finite(t, "t"))

    @classmethod
    def initTempExt(cls, t: float, delta: float = 0.0, exponent: float = 1.0) -> Self:
        """Divides the logits by a temperature from `t - delta` to `t + delta`, the higher the less sure the model is.

        The entropy of the candidates, as a part of the largest possible one, is raised to `exponent` and says where in
        that range. A `delta` of 0 is `initTemp`.

        Maps to `llama_sampler_init_temp_ext`.
        """
        arguments = (check.finite(t, "t"), check.finite(delta, "delta"), check.finite(exponent, "exponent"))
        if arguments[2] < 0:
            raise ValueError(f"exponent is 0 or more (1.0 is linear), not {exponent}")
        return cls._plain("llama_sampler_init_temp_ext", lib.llama_sampler_init_temp_ext, *arguments)

    @classmethod
    def initPenalties(
        cls, penaltyLastN: int, penaltyRepeat: float = 1.0, penaltyFreq: float = 0.0, penaltyPresent: float = 0.0
    ) -> Self:
        """Makes tokens less likely that were accepted lately.

        `penaltyLastN` is how many tokens back count: 0 switches it off, -1 means the context size, which becomes
        known with the first `sample`. `penaltyRepeat` divides (1.0 is off), `penaltyFreq` subtracts for each
        occurrence and `penaltyPresent` for the first (0.0 is off).

        Maps to `llama_sampler_init_penalties`.
        """
        n = check.last_n(penaltyLastN, "penaltyLastN")
        rest = (
            check.positive(penaltyRepeat, "penaltyRepeat", " (1.0 is off)"),
            check.finite(penaltyFreq, "penaltyFreq"),
            check.finite(penaltyPresent, "penaltyPresent"),
        )

        def make(n_ctx: int, n_vocab: int) -> Any:
            return lib.llama_sampler_init_penalties(n_vocab, n_ctx if n == -1 else n, *rest)

        sampler = cls._make(make(0, 0), Traits(("llama_sampler_init_penalties", n, *rest)))
        sampler._late, sampler._waits = make, n == -1
        return sampler

    @classmethod
    def initDry(
        cls,
        vocab: Vocab,
        dryMultiplier: float,
        dryBase: float = 1.75,
        dryAllowedLength: int = 2,
        dryPenaltyLastN: int = -1,
        seqBreakers: Iterable[Text] = _DRY_BREAKERS,
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
        length = check.integer(dryAllowedLength, 0, check.LAST_N_LIMIT, "dryAllowedLength")
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
            sampler._late, sampler._waits = make, True
        return sampler

    @classmethod
    def initLogitBias(cls, nVocab: Vocab | int, logitBias: Mapping[int, float] | Iterable[tuple[int, float]]) -> Self:
        """Adds to the logits of some tokens: `{token: bias}`, or pairs; -inf rules a token out.

        `nVocab` is the vocabulary or its size. Raises IndexError for a token that it does not have.

        Maps to `llama_sampler_init_logit_bias`.
        """
        size = check.vocab_size(nVocab)
        rows = check.biases(logitBias, size)
        array = ffi.new("struct llama_logit_bias[]", rows or 1)
        traits = Traits(("llama_sampler_init_logit_bias", size, *rows), n_vocab=size)
        return cls._make(lib.llama_sampler_init_logit_bias(size, len(rows), array), traits)

    # Samplers that know what comes next

    @classmethod
    def initGrammar(cls, vocab: Vocab, grammarStr: Text, grammarRoot: Text = "root") -> Self:
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
        grammarStr: Text,
        grammarRoot: Text = "root",
        triggerPatterns: Iterable[Text] = (),
        triggerTokens: Tokens = (),
    ) -> Self:
        """A grammar that allows anything until it is triggered; see `initGrammar`.

        A token of `triggerTokens` triggers it and must fit the grammar. So does text that matches one of
        `triggerPatterns` (regular expressions of C++): the grammar then starts with the pattern's first group, or with
        the match where it has none. The patterns are searched for in all of the text, again with every token: write
        `(<tool>)`, and no `.*` around it. Raises GrammarError for a pattern that C++ cannot read.

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
        )

    @classmethod
    def _grammar(
        cls, vocab: Vocab, operation: str, what: tuple[object, ...], make: Callable[[], Any], lazy: bool = False
    ) -> Self:
        try:
            pointer = make()
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
                log=native_log(),
            )
        traits = Traits(
            (operation, vocab._model, *what), n_vocab=vocab.nTokens, reads_ids=True, grammar=True, lazy=lazy
        )
        return cls._make(pointer, traits, vocab._model)

    @classmethod
    def _plain(
        cls,
        operation: str,
        function: Callable[..., Any],
        *arguments: float,
        picks: bool = False,
        n_vocab: int = 0,
        adaptive: bool = False,
    ) -> Self:
        traits = Traits((operation, *arguments), picks=picks, n_vocab=n_vocab, adaptive=adaptive)
        return cls._make(function(*arguments), traits)
