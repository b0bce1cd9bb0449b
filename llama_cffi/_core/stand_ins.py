"""Stand-ins for names of `typing` and `dataclasses` that modules use when they run.

The import of those two takes longer than that of the whole package: `typing` imports `re`, and `dataclasses` imports
`inspect`. Type checkers see the real ones:

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from dataclasses import dataclass
        from typing import Any, overload
    else:
        from llama_cffi._core.stand_ins import dataclass, overload
"""

from __future__ import annotations

from reprlib import recursive_repr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def overload(function: Any) -> Any:
    """Stands for `typing.overload`: the implementation replaces this signature."""
    return function


def cast(kind: object, value: Any) -> Any:
    """Stands for `typing.cast`."""
    return value


class Generic:
    """Stands for `typing.Generic[T]`, of which nothing is known when the program runs."""

    __slots__ = ()

    def __class_getitem__(cls, item: object) -> Any:
        return cls


def dataclass(*, frozen: bool = False) -> Callable[[Any], Any]:
    """Stands for `dataclasses.dataclass`, for classes that have an `__init__`.

    Every annotation in the class is a field; fields are not inherited. The functions of `dataclasses` (`fields`,
    `asdict`, `replace`, ...) work with these classes: what they need is made when they ask for it.
    """

    def decorate(cls: Any) -> Any:
        cls.__match_args__ = tuple(cls.__annotations__)  # type: ignore[misc]
        cls.__repr__, cls.__eq__, cls.__replace__ = _repr, _eq, _replace
        cls.__hash__ = _hash if frozen else None
        if frozen:
            cls.__setattr__, cls.__delattr__ = _refuse_set, _refuse_delete
        for name in ("__dataclass_fields__", "__dataclass_params__"):
            setattr(cls, name, _FromDataclasses(name, cls, frozen))
        return cls

    return decorate


def _values(self: Any) -> tuple[object, ...]:
    return tuple(getattr(self, name) for name in self.__match_args__)


@recursive_repr()
def _repr(self: Any) -> str:
    listed = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({listed})"


def _eq(self: Any, other: Any) -> bool:
    return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _replace(self: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(self, **changes)


def _refuse_set(self: Any, name: str, value: object) -> None:
    _refuse(self, name, "assign to")
    object.__setattr__(self, name, value)


def _refuse_delete(self: Any, name: str) -> None:
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _refuse(self: Any, name: str, what: str) -> None:
    # A plain subclass may have attributes of its own.
    if "__match_args__" in vars(type(self)) or name in self.__match_args__:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


class _FromDataclasses:
    """A class attribute that `dataclasses` makes at the first use, from a class with the same fields."""

    def __init__(self, name: str, cls: Any, frozen: bool) -> None:
        self.name, self.cls, self.frozen = name, cls, frozen

    def __get__(self, instance: object, owner: type) -> Any:
        import dataclasses

        own, annotations = vars(self.cls), self.cls.__annotations__
        defaults = {name: own[name] for name in annotations if name in own}
        twin: Any = type(
            self.cls.__name__, (), {"__annotations__": annotations, "__module__": own["__module__"], **defaults}
        )
        value = getattr(dataclasses.dataclass(frozen=self.frozen)(twin), self.name)
        setattr(self.cls, self.name, value)
        return value
