"""A candidate for the next token: its id, logit and probability."""

from __future__ import annotations

from collections.abc import Iterator

from llama_cffi._core.structs import IntField, NumberField, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

# (id, logit) or (id, logit, p)
Row: TypeAlias = "TokenData | tuple[int, float] | tuple[int, float, float]"

SIZE = 12  # bytes of a candidate: three fields of four bytes


class TokenData(Struct):
    """A candidate for the next token. An item of a `TokenDataArray` is a view: assignments change the array.

    Maps to `llama_token_data`.
    """

    _C_TYPE = "struct llama_token_data"
    _KIND = "candidate"
    _INSTEAD = "use tuple(candidate)"
    __slots__ = ()

    id = IntField("id", 32, True)
    """The token."""
    logit = NumberField("logit")
    """The logit: the larger, the more likely."""
    p = NumberField("p")
    """The probability, once a sampler has computed it; 0 before."""

    @classmethod
    def _at(cls, pointer: Any, owner: object) -> TokenData:
        item = cls.__new__(cls)
        object.__setattr__(item, "_c", pointer)
        object.__setattr__(item, "_keep", {"owner": owner})
        return item

    def __iter__(self) -> Iterator[float]:
        """Iterate over `id`, `logit`, `p`."""
        yield from (self.id, self.logit, self.p)


def row_values(row: Row) -> tuple[int, float, float]:
    """Return a row as (id, logit, p)."""
    try:
        token, logit, *rest = row
        p = rest[0] if rest else 0.0
        if len(rest) > 1 or int(token) != token:
            raise ValueError
        return int(token), float(logit), float(p)
    except (TypeError, ValueError):
        raise TypeError(f"expected a candidate (id, logit) or (id, logit, p), got {row!r}") from None
