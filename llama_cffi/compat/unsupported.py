"""Errors for what llama-cpp-python has and this package does not: each names what to use instead."""

from __future__ import annotations

from llama_cffi.errors import UnavailableError


class UnavailableAttributeError(UnavailableError, AttributeError):
    """An attribute that is not supported: `hasattr` returns False for it."""


def unsupported_attribute(name: str, instead: str) -> UnavailableError:
    """Return the error for an attribute. `instead` is the next step."""
    return UnavailableAttributeError(f"llama_cffi.compat does not support {name}: {instead}")


def unsupported(name: str, instead: str) -> UnavailableError:
    """Return the error for a part of llama-cpp-python's API: a NotImplementedError. `instead` is the next step."""
    return UnavailableError(f"llama_cffi.compat does not support {name}: {instead}")
