/* Limits on what llama.cpp's chat code may use. It has none of its own, and allocates all the time; so each allocation
 * checks them. */
#pragma once

#include "chat_api.h"

#include <cstddef>
#include <functional>
#include <new>

namespace limits {

/* What a call has used up. It is a std::bad_alloc, since `operator new` throws it. */
struct Exceeded : std::bad_alloc {
    enum chat_status status;
    const char *     message;

    Exceeded(enum chat_status status, const char * message) : status(status), message(message) {}
    const char * what() const noexcept override { return message; }
};

/* Runs a call with limits on this thread: of the stack, it may use a half. */
void run(const chat_limits & limits, const std::function<void()> & call);

/* Runs a call whose values can be nested: freeing them takes more stack than making them. Where this thread's stack, and
 * the memory that it is enough for, turn out too small, the call runs again on a thread with a large stack. */
void run_with_nesting(const chat_limits & limits, const std::function<void()> & call);

}  // namespace limits
