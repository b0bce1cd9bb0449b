"""What all answers with generated text have in common: usage, timings, log-probabilities, and several texts at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi.engine.request import Request
from llama_cffi.generation.steps import GenerationStep, StopReason
from llama_cffi.server.errors import ApiError, of_submission
from llama_cffi.server.exchange import Exchange
from llama_cffi.server.requests import GenerationBody
from llama_cffi.server.served import ServedModel, adapters_of
from llama_cffi.vocab.tokenize import tokenize

if TYPE_CHECKING:
    from llama_cffi.engine.engine import Engine
    from llama_cffi.vocab.vocab import Vocab

T = TypeVar("T")
R = TypeVar("R", bound=Request)

_PIECE = 64  # bytes; few tokens are longer
_FULL = (StopReason.LENGTH, StopReason.CONTEXT_FULL)


def find_model(exchange: Exchange, body: GenerationBody) -> tuple[str, ServedModel, Engine, dict[str, Any]]:
    """Return the model of a request: its name, itself, its engine, and the options of `submit` for adapters."""
    name, served, adapters = exchange.server.models.find(body.model, "engine")
    assert served.engine is not None
    exchange.record.model = name
    if body.lora is not None:
        adapters = adapters_of(served, body.lora)
    options: dict[str, Any] = {"adapters": adapters} if adapters else {}
    if body.cache_prompt is False:
        options["sharePrefix"] = False
    return name, served, served.engine, options


def most_tokens(exchange: Exchange, asked: int | None, name: str) -> int | None:
    """Return `maxTokens` of a text: what the request asks for, up to the server's limit. Raises ApiError."""
    limit = exchange.server.limits.maxTokens
    if limit is not None and asked is not None and asked > limit:
        text = f"{name} must be at most {limit}, the limit of this server, got {asked}"
        raise ApiError(400, text, param=name, code="invalid_value")
    return limit if asked is None else asked


async def submit(exchange: Exchange, param: str, makers: Sequence[Callable[[], R]]) -> list[R]:
    """Submit texts to the engine on a thread. `param` is the field of the prompt, for errors."""
    limit = exchange.server.limits.maxPrompt

    def work() -> list[R]:
        made: list[R] = []
        for make in makers:
            try:
                job = make()
            except Exception as error:
                raise of_submission(error, param) from error
            made.append(exchange.own(job))
            if limit is not None and len(job.prompt) > limit:
                text = f"the prompt has {len(job.prompt)} tokens, but the limit of this server is {limit}"
                raise ApiError(400, text, param=param, code="context_length_exceeded")
        return made

    return await exchange.in_pool(work)


def usage(jobs: Iterable[Request], *, shared: int = 1, reasoning: int = 0) -> dict[str, Any]:
    """Return the tokens of texts in OpenAI's form. Of `shared` texts with one prompt, it counts once."""
    listed = list(jobs)
    prompt = sum(job.usage.promptTokens for job in listed[::shared])
    cached = sum(job.usage.reusedTokens for job in listed[::shared])
    generated = sum(job.usage.generatedTokens for job in listed)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": min(reasoning, generated)},
    }


async def thought_tokens(exchange: Exchange, vocab: Vocab, thoughts: Iterable[str]) -> int:
    """Return how many tokens thoughts have, as the vocabulary splits them: without the marks around them."""
    found = [text for text in thoughts if text]
    if not found:
        return 0
    return await exchange.in_pool(lambda: sum(len(tokenize(vocab, text, addSpecial=False)) for text in found))


def timings(job: Request) -> dict[str, Any]:
    """Return the times of a text as llama.cpp's server names them."""
    given = job.usage
    guesses = {"draft_n": given.guessedTokens, "draft_n_accepted": given.acceptedTokens} if given.guessedTokens else {}
    new, after = given.promptTokens - given.reusedTokens, max(given.generatedTokens - 1, 0)
    return {
        "cache_n": given.reusedTokens,
        "prompt_n": new,
        "prompt_ms": 1000 * given.promptSeconds,
        "prompt_per_second": new / given.promptSeconds if given.promptSeconds > 0 else 0.0,
        "predicted_n": given.generatedTokens,
        "predicted_ms": 1000 * given.generationSeconds,
        "predicted_per_second": after / given.generationSeconds if given.generationSeconds > 0 else 0.0,
        "queue_ms": 1000 * given.queueSeconds,
        **guesses,
    }


def finish_reason(job: Request, calls: bool = False) -> str:
    """Return why a text ended, in OpenAI's words."""
    if job.stopReason in _FULL:
        return "length"
    return "tool_calls" if calls else "stop"


def token_logprob(vocab: Vocab, step: GenerationStep) -> dict[str, Any] | None:
    """Return the log-probability of a token in the form of chat completions; None for a step without a token."""
    if step.token is None or step.logProb is None:
        return None
    rows = [_logprob(vocab, alternative.token, alternative.logProb) for alternative in step.alternatives]
    return {**_logprob(vocab, step.token, step.logProb), "top_logprobs": rows}


def _logprob(vocab: Vocab, token: int, logprob: float) -> dict[str, Any]:
    piece = piece_of(vocab, token)
    return {"token": piece.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(piece)}


def piece_of(vocab: Vocab, token: int) -> bytes:
    """Return the bytes of a token, with control tokens spelled out."""
    buffer = bytearray(_PIECE)
    size = vocab.tokenToPiece(token, buffer, len(buffer), special=True)
    if size < 0:
        buffer = bytearray(-size)
        size = vocab.tokenToPiece(token, buffer, len(buffer), special=True)
    return bytes(buffer[:size])


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can hold: -9999 stands for minus infinity, as with OpenAI."""
    return logprob if logprob > -9999.0 else -9999.0


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[tuple[int, T]]:
    """Yield the items of several streams as they come, each with the number of its stream."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()

    async def pump(index: int, stream: AsyncIterator[T]) -> None:
        try:
            async for item in stream:
                queue.put_nowait((index, item))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.ensure_future(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            found = await queue.get()
            if found is None:
                left -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
