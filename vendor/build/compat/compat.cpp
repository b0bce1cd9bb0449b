/* Functions that glibc before 2.33 and libstdc++ before GCC 9 lack, for the wheel's libraries. `portable.py` compiles
 * this file, together with members of the compiler's libstdc++.a. On a newer system, the system's own are used. */
#include <fcntl.h>
#include <new>
#include <random>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" {

/* glibc 2.32. False: shared pointers count with atomic instructions, which is right with and without other threads. */
extern char __libc_single_threaded;
char        __libc_single_threaded = 0;

/* glibc 2.33; inline functions before. The kernel's struct stat is glibc's on x86-64 and aarch64. */
int stat(const char * path, struct stat * found) noexcept {
    return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, found, 0));
}

int lstat(const char * path, struct stat * found) noexcept {
    return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, found, AT_SYMLINK_NOFOLLOW));
}

int fstat(int fd, struct stat * found) noexcept {
    return static_cast<int>(syscall(SYS_fstat, fd, found));
}

int fstatat(int folder, const char * path, struct stat * found, int flags) noexcept {
    return static_cast<int>(syscall(SYS_newfstatat, folder, path, found, flags));
}

/* glibc 2.29. */
int getcpu(unsigned * cpu, unsigned * node) noexcept {
    return static_cast<int>(syscall(SYS_getcpu, cpu, node, nullptr));
}

}  // extern "C"

namespace std {

/* GCC 11. Its member of libstdc++.a defines many other functions, which every libstdc++ has. */
[[noreturn]] void __throw_bad_array_new_length();
void __throw_bad_array_new_length() {
    throw bad_array_new_length();
}

/* GCC 8. llama.cpp asks if the numbers are random, which they are: from the processor or from /dev/urandom. */
double random_device::_M_getentropy() const noexcept {
    return 32.0;
}

}  // namespace std
