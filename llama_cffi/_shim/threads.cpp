/* Adapts the number of compute threads of a context to what else runs on the machine.
 *
 * The threads of a computation wait for each other after each operation (a barrier), some hundred times a token. If
 * another program runs on the CPU of one of them, all others wait until the kernel lets it continue, which takes
 * milliseconds. So a busy machine does not slow a computation down in proportion: it stops it. With as many threads as
 * there are free CPUs, it only gets fewer CPUs.
 *
 * Every WINDOW seconds of computing: how many threads of other programs run or wait for a CPU (/proc/loadavg)? A context
 * that may use all CPUs of the machine leaves one to each. Where it may not, these threads may be anywhere; there, it
 * uses fewer threads if its own were preempted, or did not get the CPU time that they asked for. It uses more again when
 * it is calm, first after SOON seconds, and later after each attempt that turned out to be too early. */
#include "threads.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <mutex>
#include <thread>
#include <vector>

#include "llama.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr double WINDOW  = 0.02;   // seconds between two decisions
constexpr double SAMPLE  = 0.002;  // seconds between two samples of how many threads run
constexpr double IDLE    = 0.25;   // a smaller share of computing in a window: there is nothing to learn
constexpr double SOON    = 0.5;    // seconds after which more threads are tried again, at first
constexpr double LATE    = 8;      // ... and at most, where they were too many again and again
constexpr double TRIED   = 0.5;    // more threads that are too many show it within that many seconds,
constexpr int    TRIES   = 5;      // ... or decisions
constexpr double CROWDED = 0.06;   // seconds of being crowded that lower the number where the others are not known
constexpr double STARVED = 0.6;  // threads that spin while they wait get nearly all the time of their CPUs, if they can
constexpr double FEW     = 10;   // preemptions a second without which nobody takes CPU time away

/* Preemptions a second that say that others need the CPUs. On a quiet machine each thread has a few. */
double alarm(int32_t n) {
    return 30 + 5.0 * n;
}

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double seconds(const timeval & t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
}

/* How many threads of all processes run or wait for a CPU, this one among them; negative if the system does not say. */
int running() {
    static const int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    char             text[128];
    const ssize_t    n = file >= 0 ? pread(file, text, sizeof(text) - 1, 0) : 0;
    if (n <= 0) {
        return -1;
    }
    text[n]   = '\0';
    int found = -1;
    return sscanf(text, "%*s %*s %*s %d/", &found) == 1 && found > 0 ? found : -1;  // gVisor: always 0
}

void start_window(shim_threads & state, double at) {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    state.marked    = at;
    state.preempted = static_cast<double>(usage.ru_nivcsw);
    state.cpu       = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    state.computed  = 0;
    state.sum       = 0;
    state.samples   = 0;
}

void sample_at(shim_threads & state, double at) {
    if (state.cpus == 0 || at - state.sampled < SAMPLE) {
        return;
    }
    state.sampled   = at;
    const int found = running();
    if (found > 0) {
        state.sum += found;
        state.samples++;
    }
}

thread_local shim_threads * computing = nullptr;  // set by a Computation, and only while it lives

/* The OpenMP threads of the calling thread, with itself. Each thread has a team of its own, and a smaller team ends the
 * threads that it does not need. */
thread_local int32_t team = 1;

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

#ifdef _OPENMP

std::mutex starting;  // of a team

