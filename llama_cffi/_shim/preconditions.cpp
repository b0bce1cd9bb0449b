/* Checks of arguments that ggml makes in debug builds only, or not at all. The guard calls them, so `lib` is checked too. */
#include "guard.hpp"

#include <cstring>
#include <stdexcept>
#include <string>

#include "ggml-cpu.h"
#include "ggml.h"

namespace {

constexpr size_t MAX_GRAPH = 1 << 24;  // nodes

size_t object_size() {
    return ggml_tensor_overhead() - GGML_TENSOR_SIZE;
}

}  // namespace

namespace guard {

void require_member(const char * kind, int value, int count) {
    if (value < 0 || value >= count) {
        throw std::invalid_argument(std::to_string(value) + " is not a " + kind);
    }
    if (strcmp(kind, "ggml_type") == 0 && ggml_blck_size(static_cast<ggml_type>(value)) == 0) {
        throw std::invalid_argument(std::to_string(value) + " is a ggml_type that was removed");
    }
}

void require_room(const ggml_context * ctx, size_t size) {
    const size_t left = ggml_get_mem_size(ctx) - ggml_used_mem(ctx);
    if (size > left || GGML_PAD(size, GGML_MEM_ALIGN) + object_size() > left) {
        throw std::length_error("the context's memory is full: " + std::to_string(left) + " bytes are left, and " +
                                std::to_string(size) + " are needed");
    }
}

void require_graph_room(const ggml_context * ctx, size_t size, bool grads) {
    if (size < 1 || size > MAX_GRAPH) {
        throw std::length_error("a graph has between 1 and " + std::to_string(MAX_GRAPH) + " nodes, not " +
                                std::to_string(size));
    }
    require_room(ctx, ggml_graph_overhead_custom(size, grads) - object_size());
}

void require_work_room(const ggml_context * ctx, ggml_cgraph * graph, int n_threads) {
    static ModuleFunction plan("cpu", "ggml_graph_plan");
    const auto            make = plan.find<decltype(&ggml_graph_plan)>();
    if (make != nullptr) {
        require_room(ctx, make(graph, n_threads, nullptr).work_size);
    }
}

}  // namespace guard
