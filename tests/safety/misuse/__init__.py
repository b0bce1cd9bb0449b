"""Every way to misuse the API that is known to hurt llama.cpp, by area. `python -m tests.safety.misuse` runs them."""

from __future__ import annotations

from tests.safety.misuse import (
    adapter,
    batch,
    compute,
    context,
    gguf,
    globals,
    media,
    memory,
    mistakes,
    model,
    outputs,
    process,
    sampler,
    sampler_makers,
    state,
    strangers,
    tensors,
    threadpool,
    training,
    vocab,
)
from tests.safety.misuse.case import Case

AREAS: dict[str, tuple[Case, ...]] = {
    "model": model.CASES,
    "context": context.CASES,
    "compute": compute.CASES,
    "outputs": outputs.CASES,
    "state": state.CASES,
    "batch": batch.CASES,
    "sampler": sampler.CASES + sampler_makers.CASES,
    "adapter": adapter.CASES,
    "threadpool": threadpool.CASES,
    "tensors": tensors.CASES,
    "training": training.CASES,
    "vocab": vocab.CASES,
    "gguf": gguf.CASES,
    "media": media.CASES,
    "memory": memory.CASES,
    "globals": globals.CASES,
    "process": process.CASES,
    "mistakes": mistakes.CASES,
    "strangers": strangers.CASES,
}
