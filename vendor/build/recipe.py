"""What is built of llama.cpp, and with which CMake options. `native.py` plans it, and `cmake.py` builds it."""

from __future__ import annotations

from dataclasses import dataclass, field

# Libraries carry this suffix in file name and SONAME. In a process that also loads another build of llama.cpp
# (llama-cpp-python, for example), the dynamic linker then never hands one package the other's library.
SUFFIX = "-cffi"

# What the extension links against. Everything else is a module, loaded on request.
LINKED = ("llama", "ggml", "ggml-base")


@dataclass(frozen=True)
class Backend:
    """One ggml backend: the CMake options that build it and the modules that must come out."""

    name: str
    options: dict[str, str]
    modules: str  # glob of the files that it yields
    default: bool = False
    target: str = ""  # the ninja target of a separate build; empty: built together with llama


BACKENDS = {
    row.name: row
    for row in (
        Backend("cpu", {"GGML_CPU": "ON", "GGML_CPU_ALL_VARIANTS": "ON"}, f"libggml-cpu-*{SUFFIX}.so", default=True),
        Backend("rpc", {"GGML_RPC": "ON", "GGML_RPC_RDMA": "OFF"}, f"libggml-rpc{SUFFIX}.so", True, target="ggml-rpc"),
        Backend("vulkan", {"GGML_VULKAN": "ON"}, f"libggml-vulkan{SUFFIX}.so", target="ggml-vulkan"),
    )
}


@dataclass(frozen=True)
class Sanitizer:
    """A build that checks itself while it runs: slower, larger, and only for the tests."""

    name: str
    flags: tuple[str, ...]  # for every C and C++ file, including the extension's
    options: dict[str, str] = field(default_factory=dict)


# Sanitizer builds have one variant of the CPU backend: all of them would compile for an hour.
ONE_VARIANT = Backend("cpu", {"GGML_CPU": "ON", "GGML_CPU_ALL_VARIANTS": "OFF"}, f"libggml-cpu{SUFFIX}.so")

SANITIZERS = {
    row.name: row
    for row in (
        # The macro makes std::vector tell AddressSanitizer where its elements end within the reserved memory.
        # Tests pass numbers that no enumerator has to the raw layer, on purpose: llama.cpp's own checks must see them.
        Sanitizer("address", ("-fsanitize=address,undefined", "-fno-sanitize=enum", "-D_GLIBCXX_SANITIZE_VECTOR")),
        # libgomp is not instrumented, so its barriers would look like races; ggml's own threads do not need it.
        Sanitizer("thread", ("-fsanitize=thread",), {"GGML_OPENMP": "OFF"}),
    )
}

SANITIZED = ("-O1", "-g1", "-fno-omit-frame-pointer")  # readable stack traces, with lines

# Replaced when CMake is called, so that paths of this machine do not enter the digest. VENDOR is this repository's
# vendor/ folder.
SOURCE, VENDOR, WORK = "@SOURCE@", "@VENDOR@", "@WORK@"

# What CMake includes at project(), in this folder: in the first build, and in that of a module.
VARIANTS_HOOK, ALONE_HOOK = "variants.cmake", "alone.cmake"

RECIPE = "2"  # part of the digest: increase it when the code here makes something else of the same inputs

OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",  # crash checks rely on NDEBUG: a debug build aborts where a release one returns NULL
    "CMAKE_RELEASE_POSTFIX": SUFFIX,
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",  # wheels cannot hold symbolic links
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    # The guard's exceptions pass through C frames. Assertions must not print this machine's folders.
    "CMAKE_C_FLAGS": f"-fexceptions -ffile-prefix-map={SOURCE}=llama.cpp",
    "CMAKE_CXX_FLAGS": f"-fno-gnu-unique -ffile-prefix-map={SOURCE}=llama.cpp",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_COMMON": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_NUMBER": "0",  # otherwise CMake asks git about whatever repository surrounds the source
}

# Where Debian keeps the licences of libgomp, which is bundled: the GPL with GCC's runtime exception.
GCC_LICENSES = {"libgomp": "share/doc/libgomp1/copyright", "GPL-3": "share/common-licenses/GPL-3"}

# A separately built module needs no CPU backend beside it. The Vulkan loader is found at run time: see vulkan_loader.c.
ALONE = {"GGML_CPU": "OFF", "CMAKE_MODULE_LINKER_FLAGS": "-Wl,-z,defs", "CMAKE_CXX_STANDARD_LIBRARIES": "-ldl"}
LOADER = f"{WORK}/libvulkan.a"
