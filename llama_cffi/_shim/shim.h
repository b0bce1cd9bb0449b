/* The hand-written C side of the binding:
 *
 *   call.cpp, handles.cpp     the guard's runtime: failed calls, and handles that are in use
 *   raise.cpp, raise.h        turn a failed call into a Python exception
 *   log.cpp                   llama.cpp's log, for error messages and for a Python target
 *   abi.cpp                   which libraries are loaded
 *   cpu.cpp                   which variant of the CPU backend runs here
 *   compute.cpp, sample.cpp   decode and sample with checks, in one call each
 *   step.cpp                  a step of the engine: decode, and sample for all requests
 *   threads.cpp               adapt the number of compute threads to what else runs
 *   gbnf*.cpp, grammar.cpp    parse a grammar, and follow it
 *   grammar_sampler.cpp       the sampler that masks what a grammar does not allow
 *   log_probs.cpp             log-probabilities from a row of logits
 *   preconditions.cpp         check arguments that ggml does not
 *   tensors.cpp               check tensors and graphs
 *   rpc_cache.cpp             which files of an RPC worker's cache are whole
 *   tokenize.cpp              tokenize a long text in pieces
 *   chat.cpp                  llama.cpp's chat code, in a library of its own
 *   mtmd.cpp                  llama.cpp's code for images and sound, in a library of its own
 *   gate.cpp                  reader/writer locks: computing and adapters, reading and changing the list of backends
 *   ownership.cpp             Python types that own C objects and locks
 *   large_stack.cpp           calls on a thread with a larger stack
 *   callbacks.cpp             callbacks from C into Python
 *
 * This is the only place that declares the shim. cffi (build_ffi.py) and the stub (codegen/read/shim.py) read the text
 * between the two CDEF marks, so keep it to enums, structs of plain fields and functions with named parameters. The
 * comment above a function becomes its docstring in _native.pyi. */
#ifndef LLAMA_CFFI_SHIM_H
#define LLAMA_CFFI_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct llama_batch;
struct llama_context;
struct llama_sampler;
struct llama_vocab;
struct llama_adapter_lora;
struct llama_token_data_array;
struct ggml_tensor;
struct ggml_context;
struct ggml_cgraph;
struct ggml_backend_device;
struct ggml_backend_sched;
struct ggml_opt_context;
struct ggml_opt_dataset;
struct ggml_opt_result;
struct mtmd_bitmap;
struct mtmd_context;