/* Makes a team of `n` threads. It starts here, so that no other thread can take what was found to be free. */
bool start_team(int32_t n) try {
    const std::lock_guard<std::mutex> lock(starting);
    if (!can_start(n - team)) {
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

#else

bool start_team(int32_t) {
    return true;
}

#endif

bool start_computing(shim_threads & state) {
    state.began = now();
    if (state.marked != 0) {
        return false;
    }
    state.decided = state.began;
    start_window(state, state.began);
    const int found = state.cpus > 0 ? running() : -1;
    if (found > 0) {  // this thread is one of them
        state.now = std::clamp(state.cpus - (found - 1), 1, state.most);
    }
    return state.now < state.most;
}

bool stop_computing(shim_threads & state) {
    const double at = now();
    state.computed += at - state.began;
    sample_at(state, at);
    const double span = at - state.marked;
    if (span < WINDOW) {
        return false;
    }
    const shim_threads last = state;
    start_window(state, at);
    const double rate = (state.preempted - last.preempted) / span;
    const double cpus = (state.cpu - last.cpu) / last.computed;
    const double mean = last.samples > 0 ? last.sum / last.samples : -1;
    return shim_threads_decide(&state, at, last.computed / span, rate, cpus, mean) != last.now;
}

}  // namespace

namespace threads {

Computation::Computation(shim_threads * state) noexcept : state_(state), outer_(computing) {
    computing = state;
}

bool Computation::begin() noexcept {
    return state_ != nullptr && start_computing(*state_);
}

bool Computation::end() noexcept {
    if (state_ == nullptr) {
        return false;
    }
    shim_threads & state = *state_;
    state_               = nullptr;
    computing            = outer_;
    return stop_computing(state);
}

void sample() noexcept {
    if (computing != nullptr) {
        sample_at(*computing, now());
    }
}

bool start(int32_t n) noexcept {
    return n <= team || start_team(n);
}

int32_t require(llama_context * ctx, int32_t n_tokens) noexcept {
    const int32_t one  = llama_n_threads(ctx);  // the last part of a larger batch can be a single token
    const int32_t many = n_tokens == 1 ? one : llama_n_threads_batch(ctx);
    const int32_t most = std::max(one, many);
    if (!start(most)) {
        return most;
    }
    team = std::min(one, many);
    return 0;
}

int32_t started() noexcept {
    return team;
}

void forget() noexcept {
    team = 1;
}

}  // namespace threads

extern "C" {

int32_t shim_require_threads(struct llama_context * ctx, int32_t n_tokens) {
    return threads::require(ctx, n_tokens);
}

bool shim_can_quantize(int32_t nthread) try {
    const int32_t n = nthread > 0 ? nthread : static_cast<int32_t>(std::thread::hardware_concurrency());
    return n < 2 || can_start(n);
} catch (const std::bad_alloc &) {
    return false;
}

void shim_threads_start(struct shim_threads * state, int32_t single, int32_t batch, int32_t cpus) {
    *state          = {};
    state->single   = single;
    state->batch    = batch;
    state->most     = std::max(single, batch);
    state->now      = state->most;
    state->cpus     = cpus;
    state->patience = SOON;
    state->tries    = TRIES + 1;
    state->raised   = -TRIED;
}

int32_t shim_threads_decide(struct shim_threads * state, double at, double share, double preempted, double cpus,
                            double running) {
    if (share < IDLE) {
        state->decided = at;
        return state->now;
    }
    const bool known = state->cpus > 0 && running >= 0;
    if (known) {  // the mean of the last two windows, or a long one alone
        const double weight = std::clamp((at - state->decided) / (2 * WINDOW), 0.5, 1.0);
        state->others += weight * (std::max(0.0, running - state->now) - state->others);
    }
    const auto    fit    = static_cast<int32_t>(std::lround(state->cpus - state->others));
    const int32_t most   = known ? std::clamp<int32_t>(fit, 1, state->most) : state->most;
    int32_t       wanted = state->now;
    const bool    taken  = preempted > alarm(state->now) || (preempted > FEW && cpus < STARVED * state->now);
    state->crowded       = !known && taken && state->now > 1 ? state->crowded + at - state->decided : 0;
    const bool slow      = at - state->decided > 5 * WINDOW;  // a single computation took long
    state->decided       = at;
    state->tries++;
    if (most < state->now) {
        wanted = most;
    } else if (state->crowded >= CROWDED) {
        wanted = at - state->raised < TRIED ? state->before : state->now - std::max(1, state->now / (slow ? 2 : 4));
    } else if (state->crowded > 0) {
        // wait for more windows
    } else if (state->now < most && at - state->lowered > state->patience) {
        wanted = most;
    } else if (at - state->lowered > 2 * LATE) {
        state->patience = SOON;
    }
    if (wanted < state->now) {
        if (at - state->raised < TRIED || state->tries <= TRIES) {
            state->patience = std::min(2 * state->patience, LATE);
            state->tries    = TRIES + 1;  // counted once
            state->raised   = at - TRIED;
        }
        state->lowered = at;
    } else if (wanted > state->now) {
        state->before = state->now;
        state->raised = at;
        state->tries  = 0;
    }
    if (wanted != state->now) {
        state->now     = wanted;
        state->crowded = 0;
    }
    return state->now;
}

}  // extern "C"
