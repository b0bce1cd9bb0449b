"""`ChatSession` with images and sounds: parts of messages, the cache, files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import TOKEN_NULL, ChatSession, ChatTemplate, Context, ContextFullError, Mtmd, Sampler
from llama_cffi.chat import native
from llama_cffi.chat.content_parts import MediaReader, joined_parts
from tests.generate.conftest import CHATML
from tests.mtmd.counting import encodes
from tests.mtmd.samples import image, png, tone, wav

MakeContext = Callable[..., Context]
MARKER = "<__media__>"


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(seed: int, height: int = 28, width: int = 28) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(png(image(seed, height, width)))}}


def sound_part(hertz: float = 440.0) -> dict[str, Any]:
    data = base64.b64encode(wav(tone(0.3, hertz=hertz))).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def session(projector: Mtmd.Context | None, ctx: Context, **options: Any) -> ChatSession:
    return ChatSession(
        ctx, template=ChatTemplate(ctx.getModel(), CHATML), sampler=Sampler.initGreedy(), mtmd=projector, **options
    )


def say(chat: ChatSession, *parts: Any, limit: int = 4) -> Any:
    answer = chat.send(list(parts) or None, maxTokens=limit)
    answer.result()
    return answer


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a", "b"], "a\nb"),
        ([image_part(0), "a"], f"{MARKER}a"),
        (["a", image_part(0), {"type": "text", "text": "b"}, "c"], f"a{MARKER}b\nc"),
        (["a", sound_part(), image_part(0), "b"], f"a{MARKER}{MARKER}b"),
    ],
)
def test_texts_have_lines_and_media_have_none_around(parts: list[Any], text: str) -> None:
    """As llama-server joins parts."""
    assert joined_parts(parts, MARKER) == text


@pytest.mark.parametrize("chat_code", [True, False])
@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_the_prompt_is_the_template_s(
    name: str, chat_code: bool, request: pytest.FixtureRequest, make_ctx: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector: Mtmd.Context = request.getfixturevalue(name)
    if not chat_code:
        monkeypatch.setattr(native, "available", lambda: False)
    chat = session(projector, make_ctx(projector), system="be good")
    parts = ["see", image_part(1, 56, 112), "and", image_part(2), "what"]
    answer = say(chat, *parts)
    text = (
        f"<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\nsee{MARKER}and{MARKER}what<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    bitmaps = [Mtmd.Bitmap.fromImage(image(1, 56, 112)), Mtmd.Bitmap.fromImage(image(2))]
    chunks = projector.tokenize(text, bitmaps)
    expected: list[int] = []
    for chunk in chunks:
        expected += chunk.tokens if chunk.tokens is not None else [TOKEN_NULL] * chunk.nTokens
    assert answer.prompt == expected == chat.render()[: len(expected)]
    by_hand = make_ctx(projector)
    projector.evalChunks(by_hand, chunks)
    assert answer.tokens[:1] == [Sampler.initGreedy().sample(by_hand, -1)]


def test_an_image_is_not_encoded_again(
    llava: Mtmd.Context, make_ctx: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the next turn, nor after an edit before it, nor in another session."""
    with encodes(monkeypatch) as seen:
        chat = session(llava, make_ctx(llava))
        first = say(chat, image_part(31), "what is it")
        second = say(chat, "what else")
        assert second.usage.reusedTokens >= first.usage.promptTokens
        say(chat, image_part(31), "again")
        assert seen == [4]
        chat.system = "be brief"  # everything after it is decoded again
        third = say(chat, "and now")
        assert seen == [4] and third.usage.reusedTokens < 10
        other = session(llava, make_ctx(llava))
        say(other, "look", image_part(31))
        assert seen == [4]
        say(other, image_part(32), "another")
        assert seen == [4, 4]


