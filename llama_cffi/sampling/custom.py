"""Samplers written in Python: the callbacks that C calls, and the object behind them.

The C sampler points to `_IFACE`, which all samplers of this kind share, and to the handle of a `CustomSampler`. The
`Sampler` that owns the C sampler keeps that object alive for as long as C may call it.
"""

from __future__ import annotations

from llama_cffi._core.callbacks import failing, keep, keep_early
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import Owned, own
from llama_cffi.sampling.candidates import copy_back, copy_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.sampling.interface import SamplerI


class CustomSampler:
    """The Python side of a C sampler."""

    __slots__ = ("__weakref__", "c_name", "context", "data", "iface")

    def __init__(self, iface: SamplerI, context: object) -> None:
        check_iface(iface)
        if context is not None:
            try:
                iface.ctx = context  # type: ignore[attr-defined]
            except AttributeError:
                raise TypeError(
                    f"cannot set the attribute ctx of a {type(iface).__name__}: leave ctx out of Sampler.init"
                ) from None
        name = getattr(iface, "name", None) or type(iface).__name__
        self.iface = iface
        self.context = context
        self.c_name = ffi.new("char[]", str(name).encode().replace(b"\0", b""))  # C may ask for it at any time
        self.data = ffi.new_handle(self)

    def make(self) -> Owned:
        """Make a C sampler that calls this object."""
        return own(lib.llama_sampler_free, lib.llama_sampler_init, _IFACE, self.data)

    def require_cloneable(self) -> None:
        """Raise TypeError for a sampler without `clone`."""
        if not hasattr(self.iface, "clone"):
            name = type(self.iface).__name__
            raise TypeError(f"a {name} cannot be cloned: add a method clone() that returns a copy with the same state")

    def of_clone(self, sampler: Any) -> CustomSampler | None:
        """Return the Python side of a C sampler that was just cloned from this one."""
        return _cloned.pop(sampler.ctx, None)

    def clone(self) -> CustomSampler:
        """Return the Python side of a clone."""
        self.require_cloneable()
        twin = self.iface.clone()  # type: ignore[attr-defined]
        if not callable(getattr(twin, "apply", None)):
            raise TypeError(f"{type(self.iface).__name__}.clone() returned {twin!r}, which lacks apply(candidates)")
        return CustomSampler(twin, self.context)


# Python sides of C samplers that were just cloned, until the Sampler for the clone takes them.
_cloned: dict[Any, CustomSampler] = {}


def check_iface(iface: object) -> None:
    """Raise TypeError for an object that C could not call."""
    kind = type(iface).__name__
    if isinstance(iface, type):
        raise TypeError(f"iface: expected an object, got the class {iface.__name__}: write {iface.__name__}()")
    if not callable(getattr(iface, "apply", None)):
        raise expected("an object with a method apply(candidates)", iface, name="iface")
    for name in ("accept", "acceptPrompt", "reset", "clone"):
        member = getattr(iface, name, check_iface)
        if not callable(member):
            raise expected("a method", member, name=f"{kind}.{name}")
    label = getattr(iface, "name", None)
    if label is not None and not isinstance(label, str):
        raise expected("a str", label, name=f"{kind}.name")


@ffi.def_extern(onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_name(sampler: Any) -> Any:
    return ffi.from_handle(sampler.ctx).c_name


@ffi.def_extern(onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_apply(sampler: Any, candidates: Any) -> None:
    try:
        if failing():
            return
        if not candidates.size:
            raise ValueError("there are no candidates for this sampler: an earlier one dropped them all")
        copy = copy_out(candidates)
        try:
            iface = ffi.from_handle(sampler.ctx).iface
            iface.apply(copy)
            copy._check_written(type(iface).__name__)
            copy_back(copy, candidates)
        finally:
            copy._expire()
    except BaseException as error:
        keep(error)


@ffi.def_extern(onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_accept(sampler: Any, token: int) -> None:
    _call_optional(sampler, "accept", token)


@ffi.def_extern(onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
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


@ffi.def_extern(onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_clone(sampler: Any) -> Any:
    try:
        if failing():
            return ffi.NULL
        twin = ffi.from_handle(sampler.ctx).clone()
        _cloned[twin.data] = twin
        return twin.data  # C makes a sampler for it
    except BaseException as error:
        keep(error)
        return ffi.NULL


@ffi.def_extern(onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_sampler_free(sampler: Any) -> None:
    _cloned.pop(sampler.ctx, None)


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
