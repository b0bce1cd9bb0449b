/* The hand-written C side of the binding: the guard's runtime (call.cpp, handles.cpp), the log ring (log.cpp), which
 * libraries are loaded (abi.cpp), the choice of CPU variant (cpu.cpp), decoding and sampling in one call each
 * (compute.cpp, sample.cpp), log-probabilities (log_probs.cpp), what must not happen meanwhile (gate.cpp), and what calls
 * Python (raise.cpp, callbacks.cpp).
 *
 * cffi reads the declarations between the two CDEF marks as they stand; keep them plain C without macros. */
#ifndef LLAMA_CFFI_SHIM_H
#define LLAMA_CFFI_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct llama_batch;
struct llama_context;
struct llama_sampler;
struct llama_token_data_array;
struct ggml_tensor;

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
    SHIM_CLOSED,      /* a handle was freed before */
    SHIM_BUSY,        /* a call further up on this thread uses the handle that is to be freed */
    SHIM_CHECK_INTERPRETER,        /* no failure: to be looked at is which interpreter this is */
    SHIM_ABSENT,      /* this llama.cpp does not have the function */
};

/* Installs the log ring and the guard's abort callback. Call once, before anything else. Raises ImportError in any
 * interpreter but the main one: what is kept here is the process's. */
void shim_init(void);

/* The digest of everything that _generated/layout.cpp asserts of llama.cpp's headers. */
uint64_t shim_abi(void);

/* Whether the libraries that the extension's calls go to are those that it was linked with. */
bool shim_libraries_agree(void);

/* What each of them is: a line `file<TAB>id when linked<TAB>id now<TAB>path now`. Returns the number of bytes that all
 * of it takes, of which `buffer` gets the first `size` - 1 and a closing NUL. */
size_t shim_libraries(char * buffer, size_t size);

/* The id of a library in a file: it is loaded for that as ggml would, and no longer than that. False where it cannot
 * be. */
bool shim_library_id(const char * path, char * buffer, size_t size);

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

/* Keeps a handle alive until shim_unpin: another thread that frees it waits. NULL for one that was freed. */
void * shim_pin(const void * handle);
void shim_unpin(void * pin);

/* What a context accepts, what its last outputs are, and why it refused a batch. */
struct shim_limits {
    int32_t n_vocab;
    int32_t n_seq;
    int32_t n_batch;
    int32_t n_ubatch;
    int32_t n_outputs;   /* the most outputs of a batch */
    int32_t n_embd;      /* floats of an embedding that stands for a token */
    int32_t n_pos;       /* positions that the model knows; 0: any */
    int32_t n_pos_embd;  /* numbers in the position of an embedding */
    bool decodes;        /* has a memory */
    bool causal;
    bool embeds;         /* gives embeddings: then every entry gives output */
    bool wants_encoder;  /* nothing was encoded yet, and decoding needs it */
    bool diffuses;       /* gives logits without a memory */

    int32_t reserved;    /* outputs that llama.cpp's buffer has room for; one more moves it */
    int32_t rows;        /* outputs of the last batch; 0 after a failure */
    bool    logits;      /* whether they are logits too, or embeddings alone */

    int32_t index;       /* the entry that was refused; how many there are, where llama.cpp failed */
    int32_t value;       /* what was wrong with it, or llama.cpp's own code */
};

/* What is wrong with a batch, as a negative number. */
enum shim_refusal {
    SHIM_BATCH_EMPTY      = -1,
    SHIM_BATCH_SIZE       = -2,  /* more than n_batch */
    SHIM_BATCH_OVER_UBATCH      = -3,  /* more than n_ubatch, and must be computed at once */
    SHIM_BATCH_TOKEN      = -4,  /* outside of the vocabulary */
    SHIM_BATCH_POSITION   = -5,  /* negative, or beyond any */
    SHIM_BATCH_UNKNOWN    = -6,  /* a position that the model has no embedding for */
    SHIM_BATCH_COUNT      = -7,  /* in no sequence, or in more than there is room for */
    SHIM_BATCH_SEQUENCE   = -8,  /* a sequence that the context does not have */
    SHIM_BATCH_OUTPUTS    = -9,  /* more than n_outputs */
    SHIM_BATCH_PINNED     = -10, /* outputs that need a larger buffer, while arrays look at this one */
    SHIM_BATCH_WIDTH      = -11, /* embeddings of another width */
    SHIM_BATCH_POSITION_DIMS     = -12, /* embeddings whose positions have several numbers */
    SHIM_BATCH_NOT_ENCODED = -13,
    SHIM_BATCH_FAILED     = -14, /* llama.cpp's code is in `value` */
};

