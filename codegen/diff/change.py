"""One change of the API, as a data class."""

from __future__ import annotations

from dataclasses import dataclass

# Kinds of changes, the most serious first.
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
    """One change.

    `what` is `function`, `struct`, `union`, `field`, `enum`, `enumerator`, `constant`, `typedef` or `default`. `name`
    is the C name (the old one after a renaming); `struct.field` for a field or a default. `old` and `new` are C text.
    """

    kind: str
    what: str
    name: str
    header: str
    old: str = ""
    new: str = ""
    detail: str = ""
    owner: str = ""  # of an enumerator: its enumeration
    hint: str = ""  # the header's deprecation hint
    sure: bool = True  # False: a guess, and reported as one

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
