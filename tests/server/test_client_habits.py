"""What clients send beside the plain case: null for what is not given, numbers as 4.0, answers sent back, tokens."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest

from llama_cffi.server import requests
from llama_cffi.server.native import TemplateBody, TokenizeBody
from llama_cffi.server.vectors import EmbeddingBody, RerankBody
from tests.server.serving import ASK, TOOL, Running

CHAT, TEXT, RESPONSES, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}

_BODIES = [
    (CHAT, requests.ChatBody, {"messages": ASK, "max_tokens": 1}),
    (TEXT, requests.CompletionBody, {"prompt": "Once", "max_tokens": 1}),
    (RESPONSES, requests.ResponsesBody, {"input": "Once", "max_output_tokens": 1}),
    (EMBED, EmbeddingBody, {"input": "Once"}),
    ("/v1/rerank", RerankBody, {"query": "Once", "documents": ["upon"]}),
    ("/tokenize", TokenizeBody, {"content": "Once"}),
    ("/apply-template", TemplateBody, {"messages": ASK}),
]


@pytest.mark.parametrize(("path", "kind", "body"), _BODIES, ids=[path for path, _, _ in _BODIES])
def test_null_is_not_given(server: Running, path: str, kind: Any, body: dict[str, Any]) -> None:
    names = {field.alias or name for name, field in kind.model_fields.items()}
    empty = dict.fromkeys([*names, *kind.NO_EFFECT, *kind.UNSUPPORTED])
    server.ok(path, **{**empty, **body})
    required = next(name for name, field in kind.model_fields.items() if field.is_required())
    error = server.error(400, path, **{**body, required: None})
    assert (error["param"], error["code"]) == (required, "missing_required_parameter")


def test_null_in_objects_is_not_given(server: Running) -> None:
    server.ok(TEXT, prompt="Once", max_tokens=1, lora=[{"name": "own", "scale": None, "id": None}])
    server.ok(RESPONSES, input=[{"type": None, "role": "user", "content": "Hi"}], max_output_tokens=1)


def test_whole_numbers_may_have_a_point(server: Running) -> None:
    answer = server.ok(TEXT, prompt="Once", max_tokens=2.0, n=1.0, seed=-0.0, top_k=40.0, temperature=1.0)
    assert answer["usage"]["completion_tokens"] == 2
    for field, value in (("max_tokens", 2.5), ("n", 1e300), ("temperature", 1e300), ("seed", "1")):
        assert server.error(400, TEXT, **{"prompt": "Once", "max_tokens": 2, field: value})["param"] == field


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (RESPONSES, {"input": [{"role": ["user"], "content": "a"}]}, "input[0].role"),
        (RESPONSES, {"input": [{"type": ["message"], "role": "user", "content": "a"}]}, "input[0].type"),
        (RESPONSES, {"input": [{"type": "reasoning", "content": 5}]}, "input[0].content"),
        (RESPONSES, {"input": [{"type": "reasoning", "content": [{"text": 5}]}]}, "input[0].content[0]"),
        (
            RESPONSES,
            {"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": 5}]}]},
            "input[0].content[0].text",
        ),
        (
            RESPONSES,
            {"input": [{"type": "function_call", "name": "a", "call_id": "b", "arguments": "{"}]},
            "input[0].arguments",
        ),
        (RESPONSES, {"input": "a", "frequency_penalty": "x"}, "frequency_penalty"),
        (RESPONSES, {"input": "a", "presence_penalty": 3}, "presence_penalty"),
        (RESPONSES, {"input": "a", "include": ["message.output_text.logprobs"]}, "include"),
        (
            CHAT,
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "not json"}}]},
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        (CHAT, {"messages": ASK, "chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
        (CHAT, {"messages": ASK, "chat_template_kwargs": {"toolChoice": "none"}}, "chat_template_kwargs.toolChoice"),
        ("/apply-template", {"messages": ASK, "chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
        (
            "/apply-template",
            {"messages": ASK, "chat_template_kwargs": {"addGenerationPrompt": False}},
            "chat_template_kwargs.addGenerationPrompt",
        ),
        (TEXT, {"prompt": [1, 1_000_000]}, "prompt"),
        (EMBED, {"input": [[1], [1_000_000]]}, "input[1]"),
        (EMBED, {"input": [1, 1_000_000]}, "input"),
        (EMBED, {"input": [[]]}, "input"),
        (EMBED, {"input": "word " * 5000}, "input"),
    ],
)
def test_a_wrong_value_is_the_clients_fault_and_named(server: Running, path: str, body: Any, param: str) -> None:
    assert server.error(400, path, **body)["param"] == param


def test_calls_without_arguments_come_back(server: Running) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "5"},
    ]
    server.ok(CHAT, messages=messages, max_tokens=1)
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "function_call", "name": "weather", "call_id": "a", "arguments": ""},
        {"type": "function_call_output", "call_id": "a", "output": "5"},
    ]
    server.ok(RESPONSES, input=items, max_output_tokens=1)


def test_allowed_tools(server: Running, script: Callable[[str], None]) -> None:
    tools = [TOOL, OTHER]

    def choice(mode: str, *names: str) -> Any:
        allowed = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}

    def prompt_tokens(**fields: Any) -> int:
        return int(server.ok(CHAT, messages=ASK, max_tokens=1, **fields)["usage"]["prompt_tokens"])

    script("a")
    assert prompt_tokens(tools=tools, tool_choice=choice("auto", "weather")) == prompt_tokens(tools=[TOOL])
    assert prompt_tokens(tools=tools, tool_choice=choice("auto", "weather", "other")) == prompt_tokens(tools=tools)
    flat = [{"type": "function", **tool["function"]} for tool in tools]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    server.ok(RESPONSES, input="Hi", max_output_tokens=1, tools=flat, tool_choice=allowed)
    for wrong in (choice("auto"), choice("auto", "nobody"), choice("none", "other"), {"type": "allowed_tools"}):
        error = server.error(400, CHAT, messages=ASK, tools=tools, tool_choice=wrong)
        assert error["param"].startswith("tool_choice.allowed_tools")


def test_the_tokens_of_thoughts_are_counted(server: Running, script: Callable[[str], None]) -> None:
    script("<think>Some long thoughts</think>Yes")
    whole = server.ok(CHAT, messages=ASK, n=2)["usage"]
    last = server.events(CHAT, messages=ASK, n=2, stream_options={"include_usage": True})[-2]["usage"]
    response = server.ok(RESPONSES, input="Hi")["usage"]
    thought = response["output_tokens_details"]["reasoning_tokens"]
    assert 2 <= thought < response["output_tokens"]
    for used in (whole, last):
        assert used["completion_tokens_details"] == {"reasoning_tokens": 2 * thought}
    script("Yes")
    assert server.ok(CHAT, messages=ASK)["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_a_request_may_leave_the_prefix_cache_alone(server: Running) -> None:
    body = {"prompt": "It was a dark and stormy night, and nobody was in the street.", "max_tokens": 1}

    def cached(**fields: Any) -> int:
        return int(server.ok(TEXT, **body, **fields)["usage"]["prompt_tokens_details"]["cached_tokens"])

    cached()
    assert cached() > 0 and cached(cache_prompt=True) > 0
    assert cached(cache_prompt=False) == 0
    chat = server.ok(CHAT, messages=ASK, max_tokens=1)
    chat = server.ok(CHAT, messages=ASK, max_tokens=1, cache_prompt=False)
    assert chat["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_embeddings_of_tokens_are_those_of_the_text(server: Running) -> None:
    texts = ["Once upon a time", "nobody"]
    tokens = [server.ok("/tokenize", model="bert", content=text, add_special=True)["tokens"] for text in texts]
    assert server.ok(EMBED, input=tokens) == server.ok(EMBED, input=texts)
    assert server.ok(EMBED, input=tokens[0]) == server.ok(EMBED, input=texts[0])


def test_shorter_embeddings_have_length_1(server: Running) -> None:
    whole = server.ok(EMBED, input="Once")["data"][0]["embedding"]
    short = server.ok(EMBED, input="Once", dimensions=5)["data"][0]["embedding"]
    length = sum(value * value for value in whole[:5]) ** 0.5
    assert short == pytest.approx([value / length for value in whole[:5]], abs=1e-6)
    assert server.ok(EMBED, input="Once", dimensions=len(whole))["data"][0]["embedding"] == whole
    error = server.error(400, EMBED, input="Once", dimensions=len(whole) + 1)
    assert error["param"] == "dimensions" and str(len(whole)) in error["message"]


def test_an_empty_suffix_needs_no_model_that_fills_in(server: Running) -> None:
    for prompt in ("Once", ["Once", "upon"], [5, 6]):
        server.ok(TEXT, prompt=prompt, suffix="", max_tokens=1)
    assert server.error(400, TEXT, prompt="Once", suffix="end", max_tokens=1)["param"] == "suffix"


def test_compressed_bodies_are_refused(server: Running) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = server.client.post(TEXT, content=gzip.compress(b'{"prompt": "Once", "max_tokens": 1}'), headers=headers)
    assert answer.status_code == 415 and "Content-Encoding" in answer.json()["error"]["message"]
    headers["Content-Encoding"] = "identity"
    answer = server.client.post(TEXT, content=b'{"prompt": "Once", "max_tokens": 1}', headers=headers)
    assert answer.status_code == 200
