/* Adapts the number of compute threads of a context to what else runs on the machine. */
#pragma once

#include "shim.h"

namespace threads {

/* A computation of the calling thread, until it ends: the destructor ends it too, if an exception leaves it. A callback
 * may compute with another context meanwhile. */
class Computation {
  public:
    /* `state` is null if the number of threads is fixed. */
    explicit Computation(shim_threads * state) noexcept;
    ~Computation() { end(); }
    Computation(const Computation &)             = delete;
    Computation & operator=(const Computation &) = delete;

    /* Call right before the computation. Returns true if the number of threads changed: state->now. */
    bool begin() noexcept;

    /* Call right after it. Returns true if the number of threads changed: state->now. */
    bool end() noexcept;

  private:
    shim_threads * state_;
    shim_threads * outer_ = nullptr;
};

/* Call now and then during a computation, on its calling thread: counts how many threads run. */
void sample() noexcept;

/* Starts the OpenMP threads that a computation of the calling thread will use. OpenMP ends the process if it cannot start
 * a thread, so this tries first whether they can be started, one calling thread at a time. Returns 0, or the number of
 * threads that the computation would need. */
int32_t require(llama_context * ctx, int32_t n_tokens) noexcept;

/* Starts a team of `n` OpenMP threads, if the calling thread has fewer. Returns false if they cannot be started. */
bool start(int32_t n) noexcept;

/* The number of threads that a parallel region of the calling thread can have without starting any. */
int32_t started() noexcept;

/* Call when the OpenMP threads of the calling thread end. */
void forget() noexcept;

}  // namespace threads
