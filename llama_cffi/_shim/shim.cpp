#include "guard.hpp"

#include "ggml.h"
#include "llama.h"

#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include <dlfcn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

/* ---- the log ring ---- */

constexpr size_t LOG_LINES  = 256;    // for error messages
constexpr size_t KEPT_LINES = 100000;  // for a Python target; one call rarely logs a thousand

struct Line {
    int         level;
    std::string text;
};

class Log {
  public:
    /* llama.cpp logs pieces of lines; a line is kept once it ends. */
    void append(int level, const char * text) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (level != GGML_LOG_LEVEL_CONT) {
            level_ = level;
        }
        for (; *text; text++) {
            if (*text != '\n') {
                partial_ += *text;
            } else if (!partial_.empty()) {
                finish_line();
            }
        }
    }

    uint64_t count() const { return count_.load(std::memory_order_relaxed); }

    std::string since(uint64_t mark) {
        std::lock_guard<std::mutex> lock(mutex_);
        std::string out;
        const uint64_t first = count_ - lines_.size();
        for (uint64_t i = mark > first ? mark : first; i < count_; i++) {
            out += lines_[i - first].text;
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

    bool waiting() const { return waiting_.load(std::memory_order_relaxed); }

    bool take(Line & out) {
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
    void finish_line() {
        lines_.push_back({level_, partial_});
        count_++;
        if (lines_.size() > LOG_LINES) {
            lines_.pop_front();
        }
        if (keep_) {
            kept_.push_back({level_, partial_});
            waiting_ = true;
            if (kept_.size() > KEPT_LINES) {
                kept_.pop_front();
            }
        }
        partial_.clear();
    }

    std::mutex            mutex_;
    std::deque<Line>      lines_;
    std::deque<Line>      kept_;
    std::string           partial_;
    int                   level_ = GGML_LOG_LEVEL_INFO;
    bool                  keep_  = false;
    std::atomic<bool>     waiting_{false};
    std::atomic<uint64_t> count_{0};
};

/* Never destroyed: llama.cpp may log from static destructors. */
Log & the_log() {
    static Log * log = new Log;
    return *log;
}

void on_log(enum ggml_log_level level, const char * text, void *) {
    if (text != nullptr) {
        the_log().append(level, text);
    }
}

/* ---- the guard ---- */

struct AssertFailure {
    std::string message;
};

thread_local int          call_depth = 0;
thread_local uint64_t     call_mark  = 0;
thread_local guard::Error call_error;

/* ggml calls this and then abort(). On a thread that is inside a guarded call the exception goes up to that call; any
 * other thread (a compute worker) has nowhere to go to, and the process ends as ggml means it to. */
void on_abort(const char * message) {
    if (call_depth > 0) {
        throw AssertFailure{message};
    }
    fprintf(stderr, "%s\n(on a thread of ggml's own, where no caller can catch it)\n", message);
}

void record(int kind, const char * text) {
    call_error.kind = kind;
    snprintf(call_error.message, sizeof(call_error.message), "%s", text);
}

/* ---- backend modules ---- */

std::mutex modules_mutex;

std::map<std::string, void *> & modules() {
    static auto * handles = new std::map<std::string, void *>;
    return *handles;
}

}  // namespace

namespace guard {

Error & error() noexcept {
    return call_error;
}

Call::Call(const char * function) noexcept : function_(function) {
    if (call_depth++ == 0) {
        call_error.kind = SHIM_OK;
        call_mark       = the_log().count();
    }
}

Call::~Call() {
    call_depth--;
}

void Call::caught(std::initializer_list<const void *> suspects) noexcept {
    try {
        throw;
    } catch (const AssertFailure & failure) {
        record(SHIM_ASSERT, failure.message.c_str());
    } catch (const std::bad_alloc & e) {
        record(SHIM_NO_MEMORY, e.what());
    } catch (const std::length_error & e) {
        record(SHIM_NO_MEMORY, e.what());
    } catch (const std::exception & e) {
        record(SHIM_EXCEPTION, e.what());
    } catch (...) {
        record(SHIM_EXCEPTION, "an exception of a type unknown to the binding");
    }
    call_error.function   = function_;
    call_error.n_suspects = 0;
    for (const void * suspect : suspects) {
        if (suspect != nullptr && call_error.n_suspects < 4) {
            call_error.suspects[call_error.n_suspects++] = suspect;
        }
    }
}

void * ModuleFunction::address() noexcept {
    void * found = address_.load(std::memory_order_acquire);
    if (found != nullptr) {
        return found;
    }
    std::lock_guard<std::mutex> lock(modules_mutex);
    auto module = modules().find(module_);
    if (module != modules().end()) {
        found = dlsym(module->second, name_);
    }
    if (found != nullptr) {
        address_.store(found, std::memory_order_release);
    } else {
        record(SHIM_UNAVAILABLE, module_);
        call_error.function   = name_;
        call_error.n_suspects = 0;
    }
    return found;
}

}  // namespace guard

extern "C" {

bool shim_pending(void) {
    return call_error.kind != SHIM_OK;
}

void shim_init(void) {
    the_log();
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
}

size_t shim_log_since_call(char * buffer, size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string text = the_log().since(call_mark);
    const size_t      n    = text.size() < size - 1 ? text.size() : size - 1;
    memcpy(buffer, text.data() + (text.size() - n), n);
    buffer[n] = '\0';
    return n;
}

void shim_log_keep(bool keep) {
    the_log().keep(keep);
}

int shim_log_take(char * buffer, size_t size) {
    Line line;
    if (size == 0 || !the_log().take(line)) {
        return -1;
    }
    snprintf(buffer, size, "%s", line.text.c_str());
    return line.level;
}

bool shim_log_waiting(void) {
    return the_log().waiting();
}

void shim_variant_ask(const char * path, struct shim_variant * out) {
    *out = {};
    void * handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        return;
    }
    out->loadable = true;
    const auto ask = [handle](const char * name) {
        auto * function = reinterpret_cast<int (*)(void)>(dlsym(handle, name));
        return function != nullptr ? function() : 0;
    };
    auto * score = reinterpret_cast<int (*)(void)>(dlsym(handle, "ggml_backend_score"));
    out->score   = score != nullptr ? score() : 1;
    if (out->score > 0) {
        out->uses_amx    = ask("ggml_cpu_has_amx_int8") != 0;
        out->uses_avx512 = ask("ggml_cpu_has_avx512") != 0;
    }
    dlclose(handle);
}

int32_t shim_first_outside(const int32_t * tokens, int32_t n, int32_t n_vocab) {
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab) {
            return i;
        }
    }
    return -1;
}

