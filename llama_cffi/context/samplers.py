"""Sampler chains that a context runs together with the model, one for each sequence."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

from llama_cffi._core.base_types import SeqId
from llama_cffi._core.checks import expected, out_of_range
from llama_cffi._core.compat import has, require
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.structs import ContextParamsFields
from llama_cffi.context.base import ContextBase
from llama_cffi.model.model import Model
from llama_cffi.sampling.logits_source import NO_SERIAL
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias, cast
else:
    from llama_cffi._core.stand_ins import cast

Configs: TypeAlias = "Iterable[SamplerSeqConfig | tuple[SeqId, Sampler]] | Mapping[SeqId, Sampler] | None"


# Samplers that can run with the model on a device. There, llama.cpp's greedy sampler returns a place among the
# candidates, which is not the token if one of the reordering samplers came before.
_RUNS_ON_DEVICE = frozenset(
    f"llama_sampler_init_{name}" for name in "greedy dist top_k top_p min_p temp temp_ext penalties logit_bias".split()
)
_REORDERS = ("llama_sampler_init_top_k", "llama_sampler_init_top_p")
_REORDERS_AT_0 = ("llama_sampler_init_temp", "llama_sampler_init_temp_ext")


class SamplerSeqConfig:
    """A sequence, and the sampler chain that a context runs for it. Maps to `llama_sampler_seq_config`."""

    __slots__ = ("_sampler", "_seqId")

    def __init__(self, seqId: SeqId, sampler: Sampler) -> None:
        self.seqId = seqId
        self.sampler = sampler

    @property
    def seqId(self) -> SeqId:
        """The id of the sequence."""
        return self._seqId

    @seqId.setter
    def seqId(self, value: SeqId) -> None:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"seqId must be an integer, got {value!r}")
        if value < 0:
            raise ValueError(f"seqId must be at least 0, got {value}")
        self._seqId = value

    @property
    def sampler(self) -> Sampler:
        """The sampler chain."""
        return self._sampler

    @sampler.setter
    def sampler(self, value: Sampler) -> None:
        if not isinstance(value, Sampler):
            raise expected("a Sampler", value, "Sampler.chain(...) makes one", "sampler")
        if not value._require_chain("SamplerSeqConfig"):
            raise ValueError("the chain of a SamplerSeqConfig must not be empty: add its members first")
        self._sampler = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SamplerSeqConfig):
            return NotImplemented
        return self.seqId == other.seqId and self.sampler is other.sampler

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SamplerSeqConfig(seqId={self.seqId}, sampler={self.sampler!r})"


class SamplersParam(ContextParamsFields):
    """The fields of `Context.Params` for samplers."""

    __slots__ = ()

    @property
    def samplers(self) -> tuple[SamplerSeqConfig, ...]:
        """Chains that run with the model, on its device: `SamplerSeqConfig`s, pairs `(seqId, chain)`, or a dict.

        A chain can be given to one context only, which keeps it alive; use `clone()` for others. `sample` of that
        chain returns the token that the context picked. For plain generation, set `nOutputsMaxPerSeq` to 1: it saves
        memory, and penalties need it. Assigning `samplers` sets `nSamplers`.
        """
        kept: tuple[SamplerSeqConfig, ...] = self._keep.get("samplers", ())
        return kept

    @samplers.setter
    def samplers(self, value: Configs) -> None:
        given = value.items() if isinstance(value, Mapping) else value or ()
        items = cast("Iterable[SamplerSeqConfig | tuple[SeqId, Sampler]]", given)
        configs = tuple(c if isinstance(c, SamplerSeqConfig) else SamplerSeqConfig(*c) for c in items)
        seen: set[int] = set()
        for config in configs:
            if config.seqId in seen:
                raise ValueError(f"sequence {config.seqId} has two samplers: put both into one chain")
            seen.add(config.seqId)
        if len({id(config.sampler) for config in configs}) < len(configs):
            raise ValueError("a chain serves one sequence: use its clone() for the others")
        if configs:
            require("llama_context_params.samplers")
        self._keep["samplers"] = configs
        if has("llama_context_params.n_samplers"):
            self._c.n_samplers = len(configs)

    @property
    def nSamplers(self) -> int:
        """How many of `samplers` are used, the first ones; assigning `samplers` sets it to all."""
        result: int = self._c.n_samplers if has("llama_context_params.n_samplers") else 0
        return result

    @nSamplers.setter
    def nSamplers(self, value: int) -> None:
        if not 0 <= value <= len(self.samplers):
            raise out_of_range("nSamplers", value, 0, len(self.samplers))
        if value:  # then this llama.cpp has the field
            self._c.n_samplers = value
        elif has("llama_context_params.n_samplers"):
            self._c.n_samplers = 0


def checked_configs(params: SamplersParam, model: Model) -> tuple[SamplerSeqConfig, ...]:
    """Return the chains for a new context, which llama.cpp can run. Raises ValueError for others."""
    configs = params.samplers[: params.nSamplers] if has("llama_context_params.samplers") else ()
    for config in configs:
        if config.seqId >= params.nSeqMax:
            raise out_of_range(
                "seqId of a sampler", config.seqId, 0, params.nSeqMax - 1, "raise Context.Params.nSeqMax for more"
            )
        _check(config.sampler, model)
    return configs


def pass_samplers(configs: Sequence[SamplerSeqConfig], model: Model, struct: Any) -> object:
    """Put chains, which are acquired, into the parameters for C. Return what must be kept until C has read them.

    They cannot be used for another context even if the call fails, because llama.cpp prepares a chain only once.
    """
    if not configs:
        return None
    n_ctx = (struct.n_ctx or model.nCtxTrain) + 255 & ~255  # llama.cpp rounds up
    array = ffi.new("struct llama_sampler_seq_config[]", len(configs))
    for index, config in enumerate(configs):
        config.sampler._rebuild_with_context(n_ctx, model.vocab.nTokens, everything=True)
        array[index].seq_id, array[index].sampler = config.seqId, config.sampler._c
    for config in configs:
        config.sampler._context_ref, config.sampler._checked_for = _detached, None
    struct.samplers = array
    return array


def set_sampler(context: ContextBase, seqId: SeqId, sampler: Sampler | None) -> bool:
    """`Context.setSampler`: attach a chain to a sequence; None detaches. Returns True if it runs on the device."""
    context._check_seq(seqId)
    with context._exclusive() as pointer:
        if sampler is None:
            return lib.llama_set_sampler(pointer, seqId, ffi.NULL)
        SamplerSeqConfig(seqId, sampler)
        _check(sampler, context._model)
        with sampler._exclusive() as chain:
            sampler._rebuild_with_context(lib.llama_n_ctx(pointer), context._nVocab, everything=True)
            attach(sampler, context)
            return lib.llama_set_sampler(pointer, seqId, chain)


def _detached() -> None:
    """The `_context_ref` of a chain whose context could not be made."""


def attach(chain: Sampler, context: ContextBase) -> None:
    """Note that a chain belongs to a context. Both are acquired."""
    chain._context_ref = weakref.ref(context)
    chain._checked_for = None
    context._samples, context._serial = True, NO_SERIAL  # sampling must look for the token that the chain picked
    if context._owned is not None:
        context._owned.keep(chain._owned)  # C must not free it before the context
    context._chains.append(chain)


def _check(chain: Sampler, model: Model) -> None:
    """Raise ValueError for a chain that would make llama.cpp abort."""
    if not chain._require_chain("samplers"):
        raise ValueError("a chain of Context.Params.samplers must not be empty: add its members first")
    if chain._chain is not None:
        raise ValueError("a chain of Context.Params.samplers is inside another chain: chainRemove it, or use clone()")
    if chain._context_ref is not None:
        raise ValueError("a chain can be given to a context only once, and this one was: use its clone()")
    left = model.vocab.nTokens
    members = list(chain._leaves())
    if any([member._traits.picks and member._custom is None for member in members[:-1]]):
        raise ValueError("in a context's chain, a member that picks a token must be the last: remove those after it")
    for member in members:
        kind, *arguments = member._traits.recipe
        if kind == "llama_sampler_init_top_k" and isinstance(k := arguments[0], int) and k > 0:
            if k > left:
                raise ValueError(f"initTopK({k}): k must be at most {left} in a context's chain, the candidates left")
            left = k
        n_vocab = member._traits.n_vocab
        if n_vocab and n_vocab != model.vocab.nTokens:
            raise ValueError(
                f"a member was made for a vocabulary of {n_vocab} tokens, but this model has {model.vocab.nTokens}: "
                "make it with this model's vocab"
            )
    recipes = [member._traits.recipe for member in members]
    if recipes[-1][0] == "llama_sampler_init_greedy" and all([recipe[0] in _RUNS_ON_DEVICE for recipe in recipes]):
        if any(map(_reorders, recipes)):
            raise ValueError(
                "in a context's chain, initGreedy cannot follow initTopK, initTopP or a temperature of 0, which "
                "reorder the candidates: use it without them, or initDist(seed) after initTopK(1)"
            )


def _reorders(recipe: tuple[object, ...]) -> bool:
    kind, *arguments = recipe
    return kind in _REORDERS or kind in _REORDERS_AT_0 and cast(float, arguments[0]) <= 0
