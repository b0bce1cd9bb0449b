"""The words of `explain`: where a keyword argument or an attribute belongs. Imported to show an error only."""

from __future__ import annotations

import enum
import inspect
import os
import re
import sys
from typing import Any

from llama_cffi._core.annotations import wrong_type
from llama_cffi._generated.names import FUNCTIONS
from llama_cffi._suggest import did_you_mean, near

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

# How Python, numpy and cffi word a value of the wrong type, which says neither whose it is nor what to do.
_BARE = re.compile(
    r"object is not |object cannot be|has no attribute|has no len|not supported between|unsupported operand|"
    r"bad operand|must be real number|a real number|initializer for ctype|cannot unpack|unhashable type|"
    r"argument must be|can only concatenate|arguments? (are|is) required|not iterable|expected str instance|"
    r"sequence item|indices must be|"
    r"[Tt]he truth value of|arrays can be converted|an array element with a sequence|ufunc '|could not be broadcast|"
    r"invalid literal for|could not convert|an integer is required"
)

_SAMPLER = "a sampler decides that: Generation, Engine.submit and ChatSession.send take sampler="
_NUMBERS = f"llm.complete, llm.chat and llm.session take it; {_SAMPLER}"
_GRAMMAR = "pass sampler=Sampler.chain(Constraint.fromGbnf(text).sampler(vocab), Sampler.initDist())"

# Keyword arguments of other libraries, in lower case and without underscores, and what does that here.
_KEYWORDS = {
    "temperature": _NUMBERS + "defaultSampler(temperature=...)",
    "temp": _NUMBERS + "defaultSampler(temperature=...)",
    "seed": _NUMBERS + "defaultSampler(seed=...)",
    "topk": _NUMBERS + "defaultSampler(topK=...)",
    "topp": _NUMBERS + "defaultSampler(topP=...)",
    "minp": _NUMBERS + "defaultSampler(minP=...)",
    "typicalp": _SAMPLER + "defaultSampler(typicalP=...)",
    "typical": _SAMPLER + "defaultSampler(typicalP=...)",
    "xtcprobability": _SAMPLER + "defaultSampler(xtcProbability=...)",
    "xtcthreshold": _SAMPLER + "defaultSampler(xtcProbability=..., xtcThreshold=...)",
    "repeatpenalty": _NUMBERS + "defaultSampler(repeatPenalty=...)",
    "repetitionpenalty": _NUMBERS + "defaultSampler(repeatPenalty=...)",
    "frequencypenalty": _SAMPLER + "defaultSampler(frequencyPenalty=...)",
    "presencepenalty": _SAMPLER + "defaultSampler(presencePenalty=...)",
    "penaltylastn": _SAMPLER + "defaultSampler(repeatPenalty=..., penaltyLastN=...)",
    "repeatlastn": _SAMPLER + "defaultSampler(repeatPenalty=..., penaltyLastN=...)",
    "drymultiplier": _SAMPLER + "defaultSampler(dryMultiplier=..., vocab=model.vocab)",
    "mirostat": _SAMPLER + "defaultSampler(mirostat=2)",
    "mirostatmode": _SAMPLER + "defaultSampler(mirostat=2)",
    "mirostattau": _SAMPLER + "defaultSampler(mirostat=2, mirostatTau=...)",
    "mirostateta": _SAMPLER + "defaultSampler(mirostat=2, mirostatEta=...)",
    "logitbias": _SAMPLER + "defaultSampler(logitBias={token: bias}, vocab=model.vocab)",
    "grammar": _GRAMMAR,
    "responseformat": _GRAMMAR.replace("fromGbnf(text)", "fromJsonSchema(schema)"),
    "jsonschema": _GRAMMAR.replace("fromGbnf(text)", "fromJsonSchema(schema)"),
    "stream": "iterate over the result for its text as it comes",
    "echo": "the prompt is not part of the text: print it yourself",
    "tools": "ChatSession(ctx, tools=...) takes tools",
    "system": "ChatSession(ctx, system=...) takes the system message",
    "messages": "session.messages is the history, and session.send(text) adds to it",
    "verbose": "logSet(None) silences llama.cpp's log",
    "chatformat": "ChatSession(ctx, template=...) takes a chat template",
    "device": "a field of Model.Params: devices",
    "embedding": "Embedder(model) computes embeddings",
}
_ALIASES = {
    "maxnewtokens": "maxTokens",
    "npredict": "maxTokens",
    "numpredict": "maxTokens",
    "maxlength": "maxTokens",
    "maxcompletiontokens": "maxTokens",
    "stopsequences": "stop",
    "stopwords": "stop",
    "stopstrings": "stop",
    "modelpath": "path",
    "filename": "path",
    "context": "ctx",
    "text": "prompt",
    "ngpulayers": "nGpuLayers",
    "gpulayers": "nGpuLayers",
    "numctx": "nCtx",
    "contextsize": "nCtx",
    "ctxsize": "nCtx",
    "threads": "nThreads",
    "temp": "temperature",
    "topk": "k",
    "topp": "p",
    "minp": "p",
}
# Names of llama-cpp-python and of C, in lower case and without underscores, and what does that here.
_ELSEWHERE = {
    "llama": "load(path) returns an object that completes prompts and chats; llama_cffi.compat has the class Llama",
    "llamagrammar": "Constraint.fromGbnf(text) or Sampler.initGrammar(vocab, text) makes one",
    "llamatokenizer": "model.vocab with tokenize and detokenize",
    "llamacache": "a context keeps its KV cache, and Engine shares prefixes",
    "llamaramcache": "a context keeps its KV cache, and Engine shares prefixes",
    "llamastate": "ctx.stateGetData() returns a state",
    "logitsprocessorlist": "Sampler.init(object) makes a sampler of an object with apply(candidates)",
    "frompretrained": "load('hf:ORG/REPO/FILE.gguf') or Model.load('hf:ORG/REPO/FILE.gguf') downloads a model",
    "createcompletion": "Generation(ctx, prompt) generates text",
    "createchatcompletion": "ChatSession(ctx).send(message) answers",
    "chat": "ChatSession(ctx).send(message) answers",
    "completion": "Generation(ctx, prompt) generates text",
    "complete": "Generation(ctx, prompt) generates text",
    "generate": "Generation(ctx, prompt) generates text",
    "createembedding": "Embedder(model).embed(texts) computes vectors",
    "embed": "Embedder(model).embed(texts) computes vectors",
    "embedding": "Embedder(model).embed(texts) computes vectors",
    "tokenize": "tokenize(model.vocab, text) is a function",
    "encode": "ctx.encode(batch) runs an encoder; tokenize(model.vocab, text) makes tokens",
    "detokenize": "detokenize(model.vocab, tokens) is a function",
    "tokenizer": "model.vocab is the vocabulary; tokenize(model.vocab, text) makes tokens",
    "eval": "ctx.decode(batch) evaluates tokens",
    "decode": "ctx.decode(batch) evaluates tokens; detokenize(model.vocab, tokens) makes text",
    "sample": "sampler.sample(ctx) picks a token",
    "savestate": "ctx.stateGetData() and ctx.stateSaveFile(path) save a state",
    "loadstate": "ctx.stateSetData(data) and ctx.stateLoadFile(path) restore a state",
    "tokenbos": "model.vocab.bos",
    "tokeneos": "model.vocab.eos",
    "tokennl": "model.vocab.nl",
    "nvocab": "model.vocab.nTokens",
    "logits": "ctx.getLogits() and ctx.getLogitsIth(i)",
    "scores": "ctx.getLogits() and ctx.getLogitsIth(i)",
    "metadata": "model.metaCount, model.metaKeyByIndex(i) and model.metaValStr(key)",
    "kvcacheclear": "ctx.getMemory().clear()",
    "ctx": "Context.initFromModel(model) makes a context",
    "fromfile": "Model.load(path) loads a model",
    "create": "the class methods of the class make objects",
}


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


