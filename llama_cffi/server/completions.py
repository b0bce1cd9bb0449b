"""`/v1/completions`: continue texts, score them (`echo` and `logprobs`), or fill a gap (`suffix`)."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi.chat import native
from llama_cffi.chat.response_format import schema_text
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.request import Request
from llama_cffi.generation.steps import GenerationStep
from llama_cffi.server import answers
from llama_cffi.server.errors import ApiError
from llama_cffi.server.exchange import Exchange, TextFrame
from llama_cffi.server.messages import format_of
from llama_cffi.server.requests import CompletionBody
from llama_cffi.server.sampling import sampler_of, seed_of
from llama_cffi.vocab.infill import infillPrompt
from llama_cffi.vocab.tokenize import detokenize

if TYPE_CHECKING:
    from llama_cffi.vocab.vocab import Vocab

_DEFAULT_TOKENS = 16  # as in OpenAI's protocol
_Row = tuple[str, float | None, dict[str, float] | None]  # a token's text, log-probability and alternatives


async def completions(exchange: Exchange) -> None:
    """Answer a completion."""
    body = await exchange.body(CompletionBody)
    name, served, engine, options = answers.find_model(exchange, body)
    prompts = _prompts(body)
    choices, tries = body.n or 1, max(body.best_of or 1, body.n or 1)
    _check(exchange, body, len(prompts), choices, tries)
    makers = _makers(exchange, body, engine, options, prompts, tries)
    exchange.admit(served, len(makers))
    jobs = await answers.submit(exchange, "prompt", makers)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": name}
    if body.stream:
        await _stream(exchange, body, engine, jobs, tries, head)
        return
    for job in jobs:
        await job
    found = await exchange.in_pool(partial(_choices, body, engine, jobs, choices, tries))
    used = {"usage": answers.usage(jobs, shared=tries), "timings": answers.timings(jobs[0])}
    await exchange.json({**head, "choices": found, **used})


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    given = body.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(400, "prompt: must not be an empty list", param="prompt", code="invalid_value")
    found: list[Any] = [given] if isinstance(given[0], int) else [*given]
    return found


def _check(exchange: Exchange, body: CompletionBody, prompts: int, choices: int, tries: int) -> None:
    most = exchange.server.limits.maxChoices
    for field, number in (("n", choices), ("best_of", tries)):
        if number > most:
            raise ApiError(400, f"{field} must be at most {most}, got {number}", param=field, code="invalid_value")
    if body.best_of is not None and body.best_of < choices:
        text = f"best_of must be at least n, which is {choices}, got {body.best_of}"
        raise ApiError(400, text, param="best_of", code="invalid_value")
    if body.stream and tries > choices:
        text = "best_of cannot be streamed: it compares whole texts"
        raise ApiError(400, text, param="best_of", code="unsupported_parameter")
    if body.suffix and (body.echo or prompts > 1):
        text = "suffix cannot be combined with echo or several prompts"
        raise ApiError(400, text, param="suffix", code="unsupported_parameter")
    if body.max_tokens == 0 and not body.echo:
        text = "max_tokens 0 needs echo: there is nothing else to return"
        raise ApiError(400, text, param="max_tokens", code="invalid_value")


def _makers(
    exchange: Exchange,
    body: CompletionBody,
    engine: Engine,
    options: dict[str, Any],
    prompts: list[str | list[int]],
    tries: int,
) -> list[Callable[[], Request]]:
    most = answers.most_tokens(exchange, body.max_tokens, "max_tokens")
    if body.max_tokens is None:
        most = min(_DEFAULT_TOKENS, most or _DEFAULT_TOKENS)
    vocab = engine.model.vocab
    form = format_of(body.response_format)
    if body.echo and body.logprobs is not None:
        options = {**options, "promptLogProbs": body.logprobs}
    wants_logs = body.logprobs is not None or tries > (body.n or 1)

    def make(prompt: str | list[int], index: int) -> Request:
        seed = seed_of(body.seed, index)
        grammar = None if form is None else native.schema_to_grammar(schema_text(form))
        sampler = sampler_of(body, vocab, seed, grammar)
        return engine.submit(
            prompt if body.suffix is None else _infill(vocab, prompt, body.suffix),
            sampler=sampler,
            maxTokens=most,
            stop=body.stops,
            seed=seed if sampler is None else DEFAULT_SEED,
            logProbs=(body.logprobs or 0) if wants_logs else None,
            **options,
        )

    return [partial(make, prompt, index) for prompt in prompts for index in range(tries)]


def _infill(vocab: Vocab, prompt: str | list[int], suffix: str) -> str | list[int]:
    """Return the prompt for a text between a prefix and a suffix."""
    if not suffix and not isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, str):
        raise ApiError(400, "suffix needs a prompt of text", param="prompt", code="invalid_value")
    try:
        return infillPrompt(vocab, prompt, suffix)
    except ValueError as error:
        if not suffix:  # some clients send it always
            return prompt
        raise ApiError(400, f"suffix: {error}", param="suffix", code="unsupported_parameter") from None


# Whole answers


def _choices(
    body: CompletionBody, engine: Engine, jobs: list[Request], choices: int, tries: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for start in range(0, len(jobs), tries):
        group = jobs[start : start + tries]
        if tries > choices:
            group = sorted(group, key=_mean_logprob, reverse=True)[:choices]
        found += [_choice(body, engine, job, len(found) + index) for index, job in enumerate(group)]
    return found


def _mean_logprob(job: Request) -> float:
    rows = [step.logProb for step in job.steps() if step.logProb is not None]
    return sum(rows) / len(rows) if rows else -1e9


def _choice(body: CompletionBody, engine: Engine, job: Request, index: int) -> dict[str, Any]:
    vocab = engine.model.vocab
    before = _echoed(body, vocab, job) if body.echo else ""
    rows = None
    if body.logprobs is not None:
        scored = [*(_prompt_rows(vocab, job) if body.echo else ()), *_rows(vocab, job.steps())]
        rows = _logprobs(scored, 0)
    return {
        "index": index,
        "text": before + job.text,
        "logprobs": rows,
        "finish_reason": answers.finish_reason(job),
    }


def _echoed(body: CompletionBody, vocab: Vocab, job: Request) -> str:
    if isinstance(body.prompt, str):
        return body.prompt
    if isinstance(body.prompt[0], str) and len(body.prompt) == 1:
        return str(body.prompt[0])
    return detokenize(vocab, job.prompt, removeSpecial=True, unparseSpecial=True)


def _prompt_rows(vocab: Vocab, job: Request) -> list[_Row]:
    rows: list[_Row] = []
    for token, step in zip(job.prompt, job.promptLogProbs, strict=True):
        text = _token_text(vocab, token)
        rows.append((text, None, None) if step is None else _row(vocab, step))
    return rows


def _rows(vocab: Vocab, steps: Any) -> list[_Row]:
    return [_row(vocab, step) for step in steps if step.token is not None and step.logProb is not None]


def _row(vocab: Vocab, step: GenerationStep) -> _Row:
    assert step.token is not None and step.logProb is not None
    best = {_token_text(vocab, found.token): answers.finite(found.logProb) for found in step.alternatives}
    return _token_text(vocab, step.token), answers.finite(step.logProb), best


def _token_text(vocab: Vocab, token: int) -> str:
    """Return the text of a token; bytes that are not UTF-8 alone are spelled `bytes:\\xe4`, as with OpenAI."""
    piece = answers.piece_of(vocab, token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _logprobs(rows: list[_Row], offset: int) -> dict[str, Any]:
    offsets = []
    for text, _, _ in rows:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": [text for text, _, _ in rows],
        "token_logprobs": [logprob for _, logprob, _ in rows],
        "top_logprobs": [best for _, _, best in rows],
        "text_offset": offsets,
    }


# Answers as events


async def _stream(
    exchange: Exchange, body: CompletionBody, engine: Engine, jobs: list[Request], tries: int, head: dict[str, Any]
) -> None:
    vocab = engine.model.vocab
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    more = {"usage": None} if with_usage else {}
    sizes = [0] * len(jobs)

    def chunk(index: int, text: str, rows: list[_Row] | None = None, reason: str | None = None) -> dict[str, Any]:
        logs = None
        if rows is not None:
            logs = _logprobs(rows, sizes[index])
            sizes[index] += len(text)
        choice = {"index": index, "text": text, "logprobs": logs, "finish_reason": reason}
        return {**head, "choices": [choice], **more}

    frames = [TextFrame(partial(chunk, index)) for index in range(len(jobs))]
    await exchange.begin_events()
    streams: list[AsyncIterator[str | GenerationStep]] = [aiter_of(job, body.logprobs is not None) for job in jobs]
    if body.echo and body.logprobs is None:
        for index, job in enumerate(jobs):
            await exchange.event(chunk(index, _echoed(body, vocab, job)))
    echoed = [not body.echo or body.logprobs is None] * len(jobs)
    async for index, step in answers.merged(streams):
        if not echoed[index]:
            echoed[index] = True
            await exchange.event(chunk(index, _echoed(body, vocab, jobs[index]), _prompt_rows(vocab, jobs[index])))
        if isinstance(step, str):
            await exchange.text_event(frames[index], step)
        else:
            await exchange.event(chunk(index, step.text, _rows(vocab, [step])))
    for index, job in enumerate(jobs):
        if not echoed[index]:  # nothing was generated
            await exchange.event(chunk(index, _echoed(body, vocab, job), _prompt_rows(vocab, job)))
        last = chunk(index, "", None, answers.finish_reason(job))
        await exchange.event({**last, "timings": answers.timings(job)})
    if with_usage:
        await exchange.event({**head, "choices": [], "usage": answers.usage(jobs, shared=tries)})
    await exchange.end_events()


def aiter_of(job: Request, with_steps: bool) -> AsyncIterator[str | GenerationStep]:
    """Return what iterates over a text for a coroutine: by steps, or by pieces."""
    return aiter(job.steps()) if with_steps else job._unread()
