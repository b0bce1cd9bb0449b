"""Tokens, decoding by hand, saved states, the cache, and the life of a `Llama`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import ClosedError, Model, StateError, UnavailableError
from llama_cffi.compat import Llama, LlamaDiskCache, LlamaRAMCache, LlamaState, LlamaTokenizer
from llama_cffi.compat.tokenizer import LlamaHFTokenizer
from tests import tiny_models
from tests.compat.conftest import THREADS

PROMPT = b"Once upon a time"


def _made(path: Path, **options: Any) -> Llama:
    return Llama(str(path), **{"n_ctx": 256, "seed": 1, **THREADS, **options})


def test_facts(llama: Llama, tiny: Model) -> None:
    vocab = tiny.vocab
    assert (llama.n_ctx(), llama.n_vocab(), llama.n_embd()) == (256, vocab.nTokens, tiny.nEmbd)
    assert (llama.token_bos(), llama.token_eos(), llama.token_nl()) == (vocab.bos, vocab.eos, vocab.nl)
    assert llama.metadata["general.architecture"] == "llama" and len(llama.metadata) == tiny.metaCount
    assert llama.context_params.n_ctx == 256 and llama.n_batch == 256
    assert Llama.longest_token_prefix([1, 2, 3], [1, 2, 4]) == 2


def test_tokenize_and_detokenize(llama: Llama) -> None:
    tokens = llama.tokenize(PROMPT)
    assert tokens[0] == llama.token_bos() and llama.tokenize(PROMPT, add_bos=False) == tokens[1:]
    assert llama.detokenize(tokens) == PROMPT  # without the space after BOS
    assert llama.detokenize(tokens[2:], tokens[:2]) == b" upon a time"
    assert llama.tokenize(b"<s>", add_bos=False, special=True) == [llama.token_bos()]
    assert (
        llama.detokenize([llama.token_bos()]) == b"" and llama.detokenize([llama.token_bos()], special=True) == b"<s>"
    )
    with pytest.raises(IndexError, match="32000"):
        llama.detokenize([32000])


def test_the_tokenizer(llama: Llama, tiny_path: Path) -> None:
    for tokenizer in (llama.tokenizer(), LlamaTokenizer(llama), LlamaTokenizer.from_ggml_file(str(tiny_path))):
        assert tokenizer.decode(tokenizer.encode("Hello there")) == "Hello there"
        assert tokenizer.tokenize(PROMPT) == llama.tokenize(PROMPT)
    with pytest.raises(UnavailableError, match="LlamaHFTokenizer"):
        LlamaHFTokenizer.from_pretrained("org/model")


def test_generate_takes_tokens_from_send(llama: Llama) -> None:
    prompt = llama.tokenize(PROMPT)
    tokens = llama.generate(prompt, temp=0.0)
    first = next(tokens)
    assert isinstance(first, int) and llama.n_tokens == len(prompt)
    second = tokens.send([100, 101])
    assert llama.input_ids.tolist() == [*prompt, first, 100, 101]
    tokens.close()
    assert next(llama.generate([*prompt, first, 100, 101], temp=0.0)) == second


def test_generate_without_reset_goes_on(llama: Llama) -> None:
    prompt = llama.tokenize(PROMPT)
    expected = next(llama.generate(prompt, temp=0.0))
    llama.reset()
    llama.eval(prompt[:3])
    assert next(llama.generate(prompt[3:], temp=0.0, reset=False)) == expected


def test_eval_and_sample(llama: Llama) -> None:
    prompt = llama.tokenize(PROMPT)
    expected = next(llama.generate(prompt, temp=0.0))
    llama.reset()
    llama.eval(prompt)
    assert llama.sample(temp=0.0) == expected == int(np.argmax(llama.eval_logits[0]))
    assert llama.n_tokens == len(prompt) and len(llama.eval_logits) == 1
    with pytest.raises(ValueError, match="logits_all=True"):
        llama.scores  # noqa: B018


def test_logits_of_all_tokens(scored: Llama) -> None:
    prompt = scored.tokenize(PROMPT * 6)  # more than a batch
    assert len(prompt) > scored.n_batch
    scored.reset()
    scored.eval(prompt)
    table = np.array(scored.eval_logits)
    assert table.shape == (len(prompt), scored.n_vocab()) and scored.scores.shape == (256, scored.n_vocab())
    for end in (3, len(prompt) - 1):
        scored.reset()
        scored.eval(prompt[:end])
        assert np.allclose(scored.scores[end - 1], table[end - 1], atol=0.05)
        assert scored.sample(temp=0.0, idx=end - 1) == int(np.argmax(scored.scores[end - 1]))
    assert np.allclose(np.exp(Llama.logits_to_logprobs(table)).sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("which", ["llama", "scored"])
def test_states(which: str, request: pytest.FixtureRequest, tiny_path: Path) -> None:
    one: Llama = request.getfixturevalue(which)
    prompt = one.tokenize(PROMPT)
    expected = [token for token, _ in zip(one.generate(prompt, temp=0.0), range(5), strict=False)]
    one.reset()
    one.eval(prompt[:-1])
    state = one.save_state()
    assert isinstance(state, LlamaState) and state.n_tokens == len(prompt) - 1 == len(state.input_ids)
    assert len(state.llama_state) == state.llama_state_size > 0
    one.reset()
    one.load_state(state)
    assert one.n_tokens == len(prompt) - 1
    one.eval(prompt[-1:])
    assert one.sample(temp=0.0) == expected[0]
    one.load_state(state)
    again = [token for token, _ in zip(one.generate(prompt, temp=0.0), range(5), strict=False)]
    assert again == expected
    one.reset()
    one.eval(prompt)
    whole = one.save_state()
    one.eval(one.tokenize(b" and something else"))
    one.load_state(whole)
    assert one.n_tokens == len(prompt) and one.sample(temp=0.0) == expected[0]  # not after the other text
    with Llama(one.model_path, n_ctx=one.n_ctx(), logits_all=one._logits_all, n_threads=1) as other:
        other.load_state(whole)
        assert other.sample(temp=0.0) == expected[0]
    broken = LlamaState(state.input_ids, None, state.n_tokens, b"nothing", 7, 1)
    with pytest.raises(StateError):
        one.load_state(broken)
    one.reset()


def test_a_cache_brings_the_state_of_another_prompt_back(tiny_path: Path) -> None:
    with _made(tiny_path) as one:
        cache = LlamaRAMCache()
        one.set_cache(cache)
        first: Any = one("Once upon a time", max_tokens=4, temperature=0.0)
        one("Something else entirely", max_tokens=4)
        assert len(cache.cache_state) == 2 and 0 < cache.cache_size <= cache.capacity_bytes
        prompt = one.tokenize(PROMPT)
        assert prompt in cache and [0, 0] not in cache
        counted: list[int] = []
        decode = one._kept.decode
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(one._kept), "decode", lambda self, tokens: (counted.append(len(tokens)), decode(tokens))[1]
            )
            again: Any = one("Once upon a time", max_tokens=4, temperature=0.0)
        assert counted[0] == 1  # the rest came from the cache
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        list(one("Once upon a time", max_tokens=4, stream=True))  # type: ignore[arg-type]
        small = LlamaRAMCache(capacity_bytes=1)
        one.set_cache(small)
        one("Once", max_tokens=1)
        assert small.cache_size == 0
        one.set_cache(None)
    with pytest.raises(UnavailableError, match="stateSaveFile"):
        LlamaDiskCache()


def test_pickling_loads_the_model_again(tiny_path: Path) -> None:
    with _made(tiny_path, last_n_tokens_size=7) as one, pickle.loads(pickle.dumps(one)) as twin:
        assert twin.n_ctx() == 256 and twin.last_n_tokens_size == 7 and twin.model_path == str(tiny_path)
        assert (
            twin("Once", max_tokens=3, temperature=0.0)["choices"]
            == one("Once", max_tokens=3, temperature=0.0)["choices"]
        )  # type: ignore[index]


def test_close(tiny_path: Path) -> None:
    one = _made(tiny_path)
    one.close()
    one.close()
    with pytest.raises(ClosedError):
        one("Once", max_tokens=1)


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    with _made(tiny_models.write_t5(tmp_path / "t5.gguf")) as one, pytest.raises(UnavailableError, match="Generation"):
        one("Once", max_tokens=1)
    with _made(tiny_models.write_mamba(tmp_path / "mamba.gguf")) as one:  # its memory cannot go back
        tokens = [3, 4, 5]
        first = next(one.generate(tokens, temp=0.0))
        assert next(one.generate(tokens, temp=0.0)) == first


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    tiny_models.write_lora(tmp_path / "lora.gguf")
    return tmp_path / "lora.gguf"


def test_an_adapter(tiny_path: Path, adapted: Path) -> None:
    with _made(tiny_path) as plain, _made(tiny_path, lora_path=str(adapted), lora_scale=2.0) as changed:
        for one in (plain, changed):
            one.eval([5, 6, 7])
        assert not np.allclose(plain.eval_logits[0], changed.eval_logits[0])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"draft_model": ...}, UnavailableError, "draft_model.*LlamaPromptLookupDecoding"),
        ({"tokenizer": ...}, UnavailableError, "tokenizer"),
        ({"lora_base": "x.bin"}, UnavailableError, "lora_base.*setAdapterLora"),
        ({"n_gqa": 8}, UnavailableError, "n_gqa=8.*kv_overrides"),
        ({"n_parts": 2}, UnavailableError, "n_parts=2.*loadSplits"),
        ({"device": "cuda"}, UnavailableError, "device.*devices of Model.Params"),
        ({"n_context": 8}, TypeError, "n_context.*Context.Params"),
        ({"split_mode": 77}, ValueError, "77"),
        ({"type_k": 12345}, ValueError, "12345"),
        ({"seed": 1.5}, TypeError, r"seed.*1\.5"),
    ],
    ids=str,
)
def test_parameters_without_a_counterpart(
    tiny_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        _made(tiny_path, **options)


def test_parameters_with_one(tiny_path: Path) -> None:
    given: dict[str, Any] = {
        "n_ctx": 0,
        "n_batch": 32,
        "n_ubatch": 16,
        "rope_freq_base": 5000.0,
        "rope_freq_scale": 0.5,
        "rope_scaling_type": None,
        "yarn_orig_ctx": 64,
        "offload_kqv": False,
        "flash_attn": True,
        "type_k": 8,  # Q8_0
        "type_v": 8,
        "swa_full": True,
        "op_offload": False,
        "no_perf": True,
        "use_mmap": False,
        "kv_overrides": {"general.name": "renamed"},
        "n_parts": -1,  # of old releases
        "f16_kv": True,
        **dict.fromkeys(["n_gqa", "rms_norm_eps", "mul_mat_q", "device", "low_vram", "n_parts"]),
        "device": None,
    }
    with _made(tiny_path, **given) as one:
        assert one.n_ctx() == 512 and one.n_batch == 32
        params = one._params
        assert (params.nUbatch, params.ropeFreqBase, params.ropeFreqScale, params.yarnOrigCtx) == (16, 5000.0, 0.5, 64)
        assert (params.typeK, params.typeV, params.flashAttnType) == (8, 8, 1)
        assert (params.offloadKqv, params.swaFull, params.opOffload, params.noPerf) == (False, True, False, True)
        assert one("Once", max_tokens=1)
    with _made(tiny_path, f16_kv=False) as one:
        assert (one._params.typeK, one._params.typeV) == (0, 0)


def test_a_missing_file() -> None:
    with pytest.raises(ValueError, match="no-such.gguf"):
        Llama("/tmp/no-such.gguf")


def test_a_vocabulary_alone(tiny_path: Path) -> None:
    with _made(tiny_path, vocab_only=True) as one:
        assert one.tokenize(PROMPT)[0] == one.token_bos()
