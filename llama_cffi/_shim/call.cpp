/* The guard's runtime: every guarded call records its errors here. */
#include "call.hpp"
#include "log.hpp"

#include "gbnf.hpp"
#include "guard.hpp"

#include "ggml.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include <dlfcn.h>

namespace {

struct AssertFailure {
    std::string message;
};

struct LostWorker {};

thread_local guard::Call * innermost = nullptr;
thread_local guard::Error  call_error;
thread_local const char *  call_deprecated = nullptr;
thread_local CallLog       last_call;
thread_local uint64_t      n_calls = 0;

/* ggml calls this for a failed assert, and abort() after it. On a thread inside a guarded call, the exception unwinds to
 * that call. On any other thread (a compute worker) nothing could catch it, so the process aborts as ggml intends. */
void throw_on_abort(const char * message) {
    if (innermost != nullptr) {
        throw AssertFailure{message};
    }
    fprintf(stderr, "%s\n(on a thread of ggml's own, where no caller can catch it)\n", message);
}

void record(int kind, const char * text) {
    call_error.kind = kind;
    snprintf(call_error.message, sizeof(call_error.message), "%s", text);
}

std::mutex modules_mutex;

std::map<std::string, void *> & modules() {
    static auto * handles = new std::map<std::string, void *>;
    return *handles;
}

/* Binds the functions of the RPC module that report lost workers, if this package built the module. */
void bind_rpc_module(void * module) {
    static guard::RpcModule functions;
    functions.messages = reinterpret_cast<size_t (*)()>(dlsym(module, "llama_cffi_rpc_messages"));
    functions.lost     = reinterpret_cast<const char * (*)(size_t)>(dlsym(module, "llama_cffi_rpc_lost"));
    if (functions.messages != nullptr && functions.lost != nullptr) {
        guard::rpc_module.store(&functions, std::memory_order_release);
    }
}

}  // namespace

