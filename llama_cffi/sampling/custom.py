"""Samplers written in Python: the functions that C calls, and what they find there.

A C sampler of this kind points to `_IFACE`, which is the same for all, and to the handle of a `CustomSampler`. The
`Sampler` that owns the C sampler holds that object, so it is there for as long as C may call.
"""

from __future__ import annotations

from typing import Any, Protocol

from llama_cffi._core.callbacks import failing, keep
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.sampling.candidates import copy_back, copy_out
from llama_cffi.sampling.token_data_array import TokenDataArray


class SamplerI(Protocol):
    """What `Sampler.init` wants: an object with `apply`, and as much of the rest as it needs.

    - `apply(candidates)` changes the candidates: their logits, order, number, or `candidates.selected` to pick one.
      They are lent: a `TokenDataArray` that refuses use once `apply` has returned.
    - `accept(token)` is told which token came next.
    - `reset()` forgets what was accepted.
    - `clone()` returns an object with the same state, for `Sampler.clone`, which raises without it.
    - `name` is a str; without it, the name of the class.

    What they raise, reaches the caller of `sample`, `apply`, `accept`, `reset` or `clone`. While one of them runs, its
    sampler, the chain around it and the context are in use: to call them raises BusyError.

    Maps to `llama_sampler_i`.
    """

    def apply(self, candidates: TokenDataArray, /) -> object:
        """Change the candidates."""


class CustomSampler:
    """The Python side of one C sampler."""

    __slots__ = ("__weakref__", "c_name", "context", "data", "iface")

    def __init__(self, iface: SamplerI, context: object) -> None:
        check_iface(iface)
        if context is not None:
            try:
                iface.ctx = context  # type: ignore[attr-defined]
            except AttributeError:
                raise TypeError(
                    f"{type(iface).__name__} objects take no attribute `ctx`: leave ctx out of Sampler.init"
                ) from None
        name = getattr(iface, "name", None) or type(iface).__name__
        self.iface = iface
        self.context = context
        self.c_name = ffi.new("char[]", str(name).encode().replace(b"\0", b""))  # C may ask for it at any time
        self.data = ffi.new_handle(self)

    def make(self) -> Any:
        """A C sampler that calls this object."""
        return lib.llama_sampler_init(_IFACE, self.data)

    def clone(self) -> CustomSampler:
        check_cloneable(self.iface)
        twin = self.iface.clone()  # type: ignore[attr-defined]
        if not callable(getattr(twin, "apply", None)):
            raise TypeError(f"{type(self.iface).__name__}.clone() returned {twin!r}, which has no apply(candidates)")
        return CustomSampler(twin, self.context)


# Made by C for a clone; the Sampler made for the clone takes it out.
_newborn: dict[Any, CustomSampler] = {}


def python_side(sampler: Any) -> CustomSampler | None:
    """The Python object of a C sampler that has just been made by a clone; None for C's own samplers."""
    return _newborn.pop(sampler.ctx, None) if sampler.iface == _IFACE else None


def check_iface(iface: object) -> None:
    """Refuse what C could not call."""
    if isinstance(iface, type):
        raise TypeError(f"iface is an object, not the class {iface.__name__}: write {iface.__name__}()")
    if not callable(getattr(iface, "apply", None)):
        raise TypeError(f"iface is an object with a method apply(candidates), and {type(iface).__name__} has none")
    for name in ("accept", "reset", "clone"):
        if not callable(getattr(iface, name, check_iface)):
            raise TypeError(f"{type(iface).__name__}.{name} is no method")
    if not isinstance(getattr(iface, "name", ""), (str, type(None))):
        raise TypeError(f"{type(iface).__name__}.name is a str, not {type(iface.name).__name__}")  # type: ignore[attr-defined]


def check_cloneable(iface: object) -> None:
    if not hasattr(iface, "clone"):
        raise TypeError(
            f"{type(iface).__name__} cannot be cloned: give it a method clone() that returns a copy with the same state"
        )


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_name(sampler: Any) -> Any:
    return ffi.from_handle(sampler.ctx).c_name


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_apply(sampler: Any, candidates: Any) -> None:
    try:
        if failing():
            return
        if not candidates.size:
            raise ValueError("no candidate is left for this sampler: an earlier one dropped them all")
        copy = copy_out(candidates)
        try:
            ffi.from_handle(sampler.ctx).iface.apply(copy)
            copy_back(copy, candidates)
        finally:
            copy._expire()
    except BaseException as error:
        keep(error)


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_accept(sampler: Any, token: int) -> None:
    _call_optional(sampler, "accept", token)


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_reset(sampler: Any) -> None:
    _call_optional(sampler, "reset")


def _call_optional(sampler: Any, what: str, *arguments: int) -> None:
    try:
        if not failing():
            method = getattr(ffi.from_handle(sampler.ctx).iface, what, None)
            if method is not None:
                method(*arguments)
    except BaseException as error:
        keep(error)


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_clone(sampler: Any) -> Any:
    try:
        if failing():
            return ffi.NULL
        twin = ffi.from_handle(sampler.ctx).clone()
        pointer = twin.make()
        _newborn[twin.data] = twin
        return pointer
    except BaseException as error:
        keep(error)
        return ffi.NULL


@ffi.def_extern()  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_free(sampler: Any) -> None:
    _newborn.pop(sampler.ctx, None)


_IFACE = ffi.new(
    "struct llama_sampler_i *",
    {
        "name": ffi.addressof(lib, "shim_sampler_name"),
        "accept": ffi.addressof(lib, "shim_sampler_accept"),
        "apply": ffi.addressof(lib, "shim_sampler_apply"),
        "reset": ffi.addressof(lib, "shim_sampler_reset"),
        "clone": ffi.addressof(lib, "shim_sampler_clone"),
        "free": ffi.addressof(lib, "shim_sampler_free"),
    },
)
