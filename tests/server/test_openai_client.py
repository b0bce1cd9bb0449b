"""The official openai package against SmolLM2: sync, async, streams, tools, structured output, responses, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.chat.test_answers import CALL
from tests.server.serving import ASK, TOOL, Running

# Small, because SmolLM2 has 135 million parameters: what it answers is not the point.
SHORT: Any = {"model": "smol", "max_tokens": 8, "temperature": 0}


@pytest.fixture
def client(smol_server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{smol_server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def tiny_client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


class Weather(BaseModel):
    city: Literal["Bern", "Rome"]
    rain: bool


def test_an_answer_and_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=ASK, **SHORT)  # type: ignore[call-overload]
    assert whole.choices[0].message.content and whole.usage.completion_tokens == 8
    stream = client.chat.completions.create(messages=ASK, stream=True, stream_options={"include_usage": True}, **SHORT)  # type: ignore[call-overload]
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage.completion_tokens == 8


def test_async(server: Running) -> None:
    async def run() -> tuple[list[Any], str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [client.chat.completions.create(messages=ASK, **{**SHORT, "model": "tiny"}) for _ in range(4)]
            found = await asyncio.gather(*asked)
            stream = await client.chat.completions.create(messages=ASK, stream=True, **{**SHORT, "model": "tiny"})
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return [answer.choices[0].message.content for answer in found], text

    texts, streamed = asyncio.run(run())
    assert len(texts) == 4 and all(texts) and streamed


def test_tools(tiny_client: openai.OpenAI, script: Callable[[str], None]) -> None:
    script(CALL)
    options: Any = {"model": "tiny", "messages": ASK, "tools": [TOOL], "tool_choice": "required", "max_tokens": 99}
    message = tiny_client.chat.completions.create(**options).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Bern"}
    with tiny_client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion().choices[0]
    (streamed,) = final.message.tool_calls
    assert json.loads(streamed.function.arguments) == {"city": "Bern"} and final.finish_reason == "tool_calls"
    script("It rains.")
    answer = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    after: Any = {"model": "tiny", "messages": [*ASK, message, answer], "tools": [TOOL]}
    found = tiny_client.chat.completions.create(**after).choices[0]
    assert found.message.content == "It rains." and found.finish_reason == "stop"


def test_structured_output(client: openai.OpenAI) -> None:
    found = client.chat.completions.parse(
        model="smol",
        messages=ASK,
        response_format=Weather,
        max_tokens=60,
        temperature=0,  # type: ignore[arg-type]
    )
    assert isinstance(found.choices[0].message.parsed, Weather)


def test_responses(tiny_client: openai.OpenAI, script: Callable[[str], None]) -> None:
    script("It rains.")
    found = tiny_client.responses.create(model="tiny", input="Hello")
    assert found.output_text == "It rains." and found.status == "completed"
    with tiny_client.responses.stream(model="tiny", input="Hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == found.output_text
    script('{"city": "Rome", "rain": true}')
    parsed = tiny_client.responses.parse(model="tiny", input="Rome?", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Rome", rain=True)


def test_completions_models_and_errors(tiny_client: openai.OpenAI) -> None:
    found = tiny_client.completions.create(prompt="The capital of France is", logprobs=2, **{**SHORT, "model": "tiny"})
    assert found.choices[0].text and len(found.choices[0].logprobs.token_logprobs) == 8
    assert [model.id for model in tiny_client.models.list()][0] == "tiny" and tiny_client.models.retrieve(
        "tiny"
    ).id == "tiny"
    with pytest.raises(openai.NotFoundError) as missing:
        tiny_client.chat.completions.create(model="gpt-9", messages=ASK)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        tiny_client.chat.completions.create(model="tiny", messages=ASK, temperature=-3)  # type: ignore[arg-type]
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        tiny_client.completions.create(model="tiny", prompt="word " * 9000)
    assert long.value.code == "context_length_exceeded"


def test_embeddings(tiny_client: openai.OpenAI) -> None:
    packed = tiny_client.embeddings.create(model="bert", input=["hello", "world"])  # by base64
    plain = tiny_client.embeddings.create(model="bert", input=["hello", "world"], encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
