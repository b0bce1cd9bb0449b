/* Callbacks from C into Python, allowed until the interpreter is about to exit. A thread that asks for the GIL after
 * that would be terminated by Python, with frames of llama.cpp on its stack, and would crash the process. */
#include "llama.h"

#include "shim.h"

#include <atomic>
#include <cstring>

/* As in callbacks.h, which C++ cannot read. */
extern "C" {

bool python_progress(float progress, void * data);
bool python_abort(void * data);
bool python_eval(struct ggml_tensor * tensor, bool ask, void * data);
bool python_custom(struct ggml_tensor * tensor, void * data);
const char * python_sampler_name(const struct llama_sampler * sampler);
void python_sampler_accept(struct llama_sampler * sampler, llama_token token);
void python_sampler_apply(struct llama_sampler * sampler, llama_token_data_array * candidates);
void python_sampler_reset(struct llama_sampler * sampler);
void * python_sampler_clone(const struct llama_sampler * sampler);
void python_sampler_free(struct llama_sampler * sampler);

}  // extern "C"

namespace {

std::atomic<bool> stopping{false};
std::atomic<int>  inside{0};
thread_local int  depth = 0;  // how often this thread has entered Python from C

/* Counts this thread as inside Python, for the lifetime of the object. False after shim_stop. */
class Entered {
  public:
    Entered() { shim_enter_python(); }
    ~Entered() { shim_leave_python(); }
    Entered(const Entered &)             = delete;
    Entered & operator=(const Entered &) = delete;

    explicit operator bool() const { return !shim_stopping(); }
};

}  // namespace

extern "C" {

void shim_stop(void) {
    stopping.store(true);
}

bool shim_stopping(void) {
    return stopping.load();
}

void shim_enter_python(void) {
    depth++;
    inside.fetch_add(1);
}

void shim_leave_python(void) {
    inside.fetch_sub(1);
    depth--;
}

bool shim_in_callback(void) {
    return depth > 0;
}

int shim_callbacks(void) {
    return inside.load();
}

bool shim_on_progress(float progress, void * data) {
    const Entered entered;
    return entered && python_progress(progress, data);
}

bool shim_on_abort(void * data) {
    const Entered entered;
    return !entered || python_abort(data);
}

bool shim_on_eval(struct ggml_tensor * tensor, bool ask, void * data) {
    const Entered entered;
    return entered && python_eval(tensor, ask, data);
}

void shim_on_custom(struct ggml_tensor * dst, int ith, int nth, void * data) {
    if (ith != 0) {
        return;  // ggml calls it on each thread of the computation, and Python is asked once, on the caller's
    }
    (void) nth;
    const Entered entered;
    if (!(entered && python_custom(dst, data)) && ggml_is_contiguous(dst)) {
        memset(dst->data, 0, ggml_nbytes(dst));  // what follows may use the elements as indices
    }
}

void shim_on_custom1(struct ggml_tensor * dst, const struct ggml_tensor * a, int ith, int nth, void * data) {
    (void) a;
    shim_on_custom(dst, ith, nth, data);
}

void shim_on_custom2(struct ggml_tensor * dst, const struct ggml_tensor * a, const struct ggml_tensor * b, int ith,
                     int nth, void * data) {
    (void) b;
    shim_on_custom1(dst, a, ith, nth, data);
}

void shim_on_custom3(struct ggml_tensor * dst, const struct ggml_tensor * a, const struct ggml_tensor * b,
                     const struct ggml_tensor * c, int ith, int nth, void * data) {
    (void) c;
    shim_on_custom2(dst, a, b, ith, nth, data);
}

const char * shim_sampler_name(const struct llama_sampler * sampler) {
    const Entered entered;
    return entered ? python_sampler_name(sampler) : "";
}

void shim_sampler_accept(struct llama_sampler * sampler, llama_token token) {
    if (const Entered entered; entered) {
        python_sampler_accept(sampler, token);
    }
}

void shim_sampler_apply(struct llama_sampler * sampler, llama_token_data_array * candidates) {
    if (const Entered entered; entered) {
        python_sampler_apply(sampler, candidates);
    }
}

void shim_sampler_reset(struct llama_sampler * sampler) {
    if (const Entered entered; entered) {
        python_sampler_reset(sampler);
    }
}

struct llama_sampler * shim_sampler_clone(const struct llama_sampler * sampler) {
    const Entered entered;
    void *        data = entered ? python_sampler_clone(sampler) : nullptr;
    return data != nullptr ? llama_sampler_init(sampler->iface, data) : nullptr;
}

void shim_sampler_free(struct llama_sampler * sampler) {
    if (const Entered entered; entered) {
        python_sampler_free(sampler);
    }
}

}  // extern "C"
