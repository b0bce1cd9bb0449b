#include "gate.hpp"

#include "shim.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <pthread.h>

namespace {

std::atomic<int>  readers{0};
std::atomic<int>  writers{0};  // including waiting ones: they go before new readers
std::atomic<bool> writing{false};
thread_local int  depth = 0;  // how often this thread reads: a callback may compute with another context

/* Polling is good enough: writers are rare, and they wait for milliseconds. */
void pause() {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
}

/* The threads that hold the lock do not exist in a forked child. */
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    readers = writers = depth = 0;
    writing                   = false;
});

}  // namespace

Reading::Reading() {
    shim_begin_reading();
}

Reading::~Reading() {
    shim_end_reading();
}

extern "C" {

void shim_begin_reading(void) {
    if (depth++ > 0) {
        return;
    }
    for (;;) {
        readers.fetch_add(1);
        if (writers.load() == 0) {
            return;
        }
        readers.fetch_sub(1);  // a writer may have seen no readers before the increment
        while (writers.load() != 0) {
            pause();
        }
    }
}

void shim_end_reading(void) {
    if (--depth == 0) {
        readers.fetch_sub(1);
    }
}

bool shim_begin_writing(void) {
    if (depth > 0) {
        return false;
    }
    writers.fetch_add(1);
    while (writing.exchange(true)) {
        pause();
    }
    while (readers.load() != 0) {
        pause();
    }
    return true;
}

void shim_end_writing(void) {
    writing.store(false);
    writers.fetch_sub(1);
}

}  // extern "C"
