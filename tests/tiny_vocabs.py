"""Tokenizers of a few hundred tokens, which load in a millisecond where a real one takes fifty."""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import product

import gguf

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = (
    int(gguf.TokenType[kind]) for kind in ("NORMAL", "UNKNOWN", "CONTROL", "UNUSED", "BYTE")
)


def add_sentencepiece(writer: gguf.GGUFWriter, size: int = 0) -> int:
    """Add a Llama-like tokenizer: characters, bytes and a few words, and unused tokens up to `size`.

    Returns the number of tokens.
    """
    rows = [*_sentencepiece()]
    rows += [(f"<unused{number}>", 0.0, UNUSED) for number in range(size - len(rows))]
    return _add_scored(writer, "llama", rows, bos=1, eos=2, unknown=0)


def add_unigram(writer: gguf.GGUFWriter) -> int:
    """Add a T5-like tokenizer: characters, syllables and a few words. Returns the number of tokens."""
    n = _add_scored(writer, "t5", [*_unigram()], eos=1, unknown=2)
    writer.add_pad_token_id(0)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    return n


def add_byte_pair(writer: gguf.GGUFWriter) -> int:
    """Add a GPT-2-like tokenizer: bytes, and merges that make one word of them. Returns the number of tokens."""
    merges = ["h e", "l l", "he ll", "hell o"]
    tokens = [*_byte_characters(), *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL] * (len(tokens) - 1) + [CONTROL])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    return len(tokens)


def add_wordpiece(writer: gguf.GGUFWriter) -> int:
    """Add a BERT-like tokenizer: letters, alone and at the end of a word. Returns the number of tokens."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *(SPACE + letter for letter in letters), *letters, SPACE + "hello"]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special)))
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    writer.add_token_type_count(2)
    return len(tokens)


def add_none(writer: gguf.GGUFWriter) -> int:
    """Say that the model has no tokenizer. Returns how many tokens it may be given."""
    writer.add_tokenizer_model("no_vocab")
    return 300


def _add_scored(
    writer: gguf.GGUFWriter,
    model: str,
    rows: list[tuple[str, float, int]],
    *,
    eos: int,
    unknown: int,
    bos: int | None = None,
) -> int:
    tokens, scores, types = zip(*rows, strict=True)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    if bos is not None:
        writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    writer.add_unk_token_id(unknown)
    return len(tokens)


def _sentencepiece() -> Iterator[tuple[str, float, int]]:
    """Yield text, score and type of each token."""
    yield from (("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL))
    for byte in range(256):
        yield f"<0x{byte:02X}>", 0.0, BYTE
    for character in SPACE + string.ascii_letters + string.digits + string.punctuation:
        yield character, -8.0, NORMAL
    for word in ("the", "hello", "world", "yes", "no"):
        yield SPACE + word, -5.0, NORMAL
        yield word, -6.0, NORMAL


def _unigram() -> Iterator[tuple[str, float, int]]:
    """Yield text, score and type of each token."""
    consonants = "bcdfghklmnprstvwyz"
    yield from (("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN))
    for character in SPACE + string.ascii_letters + string.digits + string.punctuation:
        yield character, -8.0, NORMAL
    for syllable in product(("", SPACE), consonants, "aeiou", ("", *consonants)):
        yield "".join(syllable), -6.0, NORMAL
    for word in ("the", "hello", "world", "and", "translate", "English", "German", "house", "is", "small"):
        yield SPACE + word, -5.0, NORMAL


def _byte_characters() -> Iterator[str]:
    """GPT-2's spelling of the 256 bytes: itself for a printable one, a character above 255 for the others."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = 0
    for byte in range(256):
        if byte in printable:
            yield chr(byte)
        else:
            yield chr(256 + others)
            others += 1
