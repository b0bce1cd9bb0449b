"""`child` with operations that do not survive interruptions, each in its own way: the program must find them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.interrupts import child
from tests.interrupts.points import PACKAGE

VERDICTS = {
    "sound": "",
    "a lock stays": "harmed",
    "a file stays open": "leaked",
    "objects stay": "leaked",
    "memory of C stays": "leaked",
    "an object dies": "",
    "the process dies": "killed",
    "a loop without end": "stuck",
}
"""Names, and what an interruption makes of them."""

# Only code of the package is interrupted.
_CODE = """
def lock():
    if state.lock:
        raise RuntimeError("it is locked")
    state.lock = True
    begin_step()
    state.lock = False

def file():
    opened = os.open("/dev/null", os.O_RDONLY)
    begin_step()
    os.close(opened)

def objects():
    state.kept.append([[] for _ in range(3000)])
    begin_step()
    state.kept.pop()

def memory():
    pointer = malloc(4 << 20)
    begin_step()
    free(pointer)

def dead():
    if state.dead:
        raise ClosedError("it is closed")
    state.dead = True
    begin_step()
    state.dead = False

def killed():
    try:
        begin_step()
    except BaseException:
        os.kill(os.getpid(), 9)

def stuck():
    try:
        begin_step()
    except BaseException:
        while True:
            pass

def sound():
    begin_step()

def begin_step():
    1 + 1
"""


def faulty(folder: Path) -> dict[str, Callable[[], Callable[[], object]]]:
    """Operations in place of those of `tests.interrupts.operations`."""
    import ctypes
    import os
    from types import SimpleNamespace

    from llama_cffi import ClosedError

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    state = SimpleNamespace(kept=[], lock=False, dead=False)
    names: dict[str, Any] = {"os": os, "ClosedError": ClosedError, "malloc": libc.malloc, "free": libc.free}
    names["state"] = state
    exec(compile(_CODE, f"{PACKAGE}/faulty.py", "exec"), names)

    def prepared(name: str) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            state.lock = state.dead = False
            function: Callable[[], object] = names[name]
            return function

        return prepare

    functions = ("sound", "lock", "file", "objects", "memory", "dead", "killed", "stuck")
    return {verdict: prepared(name) for verdict, name in zip(VERDICTS, functions, strict=True)}


if __name__ == "__main__":
    child.operations = faulty  # type: ignore[assignment]
    child.PATIENCE_S = 5.0
    child.TRANSIENT_S = 0.1
    child.main()
