"""The library for images and sounds: loaded at first use, and its raw functions in the guard."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llama_cffi
from llama_cffi import ClosedError, Ggml, Model, Mtmd, NativeAssertionError, NativeError, ffi, lib
from llama_cffi._core import manifest
from tests.mtmd.conftest import params
from tests.mtmd.samples import image, tone

FILE = "libmtmd-cffi.so"


def _run(code: str, package: Path | None = None) -> str:
    folder = str((package or Path(llama_cffi.__file__).parent).parent)
    script = f"import sys; sys.path.insert(0, {folder!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_loaded_at_first_use() -> None:
    mapped = f"any({FILE!r} in line for line in open('/proc/self/maps'))"
    out = _run(
        f"from llama_cffi import Mtmd, lib\nprint({mapped})\n"
        f"print(lib.mtmd_default_marker() != 0, {mapped}, Mtmd.available())"
    )
    assert out.split() == ["False", "True", "True", "True"]


def test_it_is_in_the_manifest() -> None:
    assert FILE in manifest.read().ids


def test_a_build_without_it(tmp_path: Path) -> None:
    package = tmp_path / "llama_cffi"
    shutil.copytree(
        Path(llama_cffi.__file__).parent, package, ignore=shutil.ignore_patterns(FILE, "__pycache__", "libggml-cpu-*")
    )
    code = (
        "import llama_cffi\nfrom llama_cffi import Mtmd, UnavailableError, lib\nprint(llama_cffi.__file__)\n"
        "print(Mtmd.available())\n"
        "calls = [Mtmd.defaultMarker, Mtmd.Context.Params, lib.mtmd_default_marker]\n"
        "for call in [*calls, lambda: Mtmd.Bitmap.fromAudio([0.0])]:\n"
        "    try:\n        call()\n    except UnavailableError as error:\n        print('libmtmd-cffi' in str(error))"
    )
    out = _run(code, package).split()
    assert out == [str(package / "__init__.py"), "False", "True", "True", "True", "True"]


def test_every_function_of_its_headers_is_bound() -> None:
    names = [name for name in dir(lib) if name.startswith("mtmd_")]
    assert len(names) == 84


def test_its_log_is_the_log_of_the_package(tiny: Model, llava_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Mtmd.Context.initFromFile(llava_path, tiny, params()):
        pass
    assert capfd.readouterr().err == ""


def test_an_assertion_is_an_exception(tiny: Model, ultravox_path: Path, tmp_path: Path) -> None:
    """An encoder of sounds with too few positions."""
    with Ggml.Gguf.open(ultravox_path) as file:
        file.tensors.set("a.position_embd.weight", np.zeros((9, 32), np.float32))
        file.write(tmp_path / "short.gguf")
    made = Mtmd.Context.initFromFile(tmp_path / "short.gguf", tiny, params())
    chunks = made.tokenize("<__media__>", [Mtmd.Bitmap.fromAudio(tone())], addSpecial=False)
    with pytest.raises(NativeAssertionError, match=r"mtmd_encode_chunk.*position_embeddings"):
        made.encodeChunk(chunks[0])
    with pytest.raises(ClosedError, match="half-changed"):
        made.supportAudio()
    assert chunks[0].nTokens == 150


def test_what_was_freed_is_refused_by_the_raw_functions() -> None:
    pixels = image().tobytes()
    bitmap = lib.mtmd_bitmap_init(28, 28, pixels)
    lib.mtmd_bitmap_free(bitmap)
    with pytest.raises(ClosedError, match="mtmd_bitmap_get_nx"):
        lib.mtmd_bitmap_get_nx(bitmap)
    with pytest.raises(ClosedError, match="mtmd_bitmap_free"):
        lib.mtmd_bitmap_free(bitmap)


def test_a_part_is_not_freed(llava: Mtmd.Context) -> None:
    chunks = llava.tokenize("hello")
    part = lib.mtmd_input_chunks_get(chunks._c, 0)
    with pytest.raises(NativeError, match="belongs to another object"):
        lib.mtmd_input_chunk_free(ffi.cast("mtmd_input_chunk *", part))
    assert chunks[0].nTokens == 2
    address = int(ffi.cast("uintptr_t", part))
    chunks.free()
    with pytest.raises(ClosedError):
        lib.mtmd_input_chunk_get_n_tokens(ffi.cast("mtmd_input_chunk *", address))


def test_video_is_off(llava: Mtmd.Context) -> None:
    """llama.cpp would start ffmpeg from PATH."""
    assert not lib.mtmd_helper_support_video(llava._c)
    assert lib.mtmd_helper_video_init(llava._c, b"/dev/null", lib.mtmd_helper_video_init_params_default()) == ffi.NULL
