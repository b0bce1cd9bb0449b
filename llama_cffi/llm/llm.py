"""`LLM`: one object that completes prompts, chats, embeds and scores texts, for programs of three lines."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from llama_cffi._core.arguments import StrOrBytes
from llama_cffi._core.base_types import DEFAULT_SEED, Token
from llama_cffi._core.checks import boolean, expected
from llama_cffi._core.html import table
from llama_cffi._core.ownership import locked
from llama_cffi.chat.session import ChatSession
from llama_cffi.context.context import Context
from llama_cffi.embedding.embedding import Embedder
from llama_cffi.engine.engine import Engine
from llama_cffi.errors import ClosedError
from llama_cffi.llm.completion import ChatCompletion, Completion
from llama_cffi.llm.options import (
    PARTS,
    check_names,
    chosen_sampler,
    constrained,
    conversation,
    is_list_of_texts,
    sampling_numbers,
    submitted,
)
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import detokenize, tokenize

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self, Unpack

    from llama_cffi.chat.messages import Message, Tool
    from llama_cffi.chat.template import ChatTemplate
    from llama_cffi.context.params import _Keywords as ContextFields
    from llama_cffi.engine.chat_request import ChatRequest
    from llama_cffi.engine.request import Request
    from llama_cffi.generation.score import Score
    from llama_cffi.generation.speculation import Speculation
    from llama_cffi.llm.options import Chatting, Sampling


_N_CTX = 4096  # at most: a larger KV cache costs memory that few programs need
_N_SEQ_MAX = 4
_MAX_TOKENS = 256


class LLM:
    """A language model with all that a program needs of it: completes prompts, chats, embeds and scores texts::

        with llama_cffi.load("model.gguf") as llm:
            print(llm.complete("Once upon a time"))

    `load` makes one of a file. `LLM(model)` makes one of a Model that you have loaded, and does not free it; `fields`
    are those of `Context.Params`.

    `complete`, `chat` and `score` run on an `Engine`: any number of threads and tasks may call them at once, and what
    they compute shares batches and prefixes. `embed`, `tokenize` and `detokenize` are thread-safe too; calls of `embed`
    wait for each other. `context` and its sessions are for one thread at a time; another one gets BusyError.

    The engine, the context and the embedder are made when they are first used; each has its own KV cache. `model`,
    `engine`, `context` and `embedder` are there for all that this class leaves out.
    """

    _PARTS: ClassVar[dict[str, str]] = PARTS
    _ALIASES: ClassVar[dict[str, str]] = {  # names that other packages have for it, in lower case
        "generate": "complete",
        "createcompletion": "complete",
        "createchatcompletion": "chat",
        "createembedding": "embed",
        "encode": "embed",
        "decode": "detokenize",
        "ctx": "context",
        "nvocab": "model.vocab.nTokens",
        "metadata": "model.metaValStr(key)",
    }

    def __init__(
        self, model: Model, *, template: ChatTemplate | str | None = None, **fields: Unpack[ContextFields]
    ) -> None:
        if not isinstance(model, Model):
            raise expected("a Model", model, "load(path) makes an LLM of a file")
        check_names("LLM", fields, ["model", "template", *Context.Params._fields()])
        self._set_up(model, template, {**fields}, owned=False)

    def _set_up(self, model: Model, template: ChatTemplate | str | None, fields: dict[str, Any], owned: bool) -> None:
        trained = model.nCtxTrain or _N_CTX
        self._fields = {**fields, "nCtx": fields.get("nCtx", min(_N_CTX, trained)) or trained}
        if "nThreads" in fields:
            self._fields.setdefault("nThreadsBatch", fields["nThreads"])
        self._given = frozenset(fields)
        self._params()  # raises for wrong values
        self._model, self._template, self._owned = model, template, owned
        self._lock = threading.Lock()
        self._closed = False
        self._engine: Engine | None = None
        self._context: Context | None = None
        self._embedder: Embedder | None = None

    def _params(self) -> Context.Params:
        return Context.Params(**self._fields)

    # Parts

    @property
    def model(self) -> Model:
        """The model: its metadata and its vocabulary."""
        return self._model

    @property
    def engine(self) -> Engine:
        """The engine behind `complete`, `chat` and `score`: `nCtx` tokens for all requests together, `nSeqMax` at once.

        By default `nCtx` is what the model was trained with, at most 4,096, and `nSeqMax` is 4.
        """
        with locked(self._lock):
            self._require_open()
            if self._engine is None:
                fields = self._fields
                self._engine = Engine(
                    self._model,
                    nCtx=fields["nCtx"],
                    nSeqMax=fields.get("nSeqMax", _N_SEQ_MAX),
                    nBatch=fields.get("nBatch", 512),
                    kvUnified=fields.get("kvUnified"),
                    params=self._params(),
                )
            return self._engine

    @property
    def context(self) -> Context:
        """A context for what you compute yourself, and for `session`. For one thread at a time."""
        with locked(self._lock):
            self._require_open()
            if self._context is None:
                self._context = Context.initFromModel(self._model, self._params())
            return self._context

    @property
    def embedder(self) -> Embedder:
        """The embedder that serves `embed`, with `poolingType`, `attentionType`, `nThreads` and `nCtx` if they were
        set; else with its own defaults.
        """
        with locked(self._lock):
            self._require_open()
            if self._embedder is None:
                names = ("poolingType", "attentionType", "nThreads", "nCtx", "nBatch")
                self._embedder = Embedder(self._model, **{n: self._fields[n] for n in names if n in self._given})
            return self._embedder

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("this LLM cannot be used: it was closed")

    # Text

    @overload
    def complete(
        self, prompt: str | Sequence[Token], *, stream: Literal[False] = False, **options: Unpack[Sampling]
    ) -> Completion: ...
    @overload
    def complete(
        self, prompt: str | Sequence[Token], *, stream: Literal[True], **options: Unpack[Sampling]
    ) -> Request: ...
    @overload
    def complete(
        self, prompt: list[str], *, stream: Literal[False] = False, **options: Unpack[Sampling]
    ) -> list[Completion]: ...
    @overload
    def complete(self, prompt: list[str], *, stream: Literal[True], **options: Unpack[Sampling]) -> list[Request]: ...
    def complete(
        self,
        prompt: str | Sequence[Token] | list[str],
        *,
        maxTokens: int | None = _MAX_TOKENS,
        stop: Sequence[str] = (),
        temperature: float = 0.8,
        topK: int = 40,
        topP: float = 0.95,
        minP: float = 0.05,
        repeatPenalty: float = 1.0,
        seed: int = DEFAULT_SEED,
        sampler: Sampler | None = None,
        logProbs: int | None = None,
        responseFormat: Any = None,
        stream: bool = False,
    ) -> Completion | Request | list[Completion] | list[Request]:
        """Complete a prompt. Returns the text, a str with `stopReason` and `usage`; for a list of prompts, a list.

        With `stream`, returns at once: iterate over the request for pieces of text, with `for` or `async for`, or
        `await` the whole text. The prompts of a list are completed at the same time.

        `maxTokens` None means until the model ends the text or the context window is full. The default is 256, or as
        many as fit a smaller window. A temperature of 0 is
        greedy. The sampling numbers are those of `defaultSampler`; `sampler` replaces them all. `responseFormat` is a
        JSON Schema or a type that the text follows; it needs the extra `constrain`. `stop` and `logProbs` are those of
        `Generation`.

        Raises what `Engine.submit` raises, and what ends the request.
        """
        numbers = sampling_numbers(temperature, topK, topP, minP, repeatPenalty, seed)
        stream = boolean(stream, "stream")
        engine = self.engine
        many = is_list_of_texts(prompt)
        prompts: list[Any] = list(prompt) if many else [prompt]
        with ExitStack() as on_error:
            requests = []
            for each in prompts:
                chosen = chosen_sampler(sampler, numbers)
                if sampler is not None and (many or responseFormat is not None):
                    chosen = chosen.clone()
                if responseFormat is not None:
                    chosen = constrained(self._model, responseFormat, chosen)
                request = submitted(engine, each, maxTokens, _MAX_TOKENS, sampler=chosen, stop=stop, logProbs=logProbs)
                on_error.callback(request.cancel)
                requests.append(request)
            results = requests if stream else [Completion(request.result(), request) for request in requests]
            on_error.pop_all()
        return results if many else results[0]

    @overload
    def chat(
        self, messages: str | Sequence[Message], *, stream: Literal[False] = False, **options: Unpack[Chatting]
    ) -> ChatCompletion: ...
    @overload
    def chat(
        self, messages: str | Sequence[Message], *, stream: Literal[True], **options: Unpack[Chatting]
    ) -> ChatRequest: ...
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        toolChoice: str = "auto",
        responseFormat: Any = None,
        thinking: bool = True,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        temperature: float = 0.8,
        topK: int = 40,
        topP: float = 0.95,
        minP: float = 0.05,
        repeatPenalty: float = 1.0,
        seed: int = DEFAULT_SEED,
        sampler: Sampler | None = None,
        logProbs: int | None = None,
        stream: bool = False,
    ) -> ChatCompletion | ChatRequest:
        """Answer a conversation, which is a text of the user or a list of messages. Nothing is remembered: for that,
        append `message` of the answer to your list, or use `session`.

        Returns the answer, a str that also has `toolCalls`, `reasoning`, `stopReason` and `usage`. With `stream`,
        returns at once: iterate over the request for pieces of text, or over its `events()`.

        `system` is a system message before the others. `tools`, `toolChoice`, `responseFormat` (a JSON Schema or a type
        that the answer follows) and `thinking` are those of `ChatTemplate.format`, the others those of `complete`; but
        `maxTokens` None, the default, means until the model ends the answer.

        Raises what `Engine.chat` raises, and what ends the request.
        """
        numbers = sampling_numbers(temperature, topK, topP, minP, repeatPenalty, seed)
        stream = boolean(stream, "stream")
        request = self.engine.chat(
            conversation(messages, system),
            template=self._template,
            tools=tools,
            toolChoice=toolChoice,
            responseFormat=responseFormat,
            thinking=thinking,
            sampler=chosen_sampler(sampler, numbers),
            maxTokens=maxTokens,
            stop=stop,
            logProbs=logProbs,
        )
        if stream:
            return request
        with request:
            request.result()
            return ChatCompletion(request.content, request)

    def session(
        self,
        *,
        system: str | None = None,
        tools: Sequence[Tool] = (),
        overflow: Literal["stop", "error", "drop"] = "stop",
        thinking: bool = True,
        temperature: float = 0.8,
        topK: int = 40,
        topP: float = 0.95,
        minP: float = 0.05,
        repeatPenalty: float = 1.0,
        seed: int = DEFAULT_SEED,
        sampler: Sampler | None = None,
        speculation: Speculation | None = None,
    ) -> ChatSession:
        """Begin a conversation that remembers what was said: `session.send(text).result()`. See `ChatSession`.

        The sampling numbers, or `sampler` in their place, are those of `complete`, and hold for each answer; `send`
        takes another sampler for one answer. `speculation` guesses tokens: see `Generation`. It uses `context`.
        Sessions that alternate there decode their conversations again at each change.
        """
        numbers = sampling_numbers(temperature, topK, topP, minP, repeatPenalty, seed)
        return ChatSession(
            self.context,
            system=system,
            template=self._template,
            tools=tools,
            overflow=overflow,
            thinking=thinking,
            sampler=chosen_sampler(sampler, numbers),
            speculation=speculation,
        )

    # Scores, vectors and tokens

    @overload
    def score(self, texts: str | Sequence[Token], context: str | Sequence[Token] = "") -> Score: ...
    @overload
    def score(self, texts: list[str], context: str | list[str] = "") -> list[Score]: ...
    def score(self, texts: str | Sequence[Token] | list[str], context: Any = "") -> Score | list[Score]:
        """Compute the log-probability of each token of a given text. Returns a `Score`; for a list of texts, a list.

        `context` comes before the text and is not scored; with a list of texts, one for all or a list. Raises what
        `Engine.score` raises.
        """
        if is_list_of_texts(texts):
            return self.engine.score(texts, context)
        return self.engine.score([texts], context)[0]

    def embed(self, texts: StrOrBytes | Iterable[StrOrBytes], *, truncate: bool = False) -> npt.NDArray[np.float32]:
        """Compute embedding vectors: float32, shape (nEmbd,) of a text, (number of texts, nEmbd) of several.

        They have length 1, so that `a @ b` is the cosine similarity. The rest is as in `Embedder.embed`. Needs numpy.
        """
        return self.embedder.embed(texts, truncate=truncate)

    def tokenize(self, text: StrOrBytes, *, addSpecial: bool = True, parseSpecial: bool = False) -> list[Token]:
        """Convert text to tokens. `addSpecial` adds what the model adds to every text, such as a BOS token;
        `parseSpecial` recognizes control tokens in the text.
        """
        return tokenize(self._model.vocab, text, addSpecial=addSpecial, parseSpecial=parseSpecial)

    def detokenize(self, tokens: Iterable[Token], *, unparseSpecial: bool = False) -> str:
        """Convert tokens to text. `unparseSpecial` spells control tokens out."""
        return detokenize(self._model.vocab, [*tokens], unparseSpecial=unparseSpecial)

    # The end

    @property
    def nCtx(self) -> int:
        """The size of the context window in tokens, for all requests together, before llama.cpp rounds it up: see
        `nCtx` of `engine` and `context`.
        """
        return int(self._fields["nCtx"])

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """End the engine, and free the contexts and, if `load` has made this object, the model. Closing twice is
        harmless.
        """
        with locked(self._lock):
            self._closed = True
        for part in (self._engine, self._context, self._embedder):
            if part is not None:
                part.close()
        if self._owned:
            self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<LLM closed>"
        return f"<LLM nCtx={self.nCtx}, {self._model!r}>"

    def _repr_html_(self) -> str:
        return (
            table(repr(self)) if self._closed else table("LLM", {"model": self._model._describe(), "nCtx": self.nCtx})
        )
