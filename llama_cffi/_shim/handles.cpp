#include "handles.hpp"

#include "shim.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <pthread.h>

namespace guard {

struct Entry {
    std::atomic<int>          users{0};
    std::vector<const void *> names;  // the handle, and pointers into it
};

namespace {

constexpr size_t REMEMBERED = 1 << 14;  // freed addresses; malloc gives most of them out again long before

struct Registry {
    std::mutex                                  mutex;
    std::unordered_map<const void *, Entry *>   alive;
    std::unordered_map<const void *, size_t>    gone;   // and when it went: an address may come and go again
    std::deque<std::pair<const void *, size_t>> order;  // of `gone`
    size_t                                      ends = 0;

    void name(Entry * entry, const void * pointer) {
        entry->names.push_back(pointer);
        alive[pointer] = entry;
        gone.erase(pointer);
    }

    void forget(Entry * entry) {
        for (const void * pointer : entry->names) {
            alive.erase(pointer);
        }
    }

    void remember(const void * pointer) {
        gone[pointer] = ++ends;
        order.emplace_back(pointer, ends);
        while (order.size() > REMEMBERED) {
            const auto oldest = gone.find(order.front().first);
            if (oldest != gone.end() && oldest->second == order.front().second) {
                gone.erase(oldest);
            }
            order.pop_front();
        }
    }
};

/* Never destroyed: other threads may be in calls while static objects end. */
Registry & registry() {
    static Registry * made = [] {
        auto * fresh = new Registry;
        // A child must not find the mutex held by a thread that it does not have.
        pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                       [] { registry().mutex.unlock(); });
        return fresh;
    }();
    return *made;
}

}  // namespace

void add(const void * handle) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    try {
        const auto found = registry().alive.find(handle);
        if (found != registry().alive.end()) {  // freed behind the guard's back, and another object's now
            registry().forget(found->second);   // the entry stays: a call may still hold it
        }
        registry().name(new Entry, handle);
    } catch (const std::bad_alloc &) {  // then it is an unknown one
    }
}

void add_part(const void * part, const void * owner) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    try {
        const auto found = registry().alive.find(owner);
        if (found != registry().alive.end() && registry().alive.count(part) == 0) {
            registry().name(found->second, part);
        }
    } catch (const std::bad_alloc &) {
    }
}

Entry * find(const void * handle, bool & freed) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    const auto found = registry().alive.find(handle);
    freed            = found == registry().alive.end() && registry().gone.count(handle) != 0;
    return freed || found == registry().alive.end() ? nullptr : found->second;
}

Entry * take(const void * handle, bool & freed) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    const auto found = registry().alive.find(handle);
    if (found == registry().alive.end()) {
        freed = registry().gone.count(handle) != 0;
        return nullptr;
    }
    found->second->users.fetch_add(1, std::memory_order_relaxed);
    return found->second;
}

void release(Entry * entry) noexcept {
    entry->users.fetch_sub(1, std::memory_order_release);
}

bool retire(const void * handle, Entry * entry) noexcept {
    {
        std::lock_guard<std::mutex> lock(registry().mutex);
        const auto found = registry().alive.find(handle);
        if (found == registry().alive.end() || found->second != entry) {
            return false;
        }
        registry().forget(entry);
        try {
            for (const void * pointer : entry->names) {
                registry().remember(pointer);
            }
        } catch (const std::bad_alloc &) {
        }
    }
    while (entry->users.load(std::memory_order_acquire) != 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    delete entry;
    return true;
}

}  // namespace guard

extern "C" void * shim_pin(const void * handle) {
    bool freed = false;
    return guard::take(handle, freed);
}

extern "C" void shim_unpin(void * pin) {
    guard::release(static_cast<guard::Entry *>(pin));
}
