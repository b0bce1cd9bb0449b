"""Explains the likeliest mistakes with public names: `model.n_params`, `Generation(ctx, text, max_tokens=3)`.

`explain` is applied to each public class and function when the package hands out its name. Functions get a wrapper that
rewords Python's own errors for arguments that do not fit; classes get a `__getattr__` that suggests a name.
"""

from __future__ import annotations

import sys
from types import FunctionType

from llama_cffi._suggest import UnknownAttribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# They run for every token or are made for it, so they have no wrapper, and Python's own messages.
PER_TOKEN = frozenset(
    "accept apply decode encode getAttr getOne getScore getText isControl isEog sample tokenToPiece "
    "Alternative GenerationStep".split()
)

_explained: set[type] = set()


def explain(value: Any) -> Any:
    """Return a public object whose errors explain themselves: a wrapper for a function, a class itself."""
    if isinstance(value, type):
        _explain_class(value)
    elif isinstance(value, FunctionType) and _is_ours(value) and not hasattr(value, "__wrapped__"):
        wrapper = _wrapper(value)
        setattr(sys.modules[value.__module__], value.__name__, wrapper)  # where pickle looks for it
        return wrapper
    return value


def _is_ours(value: Any) -> bool:
    return str(value.__module__).startswith("llama_cffi.")


def _explain_class(cls: type) -> None:
    special = (
        cls.__name__ in PER_TOKEN
        or issubclass(cls, (BaseException, tuple))
        or "_is_protocol" in vars(cls)
        or hasattr(cls, "__members__")
    )
    if cls in _explained or special or not _is_ours(cls):
        return
    _explained.add(cls)
    for base in cls.__mro__[1:]:
        _explain_class(base)
    for name, member in list(vars(cls).items()):
        if (name[0] == "_" and name != "__init__") or name in PER_TOKEN:
            continue
        if isinstance(member, FunctionType):
            setattr(cls, name, _wrapper(member))
        elif isinstance(member, (classmethod, staticmethod)):
            setattr(cls, name, type(member)(_wrapper(member.__func__)))
        elif isinstance(member, type):
            _explain_class(member)
    if "__repr__" in vars(cls):
        cls.__repr__ = _never_raising(cls.__repr__)  # type: ignore[method-assign]
    if not any("__getattr__" in vars(base) for base in cls.__mro__):
        cls.__getattr__ = _unknown_attribute  # type: ignore[attr-defined]
    cls.__dir__ = _public_names  # type: ignore[assignment]


def _wrapper(function: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except (TypeError, AttributeError, ValueError) as error:  # ValueError: of arrays where a number belongs
            from llama_cffi._core.hints import call_error

            problem = call_error(function, arguments, keywords, error)
            if not problem:
                raise
        raise TypeError(problem)

    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
        setattr(call, name, getattr(function, name))
    call.__dict__.update(function.__dict__)
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def _never_raising(function: Any) -> Any:
    def represent(self: object) -> str:
        try:
            text: str = function(self)
        except Exception:  # debuggers show half-made objects, and those that another thread closes
            return f"<{type(self).__name__}, not usable>"
        return text

    return represent


def _public_names(self: object) -> list[str]:
    """`__dir__` of objects of public classes: for completion in an editor, and for people who look around."""
    return [name for name in object.__dir__(self) if name[0] != "_" or name[:2] == "__"]


def _unknown_attribute(self: object, name: str) -> Any:
    """`__getattr__` of public classes."""
    cls = type(self)
    if hasattr(cls, name):  # a property that raised AttributeError, or an empty slot
        return object.__getattribute__(self, name)
    raise unknown(f"{cls.__name__!r} object has no attribute {name!r}", cls, name)


def unknown(message: str, owner: Any, name: str) -> AttributeError:
    """Return the AttributeError for a name that `owner` (a class or a module) lacks."""

    def hint() -> str:
        if name[:1] == "_":
            return ""
        from llama_cffi._core.hints import attribute_hint

        return attribute_hint(owner, name)

    return UnknownAttribute(message, name, hint)


def looked_up(module: Any, homes: dict[str, tuple[str, str]], name: str) -> Any:
    """Load a name of a package at its first use. `homes` has the module of each name, and its name there."""
    if name not in homes:
        raise unknown(f"module {module.__name__!r} has no attribute {name!r}", module, name)
    home, there = homes[name]
    __import__(f"llama_cffi.{home}")
    value = getattr(sys.modules[f"llama_cffi.{home}"], there)
    if home != "_generated.enums":
        value = explain(value)
    setattr(module, name, value)
    return value
