"""Loading a model in llama-cpp-python's spelling: the constructor of `Llama`, and facts about the model."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import DEFAULT_SEED, Token
from llama_cffi.compat import parameters
from llama_cffi.compat.memory import BaseLlamaCache
from llama_cffi.compat.tokenizer import LlamaTokenizer
from llama_cffi.compat.unsupported import unsupported_attribute
from llama_cffi.context.context import Context
from llama_cffi.model.adapter import Adapter
from llama_cffi.model.model import Model
from llama_cffi.system import numaInit

if TYPE_CHECKING:
    from typing import NoReturn

    from typing_extensions import Self


class LlamaBase:
    """The model and the context of a `Llama`."""

    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int = 0,
        split_mode: int = 1,
        main_gpu: int = 0,
        tensor_split: list[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: dict[str, bool | int | float | str] | None = None,
        seed: int = DEFAULT_SEED,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | None = -1,
        pooling_type: int = -1,
        attention_type: int = -1,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = 1.0,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool = False,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = False,
        last_n_tokens_size: int = 64,
        lora_base: str | None = None,
        lora_scale: float = 1.0,
        lora_path: str | None = None,
        numa: bool | int = False,
        chat_format: str | None = None,
        chat_handler: Any = None,
        draft_model: Any = None,
        tokenizer: Any = None,
        type_k: int | None = None,
        type_v: int | None = None,
        spm_infill: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        """Load a model. `n_ctx` 0 is what the model was trained with; `n_threads` None is what the machine has free.

        Raises ValueError if the file does not exist, and what `Model.load` and `Context.initFromModel` raise.
        """
        options = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        parameters.check_supported(options, kwargs)
        self._options = {**options, **kwargs}
        self._stack = ExitStack()
        self.model_path = model_path
        if not os.path.exists(model_path) and not str(model_path).startswith("hf:"):
            raise ValueError(f"model_path does not exist: {model_path}")
        strategy = parameters.numa(numa)
        if strategy is not None:
            numaInit(strategy)
        self.verbose, self.spm_infill, self.last_n_tokens_size = verbose, spm_infill, last_n_tokens_size
        self.lora_base, self.lora_scale, self.lora_path = lora_base, lora_scale, lora_path
        self.chat_format, self.chat_handler, self.draft_model = chat_format, chat_handler, draft_model
        self.cache: BaseLlamaCache | None = None
        self._logits_all, self._embedding = logits_all, embedding
        self._random = random.Random()
        self.set_seed(seed)
        try:
            self._model = self._stack.enter_context(Model.load(model_path, parameters.model_params(options)))
            self.metadata = self._read_metadata()
            self.tokenizer_ = tokenizer or LlamaTokenizer(self)
            self._params = parameters.context_params(self._options, self._model)
            self.n_batch: int = self._params.nBatch
            self.context_params = parameters.snake_case(options, self._params, embedding)
            self._adapter = None if lora_path is None else Adapter.loraInit(self._model, lora_path)
            self._ctx: Context | None = None
            if not (embedding or vocab_only):
                self.context  # noqa: B018 - makes it now: an error belongs to the constructor
        except BaseException:
            self._stack.close()
            raise

    @property
    def context(self) -> Context:
        """The context that generates text. With `embedding=True`, the first use makes it."""
        if self._ctx is None:
            self._ctx = self._stack.enter_context(Context.initFromModel(self._model, self._params))
            if self._adapter is not None:
                self._ctx.setAdapterLora(self._adapter, self.lora_scale)
        return self._ctx

    def _read_metadata(self) -> dict[str, str]:
        pairs = [
            (self._model.metaKeyByIndex(i), self._model.metaValStrByIndex(i)) for i in range(self._model.metaCount)
        ]
        return {key: value for key, value in pairs if key is not None and value is not None}

    # Facts

    def n_ctx(self) -> int:
        """Return the size of the context window, in tokens."""
        return self._params.nCtx if self._ctx is None else self._ctx.nCtx

    def n_embd(self) -> int:
        """Return the width of the embeddings."""
        return self._model.nEmbd

    def n_vocab(self) -> int:
        """Return the number of tokens of the vocabulary."""
        return self._model.vocab.nTokens

    def token_eos(self) -> Token:
        """Return the end-of-sequence token, or -1."""
        return self._model.vocab.eos

    def token_bos(self) -> Token:
        """Return the beginning-of-sequence token, or -1."""
        return self._model.vocab.bos

    def token_nl(self) -> Token:
        """Return the newline token, or -1."""
        return self._model.vocab.nl

    def tokenizer(self) -> LlamaTokenizer:
        """Return the tokenizer of the model."""
        return LlamaTokenizer(self)

    @property
    def ctx(self) -> NoReturn:
        """Not supported."""
        raise unsupported_attribute(
            "Llama.ctx, a pointer for ctypes", "llama.context is a Context, and llama_cffi.lib has C"
        )

    @property
    def model(self) -> NoReturn:
        """Not supported."""
        raise unsupported_attribute(
            "Llama.model, a pointer for ctypes", "llama._model is a Model, and llama_cffi.lib has C"
        )

    # Tokens

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[Token]:
        """Convert UTF-8 text to tokens. `add_bos` adds what the model adds to every text; `special` parses control
        tokens.
        """
        found: list[Token] = self.tokenizer_.tokenize(text, add_bos, special)
        return found

    def detokenize(self, tokens: list[Token], prev_tokens: list[Token] | None = None, special: bool = False) -> bytes:
        """Convert tokens to UTF-8 bytes. `special` spells control tokens out."""
        found: bytes = self.tokenizer_.detokenize(tokens, prev_tokens=prev_tokens, special=special)
        return found

    # Life

    def set_seed(self, seed: int) -> None:
        """Set the seed of the requests that do not pass one."""
        self._seed = parameters.seed_number(seed)
        self._random.seed(None if self._seed == DEFAULT_SEED else self._seed)

    def _next_seed(self, seed: int | None) -> None:
        """Set the seed of one request."""
        self._seed = self._random.getrandbits(32) if seed is None else parameters.seed_number(seed)

    def close(self) -> None:
        """Free the model and its contexts. Closing twice is harmless."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A pickled object is its parameters: loading it loads the model again."""
        return dict(self._options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