namespace guard {

std::atomic<const RpcModule *> rpc_module{nullptr};

Error & error() noexcept {
    return call_error;
}

void note_deprecated(const char * function) noexcept {
    call_deprecated = function;
}

const char * pop_deprecated() noexcept {
    const char * function = call_deprecated;
    call_deprecated       = nullptr;
    return function;
}

Call::Call(const char * function) noexcept : function_(function), outer_(innermost) {
    innermost = this;
    if (outer_ == nullptr) {
        call_error.kind = SHIM_OK;
        before_         = last_call;
        last_call       = {{&n_calls, ++n_calls}, log_count()};
    }
    if (const RpcModule * rpc = rpc_module.load(std::memory_order_acquire)) {
        n_sent_ = rpc->messages();
    }
}

Call::~Call() {
    innermost = outer_;
    if (frees_ && outer_ == nullptr && call_error.kind == SHIM_OK) {
        last_call = before_;
    }
    for (int i = 0; i < n_acquired_; i++) {
        release(acquired_[i]);
    }
}

bool Call::fail(int kind, const char * text) noexcept {
    record(kind, text);
    call_error.function   = function_;
    call_error.n_suspects = 0;
    return false;
}

bool Call::acquire(std::initializer_list<const void *> handles, std::initializer_list<const void *> optional) noexcept {
    for (const void * handle : handles) {
        if (handle == nullptr) {
            return fail(SHIM_EXCEPTION, "its object must not be NULL");
        }
        if (!acquire_one(handle)) {
            return false;
        }
    }
    for (const void * handle : optional) {
        if (!acquire_one(handle)) {
            return false;
        }
    }
    return true;
}

bool Call::acquire_one(const void * handle) noexcept {
    bool    freed = false;
    Entry * entry = handle != nullptr ? guard::acquire(handle, freed) : nullptr;
    if (freed) {
        return fail(SHIM_CLOSED);
    }
    if (entry != nullptr) {
        acquired_[n_acquired_++] = entry;
    }
    return true;
}

bool Call::uses(const Entry * entry) const noexcept {
    for (int i = 0; i < n_acquired_; i++) {
        if (acquired_[i] == entry) {
            return true;
        }
    }
    return outer_ != nullptr && outer_->uses(entry);
}

bool Call::remove(const void * handle) noexcept {
    frees_        = true;
    bool    freed = false;
    Entry * entry = handle != nullptr ? find(handle, freed) : nullptr;
    if (freed) {
        return fail(SHIM_CLOSED);
    }
    if (entry == nullptr) {
        return true;
    }
    if (is_part(handle, entry)) {
        return fail(SHIM_EXCEPTION, "it belongs to another object, which frees it");
    }
    if (uses(entry)) {
        return fail(SHIM_BUSY);
    }
    return remove_handle(handle, entry) || fail(SHIM_CLOSED);
}

const char * Call::lost_worker() const noexcept {
    const RpcModule * rpc = rpc_module.load(std::memory_order_acquire);
    return rpc != nullptr ? rpc->lost(n_sent_) : nullptr;
}

void Call::throw_if_worker_lost() const {
    if (lost_worker() != nullptr) {
        throw LostWorker{};
    }
}

void Call::record_exception(std::initializer_list<const void *> suspects) noexcept {
    try {
        if (const char * worker = lost_worker()) {  // the cause of any other error
            throw AssertFailure{std::string("Remote RPC server ") + worker + " crashed, or the connection to it ended"};
        }
        throw;
    } catch (const AssertFailure & failure) {
        record(SHIM_ASSERT, failure.message.c_str());
    } catch (const gbnf::Error & e) {
        record(SHIM_GRAMMAR, e.what());
        call_error.function   = function_;
        call_error.n_suspects = 0;  // nothing has changed
        return;
    } catch (const std::bad_alloc & e) {
        record(SHIM_NO_MEMORY, e.what());
    } catch (const std::length_error & e) {
        record(SHIM_NO_MEMORY, e.what());
    } catch (const std::exception & e) {
        record(SHIM_EXCEPTION, e.what());
    } catch (...) {
        record(SHIM_EXCEPTION, "an exception that is not a std::exception");
    }
    call_error.function   = function_;
    call_error.n_suspects = 0;
    for (const void * suspect : suspects) {
        if (suspect != nullptr && call_error.n_suspects < 4) {
            call_error.suspects[call_error.n_suspects++] = suspect;
        }
    }
}

void record_absent(const char * function, const char * versions) noexcept {
    record(SHIM_ABSENT, versions);
    call_error.function   = function;
    call_error.n_suspects = 0;
}

void * ModuleFunction::address() noexcept {
    void * found = address_.load(std::memory_order_acquire);
    if (found != nullptr) {
        return found;
    }
    std::lock_guard<std::mutex> lock(modules_mutex);
    auto                        module  = modules().find(module_);
    void *                      library = module != modules().end() ? module->second : nullptr;
    if (library == nullptr && strcmp(module_, "mtmd") == 0) {
        library = open_mtmd();
    }
    if (library != nullptr) {
        found = dlsym(library, name_);
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

CallId call_running() noexcept {
    return innermost != nullptr ? last_call.call : CallId{};
}

CallLog & call_last() noexcept {
    return last_call;
}

extern "C" {

bool shim_failed(void) {
    return call_error.kind != SHIM_OK;
}

bool shim_pending(void) {
    return shim_failed() || call_deprecated != nullptr;
}

void shim_init(void) {
    log_install();
    ggml_set_abort_callback(throw_on_abort);
    call_error.kind = SHIM_CHECK_INTERPRETER;
}

bool shim_module_open(const char * name, const char * path) {
    /* RTLD_NOLOAD: only the copy that ggml has loaded, never a second one. */
    void * handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (handle == nullptr) {
        return false;
    }
    std::lock_guard<std::mutex> lock(modules_mutex);
    if (modules().emplace(name, handle).second && strcmp(name, "rpc") == 0) {
        bind_rpc_module(handle);
    }
    return true;
}

}  // extern "C"
