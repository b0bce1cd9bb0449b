"""`python -m llama_cffi chat` and `complete` with images and sounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cffi import ChatSession, Context, Generation, Mtmd, Sampler
from tests.cli.commands import run
from tests.mtmd.samples import image, png, tone, wav

MakeContext = Callable[..., Context]
OPTIONS = ["-n", 8, "--temperature", 0, "-t", 1, "-c", 256, "-q"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "image.png").write_bytes(png(image(51)))
    (tmp_path / "sound.wav").write_bytes(wav(tone(0.3)))
    return tmp_path / "image.png", tmp_path / "sound.wav"


def test_complete(
    tiny_path: Path, llava_path: Path, llava: Mtmd.Context, make_ctx: MakeContext, files: tuple[Path, Path]
) -> None:
    given = ["-m", tiny_path, "--mmproj", llava_path, "--image", files[0], *OPTIONS, "--json"]
    for prompt, text in (("it is", "<__media__>\nit is"), ("see <__media__> it", "see <__media__> it")):
        expected = Generation(
            make_ctx(llava), text, media=[files[0]], mtmd=llava, sampler=Sampler.initGreedy(), maxTokens=8
        )
        expected.result()
        result = run("complete", prompt, *given)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["tokens"] == expected.tokens


def test_chat(
    tiny_path: Path, llava_path: Path, llava: Mtmd.Context, make_ctx: MakeContext, files: tuple[Path, Path]
) -> None:
    chat = ChatSession(make_ctx(llava), template="chatml", mtmd=llava, sampler=Sampler.initGreedy())
    parts: list[object] = [files[0], "what is <__media__>"]  # the command has a marker of its own
    with pytest.raises(ValueError, match="marker"):
        chat.send(parts)
    answer = chat.send([files[0], "what is it"], maxTokens=8)
    expected = [answer.result(), chat.send("why", maxTokens=8).result()]
    given = ["-m", tiny_path, "--mmproj", llava_path, "--template", "chatml", "--image", files[0], *OPTIONS, "--json"]
    result = run("chat", "what is it", "why", *given)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["answer"] for line in result.stdout.splitlines()] == expected
    assert run("chat", "what is <__media__>", *given).returncode == 0


@pytest.mark.parametrize("command", ["complete", "chat"])
def test_wrong_options(
    command: str, tiny_path: Path, llava_path: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    template = ["--template", "chatml"] if command == "chat" else []
    for options, code, words in (
        (["--image", files[0]], 2, "--mmproj"),
        (["--mmproj", llava_path, "--audio", files[1]], 1, "no sounds"),
        (["--mmproj", llava_path, "--image", tmp_path / "no.png"], 1, "no.png"),
        (["--mmproj", tiny_path], 1, "mmproj"),
    ):
        result = run(command, "it", "-m", tiny_path, *template, *options, *OPTIONS)
        assert result.returncode == code and words in result.stderr and "Traceback" not in result.stderr
