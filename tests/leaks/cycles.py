"""What is done over and over: for each class, a function that makes an object, uses it and lets it go."""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from llama_cffi import (
    LLM,
    Adapter,
    Batch,
    BatchExt,
    ChatMessage,
    ChatSession,
    ChatTemplate,
    Constraint,
    Context,
    DraftModel,
    Engine,
    Generation,
    Ggml,
    LlamaError,
    Model,
    Mtmd,
    ProcessType,
    PromptCache,
    PromptLookup,
    Sampler,
    TokenData,
    TokenDataArray,
    chatApplyTemplate,
    choose,
    defaultSampler,
    detokenize,
    ffi,
    lib,
    logSet,
    perplexity,
    score,
    tokenize,
)

Cycle = Callable[[], object]

_GRAMMAR = 'root ::= "yes" | "no" | [a-z]+'


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what llama.cpp's parser of grammars prints past the log."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


class _Custom:
    """A sampler in Python."""

    def apply(self, candidates: TokenDataArray) -> None:
        candidates.selected = 0

    def clone(self) -> _Custom:
        return _Custom()


class _Failing(_Custom):
    def apply(self, candidates: TokenDataArray) -> None:
        raise LlamaError("as it should")


def cycles(folder: Path) -> Iterator[tuple[str, Cycle]]:
    """Names and functions. `folder` holds the models of `tests.fuzz.models`."""
    model = Model.load(folder / "llama.gguf")
    params = Context.Params(nCtx=64, nThreads=1, nThreadsBatch=1, nSeqMax=2)
    ctx = Context.initFromModel(model, params)
    ctx.decode(Batch.getOne([5, 6, 7]))
    for batch in [BatchExt.init(ctx) for _ in range(1 << 14)]:
        batch.free()  # the guard remembers so many addresses that were freed
    yield from _models(folder)
    yield from _contexts(model, ctx, params, folder)
    yield from _tensors()
    yield from _batches(ctx)
    yield from _samplers(model, ctx)
    yield from _media(model, ctx, folder)
    yield from _values(model)
    yield from _gguf(folder)
    yield from _generations(ctx)
    yield from _services(model)
    yield from _failures(model, ctx, folder)


def _models(folder: Path) -> Iterator[tuple[str, Cycle]]:
    def load(name: str) -> Cycle:
        def cycle() -> None:
            with Model.load(folder / name, Model.Params(progressCallback=lambda done: True)) as model:
                model.desc(), model.vocab.nTokens

        return cycle

    yield "Model", load("llama.gguf")
    yield "Model, bert", load("bert.gguf")
    yield "Model, collected", lambda: Model.load(folder / "llama.gguf")
    yield "Model.Params", lambda: Model.Params(kvOverrides={"a": 1}, tensorSplit=[1.0], progressCallback=print)
    yield "Model.QuantizeParams", lambda: Model.QuantizeParams(imatrix={"a": [1.0] * 64}, pruneLayers=[1])


def _contexts(model: Model, ctx: Context, params: Context.Params, folder: Path) -> Iterator[tuple[str, Cycle]]:
    def context() -> None:
        with Context.initFromModel(model, params) as made:
            made.decode(Batch.getOne([5, 6, 7]))
            made.getLogitsIth(-1)[0]

    def callbacks() -> None:
        ctx.setAbortCallback(lambda: False)
        ctx.setAbortCallback(None)

    def adapter() -> None:
        with Adapter.loraInit(model, folder / "lora.gguf") as made:
            ctx.setAdapterLora(made)
            ctx.clearAdapterLora()

    def pool() -> None:
        with Ggml.Threadpool(2) as made:
            ctx.attachThreadpool(made)
            ctx.detachThreadpool()

    def memory() -> None:
        ctx.getMemory().seqCopy(0, 1)  # llama.cpp puts it off until the next decode
        ctx.getMemory().seqRemove(1)
        ctx.getMemory().clear()
        ctx.decode(Batch.getOne([5]))

    def attached() -> None:
        chain = Sampler.chain(Sampler.initTopK(4), Sampler.initDist(1))
        with Context.initFromModel(model, Context.Params(nCtx=64, nThreads=1, samplers=[(0, chain)])) as made:
            made.decode(Batch.getOne([5]))

    yield "Context", context
    yield "Context, collected", lambda: Context.initFromModel(model, params)
    yield "Context with samplers", attached
    yield "Context.Params", lambda: Context.Params(abortCb=lambda: False, cbEval=print)
    yield "Context.setAbortCallback", callbacks
    yield "Adapter", adapter
    yield "Threadpool", pool
    yield "decode", lambda: (ctx.getMemory().clear(), ctx.decode(Batch.getOne([5, 6, 7])))
    yield "views", lambda: (ctx.getLogits()[0, 0], np.asarray(ctx.getLogitsIth(-1)).sum())
    yield "state", lambda: ctx.stateSetData(ctx.stateGetData())
    yield "state of a sequence", lambda: ctx.stateSeqSetData(ctx.stateSeqGetData(None, None, 0), None, 0)
    yield "Memory", memory


