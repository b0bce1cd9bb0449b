"""Writes random-weight Llama models for measurements: `python benchmarks/models.py FOLDER [--types Q8_0 Q4_0]`.

Speed depends on the number and format of the weights, not on their values. The blocks are random bytes with scales that
keep the logits finite. A model of 1.2 billion parameters is written in a few seconds, without a network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import tiny_vocabs  # noqa: E402
from tests.tiny_models import ATTN_GAIN, EMBED_STD, LOGIT_GAIN  # noqa: E402
from vendor.progress import Progress  # noqa: E402

N_CTX = 4096
CHUNK = 1 << 18  # blocks filled at a time


@dataclass(frozen=True)
class Size:
    """The dimensions of a Llama with untied embeddings and a head size of at most 128."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int


SIZES = {
    "3B": Size(n_layer=26, n_embd=3072, n_head=24, n_head_kv=8, n_ff=8192, n_vocab=32000),
    "1.2B": Size(n_layer=18, n_embd=2048, n_head=32, n_head_kv=8, n_ff=8192, n_vocab=32000),
    "240M": Size(n_layer=11, n_embd=1024, n_head=16, n_head_kv=8, n_ff=4096, n_vocab=32000),
    "60M": Size(n_layer=8, n_embd=512, n_head=8, n_head_kv=4, n_ff=2048, n_vocab=32000),
    "1M": Size(n_layer=2, n_embd=256, n_head=4, n_head_kv=2, n_ff=512, n_vocab=2000),
}


@dataclass(frozen=True)
class Format:
    """A quantized format: blocks of `weights` weights, each a header with the scale and `payload` random bytes."""

    file_type: int
    weights: int
    payload: int
    spread: float
    """The standard deviation of the weights if the scale is 1."""
    table: npt.NDArray[np.uint8]
    """The byte written for each of the 256 random ones. The weights average to 0, or all rows would be alike."""
    header: Callable[[float], bytes]

    @property
    def size(self) -> int:
        """The size of a block in bytes."""
        return len(self.header(0.0)) + self.payload


def _spread(values: Iterable[float]) -> float:
    return float(np.std(np.array([*values])))


def _halves(*values: float) -> bytes:
    return np.array(values, dtype=np.float16).tobytes()


_CODES = np.arange(256, dtype=np.uint8)
_LOW, _HIGH = _CODES & 15, _CODES >> 4

# The lowest value of Q8_0 (byte 128) and of Q4_0 (0, as 8 means zero) has no positive counterpart: it becomes zero.
FORMATS = {
    "Q8_0": Format(7, 32, 32, _spread([0, *range(-127, 128)]), np.where(_CODES == 128, 0, _CODES), _halves),
    "Q4_0": Format(
        *(2, 32, 16, _spread([0, *range(-7, 8)])),
        np.where(_LOW == 0, 8, _LOW) | np.where(_HIGH == 0, 8, _HIGH) << 4,
        _halves,
    ),
    # Each eighth of a block has scale and minimum 32; the two factors before them yield weights from -7.5 to 7.5.
    "Q4_K": Format(
        *(14, 256, 128, _spread(np.arange(16.0) - 7.5)),
        _CODES,
        lambda scale: _halves(scale / 32, scale / 32 * 7.5) + bytes([0xA0] * 8 + [0] * 4),
    ),
}


@dataclass(frozen=True)
class Tensor:
    """A weight: its numpy shape and the standard deviation of its values; every value of a vector is `std`."""

    name: str
    shape: tuple[int, ...]
    std: float


