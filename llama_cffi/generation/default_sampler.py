"""The sampler chain that is used if you pass none."""

from __future__ import annotations

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi.sampling.sampler import Sampler


def defaultSampler(temperature: float = 0.8, seed: int = DEFAULT_SEED) -> Sampler:
    """Make the default sampler chain: top-k 40, top-p 0.95, min-p 0.05, temperature 0.8, then random sampling (dist).

    A temperature of 0 is greedy: always the most probable token. DEFAULT_SEED takes a different seed each time.
    """
    if temperature <= 0:
        return Sampler.chain(Sampler.initGreedy(), noPerf=True)
    return Sampler.chain(
        Sampler.initTopK(40),
        Sampler.initTopP(0.95, 1),
        Sampler.initMinP(0.05, 1),
        Sampler.initTemp(temperature),
        Sampler.initDist(seed),
        noPerf=True,
    )
