"""How a contestant talks: for the programs in this folder, in whose environments there is nothing but a peer.

A contestant is a process, `python PROGRAM CASE key=value ...`. It prepares, prints a line `{"ready": true, ...}`, and
does one repetition for each line that it reads, which it answers with a line of JSON: seconds, items, and a check by
which contestants that did the same work are alike. Cases that are a whole process (`load`, `import`, `memory`) answer
at once, with that one line. Where a peer has no such thing, the line is `{"ready": false, "why": ...}`.

Only these lines get to stdout: whatever else a library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

N_SEQ = 8
"""How many sequences share the tokens of the case `batch`."""


@dataclass
class Given:
    """What a case works on."""

    backend: str = ""
    """The file of the CPU backend's variant; a peer with libraries of its own has no use for it."""
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

    @classmethod
    def parse(cls, words: Iterable[str]) -> Given:
        """Read `key=value` words. Raises ValueError for a key that there is not."""
        given = cls()
        known = {each.name for each in fields(cls)}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in known:
                raise ValueError(f"{word!r} is no key=value with one of the keys {', '.join(sorted(known))}")
            kind = type(getattr(given, key))
            setattr(given, key, [*map(int, value.split(","))] if kind is list else kind(value))
        return given


class Unavailable(Exception):
    """The peer has no such thing; the text says what is missing."""


Case = Callable[[Given], None]


def ready(**more: Any) -> None:
    """Say that the preparation is done."""
    _print({"ready": True, **more})


def repetitions() -> Iterator[None]:
    """One round for each line that is read."""
    for _ in sys.stdin:
        yield


def answer(seconds: float, items: int, check: str, **more: Any) -> None:
    """Tell the result of a repetition."""
    _print({"seconds": seconds, "items": items, "check": check, **more})


def run(cases: Mapping[str, Case], words: Sequence[str] | None = None) -> NoReturn:
    """Run the case that the command line names, and end the process."""
    words = sys.argv[1:] if words is None else words
    name = words[0] if words else ""
    try:
        if name not in cases:
            raise Unavailable(f"no case {name!r}: there are {', '.join(cases)}")
        cases[name](Given.parse(words[1:]))
    except Unavailable as why:
        _print({"ready": False, "why": str(why)})
    except Exception as error:
        traceback.print_exc()
        _print({"ready": False, "why": f"{type(error).__name__}: {error}"})
        _leave(1)
    _leave(0)


def _leave(status: int) -> NoReturn:
    """Without the library's own ending, which is in no number, and which not every peer survives."""
    sys.stderr.flush()
    os._exit(status)


def digest(data: bytes | str | list[int]) -> str:
    """FNV-1a with 64 bits; tokens count as 32-bit integers."""
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
    """What this process holds, in bytes: now, at most, and now by kind."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    names = {"rss": "VmRSS", "rss_peak": "VmHWM", "rss_anon": "RssAnon", "rss_file": "RssFile"}
    return {key: 1024 * int(lines[name].split()[0]) for key, name in names.items()}


_answers = -1
"""The descriptor that the answers go to."""


def _print(values: dict[str, Any]) -> None:
    global _answers
    sys.stdout.flush()
    if _answers < 0:
        take_stdout()
    os.write(_answers, json.dumps(values).encode() + b"\n")


def take_stdout() -> None:
    """Keep stdout for the answers: what prints there from now on is seen on stderr."""
    global _answers
    if _answers < 0:
        _answers = os.dup(1)
        os.dup2(2, 1)
