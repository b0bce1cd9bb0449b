"""Arguments for the steps, as source text: what a caller should write, and what nobody should.

A kind is the name of a placeholder in `calls.py`. Its value is a valid one most of the time, and sometimes one of
ABSURD. Kinds that are objects are drawn from those that the machine has made.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from llama_cffi import Context, Ggml, Model, Sampler
from tests.fuzz.models import MODELS

# fmt: off
ABSURD = (
    "None", "True", "False", "-1", "0", "1", "7", "-2**31", "-2**31-1", "2**31-1", "2**31", "2**32-1", "2**32", "2**63",
    "2**64", "-2**64", "10**400", "0.5", "1e39", "nan", "inf", "-inf", "1j", "''", "'x'", "'0'", "'\\ud800'", "'a\\0b'",
    "b''", "b'\\xff\\xf5\\x80'", "'x' * 5000", "[]", "()", "{}", "set()", "[None]", "['x']", "[[1]]", "[-1]", "[2**40]",
    "[nan]", "[0] * 5000", "range(3)", "bytearray(8)", "memoryview(b'abcd')", "np.zeros(3)", "np.float32(1)",
    "np.int64(3)", "np.zeros((2, 2), np.float32)", "array('i', [1, 2])", "array('d', [1.0])", "object()", "ffi.NULL",
    "ffi.new('int *')", "ffi.new('int[4]')", "len", "boom", "Model", "Context.Params()", "Model.Params()", "KEPT",
)
# fmt: on

TEXTS = ("'hello world'", "'the end'", "''", "' '", "b'hello'", "'\\u00e9\\u4e16\\U0001f600'", "'<|im_end|>'", "'a' * 3000")
_GRAMMARS = (
    "'root ::= \"yes\" | \"no\"'",
    "'root ::= [a-z]+'",
    "'root ::= item*\\nitem ::= \"{\" root \"}\"'",
    "'root ::= root \"a\"'",
    "'root ::= '",
    "'root ::= \"'",
    "'root ::= undefined'",
    "'root ::= ((\"a\"){2,3}'",
    "'root ::= [^\\\\x00-\\\\xff]{0,9}'",
    "'root ::= ' + '(' * 300",
    "'x ::= \"a\"'",
    "'root ::= \"a\"{99999999}'",
)
_PATTERNS = ("['hello']", "['(a+)+b']", "['(']", "['[']", "['']", "['a{999999}']", "()", "['\\\\1']", "'hello'")
_CONTEXT = {
    "nCtx": ("64", "128", "200", "0", "1", "3"),
    "nBatch": ("8", "32", "64", "1", "512"),
    "nUbatch": ("4", "8", "32", "512", "7"),
    "nSeqMax": ("1", "2", "3", "4", "256"),
    "nOutputsMax": ("0", "1", "2", "4", "64"),
    "nOutputsMaxPerSeq": ("0", "1", "2"),
    "nThreads": ("1", "2", "3"),
    "nThreadsBatch": ("1", "2", "3"),
    "nRsSeq": ("0", "1", "2", "8"),
    "yarnOrigCtx": ("0", "16", "64"),
    "nSamplers": ("0", "1"),
    "cbEval": ("None", "boom", "{eval}", "lambda t, ask: KEPT.append(t)"),
    "abortCb": ("None", "boom", "always(True)", "always(False)", "{fn}"),
    "samplers": ("None", "[(0, {chain})]", "{0: {chain}}", "[SamplerSeqConfig(0, {chain}), (1, {chain})]"),
}
_MODEL = {
    "nGpuLayers": ("0", "1", "-1"),
    "mainGpu": ("0", "-1", "5"),
    "progressCallback": ("None", "boom", "always(False)", "always(True)", "{fn}"),
    "tensorSplit": ("None", "[1.0]", "[]", "[0] * 16", "[1] * 17", "[nan]"),
    "devices": ("None", "[]", "Ggml.Backend.devices()", "Ggml.Backend.devices() * 2"),
    "tensorBuftOverrides": ("None", "[]", "[TensorBuftOverride('.*', Ggml.BackendDevice.get(0).bufferType())]",
                            "[TensorBuftOverride('(', Ggml.BackendDevice.get(0).bufferType())]"),
    "kvOverrides": ("None", "{}", "{'llama.rope.freq_base': 1e6}", "{'llama.block_count': {absurd}}",
                    "{'llama.context_length': {absurd}}", "{'llama.attention.head_count': {absurd}}",
                    "{'tokenizer.ggml.bos_token_id': {absurd}}", "{'general.architecture': {absurd}}",
                    "{'llama.attention.layer_norm_rms_epsilon': {absurd}}", "{'llama.vocab_size': {absurd}}",
                    "{'llama.embedding_length': {absurd}}", "{'llama.rope.dimension_count': {absurd}}"),
}  # fmt: skip
_QUANTIZE = {"nthread": ("1", "2", "0", "-1"), "ftype": ("Ftype.MOSTLY_Q8_0", "Ftype.ALL_F32", "Ftype.MOSTLY_Q4_K_M")}

OBJECTS = {
    "model": 2, "ctx": 3, "batch": 4, "ext": 2, "sampler": 4, "chain": 3, "adapter": 2, "pool": 2, "cands": 3,
    "memory": 2, "vocab": 2, "view": 4, "state": 3, "cparams": 2, "mparams": 2, "qparams": 1, "sparams": 1, "row": 2,
    "device": 1, "buft": 1, "perf": 1, "config": 2, "message": 2,
}  # fmt: skip
"""Kinds of objects, and how many names there are for each: a name that is assigned again lets the old object go."""


def _fields(cls: type, typical: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Valid values of each attribute of a parameter class, by what it is now."""
    plain = cls()
    found: dict[str, tuple[str, ...]] = {}
    for name in cls._fields():  # type: ignore[attr-defined]
        value = getattr(plain, name)
        if name in typical:
            found[name] = typical[name]
        elif isinstance(value, bool):
            found[name] = ("True", "False")
        elif hasattr(type(value), "__members__"):
            found[name] = tuple(str(int(member)) for member in type(value))
        elif isinstance(value, (int, float)):
            found[name] = ("0", "1", "0.5", "100.0", "-1.0") if isinstance(value, float) else ("0", "1", "2")
        else:
            found[name] = ("None", "{absurd}")
    return found


