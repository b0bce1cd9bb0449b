"""Checks of the arguments of an engine, and what follows from them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import number, out_of_range
from llama_cffi.engine.sequence_pool import UNLIMITED
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.default_sampler import defaultSampler
from llama_cffi.generation.request_options import require_projector, require_sampler
from llama_cffi.generation.token_cache import context_capacity

if TYPE_CHECKING:
    from llama_cffi._core.arguments import StrPath
    from llama_cffi.context.context import Context
    from llama_cffi.engine.memory_layout import MemoryLayout
    from llama_cffi.generation.projector import Projector
    from llama_cffi.generation.prompt_cache.cache import PromptCache
    from llama_cffi.model.model import Model
    from llama_cffi.sampling.sampler import Sampler


def most_cells(context: Context, layout: MemoryLayout) -> int:
    """The most cells that a request can have, in the layout that allows more."""
    capacity = context_capacity(context) or UNLIMITED
    if layout.fixed or layout.unified:
        return capacity
    positions: int = context._limits.n_pos
    return min(layout.nCtx, positions) if positions else layout.nCtx


def checked_projector(mtmd: Projector | None, model: Model) -> Projector | None:
    """Return a projector for the engine's model, or None."""
    if mtmd is not None and require_projector(mtmd).getModel() is not model:
        raise ValueError("mtmd belongs to another model: make it for the Model of the engine")
    return mtmd


def require_room(n_prompt: int, max_tokens: int | None, capacity: int) -> None:
    """Raise ContextFullError for a request that needs more cells than one can have."""
    n_cells = n_prompt + (max_tokens or 1) - 1  # the last token is not decoded
    if n_cells <= capacity:
        return
    if n_prompt > capacity:
        asked, first = "", "shorten it"
    else:
        asked, first = f" and maxTokens is {max_tokens}", "lower maxTokens, shorten the prompt"
    raise ContextFullError(
        f"the prompt has {n_prompt} tokens{asked}, but the context window {capacity}: {first}, or pass nCtx to "
        "load() or Engine()"
    )


def seconds(timeout: float) -> float:
    """A timeout, checked."""
    found = number(timeout, "timeout", " of seconds")
    if not 0 <= found <= threading.TIMEOUT_MAX:
        raise out_of_range("timeout", timeout, 0, threading.TIMEOUT_MAX)
    return found


def chosen_sampler(sampler: Sampler | None, seed: int) -> Sampler:
    """The sampler for one request."""
    if sampler is None:
        return defaultSampler(seed=seed)
    chosen = require_sampler(sampler)
    if seed != DEFAULT_SEED:
        raise ValueError("seed is for the default sampler: give your own its seed, as Sampler.initDist(seed) does")
    if chosen._chain is not None:
        raise ValueError("this sampler belongs to a chain: pass the chain, or the sampler's clone()")
    return chosen


def prompt_cache(value: PromptCache | StrPath) -> PromptCache:
    """The prompt cache on disk that a caller names."""
    from llama_cffi.generation.prompt_cache.cache import PromptCache

    return PromptCache._of(value)
