"""What a model says about itself: its shape, its kind, its metadata."""

from __future__ import annotations

from typing import Any, overload

from llama_cffi._core.arguments import OutBuffer, StrOrBytes, c_string, optional_text, out_buffer, require_together
from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._generated.enums import Ftype, ModelMetaKey, RopeType

_FTYPES = frozenset(Ftype)


class ModelInfo(Handle):
    """The part of `Model` that only reads."""

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
    def isRecurrent(self) -> bool:
        """Whether the model keeps a state instead of a cache of keys and values (Mamba, RWKV).

        Maps to `llama_model_is_recurrent`.
        """
        return lib.llama_model_is_recurrent(self._c)

    @property
    def isHybrid(self) -> bool:
        """Whether some layers keep a state and others a cache (Jamba, Granite 4).

        Maps to `llama_model_is_hybrid`.
        """
        return lib.llama_model_is_hybrid(self._c)

    @property
    def isDiffusion(self) -> bool:
        """Whether the model fills in a text in no order (LLaDA, Dream).

        Maps to `llama_model_is_diffusion`.
        """
        return lib.llama_model_is_diffusion(self._c)

    @property
    def decoderStartToken(self) -> Token:
        """What the decoder of an encoder-decoder model begins with, or TOKEN_NULL.

        Maps to `llama_model_decoder_start_token`.
        """
        return lib.llama_model_decoder_start_token(self._c)

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
    def nHeadKv(self) -> int:
        """The number of heads that keys and values have; 0 for a model loaded with vocabOnly.

        Maps to `llama_model_n_head_kv`.
        """
        return lib.llama_model_n_head_kv(self._c) if lib.llama_model_n_layer(self._c) else 0

    @property
    def nEmbdInp(self) -> int:
        """The width of the embeddings that a batch may hold instead of tokens.

        Maps to `llama_model_n_embd_inp`.
        """
        return lib.llama_model_n_embd_inp(self._c)

    @property
    def nEmbdOut(self) -> int:
        """The width of the embeddings that a context gives.

        Maps to `llama_model_n_embd_out`.
        """
        return lib.llama_model_n_embd_out(self._c)

    @property
    def nLayerNextn(self) -> int:
        """The number of layers that predict several tokens ahead.

        Maps to `llama_model_n_layer_nextn`.
        """
        return lib.llama_model_n_layer_nextn(self._c)

    @property
    def nSwa(self) -> int:
        """How many tokens back a layer with a sliding window sees; 0 where there is none.

        Maps to `llama_model_n_swa`.
        """
        return lib.llama_model_n_swa(self._c)

    @property
    def nClsOut(self) -> int:
        """The number of classes of a classifier (of scores of a reranker); see `clsLabel`.

        Maps to `llama_model_n_cls_out`.
        """
        return lib.llama_model_n_cls_out(self._c)

    @property
    def ropeType(self) -> RopeType:
        """How positions turn queries and keys.

        Maps to `llama_model_rope_type`.
        """
        return RopeType(lib.llama_model_rope_type(self._c))

    @property
    def ropeFreqScaleTrain(self) -> float:
        """The scale of the rotations that the model was trained with.

        Maps to `llama_model_rope_freq_scale_train`.
        """
        return lib.llama_model_rope_freq_scale_train(self._c)

    @property
    def size(self) -> int:
        """The size of the weights in bytes.

        Maps to `llama_model_size`.
        """
        return lib.llama_model_size(self._c)

    @property
    def nParams(self) -> int:
        """The number of weights.

        Maps to `llama_model_n_params`.
        """
        return lib.llama_model_n_params(self._c)

    @property
    def ftype(self) -> Ftype | int:
        """The format of most weights: a guess from the tensors where the file does not say. A number if it is unknown.

        Maps to `llama_model_ftype`.
        """
        value = lib.llama_model_ftype(self._c) & ~Ftype.GUESSED
        return Ftype(value) if value in _FTYPES else value

    @overload
    def desc(self) -> str: ...
    @overload
    def desc(self, buf: OutBuffer, bufSize: int) -> int: ...
    def desc(self, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int:
        """A short description, such as `gemma3 270M Q4_K - Medium`.

        Without a buffer: a str. With `buf` and `bufSize`: as in `metaValStr`.

        Maps to `llama_model_desc`.
        """
        return self._text(lambda out, size: lib.llama_model_desc(self._c, out, size), buf, bufSize) or ""

    def clsLabel(self, i: int) -> str | None:
        """The label of a class, by its index from 0 to `nClsOut` - 1; None where it has none.

        Maps to `llama_model_cls_label`.
        """
        if not 0 <= i < 1 << 32:
            raise IndexError(f"i must be between 0 and {self.nClsOut - 1}, got {i}")
        with self._pinned() as pointer:
            return optional_text(lib.llama_model_cls_label(pointer, i))

    def chatTemplate(self, name: StrOrBytes | None = None) -> str | None:
        """The chat template that the file carries, under `name` or its default one; None where it has none.

        It is Jinja, which llama.cpp does not run: `chatApplyTemplate` recognizes the usual ones.

        Maps to `llama_model_chat_template`.
        """
        chosen = ffi.NULL if name is None else c_string(name, "name")
        with self._pinned() as pointer:
            return optional_text(lib.llama_model_chat_template(pointer, chosen))

    # Metadata

    @classmethod
    def metaKeyStr(cls, key: ModelMetaKey) -> str:
        """The name of a metadata entry that suggests how to sample, for `metaValStr`.

        Maps to `llama_model_meta_key_str`.
        """
        return optional_text(lib.llama_model_meta_key_str(ModelMetaKey(key))) or ""

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
        """A metadata value as text. Arrays are not among them.

        Without a buffer: a str, or None for an unknown key. With `buf` and `bufSize`: writes at most `bufSize` bytes
        with a closing NUL, and returns the value's length without it, or -1 for an unknown key.

        Maps to `llama_model_meta_val_str`.
        """
        name = c_string(key, "key")
        return self._text(lambda out, size: lib.llama_model_meta_val_str(self._c, name, out, size), buf, bufSize)

    @overload
    def metaKeyByIndex(self, idx: int) -> str | None: ...
    @overload
    def metaKeyByIndex(self, idx: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaKeyByIndex(self, idx: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """The name of a metadata entry, by its index from 0.

        Without a buffer: a str, or None past the end. With `buf` and `bufSize`: as in `metaValStr`.

        Maps to `llama_model_meta_key_by_index`.
        """
        return self._text(lambda out, size: lib.llama_model_meta_key_by_index(self._c, idx, out, size), buf, bufSize)

    @overload
    def metaValStrByIndex(self, i: int) -> str | None: ...
    @overload
    def metaValStrByIndex(self, i: int, buf: OutBuffer, bufSize: int) -> int: ...
    def metaValStrByIndex(self, i: int, buf: OutBuffer | None = None, bufSize: int | None = None) -> str | int | None:
        """A metadata value as text, by its index from 0.

        Without a buffer: a str, or None past the end. With `buf` and `bufSize`: as in `metaValStr`.

        Maps to `llama_model_meta_val_str_by_index`.
        """
        return self._text(lambda out, size: lib.llama_model_meta_val_str_by_index(self._c, i, out, size), buf, bufSize)

    @staticmethod
    def _text(call: Any, buf: OutBuffer | None, size: int | None) -> str | int | None:
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