# Calls


def call_error(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], error: Exception) -> str:
    """Return what is wrong with the arguments of a call, and what to do.

    "" if the error says it itself, or comes from a callback.
    """
    trace = error.__traceback__
    assert trace is not None
    if trace.tb_next is None and isinstance(error, TypeError):
        return _arguments_error(function, arguments, keywords)
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    if not (file.startswith(_PACKAGE) or file == enum.__file__) or not _BARE.search(str(error)):
        return ""
    return wrong_type(function, arguments, keywords)


def _arguments_error(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    """Return what is wrong with a call that Python refuses."""
    name, skipped = _called(function, arguments)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[skipped:]
    shown = _shown(name, parameters)
    made_by = getattr(arguments[0], "_MADE_BY", "") if function.__name__ == "__init__" and arguments else ""
    if made_by:
        return f"{name} objects are not made by calling the class: {made_by}"
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    for keyword in keywords:
        if keyword not in names:
            return f"{name}: there is no parameter {keyword!r}: {keyword_hint(keyword, names) or shown}"
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    given = len(arguments) - skipped
    if given > len(positional):
        rest = [one.name for one in parameters[len(positional) :] if one.kind is one.KEYWORD_ONLY]
        advice = f"write the others by name ({', '.join(f'{name}=...' for name in rest)})" if rest else shown
        most = len(positional)
        return f"{name}: expected at most {most} argument{'s' * (most != 1)} without a name, got {given}: {advice}"
    twice = [parameter.name for parameter in positional[: max(given, 0)] if parameter.name in keywords]
    if twice:
        return f"{name}: {twice[0]} is given twice, by its place and by its name: {shown}"
    missing = [
        parameter.name
        for parameter in parameters[max(given, 0) :]
        if parameter.default is parameter.empty
        and parameter.name not in keywords
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if given < 0:
        return f"{name}: call it on an object"
    return f"{name}: {' and '.join(missing)} missing: {shown}" if missing else ""


def _called(function: Any, arguments: tuple[Any, ...]) -> tuple[str, int]:
    """Return the name of what was called, and the number of arguments that Python itself adds."""
    owner, _, name = function.__qualname__.rpartition(".")
    if not owner or owner.endswith("<locals>"):
        return name, 0
    holder = arguments[0] if arguments else None
    cls = holder if isinstance(holder, type) else type(holder)
    bound = isinstance(holder, type) or name in dir(cls)
    if not bound or getattr(cls, name, None) is None:
        return function.__qualname__, 0 if _is_static(function) else 1
    if isinstance(inspect.getattr_static(cls, name, None), staticmethod):
        return f"{owner}.{name}", 0
    return (cls.__name__ if name == "__init__" else f"{cls.__name__}.{name}"), 1


def _is_static(function: Any) -> bool:
    return next(iter(inspect.signature(function).parameters), "") not in ("self", "cls")


def _shown(name: str, parameters: list[Any]) -> str:
    """Return how a call is written: `Model.load(path, params=None, *, untrusted=False)`."""
    parts, marked = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not marked:
            parts.append("*")
            marked = True
        marked |= parameter.kind is parameter.VAR_POSITIONAL
        plain = parameter.replace(annotation=parameter.empty)
        parts.append(str(plain).replace(" = ", "="))
    return f"write {name}({', '.join(parts)})"


def keyword_hint(keyword: str, names: list[str]) -> str:
    """Return the name that was meant, or where the keyword belongs."""
    plain = _plain(keyword)
    same = [name for name in names if _plain(name) == plain]
    alias = _ALIASES.get(plain, "")
    if same or alias in names:
        return f"did you mean {(same or [alias])[0]!r}?"
    package = sys.modules["llama_cffi"]
    for kind in ("Model", "Context"):
        field = near(alias or keyword, fields) if (fields := _fields(package, kind)) else ""
        if field and _plain(field) == _plain(alias or keyword):
            where = f"it is a field of {kind}.Params: "
            if "params" in names and _takes_params_of(names, kind):
                return f"{where}pass params={kind}.Params({field}=...)"
            maker = "Model.load(path, " if kind == "Model" else "Context.initFromModel(model, "
            return f"{where}{maker}{kind}.Params({field}=...))"
    if plain in _KEYWORDS and not {"k", "p", "t", "temperature", "penaltyLastN"} & set(names):  # not of samplers
        return _KEYWORDS[plain]
    return did_you_mean(keyword, names)


def _takes_params_of(names: list[str], kind: str) -> bool:
    return ("path" in names or "paths" in names) is (kind == "Model")


def _fields(package: Any, kind: str) -> list[str]:
    fields: list[str] = getattr(package, kind).Params._fields()
    return fields


# Attributes


def attribute_hint(owner: Any, name: str) -> str:
    """Return the name that was meant, or what does it here; "" if nothing is near."""
    names = [known for known in getattr(owner, "__all__", dir(owner)) if known[0] != "_"]
    meant = near(name, names)
    if meant and _plain(meant) == _plain(name):
        return f"did you mean {meant!r}?"
    plain = _plain(name)
    own: dict[str, str] = getattr(owner, "_ALIASES", {})
    if plain in own:
        return f"did you mean {own[plain]!r}?"
    if plain in _ELSEWHERE:
        return _ELSEWHERE[plain]
    c_name = _c_name(name)
    if c_name:
        return f"did you mean {FUNCTIONS[c_name]}? It maps to the C function lib.{c_name}"
    if meant:
        return f"did you mean {meant!r}?"
    return _in_other_classes(owner, name)


def _c_name(name: str) -> str:
    """Return the C function with this name, or with its usual beginnings; "" if there is none in the facade."""
    package = sys.modules["llama_cffi"]
    snake = re.sub("([A-Z])", r"_\1", name).lower() if "_" not in name else name
    for prefix in ("", "llama_", "llama_model_", "llama_vocab_", "llama_sampler_", "llama_memory_", "ggml_"):
        public = FUNCTIONS.get(prefix + snake, "")
        if public and _exists(package, public):
            return prefix + snake
    return ""


def _exists(holder: Any, public: str) -> bool:
    for part in public.split("."):
        if not hasattr(holder, part):
            return False
        holder = getattr(holder, part)
    return True


def _in_other_classes(owner: Any, name: str) -> str:
    """Say which other public class has an attribute of this name."""
    package = sys.modules["llama_cffi"]
    for kind in ("Model", "Vocab", "Context", "Memory", "Sampler", "Batch", "Generation", "ChatSession", "Engine"):
        cls = getattr(package, kind)
        known = [one for one in dir(cls) if one[0] != "_" and _plain(one) == _plain(name)]
        if known and cls is not owner:
            return f"{kind} has {known[0]!r}"
    return ""
