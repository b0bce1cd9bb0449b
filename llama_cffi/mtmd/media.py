"""What image and sound files say about themselves, read before they are decoded: a small file can unpack to any size.

Only formats with a header that says how large they are pass. The decoders' memory is limited as well, because a header
may lie: `vendor/build/mtmd/media_limits.cpp`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_BYTES = 256 << 20
MAX_PIXELS = 64 << 20
MAX_SECONDS = 3600.0

MAX_SIDE = 1 << 15  # pixels; resizing takes tables of this length
_MAX_SCANS = 100  # of a progressive JPEG: each takes as long as a whole image
_IMAGES = "PNG, JPEG, GIF, BMP or PNM"
_SOUNDS = "WAV, MP3 or FLAC"
_PLAIN = b" \t\r\n"
_IMAGE_BYTES_PER_PIXEL = 24  # of all buffers of a decoder: 16-bit RGBA, its filtered rows, and the result
_SOUND_BYTES_PER_SAMPLE = 16
_HEADROOM = 8 << 20


class Image(NamedTuple):
    """The size of an image file."""

    width: int
    height: int

    def memory(self) -> int:
        """Return how many bytes a decoder may allocate."""
        return _HEADROOM + _IMAGE_BYTES_PER_PIXEL * self.width * self.height


class Sound(NamedTuple):
    """The length of a sound file, or what it has at least."""

    seconds: float

    @staticmethod
    def memory(rate: int, seconds: float) -> int:
        """Return how many bytes a decoder may allocate for a sound of this length, converted to a sample rate."""
        return _HEADROOM + int(_SOUND_BYTES_PER_SAMPLE * rate * seconds)


def inspect(data: bytes | memoryview) -> Image | Sound:
    """Return the size of an image or the length of a sound. Raises ValueError for other data, or a damaged header."""
    head = bytes(data[:16])
    if is_sound(head):
        return Sound(_seconds(data))
    for magic, read in _READERS:
        if head.startswith(magic):
            found = read(data)
            if found is None:
                raise ValueError("the header of the image is damaged: its size cannot be read")
            return Image(*found)
    hint = " (WebP needs to be converted)" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""
    raise ValueError(f"the data must be an image ({_IMAGES}) or a sound ({_SOUNDS}), got neither{hint}")


def is_sound(head: bytes) -> bool:
    """Return True if data begins like a sound, as llama.cpp decides it."""
    if len(head) < 12:
        return False
    return (
        (head[:4] == b"RIFF" and head[8:12] == b"WAVE")
        or head[:3] == b"ID3"
        or (head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
        or head[:4] == b"fLaC"
    )


# Images


def _png(data: bytes | memoryview) -> tuple[int, int] | None:
    head = bytes(data[:24])
    return struct.unpack_from(">II", head, 16) if len(head) == 24 and head[12:16] in (b"IHDR", b"CgBI") else None


def _gif(data: bytes | memoryview) -> tuple[int, int] | None:
    head = bytes(data[:10])
    return struct.unpack_from("<HH", head, 6) if len(head) == 10 else None


def _bmp(data: bytes | memoryview) -> tuple[int, int] | None:
    head = bytes(data[:26])
    if len(head) < 26:
        return None
    if struct.unpack_from("<I", head, 14)[0] == 12:
        return struct.unpack_from("<HH", head, 18)
    width, height = struct.unpack_from("<ii", head, 18)
    return abs(width), abs(height)


def _pnm(data: bytes | memoryview) -> tuple[int, int] | None:
    """`P6`, then width, height and maximum as text; `#` begins a comment."""
    numbers: list[int] = []
    words = b" ".join(line.partition(b"#")[0] for line in bytes(data[2:1024]).split(b"\n")).split()
    for word in words[:2]:
        if not word.isdigit() or len(word) > 9:
            return None
        numbers.append(int(word))
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _jpeg(data: bytes | memoryview) -> tuple[int, int] | None:
    """The size is in the first frame header. Segments before it are skipped."""
    raw = bytes(data)
    scans = raw.count(b"\xff\xda")
    if scans > _MAX_SCANS:
        raise ValueError(f"a JPEG must have at most {_MAX_SCANS} scans, got {scans}: convert it to a baseline JPEG")
    at, sizes = 2, []
    while at + 4 <= len(raw):
        if raw[at] != 0xFF:
            at += 1
            continue
        marker = raw[at + 1]
        if marker == 0xDA:
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(raw):
            height, width = struct.unpack_from(">HH", raw, at + 5)
            sizes.append((width, height))
        at += 2 + struct.unpack_from(">H", raw, at + 2)[0]
    return sizes[0] if len(sizes) == 1 else None


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"BM", _bmp),
    (b"P5", _pnm),
    (b"P6", _pnm),
)


# Sounds


def _seconds(data: bytes | memoryview) -> float:
    head = bytes(data[:4])
    if head == b"RIFF":
        return _wav(data)
    if head == b"fLaC":
        return _flac(data)
    return _mp3(data)


def _wav(data: bytes | memoryview) -> float:
    at, rate, width, seconds, size = 12, 0, 0, 0.0, len(data)
    while at + 8 <= size:
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"fmt " and at + 24 <= size:
            rate, per_second, align = struct.unpack_from("<IIH", data, at + 12)
            width = min(per_second or 1, rate * (align or 1)) or 1
        elif name == b"fact" and at + 12 <= size and rate:
            seconds = max(seconds, struct.unpack_from("<I", data, at + 8)[0] / rate)
        elif name == b"data":
            seconds = max(seconds, min(length, size) / (width or 1))
        at += 8 + length + (length & 1)
    if not rate:
        raise ValueError("the header of the WAV file is damaged: it has no sample rate")
    return seconds


def _flac(data: bytes | memoryview) -> float:
    head = bytes(data[:26])
    if len(head) < 26 or head[4] & 0x7F != 0:
        raise ValueError("the header of the FLAC file is damaged: it has no STREAMINFO")
    packed = int.from_bytes(head[18:26], "big")
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    if not rate:
        raise ValueError("the header of the FLAC file is damaged: its sample rate is 0")
    return samples / rate


_MP3_FASTEST = 40000.0  # bytes for a second of the highest bit rate


def _mp3(data: bytes | memoryview) -> float:
    """The length of frames with the highest bit rate, or what a Xing header says if that is more."""
    seconds = len(data) / _MP3_FASTEST
    head = bytes(data[: 1 << 16])
    for name in (b"Xing", b"Info"):
        at = head.find(name)
        if at >= 0 and at + 12 <= len(head) and head[at + 7] & 1:
            seconds = max(seconds, struct.unpack_from(">I", head, at + 8)[0] * 576 / 48000)
    return seconds
