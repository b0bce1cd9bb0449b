"""The `Adapter` class: LoRA adapters, loaded for one model and used by its contexts."""

from __future__ import annotations

import itertools
import os
from typing import Protocol, overload

from llama_cffi._core.arguments import OutBuffer, StrOrBytes, StrPath, c_string, meta_text, path_bytes
from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected, number, shown
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import file_identity, require_regular
from llama_cffi._core.handle import Handle
from llama_cffi._core.locks import writing
from llama_cffi._core.native_log import native_log
from llama_cffi._core.ownership import WeakRefs, own
from llama_cffi._core.structs import FLOAT_MAX
from llama_cffi.errors import AdapterError, NativeAssertionError
from llama_cffi.model.model import Model
from llama_cffi.model.validation import check_adapter

_serials = itertools.count(1)


class AdapterUser(Protocol):
    """A context that computes with an adapter, as `Adapter` sees it."""

    @property
    def closed(self) -> bool: ...
    def removeAdapterLora(self, ad: Adapter) -> int: ...


class Adapter(Handle):
    """A LoRA adapter for one model. `ctx.setAdapterLora` applies it in a context of that model.

    Freeing it removes it from the contexts that use it. Freeing its model frees it. Maps to `llama_adapter_lora`.
    """

    _KIND = "adapter"
    _MADE_BY = "Adapter.loraInit(model, path) loads one"

    _file: str  # its name without a folder, for `repr`
    _source: tuple[bytes, tuple[int, ...]]  # its file, as it was before it was loaded
    _model: Model
    _users: WeakRefs  # of AdapterUser
    _serial: int  # no other adapter of this process has it

    @classmethod
    def loraInit(cls, model: Model, path: StrPath) -> Adapter:
        """Load a LoRA adapter from a GGUF file. Raises OSError if it cannot be read, AdapterError if it does not fit.

        Load adapters before you make contexts: a context reserves memory for the adapters that are loaded by then.

        Maps to `llama_adapter_lora_init`.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one")
        name = path_bytes(path)
        require_regular(path)
        if model._params.vocabOnly or model._params.noAlloc:
            raise ValueError("a model loaded with vocabOnly or noAlloc has no weights to adapt: load it without them")
        check_adapter(name)
        source = os.path.abspath(name), file_identity(name)
        adapter = cls.__new__(cls)
        adapter._model, adapter._file = model, os.path.basename(os.fsdecode(name))
        adapter._users, adapter._serial, adapter._source = WeakRefs(), next(_serials), source
        with model._exclusive_waiting() as owner:  # it must not be freed before the adapter holds it
            try:
                with writing():
                    owned = own(lib.shim_adapter_free, lib.llama_adapter_lora_init, owner, name)
            except NativeAssertionError as error:
                raise AdapterError(f"{os.fsdecode(name)} could not be loaded as a LoRA adapter: {error}") from error
            if owned.pointer is None:
                raise AdapterError(
                    f"{os.fsdecode(name)} could not be loaded as a LoRA adapter for this model",
                    operation="llama_adapter_lora_init",
                    log=native_log(),
                )
            adapter._open(owned, parent=model)
        return adapter

    def _describe(self) -> str:
        return f"{self._file!r} for {self._model!r}"

    def loraFree(self) -> None:
        """Free the adapter. Contexts that use it continue without it. Freeing twice is harmless.

        Maps to `llama_adapter_lora_free`.
        """
        Adapter._require(self)
        self.close()

    def _detach_users(self) -> None:
        for context in list(self._users):
            if not context.closed:
                context.removeAdapterLora(self)

    @property
    def metaCount(self) -> int:
        """The number of scalar metadata entries.

        Maps to `llama_adapter_meta_count`.
        """
        return lib.llama_adapter_meta_count(self._c)

    @overload
    def metaValStr(self, key: StrOrBytes) -> str | None: ...
    @overload
    def metaValStr(self, key: StrOrBytes, buf: OutBuffer, bufSize: int) -> int: ...
    def metaValStr(self, key: StrOrBytes, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """Return a metadata value as text; None for an unknown key. With a buffer: as `Model.metaValStr`.

        Maps to `llama_adapter_meta_val_str`.
        """
        name = c_string(key, "key")
        return meta_text(lambda out, n: lib.llama_adapter_meta_val_str(self._c, name, out, n), buf, bufSize)

    @overload
    def metaKeyByIndex(self, i: int) -> str | None: ...
    @overload
    def metaKeyByIndex(self, i: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaKeyByIndex(self, i: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """Return the key of metadata entry `i`; None past the end. With a buffer: as `Model.metaKeyByIndex`.

        Maps to `llama_adapter_meta_key_by_index`.
        """
        return meta_text(lambda out, n: lib.llama_adapter_meta_key_by_index(self._c, i, out, n), buf, bufSize)

    @overload
    def metaValStrByIndex(self, i: int) -> str | None: ...
    @overload
    def metaValStrByIndex(self, i: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaValStrByIndex(self, i: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """Return the value of metadata entry `i`; None past the end. With a buffer: as `Model.metaValStr`.

        Maps to `llama_adapter_meta_val_str_by_index`.
        """
        return meta_text(lambda out, n: lib.llama_adapter_meta_val_str_by_index(self._c, i, out, n), buf, bufSize)

    def getAloraNInvocationTokens(self) -> int:
        """Return the number of tokens that activate an aLoRA (activated LoRA); 0 for an ordinary LoRA.

        Maps to `llama_adapter_get_alora_n_invocation_tokens`.
        """
        return lib.llama_adapter_get_alora_n_invocation_tokens(self._c)

    def getAloraInvocationTokens(self) -> list[Token]:
        """Return the tokens that activate an aLoRA (activated LoRA); empty for an ordinary LoRA.

        Maps to `llama_adapter_get_alora_invocation_tokens`.
        """
        with self._pinned() as pointer:
            n = lib.llama_adapter_get_alora_n_invocation_tokens(pointer)
            return list(ffi.unpack(lib.llama_adapter_get_alora_invocation_tokens(pointer), n)) if n else []


def require_usable(model: Model, ad: Adapter, scale: float) -> None:
    """Raise an error unless contexts of this model can use the adapter with this scale."""
    if not isinstance(ad, Adapter):
        raise expected("an Adapter", ad, "Adapter.loraInit(model, path) makes one")
    if ad._model is not model:
        raise ValueError("this adapter was loaded for another model: load it for the context's model")
    if not abs(number(scale, "scale")) <= FLOAT_MAX:
        raise ValueError(f"scale must be finite, got {shown(scale)}")
    ad._c  # noqa: B018  raises if it was freed
