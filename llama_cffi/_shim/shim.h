/* The hand-written C side of the binding: the guard's runtime, the log ring, the choice of CPU variant.
 *
 * cffi reads the declarations between the two CDEF marks as they stand; keep them plain C without macros. */
#ifndef LLAMA_CFFI_SHIM_H
#define LLAMA_CFFI_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct llama_batch;

#ifdef __cplusplus
extern "C" {
#endif

/* CDEF begin */

/* How a guarded call failed. */
enum shim_error_kind {
    SHIM_OK,
    SHIM_ASSERT,      /* a GGML_ASSERT on the calling thread */
    SHIM_EXCEPTION,   /* a C++ exception */
    SHIM_NO_MEMORY,   /* std::bad_alloc or std::length_error */
    SHIM_PYTHON,      /* a signal handler of Python raised during the call */
    SHIM_UNAVAILABLE, /* the function lives in a module that is not loaded, or that lacks it */
};

/* Installs the log ring and the guard's abort callback. Call once, before anything else. */
void shim_init(void);

/* Text logged by llama.cpp since the outermost guarded call on this thread began, oldest first, one line each, cut to
 * the last `size` - 1 bytes. Returns the number of bytes written, without the closing NUL. */
size_t shim_log_since_call(char * buffer, size_t size);

/* Whether lines are kept for shim_log_take, which hands them to a Python target when a call into llama.cpp ends. */
void shim_log_keep(bool keep);

/* Moves the oldest kept line to `buffer`, cut to `size` - 1 bytes. Returns its level, or -1 if there is none. */
int shim_log_take(char * buffer, size_t size);

/* What interrupts a computation: `*data` becoming non-zero, or a signal that Python wants to handle (Ctrl-C) while the
 * main thread is inside the call. `data` is an `int32_t *`, or NULL. Fits ggml_abort_callback. */
bool shim_abort(void * data);

/* What a CPU variant of ggml is and whether it runs here. */
struct shim_variant {
    int  score;      /* ggml's own ranking; 0: this CPU lacks something */
    bool uses_amx;   /* compiled with AMX */
    bool uses_avx512;
    bool loadable;   /* false: the file could not be opened */
};

/* Asks one variant (a libggml-cpu-*.so) about itself, without registering it. */
void shim_variant_ask(const char * path, struct shim_variant * out);

/* Multiplies two small matrices on AMX, in a child process. True if the child survived with the right result. */
bool shim_amx_works(void);

/* Whether CPU and operating system together let AVX-512 run. */
bool shim_avx512_works(void);

/* Lets functions of a backend module (`cpu`, `rpc`, `vulkan`) be found in the file that ggml loaded. */
bool shim_module_open(const char * name, const char * path);

/* The index of the first token outside of 0 to n_vocab - 1; -1 if there is none. */
int32_t shim_first_outside(const int32_t * tokens, int32_t n, int32_t n_vocab);

/* What is wrong with a batch. */
enum shim_batch_problem {
    SHIM_BATCH_OK,
    SHIM_BATCH_EMPTY,
    SHIM_BATCH_TOKEN,    /* a token outside of the vocabulary */
    SHIM_BATCH_POSITION, /* a negative position */
    SHIM_BATCH_COUNT,    /* no sequence, or more than the batch has room for */
    SHIM_BATCH_SEQUENCE, /* a sequence that the context does not have */
};

/* Looks at every entry of a batch. `width` is how many sequences an entry has room for. Where something is wrong,
 * `*index` says at which entry; otherwise it is how many outputs the batch asks for. */
enum shim_batch_problem shim_batch_check(const struct llama_batch * batch, int32_t n_vocab, int32_t n_seq,
                                         int32_t width, int32_t * index);

/* CDEF end */

/* For the extension only: whether a call must look at shim_raise before it returns. */
bool shim_pending(void);
bool shim_log_waiting(void);

#ifdef __cplusplus
}
#endif
#endif
