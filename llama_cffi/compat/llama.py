"""`Llama`: llama-cpp-python's class, over `Model`, `Context` and the samplers of this package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi._core.base_types import Token
from llama_cffi.compat import completion
from llama_cffi.compat.chat import ChatMethods
from llama_cffi.compat.embedding import EmbeddingMethods
from llama_cffi.compat.hub import hub_path

if TYPE_CHECKING:
    from typing_extensions import Self


class Llama(EmbeddingMethods, ChatMethods):
    """llama-cpp-python's `Llama`. Parameters without a counterpart raise UnavailableError, which names ours.

    `verbose` has no effect: `logSet` directs the log. `logits_all` is needed only for `scores`, `eval_logits` of all
    tokens and the log-probabilities of the prompt. `context` is the Context that generates. One thread at a time uses
    an object; another one gets BusyError.
    """

    # Completion

    def create_completion(
        self,
        prompt: str | list[Token],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | list[str] | None = [],  # noqa: B006 - as there
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: Any = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: dict[int, float] | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Complete a prompt. Returns a dict, or with `stream` an iterator over dicts.

        `max_tokens` None or 0 is what fits the context window. `suffix` fills in between the prompt and it.
        """
        options = {name: value for name, value in locals().items() if name != "self"}
        run = completion.start_run(self, prompt, options)
        name = self.model_path if model is None else model
        if stream:
            return completion.chunks(run, name)
        return completion.whole(run, name, prompt, echo)

    __call__ = create_completion

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: list[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: bool | Literal["auto"] = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model of the Hugging Face Hub. `filename` may be a pattern (`*Q4_K_M.gguf`). Needs the extra `hf`."""
        return cls(hub_path(repo_id, filename, additional_files, local_dir, cache_dir), **kwargs)
