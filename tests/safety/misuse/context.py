"""Making contexts, changing them, and ending them."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_RAW = "m = load(); p = lib.llama_context_default_params(); p.n_ctx = 64\n"
_INIT = "lib.llama_init_from_model(m._c, p)"

CASES = (
    # Sizes
    Case("no model", CHECK, "llama_init_from_model", "Context.initFromModel(None)", "TypeError", "Model.load"),
    Case("params of another class", CHECK, "llama_init_from_model", "Context.initFromModel(load(), {})", "TypeError"),
    Case(
        "a vocabulary only", CHECK, "llama_init_from_model", "context(load(vocabOnly=True))", "ValueError", "vocabOnly"
    ),
    Case(
        "a model without memory",
        CHECK,
        "llama_init_from_model",
        "context(load(noAlloc=True, loadMode=LoadMode.NONE))",
        "ValueError",
        "noAlloc",
    ),
    Case("no batch", CHECK, "llama_init_from_model", "context(nBatch=0)", "ValueError", "nBatch must be between 1"),
    Case("no ubatch", CHECK, "llama_init_from_model", "context(nUbatch=0)", "ValueError", "nUbatch must be between 1"),
    Case(
        "a batch of fewer tokens than sequences",
        CHECK,
        "llama_init_from_model",
        "context(nBatch=2, nSeqMax=4)",
        "ValueError",
        "nBatch must be between 4",
    ),
    Case(
        "no sequences", CHECK, "llama_init_from_model", "context(nSeqMax=0)", "ValueError", "nSeqMax must be between 1"
    ),
    Case("too many sequences", CHECK, "llama_init_from_model", "context(nSeqMax=257)", "ValueError", "and 256"),
    Case(
        "a context of fewer tokens than sequences",
        CHECK,
        "llama_init_from_model",
        "context(nCtx=1, nSeqMax=4)",
        "ValueError",
        "nCtx must be at least nSeqMax 4, one token per sequence, got 1",
    ),
    Case(
        "fewer outputs than sequences",
        CHECK,
        "llama_init_from_model",
        "context(nOutputsMax=2, nSeqMax=4)",
        "ValueError",
        "nOutputsMax",
    ),
    Case(
        "a ubatch that the sequences do not share evenly",
        CHECK,
        "llama_init_from_model",
        "context(embeddings=True, poolingType=PoolingType.MEAN, nSeqMax=3, nUbatch=64, nBatch=64)",
        "ValueError",
        "nUbatch",
    ),
    Case(
        "a ubatch of an embedding model that the sequences do not share evenly",
        CHECK,
        "llama_init_from_model",
        "context('bert', embeddings=True, nSeqMax=3, nUbatch=64, nBatch=64)",
        "ValueError",
        "nUbatch",
    ),
    Case(
        "a memory beyond the machine's",
        CHECK,
        "llama_init_from_model",
        "context(nCtx=1 << 30)",
        "NativeMemoryError",
        "nCtx",
    ),
    Case(
        "a context of 2 ** 32 tokens", CHECK, "llama_init_from_model", "context(nCtx=0xFFFFFFFF)", "ValueError", "nCtx"
    ),
    Case(
        "as many states as there may be",
        CHECK,
        "llama_init_from_model",
        "context('mamba', nCtx=256, nSeqMax=256)",
    ),
    Case(
        "as many sequences as there may be",
        CHECK,
        "llama_init_from_model",
        "context(nCtx=0, nSeqMax=256).decode(batch())",
    ),
    Case(
        "a large batch of an embedding model",
        CHECK,
        "llama_init_from_model",
        "context('bert', nBatch=1 << 31)",
        "ValueError",
        "nBatch",
    ),
    Case(
        "the largest batches of an embedding model",
        CHECK,
        "llama_init_from_model",
        "n = (1 << 31) - 256\ncontext('bert', nBatch=n, nUbatch=n)",
        "NativeMemoryError",
        "nUbatch",
    ),
    Case(
        "no batch past the facade",
        GUARD,
        "llama_init_from_model",
        _RAW + "p.n_batch = 0; p.n_ubatch = 8\n" + _INIT,
        "NativeAssertionError",
    ),
    Case(
        "fewer outputs than sequences past the facade",
        GUARD,
        "llama_init_from_model",
        _RAW + "p.n_outputs_max, p.n_seq_max = 1, 4\n" + _INIT,
        "NativeAssertionError",
    ),
    Case(
        "several sequences of an encoder-decoder past the facade",
        GUARD,
        "llama_init_from_model",
        _RAW + "p.n_seq_max = 2\nm = load('t5'); lib.llama_init_from_model(m._c, p)",
        "NativeAssertionError",
    ),
    # Types and numbers
    Case(
        "flash attention out of range", CHECK, "llama_init_from_model", "context(flashAttnType=5)", "ValueError", "AUTO"
    ),
    Case("pooling out of range", CHECK, "llama_init_from_model", "context(poolingType=9)", "ValueError", "MEAN"),
    Case("attention out of range", CHECK, "llama_init_from_model", "context(attentionType=9)", "ValueError", "CAUSAL"),
    Case(
        "RoPE scaling out of range", CHECK, "llama_init_from_model", "context(ropeScalingType=9)", "ValueError", "YARN"
    ),
    Case("a kind of context out of range", CHECK, "llama_init_from_model", "context(ctxType=9)", "ValueError", "MTP"),
    Case(
        "a context of draft heads that the model lacks",
        CHECK,
        "llama_init_from_model",
        "context(ctxType=1)",
        "ContextError",
        "MTP",
    ),
    Case(
        "flash attention out of range past the facade",
        GUARD,
        "llama_init_from_model",
        _RAW + "p.flash_attn_type = 7\n" + _INIT,
        "NativeAssertionError",
    ),
    Case(
        "pooling out of range past the facade",
        GUARD,
        "llama_init_from_model",
        _RAW + "p.pooling_type, p.embeddings = 9, True\n" + _INIT,
        "NativeAssertionError",
    ),
    *(
        Case(
            f"{field} that is {value}",
            CHECK,
            "llama_init_from_model",
            f"context({field}=math.{value})",
            "ValueError",
            f"{field} must be finite",
        )
        for field in (
            "ropeFreqBase",
            "ropeFreqScale",
            "yarnExtFactor",
            "yarnAttnFactor",
            "yarnBetaFast",
            "yarnBetaSlow",
        )
        for value in ("nan", "inf")
    ),
    Case(
        "a number beyond a C float",
        CHECK,
        "llama_init_from_model",
        "context(ropeFreqBase=1e300)",
        "ValueError",
        "ropeFreqBase must be finite",
    ),
    Case(
        "a cache type that does not exist", CHECK, "llama_init_from_model", "context(typeK=-1)", "ValueError", "typeK"
    ),
    Case("a cache type beyond the last", CHECK, "llama_init_from_model", "context(typeV=99)", "ValueError", "typeV"),
    Case("a cache type that was removed", CHECK, "llama_init_from_model", "context(typeK=4)", "ValueError", "typeK"),
    *(
        Case(
            f"a cache of {kind}",
            CHECK,
            "llama_init_from_model",
            f"context(typeK=Ggml.Type.{kind}, flashAttnType=FlashAttnType.DISABLED)",
            "ValueError",
            f"got {kind}",
        )
        for kind in ("I8", "I32", "F64", "Q2_K", "IQ2_XXS", "Q8_K")
    ),
    Case("values in Q6_K", CHECK, "llama_init_from_model", "context(typeV=Ggml.Type.Q6_K)", "ValueError", "got Q6_K"),
    Case(
        "quantized values without flash attention",
        CHECK,
        "llama_init_from_model",
        "context(typeV=Ggml.Type.Q8_0, flashAttnType=FlashAttnType.DISABLED)",
        "ContextError",
        "requires flash_attn",
    ),
    Case(
        "a cache whose blocks do not divide a head",
        CHECK,
        "llama_init_from_model",
        "context('narrow', typeK=Ggml.Type.Q8_0)",
        "ContextError",
        "does not divide",
    ),
    # Threads
    *(
        Case(
            f"{n} threads",
            CHECK,
            "llama_init_from_model",
            f"context(nThreads={n})",
            "ValueError",
            "nThreads must be between 1",
        )
        for n in (0, -1, 513, 100_000, 2**31 - 1)
    ),
    Case(
        "no threads for batches",
        CHECK,
        "llama_init_from_model",
        "context(nThreadsBatch=0)",
        "ValueError",
        "between 1 and 512",
    ),
    Case(
        "no threads later", CHECK, "llama_set_n_threads", "context().setNThreads(0)", "ValueError", "between 1 and 512"
    ),
    Case(
        "too many threads later", CHECK, "llama_set_n_threads", "context().setNThreads(1, 9999)", "ValueError", "9999"
    ),
    Case(
        "more threads than the process may start",
        CHECK,
        "llama_init_from_model",
        "import llama_cffi._host.resources as machine\nmachine.startable = lambda: 3\ncontext(nThreads=300)",
        "ValueError",
        "nThreads",
    ),
    Case(
        "more threads than the process may start, later",
        CHECK,
        "llama_set_n_threads",
        "import llama_cffi._host.resources as machine\n"
        "c = context(nThreads=1, nThreadsBatch=1)\n"
        "machine.startable = lambda: 3\n"
        "c.setNThreads(300)",
        "ValueError",
        "nThreads",
    ),
    *(
        Case(
            f"adaptThreads={value}",
            CHECK,
            "llama_init_from_model",
            f"Context.Params(adaptThreads={value})",
            "TypeError",
            "adaptThreads must be True or False",
        )
        for value in ("2", "None", "'yes'", "[]")
    ),
    Case(
        "adaptThreads before and after the numbers",
        CHECK,
        "llama_init_from_model",
        "assert Context.Params(adaptThreads=True, nThreads=2).adaptThreads\n"
        "assert Context.Params(nThreads=2, adaptThreads=True).adaptThreads\n"
        "p = Context.Params(nThreads=2); assert not p.adaptThreads; p.adaptThreads = True; assert p.adaptThreads\n"
        "context(nThreads=2, nThreadsBatch=1, adaptThreads=True).decode(batch(9))",
    ),
    Case(
        "too many threads, to be adapted",
        CHECK,
        "llama_init_from_model",
        "context(nThreads=513, adaptThreads=True)",
        "ValueError",
        "nThreads must be between 1",
    ),
    Case(
        "a wrong adaptThreads later, which changes nothing",
        CHECK,
        "llama_set_n_threads",
        "c = context(nThreads=1, nThreadsBatch=1)\n"
        "for x in (2, 'yes', None): raises(TypeError, lambda: c.setNThreads(2, adaptThreads=x), 'True or False')\n"
        "assert (c.nThreads, c.nThreadsBatch, c.adaptThreads) == (1, 1, False); c.decode(batch(9))",
    ),
    *(
        Case(
            f"setNThreads({arguments}, adaptThreads=True)",
            CHECK,
            "llama_set_n_threads",
            f"context().setNThreads({arguments}, adaptThreads=True)",
            error,
            "nThreads",
        )
        for arguments, error in (
            ("0", "ValueError"),
            ("1, 513", "ValueError"),
            ("1 << 40", "ValueError"),
            ("'2'", "TypeError"),
        )
    ),
    Case(
        "more threads than the process may start, to be adapted later",
        CHECK,
        "llama_set_n_threads",
        "import llama_cffi._host.resources as machine\n"
        "c = context(nThreads=1, nThreadsBatch=1)\n"
        "machine.startable = lambda: 3\n"
        "c.setNThreads(1, 300, adaptThreads=True)",
        "ValueError",
        "nThreadsBatch",
    ),
    Case(
        "adapting turned on and off between decodes",
        OWNERSHIP,
        "llama_set_n_threads",
        "c = context(nThreads=2, nThreadsBatch=2)\n"
        "for i in range(60):\n"
        "    c.setNThreads(1 + i % 2, 1 + i % 3, adaptThreads=i % 4 < 2); assert c.adaptThreads is (i % 4 < 2)\n"
        "    c.getMemory().clear(); c.decode(batch(9)); c.decode(batch())",
    ),
    Case(
        "adapting turned on inside a decode",
        OWNERSHIP,
        "llama_set_n_threads",
        "def stop(): c.setNThreads(2, adaptThreads=True)\nc = context(abortCb=stop); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "adaptThreads of a context that was freed",
        OWNERSHIP,
        "llama_n_threads",
        "c = context(); c.free(); c.adaptThreads",
        "ClosedError",
        "it was freed",
    ),
    Case(
        "adapting turned on for a context that was freed",
        OWNERSHIP,
        "llama_set_n_threads",
        "c = context(); c.free(); c.setNThreads(2, adaptThreads=True)",
        "ClosedError",
        "it was freed",
    ),
    # Samplers of the context
    Case(
        "a chain that would pick a place instead of a token",
        CHECK,
        "llama_init_from_model",
        "context(samplers={0: Sampler.chain(Sampler.initTopK(9), Sampler.initGreedy())})",
        "ValueError",
        "initGreedy cannot follow",
    ),
    Case(
        "a sampler that is not a chain",
        CHECK,
        "llama_init_from_model",
        "context(samplers={0: Sampler.initGreedy()})",
        "TypeError",
        "expected a chain, got a 'greedy'",
    ),
    Case(
        "a sampler that is not a chain past the facade",
        GUARD,
        "llama_init_from_model",
        _RAW + "s = Sampler.initGreedy()\n"
        "a = ffi.new('struct llama_sampler_seq_config[]', [(0, s._c)]); p.samplers, p.n_samplers = a, 1\n"
        "assert " + _INIT + " == ffi.NULL",
    ),
    Case(
        "a sampler for a sequence that does not exist",
        CHECK,
        "llama_init_from_model",
        "context(samplers={7: Sampler.chain(Sampler.initGreedy())})",
        "ValueError",
        "0 and 0, got 7: raise Context.Params.nSeqMax",
    ),
    Case(
        "two samplers for a sequence",
        CHECK,
        "llama_init_from_model",
        "context(samplers=[(0, Sampler.chain(Sampler.initGreedy())), (0, Sampler.chain(Sampler.initGreedy()))])",
        "ValueError",
        "two samplers",
    ),
    Case(
        "a chain for two sequences",
        OWNERSHIP,
        "llama_init_from_model",
        "c = Sampler.chain(Sampler.initGreedy()); context(nSeqMax=2, samplers=[(0, c), (1, c)])",
        "ValueError",
        "its clone()",
    ),
    Case(
        "a chain for two contexts",
        OWNERSHIP,
        "llama_init_from_model",
        "c = Sampler.chain(Sampler.initGreedy()); first = context(samplers={0: c}); context(samplers={0: c})",
        "ValueError",
        "its clone()",
    ),
    Case(
        "a chain set twice",
        OWNERSHIP,
        "llama_set_sampler",
        "c = Sampler.chain(Sampler.initGreedy()); x = context(); x.setSampler(0, c); x.setSampler(0, c)",
        "ValueError",
        "its clone()",
    ),
    Case(
        "a chain freed under its context",
        OWNERSHIP,
        "llama_sampler_free",
        "c = Sampler.chain(Sampler.initGreedy()); x = context(samplers={0: c}); c.free()",
        "ValueError",
        "free the context first",
    ),
    Case(
        "a chain forgotten under its context",
        OWNERSHIP,
        "llama_sampler_free",
        "x = context(nOutputsMaxPerSeq=1, samplers={0: Sampler.chain(Sampler.initTopK(9), Sampler.initDist(1))}); "
        "gc.collect()\n"
        "for _ in range(3): x.decode(batch())",
    ),
    Case(
        "a penalties sampler of unknown vocabulary",
        CHECK,
        "llama_init_from_model",
        "c = Sampler.chain(Sampler.initPenalties(8, 1.1), Sampler.initGreedy())\n"
        "x = context(nOutputsMaxPerSeq=1, samplers={0: c})\n"
        "for _ in range(4): x.decode(batch()); c.sample(x)",
    ),
    Case(
        "a top-k sampler with more than the vocabulary has",
        CHECK,
        "llama_init_from_model",
        "c = Sampler.chain(Sampler.initTopK(100_000), Sampler.initGreedy())\n"
        "x = context(nOutputsMaxPerSeq=1, samplers={0: c}); x.decode(batch()); c.sample(x)",
        "ValueError",
        "initTopK(100000): k must be at most 364",
    ),
    Case(
        "a bias of another vocabulary",
        CHECK,
        "llama_init_from_model",
        "context(samplers={0: Sampler.chain(Sampler.initLogitBias(99999, {5000: 1.0}), Sampler.initGreedy())})",
        "ValueError",
        "99999 tokens",
    ),
    Case(
        "a token beyond the vocabulary accepted by a sampler on the device",
        CHECK,
        "llama_sampler_accept",
        "c = Sampler.chain(Sampler.initPenalties(8, 1.1), Sampler.initGreedy())\n"
        "x = context(nOutputsMaxPerSeq=1, samplers={0: c}); c.accept(9999)",
        "IndexError",
        "9999",
    ),
    Case(
        "a sampler of another sequence", CHECK, "llama_set_sampler", "context().setSampler(3, None)", "ValueError", "3"
    ),
    Case(
        "a sampler that is not a chain, set later",
        CHECK,
        "llama_set_sampler",
        "context().setSampler(0, Sampler.initGreedy())",
        "TypeError",
        "expected a chain, got a 'greedy'",
    ),
    Case(
        "members changed under the context",
        CHECK,
        "llama_sampler_chain_add",
        "c = Sampler.chain(Sampler.initGreedy()); x = context(samplers={0: c}); c.chainAdd(Sampler.initTopK(2))",
        "ValueError",
        "clone()",
    ),
    # An encoder-decoder
    Case(
        "several sequences of an encoder-decoder",
        CHECK,
        "llama_init_from_model",
        "context('t5', nSeqMax=2)",
        "ValueError",
        "nSeqMax",
    ),
    # Callbacks
    Case(
        "callbacks that are gone",
        OWNERSHIP,
        "llama_init_from_model",
        "x = context(abortCb=lambda: False, cbEval=lambda tensor, ask: None); gc.collect()\n"
        "for _ in range(3): x.decode(batch())",
    ),
    Case(
        "a callback that is not a function",
        CHECK,
        "llama_init_from_model",
        "context(abortCb=7)",
        "TypeError",
        "function",
    ),
    Case(
        "an abort callback that raises",
        OWNERSHIP,
        "llama_decode",
        "def stop(): raise KeyError('mine')\ncontext(abortCb=stop).decode(batch())",
        "KeyError",
        "mine",
    ),
    Case(
        "an abort callback replaced while it runs",
        OWNERSHIP,
        "llama_set_abort_callback",
        "x = context(abortCb=lambda: x.setAbortCallback(None)); x.decode(batch())",
        "BusyError",
    ),
    Case(
        "abort callbacks set and dropped",
        OWNERSHIP,
        "llama_set_abort_callback",
        "x = context()\n"
        "for _ in range(9): x.setAbortCallback(lambda: False); gc.collect(); x.decode(batch())\n"
        "x.setAbortCallback(None); x.decode(batch())",
    ),
    Case(
        "a tensor kept from an eval callback",
        OWNERSHIP,
        "llama_decode",
        "kept = []\ndef look(tensor, ask): kept.append(tensor)\ncontext(cbEval=look).decode(batch()); kept[0].data",
        "ValueError",
        "during the callback",
    ),
    # Several threads
    Case(
        "contexts made at the same time",
        OWNERSHIP,
        "llama_init_from_model",
        "m = load()\n"
        "def make(): context(m, ropeScalingType=RopeScalingType.YARN, ropeFreqScale=0.5).free()\n"
        "only(together(make, make, times=5), BusyError)",
    ),
    # The end
    Case(
        "a context freed twice",
        OWNERSHIP,
        "llama_free",
        "c = context(); c.free(); c.free(); Context.free(c); c.close()",
    ),
    Case(
        "a context freed while it decodes",
        OWNERSHIP,
        "llama_free",
        "c = context(nThreads=1, nThreadsBatch=1)\n"
        "def work(): c.getMemory().clear(); c.decode(batch(64))\n"
        "only(together(work, lambda: time.sleep(0.001) or c.free()), BusyError, ClosedError)",
    ),
    Case(
        "a context freed while its state is saved",
        OWNERSHIP,
        "llama_free",
        "c = decoded()\nonly(together(c.stateGetData, c.free), BusyError, ClosedError)",
    ),
    Case(
        "a context freed while its outputs are read",
        OWNERSHIP,
        "llama_free",
        "c = decoded()\n"
        "def read(): sum(c.getLogitsIth(-1))\n"
        "only(together(read, read, lambda: time.sleep(0.001) or c.free()), BusyError, ClosedError, ValueError)",
    ),
    Case(
        "a context freed from its own abort callback",
        OWNERSHIP,
        "llama_free",
        "def stop(): c.free()\nc = context(abortCb=stop); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "a context freed from its own eval callback",
        OWNERSHIP,
        "llama_free",
        "def look(tensor, ask): c.free()\nc = context(cbEval=look); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "a context freed from a sampler's callback",
        OWNERSHIP,
        "llama_free",
        "class Own:\n    def apply(self, candidates): c.free()\nc = decoded(); Sampler.init(Own()).sample(c)",
        "BusyError",
        "in use",
    ),
    Case(
        "a log target that frees the context",
        OWNERSHIP,
        "llama_free",
        "seen = []; sys.unraisablehook = lambda args: seen.append(args.exc_type)\n"
        "c = decoded()\ndef log(level, text, data): c.free()\n"
        "logSet(log); c.perfContextPrint(); logSet(None); assert set(seen) <= {BusyError}\n"
        "if not c.closed: c.decode(batch())",
    ),
    *(
        Case(
            f"{call} after free",
            OWNERSHIP,
            function,
            f"c = context(); c.free(); c.{call}",
            "ClosedError",
            "it was freed",
        )
        for call, function in (
            ("nCtx", "llama_n_ctx"),
            ("nCtxSeq", "llama_n_ctx_seq"),
            ("nBatch", "llama_n_batch"),
            ("nUbatch", "llama_n_ubatch"),
            ("nSeqMax", "llama_n_seq_max"),
            ("nThreads", "llama_n_threads"),
            ("poolingType", "llama_pooling_type"),
            ("getMemory()", "llama_get_memory"),
            ("synchronize()", "llama_synchronize"),
            ("setEmbeddings(True)", "llama_set_embeddings"),
            ("setCausalAttn(False)", "llama_set_causal_attn"),
            ("getCausalAttn()", "llama_get_causal_attn"),
            ("setNThreads(1)", "llama_set_n_threads"),
            ("clearAdapterLora()", "llama_set_adapters_lora"),
            ("setAdapterCvec(None)", "llama_set_adapter_cvec"),
            ("setAbortCallback(None)", "llama_set_abort_callback"),
            ("setSampler(0, None)", "llama_set_sampler"),
            ("detachThreadpool()", "llama_detach_threadpool"),
            ("perfContext", "llama_perf_context"),
            ("perfContextReset()", "llama_perf_context_reset"),
            ("decode(batch())", "llama_decode"),
            ("stateGetData()", "llama_state_get_data"),
            ("getLogitsIth()", "llama_get_logits_ith"),
        )
    ),
    Case(
        "getters racing with free",
        OWNERSHIP,
        "llama_n_ctx",
        "def race():\n"
        "    c = context(m)\n"
        "    def read(): c.nCtx, c.nThreads, c.poolingType, c.getCausalAttn(), c.perfContext, c.nBatch\n"
        "    only(together(read, read, c.free, times=3), BusyError, ClosedError)\n"
        "m = load()\nfor _ in range(60): race()",
    ),
    # Settings
    Case(
        "embeddings turned on with a ubatch that the sequences do not share evenly",
        CHECK,
        "llama_set_embeddings",
        "c = context(poolingType=PoolingType.MEAN, nSeqMax=3, nUbatch=64); c.setEmbeddings(True); c.decode(batch())",
        "ValueError",
        "nUbatch",
    ),
    Case(
        "embeddings turned on and off",
        CHECK,
        "llama_set_embeddings",
        "c = context()\nfor on in (True, False) * 3: c.setEmbeddings(on); c.decode(batch()); c.getLogitsIth()\n",
    ),
    Case(
        "attention to everything with more tokens than nUbatch",
        CHECK,
        "llama_set_causal_attn",
        "c = context(nBatch=64, nUbatch=8); c.setCausalAttn(False); c.decode(batch(9))",
        "ValueError",
        "8 tokens (nUbatch), got 9",
    ),
    # Control vectors
    Case(
        "a control vector of part of a row",
        CHECK,
        "llama_set_adapter_cvec",
        "context().setAdapterCvec([0.0] * 65)",
        "ValueError",
        "whole rows of 64",
    ),
    Case(
        "a control vector of other embeddings",
        CHECK,
        "llama_set_adapter_cvec",
        "context().setAdapterCvec([0.0] * 66, nEmbd=33)",
        "ValueError",
        "nEmbd must be 64 for this model, got 33",
    ),
    Case(
        "a control vector longer than its buffer",
        CHECK,
        "llama_set_adapter_cvec",
        "context().setAdapterCvec(array.array('f', bytes(256)), 128)",
        "ValueError",
        "len must be between 0 and 64, got 128",
    ),
    Case(
        "a control vector of integers",
        CHECK,
        "llama_set_adapter_cvec",
        "context().setAdapterCvec(array.array('i', bytes(256)))",
        "TypeError",
        "type float, got format",
    ),
    *(
        Case(
            f"a control vector {name}",
            CHECK,
            "llama_set_adapter_cvec",
            f"context().setAdapterCvec({arguments})",
            error,
            words,
        )
        for name, arguments, error, words in (
            ("for more layers than there are", "[0.0] * 64 * 9", "ValueError", "1 to 1 whole rows"),
            ("for fewer layers than are changed", "[0.0] * 64, ilStart=1, ilEnd=9", "ValueError", "ilEnd"),
            ("from a layer that does not exist", "[0.0] * 64, ilStart=-7", "ValueError", "ilStart"),
            ("for layers beyond any", "[0.0] * 64, ilStart=1, ilEnd=1 << 40", "ValueError", "ilEnd"),
            ("from the end to the start", "[0.0] * 64, ilStart=1, ilEnd=0", "ValueError", "ilEnd"),
            ("that is not finite", "[math.nan] * 64", "ValueError", "finite"),
            ("of negative width", "[0.0] * 64, nEmbd=-64", "ValueError", "got -64"),
            ("of nothing", "[]", "ValueError", "0 floats"),
            ("of a negative length", "[0.0] * 64, len=-64", "ValueError", "len must be between 0 and 64, got -64"),
            ("that is a text", "'abcd'", "TypeError", "data"),
        )
    ),
    # Copies
    Case("copies of a context", OWNERSHIP, "llama_context", "copy.copy(context())", "TypeError", "cannot be copied"),
    Case("a pickled context", OWNERSHIP, "llama_context", "pickle.dumps(context())", "TypeError", "cannot be copied"),
    Case(
        "copies of parameters",
        OWNERSHIP,
        "llama_context_params",
        "pickle.dumps(Context.Params(nCtx=9))",
        "TypeError",
        "cannot be copied",
    ),
    Case(
        "parameters copied, with what they point to",
        OWNERSHIP,
        "llama_model_params",
        "copy.copy(Model.Params(tensorSplit=[1.0]))",
        "TypeError",
        "cannot be copied",
    ),
)
