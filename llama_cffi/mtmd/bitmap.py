"""`Mtmd.Bitmap`: an image or a sound, decoded, from a file, bytes, an array or an image of Pillow."""

from __future__ import annotations

import hashlib
import os

from llama_cffi._core.arguments import StrPath, c_string, optional_text, path_bytes, read_buffer
from llama_cffi._core.checks import expected, number, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import open_regular
from llama_cffi._core.handle import Handle
from llama_cffi._core.native_log import native_log
from llama_cffi._core.ownership import Owned, own
from llama_cffi.errors import NativeError, NativeMemoryError
from llama_cffi.mtmd import media
from llama_cffi.mtmd.base import MtmdBase
from llama_cffi.mtmd.files import require_library
from llama_cffi.mtmd.media import MAX_BYTES, MAX_PIXELS, MAX_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEAST_SAMPLES, _MOST_SAMPLES = 2, (1 << 31) - 1


class Bitmap(Handle):
    """An image (RGB) or a sound (floats), to be passed to `Mtmd.Context.tokenize`. It does not depend on a context.

    Maps to `mtmd_bitmap`.
    """

    __slots__ = ()

    _KIND = "bitmap"
    _MADE_BY = "Mtmd.Bitmap.fromFile(ctx, path), fromBytes, fromImage or fromAudio makes one"

    @classmethod
    def fromFile(
        cls,
        ctx: MtmdBase,
        path: StrPath,
        *,
        maxBytes: int = MAX_BYTES,
        maxPixels: int = MAX_PIXELS,
        maxSeconds: float = MAX_SECONDS,
    ) -> Bitmap:
        """Read and decode a file, as `fromBytes` does. Raises OSError if it cannot be read.

        Maps to `mtmd_helper_bitmap_init_from_file`.
        """
        path_bytes(path)
        with open_regular(path) as file:
            _require_size(os.fstat(file.fileno()).st_size, maxBytes)
            data = file.read(maxBytes + 1)
        return cls.fromBytes(ctx, data, maxBytes=maxBytes, maxPixels=maxPixels, maxSeconds=maxSeconds)

    @classmethod
    def fromBytes(
        cls,
        ctx: MtmdBase,
        data: Any,
        *,
        maxBytes: int = MAX_BYTES,
        maxPixels: int = MAX_PIXELS,
        maxSeconds: float = MAX_SECONDS,
    ) -> Bitmap:
        """Decode the bytes of an image (PNG, JPEG, GIF, BMP, PNM) or a sound (WAV, MP3, FLAC) for the model of `ctx`.

        A sound is converted to the sample rate of the model, with one channel. Of a GIF, the first frame is used. The
        limits hold before anything is decoded: bytes of the file, pixels, and seconds. Raises ValueError if one is
        exceeded, if the data cannot be decoded, or if the model does not take it.

        Maps to `mtmd_helper_bitmap_init_from_buf`.
        """
        if not isinstance(ctx, MtmdBase):
            raise expected("an Mtmd.Context", ctx, "Mtmd.Context.initFromFile(path, model) makes one", "ctx")
        if isinstance(data, str):
            raise expected("bytes", data, "fromFile reads a file", "data")
        array, size = read_buffer(data, "uint8_t", None, "data", "its length")
        _require_size(size, maxBytes)
        found = media.inspect(bytes(ffi.buffer(array, size)))
        if isinstance(found, media.Sound):
            memory = _sound_memory(ctx, found, maxSeconds)
        else:
            ctx._require_vision()
            _require_pixels(found.width, found.height, maxPixels)
            memory = found.memory()
        return cls._decoded(ctx, array, size, memory, isinstance(found, media.Sound))

    @classmethod
    def _decoded(cls, ctx: MtmdBase, array: Any, size: int, memory: int, sound: bool) -> Bitmap:
        hint = "a damaged file, one of another format, or a sound longer than maxSeconds" if sound else (
            "a damaged file, or one of another format"
        )  # fmt: skip
        with ctx._pinned() as pointer:
            try:
                owned = own(lib.mtmd_bitmap_free, lib.shim_mtmd_decode, pointer, array, size, memory)
            except NativeMemoryError as error:
                raise ValueError(f"the data cannot be decoded: {hint}") from error
        if owned.pointer is None:
            log = native_log().strip().splitlines()
            raise ValueError(f"the data cannot be decoded: {hint}{f' ({log[-1]})' if log else ''}")
        made = cls._made(owned, hashlib.sha256(ffi.buffer(array, size)).hexdigest())
        if sound and made.width < _LEAST_SAMPLES:
            raise ValueError(f"a sound must have at least {_LEAST_SAMPLES} samples, got {made.width}")
        return made

    @classmethod
    def fromImage(cls, image: Any, *, maxPixels: int = MAX_PIXELS) -> Bitmap:
        """Make a bitmap of an array of bytes with the shape (height, width, 3), RGB, or of an image of Pillow; a copy.

        Maps to `mtmd_bitmap_init`.
        """
        require_library()
        if hasattr(image, "convert") and hasattr(image, "tobytes"):  # Pillow
            width, height = image.size
            _require_pixels(width, height, maxPixels)
            data = image.convert("RGB").tobytes()
        else:
            try:
                view = memoryview(image)
            except TypeError:
                hint = "numpy.asarray(image, dtype=numpy.uint8) makes one"
                raise expected("an array of bytes or an image of Pillow", image, hint, "image") from None
            if view.ndim != 3 or view.shape is None or view.shape[2] != 3 or view.itemsize != 1:
                raise ValueError(
                    f"image must have the shape (height, width, 3) and bytes, got {view.shape} of format "
                    f"{view.format!r}"
                )
            height, width = view.shape[:2]
            _require_pixels(width, height, maxPixels)
            data = view.tobytes()
        if len(data) != 3 * width * height:
            raise ValueError(f"image must have {3 * width * height} bytes, got {len(data)}")
        owned = own(lib.mtmd_bitmap_free, lib.mtmd_bitmap_init, width, height, ffi.from_buffer(data))
        return cls._made(owned, hashlib.sha256(b"%d %d " % (width, height) + data).hexdigest())

    @classmethod
    def fromAudio(cls, samples: Any) -> Bitmap:
        """Make a bitmap of samples with one channel: a buffer of 32-bit floats from -1 to 1, or a list; a copy.

        They must have the sample rate of the model, `Mtmd.Context.getAudioSampleRate`.

        Maps to `mtmd_bitmap_init_from_audio`.
        """
        require_library()
        array, n = read_buffer(samples, "float", None, "samples", "their number")
        if not _LEAST_SAMPLES <= n <= _MOST_SAMPLES:
            raise out_of_range("the number of samples", n, _LEAST_SAMPLES, _MOST_SAMPLES)
        owned = own(lib.mtmd_bitmap_free, lib.mtmd_bitmap_init_from_audio, n, array)
        return cls._made(owned, hashlib.sha256(ffi.buffer(array, 4 * n)).hexdigest())

    @classmethod
    def _made(cls, owned: Owned, id: str) -> Bitmap:
        if owned.pointer is None:
            raise NativeError("llama.cpp could not make a bitmap", operation="mtmd_bitmap_init")
        bitmap = cls.__new__(cls)
        bitmap._open(owned)
        lib.mtmd_bitmap_set_id(bitmap._c, id.encode())
        return bitmap

    def free(self) -> None:
        """Free the bitmap. Freeing twice is harmless. Chunks that were made of it stay valid.

        Maps to `mtmd_bitmap_free`.
        """
        Bitmap._require(self)
        self.close()

    @property
    def isAudio(self) -> bool:
        """True for a sound.

        Maps to `mtmd_bitmap_is_audio`.
        """
        return bool(lib.mtmd_bitmap_is_audio(self._c))

    @property
    def width(self) -> int:
        """The width of an image in pixels, or the number of samples of a sound.

        Maps to `mtmd_bitmap_get_nx`.
        """
        return lib.mtmd_bitmap_get_nx(self._c)

    @property
    def height(self) -> int:
        """The height of an image in pixels; 1 for a sound.

        Maps to `mtmd_bitmap_get_ny`.
        """
        return lib.mtmd_bitmap_get_ny(self._c)

    @property
    def nBytes(self) -> int:
        """The size of `data` in bytes.

        Maps to `mtmd_bitmap_get_n_bytes`.
        """
        return lib.mtmd_bitmap_get_n_bytes(self._c)

    @property
    def data(self) -> memoryview[Any]:
        """A copy of the pixels, with the shape (height, width, 3), or of the samples.

        Maps to `mtmd_bitmap_get_data`.
        """
        with self._pinned() as pointer:
            size = lib.mtmd_bitmap_get_n_bytes(pointer)
            copy = memoryview(bytes(ffi.buffer(lib.mtmd_bitmap_get_data(pointer), size)))
        return copy.cast("f") if self.isAudio else copy.cast("B", (self.height, self.width, 3))

    @property
    def id(self) -> str | None:
        """A text that chunks of this bitmap have as `Chunk.id`. By default a digest of the file or of the data.

        Maps to `mtmd_bitmap_get_id`.
        """
        with self._pinned() as pointer:
            return optional_text(lib.mtmd_bitmap_get_id(pointer))

    def setId(self, id: str) -> None:
        """Set `id`.

        Maps to `mtmd_bitmap_set_id`.
        """
        text = c_string(id, "id")
        with self._exclusive() as pointer:
            lib.mtmd_bitmap_set_id(pointer, text)

    def _describe(self) -> str:
        return f"of {self.width} samples" if self.isAudio else f"of {self.width} x {self.height} pixels"


def _require_size(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"the file must have at most maxBytes={limit} bytes, got {size}")


def _require_pixels(width: int, height: int, limit: int) -> None:
    side = media.MAX_SIDE
    if not (1 <= width <= side and 1 <= height <= side) or width * height > limit:
        raise ValueError(
            f"an image must have at most maxPixels={limit} pixels and sides between 1 and {side}, got {width} x "
            f"{height}: make it smaller first"
        )


def _sound_memory(ctx: MtmdBase, found: media.Sound, limit: float) -> int:
    rate = ctx._require_audio()
    if not number(limit, "maxSeconds", " of seconds") >= 0:
        raise ValueError(f"maxSeconds must be at least 0, got {limit}")
    if found.seconds > limit:
        raise ValueError(f"a sound must have at most maxSeconds={limit} seconds, got {found.seconds:.1f}")
    return found.memory(rate, min(limit, 1e6))
