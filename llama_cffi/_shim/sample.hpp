/* The two halves of shim_sample: to read the logits, which several threads can do for several outputs at once, and to let
 * the samplers pick. */
#pragma once

#include "shim.h"

#include <vector>

struct llama_token_data;

namespace sampling {

using Candidates = std::vector<llama_token_data>;

/* Finds the candidates that can be selected, or all of them. `k` is 0 if all can be. Returns false if a logit is NaN.
 * Throws std::bad_alloc. */
bool find_candidates(Candidates & found, const float * logits, int32_t n, int32_t k);

/* Lets a sampler pick one of the candidates, and accept it. Returns the token, or a negative shim_no_token. */
int32_t pick(llama_sampler * sampler, Candidates & candidates);

}  // namespace sampling
