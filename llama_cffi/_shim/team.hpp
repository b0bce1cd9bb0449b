/* The OpenMP threads of the calling thread: each thread has a team of its own. */
#pragma once

#include "shim.h"

namespace team {

/* Starts the threads that a computation of the calling thread will use. OpenMP ends the process if it cannot start a
 * thread, so this tries first whether they can be started, one calling thread at a time. Returns 0, or the number of
 * threads that the computation would need. */
int32_t require(llama_context * ctx, int32_t n_tokens) noexcept;

/* Starts a team of `n` threads, if the calling thread has fewer. Returns false if they cannot be started. */
bool start(int32_t n) noexcept;

/* Returns how many threads a parallel region of the calling thread can have without starting any, at most `n`. Use so
 * many: OpenMP ends those that a region leaves out. */
int32_t region(int32_t n) noexcept;

/* Call when the OpenMP threads of the calling thread end. */
void forget() noexcept;

/* Binds each of the team's first `n` threads to its part of the CPUs, so that no two of them wait for the same CPU; 0 or 1
 * binds none. Without `started`, it only releases those that were bound for another `n`. Until `gather`, the calling
 * thread is bound as well: threads that it starts would be, too. */
void spread(int32_t n, bool started) noexcept;

/* Releases the calling thread. The others stay where they are. */
void gather() noexcept;

}  // namespace team
