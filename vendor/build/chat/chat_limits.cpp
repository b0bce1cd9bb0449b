#include "chat_limits.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>

#include <malloc.h>
#include <pthread.h>
#include <time.h>

namespace {

constexpr unsigned EACH = 512;  // allocations between two looks at the clock
constexpr unsigned GRACE =
    1 << 14;                       // allocations that an exceeded call may still make: handlers of exceptions allocate
constexpr size_t SMALL = 1 << 20;  // ... of at most so many bytes

/* Blocks that the call has freed, for its next allocations: values of templates are larger than what malloc finds fast. */
class Blocks {
  public:
    ~Blocks() {
        for (Block * block : free_) {
            while (block != nullptr) {
                Block * next = block->next;
                ::free(block);
                block = next;
            }
        }
    }

    /* Returns a block for at least `size` bytes. */
    void * take(size_t size) {
        const size_t row = size <= SMALLEST ? 0 : (size - SMALLEST + STEP - 1) / STEP;
        if (row >= ROWS) {
            return malloc(size);
        }
        Block * found = free_[row];
        if (found == nullptr) {
            return malloc(SMALLEST + row * STEP);
        }
        free_[row] = found->next;
        held_ -= SMALLEST + row * STEP;
        return found;
    }

    /* Takes a block of `size` bytes back; returns false if it is to be freed. */
    bool give(void * memory, size_t size) {
        const size_t row = size < SMALLEST ? ROWS : (size - SMALLEST) / STEP;
        if (row >= ROWS || held_ > MOST) {
            return false;
        }
        free_[row] = new (memory) Block{free_[row]};
        held_ += SMALLEST + row * STEP;
        return true;
    }

  private:
    struct Block {
        Block * next;
    };

    static constexpr size_t SMALLEST = 24;  // the sizes of glibc
    static constexpr size_t STEP     = 16;
    static constexpr size_t ROWS     = 32;
    static constexpr size_t MOST     = 1 << 20;

    Block * free_[ROWS] = {};
    size_t  held_       = 0;
};

struct Budget {
    const chat_limits * given   = nullptr;
    size_t              memory  = 0;  // bytes that may be in use at a time
    double              until   = 0;  // CPU time of this thread
    size_t              used    = 0;  // bytes; those that were allocated before the call may be freed in it
    uintptr_t           deepest = 0;  // the lowest address of the stack
    unsigned            count   = 0;
    unsigned            grace   = 0;
    Blocks              blocks;
    std::atomic<bool> * stop   = nullptr;
    const char *        over   = nullptr;  // why the call ends
    bool                larger = false;    // a larger stack and more memory would help
    enum chat_status    status = CHAT_OK;
};

thread_local Budget * budget = nullptr;

double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

uintptr_t stack_bottom() {
    static thread_local uintptr_t bottom = 0;
    if (bottom == 0) {
        pthread_attr_t attributes;
        if (pthread_getattr_np(pthread_self(), &attributes) != 0) {
            return 0;
        }
        void * address = nullptr;
        size_t size    = 0;
        pthread_attr_getstack(&attributes, &address, &size);
        pthread_attr_destroy(&attributes);
        bottom = reinterpret_cast<uintptr_t>(address);
    }
    return bottom;
}

[[noreturn]] void exceed(Budget & spent, enum chat_status status, const char * message) {
    spent.status = status;
    spent.over   = message;
    throw limits::Exceeded(status, message);
}

void check(Budget & spent, size_t size) {
    const char here = 0;
    if (spent.over != nullptr) {  // llama.cpp may have caught the exception, and have gone on
        if (size > SMALL || ++spent.grace % GRACE == 0) {
            exceed(spent, spent.status, spent.over);
        }
        return;
    }
    if (size > spent.memory || spent.used > spent.memory - size) {
        spent.larger = true;
        exceed(spent, CHAT_MEMORY, "it takes too much memory");
    }
    if (reinterpret_cast<uintptr_t>(&here) < spent.deepest) {
        spent.larger = true;
        exceed(spent, CHAT_LIMIT, "it is nested too deeply");
    }
    if (++spent.count % EACH == 0) {
        if (spent.stop != nullptr ? spent.stop->load(std::memory_order_relaxed)
                                  : spent.given->stop != nullptr && spent.count % (16 * EACH) == 0 &&
                                        spent.given->stop(spent.given->data)) {
            exceed(spent, CHAT_STOPPED, "it was interrupted");
        }
        if (cpu_seconds() > spent.until) {
            exceed(spent, CHAT_LIMIT, "it takes too long");
        }
    }
}

void * allocate(size_t size, size_t alignment) {
    Budget * spent = budget;
    if (spent != nullptr) {
        check(*spent, size);
    }
    void * found = alignment > 0      ? aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment)
                   : spent != nullptr ? spent->blocks.take(size)
                                      : malloc(size > 0 ? size : 1);
    if (found == nullptr) {
        throw std::bad_alloc();
    }
    if (spent != nullptr) {
        spent->used += malloc_usable_size(found);
    }
    return found;
}

void release(void * memory) {
    Budget * spent = budget;
    if (spent != nullptr && memory != nullptr) {
        const size_t size = malloc_usable_size(memory);
        spent->used -= size < spent->used ? size : spent->used;
        if (spent->blocks.give(memory, size)) {
            return;
        }
    }
    free(memory);
}

