"""Functions: parameters, results, and where they went."""

from __future__ import annotations

from tests.mutations.model import (
    CDEF,
    GUARD,
    NAMES,
    Mutation,
    absorbed,
    calls,
    drops,
    refused,
    unavailable,
    writes,
)

_TOP_K = "    LLAMA_API struct llama_sampler * llama_sampler_init_top_k      (int32_t k);\n"
_TIME = "    LLAMA_API int64_t llama_time_us(void);\n"
_THREADS = (
    "    LLAMA_API void llama_set_n_threads(struct llama_context * ctx, int32_t n_threads, int32_t n_threads_batch);\n"
)
_CAUSAL = "    LLAMA_API void llama_set_causal_attn(struct llama_context * ctx, bool causal_attn);\n"
_EOG = "    LLAMA_API bool llama_vocab_is_eog(const struct llama_vocab * vocab, llama_token token);\n"
_TEMP_EXT = (
    "    LLAMA_API struct llama_sampler * llama_sampler_init_temp_ext   (float   t, float   delta, float exponent);\n"
)
_SYNC = "    LLAMA_API void llama_synchronize(struct llama_context * ctx);\n"
_CYCLES = "    GGML_API int64_t ggml_cycles(void);\n"
_DESC = "    LLAMA_API int32_t llama_model_desc(const struct llama_model * model, char * buf, size_t buf_size);\n"
_CHAIN_N = "    LLAMA_API int32_t                llama_sampler_chain_n  (const struct llama_sampler * chain);\n"
_COPY = """              llama_seq_id seq_id_src,
              llama_seq_id seq_id_dst,
                 llama_pos p0,
"""
_INFO = "    LLAMA_API const char * llama_print_system_info(void);\n"
_PRINT_OBJECT = "    GGML_API void    ggml_print_object (const struct ggml_object * obj);\n"
_ADVICE = r"\n.*codegen/rules/adapters\.py.*`python -m codegen needs`"

