"""The specification's API, `codegen/rules/spec.tsv`: the names that the facade owes its users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPEC = Path(__file__).with_name("spec.tsv")


@dataclass(frozen=True)
class Row:
    """One documented name: its kind, its spelling, its signature and the C name it stands for."""

    kind: str
    name: str
    signature: str
    c_name: str


def load(path: Path = SPEC) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [Row(*(line.split("\t") + [""] * 4)[:4]) for line in lines if line.strip()]