/* Runs a call with a budget. A limit counts even where llama.cpp has caught its exception. */
void run_with(Budget & spent, const std::function<void()> & call) {
    struct Restore {
        Budget * before = budget;

        ~Restore() { budget = before; }
    } restore;

    spent.until = cpu_seconds() + spent.given->seconds;
    budget      = &spent;
    try {
        call();
    } catch (...) {
        if (spent.over == nullptr) {
            throw;
        }
    }
    if (spent.over != nullptr) {
        budget = nullptr;
        throw limits::Exceeded(spent.status, spent.over);
    }
}

struct Job {
    Budget                        spent;
    const std::function<void()> * call = nullptr;
    std::exception_ptr            error;
    pthread_mutex_t               mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t                ended = PTHREAD_COND_INITIALIZER;
    bool                          done  = false;
};

void * work(void * data) {
    Job & job         = *static_cast<Job *>(data);
    job.spent.memory  = job.spent.given->memory;
    job.spent.deepest = stack_bottom() + job.spent.given->stack / 4 * 3;
    try {
        run_with(job.spent, *job.call);
    } catch (...) {
        job.error = std::current_exception();
    }
    pthread_mutex_lock(&job.mutex);
    job.done = true;
    pthread_cond_signal(&job.ended);
    pthread_mutex_unlock(&job.mutex);
    return nullptr;
}

/* Runs a call with limits on a thread with a stack of its own. */
void run_on_large_stack(const chat_limits & given, const std::function<void()> & call) {
    Job               job;
    std::atomic<bool> stop{false};
    job.spent.given = &given;
    job.spent.stop  = &stop;
    job.call        = &call;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, given.stack);
    pthread_t thread;
    const int failed = pthread_create(&thread, &attributes, work, &job);
    pthread_attr_destroy(&attributes);
    if (failed != 0) {
        throw limits::Exceeded(CHAT_MEMORY, "no thread can be started for it");
    }
    pthread_mutex_lock(&job.mutex);
    while (!job.done) {
        timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        at.tv_nsec += 5'000'000;
        at.tv_sec += at.tv_nsec / 1'000'000'000;
        at.tv_nsec %= 1'000'000'000;
        pthread_cond_timedwait(&job.ended, &job.mutex, &at);
        if (!job.done && given.stop != nullptr) {
            pthread_mutex_unlock(&job.mutex);
            if (given.stop(given.data)) {
                stop = true;
            }
            pthread_mutex_lock(&job.mutex);
        }
    }
    pthread_mutex_unlock(&job.mutex);
    pthread_join(thread, nullptr);
    if (job.error) {
        std::rethrow_exception(job.error);
    }
}

}  // namespace

namespace limits {

void run(const chat_limits & limits, const std::function<void()> & call) {
    const char here = 0;
    Budget     spent;
    const auto top    = reinterpret_cast<uintptr_t>(&here);
    const auto bottom = stack_bottom();
    spent.given       = &limits;
    spent.memory      = limits.memory;
    spent.deepest     = bottom == 0 || bottom > top ? 0 : top - (top - bottom) / 2;
    run_with(spent, call);
}

void run_with_nesting(const chat_limits & limits, const std::function<void()> & call) {
    const char here = 0;
    Budget     spent;
    const auto top    = reinterpret_cast<uintptr_t>(&here);
    const auto bottom = stack_bottom();
    if (bottom != 0 && bottom < top) {  // on a large stack, a quarter is for the call, and the rest for freeing values
        const size_t quarter = (top - bottom) / 4;
        spent.given          = &limits;
        spent.memory         = std::min(limits.memory, quarter);
        spent.deepest        = top - quarter;
        try {
            run_with(spent, call);
            return;
        } catch (const Exceeded &) {
            if (!spent.larger) {
                throw;
            }
        }
    }
    run_on_large_stack(limits, call);
}

}  // namespace limits

/* These replace the ones of the C++ library within this library only: see the version script. */

void * operator new(size_t size) {
    return allocate(size, 0);
}

void * operator new[](size_t size) {
    return allocate(size, 0);
}

void * operator new(size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<size_t>(alignment));
}

void * operator new[](size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<size_t>(alignment));
}

void * operator new(size_t size, const std::nothrow_t &) noexcept {
    return malloc(size > 0 ? size : 1);
}

void * operator new[](size_t size, const std::nothrow_t &) noexcept {
    return malloc(size > 0 ? size : 1);
}

void operator delete(void * memory) noexcept {
    release(memory);
}

void operator delete[](void * memory) noexcept {
    release(memory);
}

void operator delete(void * memory, size_t) noexcept {
    release(memory);
}

void operator delete[](void * memory, size_t) noexcept {
    release(memory);
}

void operator delete(void * memory, std::align_val_t) noexcept {
    release(memory);
}

void operator delete[](void * memory, std::align_val_t) noexcept {
    release(memory);
}

void operator delete(void * memory, size_t, std::align_val_t) noexcept {
    release(memory);
}

void operator delete[](void * memory, size_t, std::align_val_t) noexcept {
    release(memory);
}
