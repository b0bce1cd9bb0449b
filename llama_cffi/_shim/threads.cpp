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
 * it is calm, first after SOON seconds, and later after each attempt that turned out to be too early.
 *
 * If other programs use all CPUs, one thread gets its share of one CPU. Several get their shares of several, but wait for
 * each other. Which of both is faster depends on the kernel, the programs and the length of the operations, so twice as
 * many threads are tried for a moment, and kept while they compute faster. */
#include "team.hpp"
#include "threads.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fcntl.h>
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
constexpr double TRIAL   = 0.4;  // seconds of computing with each of two numbers of threads that are compared
constexpr double SETTLE  = 0.3;  // seconds before, in which the kernel distributes the threads
constexpr double TRY     = 1;    // seconds from a trial that failed to the next one, at first
constexpr double BETTER  = 1.08;  // more threads are kept if they compute that many times as much
constexpr double WORSE   = 0.6;   // ... and given up early if they compute less than that
constexpr double SELDOM  = 30;    // seconds between trials at most
constexpr double SETTLED = 0.2;   // seconds over which the others' threads are averaged for trials
constexpr double SIMILAR = 1.5;   // ratio of sizes up to which two computations can be compared
constexpr int    NEW     = 5;     // computations of another size after which that size is compared
constexpr double LONG    = 0.05;  // seconds of a computation that counts as one more there
constexpr double UNKNOWN = 2;     // seconds for which more threads are kept that have not been compared with fewer

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
    state.work      = 0;
    state.worked    = 0;
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

/* Starts to measure with a number of threads. */
void measure(shim_trial & trial, int32_t phase, double at) {
    trial.phase = phase;
    trial.work = trial.worked = 0;
    trial.since               = at;
}

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

/* Counts a computation of `n_tokens`. Only those of about the same size are compared with each other. */
void count_work(shim_threads & state, int32_t n_tokens, double seconds) {
    const double ratio = static_cast<double>(n_tokens) / std::max(state.size, 1);
    if (ratio > 1 / SIMILAR && ratio < SIMILAR) {
        state.odd = 0;
        state.work += n_tokens + 2;  // reading the weights takes about as long as computing two tokens
        state.worked += seconds;
        return;
    }
    state.odd += 1 + static_cast<int32_t>(seconds / LONG);
    if (state.odd >= NEW || state.size == 0) {
        state.odd  = 0;
        state.size = n_tokens;
        state.work = state.worked = 0;
        state.trial.lowest        = 0;  // the speeds before were those of another size
        measure(state.trial, state.trial.phase == 0 ? 0 : 2, state.began + seconds);
    }
}

bool stop_computing(shim_threads & state, int32_t n_tokens) {
    const double  at     = now();
    const int32_t before = state.now;
    state.computed += at - state.began;
    count_work(state, n_tokens, at - state.began);
    sample_at(state, at);
    const double span = at - state.marked;
    if (span < WINDOW) {
        return state.now != before;
    }
    const shim_threads last = state;
    start_window(state, at);
    const shim_window window = {
        .at        = at,
        .share     = last.computed / span,
        .preempted = (state.preempted - last.preempted) / span,
        .cpus      = (state.cpu - last.cpu) / last.computed,
        .running   = last.samples > 0 ? last.sum / last.samples : -1,
        .work      = last.work,
        .worked    = last.worked,
    };
    return shim_threads_decide(&state, &window) != before;
}

/* Returns true if other programs use each CPU about once. Where one is free, it is better to use just those that are. */
bool crowded_evenly(const shim_threads & state) {
    const bool   trying = state.trial.phase != 0;  // threads that sleep, and those of this process that do not compute
    const double few    = state.cpus - (trying ? 0.7 : 0.35);
    const double many   = state.cpus * 1.2 + (trying ? 1 : 0);
    return state.trial.others > few && state.trial.others < many;
}

