/* Which guarded call a thread is in, for log.cpp and raise.cpp: a log line belongs to the call during which it came. */
#pragma once

#include <cstdint>

/* The outermost guarded call of a thread. */
struct CallId {
    const void * thread = nullptr;  // null: not in a call
    uint64_t     number = 0;

    bool operator==(const CallId & other) const { return thread == other.thread && number == other.number; }
};

/* A call, and the number of lines logged before it began. */
struct CallLog {
    CallId   call;
    uint64_t mark = 0;
};

/* The call that this thread is in. */
CallId call_running() noexcept;

/* The last call that began on this thread; error messages quote what it logged. A call that frees a handle does not
 * count once it is over: Python's garbage collector can make such a call at any time, also between a failure and the
 * question for its reason. */
CallLog & call_last() noexcept;

/* The number of lines logged so far. */
uint64_t log_count() noexcept;
