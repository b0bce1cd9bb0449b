"""Consumers in event loops: they are woken by the engine's thread, and never hold it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llama_cffi import Engine, Model, Request, Sampler, StopReason
from tests.engine.conftest import Gate, Texts, running

PROMPTS = [f"{'A red boat ' * (k % 7)}number {k}" for k in range(20)]


def _greedy(engine: Engine, prompt: str, n: int) -> Request:
    return engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=n)


def test_twenty_tasks(engine: Engine, alone: Texts) -> None:
    async def consume(k: int) -> tuple[str, Request]:
        request = _greedy(engine, PROMPTS[k], 8 + k)
        return "".join([piece async for piece in request]), request

    async def all_of_them() -> list[tuple[str, Request]]:
        return await asyncio.gather(*(consume(k) for k in range(20)))

    for k, (text, request) in enumerate(asyncio.run(all_of_them())):
        assert text == request.text and request.tokens == alone(PROMPTS[k], 8 + k)


def test_a_request_can_be_awaited(engine: Engine) -> None:
    async def ask() -> str:
        return await _greedy(engine, PROMPTS[3], 9)

    request = _greedy(engine, PROMPTS[3], 9)
    assert asyncio.run(ask()) == request.result(30)


def test_several_consumers_of_one_request(engine: Engine) -> None:
    request = _greedy(engine, PROMPTS[5], 30)
    texts: list[str] = []

    async def consume() -> str:
        return "".join([piece async for piece in request])

    async def two() -> list[str]:
        return await asyncio.gather(consume(), consume())

    workers = [threading.Thread(target=lambda: texts.append("".join(request))) for _ in range(2)]
    workers += [threading.Thread(target=lambda: texts.extend(asyncio.run(two()))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert texts == [request.text] * 6


def test_a_task_that_is_cancelled_cancels_its_request(engine: Engine, gate: Gate) -> None:
    gate.at = 2

    async def run() -> Request:
        request = engine.submit("a", sampler=gate.sampler(), maxTokens=400)
        task = asyncio.ensure_future(_collect(request))
        await asyncio.get_running_loop().run_in_executor(None, gate.reached.wait, 30)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.opened.set()
        return request

    request = asyncio.run(run())
    request.result(30)
    assert request.stopReason is StopReason.CANCELLED and len(request.tokens) < 400


async def _collect(request: Request) -> list[str]:
    return [piece async for piece in request]


def test_an_error_reaches_the_task(engine: Engine) -> None:
    class Broken:
        def apply(self, candidates: Any) -> None:
            raise LookupError("no such thing")

    async def ask() -> None:
        good = _greedy(engine, "b", 5)
        with pytest.raises(LookupError, match="no such thing"):
            await engine.submit("a", sampler=Sampler.init(Broken()))
        assert await good

    asyncio.run(ask())


def test_a_loop_that_is_gone(engine: Engine, gate: Gate) -> None:
    """Its futures are never resolved, and nothing comes of it."""
    gate.at = 1
    request = engine.submit("a", sampler=gate.sampler(), maxTokens=5)
    loop = asyncio.new_event_loop()
    task = loop.create_task(_collect(request))
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    gate.opened.set()
    assert request.result(30)


def test_the_loop_turns_while_the_engine_computes(plain: Model) -> None:
    """A consumer gets a piece before the text is complete."""
    with running(plain) as engine:

        async def ask() -> bool:
            request = _greedy(engine, "a", 300)
            async for _ in request:
                return not request.done
            return False

        assert asyncio.run(ask())


def test_a_reader_that_is_behind_gets_all_new_text_at_once(engine: Engine) -> None:
    request = _greedy(engine, PROMPTS[3], 20)
    text = request.result(30)

    async def read() -> list[str]:
        return [piece async for piece in request._unread()]

    assert asyncio.run(read()) == [text] and len(request.tokens) > 1


def test_unread_text_is_the_text_while_it_is_written(engine: Engine) -> None:
    async def read() -> tuple[str, Request]:
        request = _greedy(engine, PROMPTS[4], 40)
        return "".join([piece async for piece in request._unread()]), request

    text, request = asyncio.run(read())
    assert text == request.text and text
