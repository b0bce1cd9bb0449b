/* Log-probabilities of rows of logits: the log-softmax of one token and of the best ones. */
#include "shim.h"
#include "team.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

constexpr int32_t PARALLEL = 4;  // fewer rows are read on the calling thread

/* Orders tokens by their logits, the largest first; equal ones by number. NaN comes last: an order must be total. */
class Better {
  public:
    explicit Better(const float * logits) : logits_(logits) {}

    bool operator()(int32_t a, int32_t b) const {
        const float left = key(a), right = key(b);
        return left != right ? left > right : a < b;
    }

  private:
    float key(int32_t token) const {
        const float logit = logits_[token];
        return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
    }

    const float * logits_;
};

/* The logarithm of the sum of exp(logits). The terms are floats, their sum is a double. */
double log_sum_exp(const float * logits, int32_t n) {
    float largest = logits[0];
    bool  nan     = false;
    for (int32_t i = 0; i < n; i++) {
        nan |= std::isnan(logits[i]);
        largest = std::max(largest, logits[i]);
    }
    if (nan) {
        return std::numeric_limits<double>::quiet_NaN();
    }
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += std::exp(logits[i] - largest);
    }
    return static_cast<double>(largest) + std::log(sum);
}

/* Writes the `count` best tokens to `best`, in order. `best` is a heap whose first element is the worst one kept. */
void find_best(int32_t * best, int32_t count, const float * logits, int32_t n) {
    const Better better(logits);
    for (int32_t i = 0; i < count; i++) {
        best[i] = i;
    }
    std::make_heap(best, best + count, better);
    for (int32_t i = count; i < n; i++) {
        if (better(i, best[0])) {
            std::pop_heap(best, best + count, better);
            best[count - 1] = i;
            std::push_heap(best, best + count, better);
        }
    }
    std::sort_heap(best, best + count, better);
}

}  // namespace

extern "C" {

double shim_log_probs(const float * logits, int32_t n_vocab, int32_t token, int32_t n_top, int32_t * top,
                      double * top_log_probs) {
    if (n_vocab <= 0 || token < 0 || token >= n_vocab || n_top < 0 || n_top > n_vocab) {
        return std::numeric_limits<double>::quiet_NaN();
    }
    const double total = log_sum_exp(logits, n_vocab);
    if (n_top > 0) {
        find_best(top, n_top, logits, n_vocab);
        for (int32_t i = 0; i < n_top; i++) {
            top_log_probs[i] = static_cast<double>(logits[top[i]]) - total;
        }
    }
    return static_cast<double>(logits[token]) - total;
}

int32_t shim_score_rows(struct llama_context * ctx, const struct shim_limits * limits, int32_t first, int32_t n,
                        const int32_t * tokens, double * log_probs, int32_t n_top, int32_t * top,
                        double * top_log_probs) try {
    std::vector<const float *> rows(static_cast<size_t>(n));
    for (int32_t i = 0; i < n; i++) {
        rows[i] = shim_logits(ctx, limits, first + i);
        if (rows[i] == nullptr) {
            return first + i;
        }
    }
    const float * const * logits = rows.data();
#ifdef _OPENMP
    const int32_t threads = n < PARALLEL ? 1 : team::region(llama_n_threads_batch(ctx));
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
#endif
    for (int32_t i = 0; i < n; i++) {
        const size_t at = static_cast<size_t>(i) * n_top;
        log_probs[i]    = shim_log_probs(logits[i], limits->n_vocab, tokens[i], n_top, top + at, top_log_probs + at);
    }
    return -1;
} catch (const std::bad_alloc &) {
    return SHIM_SAMPLE_NO_MEMORY;
}

}  // extern "C"