/* Checks a copy of a batch, which nobody else can change, and decodes or encodes it. `width` is how many sequences an
 * entry has room for, `n_embd` how many floats an embedding has; `pinned` says that arrays look at the outputs. Returns
 * how many outputs there are, or a refusal. */
int32_t shim_compute(struct llama_context * ctx, struct shim_limits * limits, const struct llama_batch * batch,
                     int32_t width, int32_t n_embd, bool encode, bool pinned);

/* The same for a number of entries and outputs alone: 0, or a refusal. */
int32_t shim_check_size(struct shim_limits * limits, int32_t n_tokens, int32_t n_outputs, bool encode, bool pinned);

/* Why there is no token. */
enum shim_no_token {
    SHIM_SAMPLE_NO_OUTPUT = -1,
    SHIM_SAMPLE_NAN       = -2, /* a logit is NaN, which has no place in an order */
    SHIM_SAMPLE_NO_PICK   = -3, /* no sampler picked, or one dropped what was picked */
    SHIM_SAMPLE_NO_MEMORY = -4,
};

/* What llama_sampler_sample does for a context without samplers of its own, with checks where that asserts. `wanted` says
 * that nothing but the so many largest logits can be picked; 0: anything. Returns the token, or why there is none. */
int32_t shim_sample(struct llama_sampler * smpl, struct llama_context * ctx, const struct shim_limits * limits,
                    int32_t idx, int32_t wanted);

/* The logits of an entry, as llama_get_logits_ith gives them; null where the last batch gave none. */
float * shim_logits(struct llama_context * ctx, const struct shim_limits * limits, int32_t idx);

/* The natural logarithm of a token's probability, by a row of logits. Writes the `n_top` most probable tokens to `top`,
 * best first, and their log-probabilities to `top_log_probs`. NaN if a logit is NaN or a number is out of range. */
double shim_log_probs(const float * logits, int32_t n_vocab, int32_t token, int32_t n_top, int32_t * top,
                      double * top_log_probs);

/* Which bytes follow a newline somewhere within a token: 256 flags. False where texts of this vocabulary cannot be cut. */
bool shim_after_newline(const struct llama_vocab * vocab, bool * goes_on);

/* llama_tokenize in pieces that end at a newline, for a SentencePiece vocabulary that adds nothing at the beginning of a
 * text but its first token, and nothing at the end. Negative where there is no room. */
int32_t shim_tokenize(const struct llama_vocab * vocab, const char * text, int32_t size, int32_t * tokens, int32_t room,
                      bool add_special, bool parse_special, const bool * goes_on);

/* The gate between computing (reading) and loading or freeing adapters (writing); see gate.hpp. Each waits for the
 * other. shim_begin_writing returns false on a thread that is computing, further up. */
void shim_begin_reading(void);
void shim_end_reading(void);
bool shim_begin_writing(void);
void shim_end_writing(void);

/* From here on computations stop, and no callback reaches Python any more: the interpreter is about to end. */
void shim_stop(void);
bool shim_stopping(void);

/* How many threads are inside a callback into Python, or on their way. */
int shim_callbacks(void);

/* Whether this thread is in Python code that was called from C. */
bool shim_in_callback(void);

/* What to give to C in place of the functions of callbacks.h: they call those until shim_stop. */
bool shim_on_progress(float progress, void * data);
bool shim_on_abort(void * data);
bool shim_on_eval(struct ggml_tensor * tensor, bool ask, void * data);
const char * shim_sampler_name(const struct llama_sampler * sampler);
void shim_sampler_accept(struct llama_sampler * sampler, int32_t token);
void shim_sampler_apply(struct llama_sampler * sampler, struct llama_token_data_array * candidates);
void shim_sampler_reset(struct llama_sampler * sampler);
struct llama_sampler * shim_sampler_clone(const struct llama_sampler * sampler);
void shim_sampler_free(struct llama_sampler * sampler);

/* CDEF end */

/* For the extension only: whether a call must look at shim_raise before it returns. */
bool shim_pending(void);
bool shim_failed(void);
bool shim_log_waiting(void);

/* Around calls into Python that are no callbacks of callbacks.h. */
void shim_enter_python(void);
void shim_leave_python(void);

#ifdef __cplusplus
}
#endif
#endif