def test_an_edited_turn_answers_like_a_new_session(qwen: Mtmd.Context, make_ctx: MakeContext) -> None:
    chat = session(qwen, make_ctx(qwen))
    say(chat, image_part(33, 56, 112), "what")
    say(chat, "why", image_part(34, 112, 56))
    chat.messages[0]["content"][0] = image_part(35, 112, 112)
    edited = say(chat, "how")
    fresh = session(qwen, make_ctx(qwen))
    fresh.messages[:] = chat.messages[:-2]
    assert say(fresh, "how").tokens == edited.tokens
    chat.messages[-2:] = []
    chat.messages[2]["content"].pop()
    edited = say(chat, "how")
    fresh = session(qwen, make_ctx(qwen))
    fresh.messages[:] = chat.messages[:-2]
    assert say(fresh, "how").tokens == edited.tokens


def test_plain_objects_become_parts(
    llava: Mtmd.Context, ultravox: Mtmd.Context, make_ctx: MakeContext, tmp_path: Path
) -> None:
    from PIL import Image

    pixels, samples = image(36), tone(0.3)
    (tmp_path / "image.png").write_bytes(png(pixels))
    (tmp_path / "sound.wav").write_bytes(wav(samples))
    for projector, media in (
        (llava, [tmp_path / "image.png", png(pixels), pixels, Image.fromarray(pixels), Mtmd.Bitmap.fromImage(pixels)]),
        (ultravox, [tmp_path / "sound.wav", wav(samples), samples, Mtmd.Bitmap.fromAudio(samples)]),
    ):
        tokens = set()
        for medium in media:
            chat = session(projector, make_ctx(projector))
            tokens.add(tuple(say(chat, medium, "it", limit=2).prompt))
            part = json.loads(json.dumps(chat.messages))[0]["content"][0]
            if projector is llava:
                assert part["image_url"]["url"].startswith("data:image/png;base64,")
                (bitmap,) = MediaReader(llava).read(chat.messages)[1]
                assert (np.asarray(bitmap.data) == pixels).all()
            else:
                assert part["input_audio"]["format"] == "wav"
                (bitmap,) = MediaReader(ultravox).read(chat.messages)[1]
                assert np.abs(np.asarray(bitmap.data) - samples).max() < 1e-4
        assert len(tokens) == 1


