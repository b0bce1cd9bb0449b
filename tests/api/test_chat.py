"""Chat templates: both forms, against texts written by hand, against Jinja, and the example that chats by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import (
    Batch,
    ChatMessage,
    Context,
    Model,
    Sampler,
    chatApplyTemplate,
    chatBuiltinTemplates,
    ffi,
    lib,
)
from tests import tiny_models, tiny_vocabs

ROOT = Path(__file__).resolve().parents[2]

CHAT = [
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "Grüße!"),
    ChatMessage("assistant", "Hello."),
    ChatMessage("user", "東京?"),
]

# What each family's documentation shows.
EXPECTED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGrüße!<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n東京?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nGrüße!<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n東京?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>user\nBe brief.\n\nGrüße!<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
    "<start_of_turn>user\n東京?<end_of_turn>\n<start_of_turn>model\n",
    "mistral-v7": "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST] Grüße![/INST] Hello.</s>[INST] 東京?[/INST]",
    "llama2-sys": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nGrüße! [/INST]Hello.</s>[INST] 東京? [/INST]",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nGrüße!<|end|>\n<|assistant|>\nHello.<|end|>\n"
    "<|user|>\n東京?<|end|>\n<|assistant|>\n",
    "zephyr": "<|system|>\nBe brief.<|endoftext|>\n<|user|>\nGrüße!<|endoftext|>\n<|assistant|>\nHello.<|endoftext|>\n"
    "<|user|>\n東京?<|endoftext|>\n<|assistant|>\n",
    "deepseek3": "Be brief.\n\n<｜User｜>Grüße!<｜Assistant｜>Hello.<｜end▁of▁sentence｜>"
    "<｜User｜>東京?<｜Assistant｜>",
    "command-r": "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Grüße!<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hello.<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>東京?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
}

# Jinja templates as models carry them.
JINJA = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "phi3": "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{# <|user|> #}",
}


@pytest.fixture(scope="session")
def with_template(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model that carries a chat template."""
    builder = tiny_models._Builder(tiny_models.T5, "t5")
    builder.writer.add_chat_template(JINJA["chatml"])
    tiny_vocabs.add_unigram(builder.writer)
    path = builder.save(tmp_path_factory.mktemp("chat") / "template.gguf")
    with Model.load(path, Model.Params(vocabOnly=True)) as model:
        yield model


# The function


@pytest.mark.parametrize("name", list(EXPECTED))
def test_families(name: str) -> None:
    assert chatApplyTemplate(name, CHAT) == EXPECTED[name]


@pytest.mark.parametrize("name", list(JINJA))
@pytest.mark.parametrize("add", [True, False])
def test_equals_what_jinja_renders(name: str, add: bool) -> None:
    jinja2 = pytest.importorskip("jinja2")
    messages = [{"role": m.role, "content": m.content} for m in CHAT]
    expected = jinja2.Template(JINJA[name], keep_trailing_newline=True).render(
        messages=messages, add_generation_prompt=add
    )
    assert chatApplyTemplate(JINJA[name], CHAT, None, add) == expected
    assert chatApplyTemplate(name, CHAT, None, add) == expected


def test_into_a_buffer() -> None:
    whole = EXPECTED["chatml"].encode()
    buf = bytearray(b"x" * 512)
    assert chatApplyTemplate("chatml", CHAT, len(CHAT), True, buf, 512) == len(whole)
    assert buf[: len(whole) + 1] == whole + b"\0"
    short = bytearray(b"x" * 16)
    assert chatApplyTemplate("chatml", CHAT, len(CHAT), True, short, 10) == len(whole)  # C's answer: what it needs
    assert short == whole[:10] + b"x" * 6
    exact = bytearray(len(whole))
    assert chatApplyTemplate("chatml", CHAT, len(CHAT), True, exact, len(exact)) == len(whole)
    assert exact == whole
    assert chatApplyTemplate("chatml", CHAT, len(CHAT), True, bytearray(), 0) == len(whole)


def test_equals_raw_c() -> None:
    texts = [ffi.new("char[]", str(text).encode()) for message in CHAT for text in (message.role, message.content)]
    array = ffi.new(
        "struct llama_chat_message[]", [{"role": a, "content": b} for a, b in zip(texts[::2], texts[1::2], strict=True)]
    )
    for name in chatBuiltinTemplates():
        out = ffi.new("char[]", 2048)
        length = lib.llama_chat_apply_template(name.encode(), array, len(CHAT), True, out, 2048)
        assert chatApplyTemplate(name, CHAT) == ffi.unpack(out, length).decode()


def test_the_first_messages_only() -> None:
    assert chatApplyTemplate("chatml", CHAT, 1, False) == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert chatApplyTemplate("chatml", CHAT, 0) == chatApplyTemplate("chatml", []) == "<|im_start|>assistant\n"
    assert (
        chatApplyTemplate(b"chatml", [ChatMessage(b"user", b"hi")], None, False) == "<|im_start|>user\nhi<|im_end|>\n"
    )


