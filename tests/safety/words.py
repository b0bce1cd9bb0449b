"""Calls every public function with arguments of the wrong kind, and prints messages that Python itself words.

For a child process: `python -m tests.safety.words FOLDER`. Each parameter in turn gets each of WRONG, while the other
ones that are required have a value that fits; besides, each function gets an unknown keyword, too many arguments, and
none. It prints nothing if every error is the facade's own.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import llama_cffi
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
    Embedder,
    Engine,
    Ggml,
    Model,
    Mtmd,
    PoolingType,
    ProcessType,
    Reranker,
    Sampler,
    SamplerSeqConfig,
    TokenDataArray,
    ToolCall,
    logSet,
)
from llama_cffi._core.explain import PER_TOKEN

BARE = re.compile(
    r"object is not (iterable|subscriptable|callable|a mapping)|has no attribute|unexpected keyword argument|"
    r"takes (no|from|exactly|\d+) .*argument|missing \d+ required|positional argument|has no len|not supported between|"
    r"unsupported operand|bad operand|must be (a )?real number|cannot be interpreted as an integer|"
    r"initializer for ctype|cannot unpack|object cannot be|not enough values|too many values|unhashable type|"
    r"object is not reversible|too large to convert|expected str instance|can only concatenate|descriptor '|"
    r"[Tt]he truth value of|only (length-1|size-1|0-dimensional|integer scalar) arrays|setting an array element|"
    r"ufunc '|could not be broadcast|could not convert|invalid literal|cannot convert|an integer is required|"
    r"Cannot cast|arrays can be converted"
)
"""How CPython, numpy and cffi word a wrong type; an AttributeError with a suggestion of ours has a colon and more."""


class Odd:
    """A value whose every conversion and comparison raises an exception of its own."""

    def _fail(self, *arguments: object) -> Any:
        raise RuntimeError("of one's own")

    __index__ = __int__ = __float__ = __bool__ = __len__ = __iter__ = __getitem__ = __eq__ = __lt__ = __gt__ = _fail
    __le__ = __ge__ = __hash__ = __call__ = __fspath__ = __str__ = __repr__ = __buffer__ = __contains__ = _fail


class Index:
    """An integer that can be converted, and nothing else: neither compared nor passed to C."""

    def __index__(self) -> int:
        return 1


WRONG: dict[str, Callable[[], Any]] = {
    "5": lambda: 5,
    "-1": lambda: -1,
    "2.5": lambda: 2.5,
    "'x'": lambda: "x",
    "b'x'": lambda: b"x",
    "None": lambda: None,
    "[]": list,
    "[None]": lambda: [None],
    "['x']": lambda: ["x"],
    "[[1]]": lambda: [[1]],
    "[5]": lambda: [5],
    "{}": dict,
    "{'a': 1}": lambda: {"a": 1},
    "{1: 'a'}": lambda: {1: "a"},
    "(1, 2)": lambda: (1, 2),
    "object()": object,
    "int": lambda: int,
    "len": lambda: len,
    "iter([])": lambda: iter([]),
    "2**70": lambda: 2**70,
    "nan": lambda: float("nan"),
    "1j": lambda: 1j,
    "10**400": lambda: 10**400,
    "zeros(2)": lambda: np.zeros(2),
    "zeros(0)": lambda: np.zeros(0),
    "zeros(2, int)": lambda: np.zeros(2, np.int64),
    "ones((2, 2))": lambda: np.ones((2, 2)),
    "array([5])": lambda: np.array([5]),
    "array(5)": lambda: np.array(5),
    "array(2.5)": lambda: np.array(2.5),
    "array('x')": lambda: np.array("x"),
    "array([None, 'x'])": lambda: np.array([None, "x"]),
    "int64(5)": lambda: np.int64(5),
    "float32(2.5)": lambda: np.float32(2.5),
    "[zeros(2)]": lambda: [np.zeros(2)],
    "{'a': zeros(2)}": lambda: {"a": np.zeros(2)},
    "Odd()": Odd,
    "[Odd()]": lambda: [Odd()],
    "Index()": Index,
    "[Index()]": lambda: [Index()],
}

SKIPPED = {
    "backendFree": "the rest of the process needs the backends",
    "Completion": "a result",
    "ChatCompletion": "a result",
    "GenerationSteps": "generation.steps makes one",
    "EngineLoad": "a result",
    "EngineTotals": "a result",
    "RequestUsage": "a result",
    "Usage": "a result",
    "Alternative": "a result",
    "GenerationStep": "a result",
    "ParsedAnswer": "a result",
    "SamplerI": "a protocol",
    "EvalTensor": "valid in a callback only",
}
"""Public names without calls here, and why."""


def functions() -> Iterator[tuple[str, Any, str]]:
    """Every public function: its name, the class or None, and its name there ("" for the class itself)."""
    for name in llama_cffi.__all__:
        value = getattr(llama_cffi, name)
        if name in SKIPPED or name in ("ffi", "lib") or not str(getattr(value, "__module__", "")).startswith("llama_"):
            continue
        if inspect.isfunction(value):
            yield name, None, name
        elif isinstance(value, type) and not issubclass(value, BaseException) and not hasattr(value, "__members__"):
            yield from _of_class(name, value)
    for name in Ggml.__all__:
        value = getattr(Ggml, name)
        if inspect.isfunction(value):
            yield f"Ggml.{name}", Ggml, name
        elif name in _GGML_CLASSES:
            yield from _of_class(f"Ggml.{name}", value)
    for name in Mtmd.__all__:
        value = getattr(Mtmd, name)
        if inspect.isfunction(value):
            yield f"Mtmd.{name}", Mtmd, name
        elif name in ("Bitmap", "Chunk", "Chunks", "Context"):
            yield from _of_class(f"Mtmd.{name}", value)


_GGML_CLASSES = (
    *("Backend", "Rpc", "Threadpool", "Gguf", "GgufMetadata", "GgufTensors", "GgufTensor"),
    *("Context", "Tensor", "CGraph", "CPlan", "InitParams", "BackendBuffer", "Gallocr"),
    *("BackendSched", "Opt", "OptDataset", "OptResult", "OptOptimizerParams"),
)


_CALLED = ("progress", "getOptPars", "callback")
"""Parameters that are functions, and called."""


def _of_class(name: str, cls: type) -> Iterator[tuple[str, Any, str]]:
    if name != "Request":  # engine.submit makes one
        yield name, cls, ""
    for attribute in dir(cls):
        found = inspect.getattr_static(cls, attribute)
        if getattr(found, "__module__", "") == "collections.abc":  # the mappings' own `get`, `pop` and so on
            continue
        if attribute[0] != "_" and (inspect.isfunction(found) or isinstance(found, (classmethod, staticmethod))):
            yield f"{name}.{attribute}", cls, attribute
        elif (
            isinstance(found, type) and attribute[0] != "_" and attribute in ("Params", "QuantizeParams", "ChainParams")
        ):
            yield f"{name}.{attribute}", found, ""


class Objects:
    """What methods are called on, and arguments that fit, by the names of parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = tempfile.mkdtemp(dir=folder)
        self.model = Model.load(folder / "llama.gguf")
        self.ctx = Context.initFromModel(self.model, Context.Params(nCtx=64, nThreads=1, nThreadsBatch=1))
        self.bert = Model.load(folder / "bert.gguf")
        self.ranker = Model.load(folder / "ranker.gguf")
        self.engine = Engine(self.model, nCtx=64, nSeqMax=2, nThreads=1)
        self.llm = LLM(self.model, nCtx=64, nThreads=1, template="chatml", poolingType=PoolingType.MEAN)
        self.gctx = Ggml.Context()
        self.tensor = self.gctx.tensor([[1.0, 2.0], [3.0, 4.0]])
        self.net = Ggml.Context(noAlloc=True)
        self.inputs = self.net.tensor([[0.0] * 4] * 4)
        self.outputs = self.net.mulMat(self.net.tensor([[0.1] * 4] * 2).setParam(), self.inputs)
        self.dataset = Ggml.OptDataset([[1.0] * 4] * 8, [[1.0, 0.0]] * 8)
        self.projector = Mtmd.Context.initFromFile(folder / "llava.mmproj", self.model, self.media_params())
        self.bitmap = Mtmd.Bitmap.fromImage(np.zeros((28, 28, 3), np.uint8))
        self.chunks = self.projector.tokenize("a <__media__> b", [self.bitmap])
        self.values: dict[str, Any] = {
            **dict.fromkeys(
                ("i", "idx", "seqId", "seq", "seqIdSrc", "seqIdDst", "destSeqId", "p0", "p1", "pos", "d"), 0
            ),
            **dict.fromkeys(("token", "id", "n", "k", "m", "count", "delta", "nMsg", "len", "flags", "priority"), 1),
            **dict.fromkeys(("p", "t", "target", "tau", "eta", "scale", "dryMultiplier", "temperature", "decay"), 0.5),
            **dict.fromkeys(("text", "query", "message", "result", "key", "name", "prompt", "schema", "root"), "a"),
            "tokens": [1, 2],
            "stopTokens": [1, 2],
            "seqIds": [0],
            "texts": ["a"],
            "documents": ["a"],
            "messages": [ChatMessage("user", "a")],
            **dict.fromkeys(("path", "filepath", "source"), str(folder / "llama.gguf")),
            "paths": [str(folder / "llama.gguf")],
            "target": os.path.join(self.scratch, "out"),
            "vocab": self.model.vocab,
            "nVocab": self.model.vocab,
            "model": self.model,
            "ctx": self.ctx,
            "grammar": 'root ::= "a"',
            "grammarStr": 'root ::= "a"',
            "pattern": "a",
            "logitBias": {1: 1.0},
            "penaltyLastN": 4,
            "nTokens": 1,
            "type": ProcessType.DECODE,
            "cand": TokenDataArray([(1, 0.5)]),
            "iface": type("S", (), {"apply": lambda self, candidates: None})(),
            "logits": [0.0, 1.0],
            "sampler": Sampler.initGreedy(),
            "rows": [(1, 0.5)],
            "embd": [0.0] * 64,
            "role": "user",
            "content": "a",
            "chat": [ChatMessage("user", "a")],
            "call": ToolCall("f", {}, "1"),
            "timeout": 0.01,
            "graph": self.graph(),
            "cplan": self.graph().plan(1),
            "tensor": self.tensor,
            "node": self.tensor,
            "backend": Ggml.Backend.cpuInit(),
            "bufferType": Ggml.BackendDevice.get(0).bufferType(),
            "backends": [Ggml.Backend.cpuInit()],
            "inputs": self.inputs,
            "outputs": self.outputs,
            "dataset": self.dataset,
            "measureGraph": self.graph(),
            "image": np.zeros((2, 2, 3), np.uint8),
            "samples": [0.0] * 9,
            "media": [self.bitmap],
            "chunk": self.chunks[1],
            "chunks": self.chunks,
            "encodedEmbd": [0.0] * 9,
        }

        out = os.path.join(self.scratch, "out")
        self.saves = {"path": out, "filepath": out}  # for functions that write

    def of(self, cls: type, name: str) -> Any:
        """An object of a class to call a method on; a new one where a call may end it."""
        makers: dict[str, Callable[[], Any]] = {
            "Model": lambda: Model.load(self.folder / "llama.gguf") if name in ("close", "free") else self.model,
            "Context": lambda: Context.initFromModel(self.model, Context.Params(nCtx=64, nThreads=1)),
            "Vocab": lambda: self.model.vocab,
            "Memory": lambda: self.ctx.getMemory(),
            "Sampler": lambda: Sampler.chain(Sampler.initPenalties(4), Sampler.initGreedy()),
            "Adapter": lambda: Adapter.loraInit(self.model, self.folder / "lora.gguf"),
            "Batch": lambda: Batch.init(4, 0, 1),
            "BatchExt": lambda: BatchExt.init(self.ctx),
            "TokenDataArray": lambda: TokenDataArray([(1, 0.5), (2, 0.25)]),
            "Generation": lambda: llama_cffi.Generation(self.ctx, [1, 2], maxTokens=1),
            "ChatAnswer": lambda: ChatSession(self.ctx, template="chatml").send("a", maxTokens=1),
            "ChatSession": lambda: ChatSession(self.ctx, template="chatml"),
            "ChatTemplate": lambda: ChatTemplate(self.model, "chatml"),
            "AnswerFormat": lambda: ChatTemplate(self.model, "chatml").format([{"role": "user", "content": "a"}]),
            "Constraint": lambda: Constraint.fromGbnf('root ::= "a"'),
            "Embedder": lambda: Embedder(self.bert, nThreads=1),
            "Reranker": lambda: Reranker(self.ranker, nThreads=1),
            "Engine": lambda: self.engine,
            "PromptCache": lambda: llama_cffi.PromptCache(Path(self.scratch, "prompts")),
            "Request": lambda: self.engine.submit([1, 2], maxTokens=1),
            "LLM": lambda: LLM(self.model, nCtx=64, nThreads=1, template="chatml") if name == "close" else self.llm,
            "DraftModel": lambda: DraftModel(self.model),
            "SamplerSeqConfig": lambda: SamplerSeqConfig(0, Sampler.chain(Sampler.initGreedy())),
            "Ggml.Threadpool": lambda: Ggml.Threadpool(1),
            "Ggml.Gguf": lambda: Ggml.Gguf.open(self.folder / "llama.gguf"),
            "Ggml.GgufMetadata": lambda: Ggml.Gguf.open(self.folder / "llama.gguf").metadata,
            "Ggml.GgufTensors": lambda: Ggml.Gguf.open(self.folder / "llama.gguf").tensors,
            "Ggml.Backend": Ggml.Backend.cpuInit,
            "Ggml.Context": lambda: Ggml.Context() if name in ("close", "free") else self.gctx,
            "Ggml.Tensor": lambda: self.gctx.tensor([[1.0, 2.0]]),
            "Ggml.CGraph": self.graph,
            "Ggml.CPlan": lambda: self.graph().plan(1),
            "Ggml.BackendBuffer": lambda: Ggml.BackendBuffer.alloc(Ggml.BackendDevice.get(0).bufferType(), 64),
            "Ggml.Gallocr": lambda: Ggml.Gallocr(Ggml.BackendDevice.get(0).bufferType()),
            "Ggml.BackendSched": lambda: Ggml.BackendSched([Ggml.Backend.cpuInit()], 16),
            "Ggml.Opt": lambda: Ggml.Opt(self.inputs, self.outputs),
            "Ggml.OptDataset": lambda: Ggml.OptDataset([[1.0] * 4] * 8),
            "Ggml.OptResult": Ggml.OptResult,
            "Ggml.OptOptimizerParams": Ggml.OptOptimizerParams,
            "Mtmd.MtmdContext": lambda: (
                Mtmd.Context.initFromFile(self.folder / "llava.mmproj", self.model, self.media_params())
                if name in ("close", "free")
                else self.projector
            ),
            "Mtmd.Bitmap": lambda: Mtmd.Bitmap.fromImage(np.zeros((2, 2, 3), np.uint8)),
            "Mtmd.Chunks": lambda: self.projector.tokenize("a"),
            "Mtmd.Chunk": lambda: self.chunks[1].copy(),
            "Ggml.GgufTensor": lambda: Ggml.Gguf.open(self.folder / "llama.gguf").tensors["output_norm.weight"],
        }
        homes = {"llama_cffi.ggml.": "Ggml.", "llama_cffi.mtmd.": "Mtmd."}
        home = next((home for start, home in homes.items() if cls.__module__.startswith(start)), "")
        return makers[home + cls.__name__]()

    def media_params(self) -> Any:
        """Parameters of a projector."""
        return Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False)

    def graph(self) -> Any:
        """A graph of one node."""
        graph = self.gctx.newGraph(8, grads=True)
        graph.expand(self.gctx.sum(self.tensor))
        return graph


