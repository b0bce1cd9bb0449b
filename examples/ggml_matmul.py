"""A matrix product by ggml, beside numpy: F32 and quantized weights, and how long each takes.

python examples/ggml_matmul.py [N]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from llama_cffi import Ggml


def timed(name: str, compute: Callable[[], np.ndarray], exact: np.ndarray) -> None:
    """Print the time and the error of a product."""
    start = time.perf_counter()
    product = compute()
    seconds = time.perf_counter() - start
    error = np.abs(product - exact).max() / np.abs(exact).max()
    print(f"{name:6} {1000 * seconds:8.1f} ms   largest error {error:.5f}")


def main(n: int = 512) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, n)).astype(np.float32) for _ in range(2))
    exact = b @ a.T
    timed("numpy", lambda: b @ a.T, exact)
    for kind in (Ggml.Type.F32, Ggml.Type.F16, Ggml.Type.Q8_0, Ggml.Type.Q4_K):
        with Ggml.Context(noAlloc=True) as ctx:
            product = ctx.mulMat(ctx.tensor(a, kind), ctx.tensor(b))
            Ggml.compute(product)  # starts the threads
            timed(kind.name, lambda product=product: Ggml.compute(product), exact)  # type: ignore[misc]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
