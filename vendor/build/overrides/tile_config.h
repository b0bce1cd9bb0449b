/* Included before every C++ file of ggml's CPU backend, by the build: see __init__.py.
 *
 * The _tile_loadconfig of older GCCs tells the compiler that it reads 8 of its operand's 64 bytes (GCC bug 114098,
 * present in Debian 12's 12.2; fixed in 11.5, 12.4, 13.3 and 14). The optimizer then drops the stores to the other 56,
 * and the processor loads whatever the stack held: the first matrix product on AMX ends with SIGSEGV in ldtilecfg, or
 * with SIGILL in the next tile instruction. Here the operand is the whole 64 bytes. */
#pragma once

#ifdef GGML_BACKEND_BUILD
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) &&                                       \
    (__GNUC__ < 11 || (__GNUC__ == 11 && __GNUC_MINOR__ < 5) || (__GNUC__ == 12 && __GNUC_MINOR__ < 4) || \
     (__GNUC__ == 13 && __GNUC_MINOR__ < 3))
#include <immintrin.h>

__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_tile_config_needed = 0;

/* A template, so that it is in a module only if something there calls the function below. */
template <typename>
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_tile_config_active = 0;

template <typename T = void> static inline void llama_cffi_tile_loadconfig(const void * config) {
    (void) &llama_cffi_tile_config_active<T>;
    __asm__ volatile("ldtilecfg %0" : : "m"(*static_cast<const unsigned char (*)[64]>(config)));
}

#define _tile_loadconfig(config) llama_cffi_tile_loadconfig<>(config)
#else
__attribute__((used, visibility("hidden"))) inline constexpr char llama_cffi_tile_config_idle = 0;
#endif
#endif
