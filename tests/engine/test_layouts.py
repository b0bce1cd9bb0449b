"""The two layouts of the KV cache: a stream for each sequence, and one pool of cells; and how prompts fill a batch."""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llama_cffi import ClosedError, Context, ContextFullError, Engine, Model, Request, Sampler
from llama_cffi.engine import memory_layout
from llama_cffi.engine.prompt_plan import in_one_pool, in_streams
from llama_cffi.engine.sequence_pool import EngineSequence
from llama_cffi.engine.stream_pool import StreamPool
from llama_cffi.errors import ContextError, NativeMemoryError
from tests import tiny_archs
from tests.engine.conftest import Texts, exact, refuse_layouts, running, write_alone

PROMPTS = ["The quick brown fox", "A boat on the river", "One", "Number one and two, said the", "Over the hills"]
STEM = "The quick brown fox jumps over the lazy dog and then sleeps for a while in the shade of a tree. "


def streams(model: Model, n: int = 4, **options: Any) -> Any:
    return running(model, nSeqMax=n, nCtx=256 * n, **options)


def ask(engine: Engine, prompt: str | list[int], n: int | None) -> Request:
    return engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=n)


def unified(engine: Engine) -> bool:
    return engine._scheduler._layout.unified


def test_streams_while_requests_fit(plain: Model, alone: Texts) -> None:
    with streams(plain) as engine:
        assert not unified(engine) and engine.nCtx == 1024
        requests = [ask(engine, prompt, 5 + 9 * k) for k, prompt in enumerate(2 * PROMPTS)]
        for k, (request, prompt) in enumerate(zip(requests, 2 * PROMPTS, strict=True)):
            assert request.result(60) is not None and request.tokens == alone(prompt, 5 + 9 * k)
        assert not unified(engine)


def test_too_few_cells_for_streams(plain: Model) -> None:
    with running(plain, nSeqMax=5, nCtx=1024) as engine:
        assert unified(engine)
    with running(plain, nSeqMax=1, nCtx=512) as engine:
        assert unified(engine)


@pytest.mark.parametrize("layout", [True, False])
def test_a_fixed_layout(plain: Model, alone: Texts, layout: bool) -> None:
    with running(plain, nSeqMax=4, nCtx=1024, kvUnified=layout) as engine:
        assert unified(engine) is layout
        requests = [ask(engine, prompt, 12) for prompt in PROMPTS]
        for request, prompt in zip(requests, PROMPTS, strict=True):
            assert request.result(60) is not None and request.tokens == alone(prompt, 12)
        assert unified(engine) is layout
        if layout:
            assert len(ask(engine, [5] * 300, 4).prompt) == 300
        else:
            with pytest.raises(ContextFullError, match=r"300 tokens.* 256"):
                ask(engine, [5] * 300, 4)


def test_a_layout_that_does_not_exist(plain: Model) -> None:
    with pytest.raises(TypeError, match=r"kvUnified.*'streams'|kvUnified.*str"):
        Engine(plain, kvUnified="streams")  # type: ignore[arg-type]


def test_small_streams_are_made_larger_if_asked_for(plain: Model) -> None:
    with running(plain, nSeqMax=4, nCtx=400, kvUnified=False) as engine:
        assert engine._scheduler._context.nCtxSeq == 256


def test_a_shared_prefix_is_copied(plain: Model, alone: Texts) -> None:
    with streams(plain) as engine:
        first = ask(engine, STEM + "One", 8)
        assert first.result(60) is not None
        requests = [ask(engine, STEM + word, 8) for word in ("Two", "Three", "Four")]
        for request, word in zip(requests, ("Two", "Three", "Four"), strict=True):
            assert request.result(60) is not None and request.tokens == alone(STEM + word, 8)
            assert request.usage.reusedTokens >= 20
        assert not unified(engine)


