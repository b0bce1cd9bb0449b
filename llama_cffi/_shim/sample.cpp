/* Sampling, with its checks, so that Python makes one call where C makes one; and with fewer candidates than llama.cpp
 * looks at, where the others cannot be picked. */
#include "shim.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

using Candidates = std::vector<llama_token_data>;

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FOUR_AT_ONCE
#endif
#endif

/* Makes candidates of logits; false where one is NaN. Four at once are three whole stores in place of twelve parts, which
 * makes up for the look at each: a candidate has 12 bytes, and llama.cpp writes them number by number. */
bool make_candidates(llama_token_data * out, const float * logits, int32_t n) {
    int32_t i   = 0;
    bool    nan = false;
#ifdef FOUR_AT_ONCE
    using Ints   = int32_t __attribute__((vector_size(16)));
    using Floats = float __attribute__((vector_size(16)));
    static_assert(sizeof(llama_token_data) == 12 && offsetof(llama_token_data, logit) == 4, "id, logit, p");
    const Ints zero = {0, 0, 0, 0};
    Ints       bad  = zero;
    Ints       id   = {0, 1, 2, 3};
    for (; i + 4 <= n; i += 4, id += 4) {
        Floats logit;
        memcpy(&logit, logits + i, sizeof(logit));
        bad |= logit != logit;
        const Ints bits  = reinterpret_cast<Ints>(logit);
        const Ints lower = __builtin_shufflevector(id, bits, 0, 4, 1, 5);
        const Ints upper = __builtin_shufflevector(id, bits, 2, 6, 3, 7);
        const Ints rows[] = {
            __builtin_shufflevector(lower, zero, 0, 1, 4, 2),
            __builtin_shufflevector(lower, upper, 3, 3, 4, 5) & Ints{-1, 0, -1, -1},
            __builtin_shufflevector(upper, zero, 4, 2, 3, 4),
        };
        memcpy(out + i, rows, sizeof(rows));
    }
    nan = (bad[0] | bad[1] | bad[2] | bad[3]) != 0;
#endif
    for (; i < n; i++) {
        out[i] = {i, logits[i], 0.0f};
        nan |= logits[i] != logits[i];
    }
    return !nan;
}

/* The first of the largest logits first. */
bool before(const llama_token_data & a, const llama_token_data & b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Collects the `wanted` largest logits, the first ones among equals. What is not larger than the least of those found so
 * far is passed over, sixteen at a look. */
class Largest {
  public:
    Largest(Candidates & kept, int32_t wanted) : kept_(kept), wanted_(wanted), room_(std::max(4 * wanted, 64)) {
        kept_.clear();
        kept_.reserve(room_ + STEP);
    }

    /* False where a logit is NaN, or where fewer than `wanted` are above minus infinity. */
    bool find(const float * logits, int32_t n) {
        int32_t i = 0;
        for (; i + STEP <= n; i += STEP) {
            if (may_have_larger(logits + i)) {
                take(logits, i, i + STEP);
            }
        }
        take(logits, i, n);
        cut();
        std::sort(kept_.begin(), kept_.end(),
                  [](const llama_token_data & a, const llama_token_data & b) { return a.id < b.id; });
        return !nan_ && kept_.size() == static_cast<size_t>(wanted_);
    }

  private:
    static constexpr int32_t STEP = 16;

    bool may_have_larger(const float * logits) const {
#if defined(__GNUC__)
        using Ints   = int32_t __attribute__((vector_size(16)));
        using Longs  = int64_t __attribute__((vector_size(16)));
        using Floats = float __attribute__((vector_size(16)));
        Floats part[4];
        memcpy(part, logits, sizeof(part));
        const Floats least  = {least_, least_, least_, least_};
        const Ints   passed = (part[0] <= least) & (part[1] <= least) & (part[2] <= least) & (part[3] <= least);
        const Longs  halves = reinterpret_cast<Longs>(passed);
        return (halves[0] & halves[1]) != -1;  // a NaN is not passed either
#else
        (void) logits;
        return true;
#endif
    }

    void take(const float * logits, int32_t begin, int32_t end) {
        for (int32_t i = begin; i < end; i++) {
            nan_ |= logits[i] != logits[i];
            if (logits[i] > least_) {
                kept_.push_back({i, logits[i], 0.0f});
            }
        }
        if (wanted_ == 1 || kept_.size() >= room_) {
            cut();
        }
    }

    void cut() {
        const size_t wanted = static_cast<size_t>(wanted_);
        if (kept_.size() < wanted) {
            return;
        }
        if (kept_.size() > wanted) {
            std::nth_element(kept_.begin(), kept_.begin() + (wanted_ - 1), kept_.end(), before);
            kept_.resize(wanted);
        }
        least_ = wanted_ == 1 ? kept_[0].logit : std::min_element(kept_.begin(), kept_.end(), by_logit)->logit;
    }

    static bool by_logit(const llama_token_data & a, const llama_token_data & b) { return a.logit < b.logit; }

    Candidates & kept_;
    int32_t      wanted_;
    size_t       room_;
    float        least_ = -std::numeric_limits<float>::infinity();
    bool         nan_   = false;
};

/* The candidates that can be picked, or all; false where a logit is NaN. */
bool find_candidates(Candidates & kept, const float * logits, int32_t n, int32_t wanted) {
    if (wanted > 0 && wanted < n / 8 && Largest(kept, wanted).find(logits, n)) {
        return true;
    }
    kept.resize(static_cast<size_t>(n));
    return make_candidates(kept.data(), logits, n);
}

}  // namespace

extern "C" {

float * shim_logits(struct llama_context * ctx, const struct shim_limits * limits, int32_t idx) {
    return limits->rows > 0 && limits->logits ? llama_get_logits_ith(ctx, idx) : nullptr;
}

int32_t shim_sample(struct llama_sampler * smpl, struct llama_context * ctx, const struct shim_limits * limits,
                    int32_t idx, int32_t wanted) try {
    static thread_local Candidates kept;
    const float * logits = shim_logits(ctx, limits, idx);
    if (logits == nullptr) {
        return SHIM_SAMPLE_NO_OUTPUT;
    }
    if (!find_candidates(kept, logits, limits->n_vocab, wanted)) {
        return SHIM_SAMPLE_NAN;
    }
    llama_token_data_array found{kept.data(), kept.size(), -1, false};
    llama_sampler_apply(smpl, &found);
    if (shim_failed()) {
        return SHIM_SAMPLE_NO_PICK;
    }
    if (found.selected < 0 || static_cast<size_t>(found.selected) >= found.size) {
        return SHIM_SAMPLE_NO_PICK;
    }
    const llama_token token = found.data[found.selected].id;
    llama_sampler_accept(smpl, token);
    return token;
} catch (const std::bad_alloc &) {
    return SHIM_SAMPLE_NO_MEMORY;
}

}  // extern "C"