FUNCTION_ROWS = (
    Mutation(
        "parameter-added",
        "parameters, used",
        "llama.h",
        ((_TOP_K, _TOP_K.replace("int32_t k", "int32_t k, size_t min_keep")),),
        refused(
            r"llama\.h: llama_sampler_init_top_k .*chang.*\n"
            r"    struct llama_sampler \*llama_sampler_init_top_k\(int32_t k, size_t min_keep\);\n"
            r".*llama_cffi/\S+\.py:\d+.*\n"
            r"    struct llama_sampler \*llama_sampler_init_top_k\(int32_t k\);" + _ADVICE
        ),
    ),
    Mutation(
        "parameter-removed",
        "parameters, used",
        "llama.h",
        ((_THREADS, _THREADS.replace(", int32_t n_threads_batch", "")),),
        refused(r"llama_set_n_threads.*chang", r"int32_t n_threads\);\n.*llama_cffi/", _ADVICE),
    ),
    Mutation(
        "parameters-reordered",
        "parameters, used",
        "llama.h",
        (
            (
                _EOG,
                _EOG.replace(
                    "const struct llama_vocab * vocab, llama_token token",
                    "llama_token token, const struct llama_vocab * vocab",
                ),
            ),
        ),
        refused(r"llama_vocab_is_eog.*chang", _ADVICE),
    ),
    Mutation(
        "parameter-retyped",
        "parameters, used",
        "llama.h",
        ((_TOP_K, _TOP_K.replace("int32_t k", "float k")),),
        refused(r"llama_sampler_init_top_k.*chang", r"\(float k\)", _ADVICE),
    ),
    Mutation(
        "parameters-of-one-type-swapped",
        "parameters, used",
        "llama.h",
        ((_COPY, _COPY.replace("src", "x").replace("dst", "src").replace("seq_id_x", "seq_id_dst")),),
        refused(
            r"llama\.h: the parameters of llama_memory_seq_cp.*chang.*\n    mem, "
            r"seq_id_dst, seq_id_src, p0",
            r"llama_cffi/\S+:\d+.*\n    mem, seq_id_src, seq_id_dst, p0",
            _ADVICE,
        ),
    ),
    Mutation(
        "floats-swapped",
        "parameters, used",
        "llama.h",
        ((_TEMP_EXT, _TEMP_EXT.replace("float   delta, float exponent", "float   exponent, float delta")),),
        refused(r"the parameters of llama_sampler_init_temp_ext.*chang.*places"),
    ),
    Mutation(
        "parameter-pushed-along",
        "parameters, used",
        "llama.h",
        ((_TEMP_EXT, _TEMP_EXT.replace("float   delta, float exponent", "float   width, float delta")),),
        refused(r"the parameters of llama_sampler_init_temp_ext.*chang.*\n    t, width, delta\n"),
    ),
    Mutation(
        "parameter-renamed",
        "parameters, used",
        "llama.h",
        ((_TOP_K, _TOP_K.replace("int32_t k", "int32_t top_k")),),
        absorbed(calls("llama_sampler_init_top_k")),
    ),
    Mutation(
        "parameter-names-dropped",
        "parameters, used",
        "llama.h",
        ((_TEMP_EXT, _TEMP_EXT.replace("float   t, float   delta, float exponent", "float, float, float")),),
        absorbed(calls("llama_sampler_init_temp_ext")),
    ),
    Mutation(
        "int32-becomes-int",
        "parameters, used",
        "llama.h",
        ((_TOP_K, _TOP_K.replace("int32_t k", "int k")),),
        absorbed(calls("llama_sampler_init_top_k")),
    ),
    Mutation(
        "unused-parameter-added",
        "parameters, unused",
        "llama.h",
        ((_CHAIN_N, _CHAIN_N.replace("* chain", "* chain, bool deep")),),
        absorbed(
            calls("llama_sampler_chain_n"), writes(CDEF, "llama_sampler_chain_n(const struct llama_sampler *, bool);")
        ),
    ),
    Mutation(
        "unused-parameter-retyped",
        "parameters, unused",
        "ggml.h",
        ((_PRINT_OBJECT, "    GGML_API void ggml_print_object(const struct ggml_context * ctx, size_t index);\n"),),
        absorbed(calls("ggml_print_object")),
    ),
    Mutation(
        "void-becomes-code",
        "result",
        "llama.h",
        ((_CAUSAL, _CAUSAL.replace("API void", "API int32_t")),),
        refused(r"llama_set_causal_attn.*chang", r"int32_t llama_set_causal_attn\(", _ADVICE),
    ),
    Mutation(
        "bool-becomes-int",
        "result",
        "llama.h",
        ((_EOG, _EOG.replace("API bool", "API int")),),
        refused(r"llama_vocab_is_eog.*chang", _ADVICE),
    ),
    Mutation(
        "result-loses-const",
        "result",
        "llama.h",
        ((_INFO, _INFO.replace("const char", "char")),),
        absorbed(calls("llama_print_system_info"), writes(CDEF, "char *llama_print_system_info(void);")),
    ),
    Mutation(
        "parameter-gets-const",
        "result",
        "llama.h",
        ((_SYNC, _SYNC.replace("struct llama_context", "const struct llama_context")),),
        absorbed(calls("llama_synchronize")),
    ),
    Mutation(
        "result-of-an-unused-function",
        "result",
        "ggml.h",
        ((_CYCLES, _CYCLES.replace("int64_t", "uint64_t")),),
        absorbed(writes(CDEF, "uint64_t ggml_cycles(void);")),
    ),
    Mutation(
        "function-dropped",
        "function gone",
        "llama.h",
        ((_DESC, ""),),
        unavailable("llama_model_desc"),
    ),
    Mutation(
        "function-of-ggml-dropped",
        "function gone",
        "ggml-backend.h",
        (
            (
                "    GGML_API const char *                  ggml_backend_dev_description(ggml_backend_dev_t device);\n",
                "",
            ),
        ),
        unavailable("ggml_backend_dev_description"),
    ),
    Mutation(
        "unused-function-dropped",
        "function gone",
        "ggml.h",
        ((_CYCLES, ""),),
        absorbed(drops(GUARD, r"\bggml_cycles\b"), drops(CDEF, r"\bggml_cycles\b")),
    ),
    Mutation(
        "function-renamed",
        "function gone",
        "llama.h",
        ((_DESC, _DESC.replace("llama_model_desc", "llama_model_describe")),),
        unavailable("llama_model_desc"),
    ),
    Mutation(
        "function-renamed-with-an-alias",
        "function gone",
        "llama.h",
        (
            (
                _DESC,
                _DESC.replace("llama_model_desc", "llama_model_describe")
                + "#define llama_model_desc llama_model_describe\n",
            ),
        ),
        unavailable("llama_model_desc"),
    ),
    Mutation(
        "function-that-no-library-exports",
        "function gone",
        "llama.h",
        (),
        unavailable("llama_model_desc"),
        unexported=("llama_model_desc",),
    ),
    Mutation(
        "function-in-a-condition",
        "function gone",
        "llama.h",
        ((_DESC, f"#ifdef LLAMA_WITH_DESC\n{_DESC}#endif\n"),),
        unavailable("llama_model_desc"),
    ),
    Mutation(
        "cvec-by-its-old-name",
        "function gone",
        "llama.h",
        (("    LLAMA_API int32_t llama_set_adapter_cvec(\n", "    LLAMA_API int32_t llama_apply_adapter_cvec(\n"),),
        absorbed(writes(GUARD, "return llama_apply_adapter_cvec(ctx, data, len, n_embd, il_start, il_end);")),
    ),
    Mutation(
        "function-moved",
        "function elsewhere",
        "llama.h",
        ((_DESC, ""),),
        absorbed(calls("llama_model_desc")),
        elsewhere=(
            (
                "ggml-backend.h",
                "    GGML_API const char *                  ggml_backend_dev_name(ggml_backend_dev_t device);\n",
                "    struct llama_model;\n    GGML_API int32_t llama_model_desc(const struct "
                "llama_model * model, char * buf, "
                "size_t buf_size);\n"
                "    GGML_API const char *                  ggml_backend_dev_name(ggml_backend_dev_t device);\n",
            ),
        ),
    ),
    Mutation(
        "function-becomes-inline",
        "function elsewhere",
        "llama.h",
        (
            (
                _DESC,
                _DESC.replace("LLAMA_API", "static inline").replace(
                    ";\n", " { return model && buf && buf_size ? 0 : -1; }\n"
                ),
            ),
        ),
        unavailable("llama_model_desc"),
        unexported=("llama_model_desc",),
    ),
    Mutation(
        "function-becomes-variadic",
        "function elsewhere",
        "llama.h",
        ((_TOP_K, _TOP_K.replace("int32_t k", "int32_t k, ...")),),
        refused(r"llama_sampler_init_top_k.*chang", r"\(int32_t k, \.\.\.\)", _ADVICE),
    ),
    Mutation(
        "unused-function-becomes-variadic",
        "function elsewhere",
        "llama.h",
        ((_CHAIN_N, _CHAIN_N.replace("* chain", "* chain, ...")),),
        absorbed(
            writes(CDEF, "llama_sampler_chain_n(const struct llama_sampler *, ...);"),
            drops(GUARD, r"guard_llama_sampler_chain_n"),
        ),
    ),
    Mutation(
        "deprecated-around",
        "deprecated",
        "llama.h",
        ((_SYNC, '    DEPRECATED(LLAMA_API void llama_synchronize(struct llama_context * ctx), "wait yourself");\n'),),
        absorbed(calls("llama_synchronize"), writes(NAMES, "'llama_synchronize': 'wait yourself'")),
    ),
    Mutation(
        "deprecated-in-front",
        "deprecated",
        "llama.h",
        (
            (
                _SYNC,
                _SYNC.replace("LLAMA_API", '__attribute__((deprecated("wait yourself"))) LLAMA_API'),
            ),
        ),
        absorbed(calls("llama_synchronize"), writes(NAMES, "'llama_synchronize': 'wait yourself'")),
    ),
    Mutation(
        "function-new",
        "function elsewhere",
        "llama.h",
        ((_TIME, _TIME + "    LLAMA_API bool llama_model_is_small(const struct llama_model * model);\n"),),
        absorbed(calls("llama_model_is_small"), writes(NAMES, "'llama_model_is_small': 'Model.isSmall'")),
    ),
    Mutation(
        "two-functions-of-one-name",
        "function elsewhere",
        "llama.h",
        ((_TIME, _TIME + "    LLAMA_API bool llama_model_n_params_(const struct llama_model * model);\n"),),
        refused(r"llama_model_n_params_? and llama_model_n_params_? both map to Model\.nParams", "EXCEPTIONS"),
    ),
)