/* Returns the number of threads if it is decided by trials, else 0. `fit` threads would have a CPU each. */
int32_t decide_by_trial(shim_threads & state, const shim_window & window, double span, int32_t fit) {
    shim_trial & trial = state.trial;
    trial.others += std::min(1.0, span / SETTLED) * (std::max(0.0, window.running - state.now) - trial.others);
    if (!crowded_evenly(state) || fit >= state.most || (trial.phase == 0 && state.now != fit)) {
        measure(trial, 0, window.at);
        return 0;
    }
    const bool settled = window.at >= trial.since + 2 * SETTLED;
    if (trial.phase == 0 && trial.kept > fit && settled && window.at >= trial.next) {  // as the last time
        trial.lowest = 0;
        measure(trial, 2, window.at);
        return std::min(trial.kept, state.most);
    }
    if (window.at - span < trial.since + (trial.phase == 0 ? SETTLED : SETTLE)) {
        return trial.phase == 0 ? 0 : state.now;
    }
    trial.work += window.work;
    trial.worked += window.worked;
    const double rate = trial.worked > 0 ? trial.work / trial.worked : 0;
    if (trial.phase == 1) {
        const bool early = trial.worked >= TRIAL / 4 && rate < WORSE * trial.reference;
        if (early || (trial.worked >= TRIAL && rate < BETTER * trial.reference)) {
            trial.next     = window.at + trial.patience;
            trial.patience = std::min(2 * trial.patience, SELDOM);
            trial.kept     = trial.base;
            measure(trial, trial.base > fit ? 2 : 0, window.at);
            return trial.base;
        }
        if (trial.worked >= TRIAL) {
            trial.patience = TRY;
            trial.next     = window.at;
            trial.kept     = state.now;
            measure(trial, 2, window.at);
        }
        return state.now;
    }
    const bool unknown = trial.lowest == 0;  // what fewer threads compute
    if (trial.phase == 2 && (unknown ? trial.worked >= UNKNOWN : trial.worked >= 2 * TRIAL && rate < trial.lowest)) {
        trial.next = unknown ? window.at : window.at + trial.patience;
        trial.kept = fit;
        measure(trial, 0, window.at);
        return fit;
    }
    if (rate > 0 && !(trial.phase == 2 && unknown) && trial.worked >= TRIAL && window.at >= trial.next &&
        state.now < state.most) {
        trial.base      = state.now;
        trial.reference = rate;
        trial.lowest    = trial.phase == 0 ? rate : trial.lowest;
        measure(trial, 1, window.at);
        return std::min(2 * state.now, state.most);
    }
    if (trial.worked >= 4 * TRIAL && !unknown) {  // the latest counts most
        trial.work /= 2;
        trial.worked /= 2;
    }
    return trial.phase == 0 ? 0 : state.now;
}

}  // namespace

namespace threads {

Computation::Computation(shim_threads * state, int32_t n_tokens) noexcept
    : state_(state), n_tokens_(n_tokens), outer_(computing) {
    computing = state;
}

bool Computation::begin() noexcept {
    const bool changed = state_ != nullptr && start_computing(*state_);
    const bool alike   = state_ != nullptr && state_->single == state_->batch;  // else the team changes with the batch
    spread_            = alike && state_->trial.phase != 0 ? state_->now : 0;
    team::spread(spread_, false);
    return changed;
}

void Computation::spread() noexcept {
    team::spread(spread_, true);
}

bool Computation::end() noexcept {
    if (state_ == nullptr) {
        return false;
    }
    team::gather();
    shim_threads & state = *state_;
    state_               = nullptr;
    computing            = outer_;
    return stop_computing(state, n_tokens_);
}

void sample() noexcept {
    if (computing != nullptr) {
        sample_at(*computing, now());
    }
}

}  // namespace threads

extern "C" {

void shim_threads_start(struct shim_threads * state, int32_t single, int32_t batch, int32_t cpus) {
    *state                = {};
    state->single         = single;
    state->batch          = batch;
    state->most           = std::max(single, batch);
    state->now            = state->most;
    state->cpus           = cpus;
    state->patience       = SOON;
    state->tries          = TRIES + 1;
    state->raised         = -TRIED;
    state->trial.patience = TRY;
    state->trial.kept     = state->most == 2 && cpus == 2 ? 2 : 0;  // measured to be faster there
}

int32_t shim_threads_decide(struct shim_threads * state, const struct shim_window * window) {
    const double at = window->at, running = window->running;
    if (window->share < IDLE) {
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
    const bool    taken =
        window->preempted > alarm(state->now) || (window->preempted > FEW && window->cpus < STARVED * state->now);
    state->crowded    = !known && taken && state->now > 1 ? state->crowded + at - state->decided : 0;
    const double span = at - state->decided;
    const bool   slow = span > 5 * WINDOW;  // a single computation took long
    state->decided    = at;
    if (const int32_t tried = known ? decide_by_trial(*state, *window, span, most) : 0; tried > 0) {
        state->now = tried;
        return tried;
    }
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
