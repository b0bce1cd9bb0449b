"""Models: loading, describing, saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, overload

from llama_cffi._buffers import OutBuffer, Path, Text, c_string, out_buffer, path_bytes, require_together
from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import LoadMode
from llama_cffi._generated.structs import ModelParamsFields
from llama_cffi._handle import Handle, native_log
from llama_cffi.errors import ModelLoadError, NativeError
from llama_cffi.ggml.backend import Backend
from llama_cffi.vocab import Vocab

_MMAP = (LoadMode.AUTO, LoadMode.MMAP, LoadMode.MMAP_MLOCK)
_MLOCK = (LoadMode.MLOCK, LoadMode.MMAP_MLOCK)


class ModelParams(ModelParamsFields):
    """How to load a model. `Model.Params(nGpuLayers=0)` sets fields; the others keep llama.cpp's defaults.

    Maps to `llama_model_params`.
    """

    __slots__ = ()

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_model_default_params()

    @property
    def useMmap(self) -> bool:
        """Map the file into memory instead of reading it. A view of `loadMode`, which is AUTO by default and maps."""
        return self.loadMode in _MMAP

    @useMmap.setter
    def useMmap(self, value: bool) -> None:
        if bool(value) != self.useMmap:
            self._set_load_mode(mmap=bool(value), mlock=self.useMlock)

    @property
    def useMlock(self) -> bool:
        """Keep the model in physical memory. A view of `loadMode`."""
        return self.loadMode in _MLOCK

    @useMlock.setter
    def useMlock(self, value: bool) -> None:
        if bool(value) != self.useMlock:
            self._set_load_mode(mmap=self.useMmap, mlock=bool(value))

    @property
    def useDirectIo(self) -> bool:
        """Read the file past the page cache, which excludes mapping and locking it. A view of `loadMode`."""
        return self.loadMode == LoadMode.DIRECT_IO

    @useDirectIo.setter
    def useDirectIo(self, value: bool) -> None:
        if bool(value) != self.useDirectIo:
            self.loadMode = LoadMode.DIRECT_IO if value else LoadMode.AUTO

    def _set_load_mode(self, mmap: bool, mlock: bool) -> None:
        if mmap:
            self.loadMode = LoadMode.MMAP_MLOCK if mlock else LoadMode.MMAP
        else:
            self.loadMode = LoadMode.MLOCK if mlock else LoadMode.NONE


class Model(Handle):
    """A loaded model. May be shared by contexts and threads. Freeing it frees what was made from it.

    Maps to `llama_model`.
    """

    _KIND = "model"
    Params = ModelParams

    _params: ModelParams
    _vocab: Vocab

    @classmethod
    def getDefaultParams(cls) -> ModelParams:
        """llama.cpp's default parameters, to be changed and given to `load`.

        Maps to `llama_model_default_params`.
        """
        return cls.Params()

    @classmethod
    def load(cls, path: Path, params: ModelParams | None = None) -> Model:
        """Load a model from a GGUF file. Of a split model, name the first file.

        Loads the CPU backend first where none is loaded yet. Raises FileNotFoundError, ModelLoadError.

        Maps to `llama_model_load_from_file`.
        """
        return cls._load([path], params, lambda names, p: lib.llama_model_load_from_file(names[0], p))

    @classmethod
    def loadSplits(cls, paths: Sequence[Path], count: int | None = None, params: ModelParams | None = None) -> Model:
        """Load a model from split files with names of your own, in their order. `count` takes the first so many.

        Maps to `llama_model_load_from_splits`.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError("paths is a sequence of paths: use Model.load for one file")
        if count is not None and not 1 <= count <= len(paths):
            raise ValueError(f"count is {count}, but there are {len(paths)} paths")

        def call(names: list[Any], c_params: Any) -> Any:
            return lib.llama_model_load_from_splits(ffi.new("char *[]", names), len(names), c_params)

        return cls._load(list(paths)[:count], params, call)

    @classmethod
    def _load(cls, paths: Sequence[Path], params: ModelParams | None, call: Any) -> Model:
        chosen = cls.Params() if params is None else params
        if not isinstance(chosen, ModelParams):
            raise TypeError(
                f"params is a Model.Params, not {type(params).__name__}: start from Model.getDefaultParams()"
            )
        if not paths:
            raise ValueError("paths is empty: name at least one file")
        names = [ffi.new("char[]", path_bytes(path)) for path in paths]
        for path in paths:
            with open(path, "rb"):  # says at once, and in Python's words, what is wrong with the path
                pass
        Backend.ensureCpu()
        if chosen.noAlloc and chosen.loadMode != LoadMode.NONE:
            raise ValueError("noAlloc needs loadMode=LoadMode.NONE: without memory for it, there is nothing to map")
        pointer = call(names, chosen._c[0])
        if pointer == ffi.NULL:
            raise ModelLoadError(
                f"{os.fsdecode(paths[0])} could not be loaded as a model",
                operation="llama_model_load_from_file",
                log=native_log(),
            )
        model = cls.__new__(cls)
        model._open(pointer)
        model._params = chosen
        model._vocab = Vocab(model)
        return model

    def _destroy(self, pointer: Any) -> None:
        lib.llama_model_free(pointer)

    def free(self) -> None:
        """Free the model, its contexts and its adapters. Freeing twice is harmless.

        Maps to `llama_model_free`.
        """
        self.close()

    def save(self, path: Path) -> None:
        """Write the model to a GGUF file: beside its place, then renamed, so that a failure leaves nothing half-made.

        Raises OSError where the file cannot be written, NativeError where llama.cpp cannot save this kind of model.

        Maps to `llama_model_save_to_file`.
        """
        if self._params.vocabOnly or self._params.noAlloc:
            raise NativeError("a model loaded with vocabOnly or noAlloc has no weights to save: load it whole")
        if self._params.useExtraBufts and lib.llama_model_ftype(self._c) > 1:
            raise NativeError(
                "the weights of a quantized model are repacked in memory: load it with useExtraBufts=False to save it"
            )
        import tempfile  # rarely needed, and slow to import

        target = os.fsdecode(path_bytes(path))
        handle, scratch = tempfile.mkstemp(prefix=".llama-", dir=os.path.dirname(target) or ".")
        os.close(handle)
        try:
            lib.llama_model_save_to_file(self._c, os.fsencode(scratch))
            if os.path.getsize(scratch) == 0:
                raise OSError(f"llama.cpp wrote nothing to {target}: is the disk full?")
            os.replace(scratch, target)
        except BaseException:
            os.unlink(scratch)
            raise

    @property
    def vocab(self) -> Vocab:
        """The vocabulary. Keeps the model alive.

        Maps to `llama_model_get_vocab`.
        """
        if self._pointer is None:
            self._refuse()
        return self._vocab

    @property
    def hasEncoder(self) -> bool:
        """Whether the model has an encoder, to be run with `ctx.encode`.

        Maps to `llama_model_has_encoder`.
        """
        return lib.llama_model_has_encoder(self._c)

    @property
    def hasDecoder(self) -> bool:
        """Whether the model has a decoder, to be run with `ctx.decode`.

        Maps to `llama_model_has_decoder`.
        """
        return lib.llama_model_has_decoder(self._c)

    @property
    def hasDencoder(self) -> bool:
        """The specification's spelling of `hasDecoder`: a slip, kept as an alias.

        Maps to `llama_model_has_decoder`.
        """
        return self.hasDecoder

    @property
    def nCtxTrain(self) -> int:
        """The context size that the model was trained with, in tokens.

        Maps to `llama_model_n_ctx_train`.
        """
        return lib.llama_model_n_ctx_train(self._c)

    @property
    def nEmbd(self) -> int:
        """The width of the embeddings.

        Maps to `llama_model_n_embd`.
        """
        return lib.llama_model_n_embd(self._c)

    @property
    def nLayer(self) -> int:
        """The number of layers.

        Maps to `llama_model_n_layer`.
        """
        return lib.llama_model_n_layer(self._c)

    @property
    def nHead(self) -> int:
        """The number of attention heads; 0 for a model loaded with vocabOnly.

        Maps to `llama_model_n_head`.
        """
        return lib.llama_model_n_head(self._c) if lib.llama_model_n_layer(self._c) else 0

    @property
    def metaCount(self) -> int:
        """The number of scalar metadata entries.

        Maps to `llama_model_meta_count`.
        """
        return lib.llama_model_meta_count(self._c)

    @overload
    def metaValStr(self, key: Text) -> str | None: ...
    @overload
    def metaValStr(self, key: Text, buf: OutBuffer, bufSize: int) -> int: ...
    def metaValStr(self, key: Text, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """A metadata value as text. Arrays are not among them.

        Without a buffer: a str, or None for an unknown key. With `buf` and `bufSize`: writes at most `bufSize` bytes
        with a closing NUL, and returns the value's length without it, or -1 for an unknown key.

        Maps to `llama_model_meta_val_str`.
        """
        name = c_string(key, "key")
        return self._meta(lambda out, size: lib.llama_model_meta_val_str(self._c, name, out, size), buf, bufSize)

    @overload
    def metaKeyByIndex(self, idx: int) -> str | None: ...
    @overload
    def metaKeyByIndex(self, idx: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaKeyByIndex(self, idx: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """The name of a metadata entry, by its index from 0.

        Without a buffer: a str, or None past the end. With `buf` and `bufSize`: as in `metaValStr`.

        Maps to `llama_model_meta_key_by_index`.
        """
        return self._meta(lambda out, size: lib.llama_model_meta_key_by_index(self._c, idx, out, size), buf, bufSize)

    @staticmethod
    def _meta(call: Any, buf: OutBuffer | None, size: int | None) -> str | int | None:
        if require_together(buf, size, "buf and bufSize"):
            assert size is not None
            written: int = call(out_buffer(buf, "char", size, "buf", "bufSize"), size)
            return written
        length: int = call(ffi.NULL, 0)
        if length < 0:
            return None
        out = ffi.new("char[]", length + 1)
        call(out, length + 1)
        return bytes(ffi.buffer(out, length)).decode("utf-8", "replace")
