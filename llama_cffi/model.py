"""Models: loading, saving, quantizing. What a model says about itself is in `_model_info.py`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._buffers import Path, path_bytes
from llama_cffi._callbacks import reraise
from llama_cffi._ffi import ffi, lib
from llama_cffi._files import beside
from llama_cffi._generated.enums import Ftype, LoadMode, RopeType
from llama_cffi._handle import native_log
from llama_cffi._model_info import ModelInfo
from llama_cffi._model_params import EPSILON, ModelParams
from llama_cffi._positions import table_rows
from llama_cffi.errors import ModelLoadError, NativeError
from llama_cffi.ggml.backend import Backend
from llama_cffi.quantize import ModelQuantizeParams, quantize
from llama_cffi.vocab import Vocab

if TYPE_CHECKING:
    from typing import TypeAlias


class Model(ModelInfo):
    """A loaded model. May be shared by contexts and threads. Freeing it frees what was made from it.

    Maps to `llama_model`.
    """

    _KIND = "model"
    Params: TypeAlias = ModelParams
    QuantizeParams: TypeAlias = ModelQuantizeParams

    _params: ModelParams
    _vocab: Vocab
    _nPositions: int  # how many the model knows; 0: any

    @classmethod
    def getDefaultParams(cls) -> ModelParams:
        """llama.cpp's default parameters, to be changed and given to `load`.

        Maps to `llama_model_default_params`.
        """
        return cls.Params()

    @classmethod
    def load(cls, path: Path, params: ModelParams | None = None) -> Model:
        """Load a model from a GGUF file. Of a split model, name the first file.

        Loads the CPU backend first where none is loaded yet. Ctrl-C interrupts it. Raises FileNotFoundError,
        ModelLoadError, and whatever `params.progressCallback` raises.

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
        given = cls.Params() if params is None else params
        if not isinstance(given, ModelParams):
            raise TypeError(
                f"params is a Model.Params, not {type(params).__name__}: start from Model.getDefaultParams()"
            )
        if not paths:
            raise ValueError("paths is empty: name at least one file")
        names = [ffi.new("char[]", path_bytes(path)) for path in paths]
        for path in paths:
            with open(path, "rb"):  # says at once, and in Python's words, what is wrong with the path
                pass
        chosen = given._copy()
        if chosen.noAlloc and chosen.loadMode != LoadMode.NONE:
            raise ValueError("noAlloc needs loadMode=LoadMode.NONE: without memory for it, there is nothing to map")
        Backend.ensureCpu()
        progress = chosen._set_progress(always=True)
        pointer = call(names, chosen._c[0])
        log = native_log()
        model = cls.__new__(cls)
        if pointer != ffi.NULL:
            model._open(pointer)
        reraise()
        if pointer == ffi.NULL:
            operation, path = "llama_model_load_from_file", os.fsdecode(paths[0])
            if progress.stopped:
                raise ModelLoadError(f"{path} was not loaded: progressCallback stopped it", operation=operation)
            raise ModelLoadError(f"{path} could not be loaded as a model", operation=operation, log=log)
        model._params = chosen
        model._check_epsilons()
        model._nPositions = table_rows(names) if model.ropeType == RopeType.NONE else 0
        model._vocab = Vocab(model, str(model._loaded("tokenizer.ggml.pre") or ""))
        return model

    def _loaded(self, key: str) -> Any:
        """A metadata value as llama.cpp saw it."""
        overrides = self._params.kvOverrides or {}
        return overrides[key] if key in overrides else self.metaValStr(key)

    def _check_epsilons(self) -> None:
        """Refuse a file with a negative epsilon: ggml would end the process, from a thread of its own."""
        keys = [self.metaKeyByIndex(i) or "" for i in range(self.metaCount)]
        for key in filter(EPSILON.search, keys):
            value = self._loaded(key)
            if not 0 <= float(value) < math.inf:
                self.close()
                raise ModelLoadError(f"the file is damaged: {key} is {value}, and a number from 0 is wanted")

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
        if self._params.useExtraBufts and self.ftype not in (Ftype.ALL_F32, Ftype.MOSTLY_F16):
            raise NativeError(
                "the weights of a quantized model are repacked in memory: load it with useExtraBufts=False to save it"
            )
        target = os.fsdecode(path_bytes(path))
        with beside(target) as scratch:
            lib.llama_model_save_to_file(self._c, os.fsencode(scratch))
            if not os.path.exists(scratch) or os.path.getsize(scratch) == 0:
                raise OSError(f"llama.cpp wrote nothing to {target}: is the disk full?")

    @classmethod
    def quantizeDefaultParams(cls) -> ModelQuantizeParams:
        """llama.cpp's default parameters, to be changed and given to `quantize`: Q8_0, as many threads as CPUs.

        Maps to `llama_model_quantize_default_params`.
        """
        return cls.QuantizeParams()

    @classmethod
    def quantize(cls, source: Path, target: Path, params: ModelQuantizeParams | None = None) -> None:
        """Write a model file in another format: beside its place, then renamed.

        With `keepSplit`, `target` is the prefix of the files' names; with `dryRun`, nothing is written and the sizes
        are logged. Takes minutes, which Ctrl-C does not shorten. Raises ValueError where source and target are the
        same, OSError, and NativeError with llama.cpp's reason.

        Maps to `llama_model_quantize`.
        """
        quantize(source, target, params)

    @property
    def vocab(self) -> Vocab:
        """The vocabulary. Keeps the model alive.

        Maps to `llama_model_get_vocab`.
        """
        if self._pointer is None:
            self._refuse()
        return self._vocab