def _tensors() -> Iterator[tuple[str, Cycle]]:
    numbers = np.ones((4, 32), np.float32)
    kept = Ggml.Context()
    weights = kept.tensor(numbers, Ggml.Type.Q8_0)

    def arena() -> None:
        with Ggml.Context() as ctx:
            ctx.softMax(ctx.mulMat(ctx.tensor(numbers), ctx.tensor(numbers))).T.sources.clear()

    def grown() -> None:
        with Ggml.Context() as ctx:
            for _ in range(3):
                ctx.newTensor(Ggml.Type.F32, 100_000)

    def crossed() -> None:
        one, two = Ggml.Context(), Ggml.Context()
        a, b = one.tensor(numbers), two.tensor(numbers)
        one.add(a, b), two.add(a, b)

    def views() -> np.ndarray:
        with Ggml.Context() as ctx:
            return ctx.tensor(numbers).numpy()

    def computed() -> None:
        with Ggml.Context(noAlloc=True) as ctx:
            Ggml.compute(ctx.mulMat(weights, ctx.tensor(numbers)), nThreads=1)

    def by_hand() -> None:
        with Ggml.Backend.cpuInit() as backend, Ggml.Context(noAlloc=True) as ctx:
            graph = ctx.newGraph(16)
            Ggml.buildForwardExpand(graph, ctx.sqr(ctx.tensor(numbers)))
            with Ggml.Gallocr(backend.getDefaultBufferType()) as allocator:
                allocator.allocGraph(graph)
                backend.graphCompute(graph)

    def failing() -> None:
        with Ggml.Context() as ctx:
            for call in (lambda: ctx.mulMat(weights, ctx.tensor([1.0])), lambda: ctx.view(weights, 64, 1 << 20)):
                with suppress(LlamaError, ValueError):
                    call()

    def scheduled() -> None:
        with Ggml.Backend.cpuInit() as backend, Ggml.Context(noAlloc=True) as ctx:
            graph = ctx.newGraph(16)
            graph.expand(ctx.sqr(ctx.tensor(numbers)))
            with Ggml.BackendSched([backend], 64) as sched:
                sched.graphCompute(graph)
                sched.reset()

    def custom() -> None:
        with Ggml.Context() as ctx:
            Ggml.compute(ctx.mapCustom1(ctx.tensor(numbers), lambda a: a + 1), nThreads=1)
            with suppress(ZeroDivisionError):
                Ggml.compute(ctx.mapCustom1(ctx.tensor(numbers), lambda a: 1 / 0), nThreads=1)

    net = Ggml.Context(noAlloc=True)
    inputs = net.tensor(numbers)
    outputs = net.mulMat(net.tensor(numbers).setParam(), inputs)

    def trained() -> None:
        with Ggml.OptDataset(np.ones((8, 32), np.float32), np.ones((8, 4), np.float32)) as data:
            Ggml.Opt.fit(inputs, outputs, data, nEpoch=2, valSplit=0.5)
            data.data.sum()

    yield "Ggml.BackendSched", scheduled
    yield "Ggml.Context.mapCustom1", custom
    yield "Ggml.Opt", trained
    yield "Ggml.Context", arena
    yield "Ggml.Context, grown", grown
    yield "Ggml.Context, collected", lambda: Ggml.Context().tensor(numbers)
    yield "Ggml.Context, two that use each other", crossed
    yield "Ggml.Tensor.numpy", views
    yield "Ggml.Tensor, quantized", lambda: weights.numpy()
    yield "Ggml.compute", computed
    yield "Ggml.Gallocr", by_hand
    yield "Ggml.BackendBuffer", lambda: Ggml.BackendBuffer.alloc(Ggml.BackendDevice.get(0).bufferType(), 4096).free()
    yield "Ggml, failing", failing


