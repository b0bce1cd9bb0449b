"""C structs as Python objects with typed, checked attributes. `_generated/structs.py` defines the structs."""

from __future__ import annotations

from llama_cffi._core.checks import boolean, expected, integer, number, shown
from llama_cffi._core.ffi import ffi
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi._generated import enums
from llama_cffi._suggest import UnknownAttribute, did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import IntEnum
    from typing import Any, ClassVar, Generic, NoReturn, TypeVar, overload

    E = TypeVar("E", bound=IntEnum)
    T = TypeVar("T")
else:
    from llama_cffi._core.stand_ins import Generic, overload

    E = T = object


FLOAT_MAX = 3.4028234663852886e38  # of C's float


class Struct(Uncopyable):
    """Owns a C struct. Its fields are attributes; keyword arguments set them."""

    _KIND = "struct"
    _INSTEAD = "make a new one and set its fields"

    _C_TYPE: ClassVar[str]
    __slots__ = ("_c", "_keep")

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "_c", ffi.new(f"{self._C_TYPE} *"))
        object.__setattr__(self, "_keep", {})  # memory that C reads through pointers, by attribute
        self._set_defaults()
        for name, value in fields.items():
            setattr(self, name, value)

    _c: Any
    _keep: dict[str, Any]

    def _set_defaults(self) -> None:
        """Set the fields to llama.cpp's defaults."""

    @classmethod
    def _fields(cls) -> list[str]:
        return [name for name in dir(cls) if isinstance(getattr(cls, name), (Field, property)) and name[0] != "_"]

    @classmethod
    def describe(cls, name: str | None = None) -> str:
        """Return what is known of a field, or of all: type, range, default, unit, and what it is for.

        `print(Context.Params.describe("nCtx"))`. The same is shown by `help(Context.Params.nCtx)`. Raises ValueError
        for an unknown name.
        """
        from llama_cffi._core.fields import described

        if name is not None and not isinstance(name, str):
            raise expected("a str or None", name, name="name")
        if name is not None and name not in cls._fields():
            hint = did_you_mean(name, cls._fields()) or f"it has {', '.join(cls._fields())}"
            raise ValueError(f"{cls.__qualname__} has no field {name!r}: {hint}")
        return described(cls, cls._fields() if name is None else [name])

    if not TYPE_CHECKING:  # type checkers find misspelled attributes themselves

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in self._fields():
                _unknown(type(self), name)
            object.__setattr__(self, name, value)

        def __getattr__(self, name: str) -> NoReturn:
            _unknown(type(self), name)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show the fields that differ from the defaults."""
        plain = type(self)()
        changed = [(n, getattr(self, n)) for n in self._fields() if getattr(self, n) != getattr(plain, n)]
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in changed)})"


def _unknown(cls: type[Struct], name: str) -> NoReturn:
    message = f"{cls.__qualname__} has no attribute {name!r}"
    raise UnknownAttribute(
        message, name, lambda: did_you_mean(name, cls._fields()) or f"it has {', '.join(cls._fields())}"
    )


def _doc(field: Field[Any]) -> str | None:
    from llama_cffi._core.fields import field_doc

    return None if field.owner is None else field_doc(field.owner, field.name)


class Field(Generic[T]):
    """A field of a struct: a descriptor that reads and writes the memory of the struct."""

    owner: type[Struct] | None = None
    """The class that it was last looked up in: defaults and texts are those of the class, not of its base."""

    if not TYPE_CHECKING:

        def __init_subclass__(cls) -> None:
            cls.__doc__ = property(_doc)  # of each field, for `help`

    def __init__(self, c_name: str) -> None:
        self.c_name = c_name
        self.name = c_name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Field[T]: ...
    @overload
    def __get__(self, instance: Struct, owner: type) -> T: ...
    def __get__(self, instance: Struct | None, owner: type) -> Field[T] | T:
        if instance is None:
            self.owner = owner
            return self
        return self._read(instance)

    def _read(self, instance: Struct) -> T:
        return self._from_c(getattr(instance._c, self.c_name))

    def __set__(self, instance: Struct, value: T) -> None:
        setattr(instance._c, self.c_name, self._to_c(value))

    def words(self) -> str:
        """Return the type in words, or "" for the one in the source."""
        return ""

    def _from_c(self, value: Any) -> T:
        result: T = value
        return result

    def _to_c(self, value: T) -> Any:
        raise NotImplementedError


class IntField(Field[int]):
    def __init__(self, c_name: str, bits: int, signed: bool) -> None:
        super().__init__(c_name)
        self.low = -(1 << (bits - 1)) if signed else 0
        self.high = (1 << (bits - signed)) - 1

    def words(self) -> str:
        return f"int, {self.low} to {self.high}"

    def _to_c(self, value: int) -> int:
        if isinstance(value, bool):
            raise TypeError(f"{self.name} must be an integer between {self.low} and {self.high}, got {value}")
        return integer(value, self.low, self.high, self.name)


class BoolField(Field[bool]):
    def words(self) -> str:
        return "bool"

    def _to_c(self, value: bool) -> bool:
        return boolean(value, self.name)

    def _from_c(self, value: Any) -> bool:
        return bool(value)


class NumberField(Field[float]):
    """A C float; infinity and NaN are allowed."""

    def words(self) -> str:
        return "float"

    def _to_c(self, value: float) -> float:
        return number(value, self.name)


class FloatField(NumberField):
    """A C float; it must be finite."""

    def _to_c(self, value: float) -> float:
        found = super()._to_c(value)
        if not abs(found) <= FLOAT_MAX:  # true for NaN as well
            raise ValueError(f"{self.name} must be finite, got {shown(value)}")
        return found


class EnumField(Field[E], Generic[E]):
    """An enumeration. `kind` is its name: its class is made when a value is read or set."""

    def __init__(self, c_name: str, kind: str) -> None:
        super().__init__(c_name)
        self.kind_name = kind

    @property
    def kind(self) -> type[E]:
        found: type[E] = getattr(enums, self.kind_name)
        return found

    def words(self) -> str:
        members = [member.name for member in self.kind]
        return f"{self.kind_name}: {', '.join(members[:12])}{', ...' if len(members) > 12 else ''}"

    def _from_c(self, value: Any) -> E:
        return self.kind(value)

    def _to_c(self, value: E) -> int:
        try:
            return int(self.kind(value))
        except ValueError:
            choices = ", ".join(member.name for member in self.kind)
            raise ValueError(f"{self.name} must be one of {self.kind_name}.{{{choices}}}, got {value!r}") from None
