"""/v1/chat/completions and /v1/responses with a tiny model, held to OpenAI's published types."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llama_cffi import Engine, Sampler, defaultSampler
from tests.chat.test_answers import CALL
from tests.server.serving import ASK, TOOL, Running, part_of

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
Script = Callable[[str], None]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}


def _direct(server: Running, n: int) -> str:
    part = part_of(server, "tiny")
    assert isinstance(part.engine, Engine)
    request = part.engine.chat(ASK, template=part.template, sampler=Sampler.initGreedy(), maxTokens=n)
    request.result()
    return request.content


def _joined(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_an_answer_is_the_engines(server: Running) -> None:
    found = server.ok(CHAT, model="tiny", messages=ASK, temperature=0, max_tokens=12)
    parsed = ChatCompletion.model_validate(found)
    assert parsed.choices[0].message.content == _direct(server, 12)
    assert parsed.choices[0].finish_reason == "length" and parsed.model == "tiny"
    assert parsed.usage is not None and parsed.usage.completion_tokens == 12
    assert parsed.usage.total_tokens == parsed.usage.prompt_tokens + 12
    assert found["timings"]["predicted_n"] == 12 and found["timings"]["predicted_per_second"] > 0


def test_a_stream_says_the_same(server: Running) -> None:
    options = {"stream_options": {"include_usage": True}, "max_completion_tokens": 12, "temperature": 0}
    events = server.events(CHAT, messages=ASK, **options)
    assert events.pop() == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate(event) for event in events]
    assert _joined(events) == _direct(server, 12)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_cached_tokens_are_counted(server: Running) -> None:
    messages = [{"role": "user", "content": "The same beginning, for the second time. " * 4}]
    server.ok(CHAT, messages=messages, max_tokens=2)
    usage = server.ok(CHAT, messages=messages, max_tokens=2)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] // 2


def test_several_choices_with_seeds(server: Running) -> None:
    body = {"messages": ASK, "n": 3, "seed": 7, "max_tokens": 8, "temperature": 1.5}
    texts = [choice["message"]["content"] for choice in server.ok(CHAT, **body)["choices"]]
    assert len(set(texts)) == 3
    again = [choice["message"]["content"] for choice in server.ok(CHAT, **body)["choices"]]
    assert again == texts
    events = server.events(CHAT, **body)[:-1]
    assert [_joined(events, index) for index in range(3)] == texts
    assert server.ok(CHAT, **body)["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(server: Running, stream: bool) -> None:
    body = {"messages": ASK, "max_tokens": 5, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    if stream:
        events = server.events(CHAT, **body)[:-1]
        given = [ChatCompletionChunk.model_validate(event).choices[0].logprobs for event in events]
        rows = [row for logs in given if logs is not None for row in logs.content or ()]
    else:
        logs = ChatCompletion.model_validate(server.ok(CHAT, **body)).choices[0].logprobs
        assert logs is not None and logs.content is not None
        rows = list(logs.content)  # type: ignore[arg-type]
    assert len(rows) == 5
    for row in rows:
        best = [alternative.logprob for alternative in row.top_logprobs]
        assert len(best) == 3 and best == sorted(best, reverse=True) and best[0] == row.logprob < 0
        assert bytes(row.bytes or ()).decode(errors="replace") == row.token


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "weather"}}])
def test_tool_calls(server: Running, script: Script, choice: Any) -> None:
    thought = "Hm." if choice == "auto" else ""  # a required call comes at once
    script((f"<think>\n{thought}\n</think>\n\n" if thought else "") + f"{CALL}\n{CALL.replace('Bern', 'Rome')}")
    body = {"messages": ASK, "tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": True, "max_tokens": 300}
    found = ChatCompletion.model_validate(server.ok(CHAT, **body)).choices[0]
    assert found.finish_reason == "tool_calls" and not (found.message.content or "").strip()
    assert getattr(found.message, "reasoning_content", "").strip() == thought
    calls = [call for call in found.message.tool_calls or () if call.type == "function"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Bern"}, {"city": "Rome"}]
    assert len({call.id for call in calls}) == 2

    events = server.events(CHAT, **body)[:-1]
    chunks = [ChatCompletionChunk.model_validate(event) for event in events]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    deltas = [call for event in events for c in event["choices"] for call in c["delta"].get("tool_calls") or ()]
    for index, city in enumerate(("Bern", "Rome")):
        mine = [delta for delta in deltas if delta["index"] == index]
        assert mine[0]["function"]["name"] == "weather" and mine[0]["id"] and mine[0]["type"] == "function"
        assert not any("id" in delta or "name" in delta["function"] for delta in mine[1:])
        assert json.loads("".join(delta["function"]["arguments"] for delta in mine)) == {"city": city}
    pieces = [c["delta"].get("reasoning_content", "") for event in events for c in event["choices"]]
    assert "".join(pieces).strip() == thought


def test_a_conversation_with_calls_is_understood(server: Running) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Bern"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
    ]
    prompt = server.ok("/apply-template", messages=messages, tools=[TOOL])["prompt"]
    for text in ("Bern?", '{"city": "Bern"}', "Rain.", "Be brief."):
        assert text in prompt.replace("\n", " ")
    assert server.ok(CHAT, messages=messages, tools=[TOOL], tool_choice="none", max_tokens=2)["choices"]


@pytest.mark.parametrize(
    "format",
    [
        {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}},
        {"type": "json_object", "schema": SCHEMA},
    ],
)
def test_response_formats(server: Running, format: Any) -> None:
    choice = server.ok(CHAT, messages=ASK, response_format=format, max_tokens=60, seed=1)["choices"][0]
    if choice["finish_reason"] == "stop":
        assert json.loads(choice["message"]["content"])["n"] in (1, 2, 3)
    else:
        assert choice["message"]["content"].lstrip().startswith("{") or not choice["message"]["content"].strip()
    *chunks, _ = server.events(CHAT, messages=ASK, response_format=format, max_tokens=60, seed=1)
    assert _joined(chunks) == choice["message"]["content"]


def test_a_grammar(server: Running) -> None:
    choice = server.ok(CHAT, messages=ASK, grammar='root ::= "yes" | "no"', max_tokens=9)["choices"][0]
    assert choice["message"]["content"] in ("yes", "no") and choice["finish_reason"] == "stop"
    assert server.error(400, CHAT, messages=ASK, grammar="root ::= (")["param"] == "grammar"


def test_bias_and_stop(server: Running) -> None:
    token = server.ok("/tokenize", content="hello")["tokens"][0]
    body = {"messages": ASK, "logit_bias": {str(token): 100}, "temperature": 0, "max_tokens": 6}
    assert server.ok(CHAT, **body)["choices"][0]["message"]["content"].count("hello") == 6
    stopped = server.ok(CHAT, stop=["hello hello"], **body)["choices"][0]
    assert stopped["finish_reason"] == "stop" and "hello hello" not in stopped["message"]["content"]


def test_samplers_of_llama_cpp(server: Running) -> None:
    part = part_of(server, "tiny")
    assert part.engine is not None
    own = {"topK": 7, "minP": 0.01, "repeatPenalty": 1.3, "xtcProbability": 0.5, "dryMultiplier": 0.8}
    sampler = defaultSampler(1.2, 9, vocab=part.model.vocab, **own)
    direct = part.engine.submit("Once", sampler=sampler, maxTokens=12).result()
    body = {"top_k": 7, "min_p": 0.01, "repeat_penalty": 1.3, "xtc_probability": 0.5, "dry_multiplier": 0.8}
    options = {"prompt": "Once", "temperature": 1.2, "seed": 9, "max_tokens": 12}
    assert server.ok("/v1/completions", **options, **body)["choices"][0]["text"] == direct
    assert server.ok("/v1/completions", **options)["choices"][0]["text"] != direct
    assert server.ok("/v1/completions", **options, mirostat=2, top_k=-1)["choices"][0]["text"]


def test_thoughts_can_be_turned_off(server: Running) -> None:
    prompt = server.ok("/apply-template", messages=ASK, chat_template_kwargs={"enable_thinking": False})["prompt"]
    assert "<think>\n\n</think>" in prompt
    assert "<think>" not in server.ok("/apply-template", messages=ASK)["prompt"]
    found = server.ok(CHAT, messages=ASK, reasoning_effort="none", max_tokens=3)
    assert found["usage"]["prompt_tokens"] > server.ok(CHAT, messages=ASK, max_tokens=3)["usage"]["prompt_tokens"]


def test_adapters_by_request(server: Running) -> None:
    names = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
    assert names == ["tiny", "tiny:own", "bert", "rank"]
    part = part_of(server, "tiny")
    assert part.engine is not None
    own = part.adapters["own"]
    body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8}
    texts = {}
    for scale in (0.5, 1.0):
        request = part.engine.submit(
            "Once upon a time", sampler=Sampler.initGreedy(), maxTokens=8, adapters=[(own, scale)]
        )
        texts[scale] = request.result()
        for lora in ({"name": "own", "scale": scale}, {"id": 0, "scale": scale}):
            assert server.ok("/v1/completions", lora=[lora], **body)["choices"][0]["text"] == texts[scale]
    assert server.ok("/v1/completions", model="tiny:own", **body)["choices"][0]["text"] == texts[1.0]
    plain = server.ok("/v1/completions", model="tiny", **body)["choices"][0]["text"]
    assert plain == server.ok("/v1/completions", lora=[], **body)["choices"][0]["text"] != texts[1.0]
    assert server.error(404, CHAT, model="tiny:other", messages=ASK)["code"] == "model_not_found"
    error = server.error(400, CHAT, messages=ASK, lora=[{"name": "other"}])
    assert error["param"] == "lora[0]" and "own" in error["message"]


# /v1/responses


def test_a_response(server: Running) -> None:
    found = server.ok(RESPONSES, model="tiny", instructions="Be brief.", input="Hello", max_output_tokens=6)
    parsed = Response.model_validate(found)
    assert parsed.status == "incomplete" and parsed.incomplete_details is not None
    assert parsed.usage is not None and parsed.usage.output_tokens == 6
    assert isinstance(parsed.output_text, str)


def test_events_of_a_response(server: Running) -> None:
    body = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "temperature": 0, "seed": 1}
    events = [EVENT.validate_python(event) for event in server.events(RESPONSES, max_output_tokens=6, **body)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.incomplete"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    whole = Response.model_validate(server.ok(RESPONSES, max_output_tokens=6, **body))
    assert text == whole.output_text == events[-1].response.output_text


def test_calls_of_a_response(server: Running, script: Script) -> None:
    tool = {"type": "function", **TOOL["function"]}
    earlier = [
        {"role": "user", "content": "Bern?"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
        {"role": "user", "content": "And Rome?"},
    ]
    script(f"<think>\nHm.\n</think>\n\nLet me see.\n{CALL.replace('Bern', 'Rome')}")
    body = {"input": earlier, "tools": [tool]}
    parsed = Response.model_validate(server.ok(RESPONSES, **body))
    assert [item.type for item in parsed.output] == ["reasoning", "message", "function_call"]
    assert parsed.status == "completed" and parsed.output_text.strip() == "Let me see."
    call = parsed.output[2]
    assert call.type == "function_call" and call.name == "weather" and json.loads(call.arguments) == {"city": "Rome"}
    events = [EVENT.validate_python(event) for event in server.events(RESPONSES, **body)]
    kinds = [event.type for event in events]
    assert kinds[-1] == "response.completed" and kinds.count("response.output_item.added") == 3
    assert kinds.count("response.output_item.done") == 3 and "response.reasoning_text.delta" in kinds
    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert json.loads(deltas) == {"city": "Rome"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "background": True}, "background"),
        ({"input": [{"type": "image_generation_call"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "file:///etc/passwd"}]}]},
            "input[0].content[0]",
        ),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": []}, "input"),
        ({}, "input"),
    ],
)
def test_what_a_response_cannot_have(server: Running, body: Any, param: str) -> None:
    assert server.error(400, RESPONSES, **body)["param"] == param
