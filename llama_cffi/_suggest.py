""" "Did you mean": finds the name that somebody meant, for the messages of AttributeError and TypeError.

Nothing is compared before a message is shown, so that `hasattr` and `getattr` with a default stay cheap.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import EnumMeta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def near(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that was meant, or "": spelt in another style, with a prefix left out, or misspelt."""
    plain = {_plain(known): known for known in sorted(names) if known[:1] != "_"}
    wanted = _plain(name)
    if wanted in plain:
        return plain[wanted]
    for prefix in ("n", "get", "is", "has", "init", "from"):
        if prefix + wanted in plain:
            return plain[prefix + wanted]
        if wanted.removeprefix(prefix) in plain:
            return plain[wanted.removeprefix(prefix)]
    ending = [known for known in plain.values() if known.upper().endswith(f"_{name.upper()}")]
    if ending:
        return min(ending, key=len)
    import difflib  # only messages need it

    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else ""


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


class UnknownAttribute(AttributeError):
    """An AttributeError that looks for the name that was meant when it is shown."""

    def __init__(self, message: str, name: str, hint: Callable[[], str]) -> None:
        super().__init__(message)
        self.name = name  # Python adds no suggestion of its own to an error that has one
        self._hint = hint

    def __str__(self) -> str:
        hint = self._hint()
        return f"{self.args[0]}: {hint}" if hint else str(self.args[0])

    def __reduce__(self) -> Any:
        return AttributeError, (str(self),)


# What tracebacks and `type(error).__name__` show.
UnknownAttribute.__module__, UnknownAttribute.__qualname__ = "builtins", "AttributeError"
UnknownAttribute.__name__ = "AttributeError"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the hint `did you mean 'x'?`, or ""."""
    meant = near(name, names)
    return f"did you mean {meant!r}?" if meant else ""


class SuggestingEnum(EnumMeta):
    """Metaclass of enumerations that suggest a member for an unknown name: `Ftype.Q4_0` is MOSTLY_Q4_0."""

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            members = cls.__dict__.get("_member_map_", {})
            if name in members:  # before Python 3.12, members are found here
                return members[name]
            raise UnknownAttribute(
                f"type object {cls.__name__!r} has no attribute {name!r}", name, lambda: _member_hint(name, members)
            )


def _member_hint(name: str, members: Iterable[str]) -> str:
    if name[:1] == "_":
        return ""
    known = list(members)
    return did_you_mean(name, known) or f"it has {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
