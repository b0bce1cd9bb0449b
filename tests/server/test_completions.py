"""/v1/completions, /v1/embeddings, /v1/rerank, and llama.cpp's own paths, with tiny models."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import Completion, CreateEmbeddingResponse

from llama_cffi import Engine, Model, Sampler, detokenize, infillPrompt, tokenize
from tests import tiny_models
from tests.server.serving import Running, part_of, running, wait_for

TEXT = "Once upon a time there was"


def _direct(server: Running, prompt: Any, n: int) -> str:
    engine = part_of(server, "tiny").engine
    assert engine is not None
    return engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=n).result()


def test_a_completion_is_the_engines(server: Running) -> None:
    found = Completion.model_validate(server.ok("/v1/completions", prompt=TEXT, temperature=0))
    assert found.choices[0].text == _direct(server, TEXT, 16) and found.choices[0].finish_reason == "length"
    chunks = server.events("/v1/completions", prompt=TEXT, temperature=0)
    assert chunks.pop() == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == found.choices[0].text


def test_prompts_in_all_forms(server: Running) -> None:
    vocab = part_of(server, "tiny").model.vocab
    tokens = tokenize(vocab, TEXT)
    body = {"temperature": 0, "max_tokens": 4}
    one = server.ok("/v1/completions", prompt=TEXT, **body)["choices"][0]["text"]
    assert server.ok("/v1/completions", prompt=tokens, **body)["choices"][0]["text"] == one
    several = server.ok("/v1/completions", prompt=[TEXT, "Another"], n=2, **body)
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert [several["choices"][index]["text"] for index in (0, 1)] == [one, one]
    assert several["usage"]["prompt_tokens"] == len(tokens) + len(tokenize(vocab, "Another"))
    listed = server.ok("/v1/completions", prompt=[tokens, tokens[:3]], **body)["choices"]
    assert listed[0]["text"] == one and len(listed) == 2


def test_echo_and_log_probabilities(server: Running) -> None:
    found = server.ok("/v1/completions", prompt=TEXT, temperature=0, max_tokens=3, logprobs=2)
    logs = found["choices"][0]["logprobs"]
    assert len(logs["tokens"]) == len(logs["token_logprobs"]) == len(logs["text_offset"]) == 3
    assert all(
        len(best) == 2 and max(best.values()) == given
        for best, given in zip(logs["top_logprobs"], logs["token_logprobs"], strict=True)
    )
    text = found["choices"][0]["text"]
    echoed = server.ok("/v1/completions", prompt=TEXT, temperature=0, max_tokens=3, echo=True)["choices"][0]["text"]
    assert echoed == TEXT + text
    for prompt in (TEXT, tokenize(part_of(server, "tiny").model.vocab, TEXT)):
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 3, "echo": True, "logprobs": 2}
        both = server.ok("/v1/completions", **body)["choices"][0]
        assert both["text"].lstrip() == TEXT + text  # of tokens: with the space that the tokenizer begins with
        given = both["logprobs"]["token_logprobs"]
        assert given[0] is None and given[-3:] == pytest.approx(logs["token_logprobs"], abs=1e-3)
        assert "".join(both["logprobs"]["tokens"])[-len(text) :] == text
        events = server.events("/v1/completions", **body)[:-1]
        assert "".join(event["choices"][0]["text"] for event in events) == both["text"]
        rows = [row for event in events for row in (event["choices"][0]["logprobs"] or {}).get("token_logprobs", ())]
        assert rows[1:] == pytest.approx(given[1:], abs=1e-3)


def test_a_score_alone(server: Running) -> None:
    """What lm-eval asks for."""
    vocab = part_of(server, "tiny").model.vocab
    tokens = tokenize(vocab, TEXT)
    with_text = server.ok("/v1/completions", prompt=tokens, max_tokens=1, echo=True, logprobs=1, temperature=0)
    alone = server.ok("/v1/completions", prompt=tokens, max_tokens=0, echo=True, logprobs=1)
    (choice,) = alone["choices"]
    assert choice["text"].strip() == TEXT and choice["finish_reason"] == "length"
    logs = choice["logprobs"]
    assert len(logs["tokens"]) == len(tokens) and logs["token_logprobs"][0] is None and logs["top_logprobs"][0] is None
    assert logs["token_logprobs"][1:] == pytest.approx(
        with_text["choices"][0]["logprobs"]["token_logprobs"][1:-1], abs=1e-3
    )
    assert alone["usage"]["completion_tokens"] == 0
    assert server.error(400, "/v1/completions", prompt=TEXT, max_tokens=0)["param"] == "max_tokens"


def test_the_best_of_several(server: Running) -> None:
    body = {"prompt": TEXT, "temperature": 1.5, "seed": 5, "max_tokens": 6, "logprobs": 0}
    many = server.ok("/v1/completions", n=4, **body)["choices"]
    means = [np.mean(choice["logprobs"]["token_logprobs"]) for choice in many]
    best = server.ok("/v1/completions", best_of=4, **body)["choices"]
    assert len(best) == 1 and best[0]["text"] == many[int(np.argmax(means))]["text"]
    assert server.error(400, "/v1/completions", prompt=TEXT, n=3, best_of=2)["param"] == "best_of"
    assert server.error(400, "/v1/completions", prompt=TEXT, best_of=2, stream=True)["param"] == "best_of"


def test_a_gap_is_filled(vectors: Path, tmp_path: Path) -> None:
    path = tiny_models.write_llama(tmp_path / "coder.gguf", vectors / "ggml-vocab-deepseek-coder.gguf")
    with Model.load(path) as model, Engine(model, nCtx=512, nSeqMax=2, nThreads=1) as engine:
        with running({"coder": engine}) as server:
            body = {"prompt": "def f():\n    ", "suffix": "\nprint(f())\n", "max_tokens": 4}
            found = server.ok("/v1/completions", **body)
            assert found["usage"]["prompt_tokens"] == len(infillPrompt(model.vocab, body["prompt"], body["suffix"]))
            assert found["usage"]["completion_tokens"] > 0
            assert server.error(400, "/v1/completions", **{**body, "prompt": [5, 6]})["param"] == "prompt"
            assert server.error(400, "/v1/completions", **body, echo=True)["param"] == "suffix"


def test_a_model_that_cannot_fill_in_says_so(server: Running) -> None:
    error = server.error(400, "/v1/completions", prompt="def f(", suffix="return 1")
    assert error["param"] == "suffix" and error["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [([], "prompt"), ([[]], "prompt"), ({"a": 1}, "prompt"), ([1, "a"], "prompt"), ([10**8], "prompt")],
)
def test_wrong_prompts(server: Running, prompt: Any, param: str) -> None:
    found = server.error(400, "/v1/completions", prompt=prompt)["param"]
    assert found.startswith(param)


def test_a_prompt_that_is_too_long(server: Running) -> None:
    error = server.error(400, "/v1/completions", prompt="word " * 6000)
    assert error["code"] == "context_length_exceeded" and error["param"] == "prompt" and "4096" in error["message"]


def test_embeddings(server: Running) -> None:
    texts = ["hello world", "where is the dog"]
    found = CreateEmbeddingResponse.model_validate(server.ok("/v1/embeddings", model="bert", input=texts))
    embedder = part_of(server, "bert").embedder
    assert embedder is not None
    direct = embedder.embed(texts)
    np.testing.assert_allclose([row.embedding for row in found.data], direct, atol=1e-6)
    packed = server.ok("/v1/embeddings", input=texts[0], encoding_format="base64")["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(packed), "<f4"), direct[0], atol=1e-6)
    assert found.usage.prompt_tokens == sum(len(tokenize(embedder.model.vocab, text)) for text in texts)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [1, -2]}, "input[1]"),
        ({"input": ["a", "b", 3]}, "input[2]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 3000}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "model": "tiny"}, "model"),
        ({"input": ["a"] * 3000}, "input"),
    ],
)
def test_wrong_requests_for_embeddings(server: Running, body: Any, param: str) -> None:
    assert server.error(400, "/v1/embeddings", **body)["param"] == param


def test_rerank(server: Running) -> None:
    documents = ["hello world", "the dog is here", "a day"]
    body = {"model": "rank", "query": "where is the dog", "documents": documents}
    found = server.ok("/v1/rerank", return_documents=True, **body)["results"]
    reranker = part_of(server, "rank").reranker
    assert reranker is not None
    direct = reranker.rank(body["query"], documents)
    assert [row["index"] for row in found] == np.argsort(-direct, kind="stable").tolist()
    for row in found:
        assert row["relevance_score"] == pytest.approx(float(direct[row["index"]]))
        assert row["document"]["text"] == documents[row["index"]]
    assert len(server.ok("/v1/rerank", top_n=1, **body)["results"]) == 1
    wrong = {**body, "documents": ["a", {"title": "b"}]}
    assert server.error(400, "/v1/rerank", **wrong)["param"] == "documents[1].text"


def test_tokens_and_text(server: Running) -> None:
    vocab = part_of(server, "tiny").model.vocab
    tokens = server.ok("/tokenize", content=TEXT, add_special=True)["tokens"]
    assert tokens == tokenize(vocab, TEXT)
    assert server.ok("/detokenize", tokens=tokens[1:])["content"] == detokenize(vocab, tokens[1:])
    pieces = server.ok("/tokenize", content=TEXT, with_pieces=True)["tokens"]
    assert [piece["id"] for piece in pieces] == tokens[1:]
    assert server.error(400, "/detokenize", tokens=[1, 40_000])["param"] == "tokens[1]"
    assert server.ok("/detokenize", tokens=[])["content"] == ""


def test_models_and_their_errors(server: Running) -> None:
    listed = server.client.get("/v1/models").json()["data"]
    assert {model["id"]: model["capabilities"] for model in listed if ":" not in model["id"]} == {
        "tiny": ["completion"],
        "bert": ["embedding"],
        "rank": ["rerank"],
    }
    assert server.client.get("/v1/models/tiny").json() == listed[0]
    assert server.client.get("/v1/models/none").status_code == 404
    error = server.error(404, "/v1/completions", model="gpt-9", prompt="a")
    assert (error["param"], error["code"]) == ("model", "model_not_found") and "tiny" in error["message"]
    assert server.error(400, "/v1/completions", model="bert", prompt="a")["param"] == "model"


def test_load_and_metrics(server: Running) -> None:
    server.ok("/v1/completions", prompt=TEXT, max_tokens=3)
    wait_for(lambda: not server.state.exchanges)
    rows = {row["model"]: row for row in server.client.get("/slots").json()}
    assert rows["tiny"]["slots"] == 4 and rows["tiny"]["open"] == 0 and rows["tiny"]["cells"] == 4096
    assert rows["tiny"]["requests"] == []
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(re.findall(r"^(llama_cffi_\S+) ([\d.]+)$", answer.text, re.MULTILINE))
    assert int(values['llama_cffi_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert int(values['llama_cffi_generated_tokens_total{model="tiny"}']) >= 3
    assert int(values['llama_cffi_texts_total{model="tiny",reason="length"}']) >= 1
    assert float(values['llama_cffi_compute_seconds_total{model="tiny"}']) > 0
    count = values['llama_cffi_request_seconds_count{path="/v1/completions"}']
    assert values['llama_cffi_request_seconds_bucket{path="/v1/completions",le="+Inf"}'] == count
    gone = float(values["llama_cffi_disconnects_total"])
    server.ok("/v1/completions", prompt=TEXT, max_tokens=3)  # which is not one
    assert f"llama_cffi_disconnects_total {gone:.0f}\n" in server.client.get("/metrics").text
