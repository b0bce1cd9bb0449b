"""Adapters for other llama.cpp versions: how to make a function that the facade calls from functions of the header.

A row applies to headers that have the functions in `requires` with exactly these types; it never names a version. Its
`body` becomes the body of the function that the facade calls (`needs.json` has the prototype and the names of the
parameters). A row without a body says that the function is unavailable. `complete.py` uses the first row that applies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

_Types: TypeAlias = tuple[str, ...]  # of the result and of the parameters


@dataclass(frozen=True)
class Adapter:
    """One row. `name` is the function that the facade calls. `body` is C++ that calls the header's own functions."""

    name: str
    body: str
    requires: dict[str, _Types] = field(default_factory=dict)
    why: str = ""
    names: _Types = ()  # the order of the header's parameters, if only their order differs
    always: bool = False  # applies even if the header has the function as the facade calls it


_SAMPLER = "struct llama_sampler *"
_CONTEXT = "struct llama_context *"
_MODEL = "const struct llama_model *"
_MTMD = "mtmd_context *"
_FROM_BUF = (_MTMD, "const unsigned char *", "size_t")

ADAPTERS = (
    Adapter(
        "llama_sampler_init_penalties",
        "return llama_sampler_init_penalties(penalty_last_n, penalty_repeat, penalty_freq, penalty_present);",
        {"llama_sampler_init_penalties": (_SAMPLER, "int32_t", "float", "float", "float")},
        "older versions take the size of the vocabulary from the candidates",
    ),
    Adapter(
        "llama_sampler_init_dry",
        "return llama_sampler_init_dry(vocab, dry_penalty_last_n, dry_multiplier, dry_base, dry_allowed_length, "
        "dry_penalty_last_n, seq_breakers, num_breakers);",
        {
            "llama_sampler_init_dry": (
                _SAMPLER,
                "const struct llama_vocab *",
                *("int32_t", "float", "float", "int32_t", "int32_t", "const char **", "size_t"),
            )
        },
        "older versions also take the context size, for a window of -1 tokens; the facade computes the window itself",
    ),
    Adapter(
        "llama_set_adapters_lora",
        "llama_clear_adapter_lora(ctx);\n"
        "for (size_t i = 0; i < n_adapters; i++) {\n"
        "    if (const int32_t code = llama_set_adapter_lora(ctx, adapters[i], scales[i])) {\n"
        "        return code;\n"
        "    }\n"
        "}\n"
        "return 0;",
        {
            "llama_clear_adapter_lora": ("void", _CONTEXT),
            "llama_set_adapter_lora": ("int32_t", _CONTEXT, "struct llama_adapter_lora *", "float"),
        },
        "older versions take one adapter at a time",
    ),
    Adapter(
        "llama_set_adapter_cvec",
        "return llama_apply_adapter_cvec(ctx, data, len, n_embd, il_start, il_end);",
        {
            "llama_apply_adapter_cvec": (
                *("int32_t", _CONTEXT, "const float *", "size_t", "int32_t", "int32_t", "int32_t"),
            )
        },
        "the function's name until 0.3.17",
    ),
    Adapter(
        "llama_init_from_model",
        'setenv("LLAMA_GRAPH_REUSE_DISABLE", "1", 0);\nreturn llama_init_from_model(model, params);',
        {"llama_clear_adapter_lora": ("void", _CONTEXT)},
        "older versions reuse a graph that lacks adapters added later",
        always=True,
    ),
    Adapter(
        "llama_model_n_embd_inp",
        "return llama_model_n_embd(model);",
        {"llama_model_n_embd": ("int32_t", _MODEL)},
        "models of older versions have one width only",
    ),
    Adapter(
        "llama_model_n_embd_out",
        "return llama_model_n_embd(model);",
        {"llama_model_n_embd": ("int32_t", _MODEL)},
        "models of older versions have one width only",
    ),
    Adapter(
        "llama_max_tensor_buft_overrides",
        "return 4096;",
        why="the value of newer versions; older versions have no limit",
    ),
    Adapter(
        "ggml_backend_rpc_start_server",
        "",
        {
            "ggml_backend_rpc_start_server": (
                *("void", "ggml_backend_t", "const char *", "const char *", "size_t", "size_t"),
            )
        },
        "older workers serve only one backend",
    ),
    Adapter(
        "mtmd_helper_bitmap_init_from_buf",
        "return mtmd_helper_bitmap_init_from_buf(const_cast<mtmd_context *>(ctx), buf, len, placeholder);",
        {"mtmd_helper_bitmap_init_from_buf": ("struct mtmd_helper_bitmap_wrapper", *_FROM_BUF, "bool")},
        "older versions take no parameters of videos",
    ),
    Adapter(
        "mtmd_helper_bitmap_init_from_buf",
        "return {mtmd_helper_bitmap_init_from_buf(const_cast<mtmd_context *>(ctx), buf, len), nullptr};",
        {"mtmd_helper_bitmap_init_from_buf": ("mtmd_bitmap *", *_FROM_BUF)},
        "older versions know neither videos nor placeholders",
    ),
    Adapter(
        "mtmd_helper_init_opt_default",
        "return {};",
        why="older versions take no parameters of videos",
    ),
    Adapter(
        "mtmd_decode_use_non_causal",
        "return mtmd_decode_use_non_causal(const_cast<mtmd_context *>(ctx));",
        {"mtmd_decode_use_non_causal": ("bool", _MTMD)},
        "older versions decide it for all chunks",
    ),
    Adapter(
        "mtmd_helper_decode_image_chunk",
        "return mtmd_helper_decode_image_chunk(ctx, lctx, chunk, encoded_embd, n_past, seq_id, n_batch, new_n_past);",
        {
            "mtmd_helper_decode_image_chunk": (
                *("int32_t", _MTMD, _CONTEXT, "mtmd_input_chunk *", "float *", "llama_pos", "llama_seq_id"),
                *("int32_t", "llama_pos *"),
            )
        },
        "older versions call nothing after a batch; the facade passes NULL",
    ),
    Adapter(
        "mtmd_get_audio_sample_rate",
        "return mtmd_get_audio_bitrate(const_cast<mtmd_context *>(ctx));",
        {"mtmd_get_audio_bitrate": ("int", _MTMD)},
        "the function's name until 0.3.16",
    ),
)


@dataclass(frozen=True)
class FieldAdapter:
    """A field that a descriptor of llama_cffi._core.compat_fields computes from other fields of the struct."""

    descriptor: str
    requires: tuple[str, ...]


FIELDS = {
    "llama_model_params.load_mode": FieldAdapter("LoadModeField", ("use_mmap", "use_mlock")),
    "llama_context_params.flash_attn_type": FieldAdapter("FlashAttnTypeField", ("flash_attn",)),
}
