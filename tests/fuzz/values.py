"""Arguments for the steps, as source text: what a caller should write, and what nobody should.

A kind is the name of a placeholder in `calls.txt`. Its value is a valid one most of the time, and sometimes one of
ABSURD. Kinds that are objects are drawn from those that the machine has made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from llama_cffi import Context, Model, Mtmd, Sampler
from tests.fuzz.calls import sections

OBJECTS = {
    **dict.fromkeys(("batch", "sampler", "view"), 4),
    **dict.fromkeys(("ctx", "chain", "cands", "state"), 3),
    **dict.fromkeys(("model", "ext", "adapter", "pool", "memory", "vocab", "row", "config", "message"), 2),
    **dict.fromkeys(("cparams", "mparams", "generation", "session", "embedder", "reranker", "constraint"), 2),
    **dict.fromkeys(("engine", "request", "llm", "gguf", "gtensor"), 2),
    **dict.fromkeys(("tensor",), 6),
    **dict.fromkeys(("gctx", "graph"), 2),
    **dict.fromkeys(("plan", "backend", "gbuf", "galloc", "sched", "opt", "odata", "oresult", "oparams"), 1),
    **dict.fromkeys(("proj", "bitmap", "parts", "part"), 2),
    **dict.fromkeys(("qparams", "sparams", "device", "buft", "perf"), 1),
}
"""Kinds of objects, and how many names there are for each: a name that is assigned again lets the old object go."""


def _read(section: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, values in sections("values.txt")[section]:
        found.setdefault(kind, []).extend(re.split(" {3,}", values))
    return found


def _fields(cls: type, section: str = "") -> dict[str, list[str]]:
    """Values of each attribute of a parameter class: those of the file, or some by what it is now."""
    typical, plain = _read(section) if section else {}, cls()
    return {name: typical.get(name) or _like(getattr(plain, name)) for name in cls._fields()}  # type: ignore[attr-defined]


def _like(value: object) -> list[str]:
    if isinstance(value, bool):
        return ["True", "False"]
    if hasattr(type(value), "__members__"):
        return [str(int(member)) for member in type(value)]  # type: ignore[attr-defined]
    if isinstance(value, float):
        return ["0", "1", "0.5", "100.0", "-1.0"]
    return ["0", "1", "2"] if isinstance(value, int) else ["None", "{absurd}"]


ABSURD = _read("absurd")["absurd"]

FIELDS = {
    "cfields": _fields(Context.Params, "context"),
    "mfields": _fields(Model.Params, "model"),
    "qfields": _fields(Model.QuantizeParams, "quantize"),
    "sfields": _fields(Sampler.ChainParams),
    "pfields": _fields(Mtmd.Context.Params),
}
"""Keyword arguments of the classes of parameters."""


def _tokens(rng: Random) -> str:
    numbers = [rng.randrange(60) for _ in range(rng.choice((1, 1, 2, 3, 5, 8, 20, 40)))]
    shapes = ("{}", "{}", "{}", "tuple({})", "array('i', {})", "np.array({}, np.int32)", "range(3, 9)")
    return rng.choice(shapes).format(numbers)


def _floats(rng: Random) -> str:
    shapes = ("np.zeros({}, np.float32)", "array('f', [0.25] * {})", "np.full({}, nan, np.float32)")
    return rng.choice(shapes).format(rng.choice((1, 3, 32, 32, 32, 64, 332)))


def _buffer(shapes: tuple[str, ...], sizes: tuple[int, ...]) -> Callable[[Random], str]:
    """A buffer and the length that belongs to it, or does not."""

    def draw(rng: Random) -> str:
        n = rng.choice(sizes)
        return f"{rng.choice(shapes).format(n)}, {n if rng.random() < 0.8 else rng.choice(ABSURD)}"

    return draw


def _one_of(choices: list[str]) -> Callable[[Random], str]:
    return lambda rng: rng.choice(choices)


def _numbers(low: int, high: int) -> Callable[[Random], str]:
    return lambda rng: str(rng.randint(low, high))


PLAIN: dict[str, Callable[[Random], str]] = {
    **{kind: _one_of(choices) for kind, choices in _read("plain").items()},
    "token": _numbers(0, 59),
    "pos": _numbers(-1, 60),
    "seq": _numbers(0, 3),
    "small": _numbers(-1, 9),
    "tokens": _tokens,
    "floats": _floats,
    "buffer": _buffer(
        ("bytearray({})", "ffi.new('char[]', {})", "np.zeros({}, np.int8)", "bytes({})"), (0, 1, 16, 5000)
    ),
    "tokenbuffer": _buffer(("array('i', [0] * {})", "ffi.new('int32_t[]', {})", "bytearray(4 * {})"), (0, 1, 4, 64)),
}
"""How a value of each kind is drawn. All vocabularies have more than 60 tokens."""
