"""Enumerators and macros."""

from __future__ import annotations

from tests.mutations.model import (
    ABSENT,
    CDEF,
    ENUMS,
    Mutation,
    absorbed,
    refused,
    valued,
    writes,
)

_RANK = "        LLAMA_POOLING_TYPE_RANK = 4, //"
_CAUSAL = "        LLAMA_ATTENTION_TYPE_CAUSAL      = 0,\n        LLAMA_ATTENTION_TYPE_NON_CAUSAL  = 1,\n"
_SEED = "#define LLAMA_DEFAULT_SEED 0xFFFFFFFF\n"
_THREADS = "#define GGML_MAX_N_THREADS      512\n"
_SEQ = "#define LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY 1\n"
_MAGIC = "#define GGML_FILE_VERSION 2\n"
_PRIO = """    enum ggml_sched_priority {
        GGML_SCHED_PRIO_LOW = -1,
        GGML_SCHED_PRIO_NORMAL,
        GGML_SCHED_PRIO_MEDIUM,
        GGML_SCHED_PRIO_HIGH,
        GGML_SCHED_PRIO_REALTIME
    };
"""
_TOKEN_TYPE = (
    "    enum llama_token_type { //TODO: remove, required until per token attributes are available from GGUF file\n"
)

ENUM_ROWS = (
    Mutation(
        "enum-renumbered",
        "enum",
        "llama.h",
        ((_CAUSAL, "        LLAMA_ATTENTION_TYPE_CAUSAL = 7,\n        LLAMA_ATTENTION_TYPE_NON_CAUSAL = 9,\n"),),
        absorbed(
            valued("LLAMA_ATTENTION_TYPE_NON_CAUSAL", 9),
            writes(ENUMS, "    CAUSAL = 7\n    NON_CAUSAL = 9\n"),
            writes(CDEF, "LLAMA_ATTENTION_TYPE_CAUSAL = ..."),
        ),
    ),
    Mutation(
        "enumerator-mid-way",
        "enum",
        "llama.h",
        (
            (
                "        LLAMA_MODEL_META_KEY_SAMPLING_TOP_P,\n",
                "        LLAMA_MODEL_META_KEY_SAMPLING_NEW,\n        LLAMA_MODEL_META_KEY_SAMPLING_TOP_P,\n",
            ),
        ),
        absorbed(valued("LLAMA_MODEL_META_KEY_SAMPLING_TOP_P", 3), writes(ENUMS, "    SAMPLING_TOP_P = 3\n")),
    ),
    Mutation(
        "enumerator-dropped",
        "enum",
        "llama.h",
        (("        LLAMA_POOLING_TYPE_MEAN = 1,\n", ""),),
        refused(
            r"llama\.h: enum llama_pooling_type has no enumerator .*PoolingType\.MEAN\b.*"
            r"llama_cffi/\S+\.py:\d+.*CLS, LAST, NONE, RANK, UNSPECIFIED\. Change the facade"
        ),
    ),
    Mutation(
        "unused-enumerator-dropped",
        "enum",
        "llama.h",
        (("        LLAMA_FTYPE_MOSTLY_Q5_1          = 9,  // except 1d tensors\n", ""),),
        absorbed(valued("LLAMA_FTYPE_MOSTLY_Q5_0", 8)),
    ),
    Mutation(
        "enumerator-renamed",
        "enum",
        "llama.h",
        ((_RANK, _RANK.replace("RANK", "SCORE")),),
        refused(r"PoolingType\.RANK\b.*llama_cffi/\S+\.py:\d+.*SCORE"),
    ),
    Mutation(
        "enumerator-with-another-prefix",
        "enum",
        "llama.h",
        ((_RANK, "        LLAMA_POOL_ANY = 5,\n" + _RANK),),
        refused(r"PoolingType\.\w+.*\S+:\d+.*POOLING_TYPE_CLS, .*POOL_ANY"),
    ),
    Mutation(
        "enumerator-that-the-shim-uses-renamed",
        "enum",
        "ggml.h",
        (("        GGML_LOG_LEVEL_CONT  = 5, // continue previous log\n", "        GGML_LOG_LEVEL_MORE  = 5,\n"),),
        refused(
            r"ggml\.h: enum ggml_log_level has no GGML_LOG_LEVEL_CONT\b.*"
            r"llama_cffi/_shim/log\.cpp:\d+"
            r".*GGML_LOG_LEVEL_MORE"
        ),
    ),
    Mutation(
        "enum-becomes-macros",
        "enum and macros",
        "llama.h",
        (
            (
                "    enum llama_process_type {\n        LLAMA_PROCESS_TYPE_ENCODE,\n        "
                "LLAMA_PROCESS_TYPE_DECODE,\n    };\n",
                "#define LLAMA_PROCESS_TYPE_ENCODE 0\n#define LLAMA_PROCESS_TYPE_DECODE 1\n",
            ),
            (
                "                             enum llama_process_type   type,\n",
                "                             int32_t   type,\n",
            ),
        ),
        refused(
            r"llama\.h: enum llama_process_type .*chang.*\n    LLAMA_PROCESS_TYPE_ENCODE: "
            r"a constant of llama\.h\n"
            r".*llama_cffi/\S+:\d+"
        ),
    ),
    Mutation(
        "unused-enum-becomes-macros",
        "enum and macros",
        "llama.h",
        (
            (
                _TOKEN_TYPE + "        LLAMA_TOKEN_TYPE_UNDEFINED    = 0,\n",
                "#define LLAMA_TOKEN_TYPE_UNDEFINED 0\n" + _TOKEN_TYPE,
            ),
        ),
        absorbed(writes(CDEF, "#define LLAMA_TOKEN_TYPE_UNDEFINED ..."), valued("LLAMA_TOKEN_TYPE_UNDEFINED", 0)),
    ),
    Mutation(
        "macro-becomes-enum",
        "enum and macros",
        "llama.h",
        ((_SEED, "enum llama_seed { LLAMA_DEFAULT_SEED = 0xFFFFFFFF };\n"),),
        absorbed(valued("LLAMA_DEFAULT_SEED", 0xFFFFFFFF), writes(CDEF, "    LLAMA_DEFAULT_SEED = ...")),
    ),
    Mutation(
        "macro-becomes-constant",
        "enum and macros",
        "llama.h",
        ((_SEED, "static const uint32_t LLAMA_DEFAULT_SEED = 0xFFFFFFFF;\n"),),
        absorbed(valued("LLAMA_DEFAULT_SEED", 0xFFFFFFFF)),
    ),
    Mutation(
        "macro-of-another-value",
        "macro",
        "ggml.h",
        ((_THREADS, _THREADS.replace("512", "1024")),),
        refused(r"the field cpumask of struct ggml_threadpool_params .*chang.*\n    bool cpumask\[1024\];"),
    ),
    Mutation(
        "seed-of-another-value",
        "macro",
        "llama.h",
        ((_SEED, "#define LLAMA_DEFAULT_SEED 42\n"),),
        absorbed(valued("LLAMA_DEFAULT_SEED", 42), writes(CDEF, "#define LLAMA_DEFAULT_SEED ...")),
    ),
    Mutation(
        "macro-becomes-text",
        "macro",
        "llama.h",
        (("#define LLAMA_SESSION_VERSION 11\n", '#define LLAMA_SESSION_VERSION "11"\n'),),
        refused(
            r"llama\.h: LLAMA_SESSION_VERSION .*chang.*\n    LLAMA_SESSION_VERSION, a "
            r"constant of the kind str\n"
            r".*llama_cffi/\S+:\d+.*\n    LLAMA_SESSION_VERSION, a constant of the kind int"
        ),
    ),
    Mutation(
        "macro-dropped",
        "macro",
        "llama.h",
        ((_SEED, ""),),
        refused(
            r"llama\.h: LLAMA_DEFAULT_SEED\b.*llama_cffi/_core/base_types\.py:\d+.*\n"
            r"    #define LLAMA_DEFAULT_SEED 4294967295\n",
            r'has\("LLAMA_DEFAULT_SEED"\)',
        ),
    ),
    Mutation(
        "macro-that-is-asked-for-dropped",
        "macro",
        "llama.h",
        ((_SEQ, ""),),
        absorbed(writes(ABSENT, "'LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY'")),
    ),
    Mutation(
        "unused-macro-dropped",
        "macro",
        "ggml.h",
        ((_MAGIC, ""),),
        absorbed(),
    ),
    Mutation(
        "macro-takes-arguments",
        "macro",
        "llama.h",
        (("#define LLAMA_TOKEN_NULL -1\n", "#define LLAMA_TOKEN_NULL(x) (-1)\n"),),
        refused(r"LLAMA_TOKEN_NULL .*takes arguments"),
    ),
    Mutation(
        "macro-becomes-an-expression",
        "macro",
        "llama.h",
        (("#define LLAMA_TOKEN_NULL -1\n", "#define LLAMA_TOKEN_NULL ((llama_token) -1)\n"),),
        absorbed(valued("LLAMA_TOKEN_NULL", -1)),
    ),
)
