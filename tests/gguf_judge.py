"""`make gguf-judge`: all of llama.cpp's vocabularies beside gguf-py's reader, and the types that take ggml seconds."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llama_cffi import Ggml
from tests.api.test_gguf import ROWS, SLOW, of_all_types, same_as_gguf_py
from vendor.source import fetch


def main() -> int:
    """Compare. Returns 0; what differs is an AssertionError."""
    for path in sorted(fetch.vectors_dir().glob("ggml-vocab-*.gguf")):
        began = time.monotonic()
        same_as_gguf_py(path)
        print(f"{path.name}: the same, {time.monotonic() - began:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "types.gguf"
        of_all_types(SLOW).write(path)
        with Ggml.Gguf.open(path) as file:
            for name in SLOW:
                error = np.abs(file.tensors[name].numpy(dequantize=True) - ROWS).max()
                assert error < 4.5, (name, error)
                print(f"{name}: largest error {error:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
