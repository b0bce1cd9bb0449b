"""GGUF files: wrong paths, values and tensors, closed files, files that change or end."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_OPEN = "g = Ggml.Gguf.open(path())\n"

CASES = (
    Case("no path", CHECK, "gguf_init_from_file", "Ggml.Gguf.open(None)", "TypeError", "path"),
    Case("a NUL in the path", CHECK, "gguf_init_from_file", r"Ggml.Gguf.open('a\0b')", "ValueError", "NUL"),
    Case("a folder", CHECK, "gguf_init_from_file", "Ggml.Gguf.open('/')", "IsADirectoryError"),
    Case("a device", CHECK, "gguf_init_from_file", "Ggml.Gguf.open('/dev/zero')", "OSError", "regular file"),
    Case(
        "a file that is not GGUF", CHECK, "gguf_init_from_file", "Ggml.Gguf.open('/etc/passwd')", "NativeError", "GGUF"
    ),
    Case(
        "an array of strings as numbers past the facade",
        GUARD,
        "gguf_get_arr_data",
        "p = ffi.new('struct gguf_init_params *', {'no_alloc': True})\n"
        "g = lib.gguf_init_from_file(bytes(path()), p[0])\n"
        "lib.gguf_get_arr_data(g, lib.gguf_find_key(g, b'tokenizer.ggml.tokens'))",
        "NativeAssertionError",
    ),
    Case("a write when closed", OWNERSHIP, "gguf_free", f"{_OPEN}g.close(); g.write('/tmp/x.gguf')", "ClosedError"),
    Case(
        "a tensor when closed",
        OWNERSHIP,
        "gguf_free",
        f"{_OPEN}t = g.tensors['token_embd.weight']; g.close(); t.numpy()",
        "ClosedError",
    ),
    Case(
        "a tensor's numbers when closed",
        OWNERSHIP,
        "gguf_free",
        f"{_OPEN}t = g.tensors['token_embd.weight']; g.close(); t.numpy(True)",
        "ClosedError",
    ),
    Case(
        "a change when closed",
        OWNERSHIP,
        "gguf_free",
        f"{_OPEN}g.close(); g.metadata['a'] = 1",
        "ClosedError",
        "open it",
    ),
    Case("closed twice", OWNERSHIP, "gguf_free", f"{_OPEN}g.close(); g.close(); assert g.closed"),
    Case(
        "a view of a file that is closed and gone",
        OWNERSHIP,
        "gguf_free",
        f"{_OPEN}v = g.tensors['output_norm.weight'].numpy(); g.close(); del g; import gc; gc.collect(); v.sum()",
    ),
    Case(
        "a write to a view",
        CHECK,
        "gguf_get_tensor_offset",
        f"{_OPEN}g.tensors['output_norm.weight'].numpy()[0] = 1",
        "ValueError",
        "read-only",
    ),
    Case(
        "a file that is truncated while it is read",
        OWNERSHIP,
        "gguf_get_tensor_offset",
        "import shutil, tempfile, os\n"
        "d = tempfile.mkdtemp(); p = os.path.join(d, 'a.gguf'); shutil.copy(os.fsdecode(path()), p)\n"
        "g = Ggml.Gguf.open(p); os.truncate(p, 100)\n"
        "[t.numpy(True) for t in g.tensors.values() if t.type != Ggml.Type.F32]; g.write(p)",
        "OSError",
        "shorter",
    ),
    Case(
        "a file that is written over itself",
        OWNERSHIP,
        "gguf_write_to_file",
        "import shutil, tempfile, os\n"
        "d = tempfile.mkdtemp(); p = os.path.join(d, 'a.gguf'); shutil.copy(os.fsdecode(path()), p)\n"
        "g = Ggml.Gguf.open(p); v = [t.numpy() for t in g.tensors.values()]\n"
        "g.metadata['x'] = 1; g.write(p); g.write(p); [float(x.sum()) for x in v]",
    ),
    Case("an empty key", CHECK, "gguf_set_val_u32", "Ggml.Gguf().metadata[''] = 1", "ValueError", "got 0"),
    Case("a NUL in a value", CHECK, "gguf_set_val_str", r"Ggml.Gguf().metadata['a'] = 'a\0b'", "ValueError", "NUL"),
    Case(
        "an alignment that is not a power of two",
        CHECK,
        "gguf_set_val_u32",
        "Ggml.Gguf().metadata['general.alignment'] = 3",
        "ValueError",
        "power of two",
    ),
    Case(
        "an alignment of 0",
        CHECK,
        "gguf_set_val_u32",
        "Ggml.Gguf().metadata['general.alignment'] = 0",
        "ValueError",
        "got 0",
    ),
    Case(
        "a type that does not exist",
        CHECK,
        "gguf_set_arr_data",
        "Ggml.Gguf().metadata.set('a', 1, 99)",
        "ValueError",
        "GgufType",
    ),
    Case("an array of arrays", CHECK, "gguf_set_arr_data", "Ggml.Gguf().metadata['a'] = [[1]]", "TypeError"),
    Case(
        "a long name of a tensor",
        CHECK,
        "gguf_add_tensor",
        "Ggml.Gguf().tensors.add('n' * 64, [1.0])",
        "ValueError",
        "63 bytes of UTF-8, got 64",
    ),
    Case(
        "five dimensions",
        CHECK,
        "gguf_add_tensor",
        "import numpy; Ggml.Gguf().tensors.add('n', numpy.zeros((1,) * 5))",
        "ValueError",
        "between 1 and 4 dimensions, got 5",
    ),
    Case(
        "rows that are not whole blocks",
        CHECK,
        "ggml_quantize_chunk",
        "Ggml.Gguf().tensors.add('n', [0.0] * 100, Ggml.Type.Q4_K)",
        "ValueError",
        "multiple of 256",
    ),
    Case(
        "a type that ggml cannot write",
        CHECK,
        "ggml_quantize_chunk",
        "Ggml.Gguf().tensors.add('n', [0.0] * 256, Ggml.Type.Q8_K)",
        "ValueError",
        "Q8_K",
    ),
    Case(
        "no importance matrix",
        CHECK,
        "ggml_quantize_chunk",
        "Ggml.Gguf().tensors.add('n', [0.0] * 256, Ggml.Type.IQ2_XXS)",
        "ValueError",
        "imatrix",
    ),
    Case(
        "no importance matrix past the facade",
        GUARD,
        "ggml_quantize_chunk",
        "lib.ggml_quantize_chunk(Ggml.Type.IQ2_XXS, ffi.new('float[256]'), ffi.new('char[66]'), 0, 1, 256, ffi.NULL)",
        "NativeAssertionError",
        "imatrix != NULL",
    ),
    Case(
        "a short importance matrix",
        CHECK,
        "ggml_quantize_chunk",
        "Ggml.Gguf().tensors.add('n', [0.0] * 256, Ggml.Type.IQ4_XS, [1.0] * 255)",
        "ValueError",
        "256 numbers",
    ),
    Case(
        "a number that is nan",
        CHECK,
        "ggml_quantize_chunk",
        "g = Ggml.Gguf(); g.tensors.add('n', [math.nan] * 256, Ggml.Type.IQ4_XS); g.tensors['n'].data",
        "ValueError",
        "got nan",
    ),
    Case(
        "a number that is too large",
        CHECK,
        "ggml_quantize_chunk",
        "g = Ggml.Gguf(); g.tensors.add('n', [1e38] * 256, Ggml.Type.Q6_K); g.tensors['n'].data",
        "ValueError",
        "65504",
    ),
    Case(
        "stored data of the wrong size",
        CHECK,
        "gguf_set_tensor_data",
        "Ggml.Gguf().tensors.add('n', b'abc', Ggml.Type.F32, shape=(1,))",
        "ValueError",
        "4 bytes",
    ),
    Case(
        "a type that ggml cannot dequantize",
        CHECK,
        "ggml_get_type_traits",
        "g = Ggml.Gguf(); g.tensors.add('n', bytes(292), Ggml.Type.Q8_K, shape=(256,)); g.tensors['n'].numpy(True)",
        "UnavailableError",
        "Q8_K",
    ),
    Case("a copy", OWNERSHIP, "gguf_free", f"{_OPEN}import copy; copy.copy(g)", "TypeError"),
    Case(
        "a part of a model that is not split",
        CHECK,
        "gguf_init_from_file",
        "Ggml.Gguf.merge(path())",
        "ValueError",
        "split",
    ),
    Case(
        "a file of 0 tensors",
        CHECK,
        "gguf_init_from_file",
        f"{_OPEN}g.split('/tmp/x', maxTensors=0)",
        "ValueError",
        "maxTensors must be between 1",
    ),
    Case(
        "used by many threads at once",
        OWNERSHIP,
        "gguf_free",
        f"{_OPEN}import threading\n"
        "def use():\n"
        "    for i in range(20):\n"
        "        try: [t.numpy(True) for t in g.tensors.values()]; g.metadata['x'] = i\n"
        "        except ClosedError: pass\n"
        "threads = [threading.Thread(target=use) for _ in range(4)]\n"
        "[t.start() for t in threads]; g.close(); [t.join() for t in threads]",
    ),
)