enum shim_batch_problem shim_batch_check(const struct llama_batch * batch, int32_t n_vocab, int32_t n_seq,
                                         int32_t width, int32_t * index) {
    *index = 0;
    if (batch->n_tokens < 1) {
        return SHIM_BATCH_EMPTY;
    }
    if (batch->token != nullptr) {
        const int32_t bad = shim_first_outside(batch->token, batch->n_tokens, n_vocab);
        if (bad >= 0) {
            *index = bad;
            return SHIM_BATCH_TOKEN;
        }
    }
    int32_t outputs = 0;
    for (int32_t i = 0; i < batch->n_tokens; i++) {
        *index = i;
        outputs += batch->logits != nullptr && batch->logits[i] != 0;
        if (batch->pos != nullptr && batch->pos[i] < 0) {
            return SHIM_BATCH_POSITION;
        }
        if (batch->n_seq_id != nullptr && (batch->n_seq_id[i] < 1 || batch->n_seq_id[i] > width)) {
            return SHIM_BATCH_COUNT;
        }
        const int32_t n = batch->n_seq_id != nullptr && batch->seq_id != nullptr ? batch->n_seq_id[i] : 0;
        if (shim_first_outside(batch->seq_id != nullptr ? batch->seq_id[i] : nullptr, n, n_seq) >= 0) {
            return SHIM_BATCH_SEQUENCE;
        }
    }
    *index = batch->logits != nullptr ? outputs : 1;
    return SHIM_BATCH_OK;
}

bool shim_avx512_works(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

bool shim_module_open(const char * name, const char * path) {
    /* NOLOAD: only what ggml itself has loaded, never a second copy. */
    void * handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (handle == nullptr) {
        return false;
    }
    std::lock_guard<std::mutex> lock(modules_mutex);
    modules()[name] = handle;
    return true;
}

}  // extern "C"

/* ---- AMX ---- */

#if defined(__x86_64__) && defined(SYS_arch_prctl)

namespace {

sigjmp_buf amx_fault;

void on_amx_fault(int) {
    siglongjmp(amx_fault, 1);
}

/* The operand of ldtilecfg. */
struct alignas(64) TileConfig {
    uint8_t  palette    = 1;
    uint8_t  start_row  = 0;
    uint8_t  unused[14] = {};
    uint16_t row_bytes[16];
    uint8_t  rows[16];
};

/* In the child: ask the kernel for the tile registers, then multiply two small matrices of ones and twos. A machine may
 * grant the first and fault on the second. The instructions are written as bytes, for assemblers that do not know them. */
[[noreturn]] void amx_child() {
    constexpr int  ARCH_REQ_XCOMP_PERM = 0x1023;
    constexpr long XFEATURE_XTILEDATA  = 18;
    constexpr long STRIDE              = 64;
    for (int signal_number : {SIGSEGV, SIGILL, SIGBUS}) {
        signal(signal_number, on_amx_fault);
    }
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0 || sigsetjmp(amx_fault, 1) != 0) {
        _exit(1);
    }
    TileConfig config;
    alignas(64) int8_t  a[16][64];
    alignas(64) int8_t  b[16][64];
    alignas(64) int32_t c[16][16] = {};
    for (int i = 0; i < 16; i++) {
        config.row_bytes[i] = i < 8 ? 64 : 0;
        config.rows[i]      = i < 8 ? 16 : 0;
    }
    memset(a, 1, sizeof(a));
    memset(b, 2, sizeof(b));
    __asm__ volatile(
        ".byte 0xc4,0xe2,0x78,0x49,0x07\n"       // ldtilecfg (%rdi)
        ".byte 0xc4,0xe2,0x7b,0x49,0xc0\n"       // tilezero %tmm0
        ".byte 0xc4,0xe2,0x7b,0x4b,0x0c,0x06\n"  // tileloadd (%rsi,%rax), %tmm1
        ".byte 0xc4,0xe2,0x7b,0x4b,0x14,0x02\n"  // tileloadd (%rdx,%rax), %tmm2
        ".byte 0xc4,0xe2,0x6b,0x5e,0xc1\n"       // tdpbssd %tmm2, %tmm1, %tmm0
        ".byte 0xc4,0xe2,0x7a,0x4b,0x04,0x01\n"  // tilestored %tmm0, (%rcx,%rax)
        ".byte 0xc4,0xe2,0x78,0x49,0xc0\n"       // tilerelease
        :
        : "D"(&config), "S"(a), "d"(b), "c"(c), "a"(STRIDE)
        : "memory");
    _exit(c[0][0] == 128 && c[15][15] == 128 ? 0 : 1);
}

}  // namespace

extern "C" bool shim_amx_works(void) {
    const pid_t child = fork();
    if (child == 0) {
        amx_child();
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#else

extern "C" bool shim_amx_works(void) {
    return false;
}

#endif
