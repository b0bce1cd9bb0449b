"""Images and sounds for tests: arrays, and small files of each format."""

from __future__ import annotations

import io
import struct
import wave
import zlib

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]

SIDE = 28  # of the image that the LLaVA encoder takes as it is


def image(seed: int = 0, height: int = SIDE, width: int = SIDE) -> Pixels:
    """Return a random image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_head(width: int, height: int, bits: int = 8, kind: int = 2, interlaced: int = 0) -> bytes:
    """Return the beginning of a PNG file."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced))


def png(pixels: Pixels) -> bytes:
    """Return a PNG file."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    height, width = pixels.shape[:2]
    return png_head(width, height) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(pixels: Pixels) -> bytes:
    """Return a BMP file of 24 bits."""
    height, width = pixels.shape[:2]
    rows = b"".join(row[:, ::-1].tobytes() + bytes(-3 * width % 4) for row in pixels[::-1])
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + head + rows


def ppm(pixels: Pixels) -> bytes:
    """Return a PPM file with a comment."""
    height, width = pixels.shape[:2]
    return b"P6 # size\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def tone(seconds: float = 1.0, rate: int = 16000, hertz: float = 440.0) -> Samples:
    """Return samples of a tone."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: Samples, rate: int = 16000) -> bytes:
    """Return a WAV file of 16-bit samples."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


# A JPEG of 16 x 16 grey pixels: one table of each kind, and a scan without coefficients but DC.
_JPEG = (
    b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes([16] * 64) + b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"
    b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\x03"
    b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\x00"
    b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes([0b01010101] * 8) + b"\xff\xd9"
)
_GIF = (
    b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    b"," + struct.pack("<HHHHB", 0, 0, 4, 4, 0) + b"\x02\x05\x84\x1d\x81\x7a\x50\x00;"
)


def files() -> dict[str, bytes]:
    """Return a small file of each format; the names of sounds begin with "sound"."""
    pixels = image(5, 20, 30)
    grey = b"".join(b"\0" + bytes(range(16)) for _ in range(16))
    wide = b"".join(b"\1" + row.astype(">u2").tobytes() for row in np.arange(16 * 16 * 4).reshape(16, -1))
    flac = b"fLaC\x80\x00\x00\x22" + struct.pack(">HH", 4096, 4096) + bytes(6)
    flac += (16000 << 44 | 15 << 36 | 4096).to_bytes(8, "big") + bytes(16)
    flac += b"\xff\xf8\xc5\x08\x00\x00" + bytes(40)
    mp3 = b"".join(b"\xff\xfb\x90\x44" + bytes(413) for _ in range(6))
    loud = wav(tone(0.3))
    eight = bytearray(wav(tone(0.1)))
    eight[20:22], eight[34:36] = b"\x07\x00", b"\x08\x00"  # mu-law
    return {
        "png": png(pixels),
        "png grey": png_head(16, 16, 8, 0) + chunk(b"IDAT", zlib.compress(grey)) + chunk(b"IEND", b""),
        "png 16 bits": png_head(16, 16, 16, 6) + chunk(b"IDAT", zlib.compress(wide)) + chunk(b"IEND", b""),
        "png interlaced": png_head(16, 16, 8, 0, 1) + chunk(b"IDAT", zlib.compress(grey * 2)) + chunk(b"IEND", b""),
        "png palette": png_head(16, 16, 8, 3)
        + chunk(b"PLTE", bytes(range(48)))
        + chunk(b"tRNS", bytes(range(16)))
        + chunk(b"IDAT", zlib.compress(grey))
        + chunk(b"IEND", b""),
        "bmp": bmp(pixels),
        "ppm": ppm(pixels),
        "jpeg": _JPEG,
        "gif": _GIF,
        "sound wav": loud,
        "sound wav mu-law": bytes(eight),
        "sound flac": flac,
        "sound mp3": mp3,
        "sound mp3 with a tag": b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10) + mp3,
    }
