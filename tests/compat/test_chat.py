"""`create_chat_completion`: its dicts, tools, response formats, and chat formats of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ChatTemplate, UnavailableError
from llama_cffi.compat import Llama, LlamaGrammar, chat_format
from tests.compat import facts
from tests.compat.conftest import THREADS

ASK: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Rome?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Look it up", "parameters": PARAMETERS}}
OTHER = {"type": "function", "function": {"name": "time", "description": "The time", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"type": "function", "function": {"name": "weather"}}
GREEDY: dict[str, Any] = {"temperature": 0.0}


def _choice(found: Any) -> Any:
    return found["choices"][0]


def _deltas(parts: list[Any]) -> list[Any]:
    return [part["choices"][0]["delta"] for part in parts]


def test_an_answer(smol_llama: Llama) -> None:
    found: Any = smol_llama.create_chat_completion(ASK, max_tokens=6, **GREEDY)
    facts.same_shape(found, facts.chat(facts.MESSAGE))
    assert found["object"] == "chat.completion" and found["id"].startswith("chatcmpl-")
    assert _choice(found)["message"]["role"] == "assistant" and _choice(found)["finish_reason"] == "length"
    template = ChatTemplate(smol_llama._model)
    assert found["usage"]["prompt_tokens"] == len(template.tokens(ASK)) and found["usage"]["completion_tokens"] == 6


def test_a_stream_has_the_same_text(chatty: Llama) -> None:
    whole = _choice(chatty.create_chat_completion(ASK, max_tokens=6, **GREEDY))["message"]["content"]
    parts: Any = list(chatty.create_chat_completion(ASK, max_tokens=6, stream=True, **GREEDY))
    facts.same_shape(parts[0], facts.chat_chunk(facts.ROLE_DELTA))
    for part in parts[1:-1]:
        facts.same_shape(part, facts.chat_chunk(facts.CONTENT_DELTA))
    facts.same_shape(parts[-1], facts.chat_chunk({}, facts.TEXT))
    assert parts[0]["object"] == "chat.completion.chunk" and _deltas(parts)[0] == {"role": "assistant"}
    assert "".join(delta["content"] for delta in _deltas(parts)[1:-1]) == whole
    assert _choice(parts[-1])["finish_reason"] == "length"


def test_log_probabilities(chatty: Llama) -> None:
    found: Any = chatty.create_chat_completion(ASK, max_tokens=3, logprobs=True, top_logprobs=2, **GREEDY)
    facts.same_shape(found, facts.chat(facts.MESSAGE, facts.CHAT_LOGPROBS))
    rows = _choice(found)["logprobs"]["content"]
    assert "".join(row["token"] for row in rows) == _choice(found)["message"]["content"]
    assert [len(row["top_logprobs"]) for row in rows] == [2, 2, 2]
    parts: Any = list(
        chatty.create_chat_completion(ASK, max_tokens=3, logprobs=True, top_logprobs=2, stream=True, **GREEDY)
    )
    streamed = [row for part in parts if _choice(part)["logprobs"] for row in _choice(part)["logprobs"]["content"]]
    assert streamed == rows


def test_stop_strings(chatty: Llama) -> None:
    whole = _choice(chatty.create_chat_completion(ASK, max_tokens=10, **GREEDY))["message"]["content"]
    end = whole[8:12]
    found = chatty.create_chat_completion(ASK, max_tokens=10, stop=end, **GREEDY)
    assert _choice(found)["message"]["content"] == whole[: whole.index(end)]
    assert _choice(found)["finish_reason"] == "stop"


# Tools


@pytest.mark.parametrize("which", ["chatty", "calling"], ids=["a template without tools", "a template with tools"])
@pytest.mark.parametrize(
    "options",
    [
        {"tools": [OTHER, TOOL], "tool_choice": NAMED},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL, OTHER], "tool_choice": "weather"},
        {"functions": [TOOL["function"]], "function_call": {"name": "weather"}},
    ],
    ids=["named", "required", "by its name", "functions"],
)
def test_a_call_that_is_required(which: str, options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    llama: Llama = request.getfixturevalue(which)
    found: Any = llama.create_chat_completion(ASK, max_tokens=200, **options, **GREEDY)
    facts.same_shape(found, facts.chat(facts.CALL_MESSAGE))
    message = _choice(found)["message"]
    assert _choice(found)["finish_reason"] == "tool_calls"
    call = message["tool_calls"][0]
    assert call["id"] == f"call__0_weather_{found['id'].removeprefix('chat')}" and call["type"] == "function"
    assert call["function"] == message["function_call"] and call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Paris")


def test_a_stream_of_a_call(chatty: Llama) -> None:
    options: dict[str, Any] = {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 200, **GREEDY}
    whole = _choice(chatty.create_chat_completion(ASK, **options))["message"]["tool_calls"][0]["function"]
    parts: Any = list(chatty.create_chat_completion(ASK, stream=True, **options))
    facts.same_shape(parts[0], facts.chat_chunk(facts.CALL_ROLE_DELTA))
    facts.same_shape(parts[1], facts.chat_chunk(facts.FIRST_CALL_DELTA))
    facts.same_shape(parts[-1], facts.chat_chunk(facts.CALL_END_DELTA, facts.TEXT))
    assert _choice(parts[-1])["finish_reason"] == "tool_calls"
    calls = [delta["tool_calls"][0] for delta in _deltas(parts)[1:-1]]
    assert calls[0]["function"]["name"] == "weather" and calls[0]["id"].startswith("call__0_weather_cmpl-")
    assert all("id" not in call and call["function"]["name"] is None for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == whole["arguments"]


def test_calls_that_the_model_makes_are_read(calling: Llama) -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    grammar = LlamaGrammar.from_string("root ::= " + json.dumps(text))
    options: dict[str, Any] = {"tools": [TOOL, OTHER], "grammar": grammar, "max_tokens": 200, **GREEDY}
    found: Any = calling.create_chat_completion(ASK, **options)
    facts.same_shape(found, facts.chat(facts.CALL_MESSAGE))
    assert json.loads(_choice(found)["message"]["function_call"]["arguments"]) == {"city": "Rome"}
    parts: Any = list(calling.create_chat_completion(ASK, stream=True, **options))
    calls = [delta["tool_calls"][0] for delta in _deltas(parts)[1:-1]]
    assert [call["function"]["name"] for call in calls][:1] == ["weather"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Rome"}
    assert _choice(parts[-1])["finish_reason"] == "tool_calls"


def test_tools_that_are_not_chosen(calling: Llama, chatty: Llama) -> None:
    for llama in (calling, chatty):
        found = llama.create_chat_completion(ASK, tools=[TOOL], tool_choice="none", max_tokens=3)
        assert "tool_calls" not in _choice(found)["message"]
    assert "tool_calls" not in _choice(chatty.create_chat_completion(ASK, tools=[], max_tokens=3))["message"]


def test_a_history_with_calls(calling: Llama) -> None:
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    old = [
        *ASK,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "weather", "content": "sunny"},
    ]
    new = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
    ]
    answers = [calling.create_chat_completion(each, tools=[TOOL], max_tokens=4, **GREEDY) for each in (old, new)]
    assert _choice(answers[0])["message"] == _choice(answers[1])["message"]
    assert answers[0]["usage"] == answers[1]["usage"]  # type: ignore[index]


# Formats


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object", "schema": PARAMETERS},
        {"type": "json_schema", "json_schema": {"name": "place", "schema": PARAMETERS}},
    ],
    ids=["json_object", "json_schema"],
)
@pytest.mark.parametrize("which", ["its own template", "a built-in template"])
def test_response_formats(chatty: Llama, response_format: dict[str, Any], which: str) -> None:
    own, chatty.chat_format = chatty.chat_format, "chatml" if "built-in" in which else chatty.chat_format
    try:
        found = chatty.create_chat_completion(ASK, response_format=response_format, max_tokens=200)
    finally:
        chatty.chat_format = own
    assert json.loads(_choice(found)["message"]["content"])["city"] in ("Rome", "Paris")
    assert _choice(found)["finish_reason"] == "stop"


def test_json_without_a_schema_and_text(chatty: Llama) -> None:
    grammar = {"response_format": {"type": "json_object"}, "logit_bias": {}}
    found: Any = chatty.create_chat_completion(ASK, max_tokens=2, **grammar)  # type: ignore[arg-type]
    assert _choice(found)["message"]["content"].lstrip()[:1] in ("{", "")
    text = chatty.create_chat_completion(ASK, max_tokens=3, response_format={"type": "text"}, **GREEDY)
    assert _choice(text)["message"] == _choice(chatty.create_chat_completion(ASK, max_tokens=3, **GREEDY))["message"]


def test_a_grammar(chatty: Llama) -> None:
    found = chatty.create_chat_completion(ASK, grammar=LlamaGrammar.from_string('root ::= "sun" | "rain"'))
    assert _choice(found)["message"]["content"] in ("sun", "rain")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tools": [TOOL], "tool_choice": "nothing"}, ValueError, "nothing.*weather"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, ValueError, "tool_choice"),
        ({"tool_choice": "required"}, ValueError, "required"),
        ({"tools": ["weather"]}, TypeError, "tool.*str"),
        ({"functions": [{"description": "no name"}]}, ValueError, "tool.*name"),
        ({"tools": [TOOL], "tool_choice": 3}, TypeError, "tool_choice.*int"),
        (
            {"tools": [TOOL], "tool_choice": NAMED, "response_format": {"type": "json_object"}},
            ValueError,
            "tool_choice",
        ),
        ({"response_format": {"type": "xml"}}, ValueError, "response_format.*xml"),
        ({"response_format": "json"}, TypeError, "response_format.*str"),
        ({"messages": "hello"}, TypeError, "messages.*str"),
        ({"messages": ["hello"]}, TypeError, "message.*str"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            UnavailableError,
            "image_url",
        ),
    ],
    ids=str,
)
def test_wrong_requests(chatty: Llama, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        chatty.create_chat_completion(**{"messages": ASK, "max_tokens": 2, **options})


def test_a_template_that_describes_no_tools_gets_them_in_the_system_message(
    chatty: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = []
    tokenize = ChatTemplate._tokenize
    monkeypatch.setattr(ChatTemplate, "_tokenize", lambda own, text: prompts.append(text) or tokenize(own, text))
    assert not chatty._template().takesTools
    options: dict[str, Any] = {"tools": [TOOL, CLOCK], "tool_choice": "required"}
    found: Any = chatty.create_chat_completion(ASK, max_tokens=300, **options)
    (call,) = _choice(found)["message"]["tool_calls"]
    function = call["function"]
    assert function["name"] in ("weather", "clock") and _choice(found)["finish_reason"] == "tool_calls"
    assert json.loads(function["arguments"]).get("city", "Rome") in ("Rome", "Paris")
    parts: Any = chatty.create_chat_completion(ASK, max_tokens=300, stream=True, **options)
    deltas = [row for part in parts for row in part["choices"][0]["delta"].get("tool_calls") or ()]
    assert deltas[0]["function"]["name"] in ("weather", "clock")
    json.loads("".join(row["function"]["arguments"] for row in deltas))
    auto: Any = chatty.create_chat_completion(ASK, max_tokens=2, tools=[TOOL], **GREEDY)
    facts.same_shape(auto, facts.chat(facts.MESSAGE))
    assert len(prompts) == 3 and all('"name": "weather"' in prompt for prompt in prompts)
    assert ['"name": "clock"' in prompt for prompt in prompts] == [True, True, False]


def test_a_built_in_template_answers_with_a_named_tool_only(chatty: Llama) -> None:
    own, chatty.chat_format = chatty.chat_format, "chatml"
    try:
        with pytest.raises(ValueError, match="tools.*chatml-function-calling"):
            chatty.create_chat_completion(ASK, tools=[TOOL], tool_choice="auto", max_tokens=2)
        found: Any = chatty.create_chat_completion(ASK, tools=[TOOL], tool_choice=NAMED, max_tokens=200)
    finally:
        chatty.chat_format = own
    assert _choice(found)["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_parts_of_text(chatty: Llama) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    found = [chatty.create_chat_completion(each, max_tokens=3, **GREEDY) for each in (parts, ASK)]
    assert _choice(found[0])["message"] == _choice(found[1])["message"]


def test_a_model_without_a_template_uses_llama_2(llama: Llama) -> None:
    with pytest.warns(RuntimeWarning, match="llama-2.*chat_format"):
        found: Any = llama.create_chat_completion(ASK, max_tokens=2)
    facts.same_shape(found, facts.chat(facts.MESSAGE))


@pytest.mark.parametrize("name", ["chatml", "llama-2", "llama-3", "mistral-instruct", "gemma", "zephyr"])
def test_named_formats(llama: Llama, name: str) -> None:
    llama.chat_format = name
    try:
        assert llama.create_chat_completion(ASK, max_tokens=1)
    finally:
        llama.chat_format = None


def test_an_unknown_format(llama: Llama) -> None:
    llama.chat_format = "alpacas"
    try:
        with pytest.raises(ValueError, match="alpacas.*chatml"):
            llama.create_chat_completion(ASK, max_tokens=1)
    finally:
        llama.chat_format = None


@pytest.fixture
def registered() -> Iterator[str]:
    registry = chat_format.LlamaChatCompletionHandlerRegistry()
    yield "mine"
    registry.unregister_chat_handler("mine")


def test_a_format_of_ones_own(tiny_path: Path, registered: str) -> None:
    @chat_format.register_chat_format(registered)
    def format_mine(messages: Any, **options: Any) -> chat_format.ChatFormatterResponse:
        return chat_format.ChatFormatterResponse(f"Q: {messages[-1]['content']} A:", stop="\n")

    with Llama(str(tiny_path), n_ctx=256, chat_format=registered, **THREADS) as llama:
        found: Any = llama.create_chat_completion(ASK, max_tokens=3, logprobs=True, top_logprobs=1)
        facts.same_shape(found, facts.chat(facts.MESSAGE, facts.CHAT_LOGPROBS))
        assert found["usage"]["prompt_tokens"] == len(llama.tokenize(f"Q: {ASK[0]['content']} A:".encode()))
        parts: Any = list(llama.create_chat_completion(ASK, max_tokens=3, stream=True))
        facts.same_shape(parts[0], facts.chat_chunk(facts.ROLE_DELTA))
        facts.same_shape(parts[-1], facts.chat_chunk({}, facts.TEXT))
        with pytest.raises(UnavailableError, match="tool_choice"):
            llama.create_chat_completion(ASK, tools=[TOOL], tool_choice=NAMED)
    with pytest.raises(ValueError, match="mine"):
        chat_format.register_chat_format(registered)(format_mine)
    assert callable(chat_format.get_chat_completion_handler(registered))
    with pytest.raises(chat_format.LlamaChatCompletionHandlerNotFoundException, match="others"):
        chat_format.get_chat_completion_handler("others")


def test_a_handler(tiny_path: Path) -> None:
    seen: list[Any] = []

    def handler(**options: Any) -> Any:
        seen.append(options)
        return {"done": True}

    with Llama(str(tiny_path), n_ctx=256, chat_handler=handler, **THREADS) as llama:
        assert llama.create_chat_completion(ASK, temperature=0.5) == {"done": True}
        assert seen[0]["llama"] is llama and seen[0]["messages"] == ASK and seen[0]["temperature"] == 0.5


def test_a_jinja_formatter(tiny_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    made = chat_format.Jinja2ChatFormatter(template, eos_token="</s>", bos_token="<s>", stop_token_ids=[2])
    assert made(messages=ASK).prompt == f"<s>{ASK[0]['content']}"
    with Llama(str(tiny_path), n_ctx=256, chat_handler=made.to_chat_handler(), **THREADS) as llama:
        found: Any = llama.create_chat_completion(ASK, max_tokens=2)
        assert found["usage"]["prompt_tokens"] == len(llama.tokenize(ASK[0]["content"].encode()))


def test_objects_of_openai(chatty: Llama) -> None:
    from openai.types import chat as types

    found = chatty.create_chat_completion_openai_v1(ASK, max_tokens=2)
    assert isinstance(found, types.ChatCompletion) and found.choices[0].message.content
    parts = list(chatty.create_chat_completion_openai_v1(messages=ASK, max_tokens=2, stream=True))
    assert all(isinstance(part, types.ChatCompletionChunk) for part in parts)
    assert parts[0].choices[0].delta.role == "assistant" and parts[-1].choices[0].finish_reason == "length"
