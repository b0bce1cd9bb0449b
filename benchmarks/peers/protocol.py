"""The protocol of the contestants. It imports nothing of this project: a peer's environment has only the peer.

A contestant is a process, `python PROGRAM CASE key=value ...`. It prepares, prints `{"ready": true, ...}`, and does one
repetition for each line that it reads. It answers each with a line of JSON: seconds, items, and a check that is equal
for contestants that computed the same. Cases that are a whole process (`load`, `import`, `memory`) print only that
line. A peer that lacks the feature prints `{"ready": false, "why": ...}`.

Only these lines go to stdout; other output of a library goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

N_SEQ = 8
"""The number of sequences in the case `batch`."""


@dataclass
class Given:
    """The arguments of a case."""

    backend: str = ""
    """The file of the CPU variant; peers with their own libraries ignore it."""
    model: str = ""
    text: str = ""
    file: str = ""
    prompt: list[int] = field(default_factory=lambda: [1])
    ctx: int = 1024
    batch: int = 512
    threads: int = 1
    tokens: int = 64
    calls: int = 1000
    seed: int = 1
    seqs: int = 1
    seconds: float = 5.0
    """How long `benchmarks/busy_loop.py` measures."""
    margin: float = 0.3
    """How long it also generates before and after that."""
    every: int = 0
    """1: import every public name. Peers ignore it: their import loads all of them."""

    @classmethod
    def parse(cls, words: Iterable[str]) -> Given:
        """Parse `key=value` arguments. Raises ValueError for an unknown key."""
        given = cls()
        known = {each.name for each in fields(cls)}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in known:
                raise ValueError(f"expected key=value with a key of {', '.join(sorted(known))}, got {word!r}")
            kind = type(getattr(given, key))
            setattr(given, key, [*map(int, value.split(","))] if kind is list else kind(value))
        return given


class Unavailable(Exception):
    """The peer lacks this feature; the message says what is missing."""


Case = Callable[[Given], None]


def ready(**more: Any) -> None:
    """Report that the preparation is done."""
    _print({"ready": True, **more})


def repetitions() -> Iterator[None]:
    """Yield once per line of stdin."""
    for _ in sys.stdin:
        yield


def answer(seconds: float, items: int, check: str, **more: Any) -> None:
    """Print the result of a repetition."""
    _print({"seconds": seconds, "items": items, "check": check, **more})


def run(cases: Mapping[str, Case], words: Sequence[str] | None = None) -> NoReturn:
    """Run the case named on the command line and end the process."""
    words = sys.argv[1:] if words is None else words
    name = words[0] if words else ""
    try:
        if name not in cases:
            raise Unavailable(f"unknown case {name!r}: expected one of {', '.join(cases)}")
        cases[name](Given.parse(words[1:]))
    except Unavailable as why:
        _print({"ready": False, "why": str(why)})
    except Exception as error:
        traceback.print_exc()
        _print({"ready": False, "why": f"{type(error).__name__}: {error}"})
        _exit(1)
    _exit(0)


def _exit(status: int) -> NoReturn:
    """End without the library's cleanup, which is not measured and crashes some peers."""
    sys.stderr.flush()
    os._exit(status)


def digest(data: bytes | str | list[int]) -> str:
    """The 64-bit FNV-1a hash; tokens are hashed as 32-bit integers."""
    if isinstance(data, str):
        data = data.encode()
    elif isinstance(data, list):
        data = struct.pack(f"<{len(data)}i", *data)
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def filling(n_tokens: int) -> list[int]:
    """The tokens of the cases `batch`, `state` and `logits512`."""
    return [100 + i % 1000 for i in range(n_tokens)]


def memory() -> dict[str, int]:
    """The resident memory of this process in bytes: now, at its peak, and now by kind."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    names = {"rss": "VmRSS", "rss_peak": "VmHWM", "rss_anon": "RssAnon", "rss_file": "RssFile"}
    return {key: 1024 * int(lines[name].split()[0]) for key, name in names.items()}


_answers = -1
"""The file descriptor for answers."""


def import_cpu(statement: str, folder: str = "") -> float:
    """The seconds of CPU time that a statement adds to a new interpreter. `folder` is searched for modules first.

    Nothing else is imported there: neither this protocol nor what the environment's .pth files start. A first run
    compiles the modules, and is not counted.
    """
    paths = [*filter(None, [folder]), *dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))]
    bare = f"import sys, site; sys.path[:0] = {paths!r}"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-S", "-c", code], env=env, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    code = f"{bare}\n{statement}"
    seconds(code)
    return seconds(code) - seconds(bare)


def _print(values: dict[str, Any]) -> None:
    global _answers
    sys.stdout.flush()
    if _answers < 0:
        take_stdout()
    os.write(_answers, json.dumps(values).encode() + b"\n")


def take_stdout() -> None:
    """Keep stdout for the answers; anything else printed there goes to stderr from now on."""
    global _answers
    if _answers < 0:
        _answers = os.dup(1)
        os.dup2(2, 1)
