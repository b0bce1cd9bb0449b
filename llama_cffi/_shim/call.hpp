/* What the C++ files of the binding share beside the guard. */
#pragma once

#include <cstdint>

/* The outermost guarded call of a thread: whatever is logged while it runs is its own. */
struct CallId {
    const void * thread = nullptr;  // null: none
    uint64_t     number = 0;

    bool operator==(const CallId & other) const { return thread == other.thread && number == other.number; }
};

/* A call, and how many lines had been logged when it began. */
struct CallLog {
    CallId   call;
    uint64_t mark = 0;
};

/* The call that this thread is in. */
CallId call_running() noexcept;

/* The last call that began on this thread: error messages quote what it logged. One that frees a handle does not count
 * once it is over: Python's collector calls it at any moment, between a failure and the question for its reason too. */
CallLog & call_last() noexcept;

/* How many lines were logged. */
uint64_t log_count() noexcept;

/* Points llama.cpp's log at the ring. */
void log_install();
