/* What the generated guard.cpp stands on: one `Call` a guarded call, which keeps its handles alive and records how it
 * failed. */
#pragma once

#include "call.hpp"
#include "handles.hpp"
#include "shim.h"

#include <atomic>
#include <cstddef>
#include <initializer_list>

namespace guard {

/* The error of the last guarded call on this thread. */
struct Error {
    int          kind         = SHIM_OK;
    const char * function     = nullptr;
    const void * suspects[4]  = {};  // handles whose state the failed call may have left half-changed
    int          n_suspects   = 0;
    char         message[2304] = {};
};

Error & error() noexcept;

/* Notes that this thread calls a function which its header deprecates. */
void deprecated(const char * function) noexcept;

/* The last one, which is forgotten with that; null: none. */
const char * take_deprecated() noexcept;

/* What the RPC module knows of lost workers: see vendor/build/overrides/rpc_lost.h. Null until that is loaded, and where it is another
 * build's. */
struct RpcModule {
    size_t (*messages)();
    const char * (*lost)(size_t since);
};

extern std::atomic<const RpcModule *> rpc_module;

/* Marks this thread as inside a guarded call, so that a failed assert may unwind to it, and holds the handles that the
 * call uses: another thread that frees one of them waits until it ends. */
class Call {
  public:
    explicit Call(const char * function) noexcept;
    ~Call();
    Call(const Call &)             = delete;
    Call & operator=(const Call &) = delete;

    /* False, with the error set, if one of the handles was freed. */
    bool holds(std::initializer_list<const void *> handles) noexcept;

    /* For a call that frees a handle: waits until no other call uses it. False, with the error set, if it was freed
     * before, or if a call further up on this thread uses it. */
    bool ends(const void * handle) noexcept;

    /* At the end of a call, within its try block: throws if a worker that it used is lost, for then what it has
     * computed is worth nothing. Gives the result back. */
    template <typename T> T settled(T result) const {
        settle();
        return result;
    }

    void settle() const {
        if (rpc_module.load(std::memory_order_acquire) != nullptr) {
            require_workers();
        }
    }

    /* The same for a call that makes a handle, which it notes and gives back: what was made can be freed, and whoever
     * uses it is told. */
    template <typename T> T * begun(T * handle) const {
        if (handle != nullptr) {
            add(handle);
        } else {
            settle();
        }
        return handle;
    }

    /* To be called from a catch-all handler. */
    void caught(std::initializer_list<const void *> suspects) noexcept;

  private:
    bool uses(const Entry * entry) const noexcept;
    bool refuse(int kind) noexcept;

    const char * lost_worker() const noexcept;
    void         require_workers() const;

    const char * function_;
    Call *       outer_;
    Entry *      held_[4] = {};
    int          n_held_  = 0;
    size_t       n_sent_  = 0;  // messages to workers before this call, by this thread
    bool         frees_   = false;
    CallLog      before_;
};

/* Notes a pointer into a handle, which lives as long as that, and gives it back. */
template <typename T> T * part_of(const void * owner, T * part) noexcept {
    if (part != nullptr) {
        add_part(part, owner);
    }
    return part;
}

/* Records that this llama.cpp lacks a function, and which ones have it. */
void absent(const char * function, const char * versions) noexcept;

/* A function of a backend module. Looked up once it is loaded; null, with the error set, before. */
class ModuleFunction {
  public:
    constexpr ModuleFunction(const char * module, const char * name) noexcept : module_(module), name_(name) {}

    template <typename F> F find() noexcept { return reinterpret_cast<F>(address()); }

  private:
    void * address() noexcept;

    const char *        module_;
    const char *        name_;
    std::atomic<void *> address_{nullptr};
};

}  // namespace guard
