"""How the text of a header is written: what the preprocessor and the parser meet."""

from __future__ import annotations

from tests.mutations.model import CDEF, Mutation, absorbed, calls, refused, unavailable, writes

_TIME = "    LLAMA_API int64_t llama_time_us(void);\n"
_NO_PERF = "        bool no_perf; // whether to measure performance timings\n"
_AFTER_TIME, _AFTER_NO_PERF = 565, 467  # the lines of the pinned llama.h that come after these
_EXTEND = r"extend codegen/read/parse\.py"


def _after(text: str) -> tuple[tuple[str, str], ...]:
    return ((_TIME, f"{_TIME}    {text}\n"),)


TEXT_ROWS = (
    Mutation(
        "unknown-attribute",
        "attribute",
        "llama.h",
        _after("LLAMA_API void llama_fast(void) __attribute__((ms_abi));"),
        refused(rf"llama\.h:{_AFTER_TIME}: attribute 'ms_abi' may change a layout or a call.*_HARMLESS_ATTRIBUTES"),
    ),
    Mutation(
        "packed-struct",
        "attribute",
        "llama.h",
        (
            (
                _NO_PERF + "    } llama_sampler_chain_params;",
                _NO_PERF + "    } __attribute__((packed)) llama_sampler_chain_params;",
            ),
        ),
        refused(rf"llama\.h:{_AFTER_NO_PERF}: attribute 'packed'"),
    ),
    Mutation(
        "harmless-attribute",
        "attribute",
        "llama.h",
        _after("LLAMA_API __attribute__((cold, nonnull(1))) void llama_fast(const char * text);"),
        absorbed(calls("llama_fast")),
    ),
    Mutation(
        "c23-attribute",
        "attribute",
        "llama.h",
        _after("[[nodiscard]] LLAMA_API int llama_fast(void);"),
        refused(rf"cannot read the headers: .*llama\.h:{_AFTER_TIME}.*codegen/read/headers\.py"),
    ),
    Mutation(
        "new-header-included",
        "include",
        "llama.h",
        (('#include "gguf.h"\n', '#include "gguf.h"\n#include "llama-extra.h"\n'),),
        refused(r"the public headers include \S+/llama-extra\.h: add llama-extra\.h to PUBLIC_HEADERS"),
        elsewhere=(("llama-extra.h", "", "int llama_extra(void);\n"),),
    ),
    Mutation(
        "header-that-nothing-includes",
        "include",
        "llama.h",
        (),
        absorbed(),
        elsewhere=(("llama-extra.h", "", "int llama_extra(void);\n"),),
    ),
    Mutation(
        "included-header-is-missing",
        "include",
        "llama.h",
        (('#include "gguf.h"\n', '#include "gguf.h"\n#include "llama-extra.h"\n'),),
        refused(r"the C preprocessor failed:.*llama-extra\.h"),
    ),
    Mutation(
        "new-system-header",
        "include",
        "llama.h",
        (
            (
                "#include <stdbool.h>\n\n#ifdef LLAMA_SHARED",
                "#include <stdbool.h>\n#include <time.h>\n\n#ifdef LLAMA_SHARED",
            ),
        ),
        refused(r"the C preprocessor failed:.*time\.h.*A new system header needs an entry in .*_FAKE_HEADERS"),
    ),
    Mutation(
        "name-of-a-system-header",
        "include",
        "llama.h",
        _after("LLAMA_API void llama_wait(struct timespec * until, time_t start);"),
        refused(r"cannot read the headers: .*llama\.h: .*codegen/read/headers\.py"),
    ),
    Mutation(
        "comments-in-odd-places",
        "comments",
        "llama.h",
        _after("LLAMA_API /* a */ int32_t // b\n    llama_fast(/* void * p, */ int32_t /* c; } */ n\n    // d\n    );"),
        absorbed(calls("llama_fast"), writes(CDEF, "int32_t llama_fast(int32_t);")),
    ),
    Mutation(
        "comment-that-holds-code",
        "comments",
        "llama.h",
        _after('/* LLAMA_API void llama_fast(void); "\n    */ // \\'),
        absorbed(calls("llama_time_us")),
    ),
    Mutation(
        "crlf",
        "comments",
        "llama.h",
        (),
        absorbed(calls("llama_decode"), writes(CDEF, "bool no_perf;\n")),
        crlf=True,
    ),
    Mutation(
        "continued-lines",
        "comments",
        "llama.h",
        (
            (
                "    LLAMA_API int64_t llama_time_us(void);\n",
                "    LLAMA_API int64_t \\\n        llama_time_us( \\\n        void);\n",
            ),
        ),
        absorbed(calls("llama_time_us")),
    ),
    Mutation(
        "conditional-declarations",
        "conditions",
        "llama.h",
        ((_TIME, f"#if defined(__linux__) && !defined(__cplusplus)\n{_TIME}#else\n{_TIME}#endif\n"),),
        absorbed(calls("llama_time_us")),
    ),
    Mutation(
        "declared-twice-differently",
        "conditions",
        "llama.h",
        ((_TIME, _TIME + "    LLAMA_API int32_t llama_time_us(void);\n"),),
        refused(rf"llama\.h:{_AFTER_TIME}:\d+: llama_time_us is declared twice"),
    ),
    Mutation(
        "gnu-extension",
        "extensions",
        "llama.h",
        _after("__extension__ typedef __typeof__(1) llama_small;"),
        refused(rf"cannot read the headers: .*llama\.h:{_AFTER_TIME}"),
    ),
    Mutation(
        "int128",
        "extensions",
        "llama.h",
        _after("LLAMA_API __int128 llama_large(void);"),
        refused(rf"llama\.h:{_AFTER_TIME}:\d+: .*the type __int128", _EXTEND),
    ),
    Mutation(
        "atomic",
        "extensions",
        "llama.h",
        _after("LLAMA_API _Atomic int * llama_counter(void);"),
        refused(rf"llama\.h:{_AFTER_TIME}:\d+: .*the qualifier _Atomic", _EXTEND),
    ),
    Mutation(
        "long-double",
        "extensions",
        "llama.h",
        _after("LLAMA_API long double llama_exact(long double x);"),
        absorbed(calls("llama_exact"), writes(CDEF, "long double llama_exact(long double);")),
    ),
    Mutation(
        "float16",
        "extensions",
        "llama.h",
        _after("LLAMA_API _Float16 llama_half(void);"),
        refused(rf"cannot read the headers: .*llama\.h:{_AFTER_TIME}"),
    ),
    Mutation(
        "function-that-returns-a-function",
        "declarators",
        "llama.h",
        _after("LLAMA_API int32_t (*llama_pick(bool fast))(const char *, float (*)(int));"),
        absorbed(calls("llama_pick"), writes(CDEF, "int32_t (*llama_pick(bool))(const char *, float (*)(int));")),
    ),
    Mutation(
        "array-parameters",
        "declarators",
        "llama.h",
        _after("LLAMA_API void llama_fill(float out[4], int32_t (*rows)[GGML_MAX_DIMS]);"),
        absorbed(calls("llama_fill")),
    ),
    Mutation(
        "global-variable",
        "declarators",
        "llama.h",
        _after("LLAMA_API extern int llama_level;"),
        refused(rf"llama\.h:{_AFTER_TIME}:\d+: .*kind of declaration \(Decl\)", _EXTEND),
    ),
    Mutation(
        "enum-in-a-struct",
        "declarators",
        "llama.h",
        ((_NO_PERF, _NO_PERF + "        enum { LLAMA_SLOW, LLAMA_FAST } pace;\n"),),
        refused(rf"llama\.h:{_AFTER_NO_PERF}:\d+: .*a member of an unnamed enum", _EXTEND),
    ),
    Mutation(
        "pragma-pack",
        "declarators",
        "llama.h",
        _after("\n#pragma pack(push, 1)\n    struct llama_tight { char a; int b; };\n#pragma pack(pop)\n"),
        refused(r"llama\.h:\d+:\d+: .*kind of declaration \(Pragma\)", _EXTEND),
    ),
    Mutation(
        "va-list",
        "declarators",
        "ggml.h",
        (
            (
                "    GGML_API int64_t ggml_cycles(void);\n",
                "    GGML_API int64_t ggml_cycles(void);\n    GGML_API void ggml_vlog(const char * "
                "fmt, va_list args);\n",
            ),
            ("#include <stdbool.h>\n", "#include <stdbool.h>\n#include <stdarg.h>\n"),
        ),
        absorbed(writes("llama_cffi/_generated/report.md", "ggml_vlog")),
    ),
    Mutation(
        "header-is-missing",
        "include",
        "ggml-opt.h",
        (("#pragma once\n", "#error use ggml-train.h\n"),),
        refused(r"the C preprocessor failed:.*use ggml-train\.h"),
    ),
    Mutation(
        "function-hidden-by-a-macro",
        "conditions",
        "llama.h",
        (
            (
                "    LLAMA_API const char * llama_print_system_info(void);\n",
                "#define llama_print_system_info() llama_print_info(0)\n    LLAMA_API const char * "
                "llama_print_info(int level);\n",
            ),
        ),
        unavailable("llama_print_system_info"),
    ),
)
