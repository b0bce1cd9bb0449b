"""The library for images and sounds, and what a projector file (mmproj) can do, without loading it."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from llama_cffi._core.arguments import StrPath, path_bytes
from llama_cffi._core.checks import expected
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import require_regular
from llama_cffi._core.guard_errors import NO_MTMD
from llama_cffi._core.native_log import native_log
from llama_cffi.errors import ModelLoadError, UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_END = 1 << 18  # bytes of each end of a file that tell it from others


class Capabilities(NamedTuple):
    """What a projector file takes as input."""

    vision: bool
    """True if it takes images."""
    audio: bool
    """True if it takes sounds."""


def available() -> bool:
    """Return True if this build has the library for images and sounds."""
    return bool(lib.shim_mtmd_open())


def require_library() -> None:
    """Raise UnavailableError if this build does not have the library for images and sounds."""
    if not lib.shim_mtmd_open():
        raise UnavailableError(NO_MTMD)


def capabilities(path: StrPath) -> Capabilities:
    """Return what a projector file (mmproj) takes, without loading its weights.

    Raises OSError if the file cannot be read, ModelLoadError if it is not a projector file, UnavailableError.

    Maps to `mtmd_get_cap_from_file`.
    """
    name = path_bytes(path)
    require_regular(path)
    require_library()
    found = lib.mtmd_get_cap_from_file(name)
    if not (found.inp_vision or found.inp_audio):
        raise ModelLoadError(
            f"{os.fsdecode(name)} is not a projector file (mmproj)",
            operation="mtmd_get_cap_from_file",
            log=native_log(),
        )
    return Capabilities(found.inp_vision, found.inp_audio)


def identify(name: bytes, params: Any) -> str:
    """Return a digest of what decides on the embeddings of a projector: its file, by size and both ends, and sizes."""
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        hashed = hashlib.sha256(b"%d" % size + file.read(_END))
        file.seek(max(size - _END, 0))
        hashed.update(file.read(_END))
    for field in ("image_min_tokens", "image_max_tokens"):
        if has(f"mtmd_context_params.{field}"):
            hashed.update(b"%d " % getattr(params._c, field))
    return hashed.hexdigest()


def defaultMarker() -> str:
    """Return the text that stands for an image or a sound in a prompt: `<__media__>`.

    Maps to `mtmd_default_marker`.
    """
    require_library()
    return bytes(ffi.string(lib.mtmd_default_marker())).decode()


def require_str(value: object, name: str) -> str:
    """Return `value`. Raises TypeError if it is not a str."""
    if not isinstance(value, str):
        raise expected("a str", value, name=name)
    return value
