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

/* Runs a call with limits on this thread: of the stack, it may use a quarter. */
void run(const chat_limits & limits, const std::function<void()> & call);

/* Runs a call with limits on a thread with a stack of its own. Values of templates can be nested so deeply that freeing
 * them takes more stack than a thread has. */
void run_on_large_stack(const chat_limits & limits, const std::function<void()> & call);

}  // namespace limits
