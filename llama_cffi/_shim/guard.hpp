/* The runtime that the generated guard.cpp uses. A `Call` object surrounds each guarded call: it keeps the handles of
 * the call alive, and records how the call failed. */
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
    int          kind          = SHIM_OK;
    const char * function      = nullptr;
    const void * suspects[4]   = {};  // handles that the failed call may have left half-changed
    int          n_suspects    = 0;
    char         message[2304] = {};
};

Error & error() noexcept;

/* Records that this thread calls a function that is deprecated in its header. */
void note_deprecated(const char * function) noexcept;

/* Returns the last recorded one and forgets it; null if there is none. */
const char * pop_deprecated() noexcept;

/* Functions of the RPC module that report lost workers: see vendor/build/overrides/rpc_lost.h. */
struct RpcModule {
    size_t (*messages)();
    const char * (*lost)(size_t since);
};

/* Null until the RPC module is loaded, and if it comes from another build. */
extern std::atomic<const RpcModule *> rpc_module;

/* Marks this thread as inside a guarded call, so that a failed assert can unwind to it. */
class Call {
  public:
    explicit Call(const char * function) noexcept;
    ~Call();
    Call(const Call &)             = delete;
    Call & operator=(const Call &) = delete;

    /* Acquires handles until the call ends: a thread that frees one of them waits. Returns false, with the error set,
     * if one was already freed, or if one that is not `optional` is null. */
    bool acquire(std::initializer_list<const void *> handles,
                 std::initializer_list<const void *> optional = {}) noexcept;

    /* For a call that frees a handle. Waits until no other call uses the handle, and removes it from the registry.
     * Returns false, with the error set, if it was already freed or if an outer call on this thread uses it. */
    bool remove(const void * handle) noexcept;

    /* Throws if an RPC worker that the call used is lost: its results are then worthless. To be called within the try
     * block, after the guarded function. */
    void check_workers() const {
        if (rpc_module.load(std::memory_order_acquire) != nullptr) {
            throw_if_worker_lost();
        }
    }

    /* Calls check_workers and returns the result. */
    template <typename T> T checked(T result) const {
        check_workers();
        return result;
    }

    /* Registers a new handle and returns it. Does not throw for a lost worker: the caller must be able to free the
     * handle, and its next use reports the worker. */
    template <typename T> T * new_handle(T * handle) const {
        if (handle != nullptr) {
            add_handle(handle);
        } else {
            check_workers();
        }
        return handle;
    }

    /* Registers the new handles in some fields of a result, and returns it. */
    template <auto... Fields, typename T> T new_handles(T result) const {
        return (new_handle(result.*Fields), ..., result);
    }

    /* Records the current exception as the error of this call. To be called in a catch block. */
    void record_exception(std::initializer_list<const void *> suspects) noexcept;

  private:
    static constexpr int MAX_HANDLES = 4;  // of a call; tests/codegen/test_guard.py knows it

    /* Same as acquire, for one handle; null is ignored. */
    bool acquire_one(const void * handle) noexcept;
    bool uses(const Entry * entry) const noexcept;
    bool fail(int kind, const char * text = "") noexcept;

    const char * lost_worker() const noexcept;
    void throw_if_worker_lost() const;

    const char * function_;
    Call *       outer_;
    Entry *      acquired_[MAX_HANDLES] = {};
    int          n_acquired_            = 0;
    size_t       n_sent_                = 0;  // messages that this thread had sent to workers before the call
    bool         frees_                 = false;
    CallLog      before_;
};

/* Registers a pointer into a handle, which is valid as long as the handle, and returns it. */
template <typename T> T * part_of(const void * owner, T * part) noexcept {
    if (part != nullptr) {
        add_part(part, owner);
    }
    return part;
}

/* The following check arguments that ggml does not, and throw. To be called within the try block. */

/* A number must be one of an enumeration with `count` members, and a type one that exists. */
void require_member(const char * kind, int value, int count);

/* A context must have room for an object of `size` bytes. */
void require_room(const struct ggml_context * ctx, size_t size);

/* It must have room for a graph, which must be neither empty nor huge. */
void require_graph_room(const struct ggml_context * ctx, size_t size, bool grads);

/* It must have room for the work memory of a computation. */
void require_work_room(const struct ggml_context * ctx, struct ggml_cgraph * graph, int n_threads);

/* Records that this llama.cpp lacks a function, and the versions that have it. */
void record_absent(const char * function, const char * versions) noexcept;

/* Loads the library for images and sound unless it is loaded, and returns its handle; null if there is none. */
void * open_mtmd() noexcept;

/* A function of a backend module. */
class ModuleFunction {
  public:
    constexpr ModuleFunction(const char * module, const char * name) noexcept : module_(module), name_(name) {}

    /* Returns the function; null, with the error set, if the module is not loaded or lacks it. */
    template <typename F> F find() noexcept { return reinterpret_cast<F>(address()); }

  private:
    void * address() noexcept;

    const char *        module_;
    const char *        name_;
    std::atomic<void *> address_{nullptr};
};

}  // namespace guard