def _batches(ctx: Context) -> Iterator[tuple[str, Cycle]]:
    def ext() -> None:
        with BatchExt.init(ctx) as batch:
            batch.setPos(batch.addToken(0, 5), 0)
            batch.setOutputLogits(0)
            ctx.getMemory().clear()
            ctx.process(ProcessType.DECODE, batch)

    def filled() -> None:
        with Batch.init(16, 0, 2) as batch:
            batch.add(5, 0, (0, 1), True)
            assert batch.seqId and batch.pos

    yield "Batch.getOne", lambda: Batch.getOne(array("i", [5] * 64))
    yield "Batch.init", filled
    yield "BatchExt", ext


def _samplers(model: Model, ctx: Context) -> Iterator[tuple[str, Cycle]]:
    vocab = model.vocab
    makers: dict[str, Callable[[], Sampler]] = {
        "greedy": Sampler.initGreedy,
        "dist": lambda: Sampler.initDist(1),
        "mirostat": lambda: Sampler.initMirostat(vocab, 1),
        "mirostat-v2": lambda: Sampler.initMirostatV2(1),
        "adaptive-p": lambda: Sampler.initAdaptiveP(0.5),
        "top-k": lambda: Sampler.initTopK(4),
        "top-p": lambda: Sampler.initTopP(0.5),
        "min-p": lambda: Sampler.initMinP(0.1),
        "typical": lambda: Sampler.initTypical(0.5),
        "xtc": lambda: Sampler.initXtc(0.5),
        "top-n-sigma": lambda: Sampler.initTopNSigma(1.0),
        "temp": lambda: Sampler.initTemp(0.5),
        "temp-ext": lambda: Sampler.initTempExt(0.5, 0.1),
        "penalties": lambda: Sampler.initPenalties(16, 1.1),
        "penalties, late": lambda: Sampler.initPenalties(-1, 1.1),
        "logit-bias": lambda: Sampler.initLogitBias(vocab, {5: 1.0}),
        "dry": lambda: Sampler.initDry(vocab, 0.8, dryPenaltyLastN=16),
        "infill": lambda: Sampler.initInfill(vocab),
        "grammar": lambda: Sampler.initGrammar(vocab, _GRAMMAR),
        "lazy grammar": lambda: Sampler.initGrammarLazyPatterns(vocab, _GRAMMAR, "root", ["(yes)"]),
        "in Python": lambda: Sampler.init(_Custom()),
    }

    def used(make: Callable[[], Sampler]) -> Cycle:
        def cycle() -> None:
            with make() as sampler:
                sampler.apply(TokenDataArray(vocab.nTokens))
                sampler.reset()
                sampler.clone().free()

        return cycle

    def chain() -> None:
        with Sampler.chain(Sampler.initTopK(8), Sampler.init(_Custom()), Sampler.initDist(1)) as made:
            made.sample(ctx)
            made.chainRemove(0)

    for name, make in makers.items():
        yield f"Sampler, {name}", used(make)
    yield "Sampler, chain", chain
    yield "Sampler, collected", lambda: Sampler.chain(Sampler.initPenalties(-1, 1.1), Sampler.initDist(1)).sample(ctx)


def _media(model: Model, ctx: Context, folder: Path) -> Iterator[tuple[str, Cycle]]:
    params = Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False)
    made = Mtmd.Context.initFromFile(folder / "llava.mmproj", model, params)
    hears = Mtmd.Context.initFromFile(folder / "ultravox.mmproj", model, params)
    pixels, samples = np.zeros((28, 28, 3), np.uint8), np.zeros(1600, np.float32)
    file = (folder / "image.ppm").read_bytes()

    def projector() -> None:
        with Mtmd.Context.initFromFile(folder / "llava.mmproj", model, params) as one:
            one.tokenize("a <__media__>", [Mtmd.Bitmap.fromImage(pixels)])

    def image() -> None:
        with Mtmd.Bitmap.fromBytes(made, file) as bitmap, made.tokenize("a <__media__> b", [bitmap]) as chunks:
            ctx.getMemory().clear()
            made.evalChunks(ctx, chunks)
            with chunks[1].copy() as part:
                made.encodeChunk(part)
                made.getOutputEmbd()[0, 0]

    def sound() -> None:
        ctx.getMemory().clear()
        hears.evalChunks(ctx, hears.tokenize("<__media__>", [Mtmd.Bitmap.fromAudio(samples)]))

    def failing() -> None:
        for call in (
            lambda: Mtmd.Bitmap.fromBytes(made, b"no image"),
            lambda: Mtmd.Bitmap.fromBytes(made, file[:20]),
            lambda: Mtmd.Context.initFromFile(folder / "llama.gguf", model, params),
            lambda: made.tokenize("none", [Mtmd.Bitmap.fromImage(pixels)]),
        ):
            with suppress(LlamaError, ValueError):
                call()

    yield "Mtmd.Context", projector
    yield "Mtmd.Bitmap", lambda: Mtmd.Bitmap.fromImage(pixels).data
    yield "Mtmd, image", image
    yield "Mtmd, sound", sound
    yield "Mtmd, failing", failing
    made.free(), hears.free()


