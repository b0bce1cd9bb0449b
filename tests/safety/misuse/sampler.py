"""Using samplers: sampling, accepting, chains, their end."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_OWN = "class Own:\n    def apply(self, candidates): {}\n"
_RAW = (
    "def raw(s, n=0):\n"
    "    d = ffi.new('struct llama_token_data[]', max(n, 1))\n"
    "    a = ffi.new('struct llama_token_data_array *', [d, n, -1, False]); "
    "lib.llama_sampler_apply(s._c, a)\n"
    "    assert not 0 <= a.selected < n or n, a.selected\n"
)

CASES = (
    # sample
    Case(
        "before any decode",
        CHECK,
        "llama_sampler_sample",
        "Sampler.initGreedy().sample(context())",
        "IndexError",
        "decode a batch first",
    ),
    Case(
        "an entry that does not exist",
        CHECK,
        "llama_sampler_sample",
        "Sampler.initGreedy().sample(decoded(), 5)",
        "IndexError",
        "entry 5",
    ),
    Case(
        "an entry without output",
        CHECK,
        "llama_sampler_sample",
        "c = context(); c.decode(batch(3)); Sampler.initGreedy().sample(c, 0)",
        "IndexError",
        "batch.output[i] = 1",
    ),
    Case(
        "before any decode past the facade",
        GUARD,
        "llama_sampler_sample",
        "s, c = Sampler.initGreedy(), context(); lib.llama_sampler_sample(s._c, c._c, -1)",
        "NativeAssertionError",
    ),
    Case(
        "an empty chain",
        CHECK,
        "llama_sampler_sample",
        "Sampler.chainInit().sample(decoded())",
        "ValueError",
        "initDist",
    ),
    Case(
        "a chain that picks nothing",
        CHECK,
        "llama_sampler_sample",
        "Sampler.chain(Sampler.initTopK(3), Sampler.initPenalties(8)).sample(decoded())",
        "ValueError",
        "no sampler picked a token",
    ),
    Case(
        "a sampler that picks nothing",
        CHECK,
        "llama_sampler_sample",
        "Sampler.initTopK(3).sample(decoded())",
        "ValueError",
        "initDist",
    ),
    Case(
        "a chain that picks nothing past the facade",
        GUARD,
        "llama_sampler_sample",
        "s, c = Sampler.initTopK(3), decoded(); lib.llama_sampler_sample(s._c, c._c, -1)",
        "NativeAssertionError",
    ),
    Case(
        "a sampler of one's own that picks nothing",
        CHECK,
        "llama_sampler_sample",
        _OWN.format("pass") + "Sampler.init(Own()).sample(decoded())",
        "ValueError",
        "candidates.selected",
    ),
    Case("no context", CHECK, "llama_sampler_sample", "Sampler.initGreedy().sample(None)", "TypeError", "Context"),
    Case(
        "a context of another vocabulary",
        CHECK,
        "llama_sampler_sample",
        "m = load(); Sampler.chain(grammar(m), Sampler.initGreedy()).sample(decoded('gpt2'))",
        "ValueError",
        "vocabulary of 364 tokens",
    ),
    Case(
        "logits that are NaN",
        CHECK,
        "llama_sampler_sample",
        "c = decoded(); c.getLogitsIth()[7] = math.nan; Sampler.initGreedy().sample(c)",
        "ValueError",
        "NaN",
    ),
    Case(
        "logits that are all -inf",
        CHECK,
        "llama_sampler_sample",
        "c = decoded(); v = c.getLogitsIth()\nfor i in range(len(v)): v[i] = -math.inf\n"
        "narrow = Sampler.chain(Sampler.initTopP(.5), Sampler.initDist(1))\n"
        "for s in (Sampler.initGreedy(), Sampler.initDist(1), narrow):\n"
        "    raises(ValueError, lambda: s.sample(c), 'no candidate has a probability')",
    ),
    Case(
        "logits that are all inf",
        CHECK,
        "llama_sampler_sample",
        "c = decoded(); v = c.getLogitsIth()\nfor i in range(len(v)): v[i] = math.inf\n"
        "narrow = Sampler.chain(Sampler.initTopK(9), Sampler.initDist(1))\n"
        "assert 0 <= Sampler.initGreedy().sample(c) < N_VOCAB\n"
        "for s in (Sampler.initDist(1), narrow):\n"
        "    raises(ValueError, lambda: s.sample(c), 'no candidate has a probability')",
    ),
    Case(
        "a sampler of a freed context",
        OWNERSHIP,
        "llama_sampler_sample",
        "c = decoded(); c.free(); Sampler.initGreedy().sample(c)",
        "ClosedError",
        "it was freed",
    ),
    # apply
    *(
        Case(
            f"{make.split('(')[0]} on no candidates",
            GUARD,
            "llama_sampler_apply",
            f"{_RAW}raw(Sampler.{make})",
            error,
        )
        for make, error in (
            ("initTopP(.5)", "NativeAssertionError"),
            ("initTypical(.5)", "NativeAssertionError"),
            ("initMirostat(364)", "NativeAssertionError"),
            ("initMirostatV2()", "NativeAssertionError"),
            ("initAdaptiveP(.5)", "NativeAssertionError"),
            ("initTempExt(1, .5)", ""),
            ("initInfill(load().vocab)", "NativeAssertionError"),
            ("initDist(1)", ""),
            ("initGreedy()", ""),
            ("initMinP(.1)", ""),
            ("initXtc(1.0)", ""),
            ("initTopNSigma(1.0)", ""),
        )
    ),
    Case("no candidates", CHECK, "llama_sampler_apply", "TokenDataArray([])", "ValueError", "1 and 67108864, got 0"),
    Case("a negative number of candidates", CHECK, "llama_sampler_apply", "TokenDataArray(-1)", "ValueError", "-1"),
    Case(
        "too many candidates",
        CHECK,
        "llama_sampler_apply",
        "TokenDataArray(1 << 40)",
        "ValueError",
        "1 and 67108864, got 1099511627776",
    ),
    Case(
        "candidates of another class",
        CHECK,
        "llama_sampler_apply",
        "Sampler.initGreedy().apply([1])",
        "TypeError",
        "fromLogits",
    ),
    Case("no size", CHECK, "llama_sampler_apply", "TokenDataArray(3).size = 0", "ValueError", "between 1 and 3"),
    Case(
        "a size beyond the memory",
        CHECK,
        "llama_sampler_apply",
        "TokenDataArray(3).size = 4",
        "ValueError",
        "between 1 and 3",
    ),
    Case(
        "a pick beyond the candidates",
        CHECK,
        "llama_sampler_apply",
        "TokenDataArray(3).selected = 3",
        "IndexError",
        "3",
    ),
    Case("a candidate beyond the last", CHECK, "llama_sampler_apply", "TokenDataArray(3)[3]", "IndexError", "3"),
    Case(
        "more rows than there is room for",
        CHECK,
        "llama_sampler_apply",
        "TokenDataArray(3).data = [(1, 2.0)] * 4",
        "ValueError",
        "3 candidates, got 4",
    ),
    Case(
        "a logit that is NaN",
        CHECK,
        "llama_sampler_apply",
        "Sampler.initGreedy().apply(TokenDataArray.fromLogits([1.0, math.nan]))",
        "ValueError",
        "NaN",
    ),
    Case(
        "a token that the grammar's vocabulary lacks",
        CHECK,
        "llama_sampler_apply",
        "grammar(load()).apply(TokenDataArray([(9999, 1.0)]))",
        "IndexError",
        "363, the last of the vocabulary, got 9999",
    ),
    Case(
        "a token that infill's vocabulary lacks",
        CHECK,
        "llama_sampler_apply",
        "Sampler.initInfill(load().vocab).apply(TokenDataArray([(-1, 1.0)]))",
        "IndexError",
        "363, the last of the vocabulary, got -1",
    ),
    Case(
        "a token that mirostat's vocabulary lacks",
        CHECK,
        "llama_sampler_apply",
        "a = TokenDataArray([(9999, 1.0), (-5, 0.0)]); Sampler.initMirostat(364).apply(a)",
    ),
    Case(
        "candidates that xtc moved",
        CHECK,
        "llama_sampler_apply",
        "a = TokenDataArray.fromLogits([1.0] * 9)\n"
        "for _ in range(9): Sampler.initXtc(1.0, 0.05, 1, 7).apply(a); a.size, list(a), a.view()",
    ),
    Case(
        "every sampler on one candidate",
        CHECK,
        "llama_sampler_apply",
        "m = load(); v = m.vocab\n"
        "s = Sampler\n"
        "for s in (s.initTopK(0), s.initTopP(0.0), s.initMinP(9.0), s.initTypical(0.0), s.initXtc(1.0, 0.0),\n"
        "          s.initTopNSigma(0.1), s.initTemp(0.0), s.initTempExt(0, 1), s.initMirostat(v), s.initMirostatV2(),\n"
        "          s.initAdaptiveP(1.0), s.initInfill(v), s.initDry(v, 1.0), s.initPenalties(-1, 2.0), s.initDist(),\n"
        "          s.initGreedy()):\n"
        "    a = TokenDataArray([(5, -1.0)]); s.apply(a); assert a.size == 1 and a.selected in (-1, 0), s.name",
    ),
    Case(
        "a sampler of one's own that keeps its candidates",
        OWNERSHIP,
        "llama_sampler_apply",
        "kept = []\n"
        + _OWN.format("kept.append(candidates); candidates.selected = 0")
        + "Sampler.init(Own()).sample(decoded()); kept[0][0]",
        "ClosedError",
        "copy what you need",
    ),
    Case(
        "a sampler of one's own that keeps one candidate",
        OWNERSHIP,
        "llama_sampler_apply",
        "kept = []\n"
        + _OWN.format("kept.append(candidates[5]); candidates.selected = 0")
        + "Sampler.init(Own()).sample(decoded()); gc.collect(); kept[0].logit = 1.0; kept[0].id",
    ),
    Case(
        "a sampler of one's own that raises",
        OWNERSHIP,
        "llama_sampler_apply",
        _OWN.format("raise KeyError('mine')") + "Sampler.init(Own()).sample(decoded())",
        "KeyError",
        "mine",
    ),
    Case(
        "a sampler of one's own that picks a token that does not exist",
        OWNERSHIP,
        "llama_sampler_sample",
        _OWN.format("candidates[0] = (99999, 1.0); candidates.selected = 0") + "Sampler.init(Own()).sample(decoded())",
        "ValueError",
        "99999",
    ),
    Case(
        "a sampler of one's own that writes NaN before others",
        OWNERSHIP,
        "llama_sampler_apply",
        _OWN.format("candidates[0] = (0, math.nan)")
        + "c = Sampler.chain(Sampler.init(Own()), Sampler.initTopK(40), Sampler.initTopP(.9), Sampler.initDist(1))\n"
        "try: c.sample(decoded())\nexcept ValueError: pass",
    ),
    Case("an object without apply", CHECK, "llama_sampler_init", "Sampler.init(object())", "TypeError", "apply"),
    Case(
        "a sampler of one's own that shrinks to nothing",
        OWNERSHIP,
        "llama_sampler_apply",
        _OWN.format("candidates.size = 0") + "Sampler.init(Own()).sample(decoded())",
        "ValueError",
        "size",
    ),
    Case(
        "a sampler of one's own that is gone",
        OWNERSHIP,
        "llama_sampler_init",
        _OWN.format("candidates.selected = 0") + "s = Sampler.init(Own()); gc.collect(); s.sample(decoded())",
    ),
    # accept
    *(
        Case(
            f"token {token} accepted",
            CHECK,
            "llama_sampler_accept",
            f"Sampler.initPenalties(8, 1.1).accept({token})",
            error,
        )
        for token, error in ((-1, "ValueError"), (1 << 31, "ValueError"), ("None", "TypeError"), ("'x'", "TypeError"))
    ),
    Case(
        "a token that the grammar does not allow",
        GUARD,
        "llama_sampler_accept",
        "grammar(load()).accept(5)",
        "ValueError",
        "does not allow token 5",
    ),
    Case(
        "a token that the grammar does not allow past the facade",
        GUARD,
        "llama_sampler_accept",
        "s = grammar(load()); lib.llama_sampler_accept(s._c, 5)",
        "NativeError",
    ),
    Case(
        "a grammar after an assertion",
        GUARD,
        "llama_sampler_accept",
        "s = grammar(load()); raises(NativeError, lambda: lib.llama_sampler_accept(s._c, 5)); "
        "s.apply(TokenDataArray(9))",
        "ClosedError",
        "half-changed",
    ),
    Case(
        "the end of a text before the grammar's",
        GUARD,
        "llama_sampler_accept",
        "m = load(); grammar(m).accept(m.vocab.eos)",
        "ValueError",
        "does not allow token 2",
    ),
    Case(
        "a token accepted that the grammar's vocabulary lacks",
        CHECK,
        "llama_sampler_accept",
        "grammar(load()).accept(364)",
        "IndexError",
        "364",
    ),
    Case(
        "a grammar that refuses in the middle of a chain",
        CHECK,
        "llama_sampler_sample",
        "m = load(); c = Sampler.chain(Sampler.initGreedy(), grammar(m)); c.sample(decoded(m))",
        "ValueError",
        "start of the chain",
    ),
    Case("adaptive-p accepting before it picked", CHECK, "llama_sampler_accept", "Sampler.initAdaptiveP(.5).accept(5)"),
    Case(
        "a clone of adaptive-p accepting before it picked",
        CHECK,
        "llama_sampler_clone",
        "s = Sampler.initAdaptiveP(.5); s.apply(TokenDataArray(9)); t = s.clone(); t.accept(5); t.accept(0)",
    ),
    # Chains
    Case(
        "added to no chain",
        CHECK,
        "llama_sampler_chain_add",
        "Sampler.initGreedy().chainAdd(Sampler.initGreedy())",
        "TypeError",
        "chainAdd: expected a chain, got a 'greedy'",
    ),
    Case(
        "nothing added", CHECK, "llama_sampler_chain_add", "Sampler.chainInit().chainAdd(None)", "TypeError", "Sampler"
    ),
    Case(
        "added twice",
        OWNERSHIP,
        "llama_sampler_chain_add",
        "s = Sampler.initGreedy(); c = Sampler.chain(s); c.chainAdd(s)",
        "ValueError",
        "s.clone()",
    ),
    Case(
        "added to two chains",
        OWNERSHIP,
        "llama_sampler_chain_add",
        "s = Sampler.initGreedy(); c = Sampler.chain(s); Sampler.chain(s)",
        "ValueError",
        "s.clone()",
    ),
    Case(
        "added to itself",
        OWNERSHIP,
        "llama_sampler_chain_add",
        "c = Sampler.chainInit(); c.chainAdd(c)",
        "ValueError",
        "to itself",
    ),
    Case(
        "a cycle of chains",
        OWNERSHIP,
        "llama_sampler_chain_add",
        "inner = Sampler.chainInit(); outer = Sampler.chain(Sampler.chain(inner)); inner.chainAdd(outer)",
        "ValueError",
        "to itself",
    ),
    Case(
        "chains nested deeply",
        OWNERSHIP,
        "llama_sampler_chain_add",
        "c = Sampler.initGreedy()\nfor _ in range(200_000): c = Sampler.chain(c)",
        "ValueError",
        "deep",
    ),
    Case(
        "a chain of None", CHECK, "llama_sampler_chain_init", "Sampler.chain(None)", "TypeError", "a Sampler, got None"
    ),
    Case(
        "a chain of a sampler twice",
        OWNERSHIP,
        "llama_sampler_chain_init",
        "s = Sampler.initGreedy(); raises(ValueError, lambda: Sampler.chain(s, s), 'its clone()'); s.sample(decoded())",
    ),
    Case(
        "a chain of a freed sampler",
        OWNERSHIP,
        "llama_sampler_chain_init",
        "a, s = Sampler.initTopK(3), Sampler.initGreedy(); s.free(); Sampler.chain(a, s)",
        "ClosedError",
        "freed",
    ),
    Case(
        "members of a chain that could not be made",
        OWNERSHIP,
        "llama_sampler_chain_init",
        "a, b = Sampler.initTopK(3), Sampler.initGreedy(); c = Sampler.chain(b)\n"
        "raises(ValueError, lambda: Sampler.chain(a, b), 'belongs to a chain'); gc.collect()\n"
        "assert c.chainCount == 1; Sampler.chain(a, Sampler.initGreedy()).sample(decoded()); c.sample(decoded())",
    ),
    Case(
        "a chain of one that works",
        OWNERSHIP,
        "llama_sampler_chain_init",
        _OWN.format("Sampler.chain(Sampler.initTopK(2), s)") + "s = Sampler.init(Own()); s.sample(decoded())",
        "BusyError",
        "in use",
    ),
    Case(
        "a chain given to a context as a member",
        OWNERSHIP,
        "llama_sampler_chain_init",
        "c = Sampler.chain(Sampler.initGreedy()); x = context(samplers={0: c}); Sampler.chain(c)",
        "ValueError",
        "s.clone()",
    ),
    Case(
        "one sampler for the chains of many threads",
        OWNERSHIP,
        "llama_sampler_chain_add",
        "def race():\n"
        "    s, chains = Sampler.initGreedy(), []\n"
        "    def make(): chains.append(Sampler.chain(Sampler.initTopK(9), s))\n"
        "    def add(): c = Sampler.chainInit(); c.chainAdd(s); chains.append(c)\n"
        "    only(together(make, add, lambda: s.accept(5), times=2), BusyError, ValueError)\n"
        "    assert len(chains) <= 1, chains\n"
        "for _ in range(100): race()",
    ),
    Case(
        "added while the chain works",
        OWNERSHIP,
        "llama_sampler_chain_add",
        _OWN.format("c.chainAdd(Sampler.initGreedy())") + "c = Sampler.chain(Sampler.init(Own())); c.sample(decoded())",
        "BusyError",
        "in use",
    ),
    Case(
        "removed while the chain works",
        OWNERSHIP,
        "llama_sampler_chain_remove",
        _OWN.format("c.chainRemove(0)") + "c = Sampler.chain(Sampler.init(Own())); c.sample(decoded())",
        "BusyError",
        "in use",
    ),
    *(
        Case(
            f"{call} of no chain",
            CHECK,
            function,
            f"Sampler.initGreedy().{call}",
            "TypeError",
            "expected a chain, got a 'greedy'",
        )
        for call, function in (
            ("chainGet(0)", "llama_sampler_chain_get"),
            ("chainRemove(0)", "llama_sampler_chain_remove"),
            ("chainCount", "llama_sampler_chain_n"),
            ("perfSampler", "llama_perf_sampler"),
            ("perfSamplerPrint()", "llama_perf_sampler_print"),
            ("perfSamplerReset()", "llama_perf_sampler_reset"),
        )
    ),
    *(
        Case(
            f"{call} past the end",
            CHECK,
            function,
            f"Sampler.chain(Sampler.initGreedy()).{call}",
            "IndexError",
            "1 members",
        )
        for call, function in (
            ("chainGet(1)", "llama_sampler_chain_get"),
            ("chainGet(-1)", "llama_sampler_chain_get"),
            ("chainRemove(1)", "llama_sampler_chain_remove"),
            ("chainRemove(1 << 40)", "llama_sampler_chain_remove"),
        )
    ),
    *(
        Case(
            f"{function} past the facade",
            GUARD,
            function,
            f"s = Sampler.initGreedy(); lib.{function}(s._c)",
            "NativeAssertionError",
        )
        for function in ("llama_perf_sampler", "llama_perf_sampler_reset")
    ),
    Case(
        "a member freed by hand",
        OWNERSHIP,
        "llama_sampler_free",
        "c = Sampler.chain(Sampler.initGreedy()); c.chainGet(0).free()",
        "ValueError",
        "chainRemove it first",
    ),
    Case(
        "a member used after its chain",
        OWNERSHIP,
        "llama_sampler_free",
        "c = Sampler.chain(Sampler.initGreedy()); m = c.chainGet(0); c.free(); m.reset()",
        "ClosedError",
        "its chain was freed",
    ),
    Case(
        "a member that outlives its chain's name",
        OWNERSHIP,
        "llama_sampler_chain_get",
        "m = Sampler.chain(Sampler.initGreedy()).chainGet(0); gc.collect(); m.sample(decoded())",
    ),
    Case(
        "a member that was removed",
        OWNERSHIP,
        "llama_sampler_chain_remove",
        "c = Sampler.chain(Sampler.initGreedy()); m = c.chainRemove(0); c.free(); m.sample(decoded())\n"
        "m.free(); m.free()",
    ),
    # The end
    Case(
        "freed twice", OWNERSHIP, "llama_sampler_free", "s = Sampler.initGreedy(); s.free(); s.free(); Sampler.free(s)"
    ),
    Case(
        "used after its end",
        OWNERSHIP,
        "llama_sampler_free",
        "s = Sampler.initGreedy(); s.free(); s.sample(decoded())",
        "ClosedError",
        "it was freed",
    ),
    *(
        Case(
            f"{call} after its end",
            OWNERSHIP,
            function,
            f"s = {make}; s.free(); s.{call}",
            "ClosedError",
            "it was freed",
        )
        for make, call, function in (
            ("Sampler.initGreedy()", "name", "llama_sampler_name"),
            ("Sampler.initGreedy()", "getSeed()", "llama_sampler_get_seed"),
            ("Sampler.initGreedy()", "clone()", "llama_sampler_clone"),
            ("Sampler.initGreedy()", "reset()", "llama_sampler_reset"),
            ("Sampler.initGreedy()", "accept(5)", "llama_sampler_accept"),
            ("Sampler.initGreedy()", "apply(TokenDataArray(3))", "llama_sampler_apply"),
            ("Sampler.chainInit()", "chainCount", "llama_sampler_chain_n"),
            ("Sampler.chainInit()", "perfSampler", "llama_perf_sampler"),
            ("Sampler.chainInit()", "chainAdd(Sampler.initGreedy())", "llama_sampler_chain_add"),
            ("Sampler.chainInit()", "chainGet(0)", "llama_sampler_chain_get"),
        )
    ),
    Case(
        "freed while another thread samples",
        OWNERSHIP,
        "llama_sampler_free",
        "def race():\n"
        "    s = Sampler.chain(Sampler.initTopK(40), Sampler.initDist(1))\n"
        "    only(together(lambda: s.sample(c), s.free, times=2), BusyError, ClosedError, ValueError)\n"
        "c = decoded()\nfor _ in range(60): race()",
    ),
    Case(
        "getters racing with free",
        OWNERSHIP,
        "llama_sampler_name",
        "def race():\n"
        "    s = Sampler.chain(Sampler.initTopK(40), Sampler.initDist(1)); m = s.chainGet(1)\n"
        "    def read(): s.name, m.name, s.getSeed(), s.chainCount, s.perfSampler, s.perfSamplerPrint()\n"
        "    only(together(read, read, s.free, times=3), BusyError, ClosedError)\n"
        "for _ in range(100): race()",
    ),
    Case(
        "two threads on one sampler",
        OWNERSHIP,
        "llama_sampler_sample",
        "c, d = decoded(), decoded(); s = Sampler.chain(Sampler.initPenalties(64, 1.1), Sampler.initDist(1))\n"
        "only(together(lambda: s.sample(c), lambda: s.sample(d), lambda: s.accept(5), s.reset), BusyError)",
    ),
    Case(
        "cloned while it is used",
        OWNERSHIP,
        "llama_sampler_clone",
        "s = Sampler.chain(Sampler.initPenalties(64, 1.1), Sampler.initDist(1))\n"
        "def grow(): s.chainAdd(Sampler.initTopK(9))\n"
        "only(together(lambda: s.accept(5), lambda: s.clone().free(), grow), BusyError)",
    ),
    Case(
        "candidates shared by two threads",
        OWNERSHIP,
        "llama_sampler_apply",
        "a = TokenDataArray(300)\n"
        "def work(): Sampler.initTopK(40).apply(a)\n"
        "def shrink(): a.size = 300; a.sort(); a[5] = (1, 2.0); list(a)\n"
        "only(together(work, shrink), BusyError, IndexError, ValueError)",
    ),
    # Copies
    Case(
        "copies of a sampler",
        OWNERSHIP,
        "llama_sampler",
        "copy.copy(Sampler.initGreedy())",
        "TypeError",
        "cannot be copied",
    ),
    Case(
        "a pickled sampler",
        OWNERSHIP,
        "llama_sampler",
        "pickle.dumps(Sampler.chainInit())",
        "TypeError",
        "cannot be copied",
    ),
    Case(
        "a pickled constraint",
        OWNERSHIP,
        "llama_sampler",
        "pickle.dumps(Constraint.fromRegex('a'))",
        "TypeError",
        "constraint cannot be copied",
    ),
    Case(
        "a copy of candidates",
        OWNERSHIP,
        "llama_token_data_array",
        "copy.copy(TokenDataArray(3))",
        "TypeError",
        "TokenDataArray(",
    ),
    Case(
        "a deep copy of candidates",
        OWNERSHIP,
        "llama_token_data_array",
        "copy.deepcopy(TokenDataArray(3))",
        "TypeError",
        "TokenDataArray(",
    ),
    Case(
        "pickled candidates",
        OWNERSHIP,
        "llama_token_data_array",
        "pickle.dumps(TokenDataArray(3))",
        "TypeError",
        "TokenDataArray(",
    ),
    Case(
        "a copy of a candidate",
        OWNERSHIP,
        "llama_token_data",
        "copy.copy(TokenDataArray(3)[1])",
        "TypeError",
        "cannot be copied",
    ),
    Case(
        "candidates that were never made",
        OWNERSHIP,
        "llama_token_data_array",
        "TokenDataArray.__new__(TokenDataArray).size",
        "ClosedError",
    ),
    Case(
        "views of candidates that are gone",
        OWNERSHIP,
        "llama_token_data_array",
        "import numpy\n"
        "a = numpy.asarray(TokenDataArray(300)); v = TokenDataArray(300).view(); i = TokenDataArray(300)[7]; "
        "gc.collect()\n"
        "a['logit'] = 1.0; assert len(v) == 300 and i.id == 7",
    ),
    Case(
        "a clone of a sampler of one's own that cannot be cloned",
        CHECK,
        "llama_sampler_clone",
        _OWN.format("pass") + "Sampler.init(Own()).clone()",
        "TypeError",
        "clone",
    ),
    Case(
        "the state of another kind of sampler",
        CHECK,
        "llama_sampler_copy",
        "Sampler.initGreedy().copy(Sampler.initDist())",
        "ValueError",
        "dst must be made by the same constructors",
    ),
    Case(
        "the state of another kind of sampler past the facade",
        GUARD,
        "llama_sampler_copy",
        "s, t = Sampler.initGreedy(), Sampler.initDist(); lib.llama_sampler_copy(s._c, t._c)",
        "NativeAssertionError",
    ),
)
