"""The child process of `model/untrusted.py`: loads a model and computes with it, on several threads.

A program, not a module. The request on stdin says where to find the package.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.context.context import Context
    from llama_cffi.model.model import Model

_TEXT = "Hello, world! 1234 \N{GRINNING FACE}\n"


def main() -> None:
    """Read the request, load and use the model, print the answer."""
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it does not write files
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = request["memory"] + _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    sys.path[:] = request["path"]
    answer = {}
    try:
        _use(request)
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)


def _address_space() -> int:
    """The bytes that this process has mapped so far: few, unless a sanitizer is in use."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _use(request: dict[str, Any]) -> None:
    from llama_cffi._generated.enums import LoadMode
    from llama_cffi.context.context import Context
    from llama_cffi.model.model import Model

    params = Model.Params(devices=[], loadMode=LoadMode.MMAP, kvOverrides=request["overrides"], **request["params"])
    files = request["files"]
    with Model.loadSplits(files, params=params) if request["split"] else Model.load(files[0], params) as model:
        tokens = _tokens(model)
        if params.vocabOnly:
            return
        for embeddings in (False, True):
            settings = Context.Params(
                nCtx=64, nBatch=64, nUbatch=64, nThreads=2, nThreadsBatch=2, embeddings=embeddings
            )
            with Context.initFromModel(model, settings) as ctx:
                _compute(ctx, tokens)


def _tokens(model: Model) -> list[int]:
    """Tokens from the whole vocabulary, and those of a text if the model has a tokenizer."""
    from llama_cffi._generated.enums import VocabType
    from llama_cffi.vocab.tokenize import tokenize

    n = model.vocab.nTokens
    spread = sorted({0, n // 3, n // 2, n - 1})
    if model.vocab.type == VocabType.NONE:
        return spread
    return [*tokenize(model.vocab, _TEXT, addSpecial=True)[:24], *spread]


def _compute(ctx: Context, tokens: list[int]) -> None:
    """Compute a batch and a single token. (In a model without a KV cache, `decode` encodes.)"""
    from llama_cffi.context.batch import Batch

    if ctx.getModel().hasEncoder:
        ctx.encode(Batch.getOne(tokens))
    ctx.decode(Batch.getOne(tokens))
    ctx.decode(Batch.getOne(tokens[:1]))


if __name__ == "__main__":
    main()
