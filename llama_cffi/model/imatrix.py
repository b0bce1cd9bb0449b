"""Importance matrices of files, as `llama-imatrix` writes them: how much each column of a weight matters."""

from __future__ import annotations

import os

from llama_cffi._core.arguments import StrPath
from llama_cffi.ggml.gguf.file import Gguf

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SUMS, COUNTS = ".in_sum2", ".counts"


def read_imatrix(path: StrPath) -> dict[str, npt.NDArray[np.float32]]:
    """Return the importance of the columns of each tensor, by its name. Raises ValueError for another kind of file.

    It is the mean of the squares that the columns were multiplied with; 1 for an expert that was never used.
    """
    import numpy as np

    name = os.fsdecode(path)
    with Gguf.open(path) as file:
        if file.metadata.get("general.type") != "imatrix":
            raise ValueError(f"{name} is not an importance matrix: `llama-imatrix -m FILE -f TEXT` writes one")
        found = {}
        for key, sums in file.tensors.items():
            if not key.endswith(SUMS):
                continue
            tensor = key.removesuffix(SUMS)
            counts = file.tensors.get(tensor + COUNTS)
            if counts is None:
                raise ValueError(f"{name} is damaged: the tensor {tensor}{COUNTS} is missing")
            n, values = counts.numpy(dequantize=True).reshape(-1, 1), sums.numpy(dequantize=True)
            if values.ndim != 2 or len(n) != len(values):
                raise ValueError(f"{name} is damaged: {key} and {tensor}{COUNTS} must have a row for each matrix")
            with np.errstate(all="ignore"):
                means = np.where(n > 0, values / np.maximum(n, 1), 1).astype(np.float32)
            found[tensor] = means.reshape(-1)
        if not found:
            raise ValueError(f"{name} is damaged: it has no tensor with a name that ends in {SUMS}")
        return found
