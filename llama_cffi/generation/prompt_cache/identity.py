"""What the contents of a KV cache depend on besides the tokens: model, adapters, llama.cpp, parameters of the context.

Files are identified by the SHA-256 of all their bytes. It is computed once, and remembered in the cache's folder by the
file's device, inode, size and times: no program can set the time of the last change, so another file, or one that was
changed in place, has another entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

from llama_cffi._core.ffi import PIN
from llama_cffi._core.files import file_identity, open_regular
from llama_cffi._generated.pin import ABI
from llama_cffi.model.placement import is_on_cpu
from llama_cffi.system import version

if TYPE_CHECKING:
    from llama_cffi.context.context import Context

    Source = tuple[bytes, tuple[int, ...]]  # a file, and what `file_identity` said when it was loaded

_FORMAT = 1  # of what follows
_BLOCK = 1 << 20
_SETTLED_NS = 2 * 10**9  # no file system has coarser times

# Fields of a context's parameters that change what the KV cache holds.
_FIELDS = (
    "ctx_type",
    "rope_scaling_type",
    "attention_type",
    "flash_attn_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
    "type_k",
    "type_v",
)


class Identity:
    """What decides the contents of the KV cache of a context. It does not keep the context alive."""

    __slots__ = ("_adapters", "_facts", "_model", "sources")

    def __init__(self, ctx: Context, adapters: Iterable[tuple[Source, float]]) -> None:
        """`adapters` are the files of LoRA adapters, with their scales."""
        model, params = ctx.getModel(), ctx._kept[0]
        scaled = model.metaValStr(f"{model.metaValStr('general.architecture')}.rope.scaling.original_context_length")
        trained = int(scaled) if scaled and scaled.isdecimal() else model._nCtxTrain
        self._facts = [
            f"{_FORMAT} {PIN} {ABI:x} {version()} {sys.byteorder}",
            f"overrides {sorted((model._params.kvOverrides or {}).items(), key=str)}",
            f"cpu {is_on_cpu(model._params)}",  # the layout of values follows from it
            f"long {model._hasLongRope and ctx.nCtxSeq > trained}",
            *[f"{name} {getattr(params, name, None)!r}" for name in _FIELDS],
        ]
        self._model = [key for _, key in model._sources]
        self._adapters = [(source[1], scale) for source, scale in adapters]
        self.sources = [*model._sources, *[source for source, _ in adapters]]

    @property
    def before_digests(self) -> tuple[object, ...]:
        """The same for what is equal, while the digests of the files are not known yet."""
        return tuple(self._facts), tuple(self._model), tuple(self._adapters)

    def digest(self, known: Callable[[tuple[int, ...]], str]) -> str:
        """Return the digest of all of it, in hexadecimal. `known` returns the digest of a file."""
        files = [f"model {known(key)}" for key in self._model]
        adapters = sorted(f"adapter {known(key)} {scale!r}" for key, scale in self._adapters)
        return sha256("\n".join([*self._facts, *files, *adapters]).encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(source: Source) -> str | None:
    """Return the SHA-256 of a file in hexadecimal; None if it is not what it was when it was loaded any more."""
    path, identity = source
    hashed, block = sha256(), bytearray(_BLOCK)
    try:
        if file_identity(path) != identity:
            return None
        with open_regular(path) as file:
            while count := file.readinto(block):
                hashed.update(memoryview(block)[:count])
        return hashed.hexdigest() if file_identity(path) == identity else None
    except OSError:
        return None


def identity_name(identity: tuple[int, ...]) -> str:
    """Return the name under which the digest of a file is remembered."""
    return sha256(" ".join(map(str, identity)).encode()).hexdigest()


def is_settled(identity: tuple[int, ...], now_ns: int) -> bool:
    """Return True if a later change of the file would have another time: not for one that was changed just now."""
    return now_ns - identity[4] > _SETTLED_NS
