"""What is done with a hostile file: all that a program would do with a good one, on two threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from llama_cffi import Adapter, Batch, Context, Ggml, Model, Mtmd, PoolingType, Sampler, detokenize, ffi, tokenize
from llama_cffi.errors import LlamaError, NativeError
from tests.hostile import bases, media

# What a hostile file may raise. Anything else is an accident of the facade's, and counts as one.
WELCOME = (LlamaError, ValueError, OSError, MemoryError)
TEXT = "Hello world, yes! \N{GRINNING FACE} 1234 the"


class Trials:
    """Runs one step after the other, whether or not the one before raised."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        try:
            yield
        except WELCOME as error:
            self.errors.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")


def run(kind: str, base: str, files: list[Path], models: Callable[[str], Model]) -> list[str]:
    """Use the files of a case; return what was raised, step by step."""
    trials = Trials()
    if kind == "model":
        _model(trials, files)
    elif kind == "adapter":
        _adapter(trials, models(base), files[0])
    elif kind == "gguf":
        _gguf(trials, files[0])
    elif kind in ("projector", "trusted"):
        model, warmup = models(media.PROJECTORS[base]), files[0].stat().st_size % 2 == 0
        media.use_projector(trials.step, model, files[0], warmup, untrusted=kind == "projector")
    elif kind == "media":
        media.use_file(trials.step, _projector(base, models, files[0].parent), files[0])
    elif kind == "death":  # to see that it is noticed
        os.abort()
    else:
        _state(trials, kind, models(base), files[0])
    return trials.errors


_projectors: dict[str, Mtmd.Context] = {}


def _projector(base: str, models: Callable[[str], Model], folder: Path) -> Mtmd.Context:
    """A good projector, which all files share."""
    if base not in _projectors or _projectors[base].closed:
        model = models(media.PROJECTORS[base])
        _projectors[base] = Mtmd.Context.initFromFile(folder / f"{base}.mmproj", model, media.params())
    return _projectors[base]


def _model(trials: Trials, files: list[Path]) -> None:
    with trials.step("load"), Model.load(files[0]) as model:
        with trials.step("describe"):
            _describe(model)
        tokens: list[int] = []
        with trials.step("tokenize"):
            tokens = _tokenize(model)
        tokens = [token for token in [*tokens, *bases.PROMPT] if token < model.vocab.nTokens][:24] or [0]
        for embeddings, pooling in ((False, None), (True, PoolingType.NONE), (True, None)):
            with trials.step(f"context with embeddings={embeddings} and pooling {pooling}"):
                params = Context.Params(nThreads=2, nThreadsBatch=2, embeddings=embeddings)
                if pooling is not None:
                    params.poolingType = pooling
                with Context.initFromModel(model, params) as ctx:
                    _compute(trials, ctx, tokens, embeddings)
        with trials.step("save"):
            _save(model, files[0].with_suffix(".saved"))


def _describe(model: Model) -> None:
    for i in range(model.metaCount):
        key = model.metaKeyByIndex(i)
        model.metaValStrByIndex(i)
        if key:
            model.metaValStr(key)
    for name in ("nCtxTrain", "nEmbd", "nLayer", "nHead", "nHeadKv", "nEmbdInp", "nEmbdOut", "nLayerNextn", "nSwa"):
        getattr(model, name)
    for name in ("nClsOut", "ropeType", "ropeFreqScaleTrain", "size", "nParams", "ftype", "decoderStartToken"):
        getattr(model, name)
    for name in ("hasEncoder", "hasDecoder", "isRecurrent", "isHybrid", "isDiffusion"):
        getattr(model, name)
    model.desc()
    model.chatTemplate()
    for i in range(min(model.nClsOut, 8)):
        model.clsLabel(i)


def _tokenize(model: Model) -> list[int]:
    vocab = model.vocab
    for name in ("bos", "eos", "eot", "sep", "nl", "pad", "mask", "fimPre", "fimSuf", "fimMid", "fimPad"):
        getattr(vocab, name)
    vocab.getAddBos(), vocab.getAddEos(), vocab.getAddSep(), vocab.getSuppressTokens()
    for token in range(min(vocab.nTokens, 400)):
        vocab.getText(token), vocab.getScore(token), vocab.getAttr(token), vocab.isEog(token), vocab.isControl(token)
        vocab.tokenToPiece(token, special=True)
    detokenize(vocab, list(range(min(vocab.nTokens, 400))))
    tokenize(vocab, TEXT, parseSpecial=True)
    return tokenize(vocab, TEXT, addSpecial=True)


def _compute(trials: Trials, ctx: Context, tokens: list[int], embeddings: bool) -> None:
    """Prompts and single tokens, encoded and decoded, and a chain of samplers over what comes out."""
    decodes = ctx.getMemory()._pointer != ffi.NULL
    if ctx.getModel().hasEncoder or not decodes:
        with trials.step("encode"):
            ctx.encode(Batch.getOne(tokens))
            if embeddings:  # an encoder gives no logits
                _read(ctx, embeddings)
    if not decodes:
        return
    with trials.step("decode"):
        ctx.decode(Batch.getOne(tokens))
        _read(ctx, embeddings)
        chain = Sampler.chainInit()
        for sampler in (
            Sampler.initPenalties(32, 1.1),
            Sampler.initTopK(40),
            Sampler.initTypical(0.9, 1),
            Sampler.initTopP(0.95, 1),
            Sampler.initMinP(0.01, 1),
            Sampler.initTemp(0.8),
            Sampler.initDist(1),
        ):
            chain.chainAdd(sampler)
        for _ in range(2):
            token = chain.sample(ctx)
            ctx.decode(Batch.getOne([token]))
    with trials.step("state"):
        ctx.stateGetData()
    with trials.step("memory"):
        ctx.getMemory().seqRemove(0, 4, -1)
        ctx.decode(Batch.getOne(tokens[:2]))


