/* Teams of OpenMP threads on several calling threads, started, bound, released and shrunk in random order.
 *
 * libgomp is not instrumented, so ThreadSanitizer takes its barriers for races. Here, C++'s threads run the regions. */
#include "team.hpp"

#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "llama.h"

#include <sched.h>

namespace {

thread_local int     number = 0;         // of the thread in its region
thread_local int32_t one = 1, many = 1;  // threads of the context

int usable() {
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : -1;
}

/* Computations of one calling thread. Returns how often it was not where it may be. */
int compute(unsigned seed) {
    std::mt19937 random(seed);
    const int    all   = usable();
    int          wrong = 0;
    for (int i = 0; i < 300; i++) {
        one  = 1 + static_cast<int32_t>(random() % 3);
        many = random() % 2 == 0 ? one : 1 + static_cast<int32_t>(random() % 3);
        if (random() % 8 == 0) {
            wrong += shim_require_threads(nullptr, 1 + static_cast<int32_t>(random() % 2)) != 0;
            continue;
        }
        const int32_t spread = one == many && random() % 2 == 0 ? one : 0;
        team::spread(spread, false);
        wrong += team::require(nullptr, 2) != 0;
        team::spread(spread, true);
        if (random() % 8 == 0) {  // a callback computes
            team::spread(spread, false);
            team::spread(spread, true);
            team::gather();
        }
        team::region(2);
        team::gather();
        wrong += usable() != all;
        if (random() % 32 == 0) {
            team::forget();
        }
    }
    wrong += !shim_can_quantize(3);
    return wrong;
}

}  // namespace

extern "C" {

void GOMP_parallel(void (*body)(void *), void * data, unsigned n, unsigned) {
    std::vector<std::thread> others;
    for (unsigned i = 1; i < n; i++) {
        others.emplace_back([=] {
            number = static_cast<int>(i);
            body(data);
        });
    }
    body(data);
    for (std::thread & other : others) {
        other.join();
    }
}

int omp_get_thread_num() {
    return number;
}

int32_t llama_n_threads(llama_context *) {
    return one;
}

int32_t llama_n_threads_batch(llama_context *) {
    return many;
}

}  // extern "C"

int main() {
    int                      wrong[4] = {};
    std::vector<std::thread> callers;
    for (unsigned i = 0; i < 4; i++) {
        callers.emplace_back([&wrong, i] { wrong[i] = compute(i); });
    }
    for (std::thread & caller : callers) {
        caller.join();
    }
    const int all = wrong[0] + wrong[1] + wrong[2] + wrong[3];
    printf("4 threads computed 300 times each: %d wrong\n", all);
    return all != 0;
}
