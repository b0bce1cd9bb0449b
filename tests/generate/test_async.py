"""From coroutines: the same text, an event loop that never waits, and a cancellation that is one."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from llama_cffi import Batch, Context, Generation, Model, Sampler, StopReason, defaultSampler

PROMPT = "Once upon a time"


def _greedy(ctx: Context, limit: int = 20) -> Generation:
    return Generation(ctx, PROMPT, sampler=defaultSampler(0), maxTokens=limit)


def test_the_same_text(ctx: Context) -> None:
    expected = list(_greedy(ctx))

    async def run() -> list[str]:
        return [text async for text in _greedy(ctx)]

    assert asyncio.run(run()) == expected


def test_steps(ctx: Context) -> None:
    async def run(generation: Generation) -> list[int | None]:
        return [step.token async for step in generation.steps()]

    generation = _greedy(ctx)
    assert asyncio.run(run(generation)) == generation.tokens
    assert generation.stopReason is StopReason.LENGTH


def test_the_work_is_done_on_one_other_thread(ctx: Context) -> None:
    threads: set[int] = set()

    class Noting:
        def apply(self, candidates: object) -> None:
            threads.add(threading.get_ident())

    async def run() -> int:
        with Sampler.chainInit() as chain:
            chain.chainAdd(Sampler.init(Noting()))
            chain.chainAdd(Sampler.initGreedy())
            return len([text async for text in Generation(ctx, PROMPT, sampler=chain, maxTokens=10)])

    assert asyncio.run(run()) > 5
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_the_loop_goes_on_while_a_token_is_computed(ctx: Context) -> None:
    """The sampler waits for what another coroutine does."""
    go_on = threading.Event()

    class Waiting:
        def apply(self, candidates: object) -> None:
            assert go_on.wait(60)

    async def run() -> list[str]:
        with Sampler.chainInit() as chain:
            chain.chainAdd(Sampler.init(Waiting()))
            chain.chainAdd(Sampler.initGreedy())

            async def consume() -> list[str]:
                return [text async for text in Generation(ctx, PROMPT, sampler=chain, maxTokens=3)]

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.05)
            assert not task.done()
            go_on.set()
            return await task

    assert asyncio.run(run())


def test_a_cancelled_task_cancels_a_long_prompt(tiny: Model) -> None:
    asked = threading.Event()

    def slowly(tensor: object, ask: bool) -> bool:
        asked.set()
        time.sleep(0.002)
        return False

    params = Context.Params(nCtx=2048, nBatch=2048, nUbatch=32, nThreads=1, nThreadsBatch=1, cbEval=slowly)
    with Context.initFromModel(tiny, params) as ctx:
        generation = Generation(ctx, [5] * 1500)

        async def consume() -> None:
            async for _ in generation:
                pass

        async def run() -> None:
            task = asyncio.create_task(consume())
            while not asked.is_set():
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert generation.stopReason is StopReason.CANCELLED
            ctx.decode(Batch.getOne([5]))  # nobody is at work here any more

        asyncio.run(run())
        assert generation.tokens == []


def test_a_timeout_in_the_middle(ctx: Context) -> None:
    class Slow:
        def apply(self, candidates: object) -> None:
            time.sleep(0.02)

    async def run() -> Generation:
        with Sampler.chainInit() as chain:
            chain.chainAdd(Sampler.init(Slow()))
            chain.chainAdd(Sampler.initGreedy())
            generation = Generation(ctx, PROMPT, sampler=chain, maxTokens=200)

            async def consume() -> None:
                async for _ in generation:
                    pass

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(consume(), 0.3)
            return generation

    generation = asyncio.run(run())
    assert generation.stopReason is StopReason.CANCELLED and 0 < len(generation.tokens) < 200
    assert list(_greedy(ctx, 5))


def test_leaving_the_loop_and_the_block(ctx: Context) -> None:
    async def run() -> Generation:
        async with _greedy(ctx, 100) as generation:
            async for _ in generation:
                break
        return generation

    generation = asyncio.run(run())
    assert generation.stopReason is StopReason.CANCELLED and len(generation.tokens) < 5


def test_an_exception_reaches_the_coroutine(ctx: Context) -> None:
    class Broken:
        def apply(self, candidates: object) -> None:
            raise RuntimeError("broken sampler")

    async def run() -> None:
        with Sampler.chainInit() as chain:
            chain.chainAdd(Sampler.init(Broken()))
            chain.chainAdd(Sampler.initGreedy())
            async for _ in Generation(ctx, PROMPT, sampler=chain):
                pass

    with pytest.raises(RuntimeError, match="broken sampler"):
        asyncio.run(run())


def test_two_contexts_at_once(tiny: Model) -> None:
    async def consume(ctx: Context) -> str:
        return "".join([text async for text in _greedy(ctx, 15)])

    async def run(first: Context, second: Context) -> list[str]:
        return await asyncio.gather(consume(first), consume(second))

    params = Context.Params(nCtx=256, nThreads=1)
    with Context.initFromModel(tiny, params) as first, Context.initFromModel(tiny, params) as second:
        a, b = asyncio.run(run(first, second))
        assert a == b != ""
