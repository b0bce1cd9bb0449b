"""What OpenAI's protocol lacks and llama.cpp's server has: tokens, templates, health, and a view of the load."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from llama_cffi.chat.template import ChatTemplate
from llama_cffi.engine.request import Request
from llama_cffi.server.errors import ApiError, of_submission
from llama_cffi.server.exchange import Exchange
from llama_cffi.server.messages import messages_of, thinking_of, tools_of
from llama_cffi.server.metrics import CONTENT_TYPE
from llama_cffi.server.parameters import Body
from llama_cffi.server.requests import MESSAGE_FIELDS
from llama_cffi.server.served import ServedModel
from llama_cffi.vocab.tokenize import detokenize, tokenize

Text = Annotated[str, Field(max_length=1 << 24)]


class TokenizeBody(Body):
    """The body of /tokenize."""

    content: Text
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(Body):
    """The body of /detokenize."""

    tokens: list[Annotated[int, Field(ge=0, lt=1 << 31)]]
    model: str | None = None


class TemplateBody(Body):
    """The body of /apply-template."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    reasoning_effort: Annotated[str, Field(max_length=40)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True

    NO_EFFECT: ClassVar = frozenset({"user"})
    OBJECTS: ClassVar = {"messages": MESSAGE_FIELDS}


def _any_model(exchange: Exchange, name: str | None) -> ServedModel:
    models = exchange.server.models
    if not name:
        return next(iter(models.by_name.values()))
    for part in ("engine", "embedder", "reranker"):
        try:
            return models.find(name, part)[1]
        except ApiError as error:
            if error.status == 404:
                raise
    raise AssertionError(name)  # every model has one of the three


async def tokens(exchange: Exchange) -> None:
    """Return the tokens of a text."""
    body = await exchange.body(TokenizeBody)
    vocab = _any_model(exchange, body.model).model.vocab
    work = partial(tokenize, vocab, body.content, addSpecial=body.add_special, parseSpecial=body.parse_special)
    found: list[Any] = await exchange.in_pool(work)
    if body.with_pieces:
        found = [{"id": token, "piece": vocab.tokenToPiece(token, special=True)} for token in found]
    await exchange.json({"tokens": found})


async def text(exchange: Exchange) -> None:
    """Return the text of tokens."""
    body = await exchange.body(DetokenizeBody)
    vocab = _any_model(exchange, body.model).model.vocab
    last = vocab.nTokens - 1
    for index, token in enumerate(body.tokens):
        if token > last:
            where = f"tokens[{index}]"
            raise ApiError(400, f"{where} must be between 0 and {last}, got {token}", param=where, code="invalid_value")
    content = (
        await exchange.in_pool(partial(detokenize, vocab, body.tokens, unparseSpecial=True)) if body.tokens else ""
    )
    await exchange.json({"content": content})


async def template(exchange: Exchange) -> None:
    """Return the prompt that a conversation becomes."""
    body = await exchange.body(TemplateBody)
    _, served, _ = exchange.server.models.find(body.model, "engine")
    messages, tools = messages_of(body.messages), tools_of(body.tools)
    thinking, variables = thinking_of(body.reasoning_effort, body.chat_template_kwargs)
    if not thinking:
        variables["enable_thinking"] = False

    def work() -> str:
        try:
            chosen = served.template or ChatTemplate(served.model)
            add = body.add_generation_prompt
            return chosen.render(messages, tools=tools or None, addGenerationPrompt=add, **variables)
        except ValueError as error:
            raise of_submission(error, "messages") from error

    await exchange.json({"prompt": await exchange.in_pool(work)})


async def health(exchange: Exchange) -> None:
    """Return "ok", or 503 while the server shuts down."""
    draining = exchange.server.draining
    await exchange.json({"status": "shutting down" if draining else "ok"}, 503 if draining else 200)


async def models(exchange: Exchange) -> None:
    """List the models."""
    await exchange.json(
        {"object": "list", "data": [_described(exchange, name) for name in exchange.server.models.names()]}
    )


async def model(exchange: Exchange) -> None:
    """Describe a model."""
    name = exchange.scope["path_params"]["name"]
    if name not in exchange.server.models.names():
        raise ApiError(404, f"there is no model {name[:100]!r}", param="model", code="model_not_found")
    await exchange.json(_described(exchange, name))


def _described(exchange: Exchange, name: str) -> dict[str, Any]:
    known = exchange.server.models.by_name
    served = known[name] if name in known else known[name.rpartition(":")[0]]
    parts = (("completion", served.engine), ("embedding", served.embedder), ("rerank", served.reranker))
    meta = {
        "n_vocab": served.model.vocab.nTokens,
        "n_ctx_train": served.model.nCtxTrain,
        "n_embd": served.model.nEmbd,
        "n_params": served.model.nParams,
        "size": served.model.size,
        **({"n_ctx": served.engine.nCtx} if served.engine is not None else {}),
    }
    about = {"capabilities": [kind for kind, part in parts if part is not None], "meta": meta}
    return {"id": name, "object": "model", "created": served.created, "owned_by": "llama_cffi", **about}


async def slots(exchange: Exchange) -> None:
    """Show what each model runs: its texts by number, and the use of its KV cache."""
    rows = []
    for name, served in exchange.server.models.by_name.items():
        row: dict[str, Any] = {"model": name, "open": served.open}
        if served.engine is not None:
            load = served.engine.load
            row |= {
                "slots": served.slots,
                "running": load.running,
                "waiting": load.waiting,
                "n_ctx": served.engine.nCtx,
                "cells": load.nCells,
                "cells_used": load.usedCells,
                "cells_kept": load.keptCells,
                "requests": [_text_row(request) for request in served.engine.requests()],
            }
        rows.append(row)
    await exchange.json(rows)


def _text_row(request: Request) -> dict[str, Any]:
    """Describe a text that runs or waits, without the text."""
    return {
        "id": request.id,
        "state": request.state,
        "prompt_tokens": len(request.prompt),
        "generated_tokens": len(request.tokens),
        "seconds": round(request.seconds, 3),
    }


async def metrics(exchange: Exchange) -> None:
    """Return the metrics for Prometheus."""
    server = exchange.server
    await exchange.text(server.metrics.text(server.models, len(server.exchanges) - 1), CONTENT_TYPE)