FIELDS = {
    "cfields": _fields(Context.Params, _CONTEXT),
    "mfields": _fields(Model.Params, _MODEL),
    "qfields": _fields(Model.QuantizeParams, _QUANTIZE),
    "sfields": _fields(Sampler.ChainParams, {}),
}


def _ints(low: int, high: int) -> Callable[[Random], str]:
    return lambda rng: str(rng.randint(low, high))


def _tokens(rng: Random) -> str:
    numbers = [rng.randrange(60) for _ in range(rng.choice((1, 1, 2, 3, 5, 8, 20, 40)))]
    shape = rng.choice(("{}", "{}", "{}", "tuple({})", "array('i', {})", "np.array({}, np.int32)", "range(3, 9)"))
    return shape.format(numbers)


def _floats(rng: Random) -> str:
    n = rng.choice((1, 3, 32, 32, 32, 64, 332))
    return rng.choice(("np.zeros({}, np.float32)", "array('f', [0.25] * {})", "np.full({}, nan, np.float32)")).format(n)


def _buffer(rng: Random) -> str:
    """A buffer and the length that belongs to it, or does not."""
    n = rng.choice((0, 1, 4, 16, 64, 5000))
    made = rng.choice(("bytearray({})", "ffi.new('char[]', {})", "np.zeros({}, np.int8)", "bytes({})"))
    return f"{made.format(n)}, {n if rng.random() < 0.8 else rng.choice(ABSURD)}"


def _token_buffer(rng: Random) -> str:
    n = rng.choice((0, 1, 4, 64))
    made = rng.choice(("array('i', [0] * {})", "np.zeros({}, np.int32)", "ffi.new('int32_t[]', {})", "bytearray(4 * {})"))
    return f"{made.format(n)}, {n if rng.random() < 0.8 else rng.choice(ABSURD)}"


def _one_of(*choices: str) -> Callable[[Random], str]:
    return lambda rng: rng.choice(choices)


