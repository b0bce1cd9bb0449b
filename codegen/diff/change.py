"""A change of the API, as data."""

from __future__ import annotations

from dataclasses import dataclass

# The classes of changes, the most serious first.
KINDS = (
    "removed",
    "renamed",
    "signature",
    "default",
    "enum value",
    "constant value",
    "struct layout",
    "typedef",
    "parameter names",
    "macro to enumerator",
    "header",
    "deprecated",
    "added",
)


@dataclass(frozen=True)
class Change:
    """One change of one thing.

    `what` is `function`, `struct`, `union`, `field`, `enum`, `enumerator`, `constant`, `typedef` or `default`. `name`
    is its C name, the old one where it has two; a field's and a default's is `struct.field`. `old` and `new` are C
    text.
    """

    kind: str
    what: str
    name: str
    header: str
    old: str = ""
    new: str = ""
    detail: str = ""
    owner: str = ""  # of an enumerator: its enumeration
    hint: str = ""  # the header's own words
    sure: bool = True  # False: a guess, to be told as one

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no class of changes: {', '.join(KINDS)}")
