"""What becomes of an engine when its process ends or forks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_BEGIN = """
import os, sys, threading
from llama_cffi import *
Ggml.Backend.cpuLoad()
model = Model.load(sys.argv[1])
engine = Engine(model, nCtx=2048, nThreads=1)
"""


def run_program(tiny_path: Path, program: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program with an `engine` in an interpreter of its own."""
    command = [sys.executable, "-X", "faulthandler", "-c", _BEGIN + textwrap.dedent(program), str(tiny_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize(
    "program",
    [
        "",
        "engine.submit('a', maxTokens=1900)",
        "next(iter(engine.submit('a', maxTokens=1900)))",
        "requests = [engine.submit(f'{k}', maxTokens=100) for k in range(40)]; requests[0].result()",
        "threading.Thread(target=engine.submit('a', maxTokens=1900).result, daemon=True).start()",
        "import asyncio\nasync def ask(): return await engine.submit('a', maxTokens=5)\nasyncio.run(ask())",
        "engine.close(); engine.close()",
    ],
)
def test_an_interpreter_that_ends(tiny_path: Path, program: str) -> None:
    ended = run_program(tiny_path, program + "\nprint('end')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")


def test_an_exception_reaches_the_user(tiny_path: Path) -> None:
    ended = run_program(
        tiny_path, "request = engine.submit('a', maxTokens=1900)\nnext(iter(request))\nraise SystemExit(3)"
    )
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_child_cannot_use_the_engine_and_is_told_so(tiny_path: Path) -> None:
    ended = run_program(
        tiny_path,
        """
        request = engine.submit('a', maxTokens=1900)
        next(iter(request))
        child = os.fork()
        if child == 0:
            for what in (lambda: engine.submit('b'), request.result, lambda: list(request)):
                try:
                    what()
                except ForkError as error:
                    print("refused:", str(error).partition(":")[0])
            engine.close()
            sys.stdout.flush()
            os._exit(0)
        print("child:", os.waitpid(child, 0)[1])
        request.cancel()
        request.result()
        print("parent:", len(engine.submit('c', maxTokens=7).result()) > 0)
        """,
    )
    batch_error = "refused: this engine belongs to the parent process\n"
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == 3 * batch_error + "child: 0\nparent: True\n"


def test_a_fork_while_a_request_ends(tiny_path: Path) -> None:
    """The engine's thread has taken it off its lists, but its end is not published yet."""
    ended = run_program(
        tiny_path,
        """
        entered, go = threading.Event(), threading.Event()
        cells = engine._scheduler._cells
        close = cells.close
        def slow(*arguments, **options):
            entered.set()
            go.wait(50)
            close(*arguments, **options)
        cells.close = slow
        request = engine.submit('a', maxTokens=2)
        entered.wait(50)
        child = os.fork()
        if child == 0:
            try:
                request.result(5)
            except (ForkError, TimeoutError) as error:
                print(type(error).__name__)
            sys.stdout.flush()
            os._exit(0)
        print("child:", os.waitpid(child, 0)[1])
        go.set()
        request.result()
        print("parent:", request.done)
        """,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "ForkError\nchild: 0\nparent: True\n"
