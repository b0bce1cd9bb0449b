"""Building batches."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_EXT = "c = context(nSeqMax=2); b = BatchExt.init(c)\n"

CASES = (
    # getOne
    Case("no tokens", CHECK, "llama_batch_get_one", "Batch.getOne([])", "ValueError", "at least one token"),
    Case(
        "more tokens than there are",
        CHECK,
        "llama_batch_get_one",
        "Batch.getOne([5], 2)",
        "ValueError",
        "between 0 and 1, got 2",
    ),
    Case(
        "a negative number of tokens",
        CHECK,
        "llama_batch_get_one",
        "Batch.getOne([5], -1)",
        "ValueError",
        "between 0 and 1, got -1",
    ),
    Case("one number", CHECK, "llama_batch_get_one", "Batch.getOne(5)", "TypeError", "[5]"),
    Case("a text", CHECK, "llama_batch_get_one", "Batch.getOne('hello')", "TypeError", "tokenize"),
    Case("None", CHECK, "llama_batch_get_one", "Batch.getOne(None)", "TypeError", "tokens"),
    Case(
        "a pointer",
        CHECK,
        "llama_batch_get_one",
        "Batch.getOne(ffi.cast('int32_t *', 0))",
        "TypeError",
        "array of int32_t",
    ),
    Case(
        "a number beyond 32 bits",
        CHECK,
        "llama_batch_get_one",
        "Batch.getOne([1 << 40])",
        "OverflowError",
        "token numbers",
    ),
    Case("floats", CHECK, "llama_batch_get_one", "Batch.getOne(array.array('f', [1.0]))", "TypeError", "format 'f'"),
    Case(
        "64-bit numbers", CHECK, "llama_batch_get_one", "Batch.getOne(array.array('q', [1]))", "TypeError", "format 'q'"
    ),
    Case(
        "a buffer that is gone",
        OWNERSHIP,
        "llama_batch_get_one",
        "t = array.array('i', [5] * 99); b = Batch.getOne(t); del t; gc.collect(); context(nCtx=256).decode(b)",
    ),
    Case("a batch of getOne grown", CHECK, "llama_batch_get_one", "batch().add(5, 1)", "TypeError", "Batch.init"),
    Case(
        "a batch of getOne lengthened",
        CHECK,
        "llama_batch_get_one",
        "batch().nTokens = 2",
        "ValueError",
        "nTokens must be between 0 and 1, got 2",
    ),
    Case(
        "NULL tokens past the facade",
        GUARD,
        "llama_batch_get_one",
        "c = context(); assert lib.llama_decode(c._c, lib.llama_batch_get_one(ffi.NULL, 1)) == -1",
    ),
    # init
    *(
        Case(f"init({arguments})", CHECK, "llama_batch_init", f"Batch.init({arguments})", "ValueError", words)
        for arguments, words in (
            ("0", "nTokens must be between 1"),
            ("-1", "nTokens must be between 1"),
            ("-(1 << 31)", "nTokens must be between 1"),
            ("(1 << 31) - 1", "2147483647"),
            ("4, -1", "embd must be between 0"),
            ("4, (1 << 31) - 1", "2147483647"),
            ("4, 0, 0", "nSeqMax must be between 1"),
            ("4, 0, -1", "nSeqMax must be between 1"),
            ("4, 0, 257", "256, got 257"),
        )
    ),
    Case(
        "more memory than there is",
        CHECK,
        "llama_batch_init",
        "Batch.init(1 << 24, 1 << 20)",
        "MemoryError",
    ),
    Case(
        "a batch that is full",
        CHECK,
        "llama_batch_init",
        "b = Batch.init(1); b.add(5, 0); b.add(5, 1)",
        "ValueError",
        "full",
    ),
    Case(
        "more entries than there is room for",
        CHECK,
        "llama_batch_init",
        "Batch.init(1).nTokens = 2",
        "ValueError",
        "1, got 2",
    ),
    Case(
        "a negative number of entries",
        CHECK,
        "llama_batch_init",
        "Batch.init(1).nTokens = -1",
        "ValueError",
        "nTokens must be between 0 and 1, got -1",
    ),
    Case(
        "more sequences than the row has",
        CHECK,
        "llama_batch_init",
        "Batch.init(1).add(5, 0, [0, 1])",
        "ValueError",
        "nSeqMax",
    ),
    Case("no sequences", CHECK, "llama_batch_init", "Batch.init(1).add(5, 0, [])", "ValueError", "1 and 1, got 0"),
    Case(
        "a token into embeddings", CHECK, "llama_batch_init", "Batch.init(1, 64).add(5, 0)", "TypeError", "embeddings"
    ),
    Case(
        "a field beyond its end", CHECK, "llama_batch_init", "Batch.init(1).token[1] = 5", "IndexError", "out of bounds"
    ),
    Case(
        "a sequence beyond its row",
        CHECK,
        "llama_batch_init",
        "Batch.init(1).seqId[0][1] = 5",
        "IndexError",
        "out of bounds",
    ),
    Case("a field replaced", CHECK, "llama_batch_init", "Batch.init(1).token = [5]", "AttributeError"),
    Case("a field deleted", CHECK, "llama_batch_init", "del Batch.init(1).pos", "AttributeError"),
    Case(
        "entries that nobody filled in",
        CHECK,
        "llama_batch_init",
        "b = Batch.init(4); b.nTokens = 4\ntry: context().decode(b)\nexcept (ValueError, DecodeError): pass",
    ),
    # The end
    Case("a batch freed twice", OWNERSHIP, "llama_batch_free", "b = Batch.init(1); b.free(); b.free(); batch().free()"),
    Case(
        "a freed batch decoded",
        OWNERSHIP,
        "llama_batch_free",
        "b = batch(); b.free(); context().decode(b)",
        "ClosedError",
        "freed",
    ),
    Case(
        "a freed batch filled",
        OWNERSHIP,
        "llama_batch_free",
        "b = Batch.init(1); b.free(); b.add(5, 0)",
        "ClosedError",
        "freed",
    ),
    Case(
        "fields kept over free",
        OWNERSHIP,
        "llama_batch_free",
        "b = Batch.init(4); t, s = b.token, b.seqId; b.free(); gc.collect(); t[3] = 5; s[3][0] = 1; assert t[3] == 5",
    ),
    Case(
        "rows of sequences kept over the batch",
        OWNERSHIP,
        "llama_batch_free",
        "row = Batch.init(4, 0, 9).seqId[3]; gc.collect(); row[8] = 7; assert row[8] == 7",
    ),
    Case("a copy of a batch", OWNERSHIP, "llama_batch", "copy.copy(Batch.init(1))", "TypeError", "copied"),
    Case("a deep copy of a batch", OWNERSHIP, "llama_batch", "copy.deepcopy(Batch.init(1))", "TypeError", "copied"),
    Case("a pickled batch", OWNERSHIP, "llama_batch", "pickle.dumps(Batch.init(1))", "TypeError", "copied"),
    Case("a batch without init", OWNERSHIP, "llama_batch", "Batch()", "TypeError", "Batch.init"),
    Case(
        "a batch that was never opened",
        OWNERSHIP,
        "llama_batch",
        "Batch.__new__(Batch).nTokens",
        "ClosedError",
        "never initialized",
    ),
    # Extended batches
    Case(
        "an extended batch of no context", CHECK, "llama_batch_ext_init", "BatchExt.init(None)", "TypeError", "Context"
    ),
    Case(
        "an extended batch of another context",
        OWNERSHIP,
        "llama_process",
        _EXT + "b.setPos(b.addToken(0, 5), 0); context().process(ProcessType.DECODE, b)",
        "ValueError",
        "another context",
    ),
    Case(
        "an extended batch after its context",
        OWNERSHIP,
        "llama_batch_ext_add_token",
        _EXT + "c.free(); b.addToken(0, 5)",
        "ClosedError",
        "its context was freed",
    ),
    Case(
        "an extended batch without positions",
        CHECK,
        "llama_process",
        _EXT + "b.addToken(0, 5); c.process(ProcessType.DECODE, b)",
        "ValueError",
        "setPos",
    ),
    Case(
        "an empty extended batch",
        CHECK,
        "llama_process",
        _EXT + "c.process(ProcessType.DECODE, b)",
        "ValueError",
        "empty",
    ),
    Case("a process type that does not exist", CHECK, "llama_process", _EXT + "c.process(9, b)", "ValueError", "9"),
    Case(
        "an extended batch encoded by a decoder",
        CHECK,
        "llama_process",
        _EXT + "b.setPos(b.addToken(0, 5), 0); c.process(ProcessType.ENCODE, b)",
        "ValueError",
        "no encoder",
    ),
    *(
        Case(f"BatchExt.{call}", CHECK, function, _EXT + f"b.addToken(0, 5); b.{call}", error, words)
        for call, function, error, words in (
            ("addToken(0, -1)", "llama_batch_ext_add_token", "IndexError", "got -1"),
            ("addToken(0, 364)", "llama_batch_ext_add_token", "IndexError", "363, the last of the vocabulary, got 364"),
            ("addToken(2, 5)", "llama_batch_ext_add_token", "ValueError", "nSeqMax"),
            ("addToken(-1, 5)", "llama_batch_ext_add_token", "ValueError", "nSeqMax"),
            ("add(7)", "llama_batch_ext_add", "ValueError", "nSeqMax"),
            ("addSeq(1, 0)", "llama_batch_ext_add_seq", "IndexError", "1 entries"),
            ("addSeq(0, 7)", "llama_batch_ext_add_seq", "ValueError", "sequence 7"),
            ("setPos(1, 0)", "llama_batch_ext_set_pos", "IndexError", "1 entries"),
            ("setPos(0, -1)", "llama_batch_ext_set_pos", "ValueError", "-1"),
            ("setPos(0, [1, 2])", "llama_batch_ext_set_pos", "ValueError", "pos must be one or four numbers"),
            ("setPos(0, 1 << 31)", "llama_batch_ext_set_pos", "ValueError", "2147483648"),
            ("setOutputLogits(-1)", "llama_batch_ext_set_output_logits", "IndexError", "-1"),
            ("setOutputEmbd(9)", "llama_batch_ext_set_output_embd", "IndexError", "9"),
            ("addEmbd(0, [0.0] * 63)", "llama_batch_ext_add_embd", "ValueError", "64 floats for this model, got 63"),
            (
                "setEmbdToken(0, [0.0] * 65)",
                "llama_batch_ext_set_embd_token",
                "ValueError",
                "64 floats for this model, got 65",
            ),
            (
                "setEmbdState(0, [0.0])",
                "llama_batch_ext_set_embd_state",
                "ValueError",
                "64 floats for this model, got 1",
            ),
        )
    ),
    Case(
        "a full extended batch",
        CHECK,
        "llama_batch_ext_add_token",
        "b = BatchExt.init(context(nBatch=2)); [b.addToken(0, 5) for _ in range(3)]",
        "ValueError",
        "nBatch",
    ),
    Case(
        "an entry without token or embedding",
        CHECK,
        "llama_process",
        _EXT + "b.setPos(b.add(0), 0); c.process(ProcessType.DECODE, b)",
        "ValueError",
        "embedding",
    ),
    Case(
        "an embedding with one position where four are needed",
        CHECK,
        "llama_batch_ext_set_pos",
        "c = context('qwen2vl'); b = BatchExt.init(c); b.setPos(b.addEmbd(0, [0.0] * 64), 0)\n"
        "b.setOutputLogits(0); c.process(ProcessType.DECODE, b)",
    ),
    Case(
        "an embedding whose buffer is gone",
        OWNERSHIP,
        "llama_batch_ext_add_embd",
        _EXT + "b.setPos(b.addEmbd(0, array.array('f', bytes(256))), 0); gc.collect(); b.setOutputLogits(0)\n"
        "c.process(ProcessType.DECODE, b)",
    ),
    Case(
        "an extended batch changed while it is processed",
        OWNERSHIP,
        "llama_process",
        "c = context(nThreads=1, nThreadsBatch=1); b = BatchExt.init(c)\n"
        "for i in range(32): b.setPos(b.addToken(0, 5), i)\n"
        "def work(): c.getMemory().clear(False); c.process(ProcessType.DECODE, b)\n"
        "def change():\n"
        "    b.clear()\n"
        "    for i in range(32): b.setPos(b.addToken(0, 5), i)\n"
        "only(together(work, change, times=100), ValueError, IndexError, DecodeError, BusyError)",
    ),
    Case(
        "an extended batch freed twice",
        OWNERSHIP,
        "llama_batch_ext_free",
        _EXT + "b.free(); b.free(); c.free(); b.free()",
    ),
    Case(
        "a freed extended batch processed",
        OWNERSHIP,
        "llama_process",
        _EXT + "b.free(); c.process(ProcessType.DECODE, b)",
        "ClosedError",
        "freed",
    ),
    Case(
        "copies of an extended batch",
        OWNERSHIP,
        "llama_batch_ext",
        _EXT + "copy.copy(b)",
        "TypeError",
        "cannot be copied",
    ),
)
