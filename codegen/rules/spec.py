"""Reads the specification's API: the public names that the facade must have. `ggml.tsv` has those of `Ggml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPEC = Path(__file__).with_name("spec.tsv")
GGML = Path(__file__).with_name("ggml.tsv")


@dataclass(frozen=True)
class Row:
    """A public name: its kind, spelling and signature, and the C name that it maps to."""

    kind: str
    name: str
    signature: str
    c_name: str


def load(path: Path = SPEC) -> list[Row]:
    """Read every row of the table."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [Row(*(line.split("\t") + [""] * 4)[:4]) for line in lines if line.strip()]
