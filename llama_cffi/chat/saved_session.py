"""Files of saved chat sessions: the history, and the KV cache of its sequence, for `ChatSession.save` and `load`.

A file begins with a fixed header (`_HEADER`): magic, version of the format, and length and digest of the two parts that
follow. The head is JSON: the history, what identifies model and template, and the tokens in the KV cache. The state is
what llama.cpp saves of the sequence, and its checkpoints; it is empty if there is no memory to save. Everything is
checked before use: lengths against the size of the file, digests, types, depth, and the tokens against the vocabulary.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from io import BufferedReader
from typing import Any, NoReturn

from llama_cffi._core.arguments import StrPath
from llama_cffi._core.base_types import TOKEN_NULL, SeqId, Token
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import PIN
from llama_cffi._core.ownership import hold
from llama_cffi._host.resources import available_memory
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, StateError
from llama_cffi.generation.prefix import Medium, MediumKey, PlacedMedium
from llama_cffi.generation.token_cache import TokenCache, context_capacity
from llama_cffi.model.model import Model

_MAGIC = b"LCFFCHAT"
_VERSION = 1
_MEDIA_VERSION = 2  # with images or sounds in the KV cache
_HEADER = struct.Struct("<8sIIQ32s32s")  # magic, version, length of head and state, digest of head and state
MAX_HEAD = 32 << 20  # bytes: what is parsed as JSON takes some twenty times as much memory
MAX_DEPTH = 100  # of lists and dicts in each other
_BLOCK = 1 << 20

# Parameters of a context that change what the KV cache holds: their public names. Most of them no state contains.
_PARAMS = {
    "typeK": "type_k",
    "typeV": "type_v",
    "ropeScalingType": "rope_scaling_type",
    "ropeFreqBase": "rope_freq_base",
    "ropeFreqScale": "rope_freq_scale",
    "yarnExtFactor": "yarn_ext_factor",
    "yarnAttnFactor": "yarn_attn_factor",
    "yarnBetaFast": "yarn_beta_fast",
    "yarnBetaSlow": "yarn_beta_slow",
    "yarnOrigCtx": "yarn_orig_ctx",
}
_OPTIONS = {"overflow": str, "reasoningFormat": str, "thinking": bool}
_STREAMS = "nSeqMax without kvUnified"  # each sequence has a stream of cells then, and a state fits as many streams

_ADAPTED = "a LoRA adapter or a control vector is in use, which a file cannot identify"


class History:
    """What a session knows besides its memory. All of it is JSON."""

    __slots__ = ("dropped", "messages", "options", "tools", "variables")

    def __init__(self, messages: Any, dropped: Any, tools: Any, variables: Any, options: Any) -> None:
        self.messages: list[dict[str, Any]] = messages
        self.dropped: list[dict[str, Any]] = dropped
        self.tools: list[dict[str, Any]] = tools
        self.variables: dict[str, Any] = variables
        self.options: dict[str, Any] = options  # other options of the constructor

    def as_json(self) -> dict[str, Any]:
        """Return plain copies. Raises TypeError and ValueError for what a file cannot keep."""
        return {name: _plain(getattr(self, name), name) for name in self.__slots__}


def write(path: StrPath, ctx: Context, seqId: SeqId, template: str, history: History) -> None:
    """Write a session to a file; see `ChatSession.save`. `template` is the text of its template."""
    from llama_cffi._core.atomic_write import atomic_write, require_size

    head: dict[str, Any] = {
        "llamaCpp": PIN,
        "model": {"name": _name(ctx.getModel()), "digest": model_digest(ctx.getModel())},
        "template": _digest(template),
        "context": _params(ctx),
        **history.as_json(),
    }
    cache = TokenCache(ctx, seqId)
    with _decoding(cache, "save the session when its answer has ended"):
        head["unsaved"] = _ADAPTED if _is_adapted(ctx) else ""
        tokens, exact = ([], 0) if head["unsaved"] or ctx.getModel().hasEncoder else cache.saveable()
        states = [ctx.stateSeqGetData(None, None, seqId)] if tokens else []
        kept = cache.contents.checkpoints
        checkpoints = kept.items() if tokens and kept is not None else []
    states += [state for _, state in checkpoints]
    sizes = [[count, len(state)] for count, state in checkpoints]
    placed = cache.contents.media if tokens else []
    saved = [max(token, TOKEN_NULL) for token in tokens]  # the numbers of media are those of this process
    head |= {"tokens": saved, "exactPrefix": exact, "checkpoints": sizes}
    if placed:
        head["media"] = [[one.start, one.n_tokens, one.n_pos, one.last, one.key] for one in placed]
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(text) > MAX_HEAD:
        raise ValueError(
            f"the history must be at most {MAX_HEAD:,} bytes in JSON, got {len(text):,}: clear session.dropped, or "
            "remove old messages"
        )
    hashed, n_state = sha256(), sum(map(len, states))
    for state in states:
        hashed.update(state)
    header = _HEADER.pack(
        _MAGIC, _MEDIA_VERSION if placed else _VERSION, len(text), n_state, sha256(text).digest(), hashed.digest()
    )
    target = os.fsdecode(path)
    with atomic_write(target) as scratch:
        with open(scratch, "wb") as file:
            for part in (header, text, *states):
                file.write(part)
        require_size(scratch, target, len(header) + len(text) + n_state)


class SavedSession:
    """The contents of a file, checked. `problem` says why the memory cannot be restored; "" if it can."""

    def __init__(self, ctx: Context, path: StrPath) -> None:
        """Raises OSError if the file cannot be read, StateError if it is damaged or of another model."""
        self._name = os.fsdecode(path)
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait
            raise OSError(f"{self._name} is not a regular file: pass one that ChatSession.save has written")
        with open(path, "rb") as file:
            n_state, state_digest = self._read_head(file, ctx.getModel())
            self.problem = self._find_problem(ctx, n_state)
            self._state = self._read_state(file, 0 if self.problem else n_state, state_digest)

    def _read_head(self, file: BufferedReader, model: Model) -> tuple[int, bytes]:
        size, start = os.fstat(file.fileno()).st_size, file.read(_HEADER.size)
        if len(start) < _HEADER.size or not start.startswith(_MAGIC):
            raise self._error("is not a saved session: pass a file that ChatSession.save has written")
        _, version, n_head, n_state, head_digest, state_digest = _HEADER.unpack(start)
        if version not in (_VERSION, _MEDIA_VERSION):
            raise self._error(
                f"has version {version} of the format, but this release reads {_MEDIA_VERSION}: load it with the "
                "release that saved it"
            )
        if n_head > MAX_HEAD or _HEADER.size + n_head + n_state != size:
            raise self._damaged(f"{size:,} bytes, but {_HEADER.size + n_head + n_state:,} expected")
        text = file.read(n_head)
        if sha256(text).digest() != head_digest:
            raise self._damaged("the digest of the history differs")
        try:
            head = json.loads(text.decode("utf-8", "surrogatepass"))
            self._take(head)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged(f"{type(error).__name__}: {str(error)[:200]}") from error
        if head["model"]["digest"] != model_digest(model):
            raise self._error(
                f"was saved with another model ({self._model!r}, not {_name(model)!r}): load it with a context of that "
                "model"
            )
        if any([token >= model.vocab.nTokens for token in self._tokens]):
            raise self._damaged("a token is not in the vocabulary")
        if n_state and sum(size for _, size in self._checkpoints) >= n_state:
            raise self._damaged("its checkpoints are longer than the file")
        return n_state, state_digest

    def _take(self, head: Any) -> None:
        """Take what is in the head. Raises ValueError, TypeError or KeyError if it does not have the right form."""
        head = _plain(head, "the history")
        messages, dropped, tools = (
            [_typed(entry, dict) for entry in head[n]] for n in ("messages", "dropped", "tools")
        )
        for message in [*messages, *dropped]:
            _typed(message["role"], str)
        options = {name: _typed(head["options"][name], kind) for name, kind in _OPTIONS.items()}
        self.history = History(messages, dropped, tools, _typed(head["variables"], dict), options)
        self._template, self._llama_cpp = _typed(head["template"], str), _typed(head["llamaCpp"], str)
        self._model, self._params = _typed(head["model"]["name"], str), _typed(head["context"], dict)
        self._unsaved = _typed(head["unsaved"], str)[:200]
        self._tokens: list[Token] = [_typed(token, int) for token in head["tokens"]]
        self._checkpoints = [(_typed(count, int), _typed(size, int)) for count, size in head["checkpoints"]]
        if any([not 0 < count <= len(self._tokens) or size <= 0 for count, size in self._checkpoints]):
            raise ValueError("a checkpoint is out of range")
        self._media = _placed(self._tokens, head.get("media", []))
        self._exact = min(max(_typed(head["exactPrefix"], int), 0), len(self._tokens))

    def _find_problem(self, ctx: Context, n_state: int) -> str:
        """Return why the memory cannot be restored in this context, or "". Nothing of it is read before."""
        if not self._tokens or not n_state:
            return str(self._unsaved)
        if self._llama_cpp != PIN:
            return f"it is of another version ({self._llama_cpp})"
        if _is_adapted(ctx):
            return _ADAPTED
        for name, value in _params(ctx).items():
            if self._params.get(name) != value:
                return f"the context has another {name} ({value}, not {str(self._params.get(name))[:20]})"
        capacity = context_capacity(ctx)
        if capacity is not None and len(self._tokens) > capacity:
            return f"it has {len(self._tokens)} tokens, but a sequence of the context takes {capacity}"
        free = available_memory()
        if free is not None and n_state > free:
            return f"it needs {n_state >> 20:,} MiB of memory, but {free >> 20:,} MiB are free"
        return ""

    def _read_state(self, file: BufferedReader, size: int, digest: bytes) -> bytearray:
        state, hashed, done = bytearray(size), sha256(), 0
        view = memoryview(state)
        while done < size:
            count = file.readinto(view[done : done + _BLOCK])
            if not count:
                raise self._damaged(f"it ends after {done:,} of the {size:,} bytes of the memory")
            hashed.update(view[done : done + count])
            done += count
        if size and hashed.digest() != digest:
            raise self._damaged("the digest of the memory differs")
        return state

    def require_template(self, template: str) -> None:
        """Raise StateError unless this is the template that the session was saved with."""
        if _digest(template) != self._template:
            raise self._error(
                "was saved with another chat template: pass load(..., template=...) what the session was made with"
            )

    def restore(self, ctx: Context, seqId: SeqId) -> None:
        """Restore the memory of a sequence. If that is not possible, warn: the next turn computes it again."""
        problem = self._restore(ctx, seqId) if self._state else self.problem
        self._state = bytearray()
        if problem:
            from llama_cffi._core.user_warnings import warn

            warn(
                f"{self._name}: the messages are loaded, but the KV cache is not: {problem}. The next turn decodes the "
                "whole conversation",
                RuntimeWarning,
            )

    def _restore(self, ctx: Context, seqId: SeqId) -> str:
        cache = TokenCache(ctx, seqId)
        with _decoding(cache, "load the session when it has ended"):
            view, checkpoints = memoryview(self._state), []
            for count, size in reversed(self._checkpoints):
                checkpoints.append((count, bytes(view[len(view) - size :])))
                view = view[: len(view) - size]
            try:
                read = ctx.stateSeqSetData(view, None, seqId)
                if read == len(view) and cache.adopt(self._tokens, self._exact, checkpoints, self._media):
                    return ""
                cache.clear()
            except StateError as error:
                cache.clear()
                return " ".join([str(error).partition("\n")[0], *error.log.splitlines()[-1:]])
        raise self._damaged("the memory does not contain the tokens that it should")

    def _damaged(self, how: str) -> StateError:
        return self._error(f"is damaged ({how}): save the session again, or use a copy")

    def _error(self, problem: str) -> StateError:
        return StateError(f"{self._name} {problem}")


def _decoding(cache: TokenCache, advice: str) -> AbstractContextManager[object]:
    """Hold the right to decode with a context for a block. Raises BusyError if another thread has it."""

    def refuse() -> NoReturn:
        raise BusyError(f"another thread computes with this context: {advice}")

    return hold(partial(cache.decode_lock.acquire, False), cache.decode_lock.release, refuse)


def model_digest(model: Model) -> str:
    """Identify a model by its metadata, its size and a sample of its vocabulary, without reading the weights."""
    hashed, vocab = sha256(), model.vocab
    parts = [model.desc(), model.nParams, model.size, vocab.nTokens]
    for i in range(model.metaCount):
        parts += [model.metaKeyByIndex(i), model.metaValStrByIndex(i)]
    parts += [vocab.getText(token) for token in range(0, vocab.nTokens, vocab.nTokens // 1000 + 1)]
    for part in parts:
        hashed.update(f"{part}\0".encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()


def _placed(tokens: list[Token], media: Any) -> list[PlacedMedium]:
    """Put the marks of images and sounds back into saved tokens. Raises ValueError or TypeError for a wrong place."""
    found: list[PlacedMedium] = []
    if any([token < TOKEN_NULL for token in tokens]):
        raise ValueError("a token is not in the vocabulary")
    for start, n_tokens, n_pos, last, saved_key in media:
        end = found[-1].end if found else 0
        for number in (start, n_tokens, n_pos, last):
            _typed(number, int)
        if not (end <= start < start + n_tokens <= len(tokens) and 1 <= n_pos <= n_tokens and 0 <= last < len(tokens)):
            raise ValueError("an image or a sound is out of range")
        if any([token != TOKEN_NULL for token in tokens[start : start + n_tokens]]):
            raise ValueError("an image or a sound is where a text is")
        key: MediumKey | None = None
        if saved_key is not None:
            projector, id, part = saved_key[:3]
            key = (_typed(projector, str), _typed(id, str), _typed(part, int), n_tokens, n_pos)
        tokens[start : start + n_tokens] = Medium(key, n_tokens, n_pos).cells
        found.append(PlacedMedium(start, n_tokens, n_pos, last, key))
    if TOKEN_NULL in tokens:
        raise ValueError("a token is not in the vocabulary")
    return found


def _name(model: Model) -> str:
    return f"{model.metaValStr('general.name') or 'unnamed'}, {model.desc()}"


def _is_adapted(ctx: Context) -> bool:
    return bool(ctx._adapters) or ctx._steered


def _params(ctx: Context) -> dict[str, Any]:
    params = {name: getattr(ctx._kept[0], field) for name, field in _PARAMS.items()}
    return {**params, _STREAMS: 1 if ctx.getMemory()._unified else ctx.nSeqMax}


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}, got {type(value).__name__}")
    return value


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """Return a copy of JSON data, with dicts and lists for mappings and tuples. Raises TypeError and ValueError."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth == MAX_DEPTH:
        raise ValueError(f"{where[:60]}...: lists and dicts must be nested at most {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise expected("a str", key, "a file keeps JSON only", f"{where}: a key")
        return {key: _plain(entry, f"{where}.{key}", depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{where}[{i}]", depth + 1) for i, entry in enumerate(value)]
    raise expected("text, numbers, lists and dicts", value, "a file keeps JSON only", where)
