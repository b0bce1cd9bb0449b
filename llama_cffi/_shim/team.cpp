/* The OpenMP threads of the calling thread. libgomp ends the process if it cannot start one, and never moves one. */
#include "team.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "llama.h"

#include <pthread.h>
#include <sched.h>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

/* The threads of the team, with the calling thread. A smaller team ends the threads that it does not need. */
thread_local int32_t size = 1;

/* How many of them are bound to CPUs, and where the calling thread may run otherwise. */
thread_local int32_t   bound  = 0;
thread_local bool      caller = false;
thread_local cpu_set_t whole;

void * wait_at(void * gate) {
    pthread_mutex_lock(static_cast<pthread_mutex_t *>(gate));
    pthread_mutex_unlock(static_cast<pthread_mutex_t *>(gate));
    return nullptr;
}

/* Returns true if `n` more threads can exist at once. */
bool can_start(int32_t n) {
    std::vector<pthread_t> threads;
    threads.reserve(static_cast<size_t>(std::max(n, 0)));
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&gate);
    bool all = true;
    for (int32_t i = 0; i < n && all; i++) {
        pthread_t thread;
        all = pthread_create(&thread, nullptr, wait_at, &gate) == 0;
        if (all) {
            threads.push_back(thread);
        }
    }
    pthread_mutex_unlock(&gate);
    for (const pthread_t thread : threads) {
        pthread_join(thread, nullptr);
    }
    return all;
}

/* Binds the running thread to part `i` of `n` of some CPUs. */
void bind(const cpu_set_t & cpus, int32_t i, int32_t n) {
    const int count = CPU_COUNT(&cpus);
    cpu_set_t part;
    CPU_ZERO(&part);
    for (int cpu = 0, nth = 0; cpu < CPU_SETSIZE && nth < count; cpu++) {
        if (CPU_ISSET(cpu, &cpus) != 0 && nth++ * n / count == i) {
            CPU_SET(cpu, &part);
        }
    }
    sched_setaffinity(0, sizeof(part), &part);
}

#ifdef _OPENMP

std::mutex starting;  // of a team

/* Makes a team of `n` threads. It starts here, so that no other thread can take what was found to be free. */
bool start_team(int32_t n) try {
    const std::lock_guard<std::mutex> lock(starting);
    if (!can_start(n - size)) {
        return false;
    }
#pragma omp parallel num_threads(n)
    {
        asm volatile("" ::: "memory");
    }
    return true;
} catch (const std::bad_alloc &) {
    return false;
}

/* Binds all threads of the team, or releases those that are bound. */
void bind_team(int32_t n) {
    const cpu_set_t cpus = whole;
    const int32_t   left = std::min(bound, size);  // those that a smaller region has left out have ended
#pragma omp parallel num_threads(std::max(n, left))
    {
        if (n > 0) {
            bind(cpus, omp_get_thread_num(), n);
        } else {
            sched_setaffinity(0, sizeof(cpus), &cpus);
        }
    }
    bound = n;
}

#else

bool start_team(int32_t) {
    return true;
}

void bind_team(int32_t) {
}

#endif

}  // namespace

namespace team {

bool start(int32_t n) noexcept {
    return n <= size || start_team(n);
}

int32_t require(llama_context * ctx, int32_t n_tokens) noexcept {
    const int32_t one  = llama_n_threads(ctx);  // the last part of a larger batch can be a single token
    const int32_t many = n_tokens == 1 ? one : llama_n_threads_batch(ctx);
    const int32_t most = std::max(one, many);
    if (!start(most)) {
        return most;
    }
    size = std::min(one, many);
    return 0;
}

int32_t region(int32_t n) noexcept {
    const int32_t threads = std::min(n, size);
    size                  = threads > 1 ? threads : size;
    return threads;
}

void forget() noexcept {
    size  = 1;
    bound = 0;
}

void spread(int32_t n, bool started) noexcept {
    const int32_t wanted = n > 1 ? n : 0;
    if (bound != 0 && bound != wanted) {
        bind_team(0);
    }
    if (wanted == 0 || !started) {
        return;
    }
    // A callback may compute within a computation that has bound the calling thread.
    if (!caller && sched_getaffinity(0, sizeof(whole), &whole) != 0) {
        return;
    }
    if (CPU_COUNT(&whole) < wanted) {
        return;
    }
    caller = true;
    if (bound == 0) {
        bind_team(wanted);
    } else {
        bind(whole, 0, wanted);
    }
}

void gather() noexcept {
    if (caller) {
        caller = false;
        sched_setaffinity(0, sizeof(whole), &whole);
    }
}

}  // namespace team

extern "C" {

int32_t shim_require_threads(struct llama_context * ctx, int32_t n_tokens) {
    team::spread(0, false);
    return team::require(ctx, n_tokens);
}

bool shim_can_quantize(int32_t nthread) try {
    const int32_t n = nthread > 0 ? nthread : static_cast<int32_t>(std::thread::hardware_concurrency());
    return n < 2 || can_start(n);
} catch (const std::bad_alloc &) {
    return false;
}

}  // extern "C"
