"""A model that writes anything that it is let, and how to have it write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from llama_cffi import Constraint, Context, Model, Sampler

Write = Callable[..., str]


@pytest.fixture(scope="module")
def room(tiny: Model) -> Iterator[Context]:
    """A context with room for long texts."""
    with Context.initFromModel(tiny, Context.Params(nCtx=1600, nThreads=1, nThreadsBatch=1)) as context:
        yield context


@pytest.fixture(scope="module")
def write(room: Context) -> Write:
    """Has the random model write a text under a constraint, by chance, to its end."""
    from benchmarks import constraints

    def run(constraint: Constraint, seed: int = 1, limit: int = 1500) -> str:
        vocab = room.getModel().vocab
        chain = constraint.chain(vocab, Sampler.initDist(seed))
        text, ended = constraints.write(room, chain, [vocab.bos], limit)
        assert ended, text
        return text

    return run
