"""Writing GGUF files in parts, so that no file has to fit into memory."""

from __future__ import annotations

from llama_cffi._core.ffi import lib
from llama_cffi.ggml.gguf.header import ALIGNMENT_KEY, MAX_ALIGNMENT, alignment_of, encode, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from io import BufferedWriter

    from llama_cffi.ggml.gguf.tensors import GgufTensor
    from llama_cffi.ggml.gguf.values import Value


def write_file(
    file: BufferedWriter,
    version: int,
    metadata: dict[str, Value],
    tensors: Iterable[GgufTensor],
    progress: Callable[[int], object],
) -> None:
    """Write a whole file. `progress` is called with the number of bytes of each part."""
    alignment = alignment_of(metadata)
    if alignment > MAX_ALIGNMENT:
        raise ValueError(f"{ALIGNMENT_KEY} must be at most {MAX_ALIGNMENT} to be written, got {alignment}")
    chosen = list(tensors)
    rows = [(tensor.name, tensor.ne, tensor.type, tensor.size) for tensor in chosen]
    file.writelines(encode(version, metadata, rows, alignment))
    for tensor in chosen:
        for part in tensor._data.chunks(int(lib.ggml_type_size(tensor.type))):
            file.write(part)
            progress(len(part))
        file.write(bytes(padding(tensor.size, alignment)))


def reporter(total: int, progress: Callable[[float], object] | None) -> Callable[[int], object]:
    """Return a function of bytes that have been written, which calls `progress` with the share of `total`."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done / total, 1.0) if total else 1.0)

    return report
