"""Uses that a type checker must refuse: every line marked `# wrong`, and no other. Never executed."""

from __future__ import annotations

from llama_cffi import (
    LLM,
    Adapter,
    Batch,
    ChatCompletion,
    ChatSession,
    ChatTemplate,
    Completion,
    Constraint,
    Context,
    Embedder,
    Engine,
    Generation,
    Ggml,
    Model,
    Request,
    Reranker,
    Sampler,
    SplitMode,
    StopReason,
    detokenize,
    load,
    tokenize,
)

model = Model.load("model.gguf")
ctx = Context.initFromModel(model)
sampler = Sampler.initGreedy()

tokenize(model, "Hello")  # wrong: a model where a vocab belongs
tokenize(model.vocab, 5)  # wrong: a number where text belongs
tokenize(model.vocab, "Hello", 5, bytearray(64))  # wrong: a buffer without its length
detokenize(model.vocab, 5)  # wrong: one token where tokens belong
Context.initFromModel(model.vocab)  # wrong: a vocab where a model belongs
Context.initFromModel(model, Model.Params())  # wrong: the other class's parameters
Model.Params().nGpuLayer  # wrong: misspelt
Model.Params().nGpuLayer = 1  # wrong: misspelt
Model.Params(nGpuLayer=1)  # wrong: misspelt
Context.Params(nCtx="many")  # wrong: text where a number belongs
Context.Params(cbEval=5)  # wrong: a number where a function belongs
Model.load("model.gguf", nGpuLayers=1)  # wrong: parameters go into Params
ctx.decode([1, 2, 3])  # wrong: tokens where a batch belongs
ctx.decodes(Batch.getOne([1]))  # wrong: misspelt
sampler.sample(model, -1)  # wrong: a model where a context belongs
sampler.chainAdd(Sampler.initTopK)  # wrong: a function where a sampler belongs
Sampler.chain(Sampler.initTopK(40), "greedy")  # wrong: text where a sampler belongs
Sampler.initTopP("0.9")  # wrong: text where a number belongs
Batch.init("8", 0, 1)  # wrong: text where a number belongs
ctx.setAdapterLora(model, 1.0)  # wrong: a model where an adapter belongs
Adapter.loraInit(ctx, "lora.gguf")  # wrong: a context where a model belongs
model.nEmbd()  # wrong: a property is no function
SplitMode.ROWS  # wrong: misspelt
Ggml.Type.F61  # wrong: misspelt
Context.free("ctx")  # wrong: text where a context belongs
Generation(model, "Hello")  # wrong: a model where a context belongs
Generation(ctx, 5)  # wrong: a number where a prompt belongs
Generation(ctx, "Hello", maxToken=5)  # wrong: misspelt
Generation(ctx, "Hello", overflow="drop")  # wrong: what only a chat can do
Generation(ctx, "Hello", stopTokens=["###"])  # wrong: text where tokens belong
Engine(ctx)  # wrong: a context where a model belongs
Engine(model).submit(5)  # wrong: a number where a prompt belongs
Engine(model).submit("Hello", maxToken=5)  # wrong: misspelt
Engine(model).submit("Hello").cancelled  # wrong: misspelt
ChatTemplate(ctx)  # wrong: a context where a model belongs
ChatSession(ctx).send(5)  # wrong: a number where a message belongs
ChatSession(ctx, overflow="shift")  # wrong: what only a generation can do
Embedder(ctx)  # wrong: a context where a model belongs
Embedder(model, "MEAN")  # wrong: text where a PoolingType belongs
Embedder(model).embed([1, 2])  # wrong: tokens where texts belong
Reranker(model).rank("query", 5)  # wrong: a number where documents belong
Constraint.fromRegex(b"a")  # wrong: bytes where text belongs
Constraint.fromJsonSchema([])  # wrong: a list where a schema belongs
Constraint.fromRegex("a").sampler(model)  # wrong: a model where a vocab belongs

load("model.gguf", n_ctx=3)  # wrong: nCtx
load("model.gguf", nCtx="many")  # wrong: text where a number belongs
LLM(model, nGpuLayers=3)  # wrong: the model is loaded already
LLM(model).complete("Hello", max_tokens=3)  # wrong: maxTokens
LLM(model).chat(5)  # wrong: a number where messages belong
LLM(model).chat("Hello", topK="a")  # wrong: text where a number belongs
streamed: str = LLM(model).complete("Hello", stream=True)  # wrong: a request, which becomes a text
listed: str = LLM(model).complete(["Hello"])  # wrong: a list of texts

piece: str = Engine(model).submit("Hello")  # wrong: a request, which becomes a text
name: str = model.metaValStr("general.name")  # wrong: may be None
count: str = tokenize(model.vocab, "Hello", 5, bytearray(64), 16)  # wrong: with a buffer, a number comes back
layers: str = Model.Params().nGpuLayers  # wrong: a number
reason: str = Generation(ctx, "Hello").stopReason  # wrong: a StopReason or None
number: int = Constraint.fromRegex("a").parse("a")  # wrong: the text
session: ChatSession = Constraint.fromType(StopReason).parse("1")  # wrong: a value of the type

# And the same, right.
pieces: list[str] = list(Generation(ctx, tokenize(model.vocab, "Hello"), stop=["###"], stopTokens={1}))
why: StopReason | None = ChatSession(ctx).send({"role": "user", "content": "Hello"}).stopReason
tokens: list[int] = tokenize(model.vocab, "Hello")
written: int = tokenize(model.vocab, "Hello", 5, bytearray(64), 16, True, True)
text: str = detokenize(model.vocab, tokens)
also: int = detokenize(model.vocab, [1], 1, bytearray(8), 8, 0, 0)
value: str | None = model.metaValStr("general.name")
code: int = ctx.decode(Batch.getOne(tokens))
token: int = sampler.sample(ctx, -1)
match: str = Constraint.fromRegex("a").parse("a")
stop: StopReason = Constraint.fromType(StopReason).parse("1")
numbers: list[int] = Constraint.fromType(list[int]).parse("[1]")
either: int | str = Constraint.fromType(int | str).parse("1")
found: dict[str, int] = Constraint.fromJsonSchema({}).parse("{}")
llm: LLM = load("model.gguf", nCtx=4096, nGpuLayers=20, template="chatml")
done: Completion = llm.complete("Hello", maxTokens=3, temperature=0)
lines: list[Completion] = llm.complete(["Hello"], stop=["x"])
running: Request = llm.complete([1, 2], stream=True)
answer: ChatCompletion = llm.chat([{"role": "user", "content": "Hello"}], topP=0.9)
