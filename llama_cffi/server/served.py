"""The models of a server: which requests they answer, under which names, and with which LoRA adapters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_cffi._core.checks import expected
from llama_cffi.embedding.embedding import Embedder, Reranker
from llama_cffi.engine.engine import Engine
from llama_cffi.server.errors import ApiError

if TYPE_CHECKING:
    from llama_cffi.chat.template import ChatTemplate
    from llama_cffi.model.adapter import Adapter
    from llama_cffi.model.model import Model
    from llama_cffi.server.requests import Lora

_KINDS = {"engine": "generate text", "embedder": "compute embeddings", "reranker": "rerank documents"}


@dataclass
class ServedModel:
    """A model as a server has it: an engine for text, an embedder, a reranker, or several of them."""

    engine: Engine | None = None
    embedder: Embedder | None = None
    reranker: Reranker | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    """LoRA adapters by name. A request selects them by `lora`, or one of them as the model `name:adapter`."""
    template: ChatTemplate | None = None
    """The chat template; None is the model's own."""

    def __post_init__(self) -> None:
        for name, kind in (("engine", Engine), ("embedder", Embedder), ("reranker", Reranker)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise expected(f"an {kind.__name__}" if name != "reranker" else "a Reranker", value, name=name)
        if self.engine is None and self.embedder is None and self.reranker is None:
            raise ValueError("a ServedModel needs an engine, an embedder or a reranker: pass one of them")
        self.open = 0  # texts that run or wait
        self.created = int(time.time())
        # Embedders and rerankers serve one call at a time, so each model has one thread for them.
        self.thread = ThreadPoolExecutor(1, "llama_cffi-embedding")

    @property
    def model(self) -> Model:
        """The loaded model."""
        part = self.engine or self.embedder or self.reranker
        assert part is not None
        return part.model

    @property
    def slots(self) -> int:
        """How many texts run at once."""
        return self.engine.nSeqMax if self.engine is not None else 1

    def close(self) -> None:
        """Close the engine, the embedder and the reranker. The model stays."""
        self.thread.shutdown(wait=True, cancel_futures=True)
        for part in (self.engine, self.embedder, self.reranker):
            if part is not None:
                part.close()


class Models:
    """The models of a server by their names."""

    def __init__(self, served: Engine | ServedModel | Mapping[str, Engine | ServedModel]) -> None:
        if isinstance(served, (Engine, ServedModel)):
            served = {_name_of(_as_served(served).model): served}
        if not isinstance(served, Mapping):
            hint = "Engine(model) makes one"
            raise expected("an Engine, a ServedModel or a mapping of names to them", served, hint, "served")
        if not served:
            raise ValueError("served is empty: pass at least one model")
        self.by_name = {str(name): _as_served(part) for name, part in served.items()}

    def find(self, name: str | None, part: str) -> tuple[str, ServedModel, list[Any]]:
        """Return a model that has `part` ("engine", "embedder", "reranker"): its name, itself and its adapters.

        Without a name it is the first model that has the part. Raises ApiError.
        """
        if not name:
            for known, served in self.by_name.items():
                if getattr(served, part) is not None:
                    return known, served, []
            raise ApiError(400, f"this server has no model to {_KINDS[part]}", param="model", code="unsupported_model")
        found, adapters = self.by_name.get(name), []
        if found is None and ":" in name:
            base, _, adapter = name.rpartition(":")
            found = self.by_name.get(base)
            if found is not None and adapter in found.adapters:
                adapters = [(found.adapters[adapter], 1.0)]
            else:
                found = None
        if found is None:
            text = f"there is no model {name[:100]!r}: this server has {', '.join(self.names())}"
            raise ApiError(404, text, param="model", code="model_not_found")
        if getattr(found, part) is None:
            text = f"the model {name!r} does not {_KINDS[part]}"
            raise ApiError(400, text, param="model", code="unsupported_model")
        return name, found, adapters

    def names(self) -> list[str]:
        """Return the names of all models, and of their adapters as `name:adapter`."""
        return [
            each for name, part in self.by_name.items() for each in (name, *(f"{name}:{key}" for key in part.adapters))
        ]


def adapters_of(served: ServedModel, asked: Sequence[Lora] | None) -> list[tuple[Adapter, float]]:
    """Return the adapters that a request's `lora` names, with their scales. Raises ApiError."""
    found = []
    for index, lora in enumerate(asked or ()):
        names = list(served.adapters)
        if lora.name is not None and lora.name in served.adapters:
            adapter = served.adapters[lora.name]
        elif lora.name is None and lora.id is not None and lora.id < len(names):
            adapter = served.adapters[names[lora.id]]
        else:
            known = f"this model has {', '.join(names)}" if names else "this model has no adapters"
            where, asked_for = f"lora[{index}]", lora.id if lora.name is None else lora.name
            text = f"{where}: there is no LoRA adapter {asked_for!r}: {known}"
            raise ApiError(400, text, param=where, code="invalid_value")
        found.append((adapter, lora.scale))
    return found


def _as_served(part: Engine | ServedModel) -> ServedModel:
    if isinstance(part, Engine):
        return ServedModel(part)
    if not isinstance(part, ServedModel):
        raise expected("an Engine or a ServedModel", part, "Engine(model) makes one", "served")
    return part


def _name_of(model: Model) -> str:
    return model.metaValStr("general.name") or "model"
