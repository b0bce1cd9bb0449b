"""Models: loading, saving, quantizing. What a model says about itself is in `info.py`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import StrPath, path_bytes
from llama_cffi._core.atomic_write import beside
from llama_cffi._core.callbacks import reraise
from llama_cffi._core.compat import member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing
from llama_cffi._core.native_log import native_log
from llama_cffi._core.process import leave_if_ending
from llama_cffi._generated.enums import LoadMode, RopeType
from llama_cffi._host.resources import available_memory
from llama_cffi.errors import ModelLoadError, NativeAssertionError, NativeError, NativeMemoryError
from llama_cffi.ggml.backend import Backend
from llama_cffi.model.hub import local_path
from llama_cffi.model.info import ModelInfo
from llama_cffi.model.params import ModelParams
from llama_cffi.model.placement import check_offload, for_c, is_on_cpu
from llama_cffi.model.quantize import ModelQuantizeParams, quantize
from llama_cffi.model.untrusted import check_unchanged, identify, load_in_child
from llama_cffi.model.validation import Scan, check_positions, scan_model
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from typing import TypeAlias

# Load modes that take as much memory as the weights have.
_WHOLE = (LoadMode.NONE, LoadMode.MLOCK, LoadMode.DIRECT_IO)
_UNSAVED = ("t5", "gemma3n", "bitnet", "apertus", "step35")  # llama.cpp has an assertion against saving these


class Model(ModelInfo):
    """A loaded model. May be shared by contexts and threads. Freeing it frees what was made from it.

    Maps to `llama_model`.
    """

    _KIND = "model"
    Params: TypeAlias = ModelParams
    QuantizeParams: TypeAlias = ModelQuantizeParams

    _params: ModelParams
    _quantized: bool  # has weights that may be repacked in memory
    _vocab: Vocab
    _nPositions: int  # how many the model knows; 0: any

    @classmethod
    def getDefaultParams(cls) -> ModelParams:
        """llama.cpp's default parameters, to be changed and given to `load`.

        Maps to `llama_model_default_params`.
        """
        return cls.Params()

    @classmethod
    def load(cls, path: StrPath, params: ModelParams | None = None, *, untrusted: bool = False) -> Model:
        """Load a model from a GGUF file. Of a split model, name the first file.

        `hf:org/repo/file.gguf` (or `hf:org/repo@revision/folder/file.gguf`) is a file of the Hugging Face Hub, fetched
        once into the cache of huggingface_hub, which the extra `hf` installs.

        Loads the CPU backend first where none is loaded yet. Ctrl-C interrupts it. Raises FileNotFoundError,
        ModelLoadError, ValueError for parameters that do not fit the devices, NativeMemoryError for a file that is read
        whole and larger than the memory that is left, and whatever `params.progressCallback` raises.

        Every file is looked at first, and refused where it says what is known to end the process. For a file that
        you have no reason to trust, `untrusted=True` does more: a child process loads and uses it first, on the CPU,
        within limits of time and memory, and only if the child makes it does this process load the file; where it
        does not, ModelLoadError says how it ended. The file is then read into memory rather than mapped, unless
        `params.loadMode` says otherwise: whoever shortens a mapped file ends the process. It costs one load more, and
        a start of Python. It finds files that crash, and is no sandbox: the child may do whatever this process may.

        Maps to `llama_model_load_from_file`.
        """
        return cls._load([path], params, False, untrusted)

    @classmethod
    def loadSplits(
        cls,
        paths: Sequence[StrPath],
        count: int | None = None,
        params: ModelParams | None = None,
        *,
        untrusted: bool = False,
    ) -> Model:
        """Load a model from split files with names of your own, in their order. `count` takes the first so many.

        For `untrusted`, see `load`.

        Maps to `llama_model_load_from_splits`.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError("paths is a sequence of paths: use Model.load for one file")
        if count is not None and not 1 <= count <= len(paths):
            raise ValueError(f"count is {count}, but there are {len(paths)} paths")
        return cls._load(list(paths)[:count], params, True, untrusted)

    @classmethod
    def _load(cls, paths: Sequence[StrPath], params: ModelParams | None, split: bool, untrusted: bool) -> Model:
        given = cls.Params() if params is None else params
        if not isinstance(given, ModelParams):
            raise TypeError(
                f"params is a Model.Params, not {type(params).__name__}: start from Model.getDefaultParams()"
            )
        if not paths:
            raise ValueError("paths is empty: name at least one file")
        paths = [local_path(path, parts=not split) for path in paths]
        names = [path_bytes(path) for path in paths]
        for path in paths:
            with open(path, "rb"):  # says at once, and in Python's words, what is wrong with the path
                pass
        chosen = given._copy()
        if chosen.noAlloc and chosen.loadMode != LoadMode.NONE:
            raise ValueError("noAlloc needs loadMode=LoadMode.NONE: without memory for it, there is nothing to map")
        Backend.ensure()
        check_offload(chosen)
        scan = scan_model(names, chosen.kvOverrides, chosen.vocabOnly)
        before = identify(scan.paths) if untrusted else []
        if untrusted:
            load_in_child(names, split, chosen, sum(file.size for file in before))
            check_unchanged(scan.paths, before)
            if chosen.loadMode == LoadMode.AUTO:
                chosen.loadMode = LoadMode.NONE
        _check_memory(chosen, scan)
        model = cls._load_natively(names, chosen, split)
        model._quantized = scan.quantized
        try:
            if untrusted:
                check_unchanged(scan.paths, before)
            if not chosen.vocabOnly and model.ropeType in (RopeType.MROPE, member(RopeType, "IMROPE"), RopeType.VISION):
                check_positions(scan)
        except (ModelLoadError, OSError):
            model.close()
            raise
        model._nPositions = scan.positions
        prefixes = model._loaded("tokenizer.ggml.add_space_prefix") not in ("false", False)
        model._vocab = Vocab(model, str(model._loaded("tokenizer.ggml.pre") or ""), prefixes)
        return model

    @classmethod
    def _load_natively(cls, names: Sequence[bytes], chosen: ModelParams, split: bool) -> Model:
        progress = chosen._set_progress(always=True)
        arrays = [ffi.new("char[]", name) for name in names]
        operation = "llama_model_load_from_splits" if split else "llama_model_load_from_file"
        path = os.fsdecode(names[0])
        params = for_c(chosen)[0]
        try:
            with listing():
                if split:
                    pointer = lib.llama_model_load_from_splits(ffi.new("char *[]", arrays), len(arrays), params)
                else:
                    pointer = lib.llama_model_load_from_file(arrays[0], params)
        except NativeAssertionError as error:
            raise ModelLoadError(f"{path} could not be loaded as a model: {error}", operation=operation) from error
        log = native_log()
        model = cls.__new__(cls)
        if pointer != ffi.NULL:
            model._open(pointer)
        reraise()
        if pointer == ffi.NULL:
            leave_if_ending()
            if progress.stopped:
                raise ModelLoadError(f"{path} was not loaded: progressCallback stopped it", operation=operation)
            raise ModelLoadError(f"{path} could not be loaded as a model", operation=operation, log=log)
        model._params = chosen
        return model

    def _loaded(self, key: str) -> Any:
        """A metadata value as llama.cpp saw it."""
        overrides = self._params.kvOverrides or {}
        return overrides[key] if key in overrides else self.metaValStr(key)

    def _destroy(self, pointer: Any) -> None:
        lib.llama_model_free(pointer)

    def free(self) -> None:
        """Free the model, its contexts and its adapters. Freeing twice is harmless.

        Maps to `llama_model_free`.
        """
        Model._require(self)
        self.close()

    def save(self, path: StrPath) -> None:
        """Write the model to a GGUF file: beside its place, then renamed, so that a failure leaves nothing half-made.

        Raises OSError where the file cannot be written, NativeError where llama.cpp cannot save this kind of model.

        Maps to `llama_model_save_to_file`.
        """
        if self._params.vocabOnly or self._params.noAlloc:
            raise NativeError("a model loaded with vocabOnly or noAlloc has no weights to save: load it whole")
        if self.metaValStr("general.architecture") in _UNSAVED:
            raise NativeError("llama.cpp cannot save models of this architecture: copy the file")
        if self._params.useExtraBufts and self._quantized:
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
    def quantize(cls, source: StrPath, target: StrPath, params: ModelQuantizeParams | None = None) -> None:
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
            self._raise_closed()
        return self._vocab


def _check_memory(params: ModelParams, scan: Scan) -> None:
    """Refuse to read more than the memory takes: Linux would kill the process in the middle of it."""
    if params.vocabOnly or params.noAlloc or params.loadMode not in _WHOLE or not is_on_cpu(params):
        return
    size, available = min(scan.size, sum(map(os.path.getsize, scan.paths))), available_memory()
    if available is not None and size > available:
        raise NativeMemoryError(
            f"the weights have {size:,} bytes, and {available:,} bytes of memory are left: load the model with "
            "loadMode=LoadMode.MMAP, which reads them as they are needed, or free memory"
        )
