/* Included before every C++ file of llama.cpp, by a compiler option; it changes llamafile/sgemm.cpp alone.
 *
 * The products there of a few columns with a large matrix in Q8_0, Q5_0 and the like go through four rows at a time, side
 * by side. The processor sees four short streams that begin anew all the time, fetches nothing ahead, and each tile waits
 * for memory: two tokens took four times as long as one. Here each load of weights asks for those that come a page later.
 * The rows lie one after another, so that the distance need not know how long they are. Nothing is computed otherwise. */
#if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
static inline void llama_cffi_prefetch(const void * weights) {
    const char * here = __builtin_strstr(__BASE_FILE__, "llamafile/sgemm.cpp");  // known to the compiler
    if (here != nullptr) {
        _mm_prefetch(static_cast<const char *>(weights) + 4096, _MM_HINT_T0);
    }
}
static inline __m256i llama_cffi_loadu_256(const void * p) {
    llama_cffi_prefetch(p);
    return _mm256_loadu_si256(static_cast<const __m256i *>(p));
}
static inline __m128i llama_cffi_loadu_128(const void * p) {
    llama_cffi_prefetch(p);
    return _mm_loadu_si128(static_cast<const __m128i *>(p));
}
#define _mm256_loadu_si256(p) llama_cffi_loadu_256(p)
#define _mm_loadu_si128(p) llama_cffi_loadu_128(p)
#endif
