"""The child process of `mtmd/untrusted.py`: loads a projector file and encodes images and sounds, on several threads.

A program, not a module. The request on stdin says where to find the package.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.mtmd.context import MtmdContext

_IMAGES = ((224, 224), (60, 300), (1, 1))  # height, width
_SOUNDS = (0.5, 31.0)  # seconds


def main() -> None:
    """Read the request, load and use the projector, print the answer."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "vocabulary.gguf")
            _write_vocabulary(model, request["architecture"])
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            soft = request["memory"] + _address_space()
            resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
            _use(request["file"], model)
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)


def _address_space() -> int:
    """The bytes that this process has mapped so far: few, unless a sanitizer is in use."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _write_vocabulary(path: str, architecture: str) -> None:
    """Write a model with a vocabulary of bytes and without weights: encoders need no more of it."""
    from llama_cffi._generated.enums import GgufType
    from llama_cffi.ggml.gguf.file import Gguf

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    with Gguf() as file:
        values = file.metadata
        values["general.architecture"] = architecture
        values["tokenizer.ggml.model"] = "llama"
        values["tokenizer.ggml.tokens"] = tokens
        values.set("tokenizer.ggml.scores", [0.0] * len(tokens), GgufType.ARRAY, GgufType.FLOAT32)
        values.set("tokenizer.ggml.token_type", [2, 3, 3, *[6] * 256], GgufType.ARRAY, GgufType.INT32)
        file.write(path)


def _use(file: str, vocabulary: str) -> None:
    from llama_cffi.model.model import Model
    from llama_cffi.mtmd.bitmap import Bitmap
    from llama_cffi.mtmd.context import MtmdContext
    from llama_cffi.mtmd.params import MtmdContextParams

    params = MtmdContextParams(useGpu=False, nThreads=2, warmup=False)
    with Model.load(vocabulary, Model.Params(vocabOnly=True)) as model:
        with MtmdContext._load(os.fsencode(file), model, params) as projector:
            if projector.supportVision():
                for height, width in _IMAGES:
                    pixels = memoryview(bytes(range(256)) * (3 * height * width // 256 + 1))[: 3 * height * width]
                    _encode(projector, Bitmap.fromImage(pixels.cast("B", (height, width, 3))))
            if projector.supportAudio():
                for seconds in _SOUNDS:
                    _encode(projector, Bitmap.fromAudio([0.1, -0.2] * int(seconds * 8000)))


def _encode(projector: MtmdContext, bitmap: Any) -> None:
    with projector.tokenize(f"a{projector.getMarker()}b", [bitmap], addSpecial=False) as chunks:
        for chunk in chunks:
            projector.encodeChunk(chunk)


if __name__ == "__main__":
    main()
