/* A step of the engine: one batch for all requests, then a token for each, its text, and whether it ends the text. One
 * call, so that Python is entered and the GIL is acquired once for all requests. */
#include "shim.h"

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

/* Samples for row `i`. Returns false if that failed. */
bool sample(llama_context * ctx, const shim_limits & limits, const llama_vocab * vocab, shim_step & step, int32_t i) {
    const int32_t token = shim_sample(step.samplers[i], ctx, &limits, step.index[i], step.wanted[i]);
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

void shim_step_go_on(struct llama_context * ctx, const struct shim_limits * limits, const struct llama_vocab * vocab,
                     struct shim_step * step) {
    while (step->done < step->n) {
        const int32_t i = step->done++;
        if (step->samplers[i] != nullptr && !sample(ctx, *limits, vocab, *step, i)) {
            return;
        }
    }
}

int32_t shim_step_run(struct llama_context * ctx, struct shim_limits * limits, struct shim_threads * threads,
                      int32_t width, bool pinned, const struct llama_vocab * vocab, struct shim_step * step) {
    step->done            = 0;
    const int32_t outputs = shim_compute(ctx, limits, threads, step->batch, width, 0, false, pinned);
    if (outputs > 0) {
        shim_step_go_on(ctx, limits, vocab, step);
    }
    return outputs;
}

}  // extern "C"
