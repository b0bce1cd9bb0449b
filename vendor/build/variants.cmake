# Included by CMake's project() if LLAMA_CFFI_CPU_VARIANTS names some of ggml's CPU variants: see variants.py.
#
# ggml makes its main library depend on every module. Here it depends on no CPU variant, so ninja builds only those that
# are among its targets.
include_guard(GLOBAL)

function(add_dependencies target)
    set(wanted ${ARGN})
    if(target STREQUAL "ggml")
        list(FILTER wanted EXCLUDE REGEX "^ggml-cpu-")
    endif()
    if(wanted)
        _add_dependencies(${target} ${wanted})
    endif()
endfunction()
