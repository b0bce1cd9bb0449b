/* Determines which variants of the CPU backend run on this machine. */
#include "shim.h"

#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include <dlfcn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {

void shim_variant_ask(const char * path, struct shim_variant * out) {
    *out          = {};
    void * handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        return;
    }
    out->loadable   = true;
    const auto call = [handle](const char * name) {
        auto * function = reinterpret_cast<int (*)(void)>(dlsym(handle, name));
        return function != nullptr ? function() : 0;
    };
    auto * score = reinterpret_cast<int (*)(void)>(dlsym(handle, "ggml_backend_score"));
    out->score   = score != nullptr ? score() : 1;
    if (out->score > 0) {
        out->uses_amx    = call("ggml_cpu_has_amx_int8") != 0;
        out->uses_avx512 = call("ggml_cpu_has_avx512") != 0;
    }
    dlclose(handle);
}

bool shim_avx512_works(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

}  // extern "C"

/* ---- AMX ---- */

#if defined(__x86_64__) && defined(SYS_arch_prctl)

namespace {

sigjmp_buf amx_fault;

void on_amx_fault(int) {
    siglongjmp(amx_fault, 1);
}

/* The operand of ldtilecfg. */
struct alignas(64) TileConfig {
    uint8_t  palette    = 1;
    uint8_t  start_row  = 0;
    uint8_t  unused[14] = {};
    uint16_t row_bytes[16];
    uint8_t  rows[16];
};

/* In the child process: requests the tile registers from the kernel, then multiplies a matrix of ones by one of twos. A
 * machine may grant the registers and still fault on the instructions. They are spelled as bytes, for assemblers that do
 * not know them. */
[[noreturn]] void amx_child() {
    constexpr int  ARCH_REQ_XCOMP_PERM = 0x1023;
    constexpr long XFEATURE_XTILEDATA  = 18;
    constexpr long STRIDE              = 64;
    for (int signal_number : {SIGSEGV, SIGILL, SIGBUS}) {
        signal(signal_number, on_amx_fault);
    }
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0 || sigsetjmp(amx_fault, 1) != 0) {
        _exit(1);
    }
    TileConfig          config;
    alignas(64) int8_t  a[16][64];
    alignas(64) int8_t  b[16][64];
    alignas(64) int32_t c[16][16] = {};
    for (int i = 0; i < 16; i++) {
        config.row_bytes[i] = i < 8 ? 64 : 0;
        config.rows[i]      = i < 8 ? 16 : 0;
    }
    memset(a, 1, sizeof(a));
    memset(b, 2, sizeof(b));
    __asm__ volatile(
        ".byte 0xc4,0xe2,0x78,0x49,0x07\n"       // ldtilecfg (%rdi)
        ".byte 0xc4,0xe2,0x7b,0x49,0xc0\n"       // tilezero %tmm0
        ".byte 0xc4,0xe2,0x7b,0x4b,0x0c,0x06\n"  // tileloadd (%rsi,%rax), %tmm1
        ".byte 0xc4,0xe2,0x7b,0x4b,0x14,0x02\n"  // tileloadd (%rdx,%rax), %tmm2
        ".byte 0xc4,0xe2,0x6b,0x5e,0xc1\n"       // tdpbssd %tmm2, %tmm1, %tmm0
        ".byte 0xc4,0xe2,0x7a,0x4b,0x04,0x01\n"  // tilestored %tmm0, (%rcx,%rax)
        ".byte 0xc4,0xe2,0x78,0x49,0xc0\n"       // tilerelease
        :
        : "D"(&config), "S"(a), "d"(b), "c"(c), "a"(STRIDE)
        : "memory");
    _exit(c[0][0] == 128 && c[15][15] == 128 ? 0 : 1);
}

}  // namespace

extern "C" bool shim_amx_works(void) {
    const pid_t child = fork();
    if (child == 0) {
        amx_child();
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#else

extern "C" bool shim_amx_works(void) {
    return false;
}

#endif
