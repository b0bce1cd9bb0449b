"""Sessions: the history, what a turn decodes, tools, and a context that becomes full."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from llama_cffi import (
    BusyError,
    ChatSession,
    ChatTemplate,
    Context,
    ContextFullError,
    Generation,
    Model,
    Sampler,
    StopReason,
    ToolCall,
    defaultSampler,
    tokenize,
)
from llama_cffi.chat import native
from tests.generate.conftest import CHATML, Counted, Kind, plain

WEATHER = {"name": "weather", "description": "What it is like", "parameters": {"type": "object"}}


def _context(model: Model, n_ctx: int = 1024) -> Context:
    return Context.initFromModel(model, Context.Params(nCtx=n_ctx, nThreads=1, nThreadsBatch=1))


def _roles(session: ChatSession) -> list[str]:
    return [message["role"] for message in session.messages]


def _say(session: ChatSession, text: str | None, limit: int = 12, **options: Any) -> str:
    return "".join(session.send(text, sampler=defaultSampler(0), maxTokens=limit, **options))


class Scripted:
    """A sampler that writes a given text, then ends the turn, whatever the model thinks."""

    def __init__(self, model: Model, *texts: str) -> None:
        self.texts = [[*tokenize(model.vocab, text, addSpecial=False), model.vocab.eos] for text in texts]
        self.now: list[int] = []

    def reset(self) -> None:
        self.now = self.texts.pop(0) if self.texts else self.now

    def apply(self, candidates: Any) -> None:
        token = self.now.pop(0)
        candidates.selected = next(i for i, c in enumerate(candidates) if c.id == token)


def test_a_turn_decodes_what_is_new(chatty: Model, counted: Counted) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx, system="Be brief.")
        counts = []
        for turn in range(6):
            counted.tokens = 0
            answer = session.send(f"Question number {turn}", sampler=defaultSampler(0), maxTokens=12)
            assert "".join(answer) == answer.text != ""
            counts.append((answer.usage.promptTokens, counted.tokens))
            assert counted.tokens == answer.usage.promptTokens - answer.usage.reusedTokens + len(answer.tokens) - 1
        assert counts[-1][0] > 250, "the conversation is too short to show anything"
        assert max(new for _, new in counts[1:]) < 75 and counts[-1][1] < counts[1][1] + 15
        assert _roles(session) == ["system", *["user", "assistant"] * 6]


def test_answers_are_the_same_as_from_an_empty_memory(chatty: Model) -> None:
    def last(from_scratch: bool) -> list[dict[str, Any]]:
        with _context(chatty) as ctx:
            session = ChatSession(ctx)
            for turn in range(3):
                if from_scratch:
                    ctx.getMemory().clear()
                _say(session, f"Question {turn}")
            return session.messages

    assert last(from_scratch=True) == last(from_scratch=False)


def test_on_every_kind_of_memory(kind: Kind) -> None:
    with kind.context() as ctx:
        session = ChatSession(ctx, template="chatml")
        for turn in range(3):
            prompt = session.render([{"role": "user", "content": f"Question {turn}"}])
            answer = session.send(f"Question {turn}", sampler=defaultSampler(0), maxTokens=10)
            list(answer)
            with kind.context() as other:
                assert answer.tokens == plain(other, prompt, 10)


def test_an_edited_history(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx, system="Be brief.")
        for turn in range(3):
            _say(session, f"Question number {turn}")
        del session.messages[3:]
        session.messages[1]["content"] = "Another question"
        answer = session.send("And then?", sampler=defaultSampler(0), maxTokens=12)
        list(answer)
        kept = len(tokenize(chatty.vocab, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"))
        assert kept - 2 <= answer.usage.reusedTokens <= kept + 1
        with _context(chatty) as other:
            assert answer.tokens == plain(other, answer.prompt, 12)
        assert _roles(session) == ["system", "user", "assistant", "user", "assistant"]


def test_the_system_message(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        assert session.system is None and session.messages == []
        session.system = "Be brief."
        _say(session, "Hello")
        session.system = "Be long."
        assert session.system == "Be long." and _roles(session) == ["system", "user", "assistant"]
        session.system = None
        assert _roles(session) == ["user", "assistant"] and session.system is None
        with pytest.raises(TypeError, match="system.*got int"):
            session.system = 3  # type: ignore[assignment]


def test_an_answer_may_be_asked_for_again(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        first = _say(session, "Hello")
        session.messages.pop()
        assert _say(session, None) == first
        assert _roles(session) == ["user", "assistant"]
        session.messages.clear()
        with pytest.raises(ValueError, match="there is nothing to answer"):
            session.send()


def test_options_of_a_generation(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        answer = session.send("Hello", sampler=defaultSampler(0), maxTokens=6, logProbs=2)
        assert all(len(step.alternatives) == 2 for step in answer.steps())
        whole = session.messages[-1]["content"]
        session.messages.clear()
        stop = whole[len(whole) // 2 :][:3]
        assert _say(session, "Hello", 6, stop=[stop]) == whole[: whole.index(stop)] == session.messages[-1]["content"]


def test_async(chatty: Model) -> None:
    async def run(session: ChatSession) -> str:
        return "".join([text async for text in session.send("Hello", sampler=defaultSampler(0), maxTokens=8)])

    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        assert asyncio.run(run(session)) == session.messages[-1]["content"] != ""


# Ends


def test_a_cancelled_answer_is_kept_as_far_as_it_came(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        answer = session.send("Hello", sampler=defaultSampler(0))
        assert session.messages == []  # nothing happens before it is iterated
        first = next(answer)
        answer.close()
        assert session.messages[-1] == {"role": "assistant", "content": first}
        assert _say(session, "Again")


def test_a_message_without_any_answer_is_taken_back(chatty: Model) -> None:
    class Broken:
        def apply(self, candidates: Any) -> None:
            raise RuntimeError("broken")

    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        answer = session.send("Hello")
        answer.cancel()
        assert list(answer) == [] and answer.stopReason is StopReason.CANCELLED and session.messages == []
        session.send("Hello").close()
        with Sampler.chainInit() as chain:
            chain.chainAdd(Sampler.init(Broken()))
            chain.chainAdd(Sampler.initGreedy())
            with pytest.raises(RuntimeError, match="broken"):
                list(session.send("Hello", sampler=chain))
        assert session.messages == []
        assert _say(session, "Hello")


def test_the_end_of_a_turn(chatty: Model) -> None:
    with _context(chatty) as ctx, Sampler.init(Scripted(chatty, "Hi there.", "")) as sampler:
        session = ChatSession(ctx)
        answer = session.send("Hello", sampler=sampler)
        assert "".join(answer).strip() == "Hi there." and answer.stopReason is StopReason.END
        assert answer.stopToken == chatty.vocab.eos
        assert "".join(session.send("Say nothing", sampler=sampler)) == ""
        assert session.messages[-1] == {"role": "assistant", "content": ""}


def test_one_answer_at_a_time(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        with pytest.warns(RuntimeWarning, match="never computed"):  # of the first one, which is iterated over later
            first, second = session.send("Hello", maxTokens=5), session.send("Hello again", maxTokens=5)
        next(first)
        with pytest.raises(BusyError, match="an answer of this session has not ended"):
            next(second)
        with pytest.raises(BusyError, match="an answer of this session has not ended"):
            session.send("Hello?")
        first.close()
        assert _roles(session) == ["user", "assistant"]
        answer = session.send("Hello?", maxTokens=5)
        next(answer)
        del answer  # which ends it
        assert _roles(session) == ["user", "assistant"] * 2
        assert _say(session, "Bye")


# Tools


def test_a_call_and_its_result(chatty: Model) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
    with _context(chatty) as ctx, Sampler.init(Scripted(chatty, f"Wait.\n{call}", "Rain.")) as sampler:
        session = ChatSession(ctx, tools=[WEATHER])
        answer = session.send("What is it like in Bern?", sampler=sampler)
        assert call in "".join(answer)
        assert answer.toolCalls == [ToolCall("weather", {"city": "Bern"}, "call00001")]
        assert answer.content.strip() == "Wait." and answer.problems == []
        session.addToolResult(answer.toolCalls[0], "31 mm of rain")
        before = len(answer.prompt)
        answer = session.send(sampler=sampler)
        assert "".join(answer).strip() == "Rain." and answer.toolCalls == []
        assert answer.usage.reusedTokens >= before
        assert session.messages[1:] == [
            {
                "role": "assistant",
                "content": session.messages[1]["content"],
                "tool_calls": [
                    {
                        "id": "call00001",
                        "type": "function",
                        "function": {"name": "weather", "arguments": {"city": "Bern"}},
                    }
                ],
            },
            {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "31 mm of rain"},
            {"role": "assistant", "content": answer.content},
        ]
        assert "31 mm of rain" in ChatTemplate(chatty).render(session.messages, tools=session.tools)


def test_without_tools_text_is_text(chatty: Model) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    with _context(chatty) as ctx, Sampler.init(Scripted(chatty, call)) as sampler:
        session = ChatSession(ctx)
        answer = session.send("Hello", sampler=sampler)
        list(answer)
        assert answer.toolCalls == [] and answer.content.strip() == call
        with pytest.raises(TypeError, match="call.*ToolCall.*got str.*toolCalls"):
            session.addToolResult("weather", "rain")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="result.*got dict.*json.dumps"):
            session.addToolResult(ToolCall("weather", {}), {"rain": 1})  # type: ignore[arg-type]


def test_a_way_of_calling_that_is_not_known(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx, template="{{ tools | tojson }}{{ messages[0].content }}", tools=[WEATHER])
        answer = session.send("Hello", sampler=defaultSampler(0), maxTokens=4)
        list(answer)
        assert answer.toolCalls == [] and answer.content == answer.text
        assert len(answer.problems) == 1 and "tool calls is not known" in answer.problems[0]


def test_tools_that_the_template_does_not_know(chatty: Model, tiny: Model) -> None:
    with _context(chatty) as ctx:
        refuse = ["chatml", ChatTemplate(chatty, "gemma"), *([] if native.available() else [CHATML])]
        for template in refuse:
            with pytest.raises(ValueError, match="leave tools out"):
                ChatSession(ctx, template=template, tools=[WEATHER])
    with _context(tiny) as ctx, pytest.raises(ValueError, match="has no chat template"):
        ChatSession(ctx)


# A full context


@pytest.mark.parametrize("overflow", ["stop", "error"])
def test_a_conversation_that_does_not_fit(chatty: Model, overflow: Any) -> None:
    with _context(chatty, 256) as ctx:
        session = ChatSession(ctx, system="Be brief.", overflow=overflow)
        with pytest.raises(ContextFullError, match=r'\d+ tokens.* 256: .* overflow="drop".*nCtx'):
            session.send("word " * 300)
        assert _roles(session) == ["system"]
        with pytest.raises(ContextFullError):
            for turn in range(20):
                _say(session, f"Question number {turn}, which is the newest")
        assert _roles(session)[-1] == "assistant" and session.dropped == []


def test_the_oldest_turns_are_dropped(chatty: Model, counted: Counted) -> None:
    with _context(chatty, 512) as ctx:
        session = ChatSession(ctx, system="Be brief.", overflow="drop")
        decoded_again = 0
        for turn in range(30):
            counted.tokens = 0
            assert _say(session, f"Question number {turn}, which is the newest", 16)
            assert session.system == "Be brief."
            assert _roles(session) == ["system", *["user", "assistant"] * (len(session.messages) // 2)]
            assert session.messages[-2]["content"].startswith(f"Question number {turn},")
            assert ctx.getMemory().seqPosMax(0) < 512
            decoded_again += counted.tokens > 150
        assert 3 <= len(session.messages) < 25
        assert 0 < decoded_again < 15, "most turns decode only what is new"
        texts = [m["content"] for m in session.dropped + session.messages[1:] if m["role"] == "user"]
        assert [text.split()[2].rstrip(",") for text in texts] == [str(turn) for turn in range(30)]


def test_the_newest_turn_stays(chatty: Model) -> None:
    with _context(chatty, 256) as ctx:
        session = ChatSession(ctx, overflow="drop")
        _say(session, "Hello")
        with pytest.raises(ContextFullError, match="the newest turn has"):
            session.send("word " * 300)
        assert _roles(session) == ["user", "assistant"] and session.dropped == []
        session.messages += [{"role": "user", "content": "word " * 99}, {"role": "assistant", "content": "word " * 99}]
        session.messages += [{"role": "user", "content": "the newest"}]
        assert _say(session, None)
        assert [m["content"] for m in session.messages if m["role"] == "user"][-1] == "the newest"
        assert session.dropped


def test_a_state_has_no_end(kind: Kind) -> None:
    if not kind.model.isRecurrent:
        return
    with kind.context(n_ctx=64) as ctx:
        session = ChatSession(ctx, template="chatml")
        for turn in range(6):
            _say(session, f"Question number {turn}")
        assert len(session.messages) == 12 and len(session.render()) > 64


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"overflow": "shift"}, ValueError, r'"stop", "error", "drop".*got \'shift\'.*Generation'),
        ({"overflow": None}, ValueError, r'"stop", "error", "drop".*got None'),
        ({"template": "nonsense"}, ValueError, "'nonsense'"),
        ({"system": 3}, TypeError, "system.*got int"),
        ({"seqId": 1}, ValueError, "nSeqMax"),
    ],
)
def test_wrong_arguments(chatty: Model, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with _context(chatty) as ctx, pytest.raises(error, match=words):
        ChatSession(ctx, **options).send("Hello")


@pytest.mark.parametrize(
    ("message", "error", "words"),
    [(3, TypeError, "message.*got int.*role"), ({"content": "x"}, ValueError, "needs a role")],
)
def test_wrong_messages(chatty: Model, message: Any, error: type[Exception], words: str) -> None:
    with _context(chatty) as ctx, pytest.raises(error, match=words):
        ChatSession(ctx).send(message)
    with pytest.raises(TypeError, match="makes one"):
        ChatSession(chatty)  # type: ignore[arg-type]


def _unread(session: ChatSession, act: Callable[[ChatSession], object]) -> list[warnings.WarningMessage]:
    """The warnings about answers that were not computed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = act(session)
        gc.collect()
        before = len(caught)
        del kept
        gc.collect()
    assert before in (0, 1)
    return [one for one in caught if issubclass(one.category, RuntimeWarning) and "never computed" in str(one.message)]


