/* Keeps llama.cpp's log: the last lines of each call for error messages, and all lines for a Python target, which gets
 * them when the call ends. */
#include "call.hpp"
#include "log.hpp"
#include "shim.h"

#include "llama.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <string>

#include <pthread.h>

namespace {

constexpr size_t LOG_LINES  = 256;     // per thread, for error messages
constexpr size_t KEPT_LINES = 100000;  // for a Python target; a call rarely logs more than 1,000 lines

struct Line {
    int         level;
    std::string text;
    CallId      call;  // empty: logged by a thread of llama.cpp
    uint64_t    number = 0;
};

class Log {
  public:
    /* llama.cpp logs lines in pieces, and other threads may log in between. A line is kept once it is complete. */
    void append(int level, const char * text) {
        const CallId                call = call_running();
        std::lock_guard<std::mutex> lock(mutex_);
        Partial &                   line = partial_[call.thread];
        if (level != GGML_LOG_LEVEL_CONT) {
            line.level = level;
        }
        for (; *text; text++) {
            if (*text != '\n') {
                line.text += *text;
            } else if (!line.text.empty()) {
                keep_line({line.level, line.text, call});
                line.text.clear();
            }
        }
        if (line.text.empty()) {
            partial_.erase(call.thread);
        }
    }

    /* Discards the lines of a thread that ends. */
    void forget(const void * thread) {
        std::lock_guard<std::mutex> lock(mutex_);
        lines_.erase(thread);
        partial_.erase(thread);
    }

    uint64_t count() const { return count_.load(std::memory_order_relaxed); }

    /* Returns the lines of a call, and the lines that llama.cpp's threads have logged since it began. */
    std::string lines_of(const CallLog & log) {
        std::lock_guard<std::mutex>             lock(mutex_);
        std::map<uint64_t, const std::string *> found;
        for (const void * thread : {log.call.thread, static_cast<const void *>(nullptr)}) {
            for (const Line & line : lines_[thread]) {
                if (line.number >= log.mark && (thread == nullptr || line.call == log.call)) {
                    found[line.number] = &line.text;
                }
            }
        }
        std::string out;
        for (const auto & [number, text] : found) {
            out += *text;
            out += '\n';
        }
        return out;
    }

    void keep(bool on) {
        std::lock_guard<std::mutex> lock(mutex_);
        keep_ = on;
        kept_.clear();
        waiting_ = false;
    }

    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

    bool waiting() const { return waiting_.load(std::memory_order_relaxed); }

    bool pop(Line & out) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (kept_.empty()) {
            return false;
        }
        out = std::move(kept_.front());
        kept_.pop_front();
        waiting_ = !kept_.empty();
        return true;
    }

  private:
    struct Partial {
        int         level = GGML_LOG_LEVEL_INFO;
        std::string text;
    };

    void keep_line(Line line) {
        line.number              = count_++;
        std::deque<Line> & lines = lines_[line.call.thread];
        lines.push_back(line);
        if (lines.size() > LOG_LINES) {
            lines.pop_front();
        }
        if (keep_) {
            kept_.push_back(line);
            waiting_ = true;
            if (kept_.size() > KEPT_LINES) {
                kept_.pop_front();
            }
        }
    }

    std::mutex                               mutex_;
    std::map<const void *, std::deque<Line>> lines_;    // by CallId::thread; null: threads that are not in a call
    std::map<const void *, Partial>          partial_;  // likewise
    std::deque<Line>                         kept_;
    bool                                     keep_ = false;
    std::atomic<bool>                        waiting_{false};
    std::atomic<uint64_t>                    count_{0};
};

/* Never destroyed: llama.cpp may log in static destructors. */
Log & the_log() {
    static Log * log = new Log;
    return *log;
}

/* Discards the lines of its thread when that ends: a program may start any number of threads. */
struct ThreadLines {
    const void * thread = nullptr;

    ~ThreadLines() {
        if (thread != nullptr) {
            the_log().forget(thread);
        }
    }
};

}  // namespace

void log_line(enum ggml_log_level level, const char * text, void *) {
    static thread_local ThreadLines lines;
    if (text == nullptr) {
        return;
    }
    const void * thread = call_running().thread;
    if (thread != nullptr) {
        lines.thread = thread;
    }
    try {
        the_log().append(level, text);
    } catch (const std::bad_alloc &) {  // the line is lost; a thread of ggml's own could not catch it
    }
}

uint64_t log_count() noexcept {
    return the_log().count();
}

void log_install() {
    // In a forked child, a thread that does not exist there must not hold the mutex.
    pthread_atfork([] { the_log().lock(); }, [] { the_log().unlock(); }, [] { the_log().unlock(); });
    llama_log_set(log_line, nullptr);
}

extern "C" {

size_t shim_log_since_call(char * buffer, size_t size) try {
    if (size == 0) {
        return 0;
    }
    const std::string text = the_log().lines_of(call_last());
    const size_t      n    = text.size() < size - 1 ? text.size() : size - 1;
    memcpy(buffer, text.data() + (text.size() - n), n);
    buffer[n] = '\0';
    return n;
} catch (const std::bad_alloc &) {
    return 0;
}

void shim_log_keep(bool keep) {
    the_log().keep(keep);
}

int shim_log_take(char * buffer, size_t size) {
    Line line;
    if (size == 0 || !the_log().pop(line)) {
        return -1;
    }
    snprintf(buffer, size, "%s", line.text.c_str());
    return line.level;
}

bool shim_log_waiting(void) {
    return the_log().waiting();
}

}  // extern "C"
