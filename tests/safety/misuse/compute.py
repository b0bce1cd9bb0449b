"""Encoding and decoding."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_ENTRY = "b = Batch.init(4, 0, 2); b.add(5, 0, [0], True)\n"
_THREADS = "c = context(nThreads=1, nThreadsBatch=1)\n"

CASES = (
    # Sizes
    Case(
        "more tokens than nBatch",
        CHECK,
        "llama_decode",
        "context(nBatch=8).decode(batch(9))",
        "ValueError",
        "8 tokens (nBatch), got 9",
    ),
    Case(
        "more tokens than nBatch past the facade",
        GUARD,
        "llama_decode",
        "c, b = context(nBatch=8), batch(9); lib.llama_decode(c._c, b._c[0])",
        "NativeAssertionError",
        "llama_decode",
    ),
    Case(
        "a context after an assertion",
        GUARD,
        "llama_decode",
        "c, b = context(nBatch=8), batch(9)\n"
        "raises(NativeAssertionError, lambda: lib.llama_decode(c._c, b._c[0]))\n"
        "c.free(); c.decode(batch())",
        "ClosedError",
        "half-changed; make a new one",
    ),
    Case(
        "more tokens than nUbatch without causal attention",
        CHECK,
        "llama_decode",
        "context(nBatch=64, nUbatch=8, attentionType=AttentionType.NON_CAUSAL).decode(batch(9))",
        "ValueError",
        "8 tokens (nUbatch), got 9",
    ),
    Case(
        "more tokens than nUbatch for an embedding model",
        CHECK,
        "llama_encode",
        "context('bert', nBatch=64, nUbatch=8).encode(batch(9))",
        "ValueError",
        "8 tokens (nUbatch), got 9",
    ),
    Case(
        "more tokens than nUbatch decoded by an embedding model",
        CHECK,
        "llama_decode",
        "context('bert', nBatch=64, nUbatch=8).decode(batch(9))",
        "ValueError",
        "8 tokens (nUbatch), got 9",
    ),
    Case(
        "more tokens than the context holds",
        CHECK,
        "llama_decode",
        "context(nCtx=256).decode(batch(257))",
        "ValueError",
        "256",
    ),
    Case(
        "a full context",
        CHECK,
        "llama_decode",
        "c = context(nCtx=256); c.decode(batch(200)); c.decode(batch(100))",
        "ContextFullError",
        "no room for 100 more tokens",
    ),
    Case(
        "a context that goes on after it was full",
        CHECK,
        "llama_decode",
        "c = context(nCtx=256); c.decode(batch(200)); raises(ContextFullError, lambda: c.decode(batch(100)))\n"
        "c.getMemory().clear(); c.decode(batch(100))",
    ),
    Case(
        "more outputs than nOutputsMax",
        CHECK,
        "llama_decode",
        "c = context(nOutputsMax=1); b = Batch.init(2); b.add(5, 0, [0], True); b.add(5, 1, [0], True); c.decode(b)",
        "ValueError",
        "1 outputs (nOutputsMax), got 2",
    ),
    Case(
        "embeddings of more tokens than nOutputsMax",
        CHECK,
        "llama_decode",
        "context(nOutputsMax=1, embeddings=True).decode(batch(2)); "
        "context(nOutputsMax=1, embeddings=True, poolingType=PoolingType.MEAN)",
        "ValueError",
        "1 outputs (nOutputsMax), got 2",
    ),
    # The wrong half of a model
    *(
        Case(f"{kind} encoded", CHECK, "llama_encode", f"context('{kind}').encode(batch())", "ValueError", "use decode")
        for kind in ("llama", "mamba", "gpt2")
    ),
    Case(
        "an embedding model encoded",
        CHECK,
        "llama_encode",
        "c = context('bert', embeddings=True); c.encode(batch(3)); c.getEmbeddingsSeq(0)",
    ),
    Case(
        "an encoder-decoder decoded first",
        CHECK,
        "llama_decode",
        "context('t5').decode(batch())",
        "ValueError",
        "encode",
    ),
    Case(
        "an encoder-decoder decoded first past the facade",
        GUARD,
        "llama_decode",
        "c, b = context('t5'), batch(); lib.llama_decode(c._c, b._c[0])",
        "NativeAssertionError",
    ),
    Case(
        "an encoder-decoder decoded after a failed encode",
        CHECK,
        "llama_decode",
        "c = context('t5', nBatch=8, nUbatch=8); raises(ValueError, lambda: c.encode(batch(9))); c.decode(batch())",
        "ValueError",
        "encode",
    ),
    Case(
        "an encoder-decoder in order", CHECK, "llama_decode", "c = context('t5'); c.encode(batch(3)); c.decode(batch())"
    ),
    # Positions
    *(
        Case(
            f"a position beyond those of {kind}",
            CHECK,
            "llama_decode",
            f"c = context('{kind}', nCtx=1024, nBatch=1024, nUbatch=1024, nThreads=2, nThreadsBatch=2)\n"
            f"b = Batch.init(1); b.add(5, {n}, [0], True); c.{call}(b)",
            "ValueError",
            str(n - 1),
        )
        for kind, n, call in (("gpt2", 32, "decode"), ("bert", 512, "encode"))
    ),
    Case(
        "more tokens than gpt2 has positions",
        CHECK,
        "llama_decode",
        "c = context('gpt2', nThreads=2, nThreadsBatch=2); c.decode(batch(30)); c.decode(batch(3))",
        "ValueError",
        "31",
    ),
    Case(
        "more tokens than bert has positions",
        CHECK,
        "llama_encode",
        "context('bert', nCtx=1024, nBatch=1024, nUbatch=1024).encode(batch(513))",
        "ValueError",
        "511",
    ),
    Case(
        "positions moved beyond those of gpt2",
        CHECK,
        "llama_decode",
        "c = context('gpt2', nThreads=2); c.decode(batch(2)); c.getMemory().seqAdd(0, 0, -1, 31); c.decode(batch())",
        "ValueError",
        "31",
    ),
    Case(
        "all positions of gpt2",
        CHECK,
        "llama_decode",
        "c = context('gpt2', nThreads=2, nThreadsBatch=2); c.decode(batch(30)); c.decode(batch(2))",
    ),
    Case(
        "positions with a gap",
        CHECK,
        "llama_decode",
        "c = decoded(); b = Batch.init(1); b.add(5, 7, [0], True); c.decode(b)",
        "DecodeError",
        "positions",
    ),
    Case(
        "positions that go back",
        CHECK,
        "llama_decode",
        "c = context(); b = Batch.init(2); b.add(5, 3, [0]); b.add(5, 1, [0], True); c.decode(b)",
        "DecodeError",
        "positions",
    ),
    Case(
        "a negative position",
        CHECK,
        "llama_decode",
        "b = Batch.init(1); b.add(5, -1, [0], True); context().decode(b)",
        "ValueError",
        "-1",
    ),
    Case(
        "a position at the end of all numbers",
        CHECK,
        "llama_decode",
        "b = Batch.init(1); b.add(5, (1 << 31) - 1, [0], True); context().decode(b)",
        "ValueError",
        "2147483647",
    ),
    Case(
        "a position beyond all numbers",
        CHECK,
        "llama_decode",
        "b = Batch.init(1); b.add(5, 1 << 31, [0], True)",
        "OverflowError",
    ),
    # Entries
    *(
        Case(
            f"363, the last of the vocabulary, got {token}",
            CHECK,
            "llama_decode",
            f"context().decode(batch(1, {token}))",
            "ValueError",
            f"363, the last of the vocabulary, got {token}",
        )
        for token in (-1, 364, 2**31 - 1, -(2**31))
    ),
    Case("no tokens", CHECK, "llama_decode", "context().decode(Batch.init(4))", "ValueError", "empty"),
    Case("no batch", CHECK, "llama_decode", "context().decode([5])", "TypeError", "Batch.getOne"),
    Case("None for a batch", CHECK, "llama_decode", "context().decode(None)", "TypeError", "Batch.getOne"),
    *(
        Case(
            f"{name}",
            CHECK,
            "llama_decode",
            _ENTRY + f"{change}; context(nSeqMax=2).decode(b)",
            "ValueError",
            words,
        )
        for name, change, words in (
            ("an entry of no sequence", "b.nSeqId[0] = 0", "1 and 2, got 0"),
            ("an entry of more sequences than its row has", "b.nSeqId[0] = 3", "1 and 2, got 3"),
            ("an entry of a negative number of sequences", "b.nSeqId[0] = -1", "1 and 2, got -1"),
            ("a sequence beyond nSeqMax", "b.seqId[0][0] = 2", "the sequence must be between 0 and 1, got 2"),
            ("a negative sequence", "b.seqId[0][0] = -1", "the sequence must be between 0 and 1, got -1"),
            ("a token written past the checks", "b.token[0] = 9999", "363, the last of the vocabulary, got 9999"),
        )
    ),
    Case(
        "a sequence beyond nSeqMax without positions",
        GUARD,
        "llama_decode",
        "b = batch(); n = ffi.new('int32_t[]', [1]); s = ffi.new('int32_t[]', [999]); r = ffi.new('int32_t *[]', [s])\n"
        "b._c.n_seq_id, b._c.seq_id = n, r\n"
        "context().decode(b)",
        "ValueError",
        "sequence",
    ),
    Case(
        "embeddings of another width",
        CHECK,
        "llama_decode",
        "b = Batch.init(1, 32); b.nTokens = 1; context().decode(b)",
        "ValueError",
        "64 floats for this model, got 32",
    ),
    Case(
        "embeddings for an encoder",
        CHECK,
        "llama_encode",
        "b = Batch.init(1, 63); b.nTokens = 1; context('t5').encode(b)",
        "ValueError",
        "64 floats for this model, got 63",
    ),
    Case(
        "embeddings without four positions each",
        CHECK,
        "llama_decode",
        "b = Batch.init(2, 64); b.nTokens = 2; b.pos[1] = 1; context('qwen2vl').decode(b)",
        "ValueError",
        "BatchExt",
    ),
    Case(
        "embeddings that are not finite",
        CHECK,
        "llama_decode",
        "b = Batch.init(1, 64); b.nTokens = 1; b.output[0] = 1; b.embd[0] = math.nan; c = context(); c.decode(b)\n"
        "raises(ValueError, lambda: Sampler.initGreedy().sample(c), 'NaN')",
    ),
    Case(
        "coupled sequences that have come apart",
        CHECK,
        "llama_decode",
        "c = context(nSeqMax=2, kvUnified=True)\n"
        "for n, seq in ((0, [0]), (0, [1]), (1, [0])):\n"
        "    b = Batch.init(1); b.add(5, n, seq, True); c.decode(b)\n"
        "b = Batch.init(1, 0, 2); b.add(5, 2, [0, 1], True); c.decode(b)",
        "DecodeError",
        "positions",
    ),
    Case(
        "a batch of a freed buffer",
        OWNERSHIP,
        "llama_decode",
        "tokens = array.array('i', [5] * 9); b = Batch.getOne(tokens); del tokens; gc.collect(); context().decode(b)",
    ),
    # Aborts
    Case(
        "an aborted computation",
        CHECK,
        "llama_decode",
        "context(abortCb=lambda: True).decode(batch())",
        "DecodeError",
        "aborted",
    ),
    Case(
        "a context that goes on after an abort",
        CHECK,
        "llama_decode",
        "stop = True\nc = context(abortCb=lambda: stop); raises(DecodeError, lambda: c.decode(batch(9)), 'aborted')\n"
        "stop = False; c.getMemory().clear(); c.decode(batch(9)); c.getLogitsIth()",
    ),
    Case(
        "outputs after an abort",
        OWNERSHIP,
        "llama_get_logits_ith",
        "stop = False\nc = context(abortCb=lambda: stop); c.decode(batch(9)); stop = True\n"
        "raises(DecodeError, lambda: c.decode(batch(9))); c.getLogitsIth()",
        "IndexError",
        "decode a batch first",
    ),
    Case(
        "a decode inside a decode",
        OWNERSHIP,
        "llama_decode",
        "def stop(): c.decode(batch())\nc = context(abortCb=stop); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "a decode inside an eval callback",
        OWNERSHIP,
        "llama_decode",
        "def look(tensor, ask): c.decode(batch())\nc = context(cbEval=look); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "another context inside a decode",
        OWNERSHIP,
        "llama_decode",
        "other = context()\ndef look(tensor, ask): other.getMemory().clear(); other.decode(batch())\n"
        "context(cbEval=look).decode(batch())",
    ),
    # Threads
    *(
        Case(
            f"{name} while another thread decodes",
            OWNERSHIP,
            function,
            _THREADS + "def work(): c.getMemory().clear(False); c.decode(batch(64))\n"
            f"only(together(work, lambda: {call}), BusyError, IndexError, DecodeError)\n"
            "c.getMemory().clear(); c.decode(batch())",
        )
        for name, function, call in (
            ("decode", "llama_decode", "c.decode(batch(32))"),
            ("stateGetData", "llama_state_get_data", "c.stateGetData()"),
            ("stateSetData", "llama_state_set_data", "c.stateSetData(c.stateGetData())"),
            ("seqRemove", "llama_memory_seq_rm", "c.getMemory().seqRemove(0, 3, 9)"),
            ("clear", "llama_memory_clear", "c.getMemory().clear()"),
            ("sample", "llama_sampler_sample", "Sampler.initGreedy().sample(c)"),
            ("getLogitsIth", "llama_get_logits_ith", "sum(c.getLogitsIth().tolist())"),
            ("setEmbeddings", "llama_set_embeddings", "(c.setEmbeddings(True), c.setEmbeddings(False))"),
            ("setCausalAttn", "llama_set_causal_attn", "c.setCausalAttn(True)"),
            ("setNThreads", "llama_set_n_threads", "c.setNThreads(1)"),
            ("adapting turned on", "llama_set_n_threads", "c.setNThreads(2, adaptThreads=True)"),
            ("clearAdapterLora", "llama_set_adapters_lora", "c.clearAdapterLora()"),
            ("perfContextReset", "llama_perf_context_reset", "c.perfContextReset()"),
            ("synchronize", "llama_synchronize", "c.synchronize()"),
            ("setAdapterCvec", "llama_set_adapter_cvec", "c.setAdapterCvec([0.0] * 64)"),
        )
    ),
    Case(
        "a batch changed while it is decoded",
        OWNERSHIP,
        "llama_decode",
        "c = context(nThreads=1, nThreadsBatch=1, nSeqMax=2); b = Batch.init(32, 0, 2)\n"
        "for i in range(32): b.add(5, i, [0], i == 31)\n"
        "def work(): c.getMemory().clear(False); c.decode(b)\n"
        "def change():\n"
        "    for i in range(32): b.token[i] = 99999; b.nSeqId[i] = 77; b.seqId[i][0] = 999; b.pos[i] = -5\n"
        "    for i in range(32): b.token[i] = 5; b.nSeqId[i] = 1; b.seqId[i][0] = 0; b.pos[i] = i\n"
        "only(together(work, change, times=300), ValueError, DecodeError)",
    ),
    Case(
        "a batch freed while it is decoded",
        OWNERSHIP,
        "llama_batch_free",
        _THREADS + "def work():\n"
        "    b = Batch.init(64)\n"
        "    for i in range(64): b.add(5, i, [0], True)\n"
        "    thread = threading.Thread(target=b.free); c.getMemory().clear(False); thread.start()\n"
        "    try: c.decode(b)\n    except ClosedError: pass\n    thread.join()\n"
        "for _ in range(50): work()",
    ),
    Case(
        "one model, a context for each thread",
        OWNERSHIP,
        "llama_decode",
        "m = load(); cs = [context(m, nThreads=1, nThreadsBatch=1) for _ in range(3)]\n"
        "def work(c): c.getMemory().clear(); c.decode(batch(32)); Sampler.initGreedy().sample(c)\n"
        "assert together(*(lambda c=c: work(c) for c in cs)) == []",
    ),
    # Many adapters make a graph larger than the context was sized for.
    Case(
        "adapters loaded after the context",
        GUARD,
        "llama_decode",
        "m = load(); c = context(m); c.decode(batch())\n"
        "many = [Adapter.loraInit(m, path('lora')) for _ in range(150)]\n"
        "try: c.setAdaptersLora(many); c.decode(batch())\n"
        "except (NativeAssertionError, NativeError, ValueError): pass",
    ),
)
