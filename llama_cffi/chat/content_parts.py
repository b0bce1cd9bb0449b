"""Images and sounds in messages: OpenAI's content parts, or plain objects, as text with markers and as bitmaps.

`ChatSession`, `Engine.chat` and the server read messages here. No URL is fetched and no path in a part is opened: only
`data:` URLs, and objects that the caller passes, hold media.
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._core.handle import Handle
from llama_cffi.generation.request_options import require_projector
from llama_cffi.mtmd.media import MAX_BYTES, is_sound

if TYPE_CHECKING:
    from llama_cffi._core.base_types import Token
    from llama_cffi.chat.template import ChatTemplate
    from llama_cffi.generation.prefix import MediaTokens
    from llama_cffi.mtmd.bitmap import Bitmap

TEXTS = ("text", "input_text", "output_text")
IMAGES = ("image_url", "input_image")
SOUNDS = ("input_audio",)
_FORMATS = ("wav", "mp3", "flac")


def is_medium(part: object) -> bool:
    """Return True for a part that is an image or a sound, in OpenAI's form or as an object."""
    if isinstance(part, Mapping):
        return part.get("type") in (*IMAGES, *SOUNDS)
    if isinstance(part, (str, type(None))):
        return False
    return isinstance(part, (Handle, os.PathLike)) or hasattr(part, "convert") or _view(part) is not None


def _view(value: Any) -> memoryview | None:
    try:
        return memoryview(value)
    except TypeError:
        return None


def has_media(messages: Sequence[Any]) -> bool:
    """Return True if a message has a part that is an image or a sound."""
    return any([any([is_medium(part) for part in _parts(message)]) for message in messages])


def _parts(message: Any) -> Sequence[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, (list, tuple)) else ()


