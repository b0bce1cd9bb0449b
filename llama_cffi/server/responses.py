"""`/v1/responses`: OpenAI's newer protocol for conversations, with text, tools, and named events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi.engine.chat_request import ChatRequest
from llama_cffi.engine.engine import Engine
from llama_cffi.server import answers
from llama_cffi.server.chat import pieces
from llama_cffi.server.errors import of_exception
from llama_cffi.server.exchange import Exchange
from llama_cffi.server.messages import arguments_of, parts_of, text_of, thinking_of, tool_choice_of, tools_of, wrong
from llama_cffi.server.requests import ResponsesBody
from llama_cffi.server.response_items import ResponseWriter, response_head
from llama_cffi.server.sampling import sampler_of, seed_of
from llama_cffi.server.served import ServedModel

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


async def responses(exchange: Exchange) -> None:
    """Answer a request for a response."""
    body = await exchange.body(ResponsesBody)
    if body.stream:
        exchange.record.named_events = True
    name, served, engine, options = answers.find_model(exchange, body)
    make = _maker(exchange, body, served, engine, options)
    exchange.admit(served)
    job = (await answers.submit(exchange, "input", [make]))[0]
    writer = ResponseWriter(response_head(body, name))
    if not body.stream:
        async for events, _ in pieces(exchange, job):
            for event in events:
                writer.add(event)
        writer.finish(job, await answers.thought_tokens(exchange, engine.model.vocab, writer.thoughts))
        await exchange.json(writer.response)
        return
    await exchange.begin_events()
    await _send(exchange, writer.begin())
    try:
        async for events, _ in pieces(exchange, job):
            for event in events:
                await _send(exchange, writer.add(event))
    except Exception as error:
        failed = of_exception(error, exchange.record.id)
        exchange.record.error = failed.code
        await _send(exchange, writer.fail(failed))
    else:
        thought = await answers.thought_tokens(exchange, engine.model.vocab, writer.thoughts)
        await _send(exchange, writer.finish(job, thought))
    await exchange.end_events(done=False)


async def _send(exchange: Exchange, events: list[dict[str, Any]]) -> None:
    for event in events:
        await exchange.event(event, event["type"])


def _maker(
    exchange: Exchange, body: ResponsesBody, served: ServedModel, engine: Engine, options: dict[str, Any]
) -> Callable[[], ChatRequest]:
    """Check the request, and return what submits it."""
    messages = _messages(body, engine._mtmd is not None)
    tools = tools_of(body.tools, nested=False)
    choice, tools = tool_choice_of(body.tool_choice, tools, nested=False)
    effort = body.reasoning.effort if body.reasoning is not None else None
    thinking, variables = thinking_of(effort, body.chat_template_kwargs)
    most = answers.most_tokens(exchange, body.max_output_tokens, "max_output_tokens")
    form = None
    given = body.text.format if body.text is not None else None
    if given is not None and given.type != "text":
        if given.type == "json_schema" and given.schema_ is None:
            raise wrong("text.format.schema", "this field is required", "missing_required_parameter")
        form = given.schema_ or {"type": "object"}
    if body.grammar and (form is not None or tools):
        raise wrong("grammar", "cannot be combined with text.format or tools")

    def make() -> ChatRequest:
        seed = seed_of(body.seed, 0)
        sampler = sampler_of(body, engine.model.vocab, seed)
        return engine.chat(
            messages,
            template=served.template,
            tools=tools or None,
            toolChoice=choice,
            parallelToolCalls=body.parallel_tool_calls,
            responseFormat=form,
            thinking=thinking,
            variables=variables,
            sampler=sampler,
            maxTokens=most,
            seed=seed if sampler is None else DEFAULT_SEED,
            **options,
        )

    return partial(make)


def _messages(body: ResponsesBody, media: bool) -> list[dict[str, Any]]:
    """Return the input as messages of a conversation."""
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    if not body.input:
        raise wrong("input", "must not be an empty list")
    for index, item in enumerate(body.input):
        _add_item(messages, item, f"input[{index}]", media)
    return messages


def _add_item(messages: list[dict[str, Any]], item: dict[str, Any], param: str, media: bool) -> None:
    """Add an item of the input: a message, a call, the output of a call, or a thought."""
    kind = item.get("type") or "message"
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise wrong(f"{param}.role", f"must be one of {', '.join(_ROLES)}, got {role!r}")
        given = item.get("content")
        here, takes = f"{param}.content", media and role == "user"
        content = parts_of(given, here, True) if takes and isinstance(given, list) else _content(given, here)
        message = {"role": _ROLES[role], "content": content}
        last = messages[-1] if messages else {}
        if role == "assistant" and last.get("role") == "assistant" and not last.get("content"):
            last["content"] = message["content"]  # the thought before it is there
        else:
            messages.append(message)
    elif kind == "function_call":
        name, identity = (_field(item, name, param) for name in ("name", "call_id"))
        arguments = arguments_of(item.get("arguments"), f"{param}.arguments")
        call = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
        _assistant(messages).setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        output = _content(item.get("output"), f"{param}.output")
        messages.append({"role": "tool", "tool_call_id": _field(item, "call_id", param), "content": output})
    elif kind == "reasoning":
        text = _content(item.get("content") or "", f"{param}.content")
        if text:
            messages.append({"role": "assistant", "content": "", "reasoning_content": text})
    else:
        text = f"items of the type {str(kind)[:60]!r} are not supported"
        raise wrong(f"{param}.type", text, "unsupported_parameter")


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the assistant's message at the end, which may be a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _field(item: dict[str, Any], name: str, param: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise wrong(f"{param}.{name}", "this field is required and must be a string")
    return value


def _content(given: Any, param: str) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise wrong(param, "must be a string or a list of parts")
    return "".join(text_of(part, f"{param}[{index}]") for index, part in enumerate(given))
