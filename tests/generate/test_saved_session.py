"""Saved sessions: what comes back, what the first turn decodes, and files that do not fit or are damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import (
    Adapter,
    Batch,
    BusyError,
    ChatSession,
    Context,
    Model,
    Sampler,
    StateError,
    defaultSampler,
)
from llama_cffi._generated.enums import GgmlType
from llama_cffi.chat import saved_session
from llama_cffi.generation.token_cache import TokenCache
from tests import tiny_models
from tests.generate.conftest import CHATML, Kind

HEADER = struct.Struct("<8sIIQ32s32s")
TOOL = {"name": "weather", "description": "Grüße, 世界", "parameters": {"type": "object"}}


def _context(model: Model, **params: Any) -> Context:
    return Context.initFromModel(model, Context.Params(**{"nCtx": 1024, "nThreads": 1, "nThreadsBatch": 1, **params}))


def _talk(session: ChatSession, turns: range, limit: int = 12) -> list[str]:
    with Sampler.initGreedy() as sampler:
        return [session.send(f"Question number {i}", sampler=sampler, maxTokens=limit).result() for i in turns]


def _saved(ctx: Context, path: Path, turns: int = 2, **options: Any) -> ChatSession:
    session = ChatSession(ctx, **options)
    _talk(session, range(turns))
    session.save(path)
    return session


def _quiet_load(ctx: Context, path: Path, **options: Any) -> ChatSession:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ChatSession.load(ctx, path, **options)


# What comes back


def test_the_same_text_after_loading_with_every_kind_of_memory(kind: Kind, tmp_path: Path) -> None:
    def next_turns(session: ChatSession) -> list[tuple[str, int]]:
        with Sampler.initGreedy() as sampler:
            answers = [session.send(f"Question number {i}", sampler=sampler, maxTokens=12) for i in range(5, 8)]
            # Of a window, a state contains no more than the next token needs: loaded, it cannot go back.
            return [(answer.result(), 0 if "window" in kind.name else answer.usage.reusedTokens) for answer in answers]

    with kind.context() as ctx:
        session = _saved(ctx, tmp_path / "chat", 5, template=CHATML, system="Be brief.")
        tokens, state = TokenCache(ctx).tokens, ctx.stateSeqGetData(None, None, 0)
        expected, messages = next_turns(session), session.messages
    with kind.context() as ctx:
        session = _quiet_load(ctx, tmp_path / "chat", template=CHATML)
        assert TokenCache(ctx).tokens == tokens and len(tokens) > 400
        assert ctx.stateSeqGetData(None, None, 0) == state
        more = [*tokens, tokens[3]]
        assert TokenCache(ctx).adapt_to(more) == len(tokens)
        assert next_turns(session) == expected
        assert session.messages == messages


def test_everything_comes_back(chatty: Model, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    with _context(chatty, nCtx=256) as ctx:
        session = ChatSession(
            ctx,
            system="Grüße 世界",
            tools=[TOOL],
            variables={"x": [1, 2.5, None]},
            overflow="drop",
            thinking=False,
            reasoningFormat="keep",
        )
        for i in range(6):
            session.send(f"Question {i}", sampler=defaultSampler(0), maxTokens=12).result()
        session.messages[-1] |= {"parts": ({"type": "text"}, ()), "surrogate": "\ud800"}
        assert session.dropped
        session.save(path)
    with _context(chatty, nCtx=256) as ctx:
        loaded = _quiet_load(ctx, path)
        assert (loaded._drops, loaded.thinking, loaded.reasoningFormat) == (True, False, "keep")
        session.messages[-1]["parts"] = [{"type": "text"}, []]  # JSON knows no tuples
        assert (loaded.messages, loaded.dropped) == (session.messages, session.dropped)
        assert (loaded.tools, loaded.variables, loaded.system) == ([TOOL], {"x": [1, 2.5, None]}, "Grüße 世界")
        other = _quiet_load(ctx, path, system=None, tools=[], variables={}, thinking=True)
        assert other.thinking and other._drops
        assert (other.system, other.tools, other.variables) == (None, [], {})
        assert other.messages == session.messages[1:]


def test_a_session_without_turns(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        ChatSession(ctx, system="Be brief.").save(tmp_path / "chat")
        session = _quiet_load(ctx, tmp_path / "chat")
        assert session.system == "Be brief." and _talk(session, range(1))[0]


def test_a_file_is_replaced_and_saved_again(chatty: Model, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    with _context(chatty) as ctx:
        session = _saved(ctx, path)
        first = path.read_bytes()
        session.save(path)
        assert path.read_bytes() == first
        again = _quiet_load(ctx, path)
        again.save(path)
        assert path.read_bytes() == first
        _talk(again, range(1))
        again.save(path)
        assert path.read_bytes() != first and os.listdir(tmp_path) == ["chat"]


def test_another_sequence(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty, nSeqMax=3, kvUnified=True) as ctx:
        session = _saved(ctx, tmp_path / "chat")
        other = _quiet_load(ctx, tmp_path / "chat", seqId=2)
        expected = _talk(session, range(2, 4))
        assert _talk(other, range(2, 4)) == expected


def test_a_session_of_a_context_with_other_memory_meanwhile(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        _talk(session, range(2))
        ctx.getMemory().clear()
        session.save(tmp_path / "chat")  # without a memory, because there is none
        loaded = _quiet_load(ctx, tmp_path / "chat")
        assert loaded.messages == session.messages and _talk(loaded, range(1)) == _talk(session, range(1))


def test_a_conversation_in_a_new_process(smol: Model, smol_path: Path, tmp_path: Path) -> None:
    questions = ["Name three colors.", "Which of them is the sky?", "Who was Ada Lovelace?", "Hello!", "What is a cat?"]

    def say(session: ChatSession, text: str) -> str:
        with Sampler.initGreedy() as sampler:
            return session.send(text, sampler=sampler, maxTokens=32).result()

    with _context(smol, nCtx=2048, nThreads=2, nThreadsBatch=2) as ctx:
        session = ChatSession(ctx, system="Be brief.")
        for question in questions:
            say(session, question)
        session.save(tmp_path / "chat")
        held = ctx.getMemory().seqPosMax(0) + 1
        expected = [say(session, "And a dog?"), say(session, "Goodbye.")]
    code = (
        "import json, sys\nfrom llama_cffi import *\n"
        "ctx = Context.initFromModel(Model.load(sys.argv[1]), Context.Params(nCtx=2048, nThreads=2, nThreadsBatch=2))\n"
        "session, sampler, out = ChatSession.load(ctx, sys.argv[2]), Sampler.initGreedy(), []\n"
        "for text in ('And a dog?', 'Goodbye.'):\n"
        "    new = len(session.render([{'role': 'user', 'content': text}]))\n"
        "    answer = session.send(text, sampler=sampler, maxTokens=32)\n"
        "    out.append([answer.result(), new, answer.usage.reusedTokens])\n"
        "print(json.dumps(out))\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(smol_path), str(tmp_path / "chat")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    (first, prompt, reused), (second, _, _) = json.loads(ended.stdout)
    assert [first, second] == expected and len(set(expected)) == 2
    assert reused == held > 100
    assert prompt - reused < 20  # the end of the last answer, and the question


# Where the memory does not fit


def _spoil_adapter(ctx: Context) -> None:
    import numpy as np

    ctx.setAdapterCvec(np.full((ctx.getModel().nLayer - 1, ctx.getModel().nEmbd), 0.5, np.float32))


@pytest.mark.parametrize(
    ("params", "spoil", "words"),
    [
        ({"nCtx": 256}, None, r"\d+ tokens.* 256"),
        ({"typeK": GgmlType.F32}, None, "typeK"),
        ({"nSeqMax": 2}, None, "nSeqMax"),
        ({"ropeFreqBase": 5000.0}, None, "ropeFreqBase .*5000"),
        ({}, _spoil_adapter, "control vector"),
    ],
)
def test_the_messages_are_loaded_without_the_memory(
    params: dict[str, Any], spoil: Callable[[Context], None] | None, words: str, chatty: Model, tmp_path: Path
) -> None:
    with _context(chatty) as ctx:
        session = _saved(ctx, tmp_path / "chat", 6)
    with _context(chatty, **params) as ctx:
        if spoil:
            spoil(ctx)
        with pytest.warns(RuntimeWarning, match=words) as caught:
            loaded = ChatSession.load(ctx, tmp_path / "chat", overflow="drop")
        assert caught[0].filename == __file__
        assert loaded.messages == session.messages
        answer = loaded.send("And?", sampler=defaultSampler(0), maxTokens=4)
        assert answer.result() and answer.usage.reusedTokens == 0


def test_another_llama_cpp(chatty: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _context(chatty) as ctx:
        with monkeypatch.context() as patch:
            patch.setattr(saved_session, "PIN", "llama.cpp of tomorrow")
            session = _saved(ctx, tmp_path / "chat")
        with pytest.warns(RuntimeWarning, match="llama.cpp of tomorrow"):
            assert ChatSession.load(ctx, tmp_path / "chat").messages == session.messages


def test_less_memory_than_the_file_has(chatty: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _context(chatty) as ctx:
        session = _saved(ctx, tmp_path / "chat")
        monkeypatch.setattr(saved_session, "available_memory", lambda: 1000)
        with pytest.warns(RuntimeWarning, match="memory.*free"):
            assert ChatSession.load(ctx, tmp_path / "chat").messages == session.messages


def test_cells_that_others_use(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty, nSeqMax=2, kvUnified=True, nCtx=512) as ctx:
        session = _saved(ctx, tmp_path / "chat", 4)
        held = ctx.getMemory().seqPosMax(0) + 1
        assert 2 * held < 512
        ctx.decode(Batch.getOne([5] * (512 - held - held // 2)))  # appended to sequence 0
        with pytest.warns(RuntimeWarning, match="does not fit") as caught:
            loaded = ChatSession.load(ctx, tmp_path / "chat", seqId=1)
        assert "\n" not in str(caught[0].message)
        assert loaded.messages == session.messages
        assert ctx.getMemory().seqPosMax(0) > held, "the other sequence is gone"


def test_a_lora_adapter_is_not_saved(chatty: Model, tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "lora.gguf")
    with _context(chatty) as ctx, Adapter.loraInit(chatty, tmp_path / "lora.gguf") as adapter:
        ctx.setAdapterLora(adapter, 1.0)
        session = _saved(ctx, tmp_path / "chat")
    with _context(chatty) as ctx, pytest.warns(RuntimeWarning, match="LoRA"):
        assert ChatSession.load(ctx, tmp_path / "chat").messages == session.messages


# Wrong models, templates and files


def test_another_model_or_template(chatty: Model, tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    with _context(chatty) as ctx, _context(tiny) as other:
        _saved(ctx, path)
        with pytest.raises(StateError, match="another model"):
            ChatSession.load(other, path)
        with pytest.raises(StateError, match=r"another chat template.*template="):
            ChatSession.load(ctx, path, template="gemma")
        with pytest.raises(TypeError, match="expected a Context"):
            ChatSession.load(chatty, path)  # type: ignore[arg-type]
        with pytest.raises(FileNotFoundError):
            ChatSession.load(ctx, tmp_path / "none")
        with pytest.raises(OSError, match="not a regular file"):
            ChatSession.load(ctx, tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            ChatSession.load(ctx, tmp_path / "pipe")
        with pytest.raises(TypeError, match="nonsense"):
            ChatSession.load(ctx, path, nonsense=1)


def test_every_damaged_byte_and_every_length(chatty: Model, tmp_path: Path) -> None:
    path, bad = tmp_path / "chat", tmp_path / "bad"
    with _context(chatty) as ctx:
        _saved(ctx, path)
        whole = path.read_bytes()
        n_head = HEADER.unpack(whole[: HEADER.size])[2]
        places = [*range(HEADER.size), *range(HEADER.size, len(whole), 9973), HEADER.size + n_head, len(whole) - 1]
        for place in places:
            bad.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
            with pytest.raises(StateError, match="bad (is|has) "):
                ChatSession.load(ctx, bad)
        for size in [*range(HEADER.size + 2), HEADER.size + n_head, len(whole) - 1]:
            bad.write_bytes(whole[:size])
            with pytest.raises(StateError, match="damaged|not a saved session"):
                ChatSession.load(ctx, bad)
        bad.write_bytes(whole + b"\0")
        with pytest.raises(StateError, match="damaged"):
            ChatSession.load(ctx, bad)
        assert _quiet_load(ctx, path).messages


def _forge(whole: bytes, change: Callable[[dict[str, Any]], Any] | bytes | None, state: bytes | None = None) -> bytes:
    """A file with valid digests, and another head or state."""
    magic, version, n_head, _, _, _ = HEADER.unpack(whole[: HEADER.size])
    head, rest = whole[HEADER.size : HEADER.size + n_head], whole[HEADER.size + n_head :]
    if callable(change):
        data = json.loads(head)
        change(data)
        head = json.dumps(data).encode()
    elif change is not None:
        head = change
    rest = rest if state is None else state
    digests = hashlib.sha256(head).digest(), hashlib.sha256(rest).digest()
    return HEADER.pack(magic, version, len(head), len(rest), *digests) + head + rest


_HOSTILE: dict[str, Callable[[dict[str, Any]], Any] | bytes] = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "no dict": b"[]",
    "deep lists": b"[" * 1_000_000,
    "deep dicts": b'{"a":' * 100_000,
    "deep and whole": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    "a long number": b'{"a":' + b"9" * 100_000 + b"}",
    "nothing": b"{}",
    "tokens out of range": lambda head: head.update(tokens=[1 << 30]),
    "tokens below zero": lambda head: head.update(tokens=[-1]),
    "tokens of text": lambda head: head.update(tokens=["1"]),
    "tokens as bools": lambda head: head.update(tokens=[True]),
    "no tokens": lambda head: head.pop("tokens"),
    "messages of text": lambda head: head.update(messages="hello"),
    "messages of lists": lambda head: head.update(messages=[["role", "user"]]),
    "a message without a role": lambda head: head.update(messages=[{"content": "x"}]),
    "a role that is a number": lambda head: head.update(dropped=[{"role": 1}]),
    "options of other types": lambda head: head["options"].update(thinking="no"),
    "no options": lambda head: head.pop("options"),
    "variables of a list": lambda head: head.update(variables=[]),
    "a model of text": lambda head: head.update(model="x"),
    "a checkpoint behind the tokens": lambda head: head.update(checkpoints=[[1 << 20, 5]]),
    "a checkpoint of nothing": lambda head: head.update(checkpoints=[[1, 0]]),
    "a checkpoint longer than the file": lambda head: head.update(checkpoints=[[1, 1 << 40]]),
    "checkpoints of numbers": lambda head: head.update(checkpoints=[1, 2]),
    "one token too many": lambda head: head["tokens"].append(5),
    "one token too few": lambda head: head["tokens"].pop(),
}


@pytest.mark.parametrize("name", list(_HOSTILE))
def test_a_forged_head(name: str, chatty: Model, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    with _context(chatty) as ctx:
        _saved(ctx, path)
        path.write_bytes(_forge(path.read_bytes(), _HOSTILE[name]))
        with pytest.raises(StateError, match="damaged") as caught:
            ChatSession.load(ctx, path)
        assert len(str(caught.value)) < 600
        assert _talk(ChatSession(ctx), range(1))[0], "the context can be used"


def test_a_head_that_is_too_large(chatty: Model, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    with _context(chatty) as ctx:
        _saved(ctx, path)
        size = saved_session.MAX_HEAD + 1
        header = HEADER.pack(b"LCFFCHAT", 1, size, 0, b"", b"")
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(HEADER.size + size)
        with pytest.raises(StateError, match="damaged"):
            ChatSession.load(ctx, path)
        header = HEADER.pack(b"LCFFCHAT", 1, 2, 1 << 40, hashlib.sha256(b"{}").digest(), b"")
        with open(path, "wb") as file:
            file.write(header + b"{}")
            file.truncate(HEADER.size + 2 + (1 << 40))  # sparse
        with pytest.raises(StateError, match="damaged"):
            ChatSession.load(ctx, path)


# What cannot be saved


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ({"image": b"x"}, TypeError, r"messages\[0\]\.image.*bytes"),
        ({"image": {1: 2}}, TypeError, r"messages\[0\]\.image.*int"),
        ({"image": object()}, TypeError, "object"),
        ({"image": "x" * (33 << 20)}, ValueError, r"33,554,432.*dropped"),
    ],
)
def test_what_a_file_cannot_keep(
    extra: dict[str, Any], error: type[Exception], words: str, chatty: Model, tmp_path: Path
) -> None:
    with _context(chatty) as ctx:
        session = _saved(ctx, tmp_path / "chat")
        whole = (tmp_path / "chat").read_bytes()
        session.messages[0].update(extra)
        with pytest.raises(error, match=words):
            session.save(tmp_path / "chat")
        assert (tmp_path / "chat").read_bytes() == whole and os.listdir(tmp_path) == ["chat"]


def test_a_history_that_contains_itself(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        circle: list[Any] = []
        circle.append(circle)
        session.messages.append({"role": "user", "content": circle})
        with pytest.raises(ValueError, match="100"):
            session.save(tmp_path / "chat")


def test_not_while_an_answer_is_generated(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        session = ChatSession(ctx)
        answer = session.send("Hello", sampler=defaultSampler(0), maxTokens=8)
        next(answer)
        with pytest.raises(BusyError):
            session.save(tmp_path / "chat")
        answer.close()
        session.save(tmp_path / "chat")
        lock = ctx.getMemory()._decode_lock
        with lock, pytest.raises(BusyError, match="thread"):
            session.save(tmp_path / "chat")
        with lock, pytest.raises(BusyError, match="thread"):
            ChatSession.load(ctx, tmp_path / "chat")
        assert not lock.locked() and threading.active_count() >= 1


def test_loading_ends_an_answer_in_the_same_sequence(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        session = _saved(ctx, tmp_path / "chat")
        answer = session.send("Hello", sampler=defaultSampler(0), maxTokens=8)
        next(answer)
        loaded = _quiet_load(ctx, tmp_path / "chat")
        with pytest.raises(BusyError):
            answer.result()
        assert _talk(loaded, range(1))[0]


def test_the_file_says_nothing_of_the_machine(chatty: Model, tmp_path: Path) -> None:
    with _context(chatty) as ctx:
        _saved(ctx, tmp_path / "chat")
    text = (tmp_path / "chat").read_bytes()[HEADER.size :][:4000].decode("utf-8", "replace")
    assert not re.search(re.escape(str(tmp_path)), text)
