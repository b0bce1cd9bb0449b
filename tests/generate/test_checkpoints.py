"""Checkpoints: chats with models whose memory cannot go back decode little after an edit, and write the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    ChatSession,
    Context,
    DecodeError,
    Generation,
    Model,
    PromptLookup,
    Sampler,
    StateError,
    defaultSampler,
)
from llama_cffi._generated.enums import GgmlType
from llama_cffi.generation import checkpoints
from llama_cffi.generation.checkpoints import Checkpoints
from llama_cffi.generation.token_cache import TokenCache
from tests import tiny_archs
from tests.generate.conftest import Counted

pytestmark = pytest.mark.needs("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY")

SHORT = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
KINDS: dict[str, Callable[[Path], Path]] = {
    "window": lambda path: tiny_archs.write(path, "gemma3", n_layer=6),
    "mamba": lambda path: tiny_archs.write(path, "mamba2"),
    "rwkv": lambda path: tiny_archs.write(path, "rwkv7"),
    "hybrid": tiny_archs.write_hybrid,
    "hybrid-window": lambda path: tiny_archs.write_hybrid(path, 16),
}


@pytest.fixture(scope="module", params=list(KINDS))
def stiff(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model whose memory cannot go back by itself."""
    with Model.load(KINDS[request.param](tmp_path_factory.mktemp("stiff") / "model.gguf")) as model:
        yield model


LONG = " word" * 60  # a window of the default size keeps 256 tokens, and goes back that far without a checkpoint


def _context(model: Model, **params: Any) -> Context:
    defaults = {"nCtx": 4096, "nUbatch": 32, "nThreads": 1, "nThreadsBatch": 1, "swaFull": False}
    types = {"typeK": GgmlType.F32, "typeV": GgmlType.F32}
    return Context.initFromModel(model, Context.Params(**{**defaults, **types, **params}))


def _say(session: ChatSession, text: str, limit: int = 6) -> Any:
    with Sampler.initGreedy() as sampler:
        answer = session.send(text, sampler=sampler, maxTokens=limit)
        answer.result()
    return answer


def _converse(ctx: Context, from_scratch: bool) -> list[tuple[str, int, int]]:
    """A conversation with edits; of each turn the text, and the prompt tokens that were decoded and not."""
    session, out = ChatSession(ctx, system="Be brief.", template=SHORT), []
    for turn in range(10):
        if turn == 4:
            session.messages[-1]["content"] = "edited"  # as where a thought is dropped from the last answer
        if turn == 7:
            session.messages[9]["content"] = "another question"  # of turn 4
        if turn == 9:
            del session.messages[-2:]
        if from_scratch:
            ctx.getMemory().clear()
        answer = _say(session, f"This is question number {turn}{LONG}")
        usage = answer.usage
        out.append((answer.text, usage.promptTokens - usage.reusedTokens, usage.restoredTokens))
    return out


def test_an_edit_decodes_little_and_the_text_is_the_same(stiff: Model) -> None:
    with _context(stiff) as ctx:
        found, expected = _converse(ctx, False), _converse(ctx, True)
    assert [text for text, _, _ in found] == [text for text, _, _ in expected]
    turn = max(new for _, new, _ in found[1:4])  # what a turn without an edit decodes
    for edited, turns in ((4, 1), (7, 4), (9, 2)):
        _, new, restored = found[edited]
        assert new <= (turns + 0.6) * turn, found
        assert restored > 0 or edited == 4, found  # only a few tokens back, which a window can go by itself
    assert all(new > 1000 and restored == 0 for _, new, restored in expected[5:])


def test_the_same_question_again_decodes_the_end_of_the_prompt(stiff: Model, counted: Counted) -> None:
    with _context(stiff) as ctx:
        session = ChatSession(ctx, template=SHORT)
        for turn in range(3):
            first = _say(session, f"This is question number {turn}")
        for _ in range(3):
            del session.messages[-1]
            counted.tokens = 0
            with Sampler.initGreedy() as sampler:
                again = session.send(sampler=sampler, maxTokens=6)
                assert again.result() == first.text
            assert counted.tokens <= checkpoints.BEFORE_END + 6
            assert again.usage.reusedTokens >= again.usage.promptTokens - checkpoints.BEFORE_END


def test_a_new_conversation_with_the_same_beginning(stiff: Model) -> None:
    system = "You answer questions about the weather, and never about anything else. " * 3
    with _context(stiff) as ctx:
        _say(ChatSession(ctx, system=system, template=SHORT), "Is it raining?")
        second = _say(ChatSession(ctx, system=system, template=SHORT), "Is it raining?")
        assert second.usage.reusedTokens > 100


