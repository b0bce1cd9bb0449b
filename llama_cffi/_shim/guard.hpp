/* What the generated guard.cpp stands on: one `Call` a guarded call, whose catch handler records the error. */
#pragma once

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

/* Marks this thread as inside a guarded call, so that a failed assert may unwind to it. */
class Call {
  public:
    explicit Call(const char * function) noexcept;
    ~Call();
    Call(const Call &)             = delete;
    Call & operator=(const Call &) = delete;

    /* To be called from a catch-all handler. */
    void caught(std::initializer_list<const void *> suspects) noexcept;

  private:
    const char * function_;
};

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
