/* Identifies the loaded libraries. The id of a library is the build-id that the linker put into it, or a digest of its
 * code if it has none. vendor/build/elf.py reads the same id from a file. */
#include "shim.h"
#include "team.hpp"

#include <cstdio>
#include <cstring>
#include <string>

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#define LLAMA_CFFI_GUARD_WRAPPERS
#include "guard.h"

#ifndef LLAMA_CFFI_LIBRARIES
#error "LLAMA_CFFI_LIBRARIES must list the linked libraries: build the extension with `make build`"
#endif

namespace {

struct Linked {
    const char * file;
    const char * id;
};

constexpr Linked linked[] = {LLAMA_CFFI_LIBRARIES};  // llama, ggml, ggml-base
constexpr size_t n_linked = sizeof(linked) / sizeof(linked[0]);

struct Loaded {
    const void * address = nullptr;  // any address in it
    bool         found   = false;
    std::string  path;
    std::string  id;
};

size_t padded(size_t n, size_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

std::string build_id(const char * notes, size_t size, size_t alignment) {
    while (size >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) note;
        memcpy(&note, notes, sizeof(note));
        const size_t description = padded(sizeof(note) + note.n_namesz, alignment);
        const size_t next        = padded(description + note.n_descsz, alignment);
        if (description + note.n_descsz > size) {
            break;
        }
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(notes + sizeof(note), "GNU", 4) == 0) {
            std::string text;
            for (size_t i = 0; i < note.n_descsz; i++) {
                char digits[3];
                snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(notes[description + i]));
                text += digits;
            }
            return text;
        }
        if (next >= size) {
            break;
        }
        notes += next;
        size -= next;
    }
    return "";
}

/* FNV-1a, eight bytes at a time. */
uint64_t digest(uint64_t state, const char * bytes, size_t size) {
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, size - i < 8 ? size - i : 8);
        state = (state ^ word) * 0x100000001b3;
    }
    return state;
}

std::string identify(const dl_phdr_info & library) {
    uint64_t code = 0xcbf29ce484222325;
    for (int i = 0; i < library.dlpi_phnum; i++) {
        const ElfW(Phdr) & part = library.dlpi_phdr[i];
        const auto * bytes      = reinterpret_cast<const char *>(library.dlpi_addr + part.p_vaddr);
        if (part.p_type == PT_NOTE) {
            const std::string id = build_id(bytes, part.p_filesz, part.p_align == 8 ? 8 : 4);
            if (!id.empty()) {
                return id;
            }
        }
    }
    for (int i = 0; i < library.dlpi_phnum; i++) {
        const ElfW(Phdr) & part = library.dlpi_phdr[i];
        if (part.p_type == PT_LOAD && part.p_flags == (PF_R | PF_X)) {
            code = digest(code, reinterpret_cast<const char *>(library.dlpi_addr + part.p_vaddr), part.p_filesz);
        }
    }
    char text[32];
    snprintf(text, sizeof(text), "code-%016llx", static_cast<unsigned long long>(code));
    return text;
}

bool covers(const dl_phdr_info & library, const void * address) {
    const auto where = reinterpret_cast<ElfW(Addr)>(address);
    for (int i = 0; i < library.dlpi_phnum; i++) {
        const ElfW(Phdr) & part = library.dlpi_phdr[i];
        const ElfW(Addr) begin  = library.dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_LOAD && where >= begin && where - begin < part.p_memsz) {
            return true;
        }
    }
    return false;
}

struct Search {
    Loaded * libraries;
    size_t   n;
};

/* Identifies a library if it is one of those searched for. Returns non-zero, which ends the search, if all are found. */
int visit(dl_phdr_info * library, size_t, void * data) {
    const auto * search  = static_cast<const Search *>(data);
    size_t       missing = 0;
    for (size_t i = 0; i < search->n; i++) {
        Loaded & one = search->libraries[i];
        if (!one.found && covers(*library, one.address)) {
            one.found = true;
            one.path  = library->dlpi_name;
            one.id    = identify(*library);
        }
        missing += !one.found;
    }
    return missing == 0;
}

void find(Loaded * libraries, size_t n) {
    Search search = {libraries, n};
    dl_iterate_phdr(visit, &search);
}

/* Finds the libraries that the extension calls: those to which the dynamic linker bound one function each. */
void find_linked(Loaded (&loaded)[n_linked]) {
    static_assert(n_linked == 3, "libllama, libggml and libggml-base");
    loaded[0].address = reinterpret_cast<const void *>(&llama_model_default_params);
    loaded[1].address = reinterpret_cast<const void *>(&ggml_backend_reg_count);
    loaded[2].address = reinterpret_cast<const void *>(&ggml_nbytes);
    find(loaded, n_linked);
}

}  // namespace

extern "C" {

extern int omp_get_max_threads(void) __attribute__((weak));
extern int omp_pause_resource_all(int kind) __attribute__((weak));

size_t shim_openmp(char * buffer, size_t size) {
    Dl_info info;
    if (omp_get_max_threads == nullptr || dladdr(reinterpret_cast<void *>(omp_get_max_threads), &info) == 0) {
        return 0;
    }
    const int n = snprintf(buffer, size, "%s", info.dli_fname);
    return n > 0 ? static_cast<size_t>(n) : 0;
}

bool shim_openmp_start(void) {
    return omp_get_max_threads == nullptr || team::start(omp_get_max_threads());
}

void shim_openmp_release(void) {
    team::forget();
    constexpr int soft = 1;  // omp_pause_soft
    if (omp_pause_resource_all != nullptr) {
        omp_pause_resource_all(soft);
    }
}

bool shim_libraries_agree(void) {
    Loaded loaded[n_linked];
    find_linked(loaded);
    for (size_t i = 0; i < n_linked; i++) {
        if (loaded[i].id != linked[i].id) {
            return false;
        }
    }
    return true;
}

size_t shim_libraries(char * buffer, size_t size) {
    Loaded loaded[n_linked];
    find_linked(loaded);
    std::string text;
    for (size_t i = 0; i < n_linked; i++) {
        text += std::string(linked[i].file) + "\t" + linked[i].id + "\t" + loaded[i].id + "\t" + loaded[i].path + "\n";
    }
    if (size > 0) {
        snprintf(buffer, size, "%s", text.c_str());
    }
    return text.size();
}

bool shim_library_id(const char * path, char * buffer, size_t size) {
    void * handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        return false;
    }
    link_map * map = nullptr;
    Loaded     library;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0) {
        library.address = map->l_ld;
        find(&library, 1);
        snprintf(buffer, size, "%s", library.id.c_str());
    }
    dlclose(handle);
    return library.found;
}

}  // extern "C"
