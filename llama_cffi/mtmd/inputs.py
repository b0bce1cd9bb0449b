"""What stands for an image or a sound in arguments: bitmaps, paths, bytes, arrays, and images of Pillow."""

from __future__ import annotations

import os
from collections.abc import Sequence

from llama_cffi._core.checks import expected
from llama_cffi.mtmd.base import MtmdBase
from llama_cffi.mtmd.bitmap import Bitmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = "an Mtmd.Bitmap, a path, the bytes of a file, an array or an image of Pillow"


def as_bitmap(projector: MtmdBase, value: Any) -> Bitmap:
    """Return a bitmap of an image or a sound.

    A str or path names a file, and bytes are the contents of one. An array is pixels (height, width, 3) of 8 bits, or
    samples (n) of 32-bit floats at the sample rate of the model.
    """
    if isinstance(value, Bitmap):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Bitmap.fromFile(projector, value)
    if hasattr(value, "convert") and hasattr(value, "tobytes"):  # Pillow
        return Bitmap.fromImage(value)
    try:
        view = memoryview(value)
    except TypeError:
        raise expected(_KINDS, value, "Mtmd.Bitmap.fromFile(ctx, path) makes one", "media") from None
    if view.ndim == 1 and view.itemsize == 1:
        return Bitmap.fromBytes(projector, view)
    if view.ndim == 1 and view.format == "f":
        return Bitmap.fromAudio(view)
    if view.ndim == 3:
        return Bitmap.fromImage(view)
    raise ValueError(
        "an array must be pixels with the shape (height, width, 3) and 8 bits, or samples with the shape (n) of 32-bit "
        f"floats, got {view.shape} of format {view.format!r}"
    )


def as_bitmaps(projector: MtmdBase, media: Any) -> list[Bitmap]:
    """Return bitmaps of a sequence of images and sounds. The same object becomes the same bitmap."""
    if isinstance(media, (str, bytes, bytearray, memoryview, os.PathLike, Bitmap)) or not isinstance(media, Sequence):
        raise expected("a sequence of images and sounds", media, "write [image] for one", "media")
    made: dict[int, Bitmap] = {}
    for value in media:
        if id(value) not in made:
            made[id(value)] = as_bitmap(projector, value)
    return [made[id(value)] for value in media]
