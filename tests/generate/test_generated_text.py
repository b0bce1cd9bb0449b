"""`Generation`, `ChatAnswer` and `Request`: the same members, which do the same."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from llama_cffi import ChatSession, Context, Engine, Generation, Model, Request, Sampler, StopReason, defaultSampler
from llama_cffi.chat.session import ChatAnswer
from llama_cffi.generation.generated_text import GeneratedText

if TYPE_CHECKING:

    def _has_the_shape(generation: Generation, answer: ChatAnswer, request: Request) -> list[GeneratedText]:
        return [generation, answer, request]  # which mypy checks


Write = Callable[..., GeneratedText]
MEMBERS = {name for name in vars(GeneratedText) if name[:1] != "_"} | {"__iter__", "__aiter__", "__await__"}


@pytest.fixture(params=["Generation", "ChatAnswer", "Request"])
def write(request: pytest.FixtureRequest, tiny: Model) -> Iterator[Write]:
    """Begins a text of 12 tokens by default, greedily."""
    if request.param == "Request":
        with Engine(tiny, nCtx=256, nThreads=1) as engine:
            yield lambda sampler=None, **options: engine.submit(
                "Once upon a time", **{"maxTokens": 12, "sampler": sampler or Sampler.initGreedy(), **options}
            )
        return
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=1)) as ctx:
        if request.param == "Generation":
            yield lambda sampler=None, **options: Generation(
                ctx, "Once upon a time", **{"maxTokens": 12, "sampler": sampler or defaultSampler(0), **options}
            )
        else:
            yield lambda sampler=None, **options: ChatSession(ctx, template="chatml").send(
                "Once upon a time", **{"maxTokens": 12, "sampler": sampler or defaultSampler(0), **options}
            )


def test_the_members(write: Write) -> None:
    text = write()
    assert [name for name in MEMBERS if not hasattr(text, name)] == []
    assert {"result", "cancel", "text", "usage", "tokens", "stopReason", "stopToken", "stopString", "steps"} < MEMBERS
    for name in ("result", "cancel", "steps"):
        needed = [p for p in inspect.signature(getattr(text, name)).parameters.values() if p.default is p.empty]
        assert needed == []
    text.result()


def test_the_whole_text(write: Write) -> None:
    text = write()
    whole = text.result()
    assert whole and text.done and text.text == whole == text.result()
    assert text.stopReason is StopReason.LENGTH and text.stopToken is None and text.stopString is None
    assert len(text.tokens) == text.usage.generatedTokens == 12
    assert text.usage.promptTokens == len(text.prompt)
    assert "".join(write()) == whole

    partly = write()
    first = next(iter(partly))
    assert partly.result() == whole and whole.startswith(first)


def test_awaiting_it(write: Write) -> None:
    async def ask() -> tuple[str, str, str]:
        text = write()
        return await text, await text, "".join([piece async for piece in write()])

    assert asyncio.run(ask()) == (write().result(),) * 3


def test_a_task_that_is_cancelled_cancels_the_text(write: Write) -> None:
    async def ask() -> GeneratedText:
        text = write(maxTokens=150)
        task = asyncio.ensure_future(_whole(text))
        while not text.tokens:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return text

    text = asyncio.run(ask())
    assert text.result() == text.text != ""
    assert text.stopReason is StopReason.CANCELLED and 0 < len(text.tokens) < 150


async def _whole(text: GeneratedText) -> str:
    return await text


@pytest.mark.parametrize("log_probs", [None, 2])
def test_steps(write: Write, log_probs: int | None) -> None:
    text = write(logProbs=log_probs)
    steps = list(text.steps())
    assert [step.token for step in steps if step.token is not None] == text.tokens
    assert "".join(step.text for step in steps) == text.text == text.result()
    for step in steps:
        if step.token is not None:
            assert (step.logProb is None) is (log_probs is None)
            assert len(step.alternatives) == (log_probs or 0)

    async def collect() -> list[int | None]:
        return [step.token async for step in write(logProbs=log_probs).steps()]  # type: ignore[attr-defined]

    assert asyncio.run(collect()) == [step.token for step in steps]


def test_what_is_held_back_is_a_step_without_a_token(write: Write) -> None:
    whole = write().result()
    text = write(stop=[whole[-3:] + "and more"])
    steps = list(text.steps())
    assert steps[-1].token is None and whole.endswith(steps[-1].text) and len(steps) == 13
    assert "".join(step.text for step in steps) == text.text == whole


def test_stopping(write: Write) -> None:
    whole, tokens = (first := write()).result(), first.tokens
    by_text = write(stop=[whole[5:9]])
    assert by_text.result() == whole[: whole.index(whole[5:9])]
    assert (by_text.stopReason, by_text.stopString, by_text.stopToken) == (StopReason.STOP_STRING, whole[5:9], None)
    if not isinstance(first, ChatAnswer):
        by_token = write(stopTokens=[tokens[6]])
        by_token.result()
        assert by_token.tokens == tokens[: tokens.index(tokens[6])]
        assert (by_token.stopReason, by_token.stopString, by_token.stopToken) == (
            StopReason.STOP_TOKEN,
            None,
            tokens[6],
        )


def test_cancelling_it(write: Write) -> None:
    text = write(maxTokens=150)
    first = next(iter(text))
    text.cancel()
    text.cancel()
    assert text.result().startswith(first) and text.stopReason is StopReason.CANCELLED and text.done
