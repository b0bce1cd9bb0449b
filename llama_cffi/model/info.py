"""`ModelInfo`: the properties and the metadata of a loaded model."""

from __future__ import annotations

from llama_cffi._core.arguments import OutBuffer, StrOrBytes, c_string, meta_text, optional_text
from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import overload

    from llama_cffi._generated.enums import Ftype, ModelMetaKey, RopeType
else:
    from llama_cffi._core.stand_ins import overload


class ModelInfo(Handle):
    """The read-only part of `Model`."""

    _nCtxTrain: int

    @property
    def hasEncoder(self) -> bool:
        """True if the model has an encoder, which `ctx.encode` runs.

        Maps to `llama_model_has_encoder`.
        """
        return lib.llama_model_has_encoder(self._c)

    @property
    def hasDecoder(self) -> bool:
        """True if the model has a decoder, which `ctx.decode` runs.

        Maps to `llama_model_has_decoder`.
        """
        return lib.llama_model_has_decoder(self._c)

    @property
    def hasDencoder(self) -> bool:
        """An alias of `hasDecoder`: a misspelling in the specification that is kept. Prefer `hasDecoder`.

        Maps to `llama_model_has_decoder`.
        """
        return self.hasDecoder

    @property
    def isRecurrent(self) -> bool:
        """True if the model keeps a recurrent state instead of a KV cache (Mamba, RWKV).

        Maps to `llama_model_is_recurrent`.
        """
        return lib.llama_model_is_recurrent(self._c)

    @property
    def isHybrid(self) -> bool:
        """True if some layers keep a recurrent state and others a KV cache (Jamba, Granite 4).

        Maps to `llama_model_is_hybrid`.
        """
        return lib.llama_model_is_hybrid(self._c)

    @property
    def isDiffusion(self) -> bool:
        """True if the model generates by diffusion: it fills in tokens in any order (LLaDA, Dream).

        Maps to `llama_model_is_diffusion`.
        """
        return lib.llama_model_is_diffusion(self._c)

    @property
    def decoderStartToken(self) -> Token:
        """The first token for the decoder of an encoder-decoder model, or TOKEN_NULL.

        Maps to `llama_model_decoder_start_token`.
        """
        return lib.llama_model_decoder_start_token(self._c)

    @property
    def nCtxTrain(self) -> int:
        """The size of the context window in training, in tokens, as when the model was loaded.

        A context with YaRN scaling changes the number in llama.cpp for the whole model; it does not change this one.

        Maps to `llama_model_n_ctx_train`.
        """
        if self._pointer is None:
            self._raise_closed()
        return self._nCtxTrain

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
    def nHeadKv(self) -> int:
        """The number of key-value heads; 0 for a model loaded with vocabOnly.

        Maps to `llama_model_n_head_kv`.
        """
        return lib.llama_model_n_head_kv(self._c) if lib.llama_model_n_layer(self._c) else 0

    @property
    def nEmbdInp(self) -> int:
        """The width of the embeddings that a batch may contain instead of tokens.

        Maps to `llama_model_n_embd_inp`.
        """
        return lib.llama_model_n_embd_inp(self._c)

    @property
    def nEmbdOut(self) -> int:
        """The width of the embeddings that a context returns.

        Maps to `llama_model_n_embd_out`.
        """
        return lib.llama_model_n_embd_out(self._c)

    @property
    def nLayerNextn(self) -> int:
        """The number of layers for multi-token prediction.

        Maps to `llama_model_n_layer_nextn`.
        """
        return lib.llama_model_n_layer_nextn(self._c)

    @property
    def nSwa(self) -> int:
        """The size of the sliding attention window, in tokens; 0 if the model does not use one.

        Maps to `llama_model_n_swa`.
        """
        return lib.llama_model_n_swa(self._c)

    @property
    def nClsOut(self) -> int:
        """The number of outputs of a classifier or a reranker; see `clsLabel`.

        Maps to `llama_model_n_cls_out`.
        """
        return lib.llama_model_n_cls_out(self._c)

    @property
    def ropeType(self) -> RopeType:
        """The type of rotary position embedding (RoPE).

        Maps to `llama_model_rope_type`.
        """
        return enums.RopeType(lib.llama_model_rope_type(self._c))

    @property
    def ropeFreqScaleTrain(self) -> float:
        """The RoPE frequency scale in training.

        Maps to `llama_model_rope_freq_scale_train`.
        """
        return lib.llama_model_rope_freq_scale_train(self._c)

    @property
    def size(self) -> int:
        """The total size of the tensors, in bytes.

        Maps to `llama_model_size`.
        """
        return lib.llama_model_size(self._c)

    @property
    def nParams(self) -> int:
        """The number of parameters.

        Maps to `llama_model_n_params`.
        """
        return lib.llama_model_n_params(self._c)

    @property
    def ftype(self) -> Ftype | int:
        """The format of most weights; guessed from the tensors if the file does not say. An int if `Ftype` lacks it.

        Maps to `llama_model_ftype`.
        """
        value = lib.llama_model_ftype(self._c) & ~enums.Ftype.GUESSED
        return enums.Ftype(value) if value in frozenset(enums.Ftype) else value

    @overload
    def desc(self) -> str: ...
    @overload
    def desc(self, buf: OutBuffer, bufSize: int) -> int: ...
    def desc(self, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int:
        """Return a short description, such as `gemma3 270M Q4_K - Medium`.

        Without a buffer: returns a str. With `buf` and `bufSize`: as `metaValStr`.

        Maps to `llama_model_desc`.
        """
        return meta_text(lambda out, size: lib.llama_model_desc(self._c, out, size), buf, bufSize) or ""

    def clsLabel(self, i: int) -> str | None:
        """Return the label of output `i`, from 0 to `nClsOut` - 1; None if it has no label. Raises IndexError.

        Maps to `llama_model_cls_label`.
        """
        if not 0 <= i < 1 << 32:
            raise IndexError(f"i must be between 0 and {self.nClsOut - 1}, got {i}")
        with self._pinned() as pointer:
            return optional_text(lib.llama_model_cls_label(pointer, i))

    def chatTemplate(self, name: StrOrBytes | None = None) -> str | None:
        """Return the file's chat template called `name`, or its default one; None if it does not contain it.

        It is a Jinja template. llama.cpp does not run Jinja: `chatApplyTemplate` recognizes the common templates.

        Maps to `llama_model_chat_template`.
        """
        chosen = ffi.NULL if name is None else c_string(name, "name")
        with self._pinned() as pointer:
            return optional_text(lib.llama_model_chat_template(pointer, chosen))

    # Metadata

    @classmethod
    def metaKeyStr(cls, key: ModelMetaKey) -> str:
        """Return the metadata key of a recommended sampling parameter, for `metaValStr`.

        Maps to `llama_model_meta_key_str`.
        """
        return optional_text(lib.llama_model_meta_key_str(enums.ModelMetaKey(key))) or ""

    @property
    def metaCount(self) -> int:
        """The number of scalar metadata entries.

        Maps to `llama_model_meta_count`.
        """
        return lib.llama_model_meta_count(self._c)

    @overload
    def metaValStr(self, key: StrOrBytes) -> str | None: ...
    @overload
    def metaValStr(self, key: StrOrBytes, buf: OutBuffer, bufSize: int) -> int: ...
    def metaValStr(self, key: StrOrBytes, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """Return a scalar metadata value as text.

        Without a buffer: returns a str, or None for an unknown key. With `buf` and `bufSize`: writes at most `bufSize`
        bytes with a terminating NUL, and returns the length of the value without it, or -1 for an unknown key.

        Maps to `llama_model_meta_val_str`.
        """
        name = c_string(key, "key")
        return meta_text(lambda out, size: lib.llama_model_meta_val_str(self._c, name, out, size), buf, bufSize)

    @overload
    def metaKeyByIndex(self, idx: int) -> str | None: ...
    @overload
    def metaKeyByIndex(self, idx: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaKeyByIndex(self, idx: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """Return the key of metadata entry `idx`, counted from 0.

        Without a buffer: returns a str, or None past the end. With `buf` and `bufSize`: as `metaValStr`.

        Maps to `llama_model_meta_key_by_index`.
        """
        return meta_text(lambda out, size: lib.llama_model_meta_key_by_index(self._c, idx, out, size), buf, bufSize)

    @overload
    def metaValStrByIndex(self, i: int) -> str | None: ...
    @overload
    def metaValStrByIndex(self, i: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaValStrByIndex(self, i: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """Return the value of metadata entry `i`, counted from 0, as text.

        Without a buffer: returns a str, or None past the end. With `buf` and `bufSize`: as `metaValStr`.

        Maps to `llama_model_meta_val_str_by_index`.
        """
        return meta_text(lambda out, size: lib.llama_model_meta_val_str_by_index(self._c, i, out, size), buf, bufSize)
