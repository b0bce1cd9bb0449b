"""Tokens and text."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_TOKENS = (-1, 364, 99_999_999, 2**31 - 1, -(2**31))
_ASKS = (
    ("tokenToPiece({})", "llama_token_to_piece"),
    ("isControl({})", "llama_vocab_is_control"),
    ("getText({})", "llama_vocab_get_text"),
    ("getScore({})", "llama_vocab_get_score"),
    ("getAttr({})", "llama_vocab_get_attr"),
)
_V = "v = load().vocab\n"
_NONE = "v = load('no-tokenizer').vocab\n"

CASES = (
    *(
        Case(ask.format(token), CHECK, function, _V + f"v.{ask.format(token)}", "IndexError", f"got {token}")
        for ask, function in _ASKS
        for token in _TOKENS
    ),
    *(
        Case(
            f"{ask.format(5)} without a tokenizer",
            CHECK,
            function,
            _NONE + f"v.{ask.format(5)}",
            "NativeError",
            "no tokenizer",
        )
        for ask, function in _ASKS
    ),
    Case("a token that is a text", CHECK, "llama_token_to_piece", _V + "v.tokenToPiece('x')", "TypeError"),
    Case("a token that is None", CHECK, "llama_token_to_piece", _V + "v.tokenToPiece(None)", "TypeError"),
    Case("isEog of tokens that are none", CHECK, "llama_vocab_is_eog", _V + f"assert not any(map(v.isEog, {_TOKENS}))"),
    Case(
        "special tokens without a tokenizer",
        CHECK,
        "llama_vocab_bos",
        _NONE + "assert {v.bos, v.eos, v.eot, v.sep, v.nl, v.pad, v.mask, v.fimPre, v.fimRep} == {TOKEN_NULL}\n"
        "assert not v.isEog(5) and v.getSuppressTokens() == []",
    ),
    Case(
        "a special token that there is none of, decoded",
        CHECK,
        "llama_decode",
        "m = load('no-tokenizer'); context(m).decode(Batch.getOne([m.vocab.eos]))",
        "ValueError",
        "got -1",
    ),
    Case(
        "a piece longer than its buffer",
        CHECK,
        "llama_token_to_piece",
        _V + "v.tokenToPiece(5, bytearray(2), 3)",
        "ValueError",
        "room for 2",
    ),
    Case(
        "a piece of negative length",
        CHECK,
        "llama_token_to_piece",
        _V + "v.tokenToPiece(5, bytearray(2), -1)",
        "ValueError",
        "between 0 and 2, got -1",
    ),
    *(
        Case(
            f"{name} of tokens without a tokenizer",
            CHECK,
            "llama_token_to_piece",
            f"c = context(load('no-tokenizer')); {call}",
            "NativeError",
            "no tokenizer",
        )
        for name, call in (
            ("the score", "score(c, [5, 6], [7])"),
            ("the best", "choose(c, [5], [[6], [7]])"),
            ("the perplexity", "perplexity(c, [5, 6, 7, 8], nCtx=4)"),
        )
    ),
    Case(
        "a piece with any lstrip",
        CHECK,
        "llama_token_to_piece",
        _V + "[v.tokenToPiece(5, lstrip=n) for n in (-9, 0, 9, (1 << 31) - 1)]",
    ),
    Case(
        "tokens past the facade",
        GUARD,
        "llama_token_to_piece",
        _V + "lib.llama_token_to_piece(v._c, 99999999, ffi.new('char[]', 8), 8, 0, False)",
        "NativeError",
        "llama_token_to_piece",
    ),
    *(
        Case(
            f"{function} of a token that is none past the facade",
            GUARD,
            function,
            _V + f"lib.{function}(v._c, -1)",
            "NativeError",
            function,
        )
        for function in ("llama_vocab_get_text", "llama_vocab_get_score", "llama_vocab_get_attr")
    ),
    *(
        Case(
            f"{function} without a tokenizer past the facade",
            GUARD,
            function,
            _NONE + f"lib.{function}(v._c, 5)",
            "NativeAssertionError",
        )
        for function in (
            "llama_vocab_get_text",
            "llama_vocab_get_score",
            "llama_vocab_get_attr",
            "llama_vocab_is_control",
        )
    ),
    # tokenize
    Case("no text", CHECK, "llama_tokenize", _V + "tokenize(v, None)", "TypeError", "str or bytes, got NoneType"),
    Case("no vocabulary", CHECK, "llama_tokenize", "tokenize(None, 'x')", "TypeError", "Vocab"),
    Case(
        "a negative length",
        CHECK,
        "llama_tokenize",
        _V + "tokenize(v, 'x', -1)",
        "ValueError",
        "between 0 and 1, got -1",
    ),
    Case(
        "a length beyond the text",
        CHECK,
        "llama_tokenize",
        _V + "tokenize(v, 'x', 2)",
        "ValueError",
        "between 0 and 1, got 2",
    ),
    Case(
        "more tokens than the buffer takes",
        CHECK,
        "llama_tokenize",
        _V + "tokenize(v, 'hello', None, array.array('i', [0]), 2)",
        "ValueError",
        "room for 1",
    ),
    Case(
        "a buffer of bytes",
        CHECK,
        "llama_tokenize",
        _V + "tokenize(v, 'hello', None, array.array('h', [0] * 9), 4)",
        "TypeError",
        "format 'h'",
    ),
    Case(
        "a buffer without its length",
        CHECK,
        "llama_tokenize",
        _V + "tokenize(v, 'x', None, bytearray(8), None)",
        "TypeError",
        "together",
    ),
    Case(
        "text without a tokenizer", CHECK, "llama_tokenize", _NONE + "tokenize(v, 'x')", "NativeError", "no tokenizer"
    ),
    *(
        Case(
            f"{name} on {kind}",
            CHECK,
            "llama_tokenize",
            f"tokenize(load('{kind}').vocab, {data})",
            error,
        )
        for kind in ("llama", "gpt2", "bert", "t5", "qwen2vl")
        for name, data, error in (
            ("bytes that are no UTF-8", "b'a\\xf5\\x80\\x80\\x80'", "UnicodeDecodeError"),
            ("a lone surrogate", "'\\ud800'", "UnicodeEncodeError"),
        )
    ),
    *(
        Case(
            f"odd texts on {kind}",
            CHECK,
            "llama_tokenize",
            f"v = load('{kind}').vocab\n"
            "for text in ('', '\\0', '\\0' * 999, '\\U0010ffff' * 99, '\\u200d' * 99, ' ' * 9999, 'a' * 99999,"
            " '\\n' * 9999, '1' * 9999,"
            " '\\u0300' * 999, '\\u4e2d' * 999, '!' * 9999, '<s>' * 99, '</s>'):\n"
            "    for special in (False, True):\n"
            "        tokens = tokenize(v, text, addSpecial=special, parseSpecial=special)\n"
            "        assert all(0 <= token < v.nTokens for token in tokens); "
            "detokenize(v, tokens, unparseSpecial=special)",
        )
        for kind in ("llama", "gpt2", "bert", "t5", "qwen2vl")
    ),
    *(
        Case(
            f"a stretch of {name} where regular expressions recurse",
            CHECK,
            "llama_tokenize",
            f"v = load('gpt2', kvOverrides={{'tokenizer.ggml.pre': '{pre}'}}).vocab\ntokenize(v, {text} * 100_000)",
        )
        for name, pre, text in (
            ("letters", "deepseek-llm", "'a'"),
            ("letters of code", "deepseek-coder", "'a'"),
            ("punctuation", "falcon", "'!'"),
            ("digits", "deepseek-llm", "'1'"),
        )
    ),
    Case(
        "a stretch that no stack holds",
        CHECK,
        "llama_tokenize",
        "v = load('gpt2', kvOverrides={'tokenizer.ggml.pre': 'deepseek-llm'}).vocab; tokenize(v, 'a' * (2 << 20))",
        "ValueError",
        "tokenize it in pieces",
    ),
    Case(
        "a long stretch on a thread with a small stack",
        CHECK,
        "llama_tokenize",
        "v = load('gpt2', kvOverrides={'tokenizer.ggml.pre': 'deepseek-llm'}).vocab; threading.stack_size(65536)\n"
        "t = threading.Thread(target=tokenize, args=(v, 'a' * 9999)); t.start(); t.join(); threading.stack_size(0)",
    ),
    Case(
        "a special token wanted and not there",
        CHECK,
        "llama_tokenize",
        "tokenize(load('t5', kvOverrides={'tokenizer.ggml.add_bos_token': True}).vocab, 'hello')",
        "NativeError",
        "pass addSpecial=False",
    ),
    Case(
        "a special token wanted and not there past the facade",
        GUARD,
        "llama_tokenize",
        "v = load('t5', kvOverrides={'tokenizer.ggml.add_bos_token': True}).vocab\n"
        "lib.llama_tokenize(v._c, b'hello', 5, ffi.NULL, 0, True, False)",
        "NativeAssertionError",
    ),
    Case(
        "RWKV's search without end",
        CHECK,
        "llama_tokenize",
        "tokenize(load(kvOverrides={'tokenizer.ggml.model': 'rwkv'}).vocab, 'hello')",
        "NativeError",
        "cannot tokenize",
    ),
    Case(
        "no text past the facade",
        GUARD,
        "llama_tokenize",
        _V + "lib.llama_tokenize(v._c, ffi.NULL, 3, ffi.NULL, 0, False, False)",
        "NativeError",
    ),
    Case(
        "a negative length past the facade",
        GUARD,
        "llama_tokenize",
        _V + "lib.llama_tokenize(v._c, b'x', -1, ffi.NULL, 0, False, False)",
        "NativeMemoryError",
    ),
    Case(
        "text without a tokenizer past the facade",
        GUARD,
        "llama_tokenize",
        _NONE + "lib.llama_tokenize(v._c, b'x', 1, ffi.NULL, 0, False, False)",
        "NativeAssertionError",
    ),
    Case(
        "bytes that are no UTF-8 past the facade",
        GUARD,
        "llama_tokenize",
        "v = load('gpt2').vocab; lib.llama_tokenize(v._c, b'a\\xf5\\x80\\x80\\x80', 5, ffi.NULL, 0, False, False)",
        "NativeError",
    ),
    Case(
        "characters that the vocabulary has no bytes for",
        GUARD,
        "llama_tokenize",
        "data = path().read_bytes()\n"
        "for byte in range(128, 256): data = data.replace(b'<0x%02X>' % byte, b'<1x%02X>' % byte)\n"
        "tokenize(Model.load(written(data)).vocab, '\\u4e2d')",
        "NativeError",
        "llama_tokenize",
    ),
    # detokenize
    *(
        Case(
            f"detokenize [5, {token}]",
            CHECK,
            "llama_detokenize",
            _V + f"detokenize(v, [5, {token}])",
            "IndexError",
            f"got {token}",
        )
        for token in _TOKENS
    ),
    Case("no tokens", CHECK, "llama_detokenize", _V + "assert detokenize(v, []) == ''"),
    Case("None for tokens", CHECK, "llama_detokenize", _V + "detokenize(v, None)", "TypeError", "tokens"),
    Case(
        "more tokens than there are",
        CHECK,
        "llama_detokenize",
        _V + "detokenize(v, [5], 2)",
        "ValueError",
        "between 0 and 1, got 2",
    ),
    Case(
        "a text longer than its buffer",
        CHECK,
        "llama_detokenize",
        _V + "detokenize(v, [5], None, bytearray(2), 3)",
        "ValueError",
        "room for 2",
    ),
    Case(
        "a text of negative length",
        CHECK,
        "llama_detokenize",
        _V + "detokenize(v, [5], None, bytearray(2), -3)",
        "ValueError",
        "between 0 and 2, got -3",
    ),
    Case(
        "tokens without a tokenizer",
        CHECK,
        "llama_detokenize",
        _NONE + "detokenize(v, [5])",
        "NativeError",
        "no tokenizer",
    ),
    Case(
        "tokens that are none past the facade",
        GUARD,
        "llama_detokenize",
        _V + "lib.llama_detokenize(v._c, ffi.new('int32_t[]', [9999]), 1, ffi.new('char[]', 8), 8, False, False)",
        "NativeError",
    ),
    Case(
        "a negative length of text past the facade",
        GUARD,
        "llama_detokenize",
        _V + "lib.llama_detokenize(v._c, ffi.new('int32_t[]', [5]), 1, ffi.new('char[]', 8), -8, False, False)",
        "NativeAssertionError",
    ),
    # The end
    *(
        Case(
            f"{call} after the model's end",
            OWNERSHIP,
            function,
            f"m = load(); v = m.vocab; m.free(); {call}",
            "ClosedError",
            "it was freed",
        )
        for call, function in (
            ("tokenize(v, 'x')", "llama_tokenize"),
            ("detokenize(v, [5])", "llama_detokenize"),
            ("v.tokenToPiece(5)", "llama_token_to_piece"),
            ("v.getText(5)", "llama_vocab_get_text"),
            ("v.isEog(5)", "llama_vocab_is_eog"),
            ("v.bos", "llama_vocab_bos"),
            ("v.getSuppressTokens()", "llama_vocab_get_suppress_tokens"),
        )
    ),
    Case(
        "a vocabulary that its model's name does not outlive",
        OWNERSHIP,
        "llama_model_get_vocab",
        "v = load().vocab; gc.collect(); tokenize(v, 'hello')",
    ),
    Case(
        "a vocabulary freed while others read it",
        OWNERSHIP,
        "llama_tokenize",
        "def race():\n    m = load(); v = m.vocab\n"
        "    def read(): tokenize(v, 'hello world' * 9); v.tokenToPiece(300); v.bos\n"
        "    only(together(read, read, lambda: time.sleep(0.0005) or m.free(), times=5), BusyError, ClosedError)\n"
        "for _ in range(30): race()",
    ),
    Case(
        "a vocabulary shared by threads",
        OWNERSHIP,
        "llama_tokenize",
        _V + "only(together(*[lambda: detokenize(v, tokenize(v, 'hello' * 99))] * 3))",
    ),
    Case("copies of a vocabulary", OWNERSHIP, "llama_vocab", _V + "copy.copy(v)", "TypeError", "cannot be copied"),
    Case(
        "deep copies of a vocabulary",
        OWNERSHIP,
        "llama_vocab",
        _V + "copy.deepcopy(v)",
        "TypeError",
        "cannot be copied",
    ),
    Case("a pickled vocabulary", OWNERSHIP, "llama_vocab", _V + "pickle.dumps(v)", "TypeError", "cannot be copied"),
)
