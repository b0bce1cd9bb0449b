"""`Mtmd.Bitmap`: files, bytes, arrays and images of Pillow; limits before anything is decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Mtmd
from llama_cffi.mtmd import media
from tests.mtmd.samples import bmp, chunk, image, png, png_head, ppm, tone, wav


def test_an_image_of_an_array() -> None:
    pixels = image(1, 20, 30)
    with Mtmd.Bitmap.fromImage(pixels) as bitmap:
        assert (bitmap.width, bitmap.height, bitmap.nBytes, bitmap.isAudio) == (30, 20, 1800, False)
        assert (np.array(bitmap.data) == pixels).all()
        again, other = Mtmd.Bitmap.fromImage(pixels), Mtmd.Bitmap.fromImage(pixels.reshape(30, 20, 3))
        assert bitmap.id == again.id != other.id
        bitmap.setId("mine")
        assert bitmap.id == "mine"
    with pytest.raises(ValueError, match="freed"):
        bitmap.id  # noqa: B018


def test_an_image_of_pillow() -> None:
    from PIL import Image

    pixels = image(2, 9, 7)
    for mode in ("RGB", "RGBA"):
        bitmap = Mtmd.Bitmap.fromImage(Image.fromarray(pixels).convert(mode))
        assert (np.array(bitmap.data) == pixels).all()


@pytest.mark.parametrize("form", ["png", "bmp", "ppm"])
def test_an_image_of_bytes_and_of_a_file(form: str, llava: Mtmd.Context, tmp_path: Path) -> None:
    pixels = image(3, 33, 21)
    data = {"png": png, "bmp": bmp, "ppm": ppm}[form](pixels)
    (tmp_path / "image").write_bytes(data)
    for bitmap in (
        Mtmd.Bitmap.fromBytes(llava, data),
        Mtmd.Bitmap.fromBytes(llava, bytearray(data)),
        Mtmd.Bitmap.fromFile(llava, tmp_path / "image"),
    ):
        assert (np.array(bitmap.data) == pixels).all()
    assert bitmap.id == Mtmd.Bitmap.fromBytes(llava, data).id != Mtmd.Bitmap.fromImage(pixels).id


def test_a_sound(ultravox: Mtmd.Context, tmp_path: Path) -> None:
    samples = tone(0.25)
    with Mtmd.Bitmap.fromAudio(samples) as bitmap:
        assert (bitmap.width, bitmap.height, bitmap.isAudio) == (4000, 1, True)
        assert (np.array(bitmap.data) == samples).all()
    read = Mtmd.Bitmap.fromBytes(ultravox, wav(samples))
    assert np.abs(np.array(read.data) - samples).max() < 1e-4
    (tmp_path / "sound.wav").write_bytes(wav(tone(0.5, 8000), 8000))  # another sample rate
    resampled = Mtmd.Bitmap.fromFile(ultravox, tmp_path / "sound.wav")
    assert abs(resampled.width - 8000) < 100


def test_samples_in_a_list() -> None:
    assert list(Mtmd.Bitmap.fromAudio([0.0, 0.5, -0.5]).data) == [0.0, 0.5, -0.5]


# Limits


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"maxBytes": 100}, r"maxBytes=100.*got \d+"),
        ({"maxPixels": 99}, r"maxPixels=99.*got 10 x 10"),
    ],
)
def test_limits_of_images(limits: dict[str, int], match: str, llava: Mtmd.Context, tmp_path: Path) -> None:
    data = png(image(0, 10, 10))
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(ValueError, match=match):
        Mtmd.Bitmap.fromBytes(llava, data, **limits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=match):
        Mtmd.Bitmap.fromFile(llava, tmp_path / "image.png", **limits)  # type: ignore[arg-type]
    assert Mtmd.Bitmap.fromBytes(llava, data, maxBytes=len(data), maxPixels=100).width == 10


def test_limits_of_arrays() -> None:
    with pytest.raises(ValueError, match=r"maxPixels=99.*got 10 x 10"):
        Mtmd.Bitmap.fromImage(image(0, 10, 10), maxPixels=99)
    with pytest.raises(ValueError, match=rf"{media.MAX_SIDE}.*got {media.MAX_SIDE + 1} x 1"):
        Mtmd.Bitmap.fromImage(image(0, 1, media.MAX_SIDE + 1))


def test_limits_of_sounds(ultravox: Mtmd.Context) -> None:
    data = wav(tone(2.0))
    with pytest.raises(ValueError, match=r"maxSeconds=1.*got 2\.0"):
        Mtmd.Bitmap.fromBytes(ultravox, data, maxSeconds=1)
    assert Mtmd.Bitmap.fromBytes(ultravox, data, maxSeconds=2).width == 32000


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (png_head(30000, 30000), r"maxPixels=\d+.*got 30000 x 30000"),
        (png_head(1 << 20, 1), r"got 1048576 x 1"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 100_000, -100_000), r"got 100000 x 100000"),
        (b"GIF89a" + struct.pack("<HH", 65535, 65535), r"got 65535 x 65535"),
        (b"P6 99999 99999 255\n", r"got 99999 x 99999"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 65000, 65000) + bytes(12), r"got 65000 x 65000"),
        (png_head(0, 5), r"got 0 x 5"),
        (b"GIF89a", "damaged"),
        (b"\xff\xd8\xff\xd9", "damaged"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "WebP"),
        (b"", "neither"),
        (b"plain text", "neither"),
        (png(image())[:-60], "cannot be decoded"),
    ],
)
def test_image_bombs_and_damaged_images(data: bytes, match: str, llava: Mtmd.Context) -> None:
    with pytest.raises(ValueError, match=match):
        Mtmd.Bitmap.fromBytes(llava, data)


def test_a_small_image_that_unpacks_to_gigabytes(llava: Mtmd.Context) -> None:
    """One pixel by its header, and 256 MB by its data."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    data = png_head(1, 1) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="cannot be decoded"):
        Mtmd.Bitmap.fromBytes(llava, data)
    assert Mtmd.Bitmap.fromBytes(llava, png(image())).width == 28  # the limit is gone with the call


