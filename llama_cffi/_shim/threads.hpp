/* Adapts the number of compute threads of a context to what else runs on the machine. */
#pragma once

#include "shim.h"

namespace threads {

/* Call right before a computation. Returns true if the number of threads changed: state.now. */
bool begin(shim_threads & state) noexcept;

/* Call now and then during a computation, on its calling thread: counts how many threads run. */
void sample() noexcept;

/* Call right after it. Returns true if the number of threads changed: state.now. */
bool end(shim_threads & state) noexcept;

}  // namespace threads
