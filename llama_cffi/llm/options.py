"""Keyword arguments of `LLM` and `load`: their types, their checks, and the samplers that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import expected
from llama_cffi._suggest import near
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.default_sampler import defaultSampler
from llama_cffi.generation.request_options import require_sampler
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler

if TYPE_CHECKING:
    from typing_extensions import TypedDict, TypeIs

    from llama_cffi._core.base_types import Token
    from llama_cffi.chat.messages import Message, Tool
    from llama_cffi.context.params import _Keywords as ContextFields
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.request import Request
    from llama_cffi.model.params import _Keywords as ModelFields

    class LoadFields(ModelFields, ContextFields, total=False):
        """The fields of `Model.Params` and of `Context.Params`."""

    class Sampling(TypedDict, total=False):
        maxTokens: int | None
        stop: Sequence[str]
        temperature: float
        topK: int
        topP: float
        minP: float
        repeatPenalty: float
        seed: int
        sampler: Sampler | None
        logProbs: int | None
        responseFormat: Any

    class Chatting(Sampling, total=False):
        system: str | None
        tools: Sequence[Tool] | None
        toolChoice: str
        thinking: bool


# What an LLM has of the objects that functions expect.
PARTS = {
    "a Context": "context",
    "a Model": "model",
    "a Vocab": "model.vocab",
    "a Context or an Engine": "engine",
    "an Engine or a ServedModel": "engine",
    "an Engine, a ServedModel or a mapping of names to them": "engine",
}
_NUMBERS = {"temperature": 0.8, "topK": 40, "topP": 0.95, "minP": 0.05, "repeatPenalty": 1.0, "seed": DEFAULT_SEED}


def check_names(function: str, fields: Mapping[str, Any], names: list[str]) -> None:
    """Raise TypeError for a keyword that is not one of `names`."""
    for name in fields:
        if name not in names:
            from llama_cffi._core.hints import keyword_hint

            meant = near(name, [*_NUMBERS, "maxTokens", "stop", "tools", "system"])
            hint = f"complete and chat take {meant}" if meant else keyword_hint(name, names)
            hint = hint or "it takes the fields of Model.Params and Context.Params"
            raise TypeError(f"{function}: there is no parameter {name!r}: {hint}")


def is_list_of_texts(prompt: object) -> TypeIs[list[str]]:
    """Return True for several prompts or texts, and False for one, also for one of tokens."""
    return isinstance(prompt, (list, tuple)) and (not prompt or isinstance(prompt[0], str))


def sampling_numbers(*numbers: float) -> dict[str, Any]:
    return dict(zip(_NUMBERS, numbers, strict=True))


def chosen_sampler(given: Sampler | None, numbers: dict[str, Any]) -> Sampler:
    """The sampler of one request: the user's, or the default one with these numbers."""
    if given is None:
        return defaultSampler(**numbers)
    changed = [name for name in _NUMBERS if numbers[name] != _NUMBERS[name]]
    if changed:
        raise ValueError(
            f"sampler replaces the default sampler, which {changed[0]} is for: leave {', '.join(changed)} out, or pass "
            "sampler=defaultSampler(...)"
        )
    return require_sampler(given)


def submitted(
    engine: Engine, prompt: str | Sequence[Token], maxTokens: int | None, default: int, **options: Any
) -> Request:
    """Submit a prompt; with the default of `maxTokens`, also where the context window is smaller than that."""
    try:
        return engine.submit(prompt, maxTokens=maxTokens, **options)
    except ContextFullError:
        if maxTokens != default:
            raise
    return engine.submit(prompt, **options)


def constrained(model: Model, format: Any, sampler: Sampler) -> Sampler:
    """A sampler whose text follows a response format."""
    import json

    from llama_cffi.chat.response_format import schema_text
    from llama_cffi.constrain.constraint import Constraint

    return Constraint.fromJsonSchema(json.loads(schema_text(format))).chain(model.vocab, sampler)


def conversation(messages: str | Sequence[Message], system: str | None) -> Sequence[Message]:
    if system is not None and not isinstance(system, str):
        raise expected("a str or None", system, name="system")
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    if system is None:
        return said
    from llama_cffi.chat.messages import as_list

    return [{"role": "system", "content": system}, *as_list(said)]
