"""What is built of llama.cpp, and with which options: `native.py` does it."""

from __future__ import annotations

from dataclasses import dataclass, field

# Libraries carry this suffix, in file name and SONAME, so that a process which also loads another build of llama.cpp
# (llama-cpp-python, say) never has the dynamic linker give one package the other's library.
SUFFIX = "-cffi"

# What the extension links against; everything else is a module, loaded when asked for.
LINKED = ("llama", "ggml", "ggml-base")


@dataclass(frozen=True)
class Backend:
    """One ggml backend: the CMake options that build it and the modules that it must produce."""

    name: str
    options: dict[str, str]
    modules: str  # glob of the files it yields
    default: bool = False
    target: str = ""  # what ninja is asked for, in a build of its own
    include: str = ""  # a header of overrides/, before each of its C++ files


BACKENDS = {
    row.name: row
    for row in (
        Backend("cpu", {"GGML_CPU": "ON", "GGML_CPU_ALL_VARIANTS": "ON"}, f"libggml-cpu-*{SUFFIX}.so", default=True),
        Backend(
            "rpc",
            {"GGML_RPC": "ON", "GGML_RPC_RDMA": "OFF"},
            f"libggml-rpc{SUFFIX}.so",
            True,
            target="ggml-rpc",
            include="rpc_lost.h",
        ),
        Backend("vulkan", {"GGML_VULKAN": "ON"}, f"libggml-vulkan{SUFFIX}.so", target="ggml-vulkan"),
    )
}


@dataclass(frozen=True)
class Sanitizer:
    """A build that watches itself while it runs: slower, larger, and only for the tests."""

    name: str
    flags: tuple[str, ...]  # for every C and C++ file, those of the extension too
    options: dict[str, str] = field(default_factory=dict)


# One variant of the CPU backend is enough to look for mistakes in: all of them would compile for an hour.
ONE_VARIANT = Backend("cpu", {"GGML_CPU": "ON", "GGML_CPU_ALL_VARIANTS": "OFF"}, f"libggml-cpu{SUFFIX}.so")

SANITIZERS = {
    row.name: row
    for row in (
        # The macro makes std::vector tell AddressSanitizer where its elements end, within what it has reserved.
        # Numbers that no enumerator has are given to the raw layer on purpose: llama.cpp's own checks must see them.
        Sanitizer("address", ("-fsanitize=address,undefined", "-fno-sanitize=enum", "-D_GLIBCXX_SANITIZE_VECTOR")),
        # libgomp is not instrumented, so that its barriers would look like races; ggml's own threads do not need it.
        Sanitizer("thread", ("-fsanitize=thread",), {"GGML_OPENMP": "OFF"}),
    )
}

SANITIZED = ("-O1", "-g1", "-fno-omit-frame-pointer")  # readable stack traces, with lines

# Replaced when CMake is called: where things lie does not change the build.
SOURCE, VENDOR, WORK = "@SOURCE@", "@VENDOR@", "@WORK@"

RECIPE = "1"  # to be raised when native.py makes something else of the same inputs

OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",  # crash checks rely on NDEBUG: a debug build aborts where a release one returns NULL
    "CMAKE_RELEASE_POSTFIX": SUFFIX,
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",  # wheels cannot hold symbolic links
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    # The guard's exceptions pass through C frames. Assertions name files without this machine's folders.
    "CMAKE_C_FLAGS": f"-fexceptions -ffile-prefix-map={SOURCE}=llama.cpp",
    "CMAKE_CXX_FLAGS": f"-fno-gnu-unique -ffile-prefix-map={SOURCE}=llama.cpp "
    f"-include {VENDOR}/overrides/tile_config.h -include {VENDOR}/overrides/prefetch.h",
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
    "LLAMA_BUILD_NUMBER": "0",  # else CMake asks git about whatever repository surrounds the source
}

# libgomp travels along: the GPL with GCC's exception. Where Debian has it.
GCC_LICENSES = {"libgomp": "share/doc/libgomp1/copyright", "GPL-3": "share/common-licenses/GPL-3"}

# A module of its own needs no CPU backend beside it. Vulkan's loader is looked for at run time: see vulkan_loader.c.
ALONE = {"GGML_CPU": "OFF", "CMAKE_MODULE_LINKER_FLAGS": "-Wl,-z,defs", "CMAKE_CXX_STANDARD_LIBRARIES": "-ldl"}
LOADER = f"{WORK}/libvulkan.a"