#ifdef __cplusplus
extern "C" {
#endif

/* CDEF begin */

/* How a guarded call failed. */
enum shim_error_kind {
    SHIM_OK,
    SHIM_ASSERT,            /* a GGML_ASSERT failed on the calling thread */
    SHIM_EXCEPTION,         /* a C++ exception */
    SHIM_NO_MEMORY,         /* std::bad_alloc or std::length_error */
    SHIM_PYTHON,            /* a Python signal handler raised during the call */
    SHIM_UNAVAILABLE,       /* the function belongs to a module that is not loaded, or that lacks it */
    SHIM_CLOSED,            /* a handle was already freed */
    SHIM_BUSY,              /* the handle to free is in use by an outer call on this thread */
    SHIM_CHECK_INTERPRETER, /* not an error: check that we run in the main interpreter */
    SHIM_ABSENT,            /* this llama.cpp does not have the function */
    SHIM_GRAMMAR,           /* a grammar cannot be parsed, or needs too much work */
};

/* Installs the log and the guard's abort callback. Call it once, before anything else. Raises ImportError in a
 * subinterpreter: the state kept here belongs to the process. */
void shim_init(void);

/* Returns the digest of everything that _generated/layout.cpp asserts about llama.cpp's headers. */
uint64_t shim_abi(void);

/* Returns true if the loaded libraries that the extension calls are those that it was linked with. */
bool shim_libraries_agree(void);

/* Writes a line `file<TAB>id when linked<TAB>id now<TAB>path now` for each of these libraries. Returns the length of
 * the whole text; `buffer` gets at most `size` - 1 bytes of it and a closing NUL. */
size_t shim_libraries(char * buffer, size_t size);

/* Writes the id of the library in a file. The library is loaded as ggml would load it, and unloaded again. Returns
 * false if it cannot be loaded. */
bool shim_library_id(const char * path, char * buffer, size_t size);

/* Writes the text that llama.cpp logged since the outermost guarded call on this thread began: one line each, oldest
 * first, cut to the last `size` - 1 bytes. Returns the number of bytes written, without the closing NUL. */
size_t shim_log_since_call(char * buffer, size_t size);

/* Turns keeping of log lines for shim_log_take on or off. A Python target takes them when a call into llama.cpp ends. */
void shim_log_keep(bool keep);

/* Moves the oldest kept line to `buffer`, cut to `size` - 1 bytes. Returns its level, or -1 if there is none. */
int shim_log_take(char * buffer, size_t size);

/* Writes the path of the OpenMP runtime that computations use. Returns its length; 0 if there is none. */
size_t shim_openmp(char * buffer, size_t size);

/* Starts the OpenMP threads of a parallel region for which the calling thread does not choose their number. Returns false
 * if they cannot be started. */
bool shim_openmp_start(void);

/* Ends the OpenMP threads that this thread has started. It starts others when it computes again. */
void shim_openmp_release(void);

/* Abort callback (ggml_abort_callback). Returns true if `*data` is non-zero, or if Python has a signal to handle
 * (Ctrl-C) and the main thread is inside the call. `data` is an `int32_t *`, or NULL. */
bool shim_abort(void * data);

/* Properties of a variant of the CPU backend. */
struct shim_variant {
    int  score;       /* ggml's own ranking; 0: this CPU lacks an instruction set that the variant needs */
    bool uses_amx;    /* compiled with AMX */
    bool uses_avx512; /* compiled with AVX-512 */
    bool loadable;    /* false: the file could not be loaded */
};

/* Reads the properties of a variant (a libggml-cpu-*.so) without registering it as a backend. */
void shim_variant_ask(const char * path, struct shim_variant * out);

/* Multiplies two small matrices with AMX in a child process. Returns true if the result was right. */
bool shim_amx_works(void);

/* Returns true if the CPU and the operating system support AVX-512. */
bool shim_avx512_works(void);

/* Makes the functions of a backend module (`cpu`, `rpc`, `vulkan`) available. `path` is the file that ggml loaded.
 * Returns false if it is not loaded. */
bool shim_module_open(const char * name, const char * path);

/* Returns the index of the first token that is not in 0 to n_vocab - 1; -1 if there is none. */
int32_t shim_first_outside(const int32_t * tokens, int32_t n, int32_t n_vocab);

/* Acquires ggml's list of backends and devices for reading. Waits while another thread adds a backend. */
void shim_begin_listing(void);

/* Releases what shim_begin_listing acquired. */
void shim_end_listing(void);

/* Acquires ggml's list of backends and devices for adding one. Waits for the readers. Returns false, without the lock,
 * if this thread is one of them. */
bool shim_begin_registering(void);

/* Releases what shim_begin_registering acquired. */
void shim_end_registering(void);

/* Frees an adapter while nothing computes. In a callback of a computation it leaves it to the model. */
void shim_adapter_free(struct llama_adapter_lora * adapter);

/* What a context accepts, the state of its last outputs, and details of the last rejected batch. */
struct shim_limits {
    int32_t n_vocab;
    int32_t n_seq;
    int32_t n_batch;
    int32_t n_ubatch;
    int32_t n_outputs;  /* most outputs of a batch */
    int32_t n_embd;     /* width of an input embedding */
    int32_t n_pos;      /* positions that the model has embeddings for; 0: any */
    int32_t n_pos_embd; /* numbers in the position of an input embedding */
    bool    decodes;    /* has a KV cache */
    bool    causal;
    bool    embeds;        /* outputs embeddings: every entry of a batch is then an output */
    bool    wants_encoder; /* decoding needs encoder output, and nothing has been encoded yet */
    bool    diffuses;      /* outputs logits without a KV cache */

    int32_t reserved; /* capacity of llama.cpp's output buffer; a larger batch reallocates it */
    int32_t rows;     /* outputs of the last batch; 0 after a failure */
    int64_t computed; /* batches so far: as long as it stays, the outputs are those of the same batch */
    bool    logits;   /* true: the outputs include logits; false: embeddings only */

    int32_t index; /* the rejected entry; the number of entries if llama.cpp failed */
    int32_t value; /* the rejected value, or llama.cpp's error code */
};

/* Why a batch was rejected. */
enum shim_refusal {
    SHIM_BATCH_EMPTY         = -1,
    SHIM_BATCH_SIZE          = -2,  /* more than n_batch entries */
    SHIM_BATCH_OVER_UBATCH   = -3,  /* more than n_ubatch entries, which must be computed at once */
    SHIM_BATCH_TOKEN         = -4,  /* a token that is not in the vocabulary */
    SHIM_BATCH_POSITION      = -5,  /* a position that is negative or too large for any model */
    SHIM_BATCH_UNKNOWN       = -6,  /* a position that the model has no embedding for */
    SHIM_BATCH_COUNT         = -7,  /* an entry in no sequence, or in more than `width` */
    SHIM_BATCH_SEQUENCE      = -8,  /* a sequence that the context does not have */
    SHIM_BATCH_OUTPUTS       = -9,  /* more than n_outputs outputs */
    SHIM_BATCH_PINNED        = -10, /* the output buffer would be reallocated while arrays refer to it */
    SHIM_BATCH_WIDTH         = -11, /* embeddings of the wrong width */
    SHIM_BATCH_POSITION_DIMS = -12, /* embeddings whose positions have several numbers */
    SHIM_BATCH_NOT_ENCODED   = -13, /* decoding needs encoder output */
    SHIM_BATCH_FAILED        = -14, /* llama.cpp failed; its code is in `value` */
    SHIM_BATCH_THREADS       = -15, /* the threads for it cannot be started; their number is in `value` */
};

/* Whether more threads compute faster, where other programs use all CPUs: it is tried. */
struct shim_trial {
    int32_t phase;     /* 0: fewer threads; 1: more are tried; 2: more are kept */
    int32_t base;      /* threads before the trial */
    double  since;     /* when this number of threads began */
    double  others;    /* threads of other programs that run, on a longer average */
    double  work;      /* what was computed with this number of threads */
    double  worked;    /* ... and the seconds that it took */
    int32_t kept;      /* threads that were the best in the last trial */
    double  lowest;    /* work a second with as many threads as there are free CPUs; 0: not known */
    double  reference; /* work a second before the trial */
    double  next;      /* when more threads may be tried again */
    double  patience;  /* seconds from a trial that failed to the next one */
};

/* How many threads a context computes with at present, and what that was decided by. */
struct shim_threads {
    int32_t           single; /* threads for a batch of one token, while nothing else needs the CPUs */
    int32_t           batch;  /* threads for larger batches */
    int32_t           most;   /* the larger of both */
    int32_t           now;    /* limit of both at present */
    int32_t           cpus;   /* CPUs of the machine; 0: this process may not use all, so what others do is not known */
    int32_t           before; /* threads before that were raised last */
    int32_t           tries;  /* decisions since then */
    double            decided;   /* when the last decision was made */
    double            crowded;   /* seconds for which others have needed the CPUs */
    double            others;    /* threads of other programs that run, on average */
    double            lowered;   /* when `now` was lowered last: seconds of a monotonic clock */
    double            raised;    /* when it was raised last */
    double            patience;  /* seconds from a lowering until more threads are tried */
    double            began;     /* when the last computation began */
    double            marked;    /* when this window began */
    double            computed;  /* seconds of computing in this window */
    double            preempted; /* involuntary context switches of the process before this window */
    double            cpu;       /* CPU seconds of the process before this window */
    double            sampled;   /* when it was counted last how many threads run */
    double            sum;       /* sum of these counts in this window */
    int32_t           samples;   /* number of these counts */
    int32_t           size;      /* tokens of the computations that are compared */
    int32_t           odd;       /* computations of other sizes, one after the other */
    double            work;      /* what computations of about that size did in this window */
    double            worked;    /* ... and the seconds that they took */
    struct shim_trial trial;
};

/* A window of computing, as measured. */
struct shim_window {
    double at;        /* when it ended: seconds of any clock */
    double share;     /* the part of it that was spent computing */
    double preempted; /* involuntary context switches a second */
    double cpus;      /* CPUs in use while computing */
    double running;   /* threads of all processes that ran or waited for a CPU; negative: unknown */
    double work;      /* what was computed; 0: nothing that can be compared */
    double worked;    /* ... and the seconds that it took */
};

/* Starts adapting, with `single` threads for a batch of one token and `batch` threads for larger ones. `cpus` is the
 * number of CPUs of the machine, or 0 if this process may not run on all of them. */
void shim_threads_start(struct shim_threads * state, int32_t single, int32_t batch, int32_t cpus);

/* Decides how many threads to use after a window. Returns their number. */
int32_t shim_threads_decide(struct shim_threads * state, const struct shim_window * window);

/* Checks a private copy of a batch, then decodes or encodes it. `width` is the number of sequence ids that an entry has
 * space for, `n_embd` the width of an embedding. `pinned` says that arrays refer to the output buffer. `threads` adapts the
 * number of threads, unless it is NULL. Returns the number of outputs, or a negative shim_refusal. */
int32_t shim_compute(struct llama_context * ctx, struct shim_limits * limits, struct shim_threads * threads,
                     const struct llama_batch * batch, int32_t width, int32_t n_embd, bool encode, bool pinned);

/* Starts the threads that computing this many tokens takes on the calling thread. Returns 0, or the number of threads if
 * they cannot be started. shim_compute does so itself. */
int32_t shim_require_threads(struct llama_context * ctx, int32_t n_tokens);

/* Returns true if the process can start the threads of llama_model_quantize with this parameter; 1: none, 0: one for each
 * CPU. */
bool shim_can_quantize(int32_t nthread);

/* Checks only the number of entries and outputs of a batch. Returns 0, or a negative shim_refusal. */
int32_t shim_check_size(struct shim_limits * limits, int32_t n_tokens, int32_t n_outputs, bool encode, bool pinned);

/* Why no token was sampled. */
enum shim_no_token {
    SHIM_SAMPLE_NO_OUTPUT = -1, /* the entry has no logits */
    SHIM_SAMPLE_NAN       = -2, /* a logit is NaN, which cannot be ranked */
    SHIM_SAMPLE_NO_PICK   = -3, /* no sampler selected a token, or one removed the selected token */
    SHIM_SAMPLE_NO_MEMORY = -4,
    SHIM_SAMPLE_NONE_LEFT = -5, /* no candidate has a probability: all logits are -inf, or one is +inf or NaN */
};

/* Samples and accepts a token as llama_sampler_sample does, for a context without samplers of its own, and checks what
 * llama_sampler_sample asserts. `wanted` is n if only the n largest logits can be selected, or 0 if any can. Returns
 * the token, or a negative shim_no_token. */
int32_t shim_sample(struct llama_sampler * smpl, struct llama_context * ctx, const struct shim_limits * limits,
                    int32_t idx, int32_t wanted);

/* Lets a sampler accept tokens, in order. */
void shim_accept(struct llama_sampler * smpl, const int32_t * tokens, int32_t n);

/* Makes the sampler of a GBNF grammar, which starts at the rule `root`. If `lazy`, it starts once a pattern or a token has
 * triggered it. Returns NULL on failure. */
struct llama_sampler * shim_grammar(const struct llama_vocab * vocab, const char * text, const char * root, bool lazy,
                                    const char ** patterns, size_t n_patterns, const int32_t * tokens, size_t n_tokens);

/* Returns true if a sampler of shim_grammar is lazy and has not been triggered since its last reset. */
bool shim_grammar_waits(const struct llama_sampler * sampler);

/* Lets a sampler of shim_grammar that is not lazy follow a text before the first token. Returns false if it does not fit. */
bool shim_grammar_prefill(struct llama_sampler * sampler, const char * text, size_t size);

/* A step of the engine. Each request has a row: an entry of each of these arrays. */
struct shim_step {
    struct llama_batch *    batch;    /* whose tokens and positions become those of the next step, for sampled rows */
    int32_t                 n;        /* number of rows */
    int32_t                 done;     /* result: rows that are finished; the last one may have failed */
    struct llama_sampler ** samplers; /* the sampler of each row */
    int32_t *               wanted;   /* as for shim_sample */
    int32_t *               index;    /* the entry of the batch to sample from */
    bool *                  special;  /* the text spells control tokens out */
    int32_t *               token;    /* result: the token, or a negative shim_no_token */
    bool *                  ends;     /* result: it is an end-of-generation token */
    int32_t *               size; /* result: the bytes of its text; negative: more than `space`, which are missing */
    char *                  text; /* result: the texts, one at each `space` bytes */
    int32_t                 space;
};

/* Decodes the batch as shim_compute does, with `width` sequences for each entry, and then samples for all rows. Returns
 * what shim_compute returns. If a row fails, it is the last one of those done. */
int32_t shim_step_run(struct llama_context * ctx, struct shim_limits * limits, struct shim_threads * threads,
                      int32_t width, bool pinned, const struct llama_vocab * vocab, struct shim_step * step);

/* Samples for the rows after those that are done, on the thread of shim_step_run. */
void shim_step_go_on(const struct llama_vocab * vocab, struct shim_step * step);

/* Returns the logits of an entry, as llama_get_logits_ith does; NULL if the last batch has none. */
float * shim_logits(struct llama_context * ctx, const struct shim_limits * limits, int32_t idx);

/* Returns the natural logarithm of a token's probability under a row of logits. Writes the `n_top` most probable tokens to
 * `top`, best first, and their log-probabilities to `top_log_probs`. Returns NaN if a logit is NaN, or if `token` or
 * `n_top` is out of range. */
double shim_log_probs(const float * logits, int32_t n_vocab, int32_t token, int32_t n_top, int32_t * top,
                      double * top_log_probs);

/* Does this for `n` tokens, each under the logits of an entry of the last batch: from entry `first` on, on as many threads
 * as the decode used. The arrays have `n_top` elements for each token. Returns -1; the first entry that has no logits; or
 * SHIM_SAMPLE_NO_MEMORY. */
int32_t shim_score_rows(struct llama_context * ctx, const struct shim_limits * limits, int32_t first, int32_t n,
                        const int32_t * tokens, double * log_probs, int32_t n_top, int32_t * top,
                        double * top_log_probs);

/* Returns true if the contents of a file have the checksum that is its name, as in the cache of an RPC worker, or if the
 * file cannot be read. */
bool shim_is_cached_tensor(const char * path, const char * name);

/* Finds the bytes that follow a newline inside a token, and sets 256 flags in `goes_on`. Returns false if texts of this
 * vocabulary cannot be cut at a newline. */
bool shim_after_newline(const struct llama_vocab * vocab, bool * goes_on);

/* Returns the bytes of the longest text of a token, as the file spells it. */
int32_t shim_longest_text(const struct llama_vocab * vocab);

/* Tokenizes as llama_tokenize does, in pieces that end at a newline. For a SentencePiece vocabulary that adds nothing to
 * a text but one token at its beginning. Returns the number of tokens; negative if there are more than `room`. */
int32_t shim_tokenize(const struct llama_vocab * vocab, const char * text, int32_t size, int32_t * tokens, int32_t room,
                      bool add_special, bool parse_special, const bool * goes_on);

/* Acquires the adapter lock for computing (shared); see gate.hpp. Waits for writers. */
void shim_begin_reading(void);

/* Releases the adapter lock after computing. */
void shim_end_reading(void);

/* Acquires the adapter lock for loading or freeing an adapter (exclusive). Waits for readers. Returns false, without the
 * lock, on a thread that is computing in an outer call. */
bool shim_begin_writing(void);

/* Releases the adapter lock after loading or freeing an adapter. */
void shim_end_writing(void);

/* Makes computations stop and keeps callbacks from calling Python from now on: the interpreter is about to exit. */
void shim_stop(void);

/* Returns true after shim_stop. */
bool shim_stopping(void);

/* Returns the number of threads that are inside a callback into Python, or entering one. */
int shim_callbacks(void);

/* Returns true if this thread is in Python code that was called from C. */
bool shim_in_callback(void);

/* What is wrong with a tensor. */
enum shim_tensor_fault {
    SHIM_TENSOR_OK,
    SHIM_TENSOR_EMPTY,            /* it has no elements */
    SHIM_TENSOR_TOO_LARGE,        /* it has more than 2^44 elements */
    SHIM_TENSOR_NOT_WHOLE_BLOCKS, /* a row is not a multiple of the type's block */
    SHIM_TENSOR_STRIDES,          /* a stride or an offset is not a multiple of the element's size, or a stride is 0 */
    SHIM_TENSOR_OUTSIDE,          /* it reaches beyond the tensor that it is a view of */
};

/* Returns a context of this thread without memory for data, emptied: a constructor that is called with it shows what it
 * makes, and fails its assertions there. Valid until the next call. */
struct ggml_context * shim_probe(void);

/* Checks the tensors of a probe. Writes how many bytes they would take in a context, and how many their data. Returns a
 * shim_tensor_fault. */
int32_t shim_probe_size(struct ggml_context * ctx, size_t * objects, size_t * data);

/* Adds a tensor and all that it depends on to a graph, as ggml_build_forward_expand does, at any depth. Returns 0; if the
 * graph is too small, the size that it would need, and leaves it alone; -1 if memory is lacking. */
int32_t shim_graph_expand(struct ggml_cgraph * graph, struct ggml_tensor * tensor);

/* Why a graph cannot be computed. */
enum shim_graph_fault {
    SHIM_GRAPH_OK,
    SHIM_GRAPH_NO_DATA,     /* a tensor has no memory */
    SHIM_GRAPH_MEMORY,      /* a tensor is in memory that the device cannot use */
    SHIM_GRAPH_TYPE,        /* the CPU has no function for a type */
    SHIM_GRAPH_UNSUPPORTED, /* the device does not support the operation, or not for these types */
    SHIM_GRAPH_OPERANDS,    /* shapes, types or strides do not fit together */
    SHIM_GRAPH_NOT_OFFERED, /* nobody checks the arguments of this operation */
    SHIM_GRAPH_NAN,         /* a sort of more than 16 numbers, of which one could be NaN: it writes beyond its memory */
    SHIM_GRAPH_INDEX,       /* an index is out of range */
    SHIM_GRAPH_INDEX_UNKNOWN, /* an index would not be known before the computation */
};

/* Checks what a device would assert, or not check, when it computes a graph. With `allocates`, tensors may lack memory.
 * Writes the node that it stopped at, and 1 if no assertion can fail on the CPU's threads, else 0. Returns a
 * shim_graph_fault. */
int32_t shim_graph_check(struct ggml_cgraph * graph, struct ggml_backend_device * device, bool allocates,
                         int32_t * index, int32_t * threads);

/* As shim_graph_check, for a scheduler over several devices: for each operation, one must support it. */
int32_t shim_sched_check(struct ggml_cgraph * graph, struct ggml_backend_device ** devices, int32_t n_devices,
                         bool allocates, int32_t * index, int32_t * threads);

/* Returns the number of tensors that a graph refers to, counted generously; -1 if memory is lacking. */
int32_t shim_graph_tensors(struct ggml_cgraph * graph);

/* Allocates a graph by a scheduler, or only reserves memory for it. A scheduler replaces sources in the nodes by its own
 * copies: `nodes` gets the `n` nodes, `sources` the replaced sources, and the graph is left as it was. Returns false if
 * memory is lacking. */
bool shim_sched_alloc(struct ggml_backend_sched * sched, struct ggml_cgraph * graph, bool reserves,
                      struct ggml_tensor ** nodes, struct ggml_tensor ** sources, int32_t n);

/* Computes a graph that shim_sched_alloc has allocated, with the replaced sources meanwhile. Returns a ggml_status. */
int32_t shim_sched_compute(struct ggml_backend_sched * sched, struct ggml_cgraph * graph, struct ggml_tensor ** nodes,
                           struct ggml_tensor ** sources, int32_t n);

/* Returns true if a graph has these nodes, in any order. */
bool shim_graph_is(struct ggml_cgraph * graph, struct ggml_tensor ** nodes, int32_t n);

/* Copies a tensor and all that it depends on to a context with noAlloc and room for them. Copies of data have the same
 * memory, and others none, so that an allocator of the originals cannot take it from them. Replaces `*inputs`, one of the
 * originals, by its copy. Returns null if memory is lacking. */
struct ggml_tensor * shim_clone(struct ggml_context * ctx, struct ggml_tensor * tensor, struct ggml_tensor ** inputs);

/* Trains on a batch of a dataset, or evaluates it without `backward`, as ggml_opt_epoch does: all steps or none, so that
 * no exception of Python comes between them. `result` may be null. */
bool shim_opt_batch(struct ggml_opt_context * opt, struct ggml_opt_dataset * dataset, struct ggml_tensor * inputs,
                    int64_t index, bool backward, struct ggml_opt_result * result);

/* Writes up to `room` tensors of a graph that have no memory to `tensors`. Returns their number. */
int32_t shim_graph_unplaced(struct ggml_cgraph * graph, struct ggml_tensor ** tensors, int32_t room);

/* Makes tensors forget their memory, which is about to be freed. */
void shim_unplace(struct ggml_tensor ** tensors, int32_t n);

/* Starts the threads that a computation on `n` threads takes on the calling thread. Returns false if they cannot be
 * started. */
bool shim_start_threads(int32_t n);

/* Calls python_progress of callbacks.h, until shim_stop. Give C this function instead, and the following ones instead
 * of theirs. */
bool shim_on_progress(float progress, void * data);

/* Calls python_abort. Aborts after shim_stop. */
bool shim_on_abort(void * data);

/* Calls python_eval. Stops the computation after shim_stop. */
bool shim_on_eval(struct ggml_tensor * tensor, bool ask, void * data);

/* Calls python_custom, once for each tensor: a ggml_custom_op_t. The elements are 0 if it raises. */
void shim_on_custom(struct ggml_tensor * dst, int ith, int nth, void * data);

/* Calls shim_on_custom: a ggml_custom1_op_t. */
void shim_on_custom1(struct ggml_tensor * dst, const struct ggml_tensor * a, int ith, int nth, void * data);

/* Calls shim_on_custom: a ggml_custom2_op_t. */
void shim_on_custom2(struct ggml_tensor * dst, const struct ggml_tensor * a, const struct ggml_tensor * b, int ith,
                     int nth, void * data);

/* Calls shim_on_custom: a ggml_custom3_op_t. */
void shim_on_custom3(struct ggml_tensor * dst, const struct ggml_tensor * a, const struct ggml_tensor * b,
                     const struct ggml_tensor * c, int ith, int nth, void * data);

/* Calls python_sampler_name. */
const char * shim_sampler_name(const struct llama_sampler * sampler);

/* Calls python_sampler_accept. */
void shim_sampler_accept(struct llama_sampler * sampler, int32_t token);

/* Calls python_sampler_apply. */
void shim_sampler_apply(struct llama_sampler * sampler, struct llama_token_data_array * candidates);

/* Calls python_sampler_reset. */
void shim_sampler_reset(struct llama_sampler * sampler);

/* Calls python_sampler_clone. */
struct llama_sampler * shim_sampler_clone(const struct llama_sampler * sampler);

/* Calls python_sampler_free. */
void shim_sampler_free(struct llama_sampler * sampler);

/* Loads the library for images and sound, once. Returns false if this build does not have it. Its functions load it, too. */
bool shim_mtmd_open(void);

/* Decodes the bytes of an image or a sound. The decoder may allocate so many bytes of memory, if the library is from this
 * package's build. Returns null if it fails. */
struct mtmd_bitmap * shim_mtmd_decode(const struct mtmd_context * ctx, const uint8_t * data, size_t size,
                                      size_t memory);

/* Limits of a call of the chat library: CPU seconds, bytes that it may allocate at a time, and bytes of the stack on which
 * templates run. */
struct shim_chat_limits {
    double seconds;
    size_t memory;
    size_t stack;
};

/* A text of the chat library; free it with shim_chat_free_text. */
struct shim_chat_text {
    char * data;
    size_t size;
};

/* Loads the chat library, once. Returns false if it cannot be loaded. No function below may be called before that. */
bool shim_chat_open(const char * path);

/* Makes a template of its text in Jinja. Like the functions below, it ends early if Python has a signal to handle. Writes a
 * `chat_status` of vendor/build/chat/chat_api.h, which has functions of the same names. */
void * shim_chat_make_templates(const char * source, const char * bos, const char * eos,
                                const struct shim_chat_limits * given, int32_t * status, struct shim_chat_text * error);

/* Frees a template. */
void shim_chat_free_templates(void * templates);

/* Calls a function of the chat library, with JSON both ways. Returns a `chat_status`. */
int shim_chat_call(void * templates, const char * function, const char * json, size_t size,
                   const struct shim_chat_limits * given, struct shim_chat_text * result);

/* Makes a prompt with the grammar and the triggers of its answer, as JSON, and returns the parser of the answer. Writes a
 * `chat_status`. */
void * shim_chat_apply(void * templates, const char * json, size_t size, const struct shim_chat_limits * given,
                       int32_t * status, struct shim_chat_text * result);

/* Makes a parser for which all text is content. Writes a `chat_status`. */
void * shim_chat_make_parser(const struct shim_chat_limits * given, int32_t * status, struct shim_chat_text * error);

/* Frees a parser. */
void shim_chat_free_parser(void * parser);

/* Parses an answer from its beginning. Returns a `chat_status`. */
int shim_chat_parse(void * parser, const char * text, size_t size, bool partial, const struct shim_chat_limits * given,
                    struct shim_chat_text * result);

/* Converts a JSON Schema to a GBNF grammar. Returns a `chat_status`. */
int shim_chat_schema_to_grammar(const char * json, size_t size, const struct shim_chat_limits * given,
                                struct shim_chat_text * result);

/* Frees a text of the chat library. */
void shim_chat_free_text(struct shim_chat_text * text);

/* CDEF end */

/* For the extension (raise.h): whether shim_finish_call has something to do before a call returns to Python. */
bool shim_pending(void);
bool shim_log_waiting(void);

/* For the shim itself: whether the last guarded call on this thread failed. */
bool shim_failed(void);

/* Brackets calls into Python other than the callbacks of callbacks.h. */
void shim_enter_python(void);
void shim_leave_python(void);

#ifdef __cplusplus
}
#endif
#endif
