"""Several continuations of one prompt: requests that share its cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import integer
from llama_cffi.generation.request_options import require_sampler

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from llama_cffi.engine.request import Request
    from llama_cffi.sampling.sampler import Sampler

    Samplers: TypeAlias = Sampler | Sequence[Sampler] | None

MOST = 1024


def submit_all(n: int, sampler: Samplers, options: dict[str, Any], submit: Callable[..., Request]) -> list[Request]:
    """Submit `n` requests by `submit(sampler=, seed=, **options)`. If one is refused, those before it are cancelled."""
    n = integer(n, 1, MOST, "n")
    samplers = _samplers(n, sampler)
    seed = integer(options.get("seed", DEFAULT_SEED), 0, DEFAULT_SEED, "seed")
    with ExitStack() as on_error:
        requests = []
        for i, each in enumerate(samplers):
            own = seed if seed == DEFAULT_SEED else (seed + i) % DEFAULT_SEED
            request = submit(**{**options, "sampler": each, "seed": own})
            on_error.callback(request.cancel)
            requests.append(request)
        on_error.pop_all()
    return requests


def _samplers(n: int, sampler: Samplers) -> Sequence[Sampler | None]:
    if sampler is None:
        return [None] * n
    if not isinstance(sampler, (list, tuple)):
        chosen = require_sampler(sampler)  # type: ignore[arg-type]
        return [chosen, *(chosen.clone() for _ in range(n - 1))]
    if len(sampler) != n:
        raise ValueError(f"sampler must be one, or one for each of the {n} continuations, got {len(sampler)}")
    return sampler
