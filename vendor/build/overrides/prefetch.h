/* Included before every C++ file of ggml's CPU backend, by the build (see __init__.py). It changes llamafile/sgemm.cpp
 * only.
 *
 * That file multiplies a few columns with a large quantized matrix (Q8_0, Q5_0, Q4_0, IQ4_NL) four rows at a time. The
 * processor sees four short streams that keep starting over, its hardware prefetcher does not follow them, and each
 * tile waits for memory: a batch of two tokens took four times as long as one token. Here each load of weights also
 * prefetches what lies one page (4096 bytes) later. Rows are contiguous, so the distance does not depend on their
 * length. Results do not change. */
#pragma once

#ifdef GGML_BACKEND_BUILD
#if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_prefetch_needed = 0;

/* A template, so that it is in a module only if a function of sgemm.cpp calls the loads below. */
template <typename>
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_prefetch_active = 0;

static constexpr bool llama_cffi_is_sgemm = __builtin_strstr(__BASE_FILE__, "llamafile/sgemm.cpp") != nullptr;

template <typename T> static inline void llama_cffi_prefetch(const void * weights) {
    if constexpr (llama_cffi_is_sgemm) {
        (void) &llama_cffi_prefetch_active<T>;
        _mm_prefetch(static_cast<const char *>(weights) + 4096, _MM_HINT_T0);
    }
}

template <typename T = void> static inline __m256i llama_cffi_loadu_256(const void * p) {
    llama_cffi_prefetch<T>(p);
    return _mm256_loadu_si256(static_cast<const __m256i *>(p));
}

template <typename T = void> static inline __m128i llama_cffi_loadu_128(const void * p) {
    llama_cffi_prefetch<T>(p);
    return _mm_loadu_si128(static_cast<const __m128i *>(p));
}

#define _mm256_loadu_si256(p) llama_cffi_loadu_256<>(p)
#define _mm_loadu_si128(p) llama_cffi_loadu_128<>(p)
#else
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_prefetch_idle = 0;
#endif
#endif