def _values(model: Model) -> Iterator[tuple[str, Cycle]]:
    vocab = model.vocab

    def chat() -> str:
        return chatApplyTemplate("chatml", [ChatMessage("user", "hello")])

    def log() -> None:
        logSet(lambda level, text, data: None)
        Sampler.chainInit().perfSamplerPrint()
        logSet(None)

    def candidates() -> None:
        rows = TokenDataArray([(1, 0.5), (2, 1.5), (3, 2.5)])
        rows.sort()
        rows[0].logit = 0.0
        np.asarray(rows)["p"][:] = 1.0

    yield "TokenDataArray", candidates
    yield "TokenData", lambda: TokenData(id=1, logit=0.5)
    yield "tokenize", lambda: detokenize(vocab, tokenize(vocab, "hello world and the end"))
    yield "tokenize to a buffer", lambda: tokenize(vocab, "hello", None, array("i", bytes(256)), 64)
    yield "Vocab", lambda: (vocab.tokenToPiece(5), vocab.getText(5), vocab.bos)
    yield "metadata", lambda: (model.metaValStr("general.name"), model.desc(bytearray(64), 64), model.chatTemplate())
    yield "chat", chat
    yield "log", log
    yield "devices", lambda: Ggml.BackendDevice.get(0).bufferType().getDevice()


def _generations(ctx: Context) -> Iterator[tuple[str, Cycle]]:
    greedy = defaultSampler(0)

    def left() -> None:
        next(iter(Generation(ctx, [5, 6], maxTokens=9, stop=["never"])), None)

    def cancelled() -> None:
        with Generation(ctx, [5, 7], sampler=greedy, maxTokens=9) as generation:
            generation.cancel()

    def chat() -> None:
        session = ChatSession(ctx, template="chatml", overflow="drop")
        list(session.send("a", sampler=greedy, maxTokens=1))

    def rendered() -> str:
        return ChatTemplate(ctx.getModel(), "{{ messages[0].content }}").render([{"role": "user", "content": "a"}])

    template = ChatTemplate(ctx.getModel(), "{{ messages[0].content }}")

    def formatted() -> None:
        template.format([{"role": "user", "content": "a"}]).parse("hello")

    yield "Generation", lambda: list(Generation(ctx, [5, 6, 7], sampler=greedy, maxTokens=2))

    def guessed() -> None:
        with DraftModel(ctx.getModel(), params=Context.Params(nCtx=64, nThreads=1), adapt=False) as draft:
            list(Generation(ctx, [5, 6, 5, 6], sampler=greedy, maxTokens=4, speculation=draft))
        list(Generation(ctx, [5, 6, 5, 6], sampler=greedy, maxTokens=4, speculation=PromptLookup(1, adapt=False)))

    yield "Generation, speculation", guessed

    def stored() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cache = PromptCache(folder, minTokens=2)
            for _ in range(2):
                ctx.getMemory().clear()
                list(Generation(ctx, [5, 6, 7, 8], sampler=greedy, maxTokens=1, promptCache=cache))
                cache.flush()

    yield "Generation, prompt cache", stored
    yield "Generation, steps", lambda: list(Generation(ctx, [5, 8], sampler=greedy, maxTokens=2, logProbs=2).steps())
    yield "Generation, let go", left
    yield "Generation, cancelled", cancelled
    yield "ChatSession", chat
    yield "ChatTemplate", rendered
    yield "AnswerFormat", formatted
    yield "score", lambda: score(ctx, [5, 6], [7])
    yield "choose", lambda: choose(ctx, [5], [[6], [7]], normalize="token")
    yield "perplexity", lambda: perplexity(ctx, [5, 6, 7, 8, 9, 10], nCtx=3, stride=2)


