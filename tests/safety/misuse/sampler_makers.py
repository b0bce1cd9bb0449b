"""Making samplers."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_NUMBERS = (
    ("initTopP({})", "p"),
    ("initMinP({})", "p"),
    ("initTypical({})", "p"),
    ("initXtc({}, .1)", "p"),
    ("initXtc(.5, {})", "t"),
    ("initTopNSigma({})", "n"),
    ("initTemp({})", "t"),
    ("initTempExt({})", "t"),
    ("initTempExt(1, {})", "delta"),
    ("initTempExt(1, 1, {})", "exponent"),
    ("initMirostat(364, 1, {})", "tau"),
    ("initMirostat(364, 1, 5, {})", "eta"),
    ("initMirostatV2(1, {})", "tau"),
    ("initMirostatV2(1, 5, {})", "eta"),
    ("initAdaptiveP({})", "target"),
    ("initAdaptiveP(.5, {})", "decay"),
    ("initPenalties(8, {})", "penaltyRepeat"),
    ("initPenalties(8, 1, {})", "penaltyFreq"),
    ("initPenalties(8, 1, 0, {})", "penaltyPresent"),
)
_REFUSED = (
    ("initTopK(1 << 40)", "llama_sampler_init_top_k", "ValueError", "k must be between"),
    ("initTopK(1.5)", "llama_sampler_init_top_k", "TypeError", "k must be an integer"),
    ("initTopP(.5, -1)", "llama_sampler_init_top_p", "ValueError", "minKeep"),
    ("initTopP('x')", "llama_sampler_init_top_p", "TypeError", "p must be a number"),
    ("initXtc(2.0)", "llama_sampler_init_xtc", "ValueError", "between 0 and 1"),
    ("initMirostat(0)", "llama_sampler_init_mirostat", "ValueError", "nVocab must be between 1"),
    ("initMirostat(364, 1, 5, .1, 0)", "llama_sampler_init_mirostat", "ValueError", "m must be between 2"),
    ("initMirostat(364, 1, -1)", "llama_sampler_init_mirostat", "ValueError", "tau must be greater than 0"),
    ("initMirostatV2(1, 5, 2)", "llama_sampler_init_mirostat_v2", "ValueError", "eta must be between 0 and 1"),
    ("initTempExt(1, 1, -1)", "llama_sampler_init_temp_ext", "ValueError", "exponent"),
    ("initAdaptiveP(1.5)", "llama_sampler_init_adaptive_p", "ValueError", "target"),
    ("initAdaptiveP(.5, 1.0)", "llama_sampler_init_adaptive_p", "ValueError", "decay must be between 0 and 0.99"),
    ("initDist(-1)", "llama_sampler_init_dist", "ValueError", "seed must be between 0"),
    ("initDist(1 << 32)", "llama_sampler_init_dist", "ValueError", "4294967296"),
    ("initPenalties((1 << 31) - 1)", "llama_sampler_init_penalties", "ValueError", "and 1048576"),
    ("initPenalties(-2)", "llama_sampler_init_penalties", "ValueError", "-1 and 1048576, got -2"),
    ("initPenalties(8, 0)", "llama_sampler_init_penalties", "ValueError", "penaltyRepeat must be greater than 0"),
    (
        "initLogitBias(364, {364: 1.0})",
        "llama_sampler_init_logit_bias",
        "IndexError",
        "363, the last of the vocabulary, got 364",
    ),
    (
        "initLogitBias(364, {-1: 1.0})",
        "llama_sampler_init_logit_bias",
        "IndexError",
        "363, the last of the vocabulary, got -1",
    ),
    ("initLogitBias(364, [(5, 1.0), (5, 2.0)])", "llama_sampler_init_logit_bias", "ValueError", "two biases"),
    ("initLogitBias(364, {5: math.nan})", "llama_sampler_init_logit_bias", "ValueError", "got nan"),
    ("initLogitBias(364, {5: math.inf})", "llama_sampler_init_logit_bias", "ValueError", "got inf"),
    ("initLogitBias(364, {5: 1e300})", "llama_sampler_init_logit_bias", "ValueError", "1e+300"),
    ("initLogitBias(0, {})", "llama_sampler_init_logit_bias", "ValueError", "nVocab must be between 1"),
    ("initLogitBias(364, None)", "llama_sampler_init_logit_bias", "TypeError", ""),
    # which read the vocabulary
    ("initDry(v, 1.0, dryPenaltyLastN=(1 << 31) - 1)", "llama_sampler_init_dry", "ValueError", "and 1048576"),
    ("initDry(v, 1.0, dryAllowedLength=-1)", "llama_sampler_init_dry", "ValueError", "dryAllowedLength"),
    ("initDry(v, -1.0)", "llama_sampler_init_dry", "ValueError", "dryMultiplier must be at least 0"),
    ("initDry(v, 1.0, .5)", "llama_sampler_init_dry", "ValueError", "dryBase at least 1, got 1.0 and 0.5"),
    ("initDry(v, math.inf)", "llama_sampler_init_dry", "ValueError", "dryMultiplier must be finite, got inf"),
    (
        "initDry(v, 1.0, seqBreakers='ab')",
        "llama_sampler_init_dry",
        "TypeError",
        "seqBreakers: expected an iterable of texts, got str",
    ),
    ("initDry(v, 1.0, seqBreakers=[b'\\xff'])", "llama_sampler_init_dry", "UnicodeDecodeError", ""),
    ("initDry(v, 1.0, seqBreakers=['\\ud800'])", "llama_sampler_init_dry", "UnicodeEncodeError", ""),
    ("initDry(v, 1.0, seqBreakers=['x' * 41])", "llama_sampler_init_dry", "ValueError", "at most 40 bytes, got 41"),
    ("initDry(v, 1.0, seqBreakers=['a\\0b'])", "llama_sampler_init_dry", "ValueError", "NUL"),
    ("initDry(v, 1.0, seqBreakers=[''])", "llama_sampler_init_dry", "ValueError", "empty"),
    ("initDry(None, 1.0)", "llama_sampler_init_dry", "TypeError", "model.vocab"),
    ("initDry(n, 1.0)", "llama_sampler_init_dry", "ValueError", "no tokenizer"),
    ("initInfill(None)", "llama_sampler_init_infill", "TypeError", "model.vocab"),
    ("initInfill(n)", "llama_sampler_init_infill", "ValueError", "no tokenizer"),
    ("initGrammar(None, 'root ::= \"a\"')", "llama_sampler_init_grammar", "TypeError", "model.vocab"),
    ("initGrammar(n, 'root ::= \"a\"')", "llama_sampler_init_grammar", "ValueError", "no tokenizer"),
    ("initGrammar(v, None)", "llama_sampler_init_grammar", "TypeError", "grammarStr"),
    ("initGrammar(v, '')", "llama_sampler_init_grammar", "ValueError", "grammarStr must not be empty"),
    ("initGrammar(v, 'root ::= \"a\"', None)", "llama_sampler_init_grammar", "TypeError", "grammarRoot"),
    (
        "initGrammar(v, 'root ::= \"a\"', '')",
        "llama_sampler_init_grammar",
        "ValueError",
        "grammarRoot must not be empty",
    ),
    ("initGrammar(v, 'root ::= \"a\"', 'other')", "llama_sampler_init_grammar", "GrammarError", "cannot parse"),
    ("initGrammar(v, 'root ::= root \"a\"')", "llama_sampler_init_grammar", "GrammarError", "left recursion"),
    ("initGrammar(v, b'root ::= \"\\xff\"')", "llama_sampler_init_grammar", "UnicodeDecodeError", ""),
    (
        "initGrammar(v, 'root ::= ' + '(' * 100_000 + '\"a\"')",
        "llama_sampler_init_grammar",
        "ValueError",
        "256 deep, got 100000",
    ),
    (
        "initGrammar(v, 'root ::= ' + '\"a\" | ' * 100_000)",
        "llama_sampler_init_grammar",
        "ValueError",
        "at most 524288 bytes, got 600009",
    ),
    ("initGrammar(v, 'root ::= \"a\\0\"')", "llama_sampler_init_grammar", "ValueError", "NUL"),
    ("initGrammarLazyPatterns(v, g)", "llama_sampler_init_grammar_lazy_patterns", "ValueError", "nothing would ever"),
    (
        "initGrammarLazyPatterns(v, g, triggerPatterns=['('])",
        "llama_sampler_init_grammar_lazy_patterns",
        "GrammarError",
        "regular",
    ),
    (
        "initGrammarLazyPatterns(v, g, triggerPatterns=['('*300+'a'+')'*300])",
        "llama_sampler_init_grammar_lazy_patterns",
        "ValueError",
        "256 deep",
    ),
    (
        "initGrammarLazyPatterns(v, g, triggerPatterns=['a' * 5000])",
        "llama_sampler_init_grammar_lazy_patterns",
        "ValueError",
        "4096",
    ),
    (
        "initGrammarLazyPatterns(v, g, triggerPatterns='ab')",
        "llama_sampler_init_grammar_lazy_patterns",
        "TypeError",
        "triggerPatterns: expected an iterable of texts, got str",
    ),
    (
        "initGrammarLazyPatterns(v, g, triggerTokens=[364])",
        "llama_sampler_init_grammar_lazy_patterns",
        "IndexError",
        "364",
    ),
    (
        "initGrammarLazyPatterns(v, g, triggerTokens=[-1])",
        "llama_sampler_init_grammar_lazy_patterns",
        "IndexError",
        "-1",
    ),
    ("initGrammarLazyPatterns(v, g, triggerTokens=5)", "llama_sampler_init_grammar_lazy_patterns", "TypeError", "[5]"),
)
_SETUP = "v, n, g = load().vocab, load('no-tokenizer').vocab, 'root ::= \"yes\"'\n"

CASES = (
    *(
        Case(
            f"{make.format(value)}",
            CHECK,
            "llama_sampler_init",
            f"Sampler.{make.format(f'math.{value}')}",
            "ValueError",
            f"{name} must be finite",
        )
        for make, name in _NUMBERS
        for value in ("nan", "inf")
    ),
    *(
        Case(make[:70], CHECK, function, _SETUP + f"Sampler.{make}", error, words)
        for make, function, error, words in _REFUSED
    ),
    *(
        Case(
            f"the grammar {text}",
            CHECK,
            "llama_sampler_init_grammar",
            f"Sampler.initGrammar(load().vocab, {text!r})",
            "GrammarError",
            words,
        )
        for text, words in (
            ("nonsense", "cannot parse"),
            ('root ::= "a"{99999999999999999999}', "cannot parse"),
            ("root ::= [", "cannot parse"),
            ('root ::= "\\x"', "cannot parse"),
            ('root ::= "a"{1000000}', "cannot parse"),
            ("root ::= undefined", "the rule 'undefined' is not defined"),
            ('root ::= "a"{3,1}', "the second number of {3,1}"),
            ('root ::= "' + "a" * 3000 + '"{2000}', "4194304 elements"),
            ('root ::= a\na ::= b\nb ::= e a "x" | "y"\ne ::= f\nf ::= ""', "left recursion"),
        )
    ),
    *(
        Case(
            f"a grammar of {name}",
            CHECK,
            "llama_sampler_apply",
            f"v = load().vocab; s = Sampler.initGrammar(v, {text})\nbegan = time.process_time()\n"
            "for _ in range(3): s.apply(TokenDataArray(N_VOCAB)); s.accept(next(t for t in range(N_VOCAB) "
            "if v.tokenToPiece(t) == 'a'))\nassert time.process_time() - began < 10",
        )
        for name, text in (
            ("300 optional letters", "'root ::= ' + '\"a\"? ' * 300"),
            (
                "60 doubling rules",
                "'root ::= r0\\n' + ''.join(f'r{i} ::= r{i + 1} | r{i + 1}\\n' for i in range(60)) + 'r60 ::= \"a\"+'",
            ),
            (
                "20,000 rules in a row",
                "'root ::= r0\\n' + ''.join(f'r{i} ::= r{i + 1}\\n' for i in range(20_000)) + 'r20000 ::= \"a\"+'",
            ),
            ("endings that are empty in two ways", '\'root ::= r\\nr ::= "a" r e | "b"\\ne ::= "" | []\''),
        )
    ),
    Case(
        "a grammar with 40 ways to read each letter",
        CHECK,
        "llama_sampler_apply",
        "v = load().vocab; a = next(t for t in range(N_VOCAB) if v.tokenToPiece(t) == 'a')\n"
        "rules = ' | '.join(f'\"a\" x y{i}' for i in range(40))\n"
        "g = f'root ::= x\\nx ::= {rules} | \"b\"\\n' + ''.join(f'y{i} ::= \"{i}\"\\n' for i in range(40))\n"
        "s = Sampler.initGrammar(v, g)\nfor _ in range(50): s.apply(TokenDataArray(N_VOCAB)); s.accept(a)",
        "GrammarError",
        "33554432 steps",
    ),
    *(
        Case(
            f"a sampler in Python that sets {name}, before {pick}",
            CHECK,
            "llama_sampler_apply",
            "class Bad:\n    def apply(self, c):\n"
            f"        for x in c: x.{field} = float('{value}')\n"
            "c = decoded()\n"
            f"Sampler.chain(Sampler.init(Bad()), Sampler.{pick}).sample(c)",
            "ValueError",
            words,
        )
        for name, field, value, words in (
            ("every logit to NaN", "logit", "nan", "to NaN"),
            ("every p to NaN", "p", "nan", "to NaN"),
            ("every logit to -inf", "logit", "-inf", "no candidate has a probability"),
        )
        for pick in ("initDist(1)", "initGreedy()", "initMirostatV2(1, 5.0, 0.1)")
    ),
    *(
        Case(
            f"nothing but {value}, and initDist",
            CHECK,
            "llama_sampler_apply",
            f"Sampler.initDist(1).apply(TokenDataArray([(i, math.inf * {sign}) for i in range(9)]))",
            "ValueError",
            "no candidate has a probability",
        )
        for value, sign in (("-inf", -1), ("+inf", 1))
    ),
    Case(
        "biases that rule every token out",
        CHECK,
        "llama_sampler_sample",
        "c = decoded(); b = {t: -math.inf for t in range(N_VOCAB)}\n"
        "Sampler.chain(Sampler.initLogitBias(N_VOCAB, b), Sampler.initDist(1)).sample(c)",
        "ValueError",
        "no candidate has a probability",
    ),
    Case(
        "a vocabulary whose model was freed",
        OWNERSHIP,
        "llama_sampler_init_dry",
        "m = load(); v = m.vocab; m.free(); Sampler.initDry(v, 1.0)",
        "ClosedError",
        "freed",
    ),
    Case(
        "a size of a vocabulary whose model was freed",
        OWNERSHIP,
        "llama_sampler_init_mirostat",
        "m = load(); v = m.vocab; m.free(); Sampler.initMirostat(v)",
        "ClosedError",
        "freed",
    ),
    # Past the facade
    Case(
        "a NULL grammar past the facade",
        GUARD,
        "llama_sampler_init_grammar",
        "v = load().vocab; lib.llama_sampler_init_grammar(v._c, b'root ::= \"a\"', ffi.NULL)",
        "NativeError",
    ),
    Case(
        "an endless memory of penalties past the facade",
        GUARD,
        "llama_sampler_init_penalties",
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n"
        "lib.llama_sampler_init_penalties(0, (1 << 31) - 1, 1.1, 0.0, 0.0)",
        "NativeMemoryError",
    ),
    Case(
        "a pattern that cannot be parsed past the facade",
        GUARD,
        "llama_sampler_init_grammar_lazy_patterns",
        "v = load().vocab; w = ffi.new('char[]', b'('); a = ffi.new('char *[]', [w])\n"
        "lib.llama_sampler_init_grammar_lazy_patterns(v._c, b'root ::= \"a\"', b'root', a, 1, ffi.NULL, 0)",
        "NativeError",
    ),
    Case(
        "no patterns where there should be some past the facade",
        GUARD,
        "llama_sampler_init_grammar_lazy_patterns",
        "v = load().vocab\n"
        "lib.llama_sampler_init_grammar_lazy_patterns(v._c, b'root ::= \"a\"', b'root', ffi.NULL, 1, ffi.NULL, 0)",
        "NativeAssertionError",
    ),
    Case(
        "infill without a tokenizer past the facade",
        GUARD,
        "llama_sampler_init_infill",
        "v = load('no-tokenizer').vocab; s = lib.llama_sampler_init_infill(v._c)\n"
        "d = ffi.new('struct llama_token_data[]', 3); "
        "a = ffi.new('struct llama_token_data_array *', [d, 3, -1, False])\n"
        "lib.llama_sampler_apply(s, a)",
        "NativeAssertionError",
    ),
    # Grammars at work
    Case(
        "a grammar with very many alternatives",
        CHECK,
        "llama_sampler_init_grammar",
        "m = load(); s = Sampler.initGrammar(m.vocab, 'root ::= ' + ' | '.join(f'\"{i}\"' for i in range(9999)))\n"
        "s.apply(TokenDataArray(N_VOCAB)); s.reset()",
    ),
    Case(
        "rules that call each other deeply",
        CHECK,
        "llama_sampler_init_grammar",
        "rules = ['root ::= r0'] + [f'r{i} ::= r{i + 1}' for i in range(15000)] + ['r15000 ::= \"a\"']\n"
        "try: Sampler.initGrammar(load().vocab, '\\n'.join(rules)).apply(TokenDataArray(N_VOCAB))\n"
        "except (ValueError, GrammarError): pass",
    ),
    *(
        Case(
            f"{name} on a thread with a small stack",
            CHECK,
            "llama_sampler_init_grammar",
            "m = load()\n"
            "def work():\n"
            f"    s = Sampler.initGrammar(m.vocab, {grammar})\n"
            "    s.apply(TokenDataArray(N_VOCAB)); s.reset()\n"
            "    s.apply(TokenDataArray(N_VOCAB))\n"
            "threading.stack_size(256 << 10); t = threading.Thread(target=work); t.start(); t.join()\n"
            "threading.stack_size(0)",
        )
        for name, grammar in (
            (
                "rules that call each other",
                "'root ::= r0\\n' + ''.join(f'r{i} ::= r{i + 1}\\n' for i in range(9999)) + 'r9999 ::= \"a\"'",
            ),
            ("a repetition of what may be empty", "'root ::= (\"a\"?){0,900}'"),
        )
    ),
    Case(
        "rules that repeat each other without end",
        CHECK,
        "llama_sampler_init_grammar",
        "try: Sampler.initGrammar(load().vocab, 'root ::= a*\\na ::= b*\\nb ::= \"\"').apply(TokenDataArray(N_VOCAB))\n"
        "except GrammarError: pass",
    ),
    Case(
        "a long text before a lazy grammar's trigger",
        CHECK,
        "llama_sampler_accept",
        "m = load(); token = tokenize(m.vocab, 'a', addSpecial=False)[-1]\n"
        "s = Sampler.initGrammarLazyPatterns(m.vocab, 'root ::= \"yes\"', triggerPatterns=['(?:a|q)*(<tool>)'])\n"
        "def work():\n    for _ in range(500): s.accept(token)\n"
        "threading.stack_size(256 << 10); t = threading.Thread(target=work); t.start(); t.join()\n"
        "threading.stack_size(0)",
    ),
    *(
        Case(
            f"a trigger that may backtrack without end: {pattern}",
            CHECK,
            "llama_sampler_init_grammar_lazy_patterns",
            f"Sampler.initGrammarLazyPatterns(load().vocab, 'root ::= \"a\"', triggerPatterns=[{pattern!r}])",
            "ValueError",
            "exponential time",
        )
        for pattern in ("(a*)*b", "(?:a+)+b", "((a|b)*c)+", "(a{2,9}){3,}", r"([^\]]+,?)*")
    ),
    # Parameters of chains
    Case(
        "params of a chain of another class",
        CHECK,
        "llama_sampler_chain_init",
        "Sampler.chainInit({})",
        "TypeError",
        "ChainParams",
    ),
    Case(
        "a configuration of no chain",
        CHECK,
        "llama_sampler_seq_config",
        "SamplerSeqConfig(0, None)",
        "TypeError",
        "Sampler",
    ),
    Case(
        "a configuration of an empty chain",
        CHECK,
        "llama_sampler_seq_config",
        "SamplerSeqConfig(0, Sampler.chainInit())",
        "ValueError",
        "empty",
    ),
    Case(
        "a configuration of a negative sequence",
        CHECK,
        "llama_sampler_seq_config",
        "SamplerSeqConfig(-1, Sampler.chain(Sampler.initGreedy()))",
        "ValueError",
        "-1",
    ),
)
