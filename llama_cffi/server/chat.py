"""`/v1/chat/completions`: whole answers, and answers as server-sent events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi.chat.events import ChatEvent, EventParser
from llama_cffi.engine.chat_request import ChatRequest
from llama_cffi.engine.engine import Engine
from llama_cffi.generation.steps import GenerationStep
from llama_cffi.server import answers
from llama_cffi.server.errors import ApiError
from llama_cffi.server.exchange import Exchange, TextFrame
from llama_cffi.server.messages import format_of, messages_of, thinking_of, tool_choice_of, tools_of
from llama_cffi.server.requests import ChatBody
from llama_cffi.server.sampling import sampler_of, seed_of
from llama_cffi.server.served import ServedModel

_LONG = 1 << 12  # characters of an answer from which on it is parsed on a thread


async def completions(exchange: Exchange) -> None:
    """Answer a chat completion."""
    body = await exchange.body(ChatBody)
    name, served, engine, options = answers.find_model(exchange, body)
    choices = body.n or 1
    if choices > exchange.server.limits.maxChoices:
        most = exchange.server.limits.maxChoices
        raise ApiError(400, f"n must be at most {most}, got {choices}", param="n", code="invalid_value")
    makers = _makers(exchange, body, served, engine, options, choices)
    exchange.admit(served, choices)
    jobs = await answers.submit(exchange, "messages", makers)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    if body.stream:
        await _stream(exchange, body, engine, jobs, {**head, "object": "chat.completion.chunk"})
        return
    found = []
    for index, job in enumerate(jobs):
        await job
        found.append(await exchange.in_pool(partial(_choice, body, engine, job, index)))
    thoughts = (choice["message"].get("reasoning_content", "") for choice in found)
    thought = await answers.thought_tokens(exchange, engine.model.vocab, thoughts)
    used = {"usage": answers.usage(jobs, shared=choices, reasoning=thought), "timings": answers.timings(jobs[0])}
    await exchange.json({**head, "object": "chat.completion", "choices": found, **used})


def _makers(
    exchange: Exchange, body: ChatBody, served: ServedModel, engine: Engine, options: dict[str, Any], choices: int
) -> list[Callable[[], ChatRequest]]:
    """Check the request, and return what submits each choice."""
    messages = messages_of(body.messages, engine._mtmd is not None)
    tools = tools_of(body.tools)
    choice, tools = tool_choice_of(body.tool_choice, tools)
    form = format_of(body.response_format)
    thinking, variables = thinking_of(body.reasoning_effort, body.chat_template_kwargs)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    if body.grammar and (form is not None or tools):
        text = "grammar cannot be combined with response_format or tools"
        raise ApiError(400, text, param="grammar", code="invalid_value")
    asked, field = body.max_completion_tokens, "max_completion_tokens"
    if asked is None:
        asked, field = body.max_tokens, "max_tokens"
    most = answers.most_tokens(exchange, asked, field)
    vocab = engine.model.vocab

    def make(index: int) -> ChatRequest:
        seed = seed_of(body.seed, index)
        sampler = sampler_of(body, vocab, seed)
        return engine.chat(
            messages,
            template=served.template,
            tools=tools or None,
            toolChoice=choice,
            parallelToolCalls=body.parallel_tool_calls,
            responseFormat=form,
            thinking=thinking,
            reasoningFormat="keep" if body.reasoning_format == "none" else "split",
            continueLast=bool(body.continue_final_message),
            variables=variables,
            sampler=sampler,
            maxTokens=most,
            stop=body.stops,
            seed=seed if sampler is None else DEFAULT_SEED,
            logProbs=(body.top_logprobs or 0) if body.logprobs else None,
            **options,
        )

    return [partial(make, index) for index in range(choices)]


# Whole answers


def _choice(body: ChatBody, engine: Engine, job: ChatRequest, index: int) -> dict[str, Any]:
    parsed = job._parsed()
    message: dict[str, Any] = {"role": "assistant", "content": parsed.content, "refusal": None}
    if parsed.reasoning:
        message["reasoning_content"] = parsed.reasoning
    if parsed.toolCalls:
        raw = job._format.pieces(job.text, False)[2]
        message["content"] = parsed.content or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments or "{}"}}
            for call, (_, arguments, _) in zip(parsed.toolCalls, raw, strict=True)
        ]
    rows = None
    if body.logprobs:
        given = (answers.token_logprob(engine.model.vocab, step) for step in job.steps())
        rows = {"content": [row for row in given if row is not None], "refusal": None}
    reason = answers.finish_reason(job, bool(parsed.toolCalls))
    return {"index": index, "message": message, "logprobs": rows, "finish_reason": reason}


# Answers as events


async def _stream(
    exchange: Exchange, body: ChatBody, engine: Engine, jobs: list[ChatRequest], head: dict[str, Any]
) -> None:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    more = {"usage": None} if with_usage else {}

    def chunk(index: int, delta: dict[str, Any], rows: Any = None, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": rows, "finish_reason": reason}
        return {**head, "choices": [choice], **more}

    await exchange.begin_events()
    for index in range(len(jobs)):
        await exchange.event(chunk(index, {"role": "assistant", "content": ""}))
    frames = [TextFrame(lambda text, index=index: chunk(index, {"content": text})) for index in range(len(jobs))]  # type: ignore[misc]
    calls = [False] * len(jobs)
    thoughts = [""] * len(jobs)
    streams = [pieces(exchange, job, with_steps=bool(body.logprobs)) for job in jobs]
    async for index, (events, steps) in answers.merged(streams):
        if not steps and len(events) == 1 and events[0].kind == "content":
            await exchange.text_event(frames[index], events[0].text)
            continue
        given = (answers.token_logprob(engine.model.vocab, step) for step in steps)
        rows = [row for row in given if row is not None]
        deltas = [_delta(event) for event in events] or ([{}] if rows else [])
        for delta in deltas:
            calls[index] |= "tool_calls" in delta
            thoughts[index] += delta.get("reasoning_content", "")
            await exchange.event(chunk(index, delta, {"content": rows, "refusal": None} if rows else None))
            rows = []
    for index, job in enumerate(jobs):
        last = chunk(index, {}, None, answers.finish_reason(job, calls[index]))
        await exchange.event({**last, "timings": answers.timings(job)})
    if with_usage:
        thought = await answers.thought_tokens(exchange, engine.model.vocab, thoughts)
        used = answers.usage(jobs, shared=len(jobs), reasoning=thought)
        await exchange.event({**head, "choices": [], "usage": used})
    await exchange.end_events()


async def pieces(
    exchange: Exchange, job: ChatRequest, with_steps: bool = False
) -> AsyncIterator[tuple[list[ChatEvent], list[GenerationStep]]]:
    """Yield the events of an answer as they come, with the steps that led to them."""
    parser = EventParser(job._format)
    size = 0
    async for step in job.steps() if with_steps else job._unread():
        text = step if isinstance(step, str) else step.text
        size += len(text)
        if size < _LONG or parser.is_plain(text):
            events = list(parser.feed(text))
        else:
            events = await exchange.in_pool(lambda text=text: list(parser.feed(text)))  # type: ignore[misc]
        steps = [] if isinstance(step, str) else [step]
        if events or steps:
            yield events, steps
    events = await exchange.in_pool(lambda: list(parser.finish())) if size >= _LONG else list(parser.finish())
    if events:
        yield events, []


def new_call_id() -> str:
    """Return an id for a tool call to which the model gave none."""
    return f"call_{uuid.uuid4().hex[:24]}"


def _delta(event: ChatEvent) -> dict[str, Any]:
    """Return an event as OpenAI's delta."""
    if event.kind == "content":
        return {"content": event.text}
    if event.kind == "reasoning":
        return {"reasoning_content": event.text}
    if event.kind == "call":
        function = {"name": event.name, "arguments": ""}
        identity = event.id or new_call_id()
        return {"tool_calls": [{"index": event.index, "id": identity, "type": "function", "function": function}]}
    return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