def test_an_answer_that_nobody_reads_is_noticed(chatty: Model) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        (warning,) = _unread(session, lambda session: session.send("Hello").prompt)
        assert warning.filename == __file__ and ".result()" in str(warning.message)
        assert session.messages == []

        def replaced(session: ChatSession) -> object:
            first = session.send("Hello", maxTokens=2)
            return first, session.send("Hello again", maxTokens=2).result()

        assert len(_unread(session, replaced)) == 1  # by the next message; not again when it is dropped

        for act in (
            lambda session: session.send("Hello", maxTokens=2).result(),
            lambda session: next(session.send("Hello", maxTokens=4), ""),
            lambda session: session.send("Hello").close(),
            lambda session: session.send("Hello").cancel(),
            lambda session: asyncio.run(_awaited(session)),
        ):
            assert _unread(session, act) == []
        with pytest.raises(ValueError, match="no-such"):
            session.send("Hello", toolChoice="no-such")


async def _awaited(session: ChatSession) -> str:
    return await session.send("Hello", maxTokens=2)


def test_what_an_answer_shows_before_it_begins(chatty: Model) -> None:
    with _context(chatty) as ctx:
        answer = ChatSession(ctx).send("Hello", maxTokens=2)
        generation = Generation(ctx, "Hello", maxTokens=2)
        assert repr(answer) == "<ChatAnswer, not started: iterate over it, or call result()>"
        assert repr(generation) == "<Generation, not started: iterate over it, or call result()>"
        answer.result()
        assert repr(answer).startswith("<ChatAnswer, 2 tokens")
        generation.close()
        assert "not started" not in repr(generation)


def test_a_real_chat_model_answers_and_ends(smol: Model) -> None:
    with _context(smol) as ctx, Sampler.initGreedy() as sampler:
        answer = ChatSession(ctx).send("What is 2+2?", sampler=sampler)
        assert answer.result() == "The answer to this classic math problem is 4."
        assert answer.stopReason is StopReason.END
