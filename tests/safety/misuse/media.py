"""Projectors, images, sounds and the chunks of their prompts."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case, Kind

_NUMPY = "import numpy as np\n"
_P = _NUMPY + "m = load(); p = projector('llava', m); b = Mtmd.Bitmap.fromImage(np.zeros((28, 28, 3), 'u1'))\n"
_K = _P + "k = p.tokenize('a <__media__> b', [b]); c = context(m)\n"
_LIVE = (
    "o = k[1]; live = {'mtmd_context': p._c, 'mtmd_bitmap': b._c, 'mtmd_input_chunks': k._c}\n"
    "live |= {'mtmd_input_chunk': o._c, 'llama_context': c._c}\n"
    "live |= {'llama_model': m._c, 'mtmd_batch': lib.mtmd_batch_init(p._c)}\n"
)
_OWNERS = {
    "mtmd_context": "p",
    "mtmd_bitmap": "b",
    "mtmd_input_chunks": "k",
    "mtmd_input_chunk": "q",
}
_LEAST = {"mtmd_context": 15, "mtmd_bitmap": 7, "mtmd_input_chunks": 4, "mtmd_input_chunk": 10}


def _case(name: str, function: str, code: str, error: str = "", words: str = "", kind: Kind = CHECK) -> Case:
    return Case(name, kind, function, code, error, words)


def _cases(prefix: str, setup: str, *rows: tuple[str, str, str, str, str, Kind]) -> tuple[Case, ...]:
    """Rows of a name, a C function, code, an error, its words, and a kind."""
    return tuple(
        _case(f"{prefix} {name}", function, setup + code, error, words, kind)
        for name, function, code, error, words, kind in rows
    )


_INIT = "mtmd_init_from_file"
_TOKENIZE = "mtmd_tokenize"
_EVAL = "mtmd_helper_eval_chunks"
_BITMAP = "mtmd_bitmap_init"
_BUFFER = "mtmd_helper_bitmap_init_from_buf"

CASES = (
    *_cases(
        "a projector",
        _NUMPY,
        ("for no model", _INIT, "projector('llava', 5)", "TypeError", "Model", CHECK),
        ("that is a model", _INIT, "Mtmd.Context.initFromFile(path(), load())", "ModelLoadError", "", CHECK),
        ("that is not there", _INIT, "projector('nothing')", "FileNotFoundError", "", CHECK),
        ("that is a folder", _INIT, "Mtmd.Context.initFromFile(FOLDER, load())", "IsADirectoryError", "", CHECK),
        ("of another width", _INIT, "projector('llava', load('wide'))", "ModelLoadError", "", CHECK),
        ("for a vocabulary", _INIT, "projector('llava', load(vocabOnly=True))", "ValueError", "vocabOnly", CHECK),
        ("on no threads", _INIT, "projector('llava', nThreads=0)", "ValueError", "nThreads", CHECK),
        ("on 10**6 threads", _INIT, "projector('llava', nThreads=10**6)", "ValueError", "nThreads", CHECK),
        ("with an empty marker", _INIT, "projector('llava', mediaMarker='')", "ValueError", "mediaMarker", CHECK),
        ("on a device that is none", _INIT, "projector('llava', device=5)", "TypeError", "device", CHECK),
        ("whose progress raises", _INIT, "projector(progressCallback=lambda x: 1 / 0)", "ZeroDivisionError", "", CHECK),
        ("that is stopped", _INIT, "projector(progressCallback=lambda x: False)", "ModelLoadError", "stopped", CHECK),
        (
            "whose progress frees the model",
            _INIT,
            "m = load(); projector('llava', m, progressCallback=lambda x: m.free())",
            "BusyError",
            "",
            OWNERSHIP,
        ),
        ("for a freed model", _INIT, "m = load(); m.free(); projector('llava', m)", "ClosedError", "freed", OWNERSHIP),
        ("with a stack factor of 8", _INIT, "projector('eight')", "ModelLoadError", "stack_factor", CHECK),
        ("with a stack factor of 0", _INIT, "projector('zero')", "ModelLoadError", "stack_factor", CHECK),
        (
            "of NULL past the facade",
            _INIT,
            _P + "q = lib.mtmd_context_params_default()\nassert lib.mtmd_init_from_file(ffi.NULL, m._c, q) == ffi.NULL",
            "",
            "",
            GUARD,
        ),
    ),
    *_cases(
        "of a projector that was freed:",
        _K,
        ("tokenize", _TOKENIZE, "p.free(); p.tokenize('a')", "ClosedError", "freed", OWNERSHIP),
        ("encodeChunk", "mtmd_encode_chunk", "p.free(); p.encodeChunk(k[1])", "ClosedError", "freed", OWNERSHIP),
        ("evalChunks", _EVAL, "p.free(); p.evalChunks(c, k)", "ClosedError", "freed", OWNERSHIP),
        ("the embeddings", "mtmd_get_output_embd", "p.free(); p.getOutputEmbd()", "ClosedError", "freed", OWNERSHIP),
        ("its model", "mtmd_free", "p.free(); p.free(); assert p.getModel() is m", "", "", OWNERSHIP),
        ("with its model", "llama_model_free", "m.free(); p.encodeChunk(k[1])", "ClosedError", "model", OWNERSHIP),
        ("a file", _BUFFER, "p.free(); Mtmd.Bitmap.fromBytes(p, b'P6 1 1 255 abc')", "ClosedError", "", OWNERSHIP),
        ("its chunks stay", "mtmd_free", "p.free(); assert k[1].nTokens == 4 and k.nTokens > 4", "", "", OWNERSHIP),
        (
            "in its own callback",
            "mtmd_free",
            "q = projector('llava', m, cbEval=lambda *a: q.free() or True)\n"
            "q.encodeChunk(q.tokenize('<__media__>', [b])[1])",
            "BusyError",
            "",
            OWNERSHIP,
        ),
        (
            "while another thread encodes",
            "mtmd_free",
            "only(together(lambda: p.encodeChunk(k[1]), p.free), ClosedError, BusyError)",
            "",
            "",
            OWNERSHIP,
        ),
        (
            "while another thread evaluates, with the context",
            "llama_free",
            "only(together(lambda: p.evalChunks(c, k), c.free, times=9), ClosedError, BusyError, DecodeError)",
            "",
            "",
            OWNERSHIP,
        ),
    ),
    *_cases(
        "chunks",
        _K,
        (
            "that were freed",
            "mtmd_input_chunks_free",
            "k.free(); p.evalChunks(c, k)",
            "ClosedError",
            "freed",
            OWNERSHIP,
        ),
        (
            "whose list was freed",
            "mtmd_input_chunks_free",
            "q = k[1]; k.free(); q.nTokens",
            "ClosedError",
            "freed",
            OWNERSHIP,
        ),
        (
            "whose list was collected",
            "mtmd_input_chunks_get",
            "q = k[1]; del k; gc.collect(); p.encodeChunk(q)",
            "",
            "",
            OWNERSHIP,
        ),
        (
            "freed one by one",
            "mtmd_input_chunk_free",
            "k[1].free(); k[1].free(); p.evalChunks(c, k)",
            "",
            "",
            OWNERSHIP,
        ),
        (
            "freed past the facade",
            "mtmd_input_chunk_free",
            "lib.mtmd_input_chunk_free(k[1]._c)",
            "NativeError",
            "belongs",
            GUARD,
        ),
        (
            "of another projector",
            "mtmd_encode_chunk",
            "projector('llava', m).encodeChunk(k[1])",
            "ValueError",
            "another",
            CHECK,
        ),
        ("in place of one", "mtmd_encode_chunk", "p.encodeChunk(k)", "TypeError", "Mtmd.Chunk", CHECK),
        ("that are none", _EVAL, "p.evalChunks(c, [k[1]])", "TypeError", "Mtmd.Chunks", CHECK),
        ("by an index past the end", "mtmd_input_chunks_get", "k.get(3)", "IndexError", "2", CHECK),
        (
            "by an index past the end, past the facade",
            "mtmd_input_chunks_get",
            "assert lib.mtmd_input_chunks_get(k._c, 10**9) == ffi.NULL",
            "",
            "",
            CHECK,
        ),
        (
            "of a text as an image",
            "mtmd_helper_decode_image_chunk",
            "p.decodeImageChunk(c, k[0], [0.0])",
            "ValueError",
            "text",
            CHECK,
        ),
        (
            "with too few embeddings",
            "mtmd_helper_decode_image_chunk",
            "p.decodeImageChunk(c, k[1], [0.0] * 9)",
            "ValueError",
            "got 9",
            CHECK,
        ),
        ("before any was encoded", "mtmd_get_output_embd", "p.getOutputEmbd()", "ValueError", "encodeChunk", CHECK),
        ("copied", "mtmd_input_chunk_copy", "copy.copy(k[1])", "TypeError", "copied", CHECK),
    ),
    *_cases(
        "a prompt",
        _P,
        ("with a marker too many", _TOKENIZE, "p.tokenize('<__media__>' * 2, [b])", "ValueError", "got 2", CHECK),
        ("without a marker", _TOKENIZE, "p.tokenize('a', [b])", "ValueError", "got 0", CHECK),
        ("with a bitmap in place of a list", _TOKENIZE, "p.tokenize('<__media__>', b)", "TypeError", "sequence", CHECK),
        (
            "with an array in place of a bitmap",
            _TOKENIZE,
            "p.tokenize('<__media__>', [np.zeros(3)])",
            "TypeError",
            "Bitmap",
            CHECK,
        ),
        ("that is none", _TOKENIZE, "p.tokenize(5)", "TypeError", "text", CHECK),
        (
            "with a freed bitmap",
            _TOKENIZE,
            "b.free(); p.tokenize('<__media__>', [b])",
            "ClosedError",
            "freed",
            OWNERSHIP,
        ),
        (
            "with the same bitmap twice",
            _TOKENIZE,
            "assert len(p.tokenize('<__media__>' * 2, [b, b])) >= 2",
            "",
            "",
            OWNERSHIP,
        ),
        (
            "with a sound for eyes",
            _TOKENIZE,
            "p.tokenize('<__media__>', [Mtmd.Bitmap.fromAudio([0.0] * 99)])",
            "ValueError",
            "no sounds",
            CHECK,
        ),
        (
            "with an image for ears",
            _TOKENIZE,
            "projector('ultravox', m).tokenize('<__media__>', [b])",
            "ValueError",
            "no images",
            CHECK,
        ),
        ("of 3 million characters", _TOKENIZE, "p.tokenize('ab ' * 10**6)", "", "", CHECK),
        ("with a NUL", _TOKENIZE, "assert 0 in p.tokenize('a\\0b')[0].tokens or True", "", "", CHECK),
        (
            "whose bitmap was freed since",
            _TOKENIZE,
            "k = p.tokenize('<__media__>', [b]); b.free(); p.encodeChunk(k[1])",
            "",
            "",
            OWNERSHIP,
        ),
    ),
    *_cases(
        "an evaluation",
        _K,
        ("at a position before the first", _EVAL, "p.evalChunks(c, k, -1)", "ValueError", "nPast", CHECK),
        ("at position 2**40", _EVAL, "p.evalChunks(c, k, 2**40)", "ValueError", "nPast", CHECK),
        ("at a position far past the end", _EVAL, "assert p.evalChunks(c, k, 2**29) == 2**29 + k.nPos", "", "", CHECK),
        ("of sequence 99", _EVAL, "p.evalChunks(c, k, 0, 99)", "ValueError", "99", CHECK),
        ("in batches of 0", _EVAL, "p.evalChunks(c, k, nBatch=0)", "ValueError", "nBatch", CHECK),
        ("in batches of 10**6", _EVAL, "p.evalChunks(c, k, nBatch=10**6)", "ValueError", "nBatch", CHECK),
        ("in a context of another model", _EVAL, "p.evalChunks(context(), k)", "ValueError", "another model", CHECK),
        ("in no context", _EVAL, "p.evalChunks(m, k)", "TypeError", "Context", CHECK),
        ("in a freed context", _EVAL, "c.free(); p.evalChunks(c, k)", "ClosedError", "freed", OWNERSHIP),
        (
            "that fills the context",
            _EVAL,
            "for i in range(99): p.evalChunks(c, k, i * k.nPos)",
            "ContextFullError",
            "nCtx",
            CHECK,
        ),
        (
            "that is aborted",
            _EVAL,
            "c.setAbortCallback(lambda: True); p.evalChunks(c, k)",
            "DecodeError",
            "aborted",
            CHECK,
        ),
        (
            "whose callback encodes",
            "mtmd_encode_chunk",
            "q = projector('llava', m, cbEval=lambda *a: q.encodeChunk(r[1]) or True)\n"
            "r = q.tokenize('<__media__>', [b]); q.encodeChunk(r[1])",
            "BusyError",
            "",
            OWNERSHIP,
        ),
        (
            "whose callback raises",
            _EVAL,
            "q = projector('llava', m, cbEval=lambda *a: 1 / 0)\nq.evalChunks(c, q.tokenize('<__media__>', [b]))",
            "ZeroDivisionError",
            "",
            CHECK,
        ),
    ),
    *_cases(
        "an image",
        _P,
        ("of no pixels", _BITMAP, "Mtmd.Bitmap.fromImage(np.zeros((0, 4, 3), 'u1'))", "ValueError", "4 x 0", CHECK),
        ("of two dimensions", _BITMAP, "Mtmd.Bitmap.fromImage(np.zeros((4, 4), 'u1'))", "ValueError", "shape", CHECK),
        ("of floats", _BITMAP, "Mtmd.Bitmap.fromImage(np.zeros((4, 4, 3)))", "ValueError", "bytes", CHECK),
        (
            "with transparency",
            _BITMAP,
            "Mtmd.Bitmap.fromImage(np.zeros((4, 4, 4), 'u1'))",
            "ValueError",
            "shape",
            CHECK,
        ),
        (
            "of 40,000 rows",
            _BITMAP,
            "Mtmd.Bitmap.fromImage(np.zeros((40000, 1, 3), 'u1'))",
            "ValueError",
            "32768",
            CHECK,
        ),
        (
            "of 2**26 pixels and one row",
            _BITMAP,
            "Mtmd.Bitmap.fromImage(np.broadcast_to(np.zeros((1, 1, 3), 'u1'), (8193, 8192, 3)))",
            "ValueError",
            "67108864",
            CHECK,
        ),
        ("that is a list", _BITMAP, "Mtmd.Bitmap.fromImage([[1]])", "TypeError", "array", CHECK),
        (
            "without data past the facade",
            "mtmd_bitmap_get_data",
            "q = lib.mtmd_bitmap_init(4, 4, ffi.NULL); lib.mtmd_bitmap_get_data(q); lib.mtmd_bitmap_free(q)",
            "",
            "",
            CHECK,
        ),
        (
            "freed twice past the facade",
            "mtmd_bitmap_free",
            "q = lib.mtmd_bitmap_init(1, 1, b'abc'); lib.mtmd_bitmap_free(q); lib.mtmd_bitmap_free(q)",
            "ClosedError",
            "freed",
            GUARD,
        ),
        (
            "whose width is read after its end",
            "mtmd_bitmap_get_nx",
            "b.free(); b.width",
            "ClosedError",
            "freed",
            OWNERSHIP,
        ),
        (
            "whose data outlive it",
            "mtmd_bitmap_get_data",
            "q = b.data; b.free(); assert q[0, 0, 0] == 0",
            "",
            "",
            OWNERSHIP,
        ),
        ("with a name that is none", "mtmd_bitmap_set_id", "b.setId(5)", "TypeError", "id", CHECK),
        ("with a NUL in its name", "mtmd_bitmap_set_id", "b.setId('a\\0b')", "ValueError", "NUL", CHECK),
    ),
    *_cases(
        "a file",
        _P + "F = Mtmd.Bitmap.fromBytes\n",
        ("of no bytes", _BUFFER, "F(p, b'')", "ValueError", "", CHECK),
        ("of text", _BUFFER, "F(p, b'hello')", "ValueError", "neither", CHECK),
        ("in a str", _BUFFER, "F(p, 'x.png')", "TypeError", "fromFile", CHECK),
        ("for no projector", _BUFFER, "F(m, b'x')", "TypeError", "Mtmd.Context", CHECK),
        (
            "of a sound for eyes",
            _BUFFER,
            "F(p, b'RIFF' + bytes(4) + b'WAVEfmt ' + struct.pack('<IHHIIHH', 16, 1, 1, 8000, 16000, 2, 16))",
            "ValueError",
            "no sounds",
            CHECK,
        ),
        (
            "of 2**62 pixels",
            _BUFFER,
            "F(p, b'\\x89PNG\\r\\n\\x1a\\n\\0\\0\\0\\rIHDR\\x7f\\xff\\xff\\xff\\x7f\\xff\\xff\\xff' + bytes(99))",
            "ValueError",
            "pixels",
            CHECK,
        ),
        (
            "of an image that is cut off",
            _BUFFER,
            "F(p, b'\\x89PNG\\r\\n\\x1a\\n\\0\\0\\0\\rIHDR\\0\\0\\0\\4\\0\\0\\0\\4\\x08\\2\\0\\0\\0')",
            "ValueError",
            "decoded",
            CHECK,
        ),
        ("longer than maxBytes", _BUFFER, "F(p, b'P6 1 1 255 abc', maxBytes=3)", "ValueError", "maxBytes=3", CHECK),
        ("that is a folder", _BUFFER, "Mtmd.Bitmap.fromFile(p, FOLDER)", "IsADirectoryError", "", CHECK),
        ("that is a device", _BUFFER, "Mtmd.Bitmap.fromFile(p, '/dev/zero')", "OSError", "regular", CHECK),
    ),
    *_cases(
        "a sound",
        _NUMPY + "m = load(); p = projector('ultravox', m)\n",
        ("of no samples", "mtmd_bitmap_init_from_audio", "Mtmd.Bitmap.fromAudio([])", "ValueError", "samples", CHECK),
        ("of text", "mtmd_bitmap_init_from_audio", "Mtmd.Bitmap.fromAudio('abc')", "TypeError", "samples", CHECK),
        (
            "of one sample",
            _TOKENIZE,
            "p.encodeChunk(p.tokenize('<__media__>', [Mtmd.Bitmap.fromAudio([0.5])])[1])",
            "ValueError",
            "between 2",
            CHECK,
        ),
        (
            "of NaN",
            _TOKENIZE,
            "p.encodeChunk(p.tokenize('<__media__>', [Mtmd.Bitmap.fromAudio([math.nan] * 999)])[1])",
            "",
            "",
            CHECK,
        ),
        (
            "at a rate of 0",
            _BUFFER,
            "h = struct.pack('<IHHIIHH', 16, 1, 1, 0, 0, 2, 16)\n"
            "Mtmd.Bitmap.fromBytes(p, b'RIFF' + bytes(4) + b'WAVEfmt ' + h)",
            "ValueError",
            "rate",
            CHECK,
        ),
        (
            "of a year",
            _BUFFER,
            "Mtmd.Bitmap.fromBytes(p, b'RIFF' + bytes(4) + b'WAVEfmt ' + struct.pack('<IHHIIHH', 16, 1, 1, 1, 2, 2, 16)"
            " + b'data' + struct.pack('<I', 10**6) + bytes(10**6))",
            "ValueError",
            "maxSeconds",
            CHECK,
        ),
    ),
    # Past the facade: each function that takes an object, with NULL, one that was freed, and one of another kind.
    *(
        _case(
            f"NULL for a {kind} past the facade",
            f"{kind}_free",
            f"{_K}{_LIVE}assert wrong_handles('{kind}', ffi.NULL, live, NativeError, 'NULL') >= {least}",
            kind=GUARD,
        )
        for kind, least in _LEAST.items()
    ),
    *(
        _case(
            f"a freed {kind} past the facade",
            f"{kind}_free",
            f"{_K}q = k[1].copy()\n{_LIVE}old = {owner}._c; {owner}.free()\n"
            f"assert wrong_handles('{kind}', old, live, ClosedError, 'freed') >= {least}",
            kind=GUARD,
        )
        for (kind, owner), least in zip(_OWNERS.items(), _LEAST.values(), strict=True)
    ),
    *(
        _case(
            f"another object for a {kind} past the facade",
            f"{kind}_free",
            f"{_K}{_LIVE}assert wrong_handles('{kind}', m._c, live, TypeError, 'llama_model') >= {least}",
        )
        for kind, least in _LEAST.items()
    ),
)
