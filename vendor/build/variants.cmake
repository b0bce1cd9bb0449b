# Included by CMake's project() in the first build: see variants.py.
#
# ggml makes its main library depend on every module. Here it depends on no CPU variant, so ninja can build libllama and
# some of them. Without a target, it builds all.
include_guard(GLOBAL)

function(add_dependencies target)
    set(needed ${ARGN})
    if(target STREQUAL "ggml")
        list(FILTER needed EXCLUDE REGEX "^ggml-cpu-")
    endif()
    if(needed)
        _add_dependencies(${target} ${needed})
    endif()
endfunction()
