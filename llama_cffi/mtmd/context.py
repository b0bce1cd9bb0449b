"""`Mtmd.Context`: a projector file (mmproj) beside a model. It tokenizes prompts with media, and encodes the media."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack

from llama_cffi._core.arguments import BoolLike, StrOrBytes, StrPath, path_bytes, text_bytes
from llama_cffi._core.base_types import Pos, SeqId
from llama_cffi._core.callbacks import forget, reraise
from llama_cffi._core.checks import expected, no_threads
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import require_regular
from llama_cffi._core.large_stack import TOKENIZER_STACK_PER_BYTE, on_large_stack
from llama_cffi._core.locks import listing
from llama_cffi._core.native_log import native_log
from llama_cffi._core.ownership import exclusive, exclusive_waiting, own
from llama_cffi._core.process import leave_if_ending, require_threads
from llama_cffi._generated import enums
from llama_cffi.errors import ModelLoadError, NativeAssertionError, NativeError
from llama_cffi.model.model import Model
from llama_cffi.mtmd.base import MtmdBase
from llama_cffi.mtmd.bitmap import Bitmap
from llama_cffi.mtmd.chunks import Chunk, Chunks
from llama_cffi.mtmd.embeddings import Embeddings
from llama_cffi.mtmd.files import identify, require_library
from llama_cffi.mtmd.params import MtmdContextParams
from llama_cffi.mtmd.validation import check_projector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from llama_cffi.context.context import Context

_serials = itertools.count(1)
_SMALL_TEXT = 512  # bytes that every tokenizer splits on a stack of any size


class MtmdContext(MtmdBase):
    """A projector for images or sounds, for one model. It serves one call at a time, and keeps its model alive.

    Maps to `mtmd_context`.
    """

    __slots__ = ("_encoded", "_identity", "_marker", "_nThreads", "_serial")

    Params: TypeAlias = MtmdContextParams

    _encoded: int  # tokens of the last chunk that was encoded; 0: none
    _identity: str  # equal for projectors that encode in the same way
    _marker: bytes
    _nThreads: int
    _serial: int

    @classmethod
    def getDefaultParams(cls) -> MtmdContextParams:
        """Return the default parameters, to be changed and passed to `initFromFile`.

        Maps to `mtmd_context_params_default`.
        """
        return cls.Params()

    @classmethod
    def initFromFile(
        cls, path: StrPath, model: Model, params: MtmdContextParams | None = None, *, untrusted: bool = False
    ) -> MtmdContext:
        """Load a projector file (mmproj) for a model. Freeing the model frees it.

        With `untrusted`, a child process loads the file first, and encodes images and sounds: a damaged file may
        crash llama.cpp, which then ends the child. It takes as long as a second load, and a few encodings.

        Raises OSError if the file cannot be read, ModelLoadError if it is damaged or does not fit the model, and
        UnavailableError if this build has no library for images and sounds.

        Maps to `mtmd_init_from_file`.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one", "model")
        name = path_bytes(path)
        require_regular(path)
        require_library()
        chosen = cls.Params() if params is None else params
        if not isinstance(chosen, MtmdContextParams):
            raise expected("an Mtmd.Context.Params", params, "start from Mtmd.Context.getDefaultParams()", "params")
        if model._params.vocabOnly or model._params.noAlloc:
            raise ValueError("a model loaded with vocabOnly or noAlloc computes nothing: load it without them")
        chosen._checked()
        check_projector(name)
        if not untrusted:
            return cls._load(name, model, chosen)
        from llama_cffi.mtmd.untrusted import tried_in_child

        with ExitStack() as on_error:
            with tried_in_child(name, model):
                made = cls._load(name, model, chosen)
                on_error.callback(made.close)
            on_error.pop_all()
        return made

    @classmethod
    def _load(cls, name: bytes, model: Model, chosen: MtmdContextParams) -> MtmdContext:
        require_threads()
        struct, progress, kept = chosen._for_c()
        shown = os.fsdecode(name)
        forget()
        made = cls.__new__(cls)
        made._model, made._serial, made._encoded = model, next(_serials), 0
        made._nThreads, made._embeddings = chosen.nThreads, Embeddings()
        made._identity = identify(name, chosen)
        with model._exclusive_waiting() as owner:
            made._start_threads()
            try:
                with listing():
                    owned = own(lib.mtmd_free, lib.mtmd_init_from_file, name, owner, struct[0])
            except NativeAssertionError as error:
                raise ModelLoadError(
                    f"{shown} could not be loaded as a projector: {error}", operation="mtmd_init_from_file"
                ) from error
            log = native_log()
            reraise()
            if owned.pointer is None:
                leave_if_ending()
                why = "was not loaded: progressCallback stopped it" if progress.stopped else (
                    "could not be loaded as a projector (mmproj) for this model"
                )  # fmt: skip
                raise ModelLoadError(f"{shown} {why}", operation="mtmd_init_from_file", log=log)
            owned.keep(kept)
            made._marker = bytes(ffi.string(struct.media_marker))
            made._nEmbd = lib.llama_model_n_embd_inp(owner)
            made._open(owned, parent=model)
        return made

    def free(self) -> None:
        """Free the projector. Freeing twice is harmless.

        Maps to `mtmd_free`.
        """
        MtmdContext._require(self)
        self.close()

    def getModel(self) -> Model:
        """Return the model that the projector was loaded for."""
        return self._model

    def _describe(self) -> str:
        kinds = [kind for kind, on in (("images", self.supportVision()), ("sounds", self.supportAudio())) if on]
        return f"for {' and '.join(kinds)}, {self._model!r}"

    # What it can do

    def getMarker(self) -> str:
        """Return the text that stands for an image or a sound in a prompt.

        Maps to `mtmd_get_marker`.
        """
        self._c  # noqa: B018  raises
        return self._marker.decode()

    def decodeUseMrope(self) -> bool:
        """Return True if positions of the model have several parts (M-RoPE): an image has fewer positions than tokens.

        Maps to `mtmd_decode_use_mrope`.
        """
        return bool(lib.mtmd_decode_use_mrope(self._c))

    def decodeUseNonCausal(self, chunk: Chunk | None = None) -> bool:
        """Return True if all tokens of the chunk (None: of an image) see each other, and so must fit into one batch.

        Maps to `mtmd_decode_use_non_causal`.
        """
        if chunk is None:
            return bool(lib.mtmd_decode_use_non_causal(self._c, ffi.NULL))
        self._require_chunk(chunk)
        return bool(lib.mtmd_decode_use_non_causal(self._c, chunk._c))

    # Prompts

    def tokenize(
        self,
        text: StrOrBytes,
        media: Sequence[Bitmap] = (),
        *,
        addSpecial: BoolLike = True,
        parseSpecial: BoolLike = True,
    ) -> Chunks:
        """Split a prompt into chunks. Each marker in the text (`getMarker`) stands for one of `media`, in order.

        `addSpecial` adds the model's tokens at the beginning and the end; with `parseSpecial`, special tokens are
        recognized in the text. Raises ValueError if there are more or fewer markers than media, or if the model does
        not take one of them.

        Maps to `mtmd_tokenize`.
        """
        return self._tokenize(text, media, addSpecial, parseSpecial)

    def _tokenize(
        self,
        text: StrOrBytes,
        media: Sequence[Bitmap],
        addSpecial: BoolLike,
        parseSpecial: BoolLike,
        wait: bool = False,
    ) -> Chunks:
        """Tokenize a prompt. With `wait`, calls of other threads on this object are waited for."""
        data = text_bytes(text, "text")
        bitmaps = self._checked_media(media)
        if (markers := data.count(self._marker)) != len(bitmaps):
            raise ValueError(
                f"the text must have a marker {self._marker.decode()!r} for each of the {len(bitmaps)} media, got "
                f"{markers}"
            )
        if not has("mtmd_input_text.text_len") and b"\0" in data:
            raise ValueError("text must not contain a NUL character: this llama.cpp would end it there")
        memory = ffi.new("char[]", data)
        given = ffi.new("struct mtmd_input_text *")
        given.text, given.add_special, given.parse_special = memory, bool(addSpecial), bool(parseSpecial)
        if has("mtmd_input_text.text_len"):
            given.text_len = len(data)
        chunks = Chunks.__new__(Chunks)
        chunks._serial = self._serial
        chunks._open(own(lib.mtmd_input_chunks_free, lib.mtmd_input_chunks_init))
        with (exclusive_waiting if wait else exclusive)(self, chunks, *dict.fromkeys(bitmaps)) as pointer:
            array = ffi.new("mtmd_bitmap *[]", [bitmap._c for bitmap in bitmaps])

            def call() -> int:
                return lib.mtmd_tokenize(pointer, chunks._c, given, array, len(bitmaps))

            needed = TOKENIZER_STACK_PER_BYTE * len(data)
            code = call() if len(data) <= _SMALL_TEXT else on_large_stack(call, needed)
        del memory
        if code:
            log = native_log()
            chunks.close()
            raise NativeError(
                "the prompt could not be tokenized: its media cannot be prepared for this model",
                operation="mtmd_tokenize",
                code=code,
                log=log,
            )
        return chunks

    def _read_prompt(self, prompt: Any, media: Any, limits: Any, model: Model) -> Any:
        """Return the tokens of a prompt for `Generation` and `Engine`, with its images and sounds."""
        from llama_cffi.mtmd.prompt import read_prompt

        return read_prompt(self, prompt, media, limits, model)

    def _checked_media(self, media: Sequence[Bitmap]) -> list[Bitmap]:
        hint = "Mtmd.Bitmap.fromFile(ctx, path) makes one"
        if isinstance(media, Bitmap) or not isinstance(media, Sequence):
            raise expected("a sequence of Mtmd.Bitmap", media, "write [bitmap] for one", "media")
        bitmaps = list(media)
        for bitmap in bitmaps:
            if not isinstance(bitmap, Bitmap):
                raise expected("an Mtmd.Bitmap", bitmap, hint, "media")
            if bitmap.isAudio:
                self._require_audio()
            else:
                self._require_vision()
        return bitmaps

    # Media

    def encodeChunk(self, chunk: Chunk) -> None:
        """Encode an image or a sound. `getOutputEmbd` returns the result until the next call. A text is ignored.

        Maps to `mtmd_encode_chunk`.
        """
        self._require_chunk(chunk)
        with exclusive(self, chunk) as pointer:
            self._encode(pointer, chunk._c)

    def _encode(self, pointer: Any, chunk: Any) -> None:
        """Encode with exclusive use of this object."""
        self._encoded = 0
        self._start_threads()
        code = lib.mtmd_encode_chunk(pointer, chunk)
        log = native_log() if code else ""
        reraise()
        if code:
            raise NativeError("the chunk could not be encoded", operation="mtmd_encode_chunk", code=code, log=log)
        if lib.mtmd_input_chunk_get_type(chunk) != enums.MtmdChunkKind.TEXT:
            self._encoded = lib.mtmd_input_chunk_get_n_tokens(chunk)

    def getOutputEmbd(self) -> memoryview[float]:
        """Return the embeddings of the chunk that was encoded last, as a copy: shape (nTokens of the chunk, nEmbd).

        Raises ValueError if nothing was encoded.

        Maps to `mtmd_get_output_embd`.
        """
        with self._exclusive() as pointer:
            n = self._encoded
            if not n:
                raise ValueError("nothing was encoded: call encodeChunk with an image or a sound")
            array = bytes(ffi.buffer(lib.mtmd_get_output_embd(pointer), 4 * n * self._nEmbd))
        return memoryview(array).cast("f", (n, self._nEmbd))

    def _require_chunk(self, chunk: Chunk) -> None:
        if not isinstance(chunk, Chunk):
            raise expected("an Mtmd.Chunk", chunk, "Mtmd.Context.tokenize(text, media) makes them", "chunk")
        if chunk._serial != self._serial:
            raise ValueError("this chunk was made by another Mtmd.Context: tokenize the prompt with this one")

    def _start_threads(self) -> None:
        if not lib.shim_start_threads(self._nThreads):
            what = f"the process cannot start the {self._nThreads} threads of the encoder"
            raise no_threads(what, "lower nThreads", "mtmd_encode_chunk")

    # Evaluation

    def evalChunks(
        self,
        ctx: Context,
        chunks: Chunks,
        nPast: Pos = 0,
        seqId: SeqId = 0,
        *,
        nBatch: int | None = None,
        logitsLast: BoolLike = True,
    ) -> Pos:
        """Run the model on chunks, at positions from `nPast`: decode texts, encode media and decode what comes of them.

        `nBatch` is the largest number of tokens in a batch; None: the context's nBatch. With `logitsLast`, the last
        token has logits. Returns the position after the last one. Raises like `evalChunkSingle`.

        Maps to `mtmd_helper_eval_chunks`.
        """
        if not isinstance(chunks, Chunks):
            raise expected("an Mtmd.Chunks", chunks, "Mtmd.Context.tokenize(text, media) makes one", "chunks")
        items = list(chunks)
        for index, chunk in enumerate(items):
            last = index == len(items) - 1
            nPast = self.evalChunkSingle(ctx, chunk, nPast, seqId, nBatch=nBatch, logitsLast=last and bool(logitsLast))
        return nPast

    def evalChunkSingle(
        self,
        ctx: Context,
        chunk: Chunk,
        nPast: Pos = 0,
        seqId: SeqId = 0,
        *,
        nBatch: int | None = None,
        logitsLast: BoolLike = True,
    ) -> Pos:
        """Run the model on one chunk: see `evalChunks`. Media have no logits.

        Raises ValueError if the chunk does not fit the context, ContextFullError if the KV cache is full, and
        DecodeError for other failures. The parts of the chunk that were computed before stay in the KV cache.

        Maps to `mtmd_helper_eval_chunk_single`.
        """
        from llama_cffi.mtmd.evaluation import decode_media, decode_text

        self._require_chunk(chunk)
        if chunk.kind == enums.MtmdChunkKind.TEXT:
            return decode_text(self, ctx, chunk, nPast, seqId, nBatch, bool(logitsLast))
        return decode_media(self, ctx, chunk, None, nPast, seqId, nBatch, not self.decodeUseNonCausal(chunk))

    def decodeImageChunk(
        self,
        ctx: Context,
        chunk: Chunk,
        encodedEmbd: Any,
        nPast: Pos = 0,
        seqId: SeqId = 0,
        *,
        nBatch: int | None = None,
    ) -> Pos:
        """Run the model on an image or a sound that was encoded before: `encodedEmbd` is what `getOutputEmbd` returned.

        See `evalChunks` for the other parameters. Raises like `evalChunkSingle`.

        Maps to `mtmd_helper_decode_image_chunk`.
        """
        from llama_cffi.mtmd.evaluation import decode_media

        self._require_chunk(chunk)
        if chunk.kind == enums.MtmdChunkKind.TEXT:
            raise ValueError("chunk must be an image or a sound, got a text: evalChunkSingle decodes it")
        return decode_media(self, ctx, chunk, encodedEmbd, nPast, seqId, nBatch, not self.decodeUseNonCausal(chunk))
