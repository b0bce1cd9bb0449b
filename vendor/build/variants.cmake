# Included by CMake's project() in the first build: see variants.py.
#
# ggml makes its main library depend on every module. Here it depends on no CPU variant, so ninja can build libllama and
# some of them. Without a target, it builds all.
include_guard(GLOBAL)

# Where an override names its file, not this machine's folders.
add_compile_options("-ffile-prefix-map=${CMAKE_BINARY_DIR}/vendor=vendor")

function(add_dependencies target)
    set(needed ${ARGN})
    if(target STREQUAL "ggml")
        list(FILTER needed EXCLUDE REGEX "^ggml-cpu-")
    endif()
    if(needed)
        _add_dependencies(${target} ${needed})
    endif()
endfunction()