def test_long_messages() -> None:
    text = "é" * 200_000
    assert (
        chatApplyTemplate("chatml", [ChatMessage("user", text)], None, False) == f"<|im_start|>user\n{text}<|im_end|>\n"
    )
    many = [ChatMessage("user", "")] * 1000  # more template than text
    assert chatApplyTemplate("llama4", many, None, False).count("<|eot|>") == 1000


@pytest.mark.parametrize("tmpl", [0, None])
def test_none_means_the_models_own(with_template: Model, tmpl: int | None) -> None:
    assert chatApplyTemplate(tmpl, CHAT, model=with_template) == EXPECTED["chatml"]
    assert chatApplyTemplate(with_template, CHAT) == EXPECTED["chatml"]
    assert chatApplyTemplate("gemma", CHAT, model=with_template) == EXPECTED["gemma"]  # a name goes first
    buf = bytearray(512)
    n = chatApplyTemplate(tmpl, CHAT, len(CHAT), True, buf, 512, model=with_template)
    assert buf[:n].decode() == EXPECTED["chatml"]


@pytest.mark.parametrize("tmpl", [0, None])
def test_never_a_silent_guess(tiny: Model, tmpl: int | None) -> None:
    with pytest.raises(ValueError, match="pass model="):
        chatApplyTemplate(tmpl, CHAT)
    with pytest.raises(ValueError, match="has no chat template"):
        chatApplyTemplate(tmpl, CHAT, model=tiny)
    with pytest.raises(ValueError, match="has no chat template"):
        chatApplyTemplate(tiny, CHAT)


@pytest.mark.parametrize("tmpl", ["nonsense", "", "{{ messages }}", "{% for m in messages %}" + "x" * 999])
def test_a_template_that_is_not_recognized(tmpl: str) -> None:
    with pytest.raises(ValueError, match="does not run Jinja: name one of .*chatml") as caught:
        chatApplyTemplate(tmpl, CHAT)
    assert len(str(caught.value)) < 1500
    with pytest.raises(ValueError, match="does not run Jinja"):
        chatApplyTemplate(tmpl, CHAT, len(CHAT), True, bytearray(9), 9)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("chatml", CHAT, 5), ValueError, "chat has 4 messages"),
        (("chatml", CHAT, -1), ValueError, "chat has 4 messages"),
        (("chatml", CHAT[0]), TypeError, "for one"),
        (("chatml", "text"), TypeError, "for one"),
        (("chatml", [("user", "hi")]), TypeError, r"write ChatMessage\(role, content\)"),
        (("chatml", [ChatMessage("user", None)]), TypeError, "content .*got NoneType"),
        (("chatml", [ChatMessage(None, "x")]), TypeError, "role .*got NoneType"),
        (("chatml", [ChatMessage("user", "a\0b")]), ValueError, "NUL"),
        (("chat\0ml", CHAT), ValueError, "NUL"),
        ((1, CHAT), TypeError, "a template's name"),
        ((False, CHAT), TypeError, "a template's name"),
        ((CHAT, CHAT), TypeError, "a template's name"),
        (("chatml", CHAT, None, True, bytearray(4)), TypeError, "belong together"),
        (("chatml", CHAT, None, True, bytearray(4), 5), ValueError, "room for 4"),
        (("chatml", CHAT, None, True, bytes(4), 4), TypeError, "read-only"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        chatApplyTemplate(*arguments)


def test_two_models_at_once(tiny: Model, with_template: Model) -> None:
    with pytest.raises(TypeError, match="pass one of them"):
        chatApplyTemplate(tiny, CHAT, model=with_template)


def test_builtin_templates() -> None:
    names = chatBuiltinTemplates()
    assert {"chatml", "llama3", "gemma", "mistral-v7"} < set(names)
    out = ffi.new("char *[]", 100)
    assert chatBuiltinTemplates(out, 100) == len(names)
    assert [ffi.string(out[i]).decode() for i in range(len(names))] == names
    assert out[len(names)] == ffi.NULL
    few = ffi.new("const char *[]", 3)
    assert chatBuiltinTemplates(few, 2) == len(names)
    assert few[2] == ffi.NULL
    assert chatBuiltinTemplates(few, 0) == len(names)


def test_builtin_templates_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="room for 3"):
        chatBuiltinTemplates(ffi.new("char *[]", 3), 4)
    with pytest.raises(ValueError, match="room for 3"):
        chatBuiltinTemplates(ffi.new("char *[]", 3), -1)
    for bad in (bytearray(64), ffi.new("char **"), ffi.new("int[]", 3), [None] * 3):
        with pytest.raises(TypeError, match="char pointers"):
            chatBuiltinTemplates(bad, 1)
    with pytest.raises(TypeError, match="belong together"):
        chatBuiltinTemplates(ffi.new("char *[]", 3))  # type: ignore[call-overload]


# The example


