"""Which parameters are accepted, what errors say, and who gets in."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from llama_cffi.server import Limits, ServedModel, create_app
from tests.server.serving import ASK, TOOL, Running, running, wait_for

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def _message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi", **fields}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        (_message(role="robot"), "messages[0].role"),
        (_message(role=3), "messages[0].role"),
        (_message(content=7), "messages[0].content"),
        (_message(content=[{"type": "text", "text": 7}]), "messages[0].content[0].text"),
        (_message(content=[{"text": "a"}]), "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
        ({**_message(), "temperature": "hot"}, "temperature"),
        ({**_message(), "temperature": -1}, "temperature"),
        ({**_message(), "top_p": 1.1}, "top_p"),
        ({**_message(), "max_tokens": 0}, "max_tokens"),
        ({**_message(), "max_tokens": 2.5}, "max_tokens"),
        ({**_message(), "max_tokens": 1 << 40}, "max_tokens"),
        ({**_message(), "n": 0}, "n"),
        ({**_message(), "n": 10_000}, "n"),
        ({**_message(), "stop": [1]}, "stop[0]"),
        ({**_message(), "stop": ["a"] * 100}, "stop"),
        ({**_message(), "stop": ""}, "stop"),
        ({**_message(), "seed": "x"}, "seed"),
        ({**_message(), "stream": "yes"}, "stream"),
        ({**_message(), "logit_bias": {"x": 1}}, "logit_bias"),
        ({**_message(), "logit_bias": {"1": 1000}}, "logit_bias.1"),
        ({**_message(), "logit_bias": {"99999999": 1}}, "logit_bias"),
        ({**_message(), "top_logprobs": 2}, "top_logprobs"),
        ({**_message(), "logprobs": True, "top_logprobs": 50}, "top_logprobs"),
        ({**_message(), "tools": [{}]}, "tools[0].type"),
        ({**_message(), "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({**_message(), "tool_choice": "required"}, "tool_choice"),
        ({**_message(), "tool_choice": "sometimes"}, "tool_choice"),
        (
            {**_message(), "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({**_message(), "response_format": {"type": "xml"}}, "response_format.type"),
        ({**_message(), "response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({**_message(), "grammar": 'root ::= "a"', "response_format": {"type": "json_object"}}, "grammar"),
        ({**_message(), "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({**_message(), "lora": [{"id": 5}]}, "lora[0]"),
    ],
)
def test_a_wrong_field_is_named(server: Running, body: Any, param: str) -> None:
    error = server.error(400, CHAT, **body)
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert error["message"].startswith(param) or param in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"prediction": {"type": "content"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"timings_per_token": True}, "timings_per_token"),
        (_message(audio={"id": "a"}), "messages[0].audio"),
        (_message(function_call={"name": "f", "arguments": "{}"}), "messages[0].function_call"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        (
            _message(content=[{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
            "messages[0].content[0]",
        ),
        (
            _message(content=[{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]),
            "messages[0].content[0]",
        ),
        (_message(content=[{"type": "input_audio", "input_audio": {}}]), "messages[0].content[0]"),
        (_message(content=[{"type": "file", "file": {"file_id": "1"}}]), "messages[0].content[0]"),
    ],
)
def test_what_is_known_and_not_supported_is_refused(server: Running, fields: Any, param: str) -> None:
    error = server.error(400, CHAT, **{**_message(), **fields})
    assert (error["code"], error["param"]) == ("unsupported_parameter", param)
    assert "not supported" in error["message"]


def test_unknown_parameters_are_ignored_and_named(server: Running) -> None:
    body = {**_message(), "max_tokens": 1, "user": "me", "service_tier": "auto", "modalities": ["text"]}
    assert "x-ignored-parameters" not in server.post(CHAT, **body).headers
    answer = server.post(CHAT, **body, colour="red", stream_options={"speed": 3}, **{"b\r\nX-Evil: 1": 2})
    named = answer.headers["x-ignored-parameters"].split(", ")
    assert answer.status_code == 200 and "x-evil" not in answer.headers
    assert named[0] == "colour" and "stream_options.speed" in named and len(named) == 3
    messages = [*ASK, {"role": "assistant", "content": "Fine.", "provider_specific_fields": {"a": 1}}, *ASK]
    for path in (CHAT, "/apply-template"):
        answer = server.post(path, messages=messages, **({"max_tokens": 1} if path == CHAT else {}))
        assert answer.status_code == 200
        assert answer.headers["x-ignored-parameters"] == "messages[1].provider_specific_fields"


def test_unknown_parameters_are_refused_if_asked(served: dict[str, ServedModel]) -> None:
    with running(served, strict=True) as server:
        error = server.error(400, CHAT, **_message(), colour="red")
        assert error["code"] == "unknown_parameter" and error["param"] == "colour"
        error = server.error(400, CHAT, **_message(colour="red"))
        assert error["code"] == "unknown_parameter" and error["param"] == "messages[0].colour"
        server.ok(CHAT, **_message(), max_tokens=1, user="me")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"a"',
        b"null",
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"messages": ' * 50_000,
        b"1" * 10_000,
    ],
)
def test_a_body_that_is_not_a_json_object(server: Running, body: bytes) -> None:
    for path in (CHAT, TEXT, "/v1/embeddings", "/v1/rerank", "/v1/responses", "/tokenize"):
        answer = server.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "invalid_json"


def test_paths_methods_and_types(server: Running) -> None:
    for answer, status in (
        (server.client.get("/v1/nothing"), 404),
        (server.client.get(CHAT), 405),
        (server.client.post(CHAT, content=b"{}"), 415),
        (server.client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"].startswith("req_")
    assert server.client.get(CHAT).headers["allow"] == "POST"


def test_lone_surrogates_and_nul(server: Running) -> None:
    for text in ("a\\ud800b", "a\\u0000b"):
        data = f'{{"messages": [{{"role": "user", "content": "{text}"}}], "max_tokens": 1}}'.encode()
        answer = server.client.post(CHAT, content=data, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400), answer.text
        answer = server.client.post(
            TEXT,
            content=b'{"max_tokens": 1, "prompt": "%s"}' % text.encode(),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (200, 400), answer.text


def test_keys(served: dict[str, ServedModel]) -> None:
    with running(served, apiKeys=["first-key", "second-key"]) as server:
        get = server.client.get
        assert get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/slots", "/nothing"):
            refused = get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["error"]["code"] == "invalid_api_key"
        for value in ("Bearer wrong", "Bearer", "Bearer first-ke", "Basic first-key", "first-key", "Bearer \xff"):
            headers = {"Authorization": value.encode("latin-1")}
            assert get("/v1/models", headers=headers).status_code == 401  # type: ignore[arg-type]
        for value in ("Bearer first-key", "bearer second-key"):
            assert get("/v1/models", headers={"Authorization": value}).status_code == 200
        assert get("/v1/models", headers={"X-API-Key": "second-key"}).status_code == 200


def test_hosts_and_origins(served: dict[str, ServedModel]) -> None:
    with running(served, allowedHosts=["127.0.0.1", "localhost"]) as server:
        assert server.client.get("/v1/models").status_code == 200
        answer = server.client.get("/v1/models", headers={"Host": "evil.example"})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
        origin = {"Origin": "https://page.example"}
        assert "access-control-allow-origin" not in server.client.get("/v1/models", headers=origin).headers
    with running(served, corsOrigins=["https://page.example"]) as server:
        asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert server.client.options(CHAT, headers=asked).headers["access-control-allow-origin"] == origin["Origin"]
        answer = server.client.get("/v1/models", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in answer.headers


def test_limits(served: dict[str, ServedModel]) -> None:
    limits = Limits(maxBody=2000, maxPrompt=60, maxTokens=5, maxChoices=2, maxInputs=3)
    with running(served, limits=limits) as server:
        assert server.error(413, CHAT, **_message(content="a" * 3000))["code"] == "too_large"
        parts = [b'{"prompt": "', *[b"a" * 500] * 10, b'"}']
        answer = server.client.post(TEXT, content=iter(parts), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and "2000" in answer.text
        error = server.error(400, TEXT, prompt="word " * 70)
        assert error["code"] == "context_length_exceeded" and "60" in error["message"]
        assert server.error(400, TEXT, prompt="a", max_tokens=6)["param"] == "max_tokens"
        assert server.error(400, TEXT, prompt="a", n=3)["param"] == "n"
        assert server.error(400, "/v1/embeddings", input=["a"] * 4)["param"] == "input"
        assert server.ok(CHAT, **_message())["usage"]["completion_tokens"] <= 5


def test_the_access_log_tells_what_and_not_the_text(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llama_cffi.server.access"):
        answer = server.post(CHAT, model="tiny", messages=[{"role": "user", "content": "My secret"}], max_tokens=3)
        wait_for(lambda: caplog.records)
    row = json.loads(caplog.records[-1].getMessage())
    assert row["id"] == answer.headers["x-request-id"] and row["path"] == CHAT and row["status"] == 200
    assert row["model"] == "tiny" and row["generated_tokens"] == 3 and row["bytes"] == len(answer.content)
    assert 0 < row["first_byte_ms"] <= row["ms"] and "secret" not in caplog.text


def test_wrong_arguments_of_the_application(served: dict[str, ServedModel]) -> None:
    for wrong in (3, {"a": 3}, None):
        with pytest.raises(TypeError, match="Engine"):
            create_app(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="served"):
        create_app({})
    with pytest.raises(TypeError, match="apiKeys"):
        create_app(served, apiKeys="key")
    with pytest.raises(ValueError, match="apiKeys"):
        create_app(served, apiKeys=[" "])
    with pytest.raises(ValueError, match="engine"):
        ServedModel()


def test_errors_of_the_server_do_not_tell_its_insides(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("the inside")

    monkeypatch.setattr("llama_cffi.server.chat.messages_of", fail)
    answer = server.post(CHAT, messages=ASK)
    assert answer.status_code == 500 and "inside" not in answer.text
    error = answer.json()["error"]
    assert answer.headers["x-request-id"] in error["message"] and error["type"] == "server_error"


def test_an_application_can_be_mounted(served: dict[str, ServedModel]) -> None:
    app = create_app(served, apiKeys=["key"])
    outer = Starlette(routes=[Mount("/llm", app)])

    async def ask() -> tuple[httpx.Response, ...]:
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://outer") as client:
            headers = {"Authorization": "Bearer key"}
            body = {"prompt": "Once", "max_tokens": 2}
            return (
                await client.get("/llm/health"),
                await client.post("/llm/v1/completions", json=body),
                await client.post("/llm/v1/completions", json=body, headers=headers),
                await client.get("/llm/metrics", headers=headers),
            )

    health, refused, answered, metrics = asyncio.run(ask())
    assert health.status_code == 200 and refused.status_code == 401
    assert answered.json()["usage"]["completion_tokens"] == 2
    assert 'requests_total{path="/v1/completions",status="200"} 1' in metrics.text


def test_the_page_is_there_unless_it_is_turned_off(
    served: dict[str, ServedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>Chat</title>", encoding="utf-8")
    monkeypatch.setattr("llama_cffi.server.app.PAGE", page)
    with running(served, apiKeys=["key"]) as server:
        answer = server.client.get("/")
        assert answer.status_code == 200 and answer.text == page.read_text(encoding="utf-8")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    with running(served, page=False) as server:
        assert server.client.get("/").status_code == 404
