"""`/v1/embeddings` and `/v1/rerank`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from llama_cffi.server.errors import ApiError, of_submission
from llama_cffi.server.exchange import Exchange
from llama_cffi.server.parameters import Body
from llama_cffi.vocab.tokenize import tokenize

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from llama_cffi.vocab.vocab import Vocab

_AT_ONCE = 64  # texts of one call; between calls a request may end

Text = Annotated[str, Field(max_length=1 << 24)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]


class EmbeddingBody(Body):
    """The body of /v1/embeddings."""

    input: Text | list[Text] | list[Token] | list[list[Token]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None

    NO_EFFECT: ClassVar = frozenset({"user"})


class RerankBody(Body):
    """The body of /v1/rerank."""

    query: Text
    documents: Annotated[list[Text | dict[str, Any]], Field(min_length=1)]
    model: str | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None

    NO_EFFECT: ClassVar = frozenset({"user"})
    UNSUPPORTED: ClassVar = {
        "max_chunks_per_doc": ((), "split the documents"),
        "max_tokens_per_doc": ((), "split the documents"),
        "rank_fields": ((), "send documents as text"),
    }


async def embeddings(exchange: Exchange) -> None:
    """Answer a request for embeddings."""
    body = await exchange.body(EmbeddingBody)
    name, served, _ = exchange.server.models.find(body.model, "embedder")
    embedder = served.embedder
    assert embedder is not None
    texts = _texts(exchange, body, embedder.model.vocab.nTokens)
    if body.dimensions is not None and body.dimensions > embedder.nEmbd:
        text = f"dimensions must be at most {embedder.nEmbd}, the size of this model, got {body.dimensions}"
        raise ApiError(400, text, param="dimensions", code="invalid_value")
    exchange.record.model = name
    exchange.admit(served)

    def work() -> tuple[list[npt.NDArray[np.float32]], int]:
        found: list[npt.NDArray[np.float32]] = []
        count = 0
        for start in range(0, len(texts), _AT_ONCE):
            if exchange.closed:
                break
            try:
                some = [_as_tokens(embedder.model.vocab, text) for text in texts[start : start + _AT_ONCE]]
                count += sum(map(len, some))
                found.extend(_shortened(embedder._embed(some), body.dimensions, embedder._normalize))
            except ValueError as error:
                raise of_submission(error, "input") from error
        return found, count

    found, tokens = await exchange.server.in_pool(work, served.thread)
    exchange.record.prompt_tokens = exchange.record.embedded_tokens = tokens
    as_text = body.encoding_format == "base64"
    rows = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else vector.tolist()}
        for index, vector in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    await exchange.json({"object": "list", "data": rows, "model": name, "usage": usage})


def _texts(exchange: Exchange, body: EmbeddingBody, vocab_size: int) -> list[str | list[int]]:
    """Return the texts of a request, as text or as tokens."""
    given: Any = body.input
    if not given and given != "":
        raise ApiError(400, "input: must not be an empty list", param="input", code="invalid_value")
    single = isinstance(given, str) or isinstance(given[0], int)
    texts: list[str | list[int]] = [given] if single else list(given)
    _check_count(exchange, len(texts), "input")
    for index, text in enumerate(texts):
        if not isinstance(text, str) and max(text, default=0) >= vocab_size:
            where = "input" if single else f"input[{index}]"
            problem = f"{where}: tokens must be between 0 and {vocab_size - 1}, got {max(text)}: /tokenize returns them"
            raise ApiError(400, problem, param=where, code="invalid_value")
    return texts


def _as_tokens(vocab: Vocab, text: str | list[int]) -> list[int]:
    return tokenize(vocab, text) if isinstance(text, str) else text


def _shortened(vectors: npt.NDArray[np.float32], size: int | None, normalize: bool) -> npt.NDArray[np.float32]:
    """Return the first `size` dimensions of vectors, scaled to length 1 again."""
    if size is None or size == vectors.shape[1]:
        return vectors
    vectors = vectors[:, :size]
    if normalize:
        lengths = (vectors * vectors).sum(axis=1, keepdims=True) ** 0.5
        lengths[lengths == 0] = 1
        vectors = vectors / lengths
    return vectors


def _check_count(exchange: Exchange, number: int, param: str) -> None:
    most = exchange.server.limits.maxInputs
    if number > most:
        text = f"{param} must have at most {most} texts, got {number}"
        raise ApiError(400, text, param=param, code="invalid_value")


def _tokens(vocab: Vocab, texts: Sequence[str]) -> int:
    return sum(len(tokenize(vocab, text)) for text in texts)


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


async def rerank(exchange: Exchange) -> None:
    """Answer a request to rerank documents, in the form that Jina and Cohere share."""
    body = await exchange.body(RerankBody)
    name, served, _ = exchange.server.models.find(body.model, "reranker")
    reranker = served.reranker
    assert reranker is not None
    documents = [_document(document, index) for index, document in enumerate(body.documents)]
    _check_count(exchange, len(documents), "documents")
    exchange.record.model = name
    exchange.admit(served)

    def work() -> tuple[list[float], int]:
        scores: list[float] = []
        for start in range(0, len(documents), _AT_ONCE):
            if exchange.closed:
                break
            try:
                scores += reranker.rank(body.query, documents[start : start + _AT_ONCE]).tolist()
            except ValueError as error:
                raise of_submission(error, "documents") from error
        query = _tokens(reranker.model.vocab, [body.query])
        return scores, query * len(documents) + _tokens(reranker.model.vocab, documents)

    scores, tokens = await exchange.server.in_pool(work, served.thread)
    exchange.record.prompt_tokens = exchange.record.embedded_tokens = tokens
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    with_text = bool(body.return_documents)
    rows = [
        {
            "index": index,
            "relevance_score": scores[index],
            **({"document": {"text": documents[index]}} if with_text else {}),
        }
        for index in order
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    await exchange.json({"object": "list", "model": name, "results": rows, "usage": usage})


def _document(document: str | dict[str, Any], index: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        where = f"documents[{index}].text"
        raise ApiError(400, f"{where}: must be a string", param=where, code="invalid_value")
    return text
