/* Adapts the number of compute threads of a context to what else runs on the machine. */
#pragma once

#include "shim.h"

namespace threads {

/* A computation of the calling thread, until it ends: the destructor ends it too, if an exception leaves it. A callback
 * may compute with another context meanwhile. */
class Computation {
  public:
    /* A computation of `n_tokens`. `state` is null if the number of threads is fixed. */
    Computation(shim_threads * state, int32_t n_tokens) noexcept;
    ~Computation() { end(); }
    Computation(const Computation &)             = delete;
    Computation & operator=(const Computation &) = delete;

    /* Call right before the computation. Returns true if the number of threads changed: state->now. */
    bool begin() noexcept;

    /* Call when the threads are started: while a trial runs, each keeps to CPUs of its own. */
    void spread() noexcept;

    /* Call right after it. Returns true if the number of threads changed: state->now. */
    bool end() noexcept;

  private:
    shim_threads * state_;
    int32_t        n_tokens_;
    int32_t        spread_ = 0;
    shim_threads * outer_  = nullptr;
};

/* Call now and then during a computation, on its calling thread: counts how many threads run. */
void sample() noexcept;

}  // namespace threads