def test_a_prefix_that_another_request_is_decoding(plain: Model, alone: Texts) -> None:
    with streams(plain) as engine:
        long = 3 * STEM
        requests = [ask(engine, long + word, 8) for word in ("One", "Two", "Three")]
        for request, word in zip(requests, ("One", "Two", "Three"), strict=True):
            assert request.result(60) is not None and request.tokens == alone(long + word, 8)
        assert sum(request.usage.reusedTokens > 40 for request in requests) == 2


# Changes of the layout


def test_a_long_request_changes_the_layout_under_others(plain: Model, alone: Texts) -> None:
    with streams(plain) as engine:
        requests = [ask(engine, prompt, 60) for prompt in PROMPTS[:3]]
        for request in requests:
            next(iter(request))
        long = ask(engine, STEM * 14, 30)
        assert len(long.prompt) > 256
        for request, prompt in zip(requests, PROMPTS, strict=False):
            assert request.result(60) is not None and request.tokens == alone(prompt, 60)
        assert long.result(60) is not None and long.tokens == alone(STEM * 14, 30)
        assert unified(engine)
        assert all(request.usage.reusedTokens == 0 for request in requests)


def test_states_are_carried_over(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    run = Context._run_step
    monkeypatch.setattr(
        Context, "_run_step", lambda self, batch, *rest: (decoded.append(batch.nTokens), run(self, batch, *rest))[1]
    )
    with streams(plain) as engine:
        kept = ask(engine, STEM + "kept", 2)
        kept.result(60)
        request = ask(engine, PROMPTS[0], 50)
        for _ in zip(range(20), request, strict=False):
            pass
        before = sum(decoded)
        long = ask(engine, STEM * 14, 1)
        long.result(60)
        request.result(60)
        assert unified(engine)
        # Without the states, the 24 tokens of the request at least would have been decoded again.
        assert sum(decoded) - before <= len(long.prompt) + 35
        again = ask(engine, STEM + "kept", 2)
        again.result(60)
        assert again.usage.reusedTokens >= 20 and again.tokens == kept.tokens


@pytest.mark.parametrize("full", [True, False])
def test_states_of_a_model_with_windows(tmp_path: Path, full: bool) -> None:
    path = tiny_archs.write(tmp_path / "gemma3.gguf", "gemma3")
    with Model.load(path) as model:
        last = model.vocab.nTokens - 1
        prompts = [[(7 * k + i) % last + 1 for i in range(30)] for k in range(3)]
        texts = [write_alone(model, prompt, 60) for prompt in prompts]
        with streams(model, params=exact(swaFull=full)) as engine:
            requests = [ask(engine, prompt, 60) for prompt in prompts]
            for request in requests:
                next(request.steps())
            long = ask(engine, [5] * 300, 3)
            for request, text in zip(requests, texts, strict=True):
                request.result(60)
                assert request.tokens == text
            assert long.result(60) is not None and unified(engine)


def test_an_open_ended_text_outgrows_its_stream(plain: Model, alone: Texts) -> None:
    with streams(plain, n=2) as engine:
        request = ask(engine, PROMPTS[0], None)
        other = ask(engine, PROMPTS[1], 40)
        assert request.result(120) is not None
        assert other.result(60) is not None and other.tokens == alone(PROMPTS[1], 40)
        got = request.tokens[:400]
        assert got == alone(PROMPTS[0], len(got)) and (len(got) < 250 or unified(engine))


def test_back_to_streams_for_many(plain: Model, alone: Texts) -> None:
    with streams(plain) as engine:
        ask(engine, STEM * 14, 2).result(60)
        assert unified(engine)
        requests = [ask(engine, prompt, 100) for prompt in PROMPTS[:4]]
        for request, prompt in zip(requests, PROMPTS, strict=False):
            assert request.result(60) is not None and request.tokens == alone(prompt, 100)
        assert not unified(engine)


def test_the_size_is_the_one_that_a_request_can_have(plain: Model) -> None:
    with running(plain, nSeqMax=3, nCtx=1000) as engine:
        assert engine.nCtx == 1000 and engine.load.nCells == 768
        assert ask(engine, [5] * 990, 5).result(60) is not None
        while not engine._scheduler._idle:
            pass
        assert engine.load.nCells == 1024 and engine.load.keptCells > 768
    with running(plain, nSeqMax=3, nCtx=1000, kvUnified=False) as engine:
        assert engine.nCtx == engine.load.nCells == 768


def test_changes_become_rare(plain: Model) -> None:
    with streams(plain) as engine:
        for expected in (64, 128, 256):
            ask(engine, STEM * 14, 2).result(60)
            assert unified(engine) and engine._scheduler._calm_needed == expected
            requests = [ask(engine, prompt, 100) for prompt in PROMPTS[:4]]
            while unified(engine) and not all(request.done for request in requests):
                engine._scheduler._calm = expected  # as after that many steps
            assert not unified(engine)
            for request in requests:
                request.result(60)
            engine._scheduler._calm = 0


def test_a_model_that_cannot_have_streams(plain: Model, alone: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_layouts(monkeypatch, {False}, ContextError)
    with streams(plain) as engine:
        assert unified(engine) and ask(engine, PROMPTS[0], 5).result(60) is not None
    with pytest.raises(ContextError), running(plain, nSeqMax=4, nCtx=1024, kvUnified=False):
        pass


def test_no_memory_for_the_other_layout(plain: Model, alone: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    with streams(plain) as engine:
        request = ask(engine, PROMPTS[0], 60)
        next(iter(request))
        with monkeypatch.context() as patch:
            refuse_layouts(patch, {True}, NativeMemoryError)
            long = ask(engine, STEM * 14, 2)
            with pytest.raises(ContextFullError):
                long.result(60)
        assert request.result(60) is not None and request.tokens == alone(PROMPTS[0], 60)
        assert not unified(engine)


def test_no_memory_for_either_layout(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with streams(plain) as engine:
        request = ask(engine, PROMPTS[0], 200)
        next(iter(request))
        with monkeypatch.context() as patch:
            refuse_layouts(patch, {True, False}, NativeMemoryError)
            long = ask(engine, STEM * 14, 2)
            for ended in (long, request):
                with pytest.raises(NativeMemoryError):
                    ended.result(60)
        with pytest.raises(ClosedError) as raised:
            ask(engine, PROMPTS[0], 1)
        assert isinstance(raised.value.__cause__, NativeMemoryError)


def test_a_change_that_fails_halfway_frees_the_new_context(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise LookupError("broken")

    with streams(plain) as engine:
        request = ask(engine, PROMPTS[0], 200)
        next(iter(request))
        monkeypatch.setattr(memory_layout.MemoryLayout, "_restore", fails)
        with pytest.raises(LookupError):
            ask(engine, STEM * 14, 2).result(60)
        engine.close()
        assert engine._scheduler._layout.context.closed


# Streams that are neighbours


class FakeMemory:
    """Notes what is copied and removed."""

    def __init__(self) -> None:
        self.contents: dict[int, str] = {}

    def seqCopy(self, source: int, target: int) -> None:
        self.contents[target] = self.contents[source]

    def seqRemove(self, seq: int, start: int = -1) -> bool:
        self.contents.pop(seq, None)
        return True


def pool(n: int, live: dict[int, str], kept: dict[int, str]) -> tuple[StreamPool, list[EngineSequence], FakeMemory]:
    made = StreamPool.__new__(StreamPool)
    memory = FakeMemory()
    made._memory, made._n, made._movable, made.copying = memory, n, True, False  # type: ignore[assignment]
    made._free, made._kept, made._all = set(range(n)) - set(live) - set(kept), {}, set()
    running = []
    for number, text in (*live.items(), *kept.items()):
        sequence = EngineSequence(number)
        sequence.tokens = array("i", [1])
        made._all.add(sequence)
        memory.contents[number] = text
        if number in kept:
            sequence.kept = True
            made._kept[number] = sequence
        else:
            running.append(sequence)
    return made, running, memory


@pytest.mark.parametrize(
    ("live", "kept"),
    [
        ({0: "a", 1: "b"}, {}),
        ({0: "a", 5: "b"}, {}),
        ({7: "a", 5: "b", 2: "c"}, {3: "x", 4: "y"}),
        ({0: "a", 7: "b"}, {1: "t", 2: "u", 3: "v", 4: "w", 5: "x", 6: "y"}),
        ({1: "a", 3: "b", 5: "c", 7: "d"}, {0: "t", 2: "u", 4: "v", 6: "w"}),
    ],
)
def test_sequences_become_neighbours(live: dict[int, str], kept: dict[int, str]) -> None:
    made, running, memory = pool(8, live, kept)
    texts = {sequence: memory.contents[sequence.id] for sequence in (*running, *made.kept)}
    made.arrange(running)
    numbers = sorted(sequence.id for sequence in running)
    assert numbers == list(range(numbers[0], numbers[0] + len(running)))
    assert {sequence.id: texts[sequence] for sequence in (*running, *made.kept)} == memory.contents
    free = 8 - len(live) - len(kept)
    assert len(made.kept) >= len(kept) - (0 if free else 1)
    assert made._free == set(range(8)) - set(memory.contents)
    assert all(made._kept[sequence.id] is sequence for sequence in made.kept)


def test_moved_sequences_go_on(plain: Model, alone: Texts) -> None:
    """Requests of very different lengths leave holes, which the others close."""
    rng = random.Random(4)
    with streams(plain, n=6) as engine:
        arrange, moved = StreamPool._relabel, []

        def counting(self: StreamPool, sequence: EngineSequence, number: int) -> None:
            moved.append(number)
            arrange(self, sequence, number)

        StreamPool._relabel = counting  # type: ignore[method-assign]
        try:
            lengths = [rng.choice([3, 8, 40, 90]) for _ in range(18)]
            requests = [ask(engine, PROMPTS[k % 5], n) for k, n in enumerate(lengths)]
            for k, (request, n) in enumerate(zip(requests, lengths, strict=True)):
                assert request.result(60) is not None and request.tokens == alone(PROMPTS[k % 5], n)
        finally:
            StreamPool._relabel = arrange  # type: ignore[method-assign]
        assert moved


# Prompts in a batch


class Prompt:
    """A job with what a plan reads."""

    def __init__(self, number: int, pending: int, priority: int = 0, done: int = 0) -> None:
        self.sequence = EngineSequence(number)
        self.pending, self.part, self.overtaken, self.serial = pending, pending, 0, number
        self.tokens = [0] * (pending + done)
        self.request = SimpleNamespace(priority=priority)


def plan_of(prompts: list[Any], free: int, per_sequence: int = 256, most: int = 24) -> list[tuple[int, int]]:
    plan = in_streams(prompts, free, per_sequence, most)
    assert sum(map(sum, plan.values())) <= free
    return [plan[prompt] for prompt in prompts]


def test_prompts_of_one_pool_fill_the_batch() -> None:
    prompts: list[Any] = [Prompt(0, 40), Prompt(1, 40, priority=1), Prompt(2, 40)]
    plan = in_one_pool(prompts, 100)
    assert [plan[prompt] for prompt in prompts] == [(40, 0), (40, 0), (20, 0)]


def test_neighbours_are_made_equal() -> None:
    assert plan_of([Prompt(0, 30), Prompt(1, 32), Prompt(2, 28)], 100) == [(30, 2), (32, 0), (28, 4)]


def test_few_dummy_tokens() -> None:
    """A long prompt beside a short one is computed apart."""
    assert plan_of([Prompt(0, 10), Prompt(1, 80)], 200) == [(10, 0), (80, 0)]


def test_a_gpu_takes_more_dummy_tokens() -> None:
    assert plan_of([Prompt(0, 10), Prompt(1, 80)], 200, most=192) == [(10, 70), (80, 0)]


def test_groups_begin_at_the_shortest_neighbour() -> None:
    """The first by rank is in the middle. A group from there on would leave single prompts at both ends."""
    prompts = [Prompt(number, 20 + 2 * number) for number in range(8)]
    prompts[4].serial = -1
    assert plan_of(prompts, 160) == [(20, 8), (22, 6), (24, 4), (26, 2), (28, 0), (0, 0), (0, 0), (0, 0)]
    prompts[4].request.priority = 1
    assert plan_of(prompts, 160)[4:] == [(28, 6), (30, 4), (32, 2), (34, 0)]


def test_a_shorter_neighbour_does_not_overtake_for_ever() -> None:
    prompts = [Prompt(number, 20) for number in range(8)]
    prompts[7].serial, prompts[7].overtaken = -1, 32
    assert plan_of(prompts, 40)[7] == (20, 0)


def test_only_neighbours_are_a_group() -> None:
    assert plan_of([Prompt(0, 30), Prompt(2, 32)], 100) == [(30, 0), (32, 0)]


def test_dummy_tokens_fit_the_stream() -> None:
    assert plan_of([Prompt(0, 30, done=70), Prompt(1, 32)], 100, per_sequence=101) == [(30, 0), (32, 0)]


def test_a_prompt_is_not_cut_without_need() -> None:
    assert plan_of([Prompt(0, 60), Prompt(5, 60)], 100) == [(60, 0), (40, 0)]  # longer than half a batch
    assert plan_of([Prompt(0, 60), Prompt(5, 45)], 100) == [(60, 0), (0, 0)]
    assert plan_of([Prompt(0, 300)], 100) == [(100, 0)]


def test_the_first_by_rank_goes_first() -> None:
    assert plan_of([Prompt(0, 45), Prompt(5, 45, priority=2), Prompt(9, 45)], 100) == [(45, 0), (45, 0), (0, 0)]


def test_without_dummy_tokens() -> None:
    assert plan_of([Prompt(0, 30), Prompt(1, 32)], 100, most=0) == [(30, 0), (32, 0)]


def test_random_plans_keep_the_limits() -> None:
    rng = random.Random(0)
    for _ in range(500):
        prompts: list[Any] = [Prompt(n, rng.randrange(2, 200)) for n in rng.sample(range(16), rng.randrange(1, 16))]
        free, size = rng.randrange(16, 512), 256
        plan = in_streams(prompts, free, size, rng.choice([24, 192]))
        assert set(plan) == set(prompts) and sum(map(sum, plan.values())) <= free
        assert any(count for count, _ in plan.values())
        for prompt in prompts:
            count, dummies = plan[prompt]
            assert 0 <= count <= prompt.pending and dummies >= 0 and count + dummies <= size
            assert not dummies or count == prompt.pending


@pytest.mark.parametrize("n", [4, 9])
def test_texts_with_dummy_tokens(plain: Model, alone: Texts, n: int) -> None:
    words = STEM.split()
    prompts = [" ".join(words[: 3 + k]) for k in range(n)]
    with streams(plain, n=n, nBatch=256) as engine:
        requests = [ask(engine, prompt, 20) for prompt in prompts]
        for request, prompt in zip(requests, prompts, strict=True):
            assert request.result(60) is not None and request.tokens == alone(prompt, 20)


def test_a_window_takes_no_dummy_tokens() -> None:
    made = StreamPool.__new__(StreamPool)
    made._window, made._positions, made._most_dummies = 8, 256, 0
    prompts: list[Any] = [Prompt(0, 30), Prompt(1, 32)]
    assert list(made.plan(prompts, 100).values()) == [(30, 0), (32, 0)]
