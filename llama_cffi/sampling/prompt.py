"""Shows the tokens of a prompt to penalties and DRY, so that they count its repetitions too, as llama-server does."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.sampling.base import SamplerBase


def accept_prompt(sampler: SamplerBase, members: Sequence[SamplerBase], tokens: Sequence[Token]) -> None:
    """Let members of `sampler` accept a prompt: as many of its last tokens as each of them looks back at.

    A sampler written in Python sees it through `acceptPrompt`, if it has that: its `accept` may be that of a grammar.
    """
    with sampler._exclusive():
        for member in members:
            if member._custom is not None:
                see = getattr(member._custom.iface, "acceptPrompt", None)
                if see is not None:
                    see(list(tokens))
            elif member._needs_context:
                assert member._deferred is not None
                member._deferred.history += tokens
            else:
                last_n = member._traits.last_n
                last = tokens[-last_n:] if last_n > 0 else tokens  # -1: the context has room for no more
                lib.shim_accept(member._c, ffi.new("int32_t[]", list(last)), len(last))