def test_a_jpeg_of_many_scans(llava: Mtmd.Context) -> None:
    data = (
        b"\xff\xd8\xff\xc2\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"
        + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * 101
    )
    with pytest.raises(ValueError, match=r"100 scans, got 101"):
        Mtmd.Bitmap.fromBytes(llava, data)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (wav(tone(0.1), 16000).replace(struct.pack("<I", 16000), struct.pack("<I", 0), 1), "sample rate"),
        (
            b"fLaC\x00\x00\x00\x22" + bytes(10) + (16000 << 44 | (1 << 36) - 1).to_bytes(8, "big") + bytes(16),
            r"got 4294967\.\d",
        ),
        (b"fLaC\x00\x00\x00\x22" + bytes(40), "sample rate is 0"),
        (b"fLaC" + bytes(8), "STREAMINFO"),
        (b"ID3" + bytes(9) + b"Xing\x00\x00\x00\x01\xff\xff\xff\xff", r"maxSeconds=3600"),
        (b"ID3" + bytes(100), "cannot be decoded"),
    ],
)
def test_sound_bombs_and_damaged_sounds(data: bytes, match: str, ultravox: Mtmd.Context) -> None:
    with pytest.raises(ValueError, match=match):
        Mtmd.Bitmap.fromBytes(ultravox, data)


def test_a_sound_that_says_it_is_shorter(ultravox: Mtmd.Context) -> None:
    """A sample rate of 1 Hz makes 16,000 samples of each one."""
    data = bytearray(wav(tone(4.0)))
    data[24:28] = struct.pack("<I", 1)
    with pytest.raises(ValueError, match=r"maxSeconds|cannot be decoded"):
        Mtmd.Bitmap.fromBytes(ultravox, data)


# Wrong arguments


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda c: Mtmd.Bitmap(), TypeError, "fromFile"),
        (lambda c: Mtmd.Bitmap.fromBytes(5, b""), TypeError, r"ctx.*Mtmd\.Context.*got int"),
        (lambda c: Mtmd.Bitmap.fromBytes(c, "image.png"), TypeError, "data.*got str.*fromFile"),
        (lambda c: Mtmd.Bitmap.fromBytes(c, wav(tone(0.1))), ValueError, "no sounds"),
        (lambda c: Mtmd.Bitmap.fromImage(5), TypeError, "image.*got int"),
        (lambda c: Mtmd.Bitmap.fromImage(np.zeros((4, 4), np.uint8)), ValueError, r"height, width, 3.*\(4, 4\)"),
        (lambda c: Mtmd.Bitmap.fromImage(np.zeros((4, 4, 3), np.float32)), ValueError, "'f'"),
        (lambda c: Mtmd.Bitmap.fromAudio([]), ValueError, "samples.*got 0"),
        (lambda c: Mtmd.Bitmap.fromAudio(np.zeros(4, np.float64)), TypeError, "float"),
        (lambda c: Mtmd.Bitmap.fromAudio("x"), TypeError, "samples"),
        (lambda c: Mtmd.Bitmap.fromFile(c, "/nowhere"), FileNotFoundError, "nowhere"),
        (lambda c: Mtmd.Bitmap.fromFile(c, "/dev/zero"), OSError, "regular"),
    ],
)
def test_wrong_arguments(call: object, error: type[Exception], match: str, llava: Mtmd.Context) -> None:
    with pytest.raises(error, match=match):
        call(llava)  # type: ignore[operator]
