"""llama.cpp for Python: the object-oriented API of the specification, over the whole C API (`llama_cffi.lib`).

Importing the package alone loads nothing. The compiled extension is loaded with the first name that needs it: any name
but the errors, the enumerations and the parser of tool calls. If the extension is missing or broken, that use raises
ImportError: `from llama_cffi import Model` does, `import llama_cffi` does not.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__version__ = "0.1.0"

if sys.platform != "linux":
    raise ImportError(
        f"llama_cffi runs on Linux only, and this Python is built for {sys.platform}: use WSL 2 on Windows, or a Linux "
        "virtual machine or container on macOS"
    )

# Module -> the public names in it. A module is loaded when one of its names is first used: a program pays for what it
# needs, and modules that need no native code can be used (by the doctor, by unit tests) without the extension.
# `__init__.pyi` has the same names for type checkers.
_MODULES: dict[str, tuple[str, ...]] = {
    "_core.ffi": ("ffi", "lib"),
    "ggml": ("Ggml",),
    "mtmd": ("Mtmd",),
    "context.outputs": ("PerfContextData",),
    "context.compute_callbacks": ("EvalTensor",),
    "sampling.interface": ("SamplerI",),
    "_generated.enums": (
        "AttentionType",
        "FlashAttnType",
        "Ftype",
        "LazyMode",
        "LoadMode",
        "ModelMetaKey",
        "PoolingType",
        "ProcessType",
        "RopeScalingType",
        "RopeType",
        "SplitMode",
        "TokenAttr",
        "VocabType",
    ),
    "generation.default_sampler": ("defaultSampler",),
    "generation.draft_model": ("DraftModel",),
    "generation.prompt_cache.cache": ("PromptCache", "PromptCacheTotals"),
    "generation.prompt_lookup": ("PromptLookup",),
    "generation.score": ("Score",),
    "generation.steps": ("Alternative", "GenerationStep", "StopReason", "Usage"),
    "model.params": ("TensorBuftOverride",),
    "sampling.chain": ("PerfSamplerData",),
    "model.adapter": ("Adapter",),
    "context.batch": ("Batch",),
    "context.batch_ext": ("BatchExt",),
    "chat.apply_template": ("ChatMessage", "chatApplyTemplate", "chatBuiltinTemplates"),
    "chat.answer": ("ChatAnswer",),
    "chat.answer_format": ("AnswerFormat",),
    "chat.events": ("ChatEvent",),
    "chat.session": ("ChatSession",),
    "chat.template": ("ChatTemplate",),
    "constrain.constraint": ("Constraint",),
    "context.context": ("Context",),
    "context.fine_tune": ("fineTune",),
    "embedding.embedding": ("Embedder", "Reranker"),
    "engine.engine": ("Engine", "EngineLoad", "EngineTotals", "Request", "RequestUsage"),
    "errors": (
        "AdapterError",
        "BusyError",
        "ClosedError",
        "ContextError",
        "ContextFullError",
        "DecodeError",
        "ForkError",
        "GrammarError",
        "LlamaError",
        "ModelLoadError",
        "NativeAssertionError",
        "NativeError",
        "NativeMemoryError",
        "QueueFullError",
        "RpcError",
        "StateError",
        "UnavailableError",
    ),
    "generation.generation": ("Generation", "GenerationSteps"),
    "llm.completion": ("ChatCompletion", "Completion"),
    "llm.llm": ("LLM",),
    "llm.load": ("load",),
    "log": ("logGet", "logSet"),
    "context.memory": ("Memory",),
    "model.model": ("Model",),
    "sampling.sampler": ("Sampler",),
    "scoring.perplexity": ("Perplexity", "perplexity"),
    "scoring.score": ("Choice", "choose", "score"),
    "context.samplers": ("SamplerSeqConfig",),
    "system": (
        "backendFree",
        "backendInit",
        "flashAttnTypeName",
        "ftypeName",
        "loadModeFromStr",
        "loadModeName",
        "maxDevices",
        "maxParallelSequences",
        "maxTensorBuftOverrides",
        "numaInit",
        "printSystemInfo",
        "splitPath",
        "splitPrefix",
        "supportsGpuOffload",
        "supportsMlock",
        "supportsMmap",
        "supportsRpc",
        "timeUs",
        "version",
    ),
    "vocab.infill": ("infillPrompt",),
    "vocab.tokenize": ("detokenize", "tokenize"),
    "sampling.token_data": ("TokenData",),
    "sampling.token_data_array": ("TokenDataArray",),
    "_core.base_types": ("DEFAULT_SEED", "Pos", "ProgressCallback", "SeqId", "TOKEN_NULL", "Token"),
    "chat.tool_calls": ("ParsedAnswer", "ToolCall", "ToolFormat", "parseToolCalls"),
    "vocab.vocab": ("Vocab",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        _unknown(name)
    __import__(f"{__name__}.{home}")  # `importlib` would be one more module to import
    module = sys.modules[f"{__name__}.{home}"]
    value = module if name in ("Ggml", "Mtmd") else getattr(module, name)
    if home not in _PLAIN:
        from llama_cffi._core.explain import explain

        value = explain(value)
        _explain_loaded(explain)
    return globals().setdefault(name, value)  # the first one, if two threads look it up at once


def _explain_loaded(explain: Any) -> None:
    """Explain the classes that other modules have loaded too: a Model has a Vocab, for example."""
    for home, names in _MODULES.items():
        module = sys.modules.get(f"{__name__}.{home}")
        if module is not None and home not in _explained and home not in ("ggml", "mtmd"):
            for name in names:
                if isinstance(getattr(module, name, None), type):
                    explain(getattr(module, name))
            _explained.add(home)


_PLAIN = ("_core.ffi", "_core.base_types", "errors", "_generated.enums")  # without classes of the facade
_explained: set[str] = set(_PLAIN)


def _unknown(name: str) -> NoReturn:
    """Raise AttributeError for a name that the package lacks; ImportError for `from llama_cffi import name`.

    Python would turn an AttributeError into an ImportError without the hint, so the caller's instruction is looked at.
    """
    if name[:2] == "__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llama_cffi._core.explain import unknown

    error = unknown(f"module {__name__!r} has no attribute {name!r}", sys.modules[__name__], name)
    caller = sys._getframe(2)
    if caller.f_lasti >= 0:
        from opcode import opname

        if opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM":
            raise ImportError(f"cannot import name {name!r} from {__name__!r}: {error}", name=__name__, path=__file__)
    raise error


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name[:2] == "__")})
