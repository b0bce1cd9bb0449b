"""`create_completion`: its dicts, streams, samplers, and the functions of the user that take part."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import BusyError, ClosedError, Constraint, UnavailableError, infillPrompt
from llama_cffi.compat import (
    Llama,
    LlamaGrammar,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteriaList,
    grammar as grammars,
)
from tests.compat import facts

PROMPT = "Once upon a time"
GREEDY: dict[str, Any] = {"temperature": 0.0}


def _text(found: Any) -> str:
    return str(found["choices"][0]["text"])


def test_a_completion(llama: Llama) -> None:
    found: Any = llama(PROMPT, max_tokens=6, **GREEDY)
    facts.same_shape(found, facts.COMPLETION)
    assert found["object"] == "text_completion" and found["id"].startswith("cmpl-")
    assert found["model"] == llama.model_path
    assert found["choices"][0]["finish_reason"] == "length" and found["choices"][0]["index"] == 0
    n_prompt = len(llama.tokenize(PROMPT.encode()))
    assert found["usage"] == {"prompt_tokens": n_prompt, "completion_tokens": 6, "total_tokens": n_prompt + 6}


def test_the_name_of_the_model_can_be_given(llama: Llama) -> None:
    found: Any = llama(PROMPT, max_tokens=1, model="mine")
    assert found["model"] == "mine"


def test_a_stream_has_the_same_text(llama: Llama) -> None:
    whole = _text(llama(PROMPT, max_tokens=8, **GREEDY))
    parts: Any = list(llama(PROMPT, max_tokens=8, stream=True, **GREEDY))
    assert "".join(map(_text, parts)) == whole
    for part in parts[:-1]:
        facts.same_shape(part, facts.CHUNK)
    facts.same_shape(parts[-1], facts.LAST_CHUNK)
    assert parts[-1]["choices"][0] == {"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}
    assert len({part["id"] for part in parts}) == 1


def test_echo(llama: Llama) -> None:
    assert _text(llama(PROMPT, max_tokens=3, echo=True, **GREEDY)) == PROMPT + _text(
        llama(PROMPT, max_tokens=3, **GREEDY)
    )


def test_tokens_are_a_prompt_too(llama: Llama) -> None:
    tokens = llama.tokenize(PROMPT.encode())
    assert _text(llama.create_completion(tokens, max_tokens=5, **GREEDY)) == _text(
        llama(PROMPT, max_tokens=5, **GREEDY)
    )


@pytest.mark.parametrize("stop", ["whole", ["never there", "whole"]])
def test_stop_strings(llama: Llama, stop: Any) -> None:
    whole = _text(llama(PROMPT, max_tokens=12, **GREEDY))
    end = whole[len(whole) // 2 :][:4]
    given = end if isinstance(stop, str) else [stop[0], end]
    found: Any = llama(PROMPT, max_tokens=12, stop=given, **GREEDY)
    assert _text(found) == whole[: whole.index(end)] and found["choices"][0]["finish_reason"] == "stop"
    parts: Any = list(llama(PROMPT, max_tokens=12, stop=given, stream=True, **GREEDY))
    assert "".join(map(_text, parts)) == _text(found) and parts[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("most", [None, 0, -1, 10_000])
def test_without_a_limit_the_context_window_is_filled(llama: Llama, most: int | None) -> None:
    prompt = [5] * 240
    found: Any = llama.create_completion(prompt, max_tokens=most, logit_bias={llama.token_eos(): -1e9}, **GREEDY)
    assert found["usage"]["completion_tokens"] == llama.n_ctx() - 240
    assert found["choices"][0]["finish_reason"] == "length"


def test_a_prompt_that_does_not_fit(llama: Llama) -> None:
    with pytest.raises(ValueError, match=r"256.*256.*n_ctx.*nCtx"):
        llama.create_completion([5] * 256)


def test_log_probabilities(llama: Llama) -> None:
    found: Any = llama(PROMPT, max_tokens=4, logprobs=3, **GREEDY)
    facts.same_shape(found, facts.COMPLETION_LOGPROBS)
    rows = found["choices"][0]["logprobs"]
    assert [len(rows[key]) for key in rows] == [4, 4, 4, 4]
    assert "".join(rows["tokens"]) == _text(found)
    assert rows["text_offset"][0] == len(PROMPT)
    for text, value, top in zip(rows["tokens"], rows["token_logprobs"], rows["top_logprobs"], strict=True):
        assert len(top) == 3 and top[text] == value == max(top.values()) < 0  # greedy


def test_a_stream_with_log_probabilities(llama: Llama) -> None:
    whole: Any = llama(PROMPT, max_tokens=4, logprobs=2, **GREEDY)
    parts: Any = list(llama(PROMPT, max_tokens=4, logprobs=2, stream=True, **GREEDY))
    for part in parts[:-1]:
        facts.same_shape(part, facts.CHUNK_LOGPROBS)
    rows = whole["choices"][0]["logprobs"]
    for key in rows:
        assert [part["choices"][0]["logprobs"][key][0] for part in parts[:-1]] == rows[key]


def test_log_probabilities_of_the_prompt(scored: Llama) -> None:
    found: Any = scored(PROMPT, max_tokens=2, logprobs=1, echo=True, **GREEDY)
    facts.same_shape(found, facts.COMPLETION_LOGPROBS)
    rows, tokens = found["choices"][0]["logprobs"], scored.tokenize(PROMPT.encode())
    assert len(rows["tokens"]) == len(tokens) - 1 + 2  # without BOS
    assert rows["token_logprobs"][0] is None and rows["top_logprobs"][0] is None
    table = scored.logits_to_logprobs(scored.scores[: len(tokens)])
    expected = [table[i - 1][tokens[i]] for i in range(2, len(tokens))]
    assert np.allclose(rows["token_logprobs"][1 : len(expected) + 1], expected)
    again: Any = scored(PROMPT, max_tokens=2, logprobs=1, **GREEDY)
    assert np.allclose(rows["token_logprobs"][-2:], again["choices"][0]["logprobs"]["token_logprobs"], atol=1e-5)
    assert rows["text_offset"][0] == 0


def test_those_of_the_prompt_need_all_logits(llama: Llama) -> None:
    with pytest.raises(ValueError, match="logits_all=True"):
        llama(PROMPT, logprobs=1, echo=True)


def test_seeds(llama: Llama, tiny_path: Any) -> None:
    hot: dict[str, Any] = {"max_tokens": 8, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert _text(llama(PROMPT, seed=7, **hot)) == _text(llama(PROMPT, seed=7, **hot))
    assert _text(llama(PROMPT, seed=7, **hot)) != _text(llama(PROMPT, seed=8, **hot))
    made = []
    for _ in range(2):
        with Llama(str(tiny_path), n_ctx=64, seed=3, n_threads=1, n_threads_batch=1) as one:
            made.append([_text(one(PROMPT, **hot)), _text(one(PROMPT, **hot))])
    assert made[0] == made[1] and made[0][0] != made[0][1]


def test_logit_bias(llama: Llama) -> None:
    token = llama.tokenize(b" yes", add_bos=False)[-1]
    for key in (token, str(token)):
        found = llama(PROMPT, max_tokens=3, logit_bias={key: 1000.0}, **GREEDY)  # type: ignore[dict-item]
        assert _text(found) == llama.detokenize([token] * 3, [1]).decode()


def test_a_logits_processor_sees_all_tokens_and_decides(llama: Llama) -> None:
    seen: list[list[int]] = []

    def force(ids: Any, scores: Any) -> Any:
        assert ids.dtype == np.intc and scores.dtype == np.single and scores.shape == (llama.n_vocab(),)
        seen.append(ids.tolist())
        changed = np.full_like(scores, -np.inf)
        changed[300 + len(seen)] = 0
        return changed

    llama(PROMPT, max_tokens=3, logits_processor=LogitsProcessorList([force]))
    prompt = llama.tokenize(PROMPT.encode())
    assert seen == [prompt, [*prompt, 301], [*prompt, 301, 302]]


def test_processors_run_one_after_another(llama: Llama) -> None:
    calls: list[str] = []

    def first(ids: Any, scores: Any) -> Any:
        calls.append("first")
        return scores + 1

    def second(ids: Any, scores: Any) -> Any:
        calls.append("second")
        return scores

    llama(PROMPT, max_tokens=2, logits_processor=LogitsProcessorList([first, second]))
    assert calls == ["first", "second"] * 2


def test_the_exception_of_a_processor_reaches_the_caller(llama: Llama) -> None:
    def fail(ids: Any, scores: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        llama(PROMPT, logits_processor=LogitsProcessorList([fail]))
    with pytest.raises(ValueError, match=r"32000 scores.*\(3,\)"):
        llama(PROMPT, logits_processor=LogitsProcessorList([lambda ids, scores: scores[:3]]))


def test_a_minimum_of_tokens(llama: Llama) -> None:
    eos = llama.token_eos()
    bias = {eos: 1000.0}
    at_once: Any = llama(PROMPT, max_tokens=9, logit_bias=bias, **GREEDY)
    assert at_once["usage"]["completion_tokens"] == 0 and at_once["choices"][0]["finish_reason"] == "stop"
    least = LogitsProcessorList([MinTokensLogitsProcessor(4, eos)])
    found: Any = llama(PROMPT, max_tokens=9, logit_bias=bias, logits_processor=least, **GREEDY)
    assert found["usage"]["completion_tokens"] == 4


def test_stopping_criteria_end_before_the_token(llama: Llama) -> None:
    whole: Any = llama(PROMPT, max_tokens=8, logprobs=0, **GREEDY)
    n_prompt = len(llama.tokenize(PROMPT.encode()))
    lengths: list[int] = []

    def enough(ids: Any, logits: Any) -> bool:
        assert logits.shape == (llama.n_vocab(),)
        lengths.append(len(ids))
        return len(ids) >= n_prompt + 3

    criteria = StoppingCriteriaList([lambda ids, logits: False, enough])
    found: Any = llama(PROMPT, max_tokens=8, stopping_criteria=criteria, **GREEDY)
    assert _text(found) == "".join(whole["choices"][0]["logprobs"]["tokens"][:3])
    assert found["choices"][0]["finish_reason"] == "stop" and lengths == [n_prompt + i for i in range(4)]
    parts: Any = list(llama(PROMPT, max_tokens=8, stopping_criteria=criteria, stream=True, **GREEDY))
    assert "".join(map(_text, parts)) == _text(found)


def test_grammars(llama: Llama, tmp_path: Any) -> None:
    text = 'root ::= ("yes" | "no") "!"'
    (tmp_path / "answer.gbnf").write_text(text)
    of_file, of_text = LlamaGrammar.from_file(tmp_path / "answer.gbnf"), LlamaGrammar.from_string(text)
    for grammar in (of_text, of_file, of_text, Constraint.fromGbnf(text)):  # one of them twice
        found: Any = llama(PROMPT, max_tokens=20, grammar=grammar)
        assert _text(found) in ("yes!", "no!") and found["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(ValueError, match="unknown-rule"):
        llama(PROMPT, grammar=LlamaGrammar.from_string("root ::= unknown-rule"))
    with pytest.raises(TypeError, match="LlamaGrammar.*str.*from_string"):
        llama(PROMPT, grammar="root ::= x")


def test_a_grammar_of_a_json_schema(llama: Llama) -> None:
    """An object has the properties of the schema and no others, also if the schema allows others."""
    schema = '{"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}'
    for seed in range(5):
        found = llama(PROMPT, max_tokens=60, seed=seed, grammar=LlamaGrammar.from_json_schema(schema))
        assert Constraint.fromJsonSchema(schema).parse(_text(found)) in ({"n": 1}, {"n": 22})
    for wrong in ("{", '{"type": "nonsense"}'):
        with pytest.raises(ValueError):
            LlamaGrammar.from_json_schema(wrong)
    with pytest.raises(TypeError, match="json_schema.*str.*dict.*json.dumps"):
        LlamaGrammar.from_json_schema({"type": "object"})  # type: ignore[arg-type]


def test_grammars_by_name(llama: Llama) -> None:
    text = grammars.json_schema_to_gbnf('{"const": 5}')
    assert _text(llama(PROMPT, max_tokens=20, grammar=LlamaGrammar.from_string(text))) == "5"
    with pytest.raises(UnavailableError, match="prop_order"):
        grammars.json_schema_to_gbnf("{}", ["a"])
    for name, kind in (("JSON_GBNF", dict), ("JSON_ARR_GBNF", list)):
        whole = []
        for seed in range(10):
            made = LlamaGrammar.from_string(getattr(grammars, name))
            found: Any = llama(PROMPT, max_tokens=150, temperature=2.0, seed=seed, grammar=made)
            if found["choices"][0]["finish_reason"] == "stop":
                whole.append(json.loads(_text(found)))
        assert whole and all(isinstance(value, kind) for value in whole)


@pytest.mark.parametrize(
    "options",
    [
        {"mirostat_mode": 1},
        {"mirostat_mode": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2},
        {"temperature": -1.0},
        {"typical_p": 0.5},
        {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    ],
    ids=str,
)
def test_other_samplers(llama: Llama, options: dict[str, Any]) -> None:
    found: Any = llama(PROMPT, max_tokens=4, seed=1, **options)
    assert found["usage"]["completion_tokens"] <= 4
    assert _text(found) == _text(llama(PROMPT, max_tokens=4, seed=1, **options))


@pytest.mark.parametrize("options", [{"mirostat_mode": 1}, {"mirostat_mode": 2}, {"typical_p": 0.5}], ids=str)
def test_samplers_after_a_grammar(llama: Llama, options: dict[str, Any]) -> None:
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    assert _text(llama(PROMPT, max_tokens=9, grammar=grammar, **options)) in ("yes", "no")


@pytest.mark.parametrize("first", [False, True], ids=["the prefix first", "the suffix first"])
def test_a_suffix_is_filled_in_to(tiny_path: Path, first: bool) -> None:
    kinds = {"prefix": 300, "suffix": 301, "middle": 302}
    overrides = {f"tokenizer.ggml.fim_{kind[:3]}_token_id": token for kind, token in kinds.items()}
    with Llama(str(tiny_path), n_ctx=256, n_threads=1, kv_overrides=dict(overrides), spm_infill=first) as llama:
        expected = infillPrompt(llama._model.vocab, "def f():", " return x", suffixFirst=first)
        found: Any = llama("def f():", suffix=" return x", max_tokens=2, **GREEDY)
        assert found["usage"]["prompt_tokens"] == len(expected) and set(kinds.values()) <= set(expected)
        assert list(llama.eval_tokens)[: len(expected)] == expected
        assert expected.index(300) > expected.index(301) if first else expected.index(300) < expected.index(301)


def test_penalties_count_generated_tokens_only(llama: Llama) -> None:
    prompt = llama.tokenize(PROMPT.encode())
    first = next(llama.generate(prompt, temp=0.0))
    assert next(llama.generate([*prompt, first], temp=0.0, repeat_penalty=1e6)) == next(
        llama.generate([*prompt, first], temp=0.0)
    )
    token = llama.tokenize(b" yes", add_bos=False)[-1]
    found: Any = llama(PROMPT, max_tokens=4, logprobs=0, frequency_penalty=1e4, logit_bias={token: 50.0}, **GREEDY)
    assert found["choices"][0]["logprobs"]["tokens"].count(" yes") == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tfs_z": 0.5}, UnavailableError, "tfs_z.*initTypical"),
        ({"mirostat_mode": 3}, ValueError, "mirostat_mode.*3"),
        ({"suffix": " the end"}, ValueError, "fimPre"),
        ({"prompt": b"bytes"}, TypeError, "prompt.*bytes"),
        ({"prompt": [10**6]}, ValueError, "31999.*1000000"),
        ({"prompt": []}, ValueError, "empty"),
        ({"echo": True, "stream": True}, ValueError, "echo.*stream"),
        ({"logprobs": -1}, ValueError, "logprobs.*-1"),
        ({"logits_processor": [3]}, TypeError, "logits_processor.*int"),
        ({"seed": "x"}, TypeError, "seed.*'x'"),
        ({"seed": -2}, ValueError, "seed.*4294967295.*-2"),
        ({"temperature": None}, TypeError, "temperature.*None"),
        ({"max_tokens": 1.5}, TypeError, r"max_tokens.*1\.5"),
        ({"stop": [3]}, TypeError, "stop"),
        ({"logit_bias": {40000: 1.0}}, IndexError, "31999.*40000"),
    ],
    ids=str,
)
def test_wrong_options(llama: Llama, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        llama.create_completion(**{"prompt": PROMPT, **options})


def test_two_streams_at_once_are_refused(llama: Llama) -> None:
    first: Any = llama(PROMPT, max_tokens=9, stream=True)
    next(first)
    llama("Something else", max_tokens=2)
    with pytest.raises(BusyError, match="sequence"):
        list(first)


def test_another_thread_gets_an_error(llama: Llama) -> None:
    raised: list[BaseException | None] = []

    def compute() -> None:
        try:
            llama("Another text", max_tokens=1)
        except BusyError as error:
            raised.append(error)

    def meanwhile(ids: Any, scores: Any) -> Any:
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        return scores

    found: Any = llama(PROMPT, max_tokens=2, logits_processor=LogitsProcessorList([meanwhile]))
    assert found["usage"]["completion_tokens"] == 2 and len(raised) == 2 and "thread" in str(raised[0])


def test_streams_that_end_early(llama: Llama, tiny_path: Path) -> None:
    expected = _text(llama(PROMPT, max_tokens=6, **GREEDY))
    for _ in range(3):
        stream: Any = llama(PROMPT, max_tokens=6, stream=True)
        next(stream)
        del stream
    unused = llama(PROMPT, max_tokens=6, stream=True)
    assert _text(llama(PROMPT, max_tokens=6, **GREEDY)) == expected
    del unused
    with Llama(str(tiny_path), n_ctx=256, n_threads=1) as other:
        stream = other(PROMPT, max_tokens=6, stream=True)
        next(stream)
    with pytest.raises(ClosedError):
        list(stream)


def test_a_prompt_reuses_the_prefix_before_it(llama: Llama) -> None:
    llama(PROMPT, max_tokens=5, **GREEDY)
    before = llama.eval_tokens
    assert list(before)[: len(llama.tokenize(PROMPT.encode()))] == llama.tokenize(PROMPT.encode())
    other = _text(llama(PROMPT + " there", max_tokens=5, **GREEDY))
    llama.reset()
    assert llama.n_tokens == 0 and _text(llama(PROMPT + " there", max_tokens=5, **GREEDY)) == other