def _read(ctx: Context, embeddings: bool) -> None:
    if not embeddings:
        sum(ctx.getLogitsIth())
    elif ctx.poolingType == PoolingType.NONE:
        sum(ctx.getEmbeddingsIth())
    else:
        sum(ctx.getEmbeddingsSeq(0))


def _save(model: Model, path: Path) -> None:
    try:
        model.save(path)
    except NativeError as error:
        if "useExtraBufts" not in str(error):  # quantized weights that were repacked: no fault of the file
            raise


def _adapter(trials: Trials, model: Model, file: Path) -> None:
    with trials.step("load"), Adapter.loraInit(model, file) as adapter:
        for i in range(adapter.metaCount):
            adapter.metaValStr(adapter.metaKeyByIndex(i) or "")
        adapter.metaValStrByIndex(0)
        adapter.getAloraInvocationTokens()
        with bases.context(model) as ctx:
            with trials.step("attach"):
                ctx.setAdapterLora(adapter, 0.5)
            with trials.step("decode"):
                for tokens in (bases.PROMPT, [7]):
                    ctx.decode(Batch.getOne(tokens))
                sum(ctx.getLogitsIth())


def _gguf(trials: Trials, file: Path) -> None:
    """All that a program would do with the file as a file; what is written must be valid."""
    saved = file.with_suffix(".saved")
    with trials.step("open"), Ggml.Gguf.open(file) as gguf:
        dict(gguf.metadata), repr(gguf), [gguf.metadata.type(key) for key in gguf.metadata]
        for tensor in gguf.tensors.values():
            with trials.step("numpy"):
                tensor.numpy().sum(), tensor.numpy(dequantize=True).sum()
        with trials.step("copy"):
            gguf.write(saved)
            assert saved.read_bytes() == file.read_bytes()
        with trials.step("change"):
            gguf.metadata["changed"] = 1
            if gguf.tensors:
                gguf.tensors.remove(next(iter(gguf.tensors)))
            gguf.tensors.set("new", [1.0] * 64, Ggml.Type.Q8_0)
            gguf.write(saved)
            _reopened(saved, list(gguf.tensors))
        with trials.step("split"):
            for name in gguf.split(saved.with_suffix(".part"), maxTensors=9):
                _reopened(Path(name), None)
        if "split.count" in gguf.metadata:
            with trials.step("merge"):
                Ggml.Gguf.merge(file).write(saved)
                _reopened(saved, None)


def _reopened(file: Path, names: list[str] | None) -> None:
    try:
        with Ggml.Gguf.open(file) as gguf:
            assert names is None or list(gguf.tensors) == names
    except WELCOME as error:
        raise AssertionError(f"what was written is not valid: {error}") from error


def _state(trials: Trials, kind: str, model: Model, file: Path) -> None:
    """The state goes to contexts that fit, that have seen something, and that do not fit."""
    data = file.read_bytes()
    for name, n_ctx, n_seq, used in (("fresh", 64, 2, False), ("used", 64, 2, True), ("small", 16, 1, False)):
        with bases.context(model, n_ctx, n_seq) as ctx:
            if model.hasEncoder:
                ctx.encode(Batch.getOne(bases.PROMPT[:4]))
            if used:
                ctx.decode(Batch.getOne(bases.PROMPT[:4]))
            seq = min(1, ctx.nSeqMax - 1)
            with trials.step(f"load into a {name} context"):
                match kind:
                    case "state":
                        ctx.stateSetData(data)
                    case "state-file":
                        ctx.stateLoadFile(file)
                    case "sequence":
                        ctx.stateSeqSetData(data, None, seq)
                    case "sequence-file":
                        ctx.stateSeqLoadFile(file, seq)
            with trials.step(f"go on in a {name} context"):
                _go_on(trials, ctx)


def _go_on(trials: Trials, ctx: Context) -> None:
    memory = ctx.getMemory()
    with trials.step("positions"):
        for seq in range(ctx.nSeqMax):
            memory.seqPosMin(seq), memory.seqPosMax(seq)
    for seq in range(ctx.nSeqMax):
        with trials.step("decode"):
            batch = Batch.init(1, 0, 1)
            batch.add(7, min(max(0, memory.seqPosMax(seq) + 1), (1 << 31) - 1), [seq], True)
            ctx.decode(batch)
            sum(ctx.getLogitsIth())
    with trials.step("decode without positions"):
        ctx.decode(Batch.getOne([7, 8]))
    with trials.step("move"):
        if memory.canShift():
            memory.seqAdd(0, 2, -1, 1)
            ctx.decode(Batch.getOne([7]))
    with trials.step("copy"):
        if ctx.nSeqMax > 1:
            memory.seqCopy(0, 1)
            memory.seqKeep(1)
    with trials.step("save"):
        ctx.stateGetData()
        ctx.stateSeqGetData(seqId=0)
    with trials.step("clear"):
        memory.seqRemove(0)
        memory.clear()
        ctx.decode(Batch.getOne([7]))
