/* Samples a token, with all checks in the same call. If only the n largest logits can be selected (top-k), samplers get
 * far fewer candidates than the vocabulary has tokens. */
#include "sample.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

using sampling::Candidates;

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FOUR_AT_ONCE
#endif
#endif

/* Makes candidates of logits. Returns false if a logit is NaN. A candidate has 12 bytes, so four candidates are three
 * vector stores instead of twelve scalar ones, which pays for the check of each logit. */
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
        const Ints bits   = reinterpret_cast<Ints>(logit);
        const Ints lower  = __builtin_shufflevector(id, bits, 0, 4, 1, 5);
        const Ints upper  = __builtin_shufflevector(id, bits, 2, 6, 3, 7);
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

/* Returns the largest logit of a block. If one is NaN, sets `nan` and returns anything. */
float largest(const float * logits, int32_t n, bool & nan) {
    float   found = logits[0];
    int32_t i     = 0;
#ifdef __SSE2__
    if (n >= 16) {
        __m128 most[4], bad = _mm_setzero_ps();
        for (int k = 0; k < 4; k++) {
            most[k] = _mm_loadu_ps(logits + 4 * k);
        }
        for (; i + 16 <= n; i += 16) {
            __m128 part[4];
            for (int k = 0; k < 4; k++) {
                part[k] = _mm_loadu_ps(logits + i + 4 * k);
                most[k] = _mm_max_ps(most[k], part[k]);
            }
            bad = _mm_or_ps(bad, _mm_or_ps(_mm_cmpunord_ps(part[0], part[1]), _mm_cmpunord_ps(part[2], part[3])));
        }
        nan |= _mm_movemask_ps(bad) != 0;
        float four[4];
        _mm_storeu_ps(four, _mm_max_ps(_mm_max_ps(most[0], most[1]), _mm_max_ps(most[2], most[3])));
        found = std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
    }
#endif
    for (; i < n; i++) {
        nan |= logits[i] != logits[i];
        found = std::max(found, logits[i]);
    }
    return found;
}

/* Finds candidates that include the k largest logits, in the order of their ids. Of the maxima of all blocks, the k-th
 * largest is a threshold: at least k logits reach it. Most blocks have a smaller maximum and need no second pass. */
class TopFinder {
  public:
    /* Returns false if a logit is NaN, or if the search would gain nothing. */
    bool find(Candidates & found, const float * logits, int32_t n, int32_t k) {
        const int32_t size  = block_size(n, k);
        const int32_t count = n / size;
        if (count < 2 * k) {
            return false;
        }
        bool nan = false;
        maxima_.resize(static_cast<size_t>(count));
        for (int32_t i = 0; i < count; i++) {
            maxima_[i] = largest(logits + i * size, i + 1 < count ? size : n - i * size, nan);
        }
        if (nan) {
            return false;
        }
        order_ = maxima_;
        std::nth_element(order_.begin(), order_.begin() + (k - 1), order_.end(), std::greater<float>());
        const float threshold = order_[k - 1];
        found.clear();
        for (int32_t i = 0; i < count; i++) {
            if (maxima_[i] >= threshold) {
                append(found, logits, i * size, i + 1 < count ? (i + 1) * size : n, threshold);
            }
        }
        return true;
    }

  private:
    /* At least 4 * k blocks. Larger blocks mean fewer maxima to sort, but more logits in the second pass. */
    static int32_t block_size(int32_t n, int32_t k) {
        int32_t size = 1024;
        while (size > 16 && n / size < std::max(4 * k, 256)) {
            size /= 2;
        }
        return size;
    }

    static void append(Candidates & found, const float * logits, int32_t begin, int32_t end, float threshold) {
        for (int32_t i = begin; i < end; i++) {
            if (logits[i] >= threshold) {
                found.push_back({i, logits[i], 0.0f});
            }
        }
    }

    std::vector<float> maxima_, order_;
};

}  // namespace

namespace sampling {

bool find_candidates(Candidates & found, const float * logits, int32_t n, int32_t k) {
    static thread_local TopFinder finder;
    if (k > 0 && k < n / 32 && finder.find(found, logits, n, k)) {
        return true;
    }
    found.resize(static_cast<size_t>(n));
    return make_candidates(found.data(), logits, n);
}

int32_t pick(llama_sampler * sampler, Candidates & candidates) {
    llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
    llama_sampler_apply(sampler, &array);
    if (shim_failed()) {
        return SHIM_SAMPLE_NO_PICK;
    }
    if (array.selected < 0 || static_cast<size_t>(array.selected) >= array.size) {
        return SHIM_SAMPLE_NO_PICK;
    }
    const llama_token_data & picked = array.data[array.selected];
    if (std::isnan(picked.p) || !(picked.logit > -INFINITY)) {
        return SHIM_SAMPLE_NONE_LEFT;
    }
    const llama_token token = picked.id;
    llama_sampler_accept(sampler, token);
    return token;
}

}  // namespace sampling

extern "C" {

float * shim_logits(struct llama_context * ctx, const struct shim_limits * limits, int32_t idx) {
    return limits->rows > 0 && limits->logits ? llama_get_logits_ith(ctx, idx) : nullptr;
}

int32_t shim_sample(struct llama_sampler * smpl, struct llama_context * ctx, const struct shim_limits * limits,
                    int32_t idx, int32_t wanted) try {
    static thread_local Candidates candidates;  // allocated once
    const float *                  logits = shim_logits(ctx, limits, idx);
    if (logits == nullptr) {
        return SHIM_SAMPLE_NO_OUTPUT;
    }
    if (!sampling::find_candidates(candidates, logits, limits->n_vocab, wanted)) {
        return SHIM_SAMPLE_NAN;
    }
    return sampling::pick(smpl, candidates);
} catch (const std::bad_alloc &) {
    return SHIM_SAMPLE_NO_MEMORY;
}

void shim_accept(struct llama_sampler * smpl, const int32_t * tokens, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        llama_sampler_accept(smpl, tokens[i]);
        if (shim_failed()) {
            return;
        }
    }
}

}  // extern "C"