class MediaReader:
    """Takes the images and sounds out of messages, for one projector. It keeps the bitmaps of the last messages."""

    __slots__ = ("_bitmaps", "_projector")

    def __init__(self, projector: Any) -> None:
        """`projector` is an Mtmd.Context, or None, which takes none."""
        self._projector: Any = None if projector is None else require_projector(projector)
        self._bitmaps: dict[Any, Bitmap] = {}  # by data: URL or encoded sound

    @property
    def projector(self) -> Any:
        """The projector, or None."""
        return self._projector

    def read(self, messages: Sequence[Any]) -> tuple[Sequence[Any], list[Bitmap]]:
        """Return messages with a marker for each image and sound, and these as bitmaps, in order.

        As in llama-server, a message with media becomes one text: its texts on lines of their own, and nothing around
        the markers.
        """
        if isinstance(messages, (str, bytes, Mapping)) or not has_media(messages):
            return messages, []
        projector: Any = require_projector(self._projector)
        marker = projector.getMarker()
        bitmaps: list[Bitmap] = []
        made: list[Any] = []
        used: dict[Any, Bitmap] = {}
        for message in messages:
            parts = _parts(message)
            if not any([is_medium(part) for part in parts]):
                made.append(message)
                continue
            for part in parts:
                if is_medium(part):
                    bitmaps.append(self._bitmap(part, used))
            made.append({**message, "content": joined_parts(parts, marker)})
        self._bitmaps = used
        return made, bitmaps

    def _bitmap(self, part: Any, used: dict[Any, Bitmap]) -> Bitmap:
        key = _source(part) if isinstance(part, Mapping) else None
        found = used.get(key) or self._bitmaps.get(key) if key is not None else None
        if found is None or found.closed:
            from llama_cffi.mtmd.inputs import as_bitmap

            value = part_bytes(part) if isinstance(part, Mapping) else part
            found = as_bitmap(self._projector, value)
        if key is not None:
            used[key] = found
        return found

    def tokens(self, template: ChatTemplate, text: str, bitmaps: Sequence[Bitmap], limits: Any) -> list[Token]:
        """Tokenize a rendered prompt with a marker for each bitmap, for a context with these limits."""
        if not bitmaps:
            plain: list[Token] = template._tokenize(text)
            return plain
        from llama_cffi.mtmd.prompt import require_fit, require_model, tokenize_media

        projector = self._projector
        require_model(projector, template._model)
        made: MediaTokens = template._tokenize(
            text, lambda given: tokenize_media(projector, given, bitmaps, special=True)
        )
        require_fit(made, limits)
        return made

    def plain(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message whose images and sounds are parts of OpenAI's form, which JSON can hold."""
        parts = _parts(message)
        if all([isinstance(part, Mapping) or not is_medium(part) for part in parts]):
            return message
        projector: Any = require_projector(self._projector)
        return {**message, "content": [_as_part(part, projector) for part in parts]}


def joined_parts(parts: Sequence[Any], marker: str) -> str:
    """Return parts as one text: texts on lines of their own, and a marker for each image or sound without a break."""
    text, after_marker = "", False
    for part in parts:
        if is_medium(part):
            text, after_marker = text + marker, True
            continue
        piece = part if isinstance(part, str) else part.get("text")
        if not isinstance(piece, str) or not (isinstance(part, str) or part.get("type") in TEXTS):
            raise ValueError(f"a part of a message must be text, an image or a sound, got {_shown(part)}")
        text += ("\n" if text and not after_marker else "") + piece
        after_marker = False
    return text


# OpenAI's parts


def _source(part: Mapping[str, Any]) -> str:
    """Return the data: URL of an image, or the encoded bytes of a sound."""
    kind = part["type"]
    given = part.get("input_audio" if kind in SOUNDS else "image_url")
    field = "data" if kind in SOUNDS else "url"
    source = given.get(field) if isinstance(given, Mapping) else given
    if not isinstance(source, str):
        name = "input_audio.data" if kind in SOUNDS else "image_url.url"
        raise ValueError(f"a part of the type {kind!r} needs {name}, a str, got {_shown(part)}")
    if kind in SOUNDS and isinstance(given, Mapping) and given.get("format", "wav") not in _FORMATS:
        raise ValueError(f"input_audio.format must be one of {', '.join(_FORMATS)}, got {_shown(given['format'])}")
    return source


def require_data(part: Mapping[str, Any]) -> str:
    """Return where a part of an image or a sound has its data. Raises ValueError if it has none in itself."""
    source = _source(part)
    if part["type"] in IMAGES and source[:5].lower() != "data:":
        kind = "a URL, which is not fetched" if "://" in source[:20] else "something else"
        raise ValueError(
            f"image_url must be a data: URL, got {kind} ({source[:60]!r}): send the file itself, as "
            "data:image/png;base64,..."
        )
    return source


def part_bytes(part: Mapping[str, Any]) -> bytes:
    """Return the file in a part of an image or a sound. Raises ValueError for anything but data in the part itself."""
    source = require_data(part)
    if source[:5].lower() != "data:":
        return _from_base64(source)
    head, comma, data = source.partition(",")
    if not comma:
        raise ValueError("a data: URL needs a comma before its data: write data:image/png;base64,...")
    if head.lower().endswith(";base64"):
        return _from_base64(data)
    from urllib.parse import unquote_to_bytes

    return _limited(unquote_to_bytes(data) if len(data) <= 3 * MAX_BYTES else data.encode())


def _from_base64(text: str) -> bytes:
    try:
        return _limited(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"the data of an image or a sound must be base64: {error}") from None


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ValueError(f"the file must have at most {MAX_BYTES} bytes, got {len(data)}")
    return data


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


# Plain objects


def _as_part(part: Any, projector: Any) -> Any:
    """Return a part in OpenAI's form. Pixels become a PNG file, and samples a WAV file at the rate of the model."""
    if isinstance(part, Mapping) or not is_medium(part):
        return part
    if isinstance(part, os.PathLike):
        from llama_cffi._core.files import open_regular

        with open_regular(part) as file:
            return _file_part(_limited(file.read(MAX_BYTES + 1)))
    view = _view(part)
    if view is not None and view.ndim == 1 and view.itemsize == 1:
        return _file_part(_limited(bytes(view)))
    from llama_cffi.mtmd.inputs import as_bitmap

    bitmap = as_bitmap(projector, part)
    data = bitmap.data
    return _file_part(_wav(data.tobytes(), projector._require_audio()) if bitmap.isAudio else _png(data))


def _file_part(data: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    if is_sound(data[:16]):
        kind = "wav" if data[:4] == b"RIFF" else "flac" if data[:4] == b"fLaC" else "mp3"
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": kind}}
    return {"type": "image_url", "image_url": {"url": f"data:{_mime(data)};base64,{encoded}"}}


def _mime(data: bytes) -> str:
    kinds = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"BM": "bmp", b"P": "x-portable-anymap"}
    return next(
        (f"image/{kind}" for magic, kind in kinds.items() if data.startswith(magic)), "application/octet-stream"
    )


def _png(pixels: memoryview) -> bytes:
    height, width, _ = pixels.shape or (0, 0, 0)
    flat, row = pixels.tobytes(), 3 * width
    lines = b"".join([b"\0" + flat[at : at + row] for at in range(0, row * height, row)])

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")


def _wav(samples: bytes, rate: int) -> bytes:
    """Return a file of 32-bit floats."""
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    return (
        struct.pack("<4sI4s", b"RIFF", 12 + len(head) + len(samples), b"WAVE")
        + head
        + struct.pack("<4sI", b"data", len(samples))
        + samples
    )
