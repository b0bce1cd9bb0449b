#include "gate.hpp"

#include "shim.h"

#include <condition_variable>
#include <mutex>
#include <new>

#include <pthread.h>

namespace {

struct Gate {
    std::mutex              mutex;
    std::condition_variable changed;
    int                     readers = 0;
    int                     waiting = 0;  // to write: new readers let them go first
    bool                    writing = false;
};

thread_local int depth = 0;  // of this thread's reading: a callback may compute with another context

/* Never destroyed: other threads may be in calls while static objects end. */
Gate & gate() {
    alignas(Gate) static unsigned char memory[sizeof(Gate)];
    static Gate * made = [] {
        // A forked child has none of the threads that are inside.
        pthread_atfork(nullptr, nullptr, [] {
            new (memory) Gate;
            depth = 0;
        });
        return new (memory) Gate;
    }();
    return *made;
}

}  // namespace

Reading::Reading() {
    shim_begin_reading();
}

Reading::~Reading() {
    shim_end_reading();
}

extern "C" {

void shim_begin_reading(void) {
    if (depth++ == 0) {
        std::unique_lock<std::mutex> lock(gate().mutex);
        gate().changed.wait(lock, [] { return gate().waiting == 0 && !gate().writing; });
        gate().readers++;
    }
}

void shim_end_reading(void) {
    if (--depth == 0) {
        std::lock_guard<std::mutex> lock(gate().mutex);
        if (--gate().readers == 0) {
            gate().changed.notify_all();
        }
    }
}

bool shim_begin_writing(void) {
    if (depth > 0) {
        return false;
    }
    std::unique_lock<std::mutex> lock(gate().mutex);
    gate().waiting++;
    gate().changed.wait(lock, [] { return gate().readers == 0 && !gate().writing; });
    gate().waiting--;
    gate().writing = true;
    return true;
}

void shim_end_writing(void) {
    std::lock_guard<std::mutex> lock(gate().mutex);
    gate().writing = false;
    gate().changed.notify_all();
}

}  // extern "C"
