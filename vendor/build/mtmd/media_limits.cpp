/* Limits the memory of decoders. A file of a few bytes can say that it has billions of pixels or samples, or unpack to
 * any size, and the headers that say so are not all known: so the allocations themselves are limited. */
#include "media_limits.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#include <malloc.h>

namespace {

thread_local size_t limit = SIZE_MAX;
thread_local size_t used  = 0;

/* Returns true if `size` more bytes are within the limit. */
bool allowed(size_t size) {
    return size <= limit && used <= limit - size;
}

}  // namespace

extern "C" {

void mtmd_cffi_limit(size_t bytes) {
    limit = bytes;
    used  = 0;
}

void * mtmd_cffi_malloc(size_t size) {
    void * memory = allowed(size) ? malloc(size) : nullptr;
    used += memory != nullptr ? malloc_usable_size(memory) : 0;
    return memory;
}

void * mtmd_cffi_realloc(void * memory, size_t size) {
    const size_t before = memory != nullptr ? malloc_usable_size(memory) : 0;
    if (size > before && !allowed(size - before)) {
        return nullptr;
    }
    void * moved = realloc(memory, size);
    if (moved != nullptr) {
        used += malloc_usable_size(moved);
        used -= used < before ? used : before;
    }
    return moved;
}

void mtmd_cffi_free(void * memory) {
    const size_t size = memory != nullptr ? malloc_usable_size(memory) : 0;
    used -= used < size ? used : size;
    free(memory);
}

}  // extern "C"

/* The arrays of this library are vectors. A sanitizer has operators of its own. */
#ifndef LLAMA_CFFI_SANITIZED

void * operator new(size_t size) {
    void * memory = size <= limit ? malloc(size != 0 ? size : 1) : nullptr;
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}

void * operator new[](size_t size) {
    return operator new(size);
}

void operator delete(void * memory) noexcept {
    free(memory);
}

void operator delete[](void * memory) noexcept {
    free(memory);
}

void operator delete(void * memory, size_t) noexcept {
    free(memory);
}

void operator delete[](void * memory, size_t) noexcept {
    free(memory);
}

#endif
