"""Fields and structs: put in, dropped, swapped, retyped."""

from __future__ import annotations

from codegen.fit import needs
from tests.mutations.model import (
    ABSENT,
    CDEF,
    STRUCTS,
    Mutation,
    absorbed,
    at,
    calls,
    drops,
    refused,
    writes,
)

_N_CTX = "        uint32_t n_ctx;                 // text context, 0 = from model\n"
_N_BATCH = (
    "        uint32_t n_batch;               // logical maximum batch size that can be submitted to llama_decode\n"
)
_KNOWN = needs.load()
_DEFRAG_NAME = "llama_context_params.defrag_thold"
_LAZY = "llama_model_params.lazy_mode"
_SPLIT = "llama_model_params.tensor_split"
_DEFRAG = (
    "        float    defrag_thold;     // [DEPRECATED] defragment the KV cache if holes/size > thold, <= 0 disabled "
    "(default)\n"
)
_CTX_OTHER = "        struct llama_context * ctx_other;\n"
_THREADS = "        int32_t  n_threads;             // number of threads to use for generation\n"
_MAIN_GPU = "        int32_t main_gpu;\n"
_OFFLOAD = "        bool offload_kqv; // offload the KQV ops (including the KV cache) to GPU\n"
_TOKEN_DATA = "        float logit;    // log-odds of the token\n        float p;        // probability of the token\n"
_BATCH = '        int8_t       *  logits;   // TODO: rename this to "output"\n'
_BIAS = "        llama_token token;\n        float bias;\n"
_NO_PERF = "        bool no_perf; // whether to measure performance timings\n"