def tensors(size: Size) -> Iterator[Tensor]:
    """Every weight of the model, in the order of the file."""
    n_embd, n_embd_kv = size.n_embd, size.n_embd // size.n_head * size.n_head_kv
    yield Tensor("token_embd.weight", (size.n_vocab, n_embd), EMBED_STD)
    for i in range(size.n_layer):
        yield Tensor(f"blk.{i}.attn_norm.weight", (n_embd,), 1.0)
        yield Tensor(f"blk.{i}.ffn_norm.weight", (n_embd,), 1.0)
        for part, n_out, n_in, gain in (
            ("attn_q", n_embd, n_embd, 1.0),
            ("attn_k", n_embd_kv, n_embd, 1.0),
            ("attn_v", n_embd_kv, n_embd, 1.0),
            ("attn_output", n_embd, n_embd, ATTN_GAIN),
            ("ffn_gate", size.n_ff, n_embd, 1.0),
            ("ffn_up", size.n_ff, n_embd, 1.0),
            ("ffn_down", n_embd, size.n_ff, 1.0),
        ):
            yield Tensor(f"blk.{i}.{part}.weight", (n_out, n_in), gain * n_in**-0.5)
    yield Tensor("output_norm.weight", (n_embd,), LOGIT_GAIN)
    yield Tensor("output.weight", (size.n_vocab, n_embd), EMBED_STD)


def parameters(size: Size) -> int:
    """The number of weights of a model of this size."""
    return sum(int(np.prod(tensor.shape)) for tensor in tensors(size))


def write(folder: Path, name: str = "1.2B", quant: str = "Q8_0") -> Path:
    """Write a model into a folder: a size of `SIZES`, a format of `FORMATS`. The bytes are the same every time."""
    size = SIZES[name]
    target = folder / f"random-{name}-{quant}.gguf"
    scratch = folder / f".{target.name}.tmp"
    writer = gguf.GGUFWriter(None, "llama")
    _add_metadata(writer, size, f"random-{name}", quant)
    todo = list(tensors(size))
    kind = gguf.GGMLQuantizationType[quant]
    for tensor in todo:
        if len(tensor.shape) == 1:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), 4 * tensor.shape[0])
        else:
            row = tensor.shape[1] // FORMATS[quant].weights * FORMATS[quant].size
            shape = (tensor.shape[0], row)
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), shape[0] * row, raw_dtype=kind)
    rng = np.random.default_rng(1)
    progress = Progress(f"writing {target.name}", len(todo))
    try:
        writer.write_header_to_file(scratch)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(todo, 1):
            writer.write_tensor_data(_data(rng, tensor, quant))
            progress.update(done)
        writer.close()
        scratch.replace(target)
    finally:
        writer.close()
        scratch.unlink(missing_ok=True)
    progress.finish()
    return target


def _add_metadata(writer: Any, size: Size, name: str, quant: str) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(FORMATS[quant].file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(size.n_layer)
    writer.add_embedding_length(size.n_embd)
    writer.add_feed_forward_length(size.n_ff)
    writer.add_head_count(size.n_head)
    writer.add_head_count_kv(size.n_head_kv)
    writer.add_rope_dimension_count(size.n_embd // size.n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(N_CTX)
    writer.add_vocab_size(size.n_vocab)
    tiny_vocabs.add_sentencepiece(writer, size.n_vocab)


def _data(rng: np.random.Generator, tensor: Tensor, quant: str) -> npt.NDArray[Any]:
    """The data of one weight: a matrix is blocks with one header and random payloads."""
    if len(tensor.shape) == 1:
        return np.full(tensor.shape, tensor.std, dtype=np.float32)
    form = FORMATS[quant]
    header = np.frombuffer(form.header(tensor.std / form.spread), dtype=np.uint8)
    blocks = np.empty((tensor.shape[0] * tensor.shape[1] // form.weights, form.size), dtype=np.uint8)
    blocks[:, : len(header)] = header
    for start in range(0, len(blocks), CHUNK):
        part = blocks[start : start + CHUNK, len(header) :]
        part[:] = form.table[rng.integers(0, 256, part.shape, dtype=np.uint8)]
    return blocks.reshape(tensor.shape[0], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", nargs="+", choices=[*FORMATS], default=["Q8_0", "Q4_0"])
    parser.add_argument("--size", choices=[*SIZES], default="1.2B")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for quant in arguments.types:
        path = write(arguments.folder, arguments.size, quant)
        print(f"{path}: {parameters(SIZES[arguments.size]):,} parameters, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
