"""Trains a small net that reads handwritten digits, and says how many of those that it has not seen it reads right.

    python examples/train_digits.py

The digits are the 1,797 of scikit-learn (8 x 8 pixels each) if that is installed, and else drawn here: glyphs of 5 x 7
pixels, moved, with noise.
"""

from __future__ import annotations

import sys

import numpy as np

from llama_cffi import Ggml

GLYPHS = """
01110 00100 01110 11111 00010 11111 00110 11111 01110 01110
10001 01100 10001 00010 00110 10000 01000 00001 10001 10001
10011 00100 00001 00100 01010 11110 10000 00010 10001 10001
10101 00100 00010 00010 10010 00001 11110 00100 01110 01111
11001 00100 00100 00001 11111 00001 10001 01000 10001 00001
10001 00100 01000 10001 00010 10001 10001 01000 10001 00010
01110 01110 11111 01110 00010 01110 01110 01000 01110 01100
"""
BATCH, HIDDEN = 32, 32


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures of 64 pixels between 0 and 1, and the digits that they show."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return drawn(1792)
    pictures, shown = load_digits(return_X_y=True)
    return pictures.astype(np.float32) / 16, shown


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits: each at one of six places, a little darker or lighter, with noise."""
    rows = [line.split() for line in GLYPHS.split("\n") if line]
    glyphs = np.array([[[int(c) for c in row[d]] for row in rows] for d in range(10)])
    rng = np.random.default_rng(seed)
    pictures, shown = np.zeros((n, 8, 8), np.float32), rng.integers(0, 10, n)
    for picture, digit in zip(pictures, shown, strict=True):
        y, x = rng.integers(0, 2), rng.integers(0, 3)
        picture[y : y + 7, x : x + 5] = glyphs[digit] * rng.uniform(0.6, 1.0)
    pictures += rng.normal(0, 0.15, pictures.shape)
    return pictures.reshape(n, 64), shown


def layer(ctx: Ggml.Context, x: Ggml.Tensor, rows: int, rng: np.random.Generator) -> Ggml.Tensor:
    """A matrix and a bias that are trained."""
    columns = x.ne[0]
    start = rng.normal(0, (2 / columns) ** 0.5, (rows, columns)).astype(np.float32)
    matrix = ctx.tensor(start).setParam()
    bias = ctx.tensor(np.zeros(rows, np.float32)).setParam()
    return ctx.add(ctx.mulMat(matrix, x), bias)


def main(epochs: int = 12) -> float:
    pictures, shown = digits()
    n = len(pictures) // BATCH * BATCH
    n_train = n * 3 // 4 // BATCH * BATCH
    ctx, rng = Ggml.Context(noAlloc=True), np.random.default_rng(1)
    x = ctx.tensor(np.zeros((BATCH, 64), np.float32))
    y = layer(ctx, ctx.relu(layer(ctx, x, HIDDEN, rng)), 10, rng)

    data = Ggml.OptDataset(pictures[:n_train], np.eye(10)[shown[:n_train]])
    Ggml.Opt.fit(
        x,
        y,
        data,
        Ggml.OptLossType.CROSS_ENTROPY,
        getOptPars=Ggml.OptOptimizerParams(alpha=0.01),
        nEpoch=epochs,
        callback=lambda done: print(f"epoch {done.epoch:2}: loss {done.loss:.3f}, {100 * done.accuracy:.1f} % right"),
    )

    right = 0
    for i in range(n_train, n, BATCH):
        x.set(pictures[i : i + BATCH])
        right += int((Ggml.compute(y).argmax(1) == shown[i : i + BATCH]).sum())
    share = right / (n - n_train)
    print(f"{100 * share:.1f} % of {n - n_train} digits that the net has not seen")
    return share


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
