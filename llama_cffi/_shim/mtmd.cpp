/* Loads llama.cpp's library for images and sound at its first use: see vendor/build/mtmd. */
#include "log.hpp"
#include "guard.hpp"
#include "shim.h"

#include "ggml.h"

#include <cstdint>
#include <mutex>
#include <string>

#include <dlfcn.h>

#include "guard.h"  // from here on llama.cpp's functions are the guarded ones

namespace {

constexpr const char * FILE_NAME = "libmtmd-cffi.so";  // beside the libraries that the extension is linked with

/* The folder of the linked libraries, with the slash at its end. */
std::string folder() {
    Dl_info info;
    if (dladdr(reinterpret_cast<void *>(ggml_set_abort_callback), &info) == 0 || info.dli_fname == nullptr) {
        return "";
    }
    const std::string path = info.dli_fname;
    return path.substr(0, path.find_last_of('/') + 1);
}

/* The library logs to stderr until it is told otherwise. Versions differ in which of the functions they have. */
void redirect_log(void * library) {
    for (const char * name : {"mtmd_helper_log_set", "mtmd_log_set"}) {
        if (void * function = dlsym(library, name)) {
            reinterpret_cast<void (*)(ggml_log_callback, void *)>(function)(log_line, nullptr);
        }
    }
}

/* Limits the memory of the decoders of this thread, as long as it lives. */
class Limit {
  public:
    explicit Limit(size_t bytes) {
        void * library = guard::open_mtmd();
        if (library != nullptr) {
            set_ = reinterpret_cast<void (*)(size_t)>(dlsym(library, "mtmd_cffi_limit"));
        }
        set(bytes);
    }
    ~Limit() { set(SIZE_MAX); }
    Limit(const Limit &)             = delete;
    Limit & operator=(const Limit &) = delete;

  private:
    void set(size_t bytes) const {
        if (set_ != nullptr) {
            set_(bytes);
        }
    }

    void (*set_)(size_t) = nullptr;
};

}  // namespace

namespace guard {

void * open_mtmd() noexcept {
    static std::mutex           mutex;
    static void *               library = nullptr;
    std::lock_guard<std::mutex> lock(mutex);
    if (library == nullptr) {
        library = dlopen((folder() + FILE_NAME).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (library != nullptr) {
            redirect_log(library);
        }
    }
    return library;
}

}  // namespace guard

extern "C" {

bool shim_mtmd_open(void) {
    return guard::open_mtmd() != nullptr;
}

struct mtmd_bitmap * shim_mtmd_decode(const struct mtmd_context * ctx, const uint8_t * data, size_t size,
                                      size_t memory) {
    const Limit limit(memory);
    return mtmd_helper_bitmap_init_from_buf(ctx, data, size, false, mtmd_helper_init_opt_default()).bitmap;
}

}  // extern "C"
