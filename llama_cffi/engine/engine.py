"""Continuous batching: serves many requests at once with one model, each with its own sampler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED, Token
from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi.context.context import Context
from llama_cffi.engine.adapter_set import AdapterSet
from llama_cffi.engine.arguments import checked_projector, prompt_cache
from llama_cffi.engine.context_params import context_params
from llama_cffi.engine.continuations import submit_all
from llama_cffi.engine.engine_base import EngineBase
from llama_cffi.engine.guessing import guesses_of, require_guesses
from llama_cffi.engine.load import EngineLoad, EngineTotals
from llama_cffi.engine.memory_layout import MemoryLayout
from llama_cffi.engine.request import Request, RequestUsage
from llama_cffi.engine.scheduler import Scheduler
from llama_cffi.engine.scores import scored_texts
from llama_cffi.generation.default_sampler import defaultSampler
from llama_cffi.generation.request_options import INT32_MAX, RequestOptions, require_sampler, with_media
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler

if TYPE_CHECKING:
    from typing import Any, Literal

    from llama_cffi._core.arguments import StrPath
    from llama_cffi.chat.answer_format import ReasoningFormat
    from llama_cffi.chat.messages import Message, Tool
    from llama_cffi.chat.template import ChatTemplate
    from llama_cffi.engine.chat_request import ChatRequest
    from llama_cffi.engine.continuations import Samplers
    from llama_cffi.engine.scores import Text
    from llama_cffi.generation.projector import MediaInput, Projector, PromptChunks
    from llama_cffi.generation.prompt_cache.cache import PromptCache
    from llama_cffi.generation.score import Score
    from llama_cffi.generation.speculation import Speculation
    from llama_cffi.model.adapter import Adapter

__all__ = ["Engine", "EngineLoad", "EngineTotals", "Request", "RequestUsage"]

_NO_TEXT = (
    "an engine needs a model that writes text from left to right, with a decoder alone: use Embedder for embeddings, "
    "and Generation with a context for a model that has an encoder too"
)


class Engine(EngineBase):
    """Serves many requests at once with one model, on its own context and thread::

        with Engine(model) as engine:
            requests = [engine.submit(prompt, maxTokens=100) for prompt in prompts]
            for request in requests:
                print(request.result())

    Continuous batching: requests join and leave at any step. Each step decodes one token for every request that
    generates, together with the prompts of new ones. Prefix sharing: a prefix that a prompt shares with another
    request, or with an earlier one whose cells are still there, is not decoded again. All methods are thread-safe.
    """

    def __init__(
        self,
        model: Model,
        *,
        nCtx: int = 4096,
        nSeqMax: int = 16,
        nBatch: int = 512,
        nThreads: int | None = None,
        keepPrefixes: bool = True,
        kvUnified: bool | None = None,
        maxWaiting: int | None = None,
        params: Context.Params | None = None,
        mtmd: Projector | None = None,
        promptCache: PromptCache | StrPath | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """`nCtx` is the size of the KV cache in tokens, for all requests together; `nSeqMax` is how many run at once.
        `nBatch` is how many tokens a step decodes: with more, prompts are read faster, but each step takes longer.
        `nThreads` None uses as many threads as the process can use CPUs, but leaves one CPU in eight to Python and the
        clients. It uses fewer while other programs need the CPUs.
        `keepPrefixes` keeps the cells of ended requests until they are needed, for prefix sharing.

        `kvUnified` is the layout of the KV cache. True: one pool of cells, in which requests share prefixes without a
        copy and a single one can use all cells; but each token attends to the cells of all requests. False: each
        sequence has `nCtx / nSeqMax` cells, which is faster for many requests. None changes between both: it uses
        separate cells while all requests fit them.

        `maxWaiting` limits the queue: while `nSeqMax + maxWaiting` requests have not ended, `submit` raises
        QueueFullError. None sets no limit.

        `params` has more parameters for the context; the ones here override it. `mtmd` is an Mtmd.Context, for images
        and sounds in requests; all other requests wait while it encodes. `promptCache` keeps long prompts on disk: a
        `PromptCache`, or its folder. `speculation` guesses tokens of all requests, `PromptLookup()`, while at most 4
        run: see `submit`.

        Raises ValueError for a model that does not generate text, and for invalid parameters; ContextError.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one")
        if params is not None and not isinstance(params, Context.Params):
            raise expected("a Context.Params", params, name="params")
        if kvUnified not in (None, True, False):
            raise expected("True, False or None", kvUnified, name="kvUnified")
        if maxWaiting is not None:
            maxWaiting = integer(maxWaiting, 0, INT32_MAX, "maxWaiting")
        if model.hasEncoder or model.isDiffusion:
            raise ValueError(_NO_TEXT)
        model.vocab._require_tokenizer()
        self._mtmd = checked_projector(mtmd, model)
        stored = None if promptCache is None else prompt_cache(promptCache)
        self._speculation = require_guesses(speculation, model)
        layout = MemoryLayout(model, context_params(model, params, nCtx, nSeqMax, nBatch, nThreads), kvUnified)
        context = layout.context
        if not context._limits.decodes:
            context.close()
            raise ValueError(_NO_TEXT)
        self._templates: dict[str | None, ChatTemplate] = {}
        self._limits = context._limits
        layout.disk = stored
        self._begin(model, layout, Scheduler(layout, keepPrefixes, maxWaiting))

    def submit(
        self,
        prompt: str | Sequence[Token] | PromptChunks,
        *,
        media: Sequence[MediaInput] = (),
        sampler: Sampler | None = None,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        stopTokens: Iterable[Token] = (),
        priority: int = 0,
        seed: int = DEFAULT_SEED,
        logProbs: int | None = None,
        special: bool = False,
        penalizePrompt: bool = True,
        promptLogProbs: int | None = None,
        adapters: Iterable[tuple[Adapter, float]] = (),
        sharePrefix: bool = True,
        speculation: Speculation | Literal[False] | None = None,
    ) -> Request:
        """Submit a prompt. Returns at once; iterate over the request for the text, or wait for its `result()`.

        `prompt` is a text, or its tokens: use `tokenize(vocab, text, parseSpecial=True)` for control tokens. `sampler`
        is reset, and serves only this request until it ends; None means `defaultSampler(seed=seed)`. `maxTokens` None
        means until the model ends the text or the context window is full. With a number, all cells that the request can
        need are reserved, so a small one lets more requests run at once; without, a request that finds the KV cache
        full is put back into the queue, and goes on later. `stop` lists strings that end the text before them,
        `stopTokens` tokens that do; `special` spells control tokens out. Requests with a higher `priority` start first,
        and their prompts are decoded first, but at most 32 later requests overtake a waiting one. `logProbs` is the
        number of alternatives to report with each token's log-probability; see `Request.steps`. `promptLogProbs` is the
        same for the tokens of the prompt, of which no prefix is reused; see `Request.promptLogProbs`. `maxTokens` 0
        decodes the prompt alone. `adapters` are LoRA adapters with their scales, `[(adapter, 1.0)]`: requests with the
        same ones share batches and prefixes, and others take turns with them. `penalizePrompt` False hides the prompt
        from penalties and DRY; see `Generation`. `sharePrefix` False decodes the whole prompt, whatever the KV cache
        has of it. `media` are images and sounds for the markers in `prompt`, as in `Generation`. `speculation` guesses
        tokens of this request, as in `Generation`; None is the engine's, False none. With others beside it, it guesses
        what makes their steps at most 5 % longer.

        Raises ContextFullError for a request that would not fit the KV cache even alone; ValueError and TypeError for
        wrong arguments; QueueFullError, ClosedError. Later errors are raised by the request.
        """
        self._scheduler.require_place()
        text = with_media(prompt, media, self._mtmd, self._limits, self._model)
        options = RequestOptions.check(
            self._model.vocab, text, maxTokens, stop, stopTokens, logProbs, special, penalizePrompt, promptLogProbs
        )
        options.shares_prefix = boolean(sharePrefix, "sharePrefix")
        options.guesses = guesses_of(speculation, self._speculation, self._model, self._scheduler.cost)
        return self._submit(Request, options, sampler, priority, seed, AdapterSet.check(self._model, adapters))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        template: ChatTemplate | str | None = None,
        tools: Sequence[Tool] | None = None,
        toolChoice: str = "auto",
        parallelToolCalls: bool | None = None,
        responseFormat: Any = None,
        thinking: bool = True,
        reasoningFormat: ReasoningFormat = "split",
        continueLast: bool = False,
        variables: Mapping[str, Any] | None = None,
        sampler: Sampler | None = None,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        priority: int = 0,
        seed: int = DEFAULT_SEED,
        logProbs: int | None = None,
        penalizePrompt: bool = True,
        adapters: Iterable[tuple[Adapter, float]] = (),
        thinkingBudget: int | None = None,
        thinkingClose: str = "",
        sharePrefix: bool = True,
        speculation: Speculation | Literal[False] | None = None,
    ) -> ChatRequest:
        """Submit a conversation. Returns at once; `events()` of the request yields the parts of the answer.

        Messages may have images and sounds as parts, as in `ChatSession.send`. `template` None is the model's own. The
        other parameters are those of `ChatTemplate.format` and of `submit`. A thought ends after `thinkingBudget`
        tokens, with the text `thinkingClose`. Requests share the prefix of their conversations. With a grammar
        (`toolChoice`, `responseFormat`) or a budget, `sampler` is cloned. Raises what these raise.
        """
        self._scheduler.require_place()
        loras = AdapterSet.check(self._model, adapters)
        from llama_cffi.chat.content_parts import MediaReader
        from llama_cffi.chat.messages import call_ids
        from llama_cffi.chat.template import ChatTemplate
        from llama_cffi.chat.thinking_budget import thought_limit
        from llama_cffi.engine.chat_request import ChatRequest

        if isinstance(template, ChatTemplate):
            chosen = template
        elif template in self._templates:
            chosen = self._templates[template]
        else:
            chosen = self._templates[template] = ChatTemplate(self._model, template)
        reader = MediaReader(self._mtmd)
        texts, bitmaps = reader.read(messages)
        form = chosen.format(
            texts,
            tools=tools,
            toolChoice=toolChoice,
            parallelToolCalls=parallelToolCalls,
            responseFormat=responseFormat,
            thinking=thinking,
            reasoningFormat=reasoningFormat,
            continueLast=continueLast,
            thinkFirst=bool(thinkingBudget),
            **(variables or {}),
        )
        vocab = self._model.vocab
        options = RequestOptions.check(
            vocab,
            reader.tokens(chosen, form.prompt, bitmaps, self._limits),
            maxTokens,
            [*stop, *form.stop],
            (),
            logProbs,
            form.special,
            penalizePrompt,
        )
        options.shares_prefix = boolean(sharePrefix, "sharePrefix")
        options.guesses = guesses_of(speculation, self._speculation, self._model, self._scheduler.cost)
        grammar, limit = form.grammarSampler(vocab), thought_limit(form, vocab, thinkingBudget, thinkingClose)
        if grammar is not None or limit is not None:
            own = defaultSampler(seed=seed) if sampler is None else require_sampler(sampler).clone()
            limits = [] if limit is None else [Sampler.init(limit)]
            sampler, seed = Sampler.chain(*limits, *([] if grammar is None else [grammar]), own), DEFAULT_SEED
            if grammar is not None:
                first = sampler.chainGet(len(limits))
                options.begin = lambda: form.begin(first)
        request = self._submit(ChatRequest, options, sampler, priority, seed, loras)
        request._format, request._taken = form, call_ids(messages)
        return request

    def continuations(
        self, prompt: str | Sequence[Token], n: int, *, sampler: Samplers = None, **options: Any
    ) -> list[Request]:
        """Submit a prompt for `n` continuations, at most 1,024. It is decoded once: the requests share its cells.

        `options` are those of `submit`. Each request has a seed of its own: `seed`, `seed + 1` and so on. `sampler` is
        a list with one for each; or one, of which the others are clones: with a fixed seed, these write the same text.
        Raises what `submit` raises; no request goes on then.
        """
        return submit_all(n, sampler, options, partial(self.submit, prompt))

    def score(
        self,
        texts: Iterable[Text],
        context: Text | Sequence[Text] = "",
        *,
        priority: int = 0,
        adapters: Iterable[tuple[Adapter, float]] = (),
    ) -> list[Score]:
        """Compute the log-probabilities of given texts, many at once. Waits for the results: one for each text.

        `context` comes before each text and is not scored: one for all, or a list with one for each. See `score` for
        how texts, or their tokens, are read. At most 2 * `nSeqMax` texts are submitted at a time; `priority` and
        `adapters` are those of `submit`. Raises what `submit` and `Request.result` raise, and ValueError for a text
        without tokens.
        """
        found = scored_texts(self._model.vocab, texts, context)
        work = self._score([(text.tokens, text.first) for text in found], priority, adapters)
        return [text.score(steps) for text, steps in zip(found, work, strict=True)]
