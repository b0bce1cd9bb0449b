"""`load`: from the name of a model file to an `LLM`, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._core.arguments import StrPath
from llama_cffi.context.context import Context
from llama_cffi.llm.llm import LLM
from llama_cffi.llm.options import check_names
from llama_cffi.model.model import Model

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama_cffi.chat.template import ChatTemplate
    from llama_cffi.llm.options import LoadFields


def load(
    path: StrPath,
    *,
    template: ChatTemplate | str | None = None,
    untrusted: bool = False,
    **fields: Unpack[LoadFields],
) -> LLM:
    """Load a model from a GGUF file, and return an `LLM` that completes prompts, chats and embeds.

    `hf:org/repo/file.gguf` names a file on the Hugging Face Hub; see `Model.load`, also for `untrusted`. `template` is
    a chat template, for a model without one. `fields` are those of `Model.Params` and of `Context.Params`:

    - `nCtx`: the size of the context window in tokens, for all requests together; by default what the model was trained
      with, at most 4,096
    - `nSeqMax`: how many requests run at once, 4 by default
    - `nThreads`: the number of threads
    - `nGpuLayers`: how many layers go to a GPU, after `Ggml.Backend.vkLoad()`; by default all
    - `poolingType`: how `embed` combines the vectors of tokens

    Raises what `Model.load` raises; TypeError and ValueError for wrong fields.
    """
    of_model, of_context = Model.Params._fields(), Context.Params._fields()
    check_names("load", fields, ["path", "template", "untrusted", *of_model, *of_context])
    params = Model.Params(**{name: value for name, value in fields.items() if name in of_model})  # type: ignore[arg-type]
    rest = {name: value for name, value in fields.items() if name in of_context}
    Context.Params(**rest)  # type: ignore[arg-type]  # wrong values are refused before the load
    model = Model.load(path, params, untrusted=untrusted)
    try:
        llm = LLM.__new__(LLM)
        llm._set_up(model, template, rest, owned=True)
    except BaseException:
        model.close()
        raise
    return llm
