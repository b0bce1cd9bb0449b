/* Checks the files of an RPC worker's cache: each is named after the checksum of its contents. */
#include "shim.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

extern "C" bool shim_is_cached_tensor(const char * path, const char * name) {
    const std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path, "rb"), fclose);
    if (!file) {
        return true;  // nobody can read it, the worker neither
    }
    static thread_local uint8_t buffer[1 << 16];
    uint64_t                    hash = 0xcbf29ce484222325ULL;  // FNV-1a, 64 bits, as in ggml-rpc.cpp
    for (size_t n; (n = fread(buffer, 1, sizeof(buffer), file.get())) > 0;) {
        for (size_t i = 0; i < n; i++) {
            hash = (hash ^ buffer[i]) * 0x100000001b3ULL;
        }
    }
    char expected[17];
    snprintf(expected, sizeof(expected), "%016" PRIx64, hash);
    return strcmp(expected, name) == 0;
}
