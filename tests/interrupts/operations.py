"""Operations of the facade: each is done over and over on the same objects, and interrupted at every point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llama_cffi import (
    LLM,
    Adapter,
    Batch,
    BatchExt,
    ChatSession,
    ChatTemplate,
    Constraint,
    Context,
    DraftModel,
    Embedder,
    Engine,
    Generation,
    Ggml,
    Model,
    Mtmd,
    ProcessType,
    PromptCache,
    PromptLookup,
    Sampler,
    TokenDataArray,
    choose,
    defaultSampler,
    detokenize,
    fineTune,
    load,
    logGet,
    logSet,
    perplexity,
    score,
    tokenize,
)
from llama_cffi.model.validation import ModelFile

Operation = Callable[[], object]

_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


class Custom:
    """A sampler in Python."""

    def acceptPrompt(self, tokens: list[int]) -> None:
        self.seen = tokens

    def apply(self, candidates: TokenDataArray) -> None:
        candidates.selected = 0

    def clone(self) -> Custom:
        return Custom()


NAMES = (
    "Model",
    "Model, with children",
    "Model.save",
    "Model.quantize",
    "Context",
    "Context, decode",
    "Context, encode",
    "Context, chains",
    "Context, callbacks",
    "Memory",
    "state",
    "Batch",
    "BatchExt",
    "defaultSampler",
    "chainAdd, chainRemove",
    "Sampler.clone",
    "Sampler, context size",
    "Sampler.sample",
    "tokenize",
    "Adapter",
    "Threadpool",
    "Ggml.Context",
    "Ggml.compute",
    "Ggml.Gallocr",
    "Ggml.BackendSched",
    "Ggml.Context.mapCustom2",
    "Ggml.Opt",
    "fineTune",
    "Generation",
    "Generation, prompt scored",
    "score, choose, perplexity",
    "Generation, prompt penalized",
    "Generation, media",
    "Generation, steps",
    "Generation, speculation",
    "Generation, prompt cache",
    "Generation, asyncio",
    "ChatTemplate",
    "ChatSession",
    "ChatSession, media",
    "ChatSession.save, load",
    "Engine",
    "Engine, media",
    "Engine, requests",
    "Engine, adapters",
    "Engine.score",
    "Engine.chat",
    "Embedder",
    "Embedder.embed",
    "Mtmd.Context",
    "Mtmd, image",
    "Mtmd, sound",
    "load, LLM",
    "LLM.complete",
    "LLM, session, score",
    "Constraint",
    "log",
    "backends",
    "GGUF header",
    "Gguf.open, write",
    "Gguf.split, merge",
)

# The interpreter's own event loop, executors and weak sets are Python code too, which an exception breaks anywhere.
# asyncio.run turns Ctrl-C into a cancellation instead (tests/generate/test_async.py).
WITHOUT_SIGNALS = ("Generation, asyncio",)


def operations(folder: Path) -> dict[str, Callable[[], Operation]]:
    """Names, and functions that prepare an operation. `folder` holds the models of `tests.fuzz.models`."""
    path = folder / "llama.gguf"
    params = dict(nCtx=64, nThreads=1, nThreadsBatch=1, nSeqMax=2)
    model = Model.load(path)

    def context() -> Context:
        return Context.initFromModel(model, Context.Params(**params))  # type: ignore[arg-type]

    def decoded() -> Context:
        ctx = context()
        ctx.decode(Batch.getOne([5, 6, 7]))
        return ctx

    def make_model() -> Operation:
        def load() -> None:
            with Model.load(path, Model.Params(progressCallback=lambda done: True)) as made:
                made.desc()

        return load

    def make_context() -> Operation:
        def make() -> None:
            with context() as ctx:
                ctx.decode(Batch.getOne([5, 6]))

        return make

    def model_with_children() -> Operation:
        def make() -> None:
            made = Model.load(path)
            ctx = Context.initFromModel(made, Context.Params(**params))  # type: ignore[arg-type]
            Sampler.initGrammar(made.vocab, 'root ::= "a"')
            BatchExt.init(ctx)
            made.close()

        return make

    def default_sampler() -> Operation:
        ctx = decoded()

        def make() -> None:
            with defaultSampler(seed=1) as chain:
                chain.sample(ctx)

        return make

    def chain_add() -> Operation:
        def make() -> None:
            chain = Sampler.chainInit()
            for _ in range(2):
                chain.chainAdd(Sampler.initTopK(3))
            outer = Sampler.chain(chain, Sampler.initGreedy())
            outer.chainRemove(1).close()
            outer.close()

        return make

    def clone() -> Operation:
        chain = Sampler.chain(Sampler.initTopK(3), Sampler.init(Custom()), Sampler.chain(Sampler.initDist(1)))

        def make() -> None:
            twin = chain.clone()
            twin.chainRemove(0).close()
            twin.close()

        return make

    def rebuilt() -> Operation:
        ctx = decoded()

        def make() -> None:
            inner = Sampler.chain(Sampler.initPenalties(-1, 1.1), Sampler.initTopK(3))
            with Sampler.chain(inner, Sampler.initGreedy()) as chain:
                chain.sample(ctx)

        return make

    def decode() -> Operation:
        ctx = context()

        def run() -> None:
            ctx.getMemory().clear()
            ctx.decode(Batch.getOne([5, 6, 7]))
            ctx.getLogitsIth(-1)[0]
            ctx.getLogits()[0, 0]

        return run

    def encode() -> Operation:
        ctx = Context.initFromModel(Model.load(folder / "t5.gguf"), Context.Params(nCtx=64, nThreads=1))

        def run() -> None:
            ctx.encode(Batch.getOne([3, 4, 5]))

        return run

    def batch_ext() -> Operation:
        ctx = context()

        def run() -> None:
            ctx.getMemory().clear()
            with BatchExt.init(ctx) as batch:
                i = batch.addToken(0, 5)
                batch.setPos(i, 0)
                batch.setOutputLogits(i)
                ctx.process(ProcessType.DECODE, batch)

        return run

    def batch() -> Operation:
        def run() -> None:
            made = Batch.init(4)
            made.extend([5, 6, 7], 0)
            made.free()

        return run

    def sample() -> Operation:
        ctx, greedy = decoded(), Sampler.initGreedy()
        chain = Sampler.chain(Sampler.init(Custom()), Sampler.initTopK(3), Sampler.initDist(1))
        grammar = Sampler.chain(Sampler.initGrammar(model.vocab, "root ::= [a-z ]+"), Sampler.initGreedy())

        def run() -> None:
            greedy.sample(ctx)
            chain.sample(ctx)
            grammar.reset()
            grammar.sample(ctx)
            greedy.apply(TokenDataArray(9))

        return run

    def context_chain() -> Operation:
        def run() -> None:
            chain = Sampler.chain(Sampler.initPenalties(-1, 1.1), Sampler.initGreedy())
            other = Sampler.chain(Sampler.initDist(1))
            with Context.initFromModel(model, Context.Params(samplers={0: chain}, **params)) as ctx:  # type: ignore[arg-type]
                ctx.setSampler(1, other)
                ctx.decode(Batch.getOne([5, 6]))
                chain.sample(ctx)

        return run

    def text() -> Operation:
        return lambda: detokenize(model.vocab, tokenize(model.vocab, "Once upon a time"))

    def state() -> Operation:
        ctx, file = decoded(), folder / "state.bin"

        def run() -> None:
            ctx.stateSetData(ctx.stateGetData())
            ctx.stateSeqSetData(ctx.stateSeqGetData(seqId=0), destSeqId=1)
            ctx.stateSaveFile(file, [5, 6, 7])
            ctx.stateLoadFile(file)

        return run

    def memory() -> Operation:
        ctx = context()

        def run() -> None:
            ctx.getMemory().clear()
            ctx.decode(Batch.getOne([5, 6, 7]))
            ctx.getMemory().seqCopy(0, 1)
            ctx.getMemory().seqAdd(0, 1, -1, 4)
            ctx.getMemory().seqRemove(0, 1)
            ctx.getMemory().seqKeep(1)

        return run

    def adapter() -> Operation:
        ctx = context()

        def run() -> None:
            ctx.clearAdapterLora()  # of an earlier run, which was interrupted
            with Adapter.loraInit(model, folder / "lora.gguf") as made:
                ctx.setAdapterLora(made)

        return run

    def pool() -> Operation:
        ctx = context()

        def run() -> None:
            made = Ggml.Threadpool(1)
            ctx.attachThreadpool(made)
            ctx.detachThreadpool()
            made.pause()
            made.free()

        return run

    def tensors() -> Operation:
        def run() -> None:
            with Ggml.Context() as one, Ggml.Context() as two:
                tensor = one.tensor([1.0, 2.0, 3.0])
                result = two.softMax(tensor * 2)
                graph = two.newGraph(16)
                Ggml.buildForwardExpand(graph, result)
                two.graphCompute(graph, 1)
                one.add(tensor, result)  # now each keeps the other
                result.numpy()

        return run

    def computed() -> Operation:
        weights = Ggml.Context(noAlloc=True)
        tensor = weights.tensor([1.0, 2.0, 3.0])

        def run() -> None:
            Ggml.compute(tensor + tensor, nThreads=1)

        return run

    def allocated() -> Operation:
        def run() -> None:
            backend, ctx = Ggml.Backend.cpuInit(), Ggml.Context(noAlloc=True)
            tensor = ctx.newTensor(Ggml.Type.F32, 4)
            ctx.backendAllocTensors(backend)
            work = Ggml.Context(noAlloc=True)
            graph = work.newGraph(16)
            Ggml.buildForwardExpand(graph, work.sqr(tensor.set(2)))
            with Ggml.Gallocr(backend.getDefaultBufferType()) as allocator:
                allocator.allocGraph(graph)
                backend.graphCompute(graph)
            for thing in (ctx, work, backend):
                thing.free()

        return run

    def scheduled() -> Operation:
        backend = Ggml.Backend.cpuInit()

        def run() -> None:
            with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([backend], 64) as sched:
                result = ctx.sqr(ctx.tensor([1.0, 2.0])).setOutput()
                graph = ctx.newGraph(16)
                graph.expand(result)
                sched.graphCompute(graph)
                result.numpy()

        return run

    def custom() -> Operation:
        def run() -> None:
            with Ggml.Context() as ctx:
                a = ctx.tensor([1.0, 2.0])
                Ggml.compute(ctx.mapCustom2(a, a, lambda a, b: a + b), nThreads=1)

        return run

    def training() -> Operation:
        net = Ggml.Context(noAlloc=True)
        inputs = net.tensor([[0.0] * 4] * 4)
        outputs = net.mulMat(net.tensor([[0.1] * 4] * 2).setParam(), inputs)

        def run() -> None:
            with Ggml.OptDataset([[1.0] * 4] * 8, [[1.0, 0.0]] * 8) as data:
                Ggml.Opt.fit(inputs, outputs, data, nEpoch=1, valSplit=0.5)

        return run

    def tuning() -> Operation:
        tuned = Model.load(folder / "llama.gguf", Model.Params(useMmap=False, useExtraBufts=False))

        def run() -> None:
            fineTune(tuned, [5, 6, 7, 8] * 65, nEpoch=1)

        return run

    def generation() -> Operation:
        ctx = context()

        def run() -> None:
            Generation(ctx, "Once", maxTokens=3, logProbs=1).result()

        return run

    def projector_for() -> Mtmd.Context:
        given = Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False)
        return Mtmd.Context.initFromFile(folder / "llava.mmproj", model, given)

    def chat_media() -> Operation:
        chat = ChatSession(context(), template=_TEMPLATE, mtmd=projector_for())
        pixels = [np.full((28, 28, 3), seed, np.uint8) for seed in range(2)]
        file = folder / "media.session"

        def run() -> None:
            chat.messages.clear()
            chat.send(["see", pixels[0], "it"], maxTokens=1).result()
            chat.save(file)
            ChatSession.load(chat._context, file, template=chat.template, mtmd=chat.mtmd, seqId=1)
            chat.send([pixels[1], "it"], maxTokens=1).result()

        return run

    def media() -> Operation:
        ctx, projector = context(), projector_for()
        pixels = [np.full((28, 28, 3), seed, np.uint8) for seed in range(2)]

        def run() -> None:
            projector._embeddings._kept.clear()
            for chosen in (pixels, pixels[:1] * 2):
                prompt = "see <__media__> and <__media__> it"
                Generation(ctx, prompt, media=chosen, mtmd=projector, maxTokens=2).result()

        return run

    def scored() -> Operation:
        ctx = context()
        return lambda: Generation(ctx, "Once upon", maxTokens=0, promptLogProbs=1).result()

    def scores() -> Operation:
        ctx = context()

        def run() -> None:
            score(ctx, " a", "Once")
            choose(ctx, "Once", [" a", " b"])
            perplexity(ctx, [5, 6, 7, 8, 9], nCtx=4, stride=3)

        return run

    def penalized() -> Operation:
        ctx = context()

        def run() -> None:
            dry = Sampler.initDry(model.vocab, 0.5, seqBreakers=["a"])
            with Sampler.chain(
                dry, Sampler.init(Custom()), Sampler.initPenalties(-1, 1.1), Sampler.initGreedy()
            ) as chain:
                Generation(ctx, "Once", maxTokens=2, sampler=chain).result()

        return run

    def guessed() -> Operation:
        ctx = context()

        def run() -> None:
            with DraftModel(model, params=Context.Params(nCtx=64, nThreads=1), adapt=False) as draft:
                Generation(ctx, "Once", maxTokens=3, speculation=draft).result()
            Generation(ctx, "Once Once", maxTokens=3, speculation=PromptLookup(1, adapt=False)).result()

        return run

    def stored() -> Operation:
        ctx = context()
        cache = PromptCache(folder / "prompts", minTokens=2)

        def run() -> None:
            cache.clear()
            for _ in range(2):  # written, and read
                ctx.getMemory().clear()
                Generation(ctx, "Once upon", maxTokens=1, promptCache=cache).result()
                cache.flush()

        return run

    def stepwise() -> Operation:
        ctx = context()

        def run() -> None:
            with Generation(ctx, "Once", maxTokens=3) as made:
                for _ in made.steps():
                    pass
                made.cancel()

        return run

    def asynchronous() -> Operation:
        ctx = context()

        async def read() -> None:
            async with Generation(ctx, "Once", maxTokens=3) as made:
                async for _ in made:
                    pass

        return lambda: asyncio.run(read())

    def chat() -> Operation:
        session = ChatSession(context(), template=ChatTemplate(model, _TEMPLATE))

        def run() -> None:
            session.messages.clear()
            session.send("hi", maxTokens=3).result()

        return run

    def chat_template() -> Operation:
        def run() -> None:
            form = ChatTemplate(model, _TEMPLATE).format([{"role": "user", "content": "hi"}])
            form.parse("hello", partial=True)
            form.parse("hello")

        return run

    def saved_session() -> Operation:
        ctx, file = context(), folder / "session"
        template = ChatTemplate(model, _TEMPLATE)
        first = ChatSession(ctx, template=template)
        first.send("hi", maxTokens=2).result()

        def run() -> None:
            first.save(file)
            ChatSession.load(ctx, file, template=template)

        return run

    def engine_chat() -> Operation:
        made = Engine(model, nCtx=64, nSeqMax=2, nThreads=1)

        def run() -> None:
            request = made.chat([{"role": "user", "content": "hi"}], template=_TEMPLATE, maxTokens=2)
            list(request.events())

        return run

    def engine() -> Operation:
        def run() -> None:
            with Engine(model, nCtx=64, nSeqMax=2, nThreads=1) as made:
                made.submit("Once", maxTokens=2).result()
                made.submit("Once", maxTokens=2)
                made.close(drain=True)

        return run

    def engine_media() -> Operation:
        made = Engine(model, nCtx=128, nSeqMax=2, nThreads=1, mtmd=projector_for())
        pixels = [np.full((28, 28, 3), seed, np.uint8) for seed in range(2)]

        def run() -> None:
            asked = [made.submit("see <__media__> it", media=[one], maxTokens=2) for one in pixels]
            for request in asked:
                request.result()

        return run

    def requests() -> Operation:
        made = Engine(model, nCtx=64, nSeqMax=2, nThreads=1)
        sampler = Sampler.chain(Sampler.initPenalties(8, 1.1), Sampler.init(Custom()), Sampler.initGreedy())

        def run() -> None:
            first = made.submit("Once", maxTokens=3, promptLogProbs=1)
            list(first)
            second = made.submit("Once", maxTokens=30)
            second.cancel()
            second.result()
            made.submit("Once", maxTokens=2, sampler=sampler).result()
            made.submit("Once Once", maxTokens=4, speculation=PromptLookup(1, adapt=False)).result()
            for request in made.continuations("Once", 3, maxTokens=2):
                request.result()

        return run

    def adapted_requests() -> Operation:
        lora = Adapter.loraInit(model, folder / "lora.gguf")
        made = Engine(model, nCtx=64, nSeqMax=2, nThreads=1)

        def run() -> None:
            first = made.submit("Once", maxTokens=2, adapters=[(lora, 1.0)])
            made.submit("Once", maxTokens=2).result()
            first.result()

        return run

    def engine_scores() -> Operation:
        made = Engine(model, nCtx=64, nSeqMax=2, nThreads=1)

        def run() -> None:
            made.score([" a", " b", " c d", " e", " f"], "Once")
            perplexity(made, [5, 6, 7, 8, 9, 10, 11, 12], nCtx=4)

        return run

    def embedder() -> Operation:
        made = Embedder(Model.load(folder / "bert.gguf"), nCtx=32, nThreads=1)
        return lambda: made.embed(["a", "b"])

    def make_embedder() -> Operation:
        bert = Model.load(folder / "bert.gguf")

        def run() -> None:
            with Embedder(bert, nCtx=32, nThreads=1) as made:
                made.embed(["a"])

        return run

    def projector(name: str, **fields: object) -> Mtmd.Context:
        given = Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False, **fields)  # type: ignore[arg-type]
        return Mtmd.Context.initFromFile(folder / f"{name}.mmproj", model, given)

    def make_projector() -> Operation:
        def run() -> None:
            with projector("llava", progressCallback=lambda done: True) as made:
                made.supportVision()
                Mtmd.capabilities(folder / "llava.mmproj")

        return run

    def image() -> Operation:
        made, ctx = projector("llava", cbEval=lambda tensor, ask: False), context()
        pixels = np.zeros((28, 28, 3), np.uint8)

        def run() -> None:
            ctx.getMemory().clear()
            with Mtmd.Bitmap.fromImage(pixels) as bitmap, Mtmd.Bitmap.fromFile(made, folder / "image.ppm") as other:
                bitmap.setId("a")
                chunks = made.tokenize("a <__media__> b <__media__>", [bitmap, other])
                made.evalChunks(ctx, chunks)
                with chunks[1].copy() as part:
                    made.encodeChunk(part)
                    made.decodeImageChunk(ctx, part, made.getOutputEmbd(), chunks.nPos)

        return run

    def sound() -> Operation:
        made, ctx = projector("ultravox"), context()
        samples = np.zeros(1600, np.float32)

        def run() -> None:
            ctx.getMemory().clear()
            chunks = made.tokenize("a <__media__>", [Mtmd.Bitmap.fromAudio(samples)])
            made.evalChunks(ctx, chunks, nBatch=4)

        return run

    def make_llm() -> Operation:
        def run() -> None:
            with load(path, nCtx=64, nThreads=1) as made:
                made.complete("Once", maxTokens=1)
                made.context.getMemory().clear()

        return run

    def llm_complete() -> Operation:
        made = LLM(model, nCtx=64, nThreads=1, template=_TEMPLATE)

        def run() -> None:
            made.complete(["Once", "Twice"], maxTokens=2)
            made.chat("Hi", maxTokens=2)

        return run

    def llm_parts() -> Operation:
        bert = Model.load(folder / "bert.gguf")

        def run() -> None:
            with LLM(bert, nCtx=32, nThreads=1) as made:
                made.embed(["a"])
            with LLM(model, nCtx=64, nThreads=1, template=_TEMPLATE) as made:
                made.session(temperature=0, speculation=PromptLookup(1, adapt=False)).send("Hi", maxTokens=2).result()
                made.score(["a", "b"], "Once")

        return run

    def constraint() -> Operation:
        made, ctx = Constraint.fromJsonSchema({"type": "boolean"}), decoded()

        def run() -> None:
            with Sampler.chain(made.sampler(model.vocab), Sampler.initGreedy()) as chain:
                chain.sample(ctx)

        return run

    def log() -> Operation:
        lines: list[object] = []

        def run() -> None:
            before, _ = logGet()
            logSet(lambda level, text, data: lines.append(text))
            Model.load(path).close()
            logSet(before)
            lines.clear()

        return run

    def backends() -> Operation:
        def run() -> None:
            Ggml.Backend.cpuLoad()
            Ggml.Backend.devices()
            Ggml.Backend.registrations()

        return run

    def header() -> Operation:
        def run() -> None:
            ModelFile.inspect([bytes(path)], {}, False)

        return run

    def callbacks() -> Operation:
        ctx = context()

        def run() -> None:
            ctx.setAbortCallback(lambda: False)
            ctx.getMemory().clear()
            ctx.decode(Batch.getOne([5, 6]))
            ctx.setAbortCallback(None)

        return run

    def save() -> Operation:
        plain = Model.load(path, Model.Params(useExtraBufts=False))

        def run() -> None:
            plain.save(folder / "copy.gguf")

        return run

    def quantize() -> Operation:
        def run() -> None:
            Model.quantize(folder / "bare.gguf", folder / "quantized.gguf", progress=lambda done: None)

        return run

    def gguf() -> Operation:
        weights = np.ones((4, 64), np.float32)

        def run() -> None:
            with Ggml.Gguf.open(folder / "bare.gguf") as file:
                file.metadata["general.name"] = "changed"
                file.tensors.set("new", weights, Ggml.Type.Q4_0)
                next(iter(file.tensors.values())).numpy(dequantize=True)
                next(iter(file.tensors.values())).numpy()
                file.write(folder / "changed.gguf", lambda done: None)

        return run

    def gguf_splits() -> Operation:
        with Ggml.Gguf.open(folder / "bare.gguf") as file:
            count = len(file.tensors)

        def run() -> None:
            with Ggml.Gguf.open(folder / "bare.gguf") as file:
                names = file.split(folder / "part", maxTensors=count // 2 + 1)
            with Ggml.Gguf.merge(names[0]) as file:
                file.write(folder / "merged.gguf")

        return run

    return dict(
        zip(
            NAMES,
            [
                make_model,
                model_with_children,
                save,
                quantize,
                make_context,
                decode,
                encode,
                context_chain,
                callbacks,
                memory,
                state,
                batch,
                batch_ext,
                default_sampler,
                chain_add,
                clone,
                rebuilt,
                sample,
                text,
                adapter,
                pool,
                tensors,
                computed,
                allocated,
                scheduled,
                custom,
                training,
                tuning,
                generation,
                media,
                scored,
                scores,
                penalized,
                stepwise,
                guessed,
                stored,
                asynchronous,
                chat_template,
                chat,
                chat_media,
                saved_session,
                engine,
                engine_media,
                requests,
                adapted_requests,
                engine_scores,
                engine_chat,
                make_embedder,
                embedder,
                make_projector,
                image,
                sound,
                make_llm,
                llm_complete,
                llm_parts,
                constraint,
                log,
                backends,
                header,
                gguf,
                gguf_splits,
            ],
            strict=True,
        )
    )
