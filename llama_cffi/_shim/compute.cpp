/* Decodes and encodes batches, with all checks in the same call. */
#include "gate.hpp"
#include "shim.h"
#include "team.hpp"
#include "threads.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

constexpr int32_t MAX_POSITION = 1 << 30;  // headroom for what llama.cpp adds to a position

int32_t first_outside(const int32_t * numbers, int32_t n, int32_t end) {
    for (int32_t i = 0; i < n; i++) {
        if (numbers[i] < 0 || numbers[i] >= end) {
            return i;
        }
    }
    return -1;
}

/* Storage for a copy of an array; no allocation if it is short, as in the token loop. */
template <typename T> class ArrayCopy {
  public:
    T * copy(const T * values, size_t n) {
        T * data = small_;
        if (n > SMALL) {
            large_.reset(new T[n]);
            data = large_.get();
        }
        memcpy(data, values, n * sizeof(T));
        return data;
    }

  private:
    static constexpr size_t SMALL = 8;

    T                    small_[SMALL];
    std::unique_ptr<T[]> large_;
};

/* A copy of a batch, so that no other thread can change it after the checks. Embeddings are not copied: no check depends
 * on their values. */
class BatchCopy {
  public:
    BatchCopy(const llama_batch & batch, int32_t width) : batch_(batch) {
        const int32_t n = batch_.n_tokens;
        batch_.token    = copy_array(token_, batch.token, n);
        batch_.pos      = copy_array(pos_, batch.pos, n);
        batch_.n_seq_id = copy_array(n_seq_id_, batch.n_seq_id, n);
        batch_.logits   = copy_array(logits_, batch.logits, n);
        if (batch.seq_id != nullptr && n > 0) {
            int32_t * flat = seq_id_.copy(batch.seq_id[0], static_cast<size_t>(n) * width);  // the rows are contiguous
            batch_.seq_id  = rows_.copy(batch.seq_id, n);
            for (int32_t i = 0; i < n; i++) {
                batch_.seq_id[i] = flat + static_cast<size_t>(i) * width;
            }
        }
    }

    const llama_batch & batch() const { return batch_; }

  private:
    template <typename T> static T * copy_array(ArrayCopy<T> & storage, const T * values, int32_t n) {
        return values == nullptr || n < 1 ? nullptr : storage.copy(values, n);
    }

    llama_batch          batch_;
    ArrayCopy<int32_t>   token_, pos_, n_seq_id_, seq_id_;
    ArrayCopy<int32_t *> rows_;
    ArrayCopy<int8_t>    logits_;
};

int32_t reject(shim_limits & limits, int32_t why, int32_t index, int32_t value) {
    limits.index = index;
    limits.value = value;
    return why;
}

int32_t check_entries(shim_limits & limits, const llama_batch & batch, int32_t width) {
    if (batch.token != nullptr) {
        const int32_t bad = first_outside(batch.token, batch.n_tokens, limits.n_vocab);
        if (bad >= 0) {
            return reject(limits, SHIM_BATCH_TOKEN, bad, batch.token[bad]);
        }
    }
    for (int32_t i = 0; i < batch.n_tokens; i++) {
        if (batch.pos != nullptr && (batch.pos[i] < 0 || batch.pos[i] >= MAX_POSITION)) {
            return reject(limits, SHIM_BATCH_POSITION, i, batch.pos[i]);
        }
        if (batch.pos != nullptr && limits.n_pos != 0 && batch.pos[i] >= limits.n_pos) {
            return reject(limits, SHIM_BATCH_UNKNOWN, i, batch.pos[i]);
        }
        if (batch.n_seq_id != nullptr) {
            if (batch.n_seq_id[i] < 1 || batch.n_seq_id[i] > width) {
                return reject(limits, SHIM_BATCH_COUNT, i, batch.n_seq_id[i]);
            }
            const int32_t bad = first_outside(batch.seq_id[i], batch.n_seq_id[i], limits.n_seq);
            if (bad >= 0) {
                return reject(limits, SHIM_BATCH_SEQUENCE, i, batch.seq_id[i][bad]);
            }
        }
    }
    return 0;
}

int32_t outputs_of(const shim_limits & limits, const llama_batch & batch, bool encode) {
    if (encode || limits.embeds || !limits.decodes) {
        return batch.n_tokens;  // llama.cpp then outputs every entry
    }
    if (batch.logits == nullptr) {
        return 1;  // the last entry
    }
    int32_t n = 0;
    for (int32_t i = 0; i < batch.n_tokens; i++) {
        n += batch.logits[i] != 0;
    }
    return n;
}