def test_saved_and_loaded(
    qwen: Mtmd.Context, make_ctx: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn of the loaded session decodes only what is new, and encodes nothing."""
    path = tmp_path / "chat"
    chat = session(qwen, make_ctx(qwen))
    say(chat, image(37, 56, 112), "what")
    say(chat, "why", image(38, 112, 56))
    chat.save(path)
    expected = say(chat, "how")
    template = ChatTemplate(qwen.getModel(), CHATML)
    options = {"template": template, "sampler": Sampler.initGreedy()}
    qwen._embeddings._kept.clear()
    with encodes(monkeypatch) as seen:
        loaded = ChatSession.load(make_ctx(qwen), path, mtmd=qwen, **options)
        answer = say(loaded, "how")
    assert answer.tokens == expected.tokens and seen == []
    assert answer.usage.reusedTokens == expected.usage.reusedTokens > 20
    assert loaded.messages == chat.messages
    without = ChatSession.load(make_ctx(qwen), path, **options)
    with pytest.raises(ValueError, match="mtmd="):
        without.send("how")


def test_a_damaged_file_is_refused(llava: Mtmd.Context, make_ctx: MakeContext, tmp_path: Path) -> None:
    from hashlib import sha256

    from llama_cffi import StateError
    from llama_cffi.chat import saved_session

    path = tmp_path / "chat"
    chat = session(llava, make_ctx(llava))
    say(chat, image_part(39), "what")
    chat.save(path)
    whole = path.read_bytes()
    magic, version, n_head, n_state, _, state = saved_session._HEADER.unpack_from(whole)
    start = saved_session._HEADER.size
    head = json.loads(whole[start : start + n_head])
    (medium,) = head["media"]
    assert version == 2 and medium[1] == 4
    for wrong in (
        [],
        [[*medium[:4]]],
        [[medium[0] + 1, *medium[1:]]],
        [[medium[0], 5, *medium[2:]]],
        [[-1, *medium[1:]]],
        [[medium[0], 4, 0, *medium[3:]]],
        [[medium[0], 4, 4, 10**9, medium[4]]],
        [[medium[0], True, 4, medium[3], medium[4]]],
        [[*medium[:4], ["a", 5, 0, 4, 4]]],
        [medium, medium],
        [7],
        {"a": 1},
    ):
        text = json.dumps({**head, "media": wrong}).encode()
        digest = sha256(text).digest()
        packed = saved_session._HEADER.pack(magic, version, len(text), n_state, digest, state)
        path.write_bytes(packed + text + whole[start + n_head :])
        with pytest.raises(StateError, match="damaged"):
            ChatSession.load(make_ctx(llava), path, mtmd=llava, template=chat.template)


@pytest.mark.parametrize(
    ("part", "error", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, ValueError, "data: URL.*not fetched"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ValueError, "data: URL"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, ValueError, "data: URL"),
        ({"type": "input_image", "image_url": "http://a/b"}, ValueError, "data: URL"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64"}}, ValueError, "comma"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,!!"}}, ValueError, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:,hello"}}, ValueError, "image.*sound"),
        ({"type": "image_url", "image_url": {}}, ValueError, r"image_url\.url"),
        ({"type": "image_url"}, ValueError, r"image_url\.url"),
        ({"type": "input_audio", "input_audio": {"data": 5}}, ValueError, r"input_audio\.data"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "ogg"}}, ValueError, "wav, mp3, flac"),
        (sound_part(), ValueError, "no sounds"),
        ({"type": "video_url", "video_url": {"url": "data:,"}}, ValueError, "video_url"),
        (np.zeros(5), ValueError, "32-bit"),
        (Path("missing.png"), FileNotFoundError, "missing"),
    ],
)
def test_parts_that_are_refused(
    part: Any, error: type[Exception], words: str, llava: Mtmd.Context, make_ctx: MakeContext
) -> None:
    chat = session(llava, make_ctx(llava))
    with pytest.raises(error, match=words):
        chat.send(["see", part])
    assert chat.messages == []


def test_media_need_a_projector(llava: Mtmd.Context, qwen: Mtmd.Context, make_ctx: MakeContext) -> None:
    chat = session(None, make_ctx(llava))
    assert chat.mtmd is None
    for part in (image_part(0), image(0)):
        with pytest.raises(ValueError, match="mtmd="):
            chat.send(["see", part])
    with pytest.raises(ValueError, match="a part"):
        chat.send([])
    assert say(chat, "only", "text").prompt
    with pytest.raises(ValueError, match="another model"):
        session(qwen, make_ctx(llava)).send([image_part(0), "it"])
    with pytest.raises(TypeError, match="an Mtmd.Context, got int"):
        session(5, make_ctx(llava))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mtmd="):
        ChatTemplate(llava.getModel(), CHATML).render([{"role": "user", "content": [image_part(0)]}])


def test_a_marker_in_a_text_is_not_an_image(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    chat = session(llava, make_ctx(llava))
    assert TOKEN_NULL not in say(chat, f"what is {MARKER}").prompt
    chat.messages.clear()
    with pytest.raises(ValueError, match="1 media.*got 2"):
        chat.send([f"what is {MARKER}", image_part(0)])


def test_old_images_are_dropped(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    chat = session(llava, make_ctx(llava, nCtx=256), overflow="drop")
    for turn in range(6):
        say(chat, *[image_part(40 + turn)] * 10, "what", limit=3)
    assert chat.dropped and len(chat.messages) < 12
    with pytest.raises(ContextFullError, match="newest turn"):
        chat.send([image_part(40)] * 80)
