#include "gate.hpp"

#include "guard.h"
#include "shim.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <pthread.h>

namespace {

std::atomic<int>  readers{0};
std::atomic<int>  writers{0};  // including waiting ones: they go before new readers
std::atomic<bool> writing{false};
thread_local int  depth       = 0;  // how often this thread reads: a callback may compute with another context
thread_local int  write_depth = 0;  // how often this thread writes

/* Polling is good enough: writers are rare, and they wait for milliseconds. */
void pause() {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
}

/* ggml's list of backends and devices. A thread that changes it may read it meanwhile. */
std::atomic<int>  listers{0};
std::atomic<bool> registering{false};
thread_local int  list_depth     = 0;  // how often this thread reads the list
thread_local int  register_depth = 0;  // how often this thread changes it

/* The threads that hold the locks do not exist in a forked child. */
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    readers = writers = depth = write_depth = 0;
    listers = list_depth = register_depth = 0;
    writing = registering = false;
});

}  // namespace

Reading::Reading() {
    shim_begin_reading();
}

Reading::~Reading() {
    shim_end_reading();
}

Writing::Writing() : held_(shim_begin_writing()) {
}

Writing::~Writing() {
    if (held_) {
        shim_end_writing();
    }
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
    if (write_depth++ > 0) {  // an adapter is freed where one could not be loaded
        return true;
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
    if (--write_depth == 0) {
        writing.store(false);
        writers.fetch_sub(1);
    }
}

void shim_begin_listing(void) {
    if (list_depth++ > 0 || register_depth > 0) {
        return;
    }
    for (;;) {
        listers.fetch_add(1);
        if (!registering.load()) {
            return;
        }
        listers.fetch_sub(1);
        while (registering.load()) {
            pause();
        }
    }
}

void shim_end_listing(void) {
    if (--list_depth == 0 && register_depth == 0) {
        listers.fetch_sub(1);
    }
}

bool shim_begin_registering(void) {
    if (register_depth > 0) {
        register_depth++;
        return true;
    }
    if (list_depth > 0) {
        return false;
    }
    for (;;) {
        while (listers.load() != 0) {
            pause();
        }
        if (!registering.exchange(true)) {
            if (listers.load() == 0) {
                register_depth = 1;
                return true;
            }
            registering.store(false);
        }
        pause();
    }
}

void shim_end_registering(void) {
    if (--register_depth == 0) {
        registering.store(false);
    }
}

void shim_adapter_free(struct llama_adapter_lora * adapter) {
    if (const Writing writing; writing) {
        llama_adapter_lora_free(adapter);
    }
}

}  // extern "C"
