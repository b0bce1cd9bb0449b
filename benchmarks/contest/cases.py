"""The cases of the contest: what is measured, on which inputs, how often, and the targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.contest.inputs import Inputs

C, FACADE, PEER = "C", "facade", "llama-cpp-python"

TEXT = "It was a bright cold day, and the train to the coast was late again. The old man at the window"

Unit = Literal["per second", "microseconds", "milliseconds", "megabytes"]


@dataclass(frozen=True)
class Target:
    """A target: a ratio of the facade's speed to that of another contestant, or a limit on its own figure."""

    limit: float
    against: str = ""
    """The other contestant; empty: the limit applies to the facade's figure."""
    most: bool = False
    """True if it is an upper limit."""
    minus: str = ""
    """A contestant whose figure is subtracted first."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    title: str
    program: str
    """The name of the case in the contestants' programs."""
    unit: Unit
    rounds: int
    quick: int
    """Rounds with --quick; 0 leaves the case out."""
    words: dict[str, Any] = field(default_factory=dict)
    quick_words: dict[str, Any] = field(default_factory=dict)
    model: Callable[[Inputs], Any] = lambda inputs: inputs.small
    once: bool = False
    """True if each repetition is a new process."""
    figure: str = "seconds"
    """The key of the measured number in an answer."""
    targets: tuple[Target, ...] = ()
    same: bool = True
    """True if the C program and the facade must produce the same bits."""
    without: tuple[str, ...] = ()
    compared: bool = True
    """False if a ratio to the C program is meaningless, as for a pointer that costs C nothing."""


def all_cases(inputs: Inputs, threads: int) -> list[Case]:
    """All cases; `threads` is the number of CPU threads of the models."""
    gemma, wide = lambda inputs: inputs.gemma, lambda inputs: inputs.wide
    stream = {"text": TEXT, "threads": 1}
    many = {"calls": 20_000}
    return [
        Case(
            "greedy-gemma", "greedy loop, Gemma 3 270M", "greedy", "per second", 15, 5,
            {"tokens": 32, "threads": threads}, {"tokens": 12}, gemma, targets=(Target(0.99, C),),
        ),
        Case(
            "greedy-32k", "greedy loop, 4 M, 32,000 tokens", "greedy", "per second", 31, 11,
            {"tokens": 512}, {"tokens": 256}, targets=(Target(0.97, C),),
        ),
        Case(
            "greedy-262k", "greedy loop, 4 M, 262,144 tokens", "greedy", "per second", 15, 5,
            {"tokens": 256}, {"tokens": 64}, wide,
        ),
        Case(
            "stream-32k", "streamed text with a chain, 4 M", "stream", "per second", 31, 11,
            {**stream, "tokens": 512}, {"tokens": 256}, targets=(Target(0.95, C), Target(1.8, PEER)),
        ),
        Case(
            "stream-gemma", "streamed text with a chain, Gemma", "stream", "per second", 9, 0,
            {**stream, "tokens": 32, "threads": threads}, {}, gemma,
        ),
        Case(
            "tokenize", "tokenize 1 MB, Gemma", "tokenize", "per second", 9, 3,
            {"file": inputs.text}, {}, gemma, targets=(Target(0.95, C),),
        ),
        Case(
            "detokenize", "detokenize 1 MB, Gemma", "detokenize", "per second", 9, 3,
            {"file": inputs.text}, {}, gemma, same=False,
        ),
        Case(
            "tokenize-llama", "tokenize 1 MB, Llama", "tokenize", "per second", 9, 0,
            {"file": inputs.text}, {}, targets=(Target(0.95, C),),
        ),
        Case(
            "logits-1", "logits of a position, 262,144 floats", "logits1", "microseconds", 9, 3,
            many, {}, wide, targets=(Target(3.0, most=True),), compared=False,
        ),
        Case("logits-512", "logits of 512 positions", "logits512", "microseconds", 9, 3, many, compared=False),
        Case(
            "embed", "embeddings of 1,000 short texts", "embed", "per second", 9, 3,
            {"file": inputs.lines, "ctx": 4096, "batch": 2048, "threads": threads}, {},
            targets=(Target(3.0, PEER),), same=False,
        ),
        Case(
            "batch-fill", "fill a batch of 512 over 8 sequences", "batch", "microseconds", 15, 5,
            {"threads": threads}, {}, figure="fill", compared=False,
        ),
        Case("batch", "fill and decode it", "batch", "per second", 15, 5, {"threads": threads}),
        Case("state-save", "save the state of 256 tokens", "state", "milliseconds", 15, 5, figure="save", same=False),
        Case("state-load", "load it", "state", "milliseconds", 15, 5, figure="load", same=False),
        Case(
            "callback", "a callback into Python per node", "callback", "microseconds", 9, 3,
            {"calls": 200}, same=False, compared=False,
        ),
        Case(
            "load", "from nothing to the first token, Gemma", "load", "milliseconds", 7, 3,
            {"threads": threads}, {}, gemma, once=True,
        ),
        Case(
            "import", "CPU time of the import", "import", "milliseconds", 15, 7,
            once=True, same=False, targets=(Target(0.5, PEER, most=True),), without=(C,),
        ),
        Case(
            "import-all", "CPU time to import every name", "import", "milliseconds", 15, 7, {"every": 1},
            once=True, same=False, targets=(Target(1.0, PEER, most=True),), without=(C,),
        ),
        Case(
            "memory", "resident memory, Gemma, after 32 tokens", "memory", "megabytes", 5, 3,
            {"threads": threads}, {}, gemma, once=True, figure="rss", targets=(Target(25.0, most=True, minus=C),),
        ),
    ]  # fmt: skip
