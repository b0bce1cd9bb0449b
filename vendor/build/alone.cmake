# Included by CMake's project() in the build of a module (RPC, Vulkan): the first build has ggml-base, which the module
# is linked with. Instead of compiling it again, its object files are left empty, and the finished library is copied.
include_guard(GLOBAL)

# Where an override names its file, not this machine's folders.
add_compile_options("-ffile-prefix-map=${CMAKE_BINARY_DIR}/vendor=vendor")

file(WRITE "${CMAKE_BINARY_DIR}/finished.sh" [=[
finished=$1
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then
        case "$2" in
            *.o) : > "$2" ;;
            *) cp "$finished" "$2" ;;
        esac
    fi
    shift
done
]=])

function(add_library target)
    _add_library(${target} ${ARGN})
    if(target STREQUAL "ggml-base" AND EXISTS "${LLAMA_CFFI_BASE}")
        set(finished "sh ${CMAKE_BINARY_DIR}/finished.sh ${LLAMA_CFFI_BASE}")
        set_target_properties(ggml-base PROPERTIES RULE_LAUNCH_COMPILE "${finished}" RULE_LAUNCH_LINK "${finished}")
    endif()
endfunction()
