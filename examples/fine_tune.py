"""Fine-tunes a small model on a text file until it knows the text better, and saves it.

    python examples/fine_tune.py model.gguf text.txt tuned.gguf [EPOCHS]

llama.cpp trains the weights of type F32 only: convert the model to F32 first. It takes 16 bytes of memory for each
parameter besides the model, and one CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_cffi import Ggml, Model, fineTune, tokenize


def main(model_file: str, text_file: str, out_file: str, epochs: str = "2") -> None:
    params = Model.Params(useMmap=False, useExtraBufts=False, devices=[])
    with Model.load(model_file, params) as model:
        tokens = tokenize(model.vocab, Path(text_file).read_text(encoding="utf-8"))
        print(f"{len(tokens)} tokens")
        fineTune(
            model,
            tokens,
            nEpoch=int(epochs),
            getOptPars=Ggml.OptOptimizerParams(alpha=1e-3),
            callback=lambda done: print(f"epoch {done.epoch}: loss {done.loss:.3f}, {100 * done.accuracy:.1f} % right"),
        )
        model.save(out_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
