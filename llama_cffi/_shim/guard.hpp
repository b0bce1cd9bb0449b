/* What the generated guard.cpp stands on: one `Call` a guarded call, which keeps its handles alive and records how it
 * failed. */
#pragma once

#include "handles.hpp"
#include "shim.h"

#include <atomic>
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

    /* To be called from a catch-all handler. */
    void caught(std::initializer_list<const void *> suspects) noexcept;

  private:
    bool uses(const Entry * entry) const noexcept;
    bool refuse(int kind) noexcept;

    const char * function_;
    Call *       outer_;
    Entry *      held_[4] = {};
    int          n_held_  = 0;
};

/* Notes a handle that a call has made, and gives it back. */
template <typename T> T * begins(T * handle) noexcept {
    if (handle != nullptr) {
        add(handle);
    }
    return handle;
}

/* Notes a pointer into a handle, which lives as long as that, and gives it back. */
template <typename T> T * part_of(const void * owner, T * part) noexcept {
    if (part != nullptr) {
        add_part(part, owner);
    }
    return part;
}

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
