"""The files that the fuzzer works on: models of every kind with vocabularies of some hundred tokens, and an adapter."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import gguf

from tests import tiny_models

_LLAMA = replace(tiny_models.LLAMA, n_layer=1, n_embd=32, n_head=1, n_ff=64, n_ctx_train=128)
_BERT = replace(tiny_models.BERT, n_layer=1, n_embd=32, n_head=1, n_head_kv=1, n_ff=64, n_ctx_train=128)
_T5 = replace(tiny_models.T5, n_layer=1, n_embd=32, n_head=1, n_head_kv=1, n_ff=64, n_ctx_train=128)
_MAMBA = replace(tiny_models.MAMBA, n_layer=1, n_embd=32, n_ctx_train=128)

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_WORDS = ("the", "hello", "world", "and", "is", "{", "}", '"yes"', "no")
_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

MODELS = ("llama", "bert", "t5", "mamba", "bare")


def write_all(folder: Path) -> None:
    """Write `<name>.gguf` for each of MODELS, and `lora.gguf` for the llama."""
    _vocabulary(folder / "spm.vocab", "llama", _pieces(), {"bos": 1, "eos": 2, "unknown": 0})
    _vocabulary(folder / "wpm.vocab", "bert", _word_pieces(), {"bos": 2, "eos": 3, "seperator": 3, "unknown": 1})
    _vocabulary(folder / "bpe.vocab", "gpt2", _byte_pairs(), {"bos": 256, "eos": 256})
    _vocabulary(folder / "no.vocab", "no_vocab", [(str(i), "NORMAL") for i in range(64)], {})
    tiny_models.write_llama(folder / "llama.gguf", folder / "spm.vocab", _LLAMA)
    tiny_models.write_llama(folder / "bare.gguf", folder / "no.vocab", replace(_LLAMA, quant="F32"))
    tiny_models.write_bert(folder / "bert.gguf", folder / "wpm.vocab", _BERT)
    tiny_models.write_t5(folder / "t5.gguf", _T5)
    tiny_models.write_mamba(folder / "mamba.gguf", folder / "bpe.vocab", _MAMBA)
    tiny_models.write_lora(folder / "lora.gguf", _LLAMA)


def _vocabulary(path: Path, kind: str, tokens: list[tuple[str, str]], special: dict[str, int]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([int(gguf.TokenType[name]) for _, name in tokens])
    if kind == "llama":
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_chat_template(_CHATML)
    if kind == "bert":
        writer.add_token_type_count(2)
    if kind == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(["h e", "l l", "he ll", "hell o", "t he"])
    for name, token in special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _pieces() -> list[tuple[str, str]]:
    """SentencePiece: control tokens, the bytes, characters, words."""
    special = [("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL"), ("<|im_end|>", "USER_DEFINED")]
    bytes_ = [(f"<0x{byte:02X}>", "BYTE") for byte in range(256)]
    words = [*_SPACE, *string.ascii_letters, *string.digits, *(_SPACE + word for word in _WORDS)]
    return special + bytes_ + [(word, "NORMAL") for word in words]


def _word_pieces() -> list[tuple[str, str]]:
    """WordPiece: each character as the beginning of a word and as what follows."""
    special = [(name, "CONTROL") for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    characters = [mark + char for mark in (_SPACE, "") for char in string.ascii_lowercase + string.digits]
    return special + [(text, "NORMAL") for text in [*characters, *(_SPACE + word for word in _WORDS[:5])]]


def _byte_pairs() -> list[tuple[str, str]]:
    """GPT-2's byte pairs: the bytes as printable characters, what the merges make of them, an end."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    characters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    texts = [characters[byte] for byte in range(256)]
    merged = ["he", "ll", "hell", "hello", "the"]
    return [(t, "NORMAL") for t in texts] + [("<|endoftext|>", "CONTROL")] + [(t, "NORMAL") for t in merged]