def _services(model: Model) -> Iterator[tuple[str, Cycle]]:
    """What has threads."""
    engine = Engine(model, nCtx=64, nSeqMax=2, nThreads=1)
    letters = Constraint.fromRegex("[a-z]+")

    def opened() -> None:
        with LLM(model, nCtx=64, nThreads=1, template="chatml") as llm:
            llm.complete([5, 6], maxTokens=1)

    def constrained() -> None:
        with letters.chain(model.vocab, Sampler.initDist(1)) as sampler:
            sampler.apply(TokenDataArray(model.vocab.nTokens))

    yield "Engine, request", lambda: engine.submit([5, 6], maxTokens=2, logProbs=1).result()
    yield "Engine, cancelled", lambda: engine.submit([5, 7], maxTokens=9).cancel()
    yield "Engine.score", lambda: engine.score([[5], [6], [7]], [8])
    yield "Engine.chat", lambda: engine.chat([ChatMessage("user", "a")], template="chatml", maxTokens=1).result()
    yield "LLM", opened
    yield "Constraint, chain", constrained
    yield "Constraint", lambda: Constraint.fromJsonSchema({"type": "boolean"})
    engine.close()


def _gguf(folder: Path) -> Iterator[tuple[str, Cycle]]:
    rows = np.ones((2, 256), np.float32)

    def used() -> None:
        with Ggml.Gguf.open(folder / "bare.gguf") as file:
            dict(file.metadata)
            for tensor in file.tensors.values():
                tensor.numpy(), tensor.numpy(dequantize=True)

    def written() -> None:
        with Ggml.Gguf.open(folder / "bare.gguf") as file:
            file.metadata["general.name"] = "x"
            for kind in (Ggml.Type.Q4_K, Ggml.Type.IQ4_NL, Ggml.Type.F16):
                file.tensors.set(kind.name, rows, kind, np.ones(256))
            file.write(folder / "written.gguf")

    def kept() -> object:
        return Ggml.Gguf.open(folder / "bare.gguf").tensors["token_embd.weight"].numpy()

    yield "Gguf", used
    yield "Gguf, written", written
    yield "Gguf, let go", kept


def _failures(model: Model, ctx: Context, folder: Path) -> Iterator[tuple[str, Cycle]]:
    failing = Sampler.init(_Failing())
    (folder / "broken.gguf").write_bytes((folder / "llama.gguf").read_bytes()[:5000])
    vocab = model.vocab._c
    short, long = [99_999_999], [99_999_999] * 1000
    text = ffi.new("char[]", 16)

    def fails(call: Cycle) -> Cycle:
        def cycle() -> None:
            with suppress(LlamaError, ValueError, TypeError, OSError, IndexError):
                call()

        return cycle

    def kept() -> None:
        """An exception in a cycle with its frames, as programs make them."""
        try:
            model.desc(bytearray(4), 99)
        except ValueError as error:
            box: list[object] = [error]
            box.append(box)
        if gc.get_count()[0] > 500:
            gc.collect()

    def grammar() -> None:
        with _quiet():
            Sampler.initGrammar(model.vocab, "root ::= nothing")

    yield "refused batch", fails(lambda: ctx.decode(Batch.getOne([99_999])))
    yield "refused buffer, kept", kept
    yield "failed load", fails(lambda: Model.load(folder / "broken.gguf"))
    yield "failed Gguf", fails(lambda: Ggml.Gguf.open(folder / "broken.gguf"))
    yield "failed adapter", fails(lambda: Adapter.loraInit(model, folder / "llama.gguf"))
    yield "failed grammar", fails(grammar)
    yield "failed state", fails(lambda: ctx.stateSetData(b"no state"))
    yield "failing sampler in Python", fails(lambda: failing.apply(TokenDataArray(8)))
    yield "copy refused", fails(lambda: copy.copy(ctx))
    yield "raw: assertion", fails(lambda: lib.ggml_backend_dev_get(99))
    yield "raw: C++ exception", fails(lambda: lib.llama_load_mode_from_str(b"nonsense"))
    yield "raw: arguments on the stack", fails(lambda: lib.llama_detokenize(vocab, short, 1, text, 16, False, False))
    yield KNOWN, fails(lambda: lib.llama_detokenize(vocab, long, len(long), text, 16, False, False))


KNOWN = "raw: arguments on the heap"
"""cffi copies a list of more than 640 bytes to the heap, and a failed guarded call leaves before it is freed."""
