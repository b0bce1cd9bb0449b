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
    std::vector<const void *> names;  // the handle and the pointers into it
};

namespace {

constexpr size_t REMEMBERED = 1 << 14;  // freed addresses; malloc reuses most of them long before the limit

struct Registry {
    std::mutex                                  mutex;
    std::unordered_map<const void *, Entry *>   alive;
    std::unordered_map<const void *, size_t>    freed;  // address -> number of the free: it may be freed again
    std::deque<std::pair<const void *, size_t>> order;  // of `freed`, the oldest first
    size_t                                      frees = 0;

    void name(Entry * entry, const void * pointer) {
        entry->names.push_back(pointer);
        alive[pointer] = entry;
        freed.erase(pointer);
    }

    void forget(Entry * entry) {
        for (const void * pointer : entry->names) {
            alive.erase(pointer);
        }
    }

    void remember(const void * pointer) {
        freed[pointer] = ++frees;
        order.emplace_back(pointer, frees);
        while (order.size() > REMEMBERED) {
            const auto oldest = freed.find(order.front().first);
            if (oldest != freed.end() && oldest->second == order.front().second) {
                freed.erase(oldest);
            }
            order.pop_front();
        }
    }
};

/* Never destroyed: other threads may still be in calls when static objects are destroyed. */
Registry & registry() {
    static Registry * made = [] {
        auto * fresh = new Registry;
        // In a forked child, a thread that does not exist there must not hold the mutex.
        pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                       [] { registry().mutex.unlock(); });
        return fresh;
    }();
    return *made;
}

}  // namespace

void add_handle(const void * handle) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    try {
        const auto found = registry().alive.find(handle);
        if (found != registry().alive.end()) {  // C code freed it without the guard, and the address was reused
            registry().forget(found->second);   // the entry stays: a call may still use it
        }
        registry().name(new Entry, handle);
    } catch (const std::bad_alloc &) {  // the handle stays unknown
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
    const auto                  found = registry().alive.find(handle);
    freed                             = found == registry().alive.end() && registry().freed.count(handle) != 0;
    return freed || found == registry().alive.end() ? nullptr : found->second;
}

Entry * acquire(const void * handle, bool & freed) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    const auto                  found = registry().alive.find(handle);
    if (found == registry().alive.end()) {
        freed = registry().freed.count(handle) != 0;
        return nullptr;
    }
    found->second->users.fetch_add(1, std::memory_order_relaxed);
    return found->second;
}

void release(Entry * entry) noexcept {
    entry->users.fetch_sub(1, std::memory_order_release);
}

bool is_part(const void * pointer, const Entry * entry) noexcept {
    std::lock_guard<std::mutex> lock(registry().mutex);
    return entry->names.front() != pointer;
}

bool remove_handle(const void * handle, Entry * entry) noexcept {
    {
        std::lock_guard<std::mutex> lock(registry().mutex);
        const auto                  found = registry().alive.find(handle);
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
