"""Typedefs and callbacks."""

from __future__ import annotations

from tests.mutations.model import CDEF, Mutation, absorbed, refused, writes

_EVAL = "    typedef bool (*ggml_backend_sched_eval_callback)(struct ggml_tensor * t, bool ask, void * user_data);\n"
_ABORT = "    typedef bool (*ggml_abort_callback)(void * data);\n"
_PROGRESS = "    typedef bool (*llama_progress_callback)(float progress, void * user_data);\n"
_APPLY = (
    "        void                   (*apply) (      struct llama_sampler * smpl, "
    "llama_token_data_array * cur_p); // required\n"
)
_LOG = "    typedef void (*ggml_log_callback)(enum ggml_log_level level, const char * text, void * user_data);\n"
_RESET = "        void                   (*reset) (      struct llama_sampler * smpl);"
_CHANGE = r"\nChange the facade or the shim, and run `python -m codegen needs`\."

TYPE_ROWS = (
    Mutation(
        "token-widened",
        "typedef",
        "llama.h",
        (("    typedef int32_t llama_token;\n", "    typedef int64_t llama_token;\n"),),
        refused(
            r"llama\.h: llama_token .*chang.*\n    typedef int64_t llama_token;\n.*llama_cffi/\S+:\d+.*\n"
            r"    typedef int32_t llama_token;" + _CHANGE
        ),
    ),
    Mutation(
        "position-widened",
        "typedef",
        "llama.h",
        (("    typedef int32_t llama_pos;\n", "    typedef int64_t llama_pos;\n"),),
        refused(r"llama_pos.*chang", r"typedef int64_t llama_pos;"),
    ),
    Mutation(
        "sequence-narrowed",
        "typedef",
        "llama.h",
        (("    typedef int32_t llama_seq_id;\n", "    typedef int16_t llama_seq_id;\n"),),
        refused(r"llama_seq_id.*chang"),
    ),
    Mutation(
        "token-becomes-int",
        "typedef",
        "llama.h",
        (("    typedef int32_t llama_token;\n", "    typedef int llama_token;\n"),),
        absorbed(writes(CDEF, "typedef int llama_token;")),
    ),
    Mutation(
        "token-becomes-a-macro",
        "typedef",
        "llama.h",
        (("    typedef int32_t llama_token;\n", "#define llama_token int32_t\n"),),
        refused(r"chang.*\n    .*int32_t"),
    ),
    Mutation(
        "memory-becomes-another-struct",
        "typedef",
        "llama.h",
        (
            (
                "    typedef struct llama_memory_i * llama_memory_t;\n",
                "    typedef struct llama_memory_v2 * llama_memory_t;\n",
            ),
        ),
        refused(r"llama_memory_t.*chang", r"struct llama_memory_v2 \*llama_memory_t;"),
    ),
    Mutation(
        "unused-typedef-changed",
        "typedef",
        "ggml.h",
        (("    typedef uint8_t ggml_guid[16];\n", "    typedef int8_t ggml_guid[16];\n"),),
        absorbed(writes(CDEF, "typedef int8_t ggml_guid[16];")),
    ),
    Mutation(
        "progress-with-one-more",
        "callback",
        "llama.h",
        ((_PROGRESS, _PROGRESS.replace("float progress", "float progress, int32_t stage")),),
        refused(
            r"llama\.h: llama_progress_callback .*chang.*\n"
            r"    typedef bool \(\*llama_progress_callback\)\(float, int32_t, void \*\);\n.*"
            r"llama_cffi/\S+:\d+",
            r"typedef bool \(\*llama_progress_callback\)\(float, void \*\);" + _CHANGE,
        ),
    ),
    Mutation(
        "abort-with-one-more",
        "callback",
        "ggml.h",
        ((_ABORT, _ABORT.replace("void * data", "void * data, int node")),),
        refused(r"ggml_abort_callback.*chang"),
    ),
    Mutation(
        "eval-returns-nothing",
        "callback",
        "ggml-backend.h",
        ((_EVAL, _EVAL.replace("typedef bool", "typedef void")),),
        refused(r"ggml_backend_sched_eval_callback.*chang"),
    ),
    Mutation(
        "log-with-one-more",
        "callback",
        "ggml.h",
        ((_LOG, _LOG.replace("const char * text", "const char * text, size_t size")),),
        refused(r"ggml_log_callback.*chang"),
    ),
    Mutation(
        "sampler-member-retyped",
        "callback",
        "llama.h",
        ((_APPLY, _APPLY.replace("* cur_p", "* cur_p, int32_t seq")),),
        refused(r"the field apply of struct llama_sampler_i.*chang", r"int32_t\);"),
    ),
    Mutation(
        "sampler-member-new",
        "callback",
        "llama.h",
        ((_RESET, "        void (*prepare)(struct llama_sampler * smpl);\n" + _RESET),),
        refused(r"struct llama_sampler_i.*chang", r"void \(\*prepare\)\(struct llama_sampler \*\);"),
    ),
    Mutation(
        "sampler-member-dropped",
        "callback",
        "llama.h",
        ((_RESET + "                                 // can be NULL\n", ""),),
        refused(r"struct llama_sampler_i has no field reset", r"llama_cffi/\S+\.py:\d+"),
    ),
    Mutation(
        "sampler-member-that-nobody-uses-retyped",
        "callback",
        "llama.h",
        (
            (
                "        void (*backend_set_input)(struct llama_sampler * smpl);\n",
                "        bool (*backend_set_input)(struct llama_sampler * smpl);\n",
            ),
        ),
        absorbed(writes(CDEF, "bool (*backend_set_input)(struct llama_sampler *);")),
    ),
)
