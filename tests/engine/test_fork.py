"""Forks at any moment of an engine's work: in the child, every request is told."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.engine.test_process import run_program

_CHECK = """
import random, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork with threads

def child_of(requests):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        for request in requests:
            try:
                request.result(5)
            except ForkError:
                pass
            assert request.done
            try:
                list(request)
            except ForkError:
                pass
        status = 0
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
    finally:
        os._exit(status)
"""


def _program(text: str) -> str:
    return _CHECK + textwrap.dedent(text)


@pytest.mark.slow
def test_forks_at_random_moments(tiny_path: Path) -> None:
    ended = run_program(
        tiny_path,
        _program(
            """
        told, dice = 0, random.Random(1)
        requests = []
        for n in range(120):
            requests = [request for request in requests if not request.done]
            requests += [engine.submit(f"{n} {k}", maxTokens=dice.randint(1, 4)) for k in range(3)]
            time.sleep(0.002 * dice.random())
            told += child_of(requests) == 0
        print("told:", told)
        engine.close()
        """
        ),
        timeout=300,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "told: 120\n")


@pytest.mark.slow
def test_a_fork_at_each_call_of_the_engine(tiny_path: Path) -> None:
    """The engine's thread stops at each call of Python and of C that it makes for a request, and the process forks."""
    ended = run_program(
        tiny_path,
        _program(
            """
        engine.close()
        reached, go, folder = threading.Event(), threading.Event(), os.path.dirname(sys.modules["llama_cffi"].__file__)
        wanted = passed = 0

        def pause(frame, event, argument):
            global passed
            if threading.current_thread().name != "llama_cffi-engine":
                return
            if not frame.f_code.co_filename.startswith(folder):
                return
            passed += 1
            if passed == wanted:
                reached.set()
                go.wait(50)

        threading.setprofile(pause)
        engine = Engine(model, nCtx=256, nSeqMax=2, nThreads=1)
        threading.setprofile(None)
        told = points = 0
        while True:
            reached.clear(), go.clear()
            passed, wanted = 0, points + 1
            requests = [engine.submit("a", maxTokens=2), engine.submit("b", maxTokens=1)]
            while not reached.wait(0.001) and not all(request.done for request in requests):
                pass
            if not reached.is_set():
                break
            points += 41
            told += child_of(requests) == 0
            go.set()
            for request in requests:
                request.result(50)
        print("told:", told == points // 41 and told > 20 or (told, points))
        engine.close()
        """
        ),
        timeout=300,
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "told: True\n")
