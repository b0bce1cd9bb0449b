"""The `Model` class: load, save and quantize GGUF models. Its metadata and its shape are in `info.py`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

from llama_cffi._core.arguments import StrPath, is_hub_name, path_bytes
from llama_cffi._core.callbacks import forget, reraise
from llama_cffi._core.checks import expected, no_threads, out_of_range
from llama_cffi._core.compat import member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import file_identity, require_regular
from llama_cffi._core.locks import listing
from llama_cffi._core.native_log import native_log
from llama_cffi._core.ownership import hold, own
from llama_cffi._core.process import leave_if_ending
from llama_cffi._generated import enums
from llama_cffi._host.resources import available_memory
from llama_cffi.errors import ModelLoadError, NativeAssertionError, NativeError, NativeMemoryError
from llama_cffi.ggml.backend import Backend
from llama_cffi.model.info import ModelInfo
from llama_cffi.model.params import ModelParams
from llama_cffi.model.placement import check_offload, for_c, is_on_cpu
from llama_cffi.model.quantize import ModelQuantizeParams, quantize
from llama_cffi.model.validation import ModelFile
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import NoReturn, TypeAlias

_NOT_SAVEABLE = ("t5", "gemma3n", "bitnet", "apertus", "step35")  # llama.cpp fails an assertion when it saves these


class Model(ModelInfo):
    """A loaded model. Contexts and threads may share it. Freeing it frees its contexts, adapters and samplers.

    Maps to `llama_model`.
    """

    _KIND = "model"
    _MADE_BY = "Model.load(path) loads one"
    Params: TypeAlias = ModelParams
    QuantizeParams: TypeAlias = ModelQuantizeParams

    _file: str  # its name without a folder, for `repr`
    _sources: list[tuple[bytes, tuple[int, ...]]]  # its files, as they were before the load
    _params: ModelParams
    _quantized: bool  # some weights are in a format that may be repacked in memory
    _vocab: Vocab
    _templates: list[str]  # names of chat templates in the file besides the default one
    _hasLongRope: bool  # RoPE has other factors in contexts beyond the original length
    _nPositions: int  # the size of the model's table of positions; 0: no limit

    @classmethod
    def getDefaultParams(cls) -> ModelParams:
        """Return llama.cpp's default parameters, to change and pass to `load`.

        Maps to `llama_model_default_params`.
        """
        return cls.Params()

    @classmethod
    def load(cls, path: StrPath, params: ModelParams | None = None, *, untrusted: bool = False) -> Model:
        """Load a model from a GGUF file. For a split model, pass the first file.

        `hf:org/repo/file.gguf` (or `hf:org/repo@revision/folder/file.gguf`) names a file on the Hugging Face Hub. It is
        downloaded once, into the cache of huggingface_hub, which the extra `hf` installs.

        Loads the CPU backend if it is not loaded yet. Ctrl-C interrupts the load. Raises FileNotFoundError if the file
        does not exist, ModelLoadError if it cannot be loaded, ValueError if the parameters do not fit the devices,
        NativeMemoryError if the load mode reads the whole file and the free memory is too small for it, and whatever
        `params.progressCallback` raises.

        Every file is validated first: one with contents that are known to end the process is refused. For a file that
        you do not trust, pass `untrusted=True`: a child process loads and uses the model first, on the CPU, with limits
        on time and memory. This process loads the file only if the child succeeds; otherwise ModelLoadError says how
        the child ended. The file is then read into memory rather than mapped, unless `params.loadMode` is set: a mapped
        file that somebody shortens ends the process. The cost is a second load and the start of a Python interpreter.
        This finds files that crash. It is not a sandbox: the child has the same rights as this process.

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
        """Load a split model whose files have names of any form, given in order. `count` uses only the first ones.

        See `load` for `untrusted`, and for what it raises.

        Maps to `llama_model_load_from_splits`.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise expected("a sequence of paths", paths, "Model.load(path) loads one file", "paths")
        if count is not None and not 1 <= count <= len(paths):
            raise out_of_range("count", count, 1, len(paths), "pass None for all paths")
        return cls._load(list(paths)[:count], params, True, untrusted)

    @classmethod
    def _load(cls, paths: Sequence[StrPath], params: ModelParams | None, split: bool, untrusted: bool) -> Model:
        chosen = _copied(cls.Params() if params is None else params)
        names = _readable_files(paths, split)
        _check_params(chosen)
        file = ModelFile.inspect(names, chosen.kvOverrides, chosen.vocabOnly)
        if untrusted and chosen.loadMode == enums.LoadMode.AUTO:
            # Not mapped: reading past the end of a shortened mapping ends the process.
            chosen.loadMode = enums.LoadMode.NONE
        with ExitStack() as on_error:
            trial: AbstractContextManager[None] = nullcontext()
            if untrusted:
                from llama_cffi.model.untrusted import tried_in_child

                trial = tried_in_child(names, split, chosen, file.paths)
            with trial:
                _check_memory(chosen, file)
                sources = [(os.path.abspath(path), file_identity(path)) for path in file.paths]
                model = cls._load_natively(names, chosen, split)
                on_error.callback(model.close)
            model._sources = sources
            model._set_up(file)
            on_error.pop_all()
        return model

    @classmethod
    def _load_natively(cls, names: Sequence[bytes], chosen: ModelParams, split: bool) -> Model:
        progress = chosen._set_progress(always=True)
        arrays = [ffi.new("char[]", name) for name in names]
        operation = "llama_model_load_from_splits" if split else "llama_model_load_from_file"
        path = os.fsdecode(names[0])
        forget()
        params, free = for_c(chosen)[0], lib.llama_model_free
        try:
            with listing(), _openmp_threads(chosen):
                if split:
                    pointers = ffi.new("char *[]", arrays)
                    owned = own(free, lib.llama_model_load_from_splits, pointers, len(arrays), params)
                else:
                    owned = own(free, lib.llama_model_load_from_file, arrays[0], params)
        except NativeAssertionError as error:
            raise ModelLoadError(f"{path} could not be loaded as a model: {error}", operation=operation) from error
        log = native_log()
        reraise()
        model = cls.__new__(cls)
        if owned.pointer is None:
            leave_if_ending()
            if progress.stopped:
                raise ModelLoadError(f"{path} was not loaded: progressCallback stopped it", operation=operation)
            raise ModelLoadError(f"{path} could not be loaded as a model", operation=operation, log=log)
        model._params, model._file = chosen, os.path.basename(path)
        model._open(owned)
        model._nCtxTrain = lib.llama_model_n_ctx_train(model._c)
        return model

    def _describe(self) -> str:
        name = self.metaValStr("general.name") or self._file
        return f"{name!r}, {self.desc()}, {self.size / (1 << 20):,.1f} MiB"

    def _facts(self) -> dict[str, object]:
        return {
            "parameters": f"{self.nParams:,}",
            "layers": self.nLayer,
            "trained context": f"{self.nCtxTrain:,} tokens",
            "vocabulary": f"{self.vocab.nTokens:,} tokens",
        }

    def _set_up(self, file: ModelFile) -> None:
        """Keep what the rest of the package needs to know about the file. Raises ModelLoadError if it is damaged."""
        self._quantized, self._nPositions, self._templates = file.quantized, file.positions, file.templates
        self._hasLongRope = any([name.endswith("rope_factors_long.weight") for name in file.names])
        # Positions of several numbers (time, height, width) for each token; `member`: older versions lack one.
        multi_part = (enums.RopeType.MROPE, member(enums.RopeType, "IMROPE"), enums.RopeType.VISION)
        if not self._params.vocabOnly and self.ropeType in multi_part:
            file.require_positions()
        self._vocab = Vocab(self, self._params.kvOverrides or {})

    def free(self) -> None:
        """Free the model, its contexts and its adapters. Freeing twice is harmless.

        Maps to `llama_model_free`.
        """
        Model._require(self)
        self.close()

    def save(self, path: StrPath) -> None:
        """Write the model to a GGUF file, which appears at `path` when it is complete.

        Raises OSError if the file cannot be written, NativeError if llama.cpp cannot save this kind of model.

        Maps to `llama_model_save_to_file`.
        """
        if self._params.vocabOnly or self._params.noAlloc:
            raise NativeError("a model loaded with vocabOnly or noAlloc has no weights to save: load it without them")
        if self.metaValStr("general.architecture") in _NOT_SAVEABLE:
            raise NativeError("llama.cpp cannot save models of this architecture: copy the file")
        if self._params.useExtraBufts and self._quantized:
            raise NativeError(
                "the weights of this quantized model may be repacked in memory: load it with useExtraBufts=False to "
                "save it"
            )
        if lib.llama_model_n_ctx_train(self._c) != self._nCtxTrain:
            raise NativeError(
                "a context with YaRN scaling changed the model's context length in llama.cpp: load the model again to "
                "save it"
            )
        from llama_cffi._core.atomic_write import atomic_write
        from llama_cffi.ggml.gguf_native import require_complete

        target = os.fsdecode(path_bytes(path))
        with atomic_write(target) as scratch:
            lib.llama_model_save_to_file(self._c, os.fsencode(scratch))
            require_complete(scratch, target)

    @classmethod
    def quantizeDefaultParams(cls) -> ModelQuantizeParams:
        """Return llama.cpp's default parameters, to change and pass to `quantize`: Q8_0, one thread for each CPU.

        Maps to `llama_model_quantize_default_params`.
        """
        return cls.QuantizeParams()

    @classmethod
    def quantize(
        cls,
        source: StrPath,
        target: StrPath,
        params: ModelQuantizeParams | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        """Write the model file `source` in another format to `target`, which appears when it is complete.

        With `keepSplit`, `target` is the prefix of the file names. With `dryRun`, nothing is written and the sizes are
        logged. It may take minutes, and Ctrl-C does not interrupt it. `progress` is called with the share that is
        written, on another thread. Raises ValueError if source and target are the
        same file, OSError, and NativeError with llama.cpp's reason.

        Maps to `llama_model_quantize`.
        """
        quantize(source, target, params, progress)

    @property
    def vocab(self) -> Vocab:
        """The model's vocabulary. It keeps the model alive.

        Maps to `llama_model_get_vocab`.
        """
        if self._pointer is None:
            self._raise_closed()
        return self._vocab


def _copied(params: ModelParams) -> ModelParams:
    """A copy that the caller cannot change any more."""
    if not isinstance(params, ModelParams):
        raise expected("a Model.Params", params, "Model.getDefaultParams() makes one", "params")
    return params._copy()


def _readable_files(paths: Sequence[StrPath], split: bool) -> list[bytes]:
    """The paths for C, downloaded if they name files on the Hub. Raises OSError for one that cannot be opened."""
    if not paths:
        raise ValueError("paths is empty: name at least one file")
    local = [_downloaded(path, split) if is_hub_name(path) else path for path in paths]
    names = [path_bytes(path) for path in local]
    for path in local:
        try:
            require_regular(path)  # OSError names the problem; llama.cpp would only return NULL
        except OSError as error:
            from llama_cffi.model.missing_file import explained

            raise explained(error, os.fsdecode(path)) from None
    return names


def _downloaded(path: StrPath, split: bool) -> StrPath:
    from llama_cffi.model.hub import local_path

    return local_path(path, parts=not split)


def _check_params(params: ModelParams) -> None:
    """Refuse parameters that exclude each other, or that do not fit the devices. Loads the backends."""
    if params.noAlloc and params.loadMode != enums.LoadMode.NONE:
        raise ValueError("noAlloc needs loadMode=LoadMode.NONE: without memory for it, there is nothing to map")
    Backend.ensure()
    check_offload(params)


def _openmp_threads(params: ModelParams) -> AbstractContextManager[None]:
    """Start the OpenMP threads that prepare weights for AMX, and end them after the load.

    OpenMP would end the process if it could not start them; and later, they would count while other threads compute.
    """
    if not (params.useExtraBufts and _uses_amx()):
        return nullcontext()
    return hold(lib.shim_openmp_start, lib.shim_openmp_release, _refuse_threads)


def _uses_amx() -> bool:
    return bool(lib.ggml_cpu_has_amx_int8())


def _refuse_threads() -> NoReturn:
    what = "the process cannot start the threads that prepare weights for AMX"
    raise no_threads(what, "pass useExtraBufts=False in the parameters", "llama_model_load_from_file")


def _check_memory(params: ModelParams, file: ModelFile) -> None:
    """Refuse to read more weights than fit into the free memory: Linux would kill the process while it loads."""
    at_once = (enums.LoadMode.NONE, enums.LoadMode.MLOCK, enums.LoadMode.DIRECT_IO)  # read all weights into memory
    if params.vocabOnly or params.noAlloc or params.loadMode not in at_once or not is_on_cpu(params):
        return
    size, available = min(file.size, sum(map(os.path.getsize, file.paths))), available_memory()
    if available is not None and size > available:
        raise NativeMemoryError(
            f"the weights take {size:,} bytes, but only {available:,} bytes of memory are free: load the model with "
            "loadMode=LoadMode.MMAP, which reads weights when they are used, or free memory"
        )
