/* A step of the engine: one batch for all requests, then a token for each, its text, and whether it ends the text. One
 * call, so that Python is entered and the GIL is acquired once for all requests. */
#include "sample.hpp"
#include "team.hpp"

#include <algorithm>
#include <new>
#include <vector>

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

using sampling::Candidates;

constexpr int32_t PARALLEL  = 4;   // fewer outputs are read on the calling thread
constexpr int32_t NO_MEMORY = -2;  // llama.cpp's code for an allocation failure

/* What was found in the logits of a row. */
struct Found {
    Candidates candidates;
    int32_t    token;  // 0, or why there is none: a negative shim_no_token
};

thread_local std::vector<const float *> rows;
thread_local std::vector<Found>         found;  // of the last step

/* Makes room for `n` rows. Returns false if there is no memory: no exception may leave a function that C calls. */
bool reserve_rows(int32_t n) try {
    rows.resize(static_cast<size_t>(n));
    if (found.size() < rows.size()) {
        found.resize(rows.size());
    }
    return true;
} catch (const std::bad_alloc &) {
    return false;
}

/* Reads the logits of all rows, on as many threads as the decode used: a row can have a megabyte, which other threads have
 * just written. These are the threads of OpenMP's last team, if the number is the same. */
void read_logits(llama_context * ctx, const shim_limits & limits, const shim_step & step) {
    const int32_t n = step.n;
    for (int32_t i = 0; i < n; i++) {
        rows[i] = shim_logits(ctx, &limits, step.index[i]);
    }
    const float * const * logits = rows.data();  // thread_local: another one in each thread
    Found *               out    = found.data();
#ifdef _OPENMP
    const int32_t threads = n < PARALLEL ? 1 : team::region(llama_n_threads_batch(ctx));
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
#endif
    for (int32_t i = 0; i < n; i++) {
        try {
            out[i].token = logits[i] == nullptr ? SHIM_SAMPLE_NO_OUTPUT
                           : sampling::find_candidates(out[i].candidates, logits[i], limits.n_vocab, step.wanted[i])
                               ? 0
                               : SHIM_SAMPLE_NAN;
        } catch (const std::bad_alloc &) {
            out[i].token = SHIM_SAMPLE_NO_MEMORY;
        }
    }
}

/* Samples for row `i`. Returns false if that failed. */
bool sample(const llama_vocab * vocab, shim_step & step, int32_t i, Found & found) {
    const int32_t token = found.token < 0 ? found.token : sampling::pick(step.samplers[i], found.candidates);
    step.token[i]       = token;
    if (token < 0) {
        return false;
    }
    char * text  = step.text + static_cast<size_t>(i) * step.space;
    step.ends[i] = llama_vocab_is_eog(vocab, token);
    step.size[i] = llama_token_to_piece(vocab, token, text, step.space, 0, step.special[i]);
    if (shim_failed()) {
        return false;
    }
    step.batch->token[step.index[i]] = token;
    step.batch->pos[step.index[i]]++;
    return true;
}

}  // namespace

extern "C" {

void shim_step_go_on(const struct llama_vocab * vocab, struct shim_step * step) {
    while (step->done < step->n) {
        const int32_t i = step->done++;
        if (!sample(vocab, *step, i, found[i])) {
            return;
        }
    }
}

int32_t shim_step_run(struct llama_context * ctx, struct shim_limits * limits, struct shim_threads * threads,
                      int32_t width, bool pinned, const struct llama_vocab * vocab, struct shim_step * step) {
    step->done = 0;
    if (!reserve_rows(step->n)) {
        limits->index = 0;
        limits->value = NO_MEMORY;
        return SHIM_BATCH_FAILED;
    }
    const int32_t outputs = shim_compute(ctx, limits, threads, step->batch, width, 0, false, pinned);
    if (outputs > 0 && step->n > 0) {
        read_logits(ctx, *limits, *step);
        shim_step_go_on(vocab, step);
    }
    return outputs;
}

}  // extern "C"