def test_usage_and_limits(stiff: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with _context(stiff, nCtx=2048) as ctx:
        session, sizes = ChatSession(ctx, template=SHORT), []
        for turn in range(12):
            usage = _say(session, f"This is question number {turn}").usage
            sizes.append((usage.checkpoints, usage.checkpointBytes))
        assert [count for count, _ in sizes] == [*range(1, 9), 8, 8, 8, 8]
        one = max(size / count for count, size in sizes)
        assert 0 < sizes[-1][1] <= 8 * one
        monkeypatch.setattr(checkpoints, "MAX_BYTES", int(3.5 * one))
        usage = _say(session, "One more").usage
        assert usage.checkpoints == 3 and usage.checkpointBytes <= 3.5 * one
        monkeypatch.setattr(checkpoints, "MAX_BYTES", 100)
        ctx.getMemory().clear()
        usage = _say(session, "And one more").usage
        assert (usage.checkpoints, usage.checkpointBytes) == (0, 0)


def _clear(ctx: Context) -> None:
    ctx.getMemory().clear()


def _steer(ctx: Context) -> None:
    model = ctx.getModel()
    ctx.setAdapterCvec(np.full((model.nLayer - 1, model.nEmbd), 0.3, np.float32))


@pytest.mark.parametrize("change", [_clear, _steer])
def test_a_memory_that_others_changed(stiff: Model, change: Callable[[Context], None]) -> None:
    with _context(stiff) as ctx, _context(stiff) as other:
        session = ChatSession(ctx, template=SHORT)
        for turn in range(3):
            _say(session, f"This is question number {turn}")
        change(ctx)
        change(other)
        session.messages[-1]["content"] = "edited"
        fresh = ChatSession(other, template=SHORT)
        fresh.messages = [dict(message) for message in session.messages]
        found = _say(session, "And?")
        assert found.text == _say(fresh, "And?").text
        assert (found.usage.reusedTokens, found.usage.restoredTokens, found.usage.checkpoints) == (0, 0, 1)


def test_another_sequence_keeps_its_memory(stiff: Model) -> None:
    with _context(stiff, nSeqMax=2) as ctx:
        one, two = (ChatSession(ctx, template=SHORT, seqId=seq) for seq in range(2))
        for session in (one, two):
            for turn in range(2):
                _say(session, f"This is question number {turn}")
        one.messages[-1]["content"] = "edited"
        assert _say(one, "And?").usage.reusedTokens > 0
        cache = TokenCache(ctx, 1)
        tokens = cache.tokens
        assert cache.adapt_to([*tokens, 5]) == len(tokens) > 50


def test_a_cancelled_prompt(stiff: Model) -> None:
    with _context(stiff, nBatch=32) as ctx:
        session = ChatSession(ctx, template=SHORT)
        for turn in range(3):
            _say(session, f"This is question number {turn}")
        answer = session.send("word " * 100, sampler=defaultSampler(0), maxTokens=4)
        answer.cancel()
        assert answer.result() == ""
        found = _say(session, "And?")
        messages = [dict(message) for message in session.messages[:-2]]
        ctx.getMemory().clear()
        session.messages = messages
        assert _say(session, "And?").text == found.text and found.usage.reusedTokens > 0


def _edited(session: ChatSession) -> tuple[str, int, int]:
    session.messages[3]["content"] = "edited"
    answer = _say(session, "And?")
    return answer.text, answer.usage.reusedTokens, answer.usage.restoredTokens


def test_a_saved_session_keeps_its_checkpoints(stiff: Model, tmp_path: Path) -> None:
    with _context(stiff) as ctx:
        session = ChatSession(ctx, template=SHORT)
        for turn in range(4):
            _say(session, f"This is question number {turn}{LONG}")
        session.save(tmp_path / "chat")
        expected = _edited(session)
    with _context(stiff) as ctx:
        assert _edited(ChatSession.load(ctx, tmp_path / "chat", template=SHORT)) == expected
    assert expected[2] > 100


def test_a_batch_that_fails(stiff: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with _context(stiff, nBatch=32) as ctx:
        session = ChatSession(ctx, template=SHORT)
        for turn in range(3):
            _say(session, f"This is question number {turn}")
        compute, calls = Context._compute, []

        def failing(ctx: Context, batch: Any, encode: bool) -> int:
            calls.append(batch.nTokens)
            if len(calls) == 3:
                raise DecodeError("it failed")
            return compute(ctx, batch, encode)

        with monkeypatch.context() as patch:
            patch.setattr(Context, "_compute", failing)
            with pytest.raises(DecodeError):
                _say(session, LONG)
        found, messages = _say(session, "And?"), [dict(message) for message in session.messages[:-2]]
        assert found.usage.reusedTokens > 50
        ctx.getMemory().clear()
        session.messages = messages
        assert _say(session, "And?").text == found.text


def test_a_checkpoint_that_cannot_be_restored(stiff: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise StateError("no cells")

    with _context(stiff) as ctx:
        session = ChatSession(ctx, template=SHORT)
        for turn in range(2):
            _say(session, f"This is question number {turn}{LONG}")
        session.messages[1]["content"] = "edited"
        monkeypatch.setattr(Context, "stateSeqSetData", refuse)
        answer = _say(session, "And?")
        assert answer.text and (answer.usage.reusedTokens, answer.usage.restoredTokens) == (0, 0)


def test_none_where_the_memory_goes_back_by_itself(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        assert _say(ChatSession(ctx), "Hello").usage.checkpoints == 0
    with Model.load(KINDS["window"](tmp_path / "model.gguf")) as model, _context(model, swaFull=True) as ctx:
        assert _say(ChatSession(ctx, template=SHORT), "Hello").usage.checkpoints == 0
        assert _say(ChatSession(ctx, template=SHORT), "Hello").usage.reusedTokens > 0


def test_none_for_single_texts(stiff: Model) -> None:
    with _context(stiff) as ctx, Sampler.initGreedy() as sampler:
        generation = Generation(ctx, "Once upon a time there was a word", sampler=sampler, maxTokens=4)
        assert generation.result() and generation.usage.checkpoints == 0


def test_which_one_is_removed() -> None:
    kept = Checkpoints()
    kept._states = {count: b"x" * count for count in (100, 200, 210, 400, 800)}
    assert kept.best(209) == (200, b"x" * 200) and kept.best(99) is None
    kept._thin()
    assert list(kept._states) == [100, 210, 400, 800]  # 200 was 110 away from both neighbours together
    kept.keep(400)
    assert list(kept._states) == [100, 210, 400] and kept.size == 710
    for _ in range(3):
        kept._thin()
    assert len(kept) == 0


# Prompts that share a beginning


@pytest.mark.parametrize("guesses", [False, True])
def test_a_common_beginning_is_read_once(stiff: Model, counted: Counted, guesses: bool) -> None:
    def run(ctx: Context, tokens: list[int]) -> tuple[list[int], int, Any]:
        counted.tokens = 0
        speculation = PromptLookup(1, adapt=False) if guesses else None
        with Sampler.initGreedy() as sampler:
            made = Generation(ctx, tokens, sampler=sampler, maxTokens=1 + 8 * guesses, speculation=speculation)
            made.result()
        return made.tokens, counted.tokens, made.usage

    beginning = [5 + i * i % 91 for i in range(2000)]
    ends = [[100 + i] * 300 + [7 + i + k for k in range(30)] for i in range(3)]  # longer than what a window keeps
    with _context(stiff) as ctx, _context(stiff) as other:
        for i, end in enumerate(ends):
            text, read, usage = run(ctx, beginning + end)
            other.getMemory().clear()
            assert text == run(other, beginning + end)[0]
            assert usage.checkpoints <= checkpoints.MAX_CHECKPOINTS
            if i == 1:
                assert usage.reusedTokens >= 2000 - 2 * checkpoints.STEP and usage.restoredTokens > 0
            if i > 1 and not guesses:
                assert (read, usage.reusedTokens) == (330, 2000)
        # The beginning alone, then what follows it.
        ctx.getMemory().clear()
        run(ctx, beginning)
        for end in ends:
            assert run(ctx, beginning + end)[2].reusedTokens >= 2000 - checkpoints.BEFORE_END


def test_where_checkpoints_are() -> None:
    places = checkpoints.places
    assert places(0, 0, 40, 512, False) == []
    assert places(0, 0, 40, 512, True) == [32]
    assert places(30, 0, 40, 512, True) == [32] and places(33, 0, 40, 512, True) == []
    assert places(0, 0, 600, 512, False) == [592]
    assert places(0, 0, 2100, 512, False) == [512, 1024, 1536, 2092]
    assert places(1024, 1500, 2100, 512, False) == [1500, 1536, 2092]
    assert places(0, 0, 2100, 32, False) == [320 * i for i in range(1, 7)] + [2092]
    for end in (5000, 40_000, 1_000_000):
        for n_ubatch in (1, 32, 512, 2048):
            found = places(0, 0, end, n_ubatch, False)
            assert len(found) <= checkpoints.MAX_CHECKPOINTS and found[-1] == end - checkpoints.BEFORE_END
            assert all(place % n_ubatch == 0 for place in found[:-1])


def test_where_prompts_parted_is_kept_longest() -> None:
    kept = Checkpoints()
    kept._states = {count: b"x" for count in (100, 200, 210, 400)}
    kept.partings = {200, 210}
    kept._thin()
    assert list(kept._states) == [200, 210, 400]
    kept.keep(205)
    assert kept.partings == {200}
