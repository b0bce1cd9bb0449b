/* Included before every C++ file of llama.cpp, by a compiler option.
 *
 * GCC's _tile_loadconfig says that it reads 8 of the 64 bytes of its operand (GCC bug 114098; 12.2 of Debian 12 has it).
 * Optimization then drops the stores to the rest, the processor gets whatever the stack held, and the first matrix
 * product on AMX dies: of SIGSEGV in ldtilecfg, or of SIGILL in the next tile instruction. Here the whole operand is
 * named. */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
static inline void llama_cffi_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*static_cast<const unsigned char (*)[64]>(config)));
}
#define _tile_loadconfig(config) llama_cffi_tile_loadconfig(config)
#endif
