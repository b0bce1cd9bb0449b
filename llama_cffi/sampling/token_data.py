"""One candidate for the next token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llama_cffi._core.structs import IntField, NumberField, Struct

if TYPE_CHECKING:
    from typing import TypeAlias

# (id, logit) or (id, logit, p).
Row: TypeAlias = "TokenData | tuple[int, float] | tuple[int, float, float]"

SIZE = 12  # bytes of one candidate: three fields of four bytes


class TokenData(Struct):
    """One candidate. Of a `TokenDataArray` it is a view: what is assigned lands there.

    Maps to `llama_token_data`.
    """

    _C_TYPE = "struct llama_token_data"
    _KIND = "candidate"
    _INSTEAD = "tuple(candidate) has what is in it"
    __slots__ = ()

    id = IntField("id", 32, True)
    """The token."""
    logit = NumberField("logit")
    """What the model gave it: the larger the likelier."""
    p = NumberField("p")
    """Its probability, once a sampler has computed it; 0 before."""

    @classmethod
    def _at(cls, pointer: Any, owner: object) -> TokenData:
        item = cls.__new__(cls)
        object.__setattr__(item, "_c", pointer)
        object.__setattr__(item, "_keep", {"owner": owner})
        return item

    def __iter__(self) -> Iterator[float]:
        """`id, logit, p`, as for a row."""
        yield from (self.id, self.logit, self.p)


def row_values(row: Row) -> tuple[int, float, float]:
    try:
        token, logit, *rest = row
        p = rest[0] if rest else 0.0
        if len(rest) > 1 or int(token) != token:
            raise ValueError
        return int(token), float(logit), float(p)
    except (TypeError, ValueError):
        raise TypeError(f"a candidate is (id, logit) or (id, logit, p), not {row!r}") from None