STRUCT_ROWS = (
    Mutation(
        "field-at-the-beginning",
        "field inserted",
        "llama.h",
        ((_N_CTX, "        uint64_t n_bytes_max; // new\n" + _N_CTX),),
        absorbed(
            at("llama_context_params", "n_bytes_max", 0),
            at("llama_context_params", "n_ctx", 8),
            writes(STRUCTS, 'nBytesMax = IntField("n_bytes_max", 64, False)'),
        ),
    ),
    Mutation(
        "field-mid-struct",
        "field inserted",
        "llama.h",
        ((_MAIN_GPU, "        double spread;\n" + _MAIN_GPU),),
        absorbed(
            at("llama_model_params", "spread", 32),
            at("llama_model_params", "main_gpu", 40),
            writes(STRUCTS, 'spread = FloatField("spread")'),
            writes(CDEF, "    double spread;\n    int32_t main_gpu;\n"),
        ),
    ),
    Mutation(
        "field-at-the-end",
        "field inserted",
        "llama.h",
        ((_CTX_OTHER, _CTX_OTHER + "        bool late;\n"),),
        absorbed(writes(STRUCTS, 'late = BoolField("late")'), writes(CDEF, "ctx_other;\n    bool late;\n")),
    ),
    Mutation(
        "field-in-a-result",
        "field inserted",
        "llama.h",
        (("        double t_load_ms;   //", "        double t_warm_ms;\n        double t_load_ms;   //"),),
        absorbed(at("llama_perf_context_data", "t_load_ms", 16), writes(STRUCTS, 'FloatField("t_warm_ms")')),
    ),
    Mutation(
        "field-in-a-struct-of-ggml",
        "field inserted",
        "ggml-backend.h",
        (("        const char * device_id;\n", "        int numa_node;\n        const char * device_id;\n"),),
        absorbed(at("ggml_backend_dev_props", "device_id", 40), writes(CDEF, "int numa_node;")),
    ),
    Mutation(
        "plain-field-dropped",
        "field removed",
        "llama.h",
        ((_DEFRAG, ""),),
        absorbed(
            writes(STRUCTS, f'defragThold = AbsentField("{_DEFRAG_NAME}", 0.0, "{_KNOWN.has(_DEFRAG_NAME)}")'),
            drops(CDEF, r"\bdefrag_thold\b"),
        ),
    ),
    Mutation(
        "field-of-an-enum-dropped",
        "field removed",
        "llama.h",
        (("        enum llama_lazy_mode lazy_mode; // on-demand reading of tensors marked by the arch\n", ""),),
        absorbed(writes(STRUCTS, f'AbsentField("{_LAZY}", enums.LazyMode(0), "{_KNOWN.has(_LAZY)}")')),
    ),
    Mutation(
        "load-mode-becomes-booleans-again",
        "field removed",
        "llama.h",
        (
            (
                "        enum llama_load_mode  load_mode;  // how to load the model\n",
                "        bool use_mmap;\n        bool use_mlock;\n",
            ),
        ),
        absorbed(writes(STRUCTS, 'loadMode = LoadModeField["LoadMode"]("load_mode", "LoadMode")')),
    ),
    Mutation(
        "callback-field-dropped",
        "field removed",
        "llama.h",
        (("        ggml_abort_callback abort_callback;\n", ""),),
        refused(
            r"llama\.h: struct llama_context_params has no field abort_callback\b.*\n    uint32_t n_ctx;",
            r"llama_cffi/context/params\.py:\d+.*\n    ggml_abort_callback abort_callback;\n",
            r'has\("llama_context_params\.abort_callback"\)',
        ),
    ),
    Mutation(
        "pointer-that-is-asked-for-dropped",
        "field removed",
        "llama.h",
        (("        struct llama_sampler_seq_config * samplers;\n", ""),),
        absorbed(drops(CDEF, r"seq_config \* ?samplers;")),
    ),
    Mutation(
        "field-renamed",
        "field removed",
        "llama.h",
        (("        llama_progress_callback progress_callback;\n", "        llama_progress_callback on_progress;\n"),),
        refused(r"has no field progress_callback", r"model/params\.py:\d+"),
    ),
    Mutation(
        "fields-swapped",
        "fields swapped",
        "llama.h",
        ((_N_CTX + _N_BATCH, _N_BATCH + _N_CTX),),
        absorbed(at("llama_context_params", "n_batch", 0), at("llama_context_params", "n_ctx", 4)),
    ),
    Mutation(
        "number-widened",
        "field retyped",
        "llama.h",
        ((_THREADS, _THREADS.replace("int32_t ", "int64_t ")),),
        absorbed(
            at("llama_context_params", "n_threads", 32), writes(STRUCTS, 'nThreads = IntField("n_threads", 64, True)')
        ),
    ),
    Mutation(
        "number-signed",
        "field retyped",
        "llama.h",
        ((_N_CTX, _N_CTX.replace("uint32_t", "int32_t")),),
        absorbed(writes(STRUCTS, 'nCtx = IntField("n_ctx", 32, True)')),
    ),
    Mutation(
        "bool-becomes-enum",
        "field retyped",
        "llama.h",
        (
            (_OFFLOAD, "        enum llama_offload offload_kqv;\n"),
            (
                "    struct llama_sampler_seq_config {\n",
                "    enum llama_offload { LLAMA_OFFLOAD_NONE, LLAMA_OFFLOAD_ALL };\n    "
                "struct llama_sampler_seq_config {\n",
            ),
        ),
        refused(
            r"llama\.h: the field offload_kqv of struct llama_context_params .*chang.*\n"
            r"    enum llama_offload offload_kqv;\n.*llama_cffi/\S+\.py:\d+.*\n    bool offload_kqv;\n",
            "run `python -m codegen needs`",
        ),
    ),
    Mutation(
        "enum-of-a-field-renamed",
        "field retyped",
        "llama.h",
        (
            ("    enum llama_attention_type {\n", "    enum llama_attn_type {\n"),
            ("        enum llama_attention_type    attention_type;", "        enum llama_attn_type attention_type;"),
        ),
        refused(
            r"llama\.h: enum llama_attention_type .*chang.*\n    LLAMA_ATTENTION_TYPE_UNSPECIFIED: "
            r"enum llama_attn_type\n.*llama_cffi/\S+:\d+"
        ),
    ),
    Mutation(
        "pointer-becomes-another",
        "field retyped",
        "llama.h",
        (("        const float * tensor_split;\n", "        const double * tensor_split;\n"),),
        absorbed(writes(ABSENT, f"'{_SPLIT}': '{_KNOWN.has(_SPLIT)}'")),
    ),
    Mutation(
        "pointer-that-nobody-asks-for-becomes-another",
        "field retyped",
        "ggml-backend.h",
        (("        const char * value;\n    };\n", "        const void * value;\n    };\n"),),
        refused(r"the field value of struct ggml_backend_feature.*chang", r"const void \*value;"),
    ),
    Mutation(
        "untouched-field-retyped",
        "field retyped",
        "llama.h",
        (("        bool op_offload;  // offload host tensor operations to device\n", "        int32_t op_offload;\n"),),
        absorbed(writes(STRUCTS, 'opOffload = IntField("op_offload", 32, True)')),
    ),
    Mutation(
        "array-longer",
        "field retyped",
        "ggml.h",
        (("#define GGML_MAX_DIMS           4\n", "#define GGML_MAX_DIMS           5\n"),),
        refused(r"the field ne of struct ggml_tensor .*chang.*\n    int64_t ne\[5\];"),
    ),
    Mutation(
        "key-shorter",
        "field retyped",
        "llama.h",
        (("        char key[128];\n", "        char key[64];\n"),),
        refused(r"the field key of struct llama_model_kv_override", r"char key\[64\];", r"char key\[128\];"),
    ),
    Mutation(
        "candidate-reordered",
        "struct passed by value",
        "llama.h",
        ((_TOKEN_DATA, "        float p;\n        float logit;\n"),),
        refused(
            r"llama\.h: struct llama_token_data .*chang.*\n    llama_token id; float p; float logit;\n",
            r"\n    llama_token id; float logit; float p;\n",
            r"llama_token_data .* words",
        ),
    ),
    Mutation(
        "candidate-with-one-more",
        "struct passed by value",
        "llama.h",
        ((_TOKEN_DATA, _TOKEN_DATA + "        float weight;\n"),),
        refused(r"struct llama_token_data.*chang", r"float p; float weight;"),
    ),
    Mutation(
        "candidates-with-one-more",
        "struct passed by value",
        "llama.h",
        (("        bool sorted;      //", "        bool shared;\n        bool sorted;      //"),),
        refused(r"struct llama_token_data_array.*chang", r"by position"),
    ),
    Mutation(
        "batch-with-one-more",
        "struct passed by value",
        "llama.h",
        ((_BATCH, _BATCH + "        float * weights;\n"),),
        refused(r"struct llama_batch.*chang", r"float \*weights;", r"the shim copies"),
    ),
    Mutation(
        "batch-reordered",
        "struct passed by value",
        "llama.h",
        (
            (
                "        llama_token  *  token;\n        float        *  embd;\n",
                "        float * embd;\n        llama_token * token;\n",
            ),
        ),
        refused(r"struct llama_batch.*chang"),
    ),
    Mutation(
        "made-by-the-facade-with-one-more",
        "struct passed by value",
        "llama.h",
        ((_BIAS, _BIAS + "        int32_t mode;\n"),),
        refused(r"struct llama_logit_bias.*chang", r"llama_logit_bias.* at 0"),
    ),
    Mutation(
        "made-by-the-facade-reordered",
        "struct passed by value",
        "llama.h",
        ((_BIAS, "        float bias;\n        llama_token token;\n"),),
        absorbed(at("llama_logit_bias", "bias", 0), at("llama_logit_bias", "token", 4)),
    ),
    Mutation(
        "struct-renamed",
        "struct renamed",
        "llama.h",
        (
            ("    struct llama_perf_sampler_data {\n", "    struct llama_sampler_perf {\n"),
            (
                "    LLAMA_API struct llama_perf_sampler_data llama_perf_sampler ",
                "    LLAMA_API struct llama_sampler_perf llama_perf_sampler ",
            ),
        ),
        refused(
            r"llama\.h: llama_perf_sampler .*chang.*\n    struct llama_sampler_perf llama_perf_sampler\(",
            r"llama_cffi/\S+:\d+.*\n    struct llama_perf_sampler_data llama_perf_sampler\(",
            r"codegen/rules/adapters\.py",
        ),
    ),
    Mutation(
        "struct-becomes-opaque",
        "struct renamed",
        "ggml-backend.h",
        (
            (
                "    struct ggml_backend_feature {\n        const char * name;\n        const char * value;\n    };\n",
                "    struct ggml_backend_feature;\n",
            ),
        ),
        refused(r"struct ggml_backend_feature .*chang.*\n    struct ggml_backend_feature;"),
    ),
    Mutation(
        "nested-struct",
        "nested",
        "llama.h",
        ((_NO_PERF, _NO_PERF + "        struct { int32_t depth; float ratio; } limits;\n"),),
        absorbed(at("llama_sampler_chain_params", "limits", 4), writes(STRUCTS, "Added by the facade: limits")),
    ),
    Mutation(
        "field-moves-into-an-anonymous-union",
        "nested",
        "llama.h",
        ((_N_CTX, "        union { uint32_t n_ctx; uint32_t n_cells; };\n"),),
        absorbed(
            at("llama_context_params", "n_cells", 0),
            writes(STRUCTS, 'nCtx = IntField("n_ctx", 32, False)'),
            writes(STRUCTS, 'nCells = IntField("n_cells", 32, False)'),
        ),
    ),
    Mutation(
        "field-moves-into-a-named-struct",
        "nested",
        "llama.h",
        (
            (
                "        enum ggml_type type_k; // data type for K cache [EXPERIMENTAL]\n",
                "        struct { enum ggml_type type_k; } cache;\n",
            ),
        ),
        absorbed(writes(STRUCTS, 'typeK = AbsentField("llama_context_params.type_k"')),
    ),
    Mutation(
        "bit-field",
        "bit field",
        "llama.h",
        ((_NO_PERF, _NO_PERF + "        uint32_t level : 3;\n"),),
        absorbed(writes(CDEF, "uint32_t level : 3;"), writes(STRUCTS, 'level = IntField("level", 3, False)')),
    ),
    Mutation(
        "bool-becomes-a-bit-field",
        "bit field",
        "llama.h",
        ((_NO_PERF, "        bool no_perf : 1;\n"),),
        absorbed(writes(CDEF, "bool no_perf : 1;"), writes(STRUCTS, 'noPerf = BoolField("no_perf")')),
    ),
    Mutation(
        "array-size-by-sizeof",
        "array",
        "llama.h",
        ((_NO_PERF, _NO_PERF + "        int32_t padding[64 / sizeof(int32_t)];\n"),),
        absorbed(at("llama_sampler_chain_params", "padding", 4), writes(CDEF, "int32_t padding[16];")),
    ),
    Mutation(
        "new-struct-with-functions",
        "struct renamed",
        "llama.h",
        (
            (
                "    LLAMA_API int64_t llama_time_us(void);\n",
                "    struct llama_cache { size_t size; };\n    LLAMA_API struct llama_cache llama_cache_make(void);\n"
                "    LLAMA_API int64_t llama_time_us(void);\n",
            ),
        ),
        absorbed(calls("llama_cache_make"), writes(CDEF, "struct llama_cache {\n    size_t size;\n};")),
    ),
)
