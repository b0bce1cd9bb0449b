"""Points inside the facade at which Python code can be interrupted, and an exception at the n-th of them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sysconfig
from pathlib import Path
from types import FrameType

import llama_cffi
from vendor.tools import compilers

PACKAGE = str(Path(llama_cffi.__file__).parent)
_SOURCE = Path(__file__).with_suffix(".c")

KINDS = ("line", "call", "opcode")
"""`line`: each line, call and return, as a debugger sees them. `call`: each call and return, of C functions too, as a
profiler sees them. `opcode`: each instruction of the bytecode."""


class Interrupted(BaseException):
    """Raised at a point."""


def build(folder: Path) -> None:
    """Compile `points.c` for this Python into a folder."""
    include = sysconfig.get_paths()["include"]
    command = [
        *compilers()[0],
        "-O2",
        "-shared",
        "-fPIC",
        f"-I{include}",
        str(_SOURCE),
        "-o",
        str(folder / "points.so"),
    ]
    subprocess.run(command, check=True)


class Tracer:
    """The compiled `points.c` of a folder."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.PyDLL(str(folder / "points.so"))
        self.start, self.stop, self.place = library.start, library.stop, library.place
        self.start.argtypes, self.start.restype = (
            [ctypes.py_object, ctypes.py_object, ctypes.c_int, ctypes.c_long],
            None,
        )
        self.stop.restype, self.place.restype = ctypes.c_long, ctypes.py_object


class Points:
    """Counts the points that a block passes, and raises `Interrupted` once, at the n-th (0: never)."""

    def __init__(self, tracer: Tracer, kind: str, n: int = 0) -> None:
        self.tracer, self.kind, self.n = tracer, ord(kind[0]), n
        self.count = 0
        self.where = ""

    def __enter__(self) -> Points:
        self.tracer.start(PACKAGE, Interrupted, self.kind, self.n)
        return self

    def __exit__(self, *error: object) -> None:
        self.count = self.tracer.stop()
        self.where = self.tracer.place().replace(PACKAGE + "/", "")


class Signals:
    """A signal about every millisecond. Its handler raises `Interrupted` twice, the second while the first unwinds."""

    RAISED = 2

    def __init__(self) -> None:
        self.left = 0  # how often the handler may still raise
        signal.signal(signal.SIGALRM, self._raise)

    def arm(self) -> None:
        self.left = self.RAISED
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.00103)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.left > 0:
            self.left -= 1
            raise Interrupted("signal")

    def disarm(self) -> None:
        """Stop the signals. It cannot be interrupted once `left` is 0."""
        self.left = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