class Counted:
    """How many tokens a context was made to decode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = 0
        decode = Context.decode

        def counting(ctx: Context, batch: Batch) -> int:
            self.tokens += batch.nTokens
            return decode(ctx, batch)

        monkeypatch.setattr(Context, "decode", counting)


def _positions(ctx: Context) -> tuple[int, int]:
    memory = ctx.getMemory()
    return memory.seqPosMin(0), memory.seqPosMax(0)


def test_the_example_decodes_what_is_new(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import chat_by_hand

    with Context.initFromModel(tiny, Context.Params(nCtx=2048)) as ctx, Sampler.initGreedy() as sampler:
        talk = chat_by_hand.Chat(ctx, sampler, "chatml", "Be brief.")
        counted = Counted(monkeypatch)
        for turn in range(5):
            counted.tokens = 0
            answer = "".join(talk.say(f"Question number {turn}", 12))
            assert answer
            assert counted.tokens < 90  # however long the conversation is
            assert _positions(ctx) == (0, len(talk.tokens) - 1)
        assert len(talk.tokens) > 200
        assert [m.role for m in talk.messages] == ["system", *["user", "assistant"] * 5]


def test_the_example_answers_the_same_as_from_an_empty_memory(tiny: Model) -> None:
    import chat_by_hand

    def last_answer(from_scratch: bool) -> str:
        answer = ""
        with Context.initFromModel(tiny, Context.Params(nCtx=1024, nThreads=2)) as ctx, Sampler.initGreedy() as sampler:
            talk = chat_by_hand.Chat(ctx, sampler, "chatml")
            for turn in range(3):
                if from_scratch:
                    ctx.getMemory().clear()
                    talk.tokens = []
                answer = "".join(talk.say(f"Question {turn}", 10))
        return answer

    assert last_answer(from_scratch=False) == last_answer(from_scratch=True) != ""


def test_the_example_makes_room(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import chat_by_hand

    with Context.initFromModel(tiny, Context.Params(nCtx=256)) as ctx, Sampler.initGreedy() as sampler:
        talk = chat_by_hand.Chat(ctx, sampler, "chatml", "Be brief.")
        counted = Counted(monkeypatch)
        for turn in range(20):
            counted.tokens = 0
            assert "".join(talk.say(f"Question number {turn}, which is the newest", 16))
            assert counted.tokens < 110  # the turns that stay were moved, not read again
            assert _positions(ctx)[0] == 0
            assert len(talk.tokens) <= 256
            assert talk.messages[0].content == "Be brief."
            assert talk.messages[-2].content == f"Question number {turn}, which is the newest"
        assert 3 <= len(talk.messages) < 15


def test_the_example_where_memory_cannot_be_cut(vectors: Path, tmp_path: Path) -> None:
    import chat_by_hand

    path = tiny_models.write_mamba(tmp_path / "mamba.gguf", vectors / "ggml-vocab-llama-spm.gguf")
    with Model.load(path) as model, Context.initFromModel(model, Context.Params(nCtx=256)) as ctx:
        with Sampler.initGreedy() as sampler:
            talk = chat_by_hand.Chat(ctx, sampler, "chatml")
            for turn in range(8):
                assert "".join(talk.say(f"Question number {turn}", 16))
                assert _positions(ctx)[1] == len(talk.tokens) - 1


def test_the_example_refuses_what_never_fits(tiny: Model) -> None:
    import chat_by_hand

    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx, Sampler.initGreedy() as sampler:
        talk = chat_by_hand.Chat(ctx, sampler, "chatml")
        with pytest.raises(ValueError, match="raise --ctx"):
            list(talk.say("word " * 300, 8))
        assert talk.messages == []
        assert "".join(talk.say("word", 8))


def test_the_example_survives_an_interrupted_answer(tiny: Model) -> None:
    import chat_by_hand

    with Context.initFromModel(tiny, Context.Params(nCtx=512)) as ctx, Sampler.initGreedy() as sampler:
        talk = chat_by_hand.Chat(ctx, sampler, "chatml")
        answer = talk.say("Hello", 16)
        first = next(answer)
        answer.close()  # type: ignore[attr-defined]
        assert talk.messages[-1] == ChatMessage("assistant", first)
        assert _positions(ctx) == (0, len(talk.tokens) - 1)
        assert "".join(talk.say("Again", 8))


def _run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "chat_by_hand.py"), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)


def test_the_example_reads_a_pipe(tiny_path: Path) -> None:
    arguments = ["--model", str(tiny_path), "--template", "chatml", "-n", "8", "--seed", "3", "--ctx", "512"]
    first = _run(*arguments, text="Hello\n\nGrüße, 世界\n")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout) > 20
    assert _run(*arguments, text="Hello\n\nGrüße, 世界\n").stdout == first.stdout
    assert _run(*arguments).stdout == ""


def test_the_example_without_a_template(tiny_path: Path) -> None:
    result = _run("--model", str(tiny_path), text="Hello\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: this model has no chat template") and "--template" in result.stderr


def test_the_example_with_gemma(gemma_path: Path) -> None:
    arguments = ["--model", str(gemma_path), "--template", "gemma", "-n", "24", "--temperature", "0", "--ctx", "1024"]
    result = _run(*arguments, text="What is the capital of France?\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()  # what a base model says there is its own affair