void use_threads(llama_context * ctx, const shim_threads & adapted) {
    llama_set_n_threads(ctx, std::min(adapted.now, adapted.single), std::min(adapted.now, adapted.batch));
}

/* Returns the position that llama.cpp gives to the first token of a batch without positions. */
int32_t next_position(llama_context * ctx, const shim_limits & limits) {
    return limits.decodes ? llama_memory_seq_pos_max(llama_get_memory(ctx), 0) + 1 : 0;
}

}  // namespace

extern "C" {

int32_t shim_first_outside(const int32_t * tokens, int32_t n, int32_t n_vocab) {
    return first_outside(tokens, n, n_vocab);
}

int32_t shim_check_size(struct shim_limits * limits, int32_t n_tokens, int32_t n_outputs, bool encode, bool pinned) {
    if (n_tokens < 1) {
        return SHIM_BATCH_EMPTY;
    }
    if (n_tokens > limits->n_batch) {
        return reject(*limits, SHIM_BATCH_SIZE, 0, n_tokens);
    }
    if (n_tokens > limits->n_ubatch && (encode || !limits->decodes || !limits->causal)) {
        return reject(*limits, SHIM_BATCH_OVER_UBATCH, 0, n_tokens);
    }
    if (limits->wants_encoder && !encode) {
        return SHIM_BATCH_NOT_ENCODED;
    }
    if (n_outputs > limits->n_outputs) {
        return reject(*limits, SHIM_BATCH_OUTPUTS, 0, n_outputs);
    }
    if (n_outputs > limits->reserved && pinned) {
        return reject(*limits, SHIM_BATCH_PINNED, 0, n_outputs);
    }
    return 0;
}

int32_t shim_compute(struct llama_context * ctx, struct shim_limits * limits, struct shim_threads * adapted,
                     const struct llama_batch * given, int32_t width, int32_t n_embd, bool encode, bool pinned) try {
    const BatchCopy     copy(*given, width);
    const llama_batch & batch   = copy.batch();
    const int32_t       outputs = outputs_of(*limits, batch, encode);
    int32_t             wrong   = shim_check_size(limits, batch.n_tokens, outputs, encode, pinned);
    if (wrong == 0) {
        wrong = check_entries(*limits, batch, width);
    }
    if (wrong != 0) {
        return wrong;
    }
    if (batch.embd != nullptr && n_embd != limits->n_embd) {
        return reject(*limits, SHIM_BATCH_WIDTH, 0, n_embd);
    }
    if (batch.embd != nullptr && batch.pos != nullptr && limits->n_pos_embd > 1) {
        return reject(*limits, SHIM_BATCH_POSITION_DIMS, 0, limits->n_pos_embd);
    }
    if (batch.pos == nullptr && limits->n_pos != 0) {
        const int32_t last = next_position(ctx, *limits) + batch.n_tokens - 1;
        if (shim_failed()) {
            return SHIM_BATCH_FAILED;
        }
        if (last >= limits->n_pos) {
            return reject(*limits, SHIM_BATCH_UNKNOWN, batch.n_tokens - 1, last);
        }
    }
    const Reading reading;
    limits->rows = 0;
    limits->computed++;
    limits->reserved = outputs > limits->reserved ? outputs : limits->reserved;
    threads::Computation computation(adapted, batch.n_tokens);
    if (computation.begin()) {
        use_threads(ctx, *adapted);
    }
    if (const int32_t n = team::require(ctx, batch.n_tokens); n > 0) {
        return reject(*limits, SHIM_BATCH_THREADS, 0, n);
    }
    computation.spread();
    const int32_t code = encode ? llama_encode(ctx, batch) : llama_decode(ctx, batch);
    if (computation.end()) {
        use_threads(ctx, *adapted);
    }
    if (code != 0 || shim_failed()) {
        return reject(*limits, SHIM_BATCH_FAILED, batch.n_tokens, code);
    }
    if (encode) {
        limits->wants_encoder = false;
    }
    limits->rows   = outputs;
    limits->logits = limits->decodes ? !encode : limits->diffuses;
    return outputs;
} catch (const std::bad_alloc &) {
    return reject(*limits, SHIM_BATCH_FAILED, 0, -2);  // llama.cpp's code for an allocation failure
}

}  // extern "C"
