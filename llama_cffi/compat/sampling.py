"""The sampler chain of a request, and the functions of the user that look at its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llama_cffi._core.checks import expected
from llama_cffi.compat.grammar import grammar_sampler
from llama_cffi.compat.unsupported import unsupported
from llama_cffi.embedding.packing import numpy_for
from llama_cffi.sampling.checks import finite
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.sampling.token_data_array import TokenDataArray
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.intc]
    Scores = npt.NDArray[np.single]
    LogitsProcessor = Callable[[Ids, Scores], Scores]
    StoppingCriteria = Callable[[Ids, Scores], bool]
else:
    LogitsProcessor = StoppingCriteria = Callable[[Any, Any], Any]

# Parameters of a request that decide how tokens are picked, with llama-cpp-python's defaults.
DEFAULTS: Mapping[str, Any] = {
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1.0,
    "temp": 0.8,
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "tfs_z": 1.0,
    "mirostat_mode": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "penalize_nl": True,
    "logits_processor": None,
    "grammar": None,
    "logit_bias": None,
}


class LogitsProcessorList(list[LogitsProcessor]):
    """Functions `(input_ids, scores) -> scores`, each of which gets the scores that the one before returned."""

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[StoppingCriteria]):
    """Functions `(input_ids, logits) -> bool`; the text ends if one of them returns True."""

    def __call__(self, input_ids: Ids, logits: Scores) -> bool:
        return any([criterion(input_ids, logits) for criterion in self])


class MinTokensLogitsProcessor:
    """A logits processor that rules an end token out until a text has `min_tokens` tokens."""

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens, self.token_eos = min_tokens, token_eos
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        if self.prompt_tokens is None:
            self.prompt_tokens = len(input_ids)
        if len(input_ids) - self.prompt_tokens < self.min_tokens:
            scores[self.token_eos] = -float("inf")
        return scores


class _Processors:
    """Runs logits processors as a sampler, at the start of a chain."""

    name = "logits-processors"

    def __init__(self, processors: Any, n_vocab: int, input_ids: Callable[[], Ids]) -> None:
        self._n_vocab = n_vocab
        self._processors = list(processors) if isinstance(processors, (list, tuple)) else [processors]
        for processor in self._processors:
            if not callable(processor):
                raise expected("functions (input_ids, scores) -> scores", processor, name="logits_processor")
        self._input_ids = input_ids

    def apply(self, candidates: TokenDataArray) -> None:
        np = numpy_for("logits_processor")
        rows = np.asarray(candidates)
        scores = np.full(self._n_vocab, -np.inf, np.single)
        scores[rows["id"]] = rows["logit"]
        ids = self._input_ids()
        for processor in self._processors:
            scores = processor(ids, scores)
            if np.shape(scores) != (self._n_vocab,):
                raise ValueError(f"a logits processor must return {self._n_vocab} scores, got shape {np.shape(scores)}")
        rows["logit"] = np.asarray(scores, np.single)[rows["id"]]
        candidates.sorted = False


def make_sampler(
    vocab: Vocab, seed: int, last_n: int, input_ids: Callable[[], Ids], options: Mapping[str, Any]
) -> Sampler:
    """Make the chain of a request from its parameters (see `DEFAULTS`), in llama-cpp-python's order.

    Penalties count generated tokens only, as there.
    """
    of = {**DEFAULTS, **options}
    if of["tfs_z"] != 1.0:
        raise unsupported("tfs_z", "llama.cpp has no tail-free sampling any more: use typical_p (Sampler.initTypical)")
    if not of["penalize_nl"]:
        raise unsupported("penalize_nl=False", "write a logits_processor (a sampler of your own for Sampler.init)")
    if of["mirostat_mode"] not in (0, 1, 2):
        raise ValueError(f"mirostat_mode must be 0, 1 or 2, got {of['mirostat_mode']!r}")
    members: list[Sampler] = []
    try:
        if of["logits_processor"]:
            members.append(Sampler.init(_Processors(of["logits_processor"], vocab.nTokens, input_ids)))
        if of["logit_bias"]:
            biases = {int(token): float(bias) for token, bias in of["logit_bias"].items()}
            members.append(Sampler.initLogitBias(vocab, biases))
        penalties = of["repeat_penalty"], of["frequency_penalty"], of["presence_penalty"]
        if last_n and penalties != (1.0, 0.0, 0.0):
            members.append(Sampler.initPenalties(last_n, *penalties))
        if of["grammar"] is not None:
            members.append(grammar_sampler(of["grammar"], vocab))
        members += _pickers(vocab, seed, of)
        return Sampler.chain(*members, noPerf=True)
    except BaseException:
        for member in members:
            member.close()
        raise


def _pickers(vocab: Vocab, seed: int, of: Mapping[str, Any]) -> list[Sampler]:
    temperature = finite(of["temp"], "temperature")
    if temperature < 0:
        return [Sampler.initDist(seed)]
    if temperature == 0:
        return [Sampler.initGreedy()]
    # Entropies and averages are NaN with candidates of probability 0, which masks leave: this drops them.
    if of["mirostat_mode"] == 1:
        return [
            Sampler.initMinP(1e-30, 1),
            Sampler.initMirostat(vocab, seed, of["mirostat_tau"], of["mirostat_eta"], 100),
        ]
    if of["mirostat_mode"] == 2:
        return [Sampler.initMirostatV2(seed, of["mirostat_tau"], of["mirostat_eta"])]
    made = [Sampler.initTopK(of["top_k"])]
    if of["typical_p"] < 1:
        made += [Sampler.initMinP(1e-30, 1), Sampler.initTypical(of["typical_p"], 1)]
    made += [Sampler.initTopP(of["top_p"], 1), Sampler.initMinP(of["min_p"], 1)]
    return [*made, Sampler.initTemp(temperature), Sampler.initDist(seed)]
