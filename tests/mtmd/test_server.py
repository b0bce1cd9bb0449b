"""Images and sounds in requests to the server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ChatTemplate, Engine, Mtmd
from llama_cffi.cli import serve
from llama_cffi.cli.output import CommandError
from llama_cffi.server import ServedModel
from tests.generate.conftest import CHATML
from tests.mtmd.samples import image, png, png_head
from tests.mtmd.test_chat import image_part, sound_part
from tests.server.serving import Running, running

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest.fixture(scope="module")
def server(llava: Mtmd.Context, ultravox: Mtmd.Context) -> Iterator[Running]:
    template = ChatTemplate(llava.getModel(), CHATML)
    options: dict[str, Any] = {"nCtx": 2048, "nSeqMax": 2, "nThreads": 1}
    with (
        Engine(llava.getModel(), mtmd=llava, **options) as sees,
        Engine(ultravox.getModel(), mtmd=ultravox, **options) as hears,
        Engine(llava.getModel(), **options) as reads,
    ):
        models = {name: ServedModel(e, template=template) for name, e in (("sees", sees), ("hears", hears))}
        with running({**models, "reads": ServedModel(reads, template=template)}) as found:
            yield found


def chat(*parts: Any, model: str = "sees", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 4, **more}


def text(words: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": words}


def test_an_image_and_the_same_one_again(server: Running, llava: Mtmd.Context) -> None:
    body = chat(text("what"), image_part(71), text("is it"), temperature=0)
    first, second = server.ok(CHAT, **body), server.ok(CHAT, **body)
    other = server.ok(CHAT, **chat(text("what"), image_part(72), text("is it"), temperature=0))
    plain = server.ok(CHAT, **chat(text("what"), text("is it"), temperature=0))
    content = [found["choices"][0]["message"]["content"] for found in (first, second, other)]
    assert content[0] == content[1] != content[2]
    assert first["usage"]["prompt_tokens"] >= plain["usage"]["prompt_tokens"] + 4


def test_a_sound(server: Running) -> None:
    found = server.ok(CHAT, **chat(sound_part(), text("what"), model="hears"))
    assert found["usage"]["prompt_tokens"] > 50


def test_a_stream(server: Running) -> None:
    events = server.events(CHAT, **chat(image_part(73), text("what")))
    assert len(events) > 2


def test_responses(server: Running) -> None:
    url = image_part(74)["image_url"]["url"]
    parts = [text("what", "input_text"), {"type": "input_image", "image_url": url, "detail": "auto"}]
    given = [{"role": "user", "content": parts + [text("is it", "input_text")]}]
    found = server.ok(RESPONSES, model="sees", input=given, max_output_tokens=4)
    assert found["usage"]["input_tokens"] > 4 and found["output"]


def test_projectors_of_the_command(tiny_path: Path, llava_path: Path, tmp_path: Path) -> None:
    def load(*options: object) -> dict[str, ServedModel]:
        given = ["-m", f"a={tiny_path}", "-m", f"b={tiny_path}", "-p", "1", "-c", "256", "-t", "1", "-q"]
        args = serve.make_parser().parse_args([*given, *map(str, options)])
        with ExitStack() as stack:
            served = serve._load(args, stack)
            assert all(part.engine is not None for part in served.values())
            return {name: part for name, part in served.items() if part.engine and part.engine._mtmd is not None}

    assert list(load()) == []
    assert list(load("--mmproj", llava_path)) == ["a"]
    assert list(load("--mmproj", f"b={llava_path}")) == ["b"]
    with pytest.raises(CommandError, match="--mmproj.*'c'"):
        load("--mmproj", f"c={llava_path}")
    with pytest.raises(OSError, match="missing"):
        load("--mmproj", tmp_path / "missing.gguf")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "https://127.0.0.1:1/a.png"}}, "data: URL"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "data: URL"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "data: URL"),
        ({"type": "image_url", "image_url": "image.png"}, "data: URL"),
        ({"type": "image_url"}, "image_url.url"),
        ({"type": "input_image", "file_id": "file-1"}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "ogg"}}, "wav, mp3, flac"),
        (sound_part(), "no sounds"),
        ({"type": "file", "file": {"file_id": "1"}}, "not supported"),
    ],
)
def test_what_is_refused(part: Any, words: str, server: Running) -> None:
    error = server.error(400, CHAT, **chat(text("what"), part, text("it")))
    assert words in error["message"] and error["param"].startswith("messages")
    given = [{"role": "user", "content": [part, text("it", "input_text")]}]
    assert words in server.error(400, RESPONSES, model="sees", input=given)["message"]


def test_limits(server: Running) -> None:
    bomb = base64.b64encode(png_head(40000, 2)).decode()
    large = base64.b64encode(png_head(30000, 30000)).decode()
    for data in (bomb, large):
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        error = server.error(400, CHAT, **chat(part, text("it")))
        assert "maxPixels=67108864" in error["message"]
    assert server.error(400, CHAT, **chat(*[image_part(0)] * 600, text("it")))["code"] == "context_length_exceeded"
    truncated = base64.b64encode(png(image(0))[:-40]).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{truncated}"}}
    assert "decoded" in server.error(400, CHAT, **chat(part, text("it")))["message"]


def test_a_model_without_a_projector_and_other_roles(server: Running) -> None:
    error = server.error(400, CHAT, **chat(image_part(0), text("it"), model="reads"))
    assert "--mmproj" in error["message"] and error["code"] == "unsupported_parameter"
    messages = [{"role": "system", "content": [image_part(0)]}, {"role": "user", "content": "it"}]
    assert server.error(400, CHAT, model="sees", messages=messages)["param"] == "messages[0].content[0]"
