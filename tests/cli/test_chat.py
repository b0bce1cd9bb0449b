"""`python -m llama_cffi chat`: messages from the command line, a pipe and a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_cffi import ChatSession, Context, Model, Sampler
from tests.cli.commands import ROOT, environment, run

TEMPLATE = "chatml"
OPTIONS = ["--template", TEMPLATE, "-n", 12, "--temperature", 0, "-t", 2, "-c", 256]


@pytest.fixture(scope="module")
def expected(tiny: Model) -> list[str]:
    """Two answers, by the library itself."""
    params = Context.Params(nCtx=256, nThreads=2, nThreadsBatch=2)
    with Context.initFromModel(tiny, params) as ctx, Sampler.initGreedy() as sampler:
        session = ChatSession(ctx, system="Be brief.", template=TEMPLATE)
        return ["".join(session.send(text, sampler=sampler, maxTokens=12)) for text in ("Hello", "And then?")]


def lines(texts: list[str]) -> str:
    """What a command prints, as `subprocess` reads it."""
    return "".join(f"{text}\n" for text in texts).replace("\r", "\n")


def test_messages_of_the_command_line(tiny_path: Path, expected: list[str]) -> None:
    result = run("chat", "Hello", "And then?", "-m", tiny_path, "--system", "Be brief.", *OPTIONS)
    assert (result.returncode, result.stdout) == (0, lines(expected))
    assert re.search(r"prompt \d+ tokens \(\d+ more were there\), .*; answer 24 tokens", result.stderr)


def test_messages_of_a_pipe(tiny_path: Path, expected: list[str]) -> None:
    options = ["-m", tiny_path, "--system", "Be brief.", *OPTIONS, "-q"]
    result = run("chat", *options, stdin="Hello\n\nAnd then?\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == lines(expected)
    result = run("chat", *options, "--json", stdin="Hello\n/clear\nHello\n")
    first, again = (json.loads(line) for line in result.stdout.splitlines())
    assert first["answer"] == again["answer"] == expected[0]
    assert first["message"] == "Hello" and first["stop_reason"] == "length"
    assert first["usage"]["generated_tokens"] == 12
    assert run("chat", *options, stdin="").stdout == ""


def test_a_template_of_a_file(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ")
    options = ["chat", "Hello", "-m", tiny_path, *OPTIONS[2:], "-q"]
    one, other = run(*options, "--template-file", path), run(*options, "--template", TEMPLATE)
    assert one.returncode == other.returncode == 0 and one.stdout != other.stdout


def test_a_long_conversation_drops_its_beginning(tiny_path: Path) -> None:
    messages = [f"This is message number {i}, and it has some words." for i in range(12)]
    result = run("chat", *messages, "-m", tiny_path, *OPTIONS, "-q", "--json")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 12
    result = run("chat", "word " * 400, "-m", tiny_path, *OPTIONS)
    assert result.returncode == 1 and "the message does not fit the context" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["x"], 2, "no model: name one with -m FILE.gguf"),
        (["x", "-m", "TINY"], 1, "carries no chat template"),
        (["x", "-m", "TINY", "--template", "none-such"], 1, "--template NAME, --template-file FILE"),
        (["x", "-m", "TINY", "--template-file", "/nowhere"], 1, "--template-file /nowhere: No such file"),
        (["x", "-m", "TINY", "--template", "a", "--template-file", "b"], 2, "not allowed with argument"),
        (["x", "-m", "TINY", "--grammar", "a", "--json-schema", "b"], 2, "not allowed with argument"),
    ],
)
def test_errors(arguments: list[str], status: int, says: str, tiny_path: Path) -> None:
    result = run("chat", *(str(tiny_path) if argument == "TINY" else argument for argument in arguments))
    assert (result.returncode, result.stdout) == (status, "")
    assert says in result.stderr and "Traceback" not in result.stderr


class Terminal:
    """A chat whose stdin, stdout and stderr are a terminal."""

    def __init__(self, *arguments: object) -> None:
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "llama_cffi", "chat", *map(str, arguments)]
        self.child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(TERM="xterm"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """What is shown up to the end of the pattern; the rest is kept."""
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.shown!r}"
            if select.select([self.ours], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.ours, 4096).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.shown), f"{pattern!r} did not come: {self.shown!r}"
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def rest(self) -> str:
        """What a chat that has ended has left to show."""
        shown = b""
        try:
            while piece := os.read(self.ours, 4096):
                shown += piece
        except OSError:  # how a terminal's end is told
            pass
        return shown.decode(errors="replace")

    def end(self) -> int:
        status = self.child.wait(60)
        os.close(self.ours)
        return status


def test_a_terminal(tiny_path: Path, expected: list[str]) -> None:
    terminal = Terminal("-m", tiny_path, "--system", "Be brief.", *OPTIONS)
    terminal.wait_for(r"Ctrl-C ends an answer\r?\n")
    terminal.wait_for("> ")
    terminal.type("Hello\n")
    assert expected[0][:10] in terminal.wait_for(r"\n.*> ")
    terminal.type("/help\n")
    terminal.wait_for(r"/clear forgets")
    terminal.type("/exit\n")
    terminal.wait_for(r"loaded in .* tokens/s")
    assert terminal.end() == 0


def test_ctrl_c_ends_an_answer_and_then_the_chat(tiny_path: Path) -> None:
    terminal = Terminal("-m", tiny_path, "--template", TEMPLATE, "-n", 100000, "-t", 2, "--seed", 1, "-c", 0)
    terminal.wait_for("> ")
    terminal.type("Hello\n")
    terminal.wait_for(r"Hello\r?\n.{20}")
    terminal.child.send_signal(signal.SIGINT)
    terminal.wait_for(r"\n> ")
    while terminal.child.poll() is None:  # a signal between the prompt and the wait for a key only counts with a key
        terminal.child.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert re.search(r"loaded in .* tokens/s", terminal.shown + terminal.rest())
    assert terminal.end() == 130
