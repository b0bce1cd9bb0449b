"""Falsified metadata: values, types, lengths, texts, and keys that a good file need not have."""

from __future__ import annotations

import random
from collections.abc import Iterator

import gguf

from tests.hostile.document import ARRAY, BOOL, FLOAT32, STRING, UINT32, UINT64, Document, Entry

NUMBERS = {
    "unsigned": (0, 1, 2, 3, 7, 255, 65_535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    "float": (0.0, -1e-5, -1.0, 1e-45, 1e30, float("inf"), float("-inf"), float("nan")),
}
WRONG_TYPES = (
    (0, 1), (3, -1), (5, -1), (FLOAT32, 1.5), (BOOL, True), (STRING, b"7"), (UINT64, 1 << 40), (11, -1), (12, 0.5),
)  # fmt: skip
TEXTS = (b"", b"\xff\xfe\xfd", b"\xf7\xbf\xbf\xbf", b"nul\0inside", b"%s%n%d", b"x" * (1 << 20))
PAIRS = 120  # of falsified values at once
RAW_TYPES = (-1, 13, 99, 0x7FFFFFFF)

# Keys that a good file need not have, and what a hostile one may say there. %s is the architecture.
EXTRA: tuple[tuple[str, int, tuple[object, ...]], ...] = (
    ("%s.rope.scaling.type", STRING, (b"none", b"linear", b"yarn", b"longrope", b"foo")),
    ("%s.rope.scaling.factor", FLOAT32, (0.0, -1.0, 1e-40, float("nan"), float("inf"), 4.0)),
    ("%s.rope.scaling.original_context_length", UINT32, (0, 1, (1 << 32) - 1)),
    ("%s.rope.scaling.attn_factor", FLOAT32, (0.0, float("nan"))),
    ("%s.rope.scaling.yarn_log_multiplier", FLOAT32, (0.0, float("nan"))),
    ("%s.rope.freq_base", FLOAT32, (0.0, -1.0, 1e-40, float("nan"), float("inf"))),
    ("%s.rope.dimension_count", UINT32, (0, 1, 2, 3, 15, 17, 32, 64, 1 << 31)),
    ("%s.attention.key_length", UINT32, (0, 1, 7, 16, 32, 1 << 20, 1 << 31)),
    ("%s.attention.value_length", UINT32, (0, 1, 7, 16, 32, 1 << 20, 1 << 31)),
    ("%s.attention.sliding_window", UINT32, (0, 1, 2, 3, 1 << 31)),
    ("%s.attention.max_alibi_bias", FLOAT32, (0.0, -8.0, 8.0, 1e30, float("nan"))),
    ("%s.attention.clamp_kqv", FLOAT32, (-1.0, 0.0, 1.0, float("nan"))),
    ("%s.attention.causal", BOOL, (False, True)),
    ("%s.attention.scale", FLOAT32, (0.0, float("nan"))),
    ("%s.attention.relative_buckets_count", UINT32, (0, 1, 2, 3, 1 << 20, (1 << 32) - 1)),
    ("%s.pooling_type", UINT32, (0, 1, 2, 3, 4, 5, 99, (1 << 32) - 1)),
    ("%s.logit_scale", FLOAT32, (0.0, float("nan"))),
    ("%s.expert_count", UINT32, (1, 2, 512, 1 << 31)),
    ("%s.expert_used_count", UINT32, (1, 3, 5, 1 << 31)),
    ("%s.expert_group_count", UINT32, (1, 2, 3, 4)),
    ("%s.expert_group_used_count", UINT32, (0, 1, 4)),
    ("%s.expert_gating_func", UINT32, (0, 1, 2, 3, 99)),
    ("%s.expert_weights_scale", FLOAT32, (0.0, float("nan"))),
    ("%s.nextn_predict_layers", UINT32, (1, 2, (1 << 32) - 1)),
    ("%s.embedding_length_out", UINT32, (1, 31, 1 << 31)),
    ("%s.vocab_size", UINT32, (0, 1, 5, 1 << 20, (1 << 32) - 1)),
    ("%s.decoder_start_token_id", UINT32, (1 << 20, (1 << 32) - 1)),
    ("%s.decoder_block_count", UINT32, (0, 2, 513, (1 << 32) - 1)),
    ("%s.ssm.dt_b_c_rms", BOOL, (True,)),
    ("%s.ssm.group_count", UINT32, (0, 1, 3)),
    ("%s.use_parallel_residual", BOOL, (True,)),
    ("split.count", 2, (0, 1, 2, 65_535)),
    ("split.no", 2, (1, 65_535)),
    ("split.tensors.count", 5, (0, -1)),
    ("general.alignment", UINT32, (0, 1, 3, 16, 64, 1 << 31)),
    ("general.file_type", UINT32, (3, 99, (1 << 32) - 1)),
    ("tokenizer.chat_template", STRING, (b"{" * (4 << 20), b"{{ x" * 1000, b"chatml", b"\xff" * 64, b"")),
    (
        "tokenizer.ggml.model",
        STRING,
        (b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"plamo2", b"no_vocab", b"none", b"x"),
    ),
    (
        "tokenizer.ggml.pre",
        STRING,
        (b"default", b"llama-bpe", b"deepseek-llm", b"falcon", b"qwen2", b"whitespace", b"x"),
    ),
    ("tokenizer.ggml.add_bos_token", BOOL, (True, False)),
    ("tokenizer.ggml.add_eos_token", BOOL, (True,)),
    ("tokenizer.ggml.add_sep_token", BOOL, (True,)),
    ("tokenizer.ggml.add_space_prefix", BOOL, (True, False)),
    ("tokenizer.ggml.remove_extra_whitespaces", BOOL, (True,)),
    ("tokenizer.ggml.escape_whitespaces", BOOL, (True, False)),
    ("tokenizer.ggml.treat_whitespace_as_suffix", BOOL, (True,)),
    ("tokenizer.ggml.bos_token_id", UINT32, (1 << 20, (1 << 31) - 1, (1 << 32) - 1)),
    ("tokenizer.ggml.eot_token_id", UINT32, (1 << 20, (1 << 32) - 1)),
    ("tokenizer.ggml.cls_token_id", UINT32, (1 << 20, (1 << 32) - 1)),
    ("tokenizer.ggml.fim_pre_token_id", UINT32, (1 << 20, (1 << 32) - 1)),
    ("tokenizer.ggml.token_type_count", UINT32, (0, 2, (1 << 32) - 1)),
)
CHARSMAPS = (
    b"", b"\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x04\0\0\0" + b"\xff" * 4, b"\x04\0\0\0" + b"\xff" * 4 + b"abc",
    b"\x10\0\0\0" + bytes(16), b"\0\x04\0\0" + bytes(range(256)) * 4 + b"no end",
    b"\x40\0\0\0" + b"\x7f\x01\0\x80" * 16,
)  # fmt: skip
ARCHITECTURES = [*sorted(gguf.MODEL_ARCH_NAMES.values()), "unknown", "\xff"]


def metadata(rng: random.Random, good: Document) -> Iterator[tuple[str, Document]]:
    for i, entry in enumerate(good.entries):
        key = entry.key.decode()
        for what, new in _entry_variants(rng, entry):
            document = good.copy()
            document.entries[i] = new
            yield f"{key} {what}", document
        document = good.copy()
        del document.entries[i]
        yield f"{key} missing", document
    document = good.copy()
    document.entries.append(rng.choice(document.entries))
    yield "a key twice", document
    for tensors, entries in ((1, 0), (-1, 0), (0, 1), (0, -1), (1 << 40, 0), (0, 1 << 40), (1 << 63, 0), (0, 1 << 63)):
        document = good.copy()
        document.counts = (tensors, entries)
        yield f"{tensors} tensors and {entries} entries more", document
    for version in (0, 1, 2, 4, 1 << 24, (1 << 32) - 1):
        document = good.copy()
        document.version = version
        yield f"version {version}", document
    arch = str(good.entry("general.architecture").value, "utf-8")  # type: ignore[arg-type]
    extra = [(name.replace("%s", arch), type, value) for name, type, values in EXTRA for value in values]
    for key, type, value in extra:
        yield f"{key} = {short(value)}", good.copy().put(key, type, value)
    for i in range(PAIRS):
        document, pair = good.copy(), rng.sample([*extra, *_own(good, arch)], 2)
        for key, type, value in pair:
            document.put(key, type, value)
        yield f"pair {i}: {', '.join(f'{key} = {short(value)}' for key, _, value in pair)}", document
    for other in ARCHITECTURES:
        yield f"architecture {other}", _renamed(good, arch, other)
    yield from _tokenizers(good, arch)


def _own(good: Document, arch: str) -> list[tuple[str, int, object]]:
    """Other values for the numbers that describe the model."""
    numbers = [
        entry for entry in good.entries if entry.key.startswith(arch.encode()) and entry.type in (UINT32, FLOAT32)
    ]
    return [
        (entry.key.decode(), entry.type, value)
        for entry in numbers
        for value in NUMBERS["float" if entry.type == FLOAT32 else "unsigned"]
    ]


def _entry_variants(rng: random.Random, entry: Entry) -> Iterator[tuple[str, Entry]]:
    if entry.type == ARRAY:
        yield from _array_variants(rng, entry)
        return
    if entry.type == STRING:
        values: tuple[object, ...] = TEXTS
    elif entry.type == FLOAT32:
        values = NUMBERS["float"]
    elif entry.type == BOOL:
        values = (not entry.value,)
    else:
        values = NUMBERS["unsigned"]
    for value in values:
        yield f"= {short(value)}", Entry(entry.key, entry.type, value)
    for type, value in WRONG_TYPES:
        if type != entry.type:
            yield f"as type {type}", Entry(entry.key, type, value)
    yield "as an array", Entry(entry.key, ARRAY, [entry.value] * 3, entry.type)
    yield "as an empty array", Entry(entry.key, ARRAY, [], entry.type)
    yield f"as type {RAW_TYPES[0]}", Entry(entry.key, rng.choice(RAW_TYPES), bytes(8))


def _array_variants(rng: random.Random, entry: Entry) -> Iterator[tuple[str, Entry]]:
    values = entry.value
    assert isinstance(values, list)

    def new(values: list[object], items: int = entry.items) -> Entry:
        return Entry(entry.key, ARRAY, values, items)

    yield "empty", new([])
    yield "of one", new(values[:1])
    yield "one shorter", new(values[:-1])
    yield "one longer", new([*values, values[-1]])
    yield "twice as long", new(values * 2)
    yield "reversed", new(values[::-1])
    yield "all the same", new([values[0]] * len(values))
    yield "as a scalar", Entry(entry.key, UINT32, 1)
    yield "as text", Entry(entry.key, STRING, b"text")
    yield "as bytes", new([1] * len(values), 0)
    yield "as floats", new([1.0] * len(values), FLOAT32)
    yield "as 64-bit integers", new([1] * len(values), UINT64)
    yield "as texts", new([b"1"] * len(values), STRING)
    yield "of an unknown type", new([bytes(8)] * len(values), rng.choice(RAW_TYPES))
    extremes: tuple[object, ...] = TEXTS if entry.items == STRING else ()
    if entry.items in (5, 11):
        extremes = (-1, 0, 1, 6, 7, 99, (1 << 31) - 1, -(1 << 31))
    elif entry.items == FLOAT32:
        extremes = NUMBERS["float"]
    for extreme in extremes:
        place = rng.randrange(len(values))
        yield f"with {short(extreme)} at {place}", new([*values[:place], extreme, *values[place + 1 :]])
        if not (isinstance(extreme, bytes) and len(extreme) > 100):
            yield f"all {short(extreme)}", new([extreme] * len(values))


def _tokenizers(good: Document, arch: str) -> Iterator[tuple[str, Document]]:
    for i, charsmap in enumerate(CHARSMAPS):
        yield f"charsmap {i}", good.copy().put("tokenizer.ggml.precompiled_charsmap", ARRAY, [*charsmap], 0)
    merges = [b"", b" ", b"nospace", b"a b c", b"\xff \xff", b"h e", b"\xe2\x96\x81 x", b"x" * 100_000 + b" y"]
    for merge in merges:
        yield f"merge {short(merge)}", good.copy().put("tokenizer.ggml.merges", ARRAY, [merge] * 3, STRING)
    yield "merges that are numbers", good.copy().put("tokenizer.ggml.merges", ARRAY, [1, 2], UINT32)
    sections = (
        [],
        [0],
        [0, 0, 0, 0],
        [-1, -1, -1, -1],
        [4, 2, 2],
        [4, 2, 2, 0, 0],
        [1 << 30] * 4,
        [0, 0, 0, 8],
        [1, 0, 0, 0],
    )
    for section in sections:
        yield f"sections {section}", good.copy().put(f"{arch}.rope.dimension_sections", ARRAY, section, 5)
    for heads in ([2], [0], [2, 2], [0, 2], [1 << 31]):
        yield f"heads {heads}", good.copy().put(f"{arch}.attention.head_count", ARRAY, heads, UINT32)
        yield f"kv heads {heads}", good.copy().put(f"{arch}.attention.head_count_kv", ARRAY, heads, UINT32)
        yield f"ff {heads}", good.copy().put(f"{arch}.feed_forward_length", ARRAY, heads, UINT32)


def _renamed(good: Document, arch: str, other: str) -> Document:
    """The same weights under the name of another architecture."""
    document = good.copy()
    for entry in document.entries:
        if entry.key.startswith(f"{arch}.".encode()):
            entry.key = other.encode() + entry.key[len(arch) :]
    document.entry("general.architecture").value = other.encode()
    return document


def short(value: object) -> str:
    """A value for a case's name."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:20]}... ({len(text)})"
