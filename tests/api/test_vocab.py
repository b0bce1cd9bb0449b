"""Vocabularies: every token against the gguf package reading the same file, special tokens, and texts that llama.cpp
alone would not survive."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import gguf
import pytest

from llama_cffi import (
    TOKEN_NULL,
    ClosedError,
    Model,
    ModelLoadError,
    NativeError,
    TokenAttr,
    Vocab,
    VocabType,
    detokenize,
    ffi,
    lib,
    tokenize,
)
from llama_cffi._core import large_stack
from llama_cffi._core.compat import is_pinned_version
from tests import tiny_models, tiny_vocabs
from vendor.source import fetch

NAMES = ("llama-spm", "llama-bpe", "gpt-2", "bert-bge", "falcon")

SPECIAL = {
    "bos": lib.llama_vocab_bos,
    "eos": lib.llama_vocab_eos,
    "eot": lib.llama_vocab_eot,
    "sep": lib.llama_vocab_sep,
    "nl": lib.llama_vocab_nl,
    "pad": lib.llama_vocab_pad,
    "mask": lib.llama_vocab_mask,
    "fimPre": lib.llama_vocab_fim_pre,
    "fimSuf": lib.llama_vocab_fim_suf,
    "fimMid": lib.llama_vocab_fim_mid,
    "fimPad": lib.llama_vocab_fim_pad,
    "fimRep": lib.llama_vocab_fim_rep,
    "fimSep": lib.llama_vocab_fim_sep,
}

ATTRIBUTES = {
    gguf.TokenType.NORMAL: TokenAttr.NORMAL,
    gguf.TokenType.UNKNOWN: TokenAttr.UNKNOWN,
    gguf.TokenType.CONTROL: TokenAttr.CONTROL,
    gguf.TokenType.USER_DEFINED: TokenAttr.USER_DEFINED,
    gguf.TokenType.UNUSED: TokenAttr.UNUSED,
    gguf.TokenType.BYTE: TokenAttr.BYTE,
}


@functools.lru_cache(maxsize=8)
def _fields(path: Path) -> dict[str, Any]:
    return {f.name: f for f in gguf.GGUFReader(path).fields.values()}


def _read(path: Path, key: str) -> Any:
    field = _fields(path).get(f"tokenizer.ggml.{key}")
    return field.contents() if field else None


def _path(name: str) -> Path:
    path = fetch.vectors_dir() / f"ggml-vocab-{name}.gguf"
    if not path.is_file() and not is_pinned_version():
        pytest.skip(f"unavailable: this llama.cpp brings no {path.name}")
    return path


@functools.cache
def _model(name: str, pre: str = "") -> Model:
    params = Model.Params(vocabOnly=True)
    if pre:
        params.kvOverrides = {"tokenizer.ggml.pre": pre}
    try:
        return Model.load(_path(name), params)
    except ModelLoadError as error:
        if "unknown pre-tokenizer type" in error.log and not is_pinned_version():
            pytest.skip(f"unavailable: this llama.cpp has no tokenizer {pre or name}")
        raise


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_token_equals_what_gguf_reads(name: str) -> None:
    vocab, path = _model(name).vocab, _path(name)
    texts, types, scores = _read(path, "tokens"), _read(path, "token_type"), _read(path, "scores")
    assert vocab.nTokens == len(texts)
    changed = 0
    for token in range(0, vocab.nTokens, 1 if vocab.nTokens < 40_000 else 7):
        assert vocab.getText(token) == texts[token]
        assert vocab.getScore(token) == (pytest.approx(scores[token]) if scores else 0.0)
        attr = vocab.getAttr(token)
        assert vocab.isControl(token) == bool(attr & TokenAttr.CONTROL)
        changed += not attr & ATTRIBUTES[types[token]]
    assert changed < 30  # llama.cpp knows better about some special tokens


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_equal_raw_c(name: str) -> None:
    vocab = _model(name).vocab
    found = {key: getattr(vocab, key) for key in SPECIAL}
    assert found == {key: function(vocab._c) for key, function in SPECIAL.items()}
    assert (vocab.getAddBos(), vocab.getAddEos(), vocab.getAddSep()) == (
        lib.llama_vocab_get_add_bos(vocab._c),
        lib.llama_vocab_get_add_eos(vocab._c),
        lib.llama_vocab_get_add_sep(vocab._c),
    )
    path = _path(name)
    for key, entry in {"bos": "bos", "eos": "eos", "pad": "padding", "sep": "seperator", "mask": "mask"}.items():
        expected = _read(path, f"{entry}_token_id")
        assert expected is None or found[key] == expected


def test_special_tokens_by_name() -> None:
    spm, bert, qwen = (_model(name).vocab for name in ("llama-spm", "bert-bge", "qwen2"))
    assert (spm.getText(spm.bos), spm.getText(spm.eos), spm.getText(spm.nl)) == ("<s>", "</s>", "<0x0A>")
    assert (spm.eot, spm.sep, spm.mask, spm.fimPre) == (TOKEN_NULL,) * 4
    assert (bert.getText(bert.bos), bert.getText(bert.sep), bert.getText(bert.mask)) == ("[CLS]", "[SEP]", "[MASK]")
    fim = [qwen.fimPre, qwen.fimSuf, qwen.fimMid, qwen.fimPad, qwen.fimRep, qwen.fimSep]
    assert [qwen.getText(t) for t in fim if t != TOKEN_NULL] == [
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
    ][: sum(t != TOKEN_NULL for t in fim)]
    assert (spm.getAddBos(), spm.getAddEos(), bert.getAddSep()) == (True, False, True)
    assert spm.getAttr(spm.nl) & TokenAttr.BYTE
    assert spm.isControl(spm.bos) and not spm.isControl(spm.nl)


@pytest.mark.needs("llama_vocab_get_suppress_tokens")
def test_suppressed_tokens(tmp_path: Path) -> None:
    assert _model("llama-spm").vocab.getSuppressTokens() == []
    builder = tiny_models._Builder(tiny_models.T5, "t5")
    tiny_vocabs.add_unigram(builder.writer)
    builder.writer.add_array("tokenizer.ggml.suppress_tokens", [3, 5, 8])
    with Model.load(builder.save(tmp_path / "s.gguf"), Model.Params(vocabOnly=True)) as model:
        tokens = model.vocab.getSuppressTokens()
        assert tokens == [3, 5, 8]
        tokens.clear()
        assert model.vocab.getSuppressTokens() == [3, 5, 8]


@pytest.mark.parametrize("token", [-1, 32000, 99_999_999, -(1 << 31)])
def test_tokens_outside_of_the_vocabulary(token: int) -> None:
    vocab = _model("llama-spm").vocab
    for method in (vocab.getText, vocab.getScore, vocab.getAttr, vocab.isControl, vocab.tokenToPiece):
        with pytest.raises(IndexError, match="between 0 and 31999"):
            method(token)
    assert not vocab.isEog(token)


@pytest.fixture(scope="module")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    """The vocabulary of a model without a tokenizer."""
    builder = tiny_models._Builder(tiny_models.T5, "t5")
    builder.writer.add_tokenizer_model("none")
    builder.writer.add_vocab_size(100)
    path = builder.save(tmp_path_factory.mktemp("none") / "none.gguf")
    return Model.load(path, Model.Params(vocabOnly=True)).vocab


def test_a_model_without_a_tokenizer(nameless: Vocab) -> None:
    assert nameless.type is VocabType.NONE
    for method in (nameless.getText, nameless.getScore, nameless.getAttr, nameless.isControl, nameless.tokenToPiece):
        with pytest.raises(NativeError, match="no tokenizer"):
            method(5)
    with pytest.raises(NativeError, match="no tokenizer"):
        tokenize(nameless, "Hello")
    with pytest.raises(NativeError, match="no tokenizer"):
        detokenize(nameless, [5])
    assert (nameless.bos, nameless.eos, nameless.isEog(5)) == (TOKEN_NULL, TOKEN_NULL, False)


def test_a_vocabulary_after_its_model() -> None:
    model = Model.load(_path("llama-spm"), Model.Params(vocabOnly=True))
    vocab = model.vocab
    model.free()
    for call in (lambda: vocab.bos, lambda: vocab.getText(5), vocab.getSuppressTokens, vocab.getAddBos):
        with pytest.raises(ClosedError):
            call()


# Special tokens that are wanted and lacking


def test_a_special_token_that_is_wanted_and_lacking(tmp_path: Path) -> None:
    builder = tiny_models._Builder(tiny_models.T5, "t5")
    tiny_vocabs.add_unigram(builder.writer)
    builder.writer.add_add_bos_token(True)
    with Model.load(builder.save(tmp_path / "bos.gguf"), Model.Params(vocabOnly=True)) as model:
        assert model.vocab.getAddBos() and model.vocab.bos == TOKEN_NULL
        with pytest.raises(NativeError, match="bos token .* addSpecial=False"):
            tokenize(model.vocab, "hello")
        assert tokenize(model.vocab, "hello", addSpecial=False)
    with pytest.raises(NativeError):  # so that a change of llama.cpp is noticed
        with Model.load(tmp_path / "bos.gguf", Model.Params(vocabOnly=True)) as model:
            lib.llama_tokenize(model.vocab._c, b"hello", 5, ffi.NULL, 0, True, False)


# Vocabularies that llama.cpp would search without end


@pytest.mark.parametrize("complete", [True, False])
def test_rwkv(tmp_path: Path, complete: bool) -> None:
    builder = tiny_models._Builder(tiny_models.T5, "t5")
    tokens = ["<s>", *(f"\\x{byte:02x}" for byte in range(256) if complete or byte != ord("h")), "hello", "ello"]
    builder.writer.add_tokenizer_model("rwkv")
    builder.writer.add_token_list(tokens)
    builder.writer.add_token_types([3] + [1] * (len(tokens) - 1))
    with Model.load(builder.save(tmp_path / "rwkv.gguf"), Model.Params(vocabOnly=True)) as model:
        assert model.vocab.type is VocabType.RWKV
        if complete:
            assert [tokens[t] for t in tokenize(model.vocab, "hello\n!")] == ["hello", "\\x0a", "\\x21"]
            assert detokenize(model.vocab, tokenize(model.vocab, "Grüße")) == "Grüße"
        else:
            with pytest.raises(NativeError, match="cannot tokenize"):
                tokenize(model.vocab, "hi")


# Long stretches: std::regex calls itself for every character


RISKY = {
    "deepseek-llm": ("deepseek-llm", "a"),
    "deepseek-coder": ("deepseek-coder", "a"),
    "falcon": ("falcon", "!"),
    "gpt-neox": ("gpt-neox", "!"),
    "aquila": ("aquila", "7"),
}


@pytest.mark.parametrize("name", list(RISKY))
def test_a_long_stretch(name: str) -> None:
    file, character = RISKY[name]
    vocab = _model(file).vocab
    expected = tokenize(vocab, character * 400, addSpecial=False)
    tokens = tokenize(vocab, character * 120_000, addSpecial=False)  # more than 8 MB of stack
    assert len(tokens) > 100 * len(expected)
    assert detokenize(vocab, tokens) == character * 120_000


@pytest.mark.parametrize("pre", ["tekken", "gpt-4o", "exaone-moe", "poro-chat", "superbpe", "minicpm5", "seed-coder"])
@pytest.mark.parametrize("piece", ["a", "7", "!", "é", "a b "])
def test_a_long_stretch_with_other_rules(pre: str, piece: str) -> None:
    vocab = _model("gpt-2", pre).vocab
    size = 3000 if (pre, piece) == ("superbpe", "7") else 60_000 // len(piece)  # superbpe takes quadratic time there
    whole = piece * size
    assert detokenize(vocab, tokenize(vocab, whole, addSpecial=False)) == whole


@pytest.mark.parametrize("name", ["llama-bpe", "gpt-2", "qwen2", "qwen35", "command-r", "starcoder", "mpt", "refact"])
def test_tokenizers_that_have_code_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("no thread is needed")

    if is_pinned_version():  # others may have given it another code
        monkeypatch.setattr(large_stack, "on_large_stack", never)
    whole = "ab" * 60_000
    vocab = _model(name).vocab
    assert detokenize(vocab, tokenize(vocab, whole, addSpecial=False)) == whole


def test_ordinary_text_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(large_stack, "on_large_stack", lambda call, size, leave: calls.append(size) or call())
    vocab = _model("deepseek-llm").vocab
    tokenize(vocab, "The quick brown fox. " * 5000)
    assert calls == []
    tokenize(vocab, "The quick brown fox. " * 10 + "x" * 5000)
    assert len(calls) == 1 and isinstance(calls[0], int)


def test_a_stretch_beyond_any_stack() -> None:
    vocab = _model("deepseek-llm").vocab
    with pytest.raises(ValueError, match="tokenize it in pieces"):
        tokenize(vocab, "a" * ((1 << 20) + 1))
    assert threading.stack_size() == 0  # the setting of the process is as it was


def test_a_long_stretch_on_a_thread_with_little_stack() -> None:
    vocab = _model("deepseek-llm").vocab
    sizes: list[int] = []
    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=lambda: sizes.append(len(tokenize(vocab, "a" * 50_000))))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert sizes and sizes[0] > 1000


def test_what_is_raised_on_the_large_stack(tiny: Model) -> None:
    from llama_cffi._core.large_stack import on_large_stack

    def fail() -> int:
        return lib.llama_tokenize(tiny.vocab._c, b"x", -1, ffi.NULL, 0, False, False)

    with pytest.raises(NativeError, match="llama_tokenize"):
        on_large_stack(fail, 1 << 20)
    with pytest.raises(ZeroDivisionError):
        on_large_stack(lambda: 1 // 0, 1 << 20)


def test_long_texts_from_several_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    vocab = _model("falcon").vocab
    expected = tokenize(vocab, "!" * 20_000)
    with ThreadPoolExecutor(4) as pool:
        assert all(tokens == expected for tokens in pool.map(lambda _: tokenize(vocab, "!" * 20_000), range(12)))