PLAIN: dict[str, Callable[[Random], str]] = {
    "absurd": _one_of(*ABSURD),
    "token": _ints(0, 59),
    "pos": _ints(-1, 60),
    "seq": _ints(0, 3),
    "idx": _one_of("-1", "0", "1", "2", "-2", "5", "40"),
    "count": _one_of("0", "1", "2", "3", "8", "40"),
    "small": _ints(-1, 9),
    "flag": _one_of("True", "False", "0", "1"),
    "float": _one_of("0.0", "1.0", "0.5", "-1.0", "0.99", "1e-30", "1e30", "5"),
    "seed": _one_of("1", "0", "DEFAULT_SEED", "42"),
    "text": _one_of(*TEXTS),
    "str": _one_of("'CPU'", "'cpu'", "'x'", "''"),
    "key": _one_of("'general.architecture'", "'general.name'", "'tokenizer.ggml.model'", "'nothing'", "''"),
    "modelname": _one_of(*(f"'{name}'" for name in ("llama", "llama", "llama", *MODELS))),
    "modelfile": _one_of(*(f"file('{name}.gguf')" for name in ("llama", *MODELS)), "file('nothing')", "FOLDER", "'/dev/null'"),
    "outfile": _one_of("file('out.gguf')", "file('nowhere/out')", "FOLDER"),
    "statefile": _one_of("file('state')", "file('seqstate')", "file('nothing')", "file('llama.gguf')", "FOLDER"),
    "savefile": _one_of("file('state')", "file('nowhere/state')", "FOLDER"),
    "lorafile": _one_of("file('lora.gguf')", "file('lora.gguf')", "file('llama.gguf')", "file('nothing')"),
    "tokens": _tokens,
    "floats": _floats,
    "buffer": _buffer,
    "tokenbuffer": _token_buffer,
    "grammar": _one_of(*_GRAMMARS),
    "root": _one_of("'root'", "'root'", "'item'", "'nothing'", "''"),
    "patterns": _one_of(*_PATTERNS),
    "bias": _one_of("{3: 1.0}", "{}", "[(1, -inf), (2, 5.0)]", "{1: nan}", "{9999: 1.0}", "{-1: 0.0}", "[(1, 1), (1, 2)]"),
    "template": _one_of("'chatml'", "'llama2'", "None", "0", "'nonsense'", "'gemma'"),
    "rows": _one_of("[(1, 0.5), (2, 1.5)]", "8", "[(5, nan)]", "[(1, inf), (2, -inf)]", "[(2**31, 0.0)]", "[(0, 1.0, 0.5)] * 200"),
    "ftype": _one_of("0", "7", "Ftype.MOSTLY_Q4_0", "9999"),
    "enum": _one_of("0", "1", "2", "-1", "99"),
    "process": _one_of("ProcessType.DECODE", "ProcessType.DECODE", "ProcessType.ENCODE", "0", "7"),
    "threads": _one_of("1", "2", "3"),
    "eval": _one_of("lambda t, ask: ask", "lambda *a: ({call!})", "lambda t, ask: (t.name, t.op, t.type, t.shape, bytes(t.data)[:9]) if not ask else True",
                    "lambda t, ask: use(t)", "lambda t, ask: boom() if not ask else True", "always(False)"),
    "rival": _one_of("{ctx@}.free()", "{ctx@}.getModel().free()", "{ctx@}.decode(Batch.getOne([3]))", "use({ctx@}.getLogits())",
                     "{ctx@}.stateGetData()", "{ctx@}.getMemory().clear()", "{ctx@}.setEmbeddings(True)", "{sampler!}.sample({ctx@})",
                     "{sampler!}.free()", "{ctx@}.setNThreads(2)", "{ctx@}.clearAdapterLora()", "gc.collect()", "{ctx@}.getLogitsIth(-1)[0]"),
    "apply": _one_of("lambda k: None", "lambda k: ({call!})", "lambda k: setattr(k, 'selected', 0)", "lambda k: setattr(k, 'selected', 0)", "boom",
                     "lambda k: setattr(k, 'size', 1)", "lambda k: KEPT.append(k)", "lambda k: KEPT.append(np.asarray(k))",
                     "lambda k: KEPT.append(k.view())", "lambda k: fill(k, nan)", "lambda k: fill(k, -inf)", "lambda k: k.sort()",
                     "lambda k: setattr(k, 'data', [(2**31 - 1, 1.0)])", "lambda k: setattr(k[0], 'id', -1)", "lambda k, x: 0"),
}  # fmt: skip