def calls(objects: Objects) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every call, with its text."""
    for name, cls, attribute in functions():
        if name in ("Engine.close", "Ggml.Rpc.startServer", "Ggml.abort"):
            continue
        module = cls in (None, Ggml, Mtmd)
        target = None if module else (lambda cls=cls, attribute=attribute: _target(objects, cls, attribute))
        function = getattr(cls or llama_cffi, attribute) if target is None else target()
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError:
            continue
        values = objects.values | (objects.saves if "save" in name.lower() or name == "Ggml.Gguf.write" else {})
        if name.startswith("Mtmd."):
            values |= {"path": str(objects.folder / "llava.mmproj"), "ctx": objects.ctx, "data": b"P6 1 1 255 abc"}
            values |= {"ctx": objects.projector} if ".Bitmap." in name else {}
        if name.startswith("Ggml."):
            values |= {"type": Ggml.Type.F32, "ctx": objects.gctx, "context": objects.gctx}
        fitting = {
            one.name: objects.tensor if one.annotation in ("T", "Tensor") else values.get(one.name, 1)
            for one in parameters
            if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        }

        def call(
            arguments: tuple[Any, ...], keywords: dict[str, Any], target: Any = target, function: Any = function
        ) -> Any:
            return (function if target is None else target())(*arguments, **keywords)

        if attribute not in PER_TOKEN:
            yield f"{name}(bogus=1)", lambda call=call, fitting=fitting: call((), {**fitting, "bogus": 1})
            most = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
            for n in (most + 1, 40):
                yield f"{name}(*[1] * {n})", lambda call=call, n=n: call((1,) * n, {})
            yield f"{name}()", lambda call=call: call((), {})
        for one in parameters:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
                for text, wrong in WRONG.items():
                    if one.kind is not one.VAR_KEYWORD:
                        yield f"{name}({text})", lambda call=call, wrong=wrong: call((wrong(),), {})
                continue
            for text, wrong in WRONG.items():
                if one.name in _CALLED and text == "len":  # a function, whose own error it is
                    continue
                yield (
                    f"{name}({one.name}={text})",
                    lambda call=call, fitting=fitting, one=one, wrong=wrong: call((), {**fitting, one.name: wrong()}),
                )


def _target(objects: Objects, cls: type, attribute: str) -> Any:
    if not attribute:
        return cls
    if isinstance(inspect.getattr_static(cls, attribute), (classmethod, staticmethod)):
        return getattr(cls, attribute)
    return getattr(objects.of(cls, attribute), attribute)


class Hung(BaseException):
    """Raised in a call that takes too long."""


def finding(error: BaseException) -> str:
    """What is wrong with an error, or ""."""
    text = str(error)
    if isinstance(error, AttributeError) and not hasattr(error, "_hint"):
        return "AttributeError"
    if isinstance(error, (NameError, AssertionError, RecursionError, UnboundLocalError, StopIteration)):
        return "of the facade's own code"
    found = BARE.search(text)
    return f"{found[0]!r}" if found and not hasattr(error, "_hint") else ""


def main(folder: Path) -> int:
    logSet(lambda level, text, data: None)
    objects = Objects(folder)
    count = 0
    os.chdir(objects.scratch)
    threading.excepthook = lambda args: None
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Hung()))
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    for text, call in calls(objects):
        if only not in text:
            continue
        count += 1
        signal.alarm(10)
        try:
            result = call()
            if inspect.isgenerator(result):
                result.close()
        except Hung:
            print(f"{text}: it took more than 10 s")
        except BaseException as error:
            problem = finding(error)
            if problem:
                print(f"{text}: {type(error).__name__}: {error}".replace("\n", " ")[:300])
        finally:
            signal.alarm(0)
            if text.startswith("Ggml.setAbortCallback"):
                Ggml.setAbortCallback(None)
    objects.engine.close()
    objects.llm.close()
    print(f"{count} calls", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
