# Included by CMake's project() where LLAMA_CFFI_CPU_VARIANTS names some of ggml's CPU variants: see variants.py.
#
# ggml makes its main library wait for every module. Here it waits for no CPU variant, so that ninja builds those that it
# is asked for, and nothing else.
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
