/* Checks of ggml's tensors and graphs, for the facade: what ggml itself does not check, or only where nobody can catch it. */
#include "guard.hpp"
#include "shim.h"
#include "team.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "guard.h"  // from here on ggml's functions are the guarded ones

namespace {

constexpr size_t  PROBE_BYTES  = 64 * 1024;  // some constructors make a dozen tensors
constexpr int64_t MAX_ELEMENTS = int64_t{1} << 44;

struct FreeContext {
    void operator()(ggml_context * ctx) const { ggml_free(ctx); }
};

thread_local std::unique_ptr<ggml_context, FreeContext> probe;

bool is_view_op(const ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return false;
    }
}

int32_t check_tensor(const ggml_tensor * t) {
    int64_t n = 1;
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        if (t->ne[i] < 1) {
            return SHIM_TENSOR_EMPTY;
        }
        if (t->ne[i] > MAX_ELEMENTS / n) {
            return SHIM_TENSOR_TOO_LARGE;
        }
        n *= t->ne[i];
    }
    if (t->ne[0] % ggml_blck_size(t->type) != 0) {
        return SHIM_TENSOR_NOT_WHOLE_BLOCKS;
    }
    const size_t element = ggml_type_size(t->type);
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        if (t->ne[i] > 1 && (t->nb[i] < element || t->nb[i] % element != 0)) {
            return SHIM_TENSOR_STRIDES;
        }
    }
    if (t->view_src != nullptr) {
        const size_t whole = ggml_nbytes(t->view_src);
        const size_t part  = ggml_nbytes(t);
        if (t->view_offs % element != 0) {
            return SHIM_TENSOR_STRIDES;
        }
        if (part > whole || t->view_offs > whole - part) {
            return SHIM_TENSOR_OUTSIDE;
        }
    }
    return SHIM_TENSOR_OK;
}

/* The buffer that a tensor lies in; null for memory of its context. */
ggml_backend_buffer_t buffer_of(const ggml_tensor * t) {
    return t->view_src != nullptr ? t->view_src->buffer : t->buffer;
}

/* A view lies where its source does, which may have got its memory later, or another. */
void follow(ggml_tensor * t) {
    if (t->view_src != nullptr) {
        char * base = static_cast<char *>(t->view_src->data);
        t->data     = base != nullptr ? base + t->view_offs : nullptr;
    }
}

/* Whether the CPU has functions for a node's types: it calls them without a check. */
bool cpu_knows_types(const ggml_tensor * node) {
    const bool copies = node->op == GGML_OP_DUP || node->op == GGML_OP_CONT;
    if (copies && node->src[0]->type == node->type) {
        return true;  // byte by byte
    }
    for (const ggml_tensor * t : node->src) {
        if (t != nullptr && ggml_is_quantized(t->type) && ggml_get_type_traits(t->type)->to_float == nullptr) {
            return false;
        }
    }
    if (ggml_is_quantized(node->type) && ggml_get_type_traits_cpu(node->type)->from_float == nullptr) {
        return false;
    }
    const bool products = node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID;
    if (products && ggml_get_type_traits_cpu(node->src[0]->type)->vec_dot == nullptr) {
        return false;
    }
    if (node->op == GGML_OP_FLASH_ATTN_EXT) {
        const ggml_type_traits_cpu * k     = ggml_get_type_traits_cpu(node->src[1]->type);
        const ggml_type              v     = node->src[2]->type;
        const bool                   plain = v == GGML_TYPE_F32 || v == GGML_TYPE_F16;
        return k->vec_dot != nullptr && ggml_get_type_traits_cpu(k->vec_dot_type)->from_float != nullptr &&
               (plain || ggml_get_type_traits(v)->to_float != nullptr);
    }
    return true;
}

bool is_op(const ggml_tensor * t, const char * name) {
    return strcmp(ggml_op_name(t->op), name) == 0;
}

bool has_rows(const ggml_tensor * t) {
    return t->nb[0] == ggml_type_size(t->type);
}

/* Whether all sources are contiguous F32, from `first` on. */
bool sources_are_plain(const ggml_tensor * node, int first = 0) {
    for (int i = first; i < GGML_MAX_SRC; i++) {
        if (node->src[i] != nullptr && !(node->src[i]->type == GGML_TYPE_F32 && ggml_is_contiguous(node->src[i]))) {
            return false;
        }
    }
    return true;
}

/* Whether the part of the result that ACC and SET write to lies within it. */
bool part_fits(const ggml_tensor * node) {
    const ggml_tensor * part = node->src[1];
    const int32_t *     op   = node->op_params;  // the strides of the axes 1 to 3, and the offset
    size_t end = static_cast<size_t>(op[3]) + static_cast<size_t>(part->ne[0]) * ggml_type_size(node->type);
    for (int axis = 1; axis < GGML_MAX_DIMS; axis++) {
        end += static_cast<size_t>(part->ne[axis] - 1) * static_cast<size_t>(op[axis - 1]);
    }
    return part->type == node->type && op[0] >= 0 && op[1] >= 0 && op[2] >= 0 && op[3] >= 0 && end <= ggml_nbytes(node);
}

/* Whether the operands fit together as the CPU's kernels take for granted. They and the constructors check the rest. */
int32_t check_operands(const ggml_tensor * node) {
    const ggml_tensor * a  = node->src[0];
    const ggml_tensor * b  = node->src[1];
    bool                ok = true;
    switch (node->op) {
        case GGML_OP_UNARY:
        case GGML_OP_LEAKY_RELU:
        case GGML_OP_SUM:
        case GGML_OP_SUM_ROWS:
        case GGML_OP_MEAN:
        case GGML_OP_ARGMAX:
        case GGML_OP_GET_ROWS:
            ok = has_rows(a) && has_rows(node);
            break;
        case GGML_OP_SILU_BACK:
        case GGML_OP_RMS_NORM_BACK:
        case GGML_OP_SOFT_MAX_BACK:
        case GGML_OP_CROSS_ENTROPY_LOSS:
            ok = sources_are_plain(node) && ggml_are_same_shape(a, b);
            break;
        case GGML_OP_CROSS_ENTROPY_LOSS_BACK:
            ok = sources_are_plain(node) && ggml_are_same_shape(b, node->src[2]);
            break;
        case GGML_OP_ACC:
        case GGML_OP_SET:
            ok = part_fits(node);
            break;
        case GGML_OP_ROPE:
        case GGML_OP_ROPE_BACK:
            ok = ggml_is_contiguous(b) && has_rows(a) && node->op_params[1] <= a->ne[0] && node->op_params[1] % 2 == 0;
            break;
        case GGML_OP_FLASH_ATTN_EXT: {
            const ggml_tensor * mask = node->src[3];
            ok = has_rows(a) && has_rows(b) && has_rows(node->src[2]) && b->ne[1] == node->src[2]->ne[1] &&
                 (mask == nullptr || (mask->ne[0] >= b->ne[1] && mask->ne[1] >= a->ne[1] && has_rows(mask)));
            break;
        }
        case GGML_OP_TIMESTEP_EMBEDDING:
        case GGML_OP_OPT_STEP_ADAMW:
        case GGML_OP_OPT_STEP_SGD:
        case GGML_OP_ARGSORT:
        case GGML_OP_DIAG:
        case GGML_OP_POOL_1D:
        case GGML_OP_POOL_2D:
            ok = sources_are_plain(node);
            break;
        case GGML_OP_CONV_2D:
        case GGML_OP_IM2COL:
        case GGML_OP_CONV_TRANSPOSE_1D:
            ok = sources_are_plain(node, 1) && ggml_is_contiguous(a);
            break;
        case GGML_OP_ADD_ID:
            ok = has_rows(a) && has_rows(b);
            break;
        // the constructors or the kernels check these
        case GGML_OP_DUP:
        case GGML_OP_ADD:
        case GGML_OP_ADD1:
        case GGML_OP_SUB:
        case GGML_OP_MUL:
        case GGML_OP_DIV:
        case GGML_OP_SQR:
        case GGML_OP_SQRT:
        case GGML_OP_LOG:
        case GGML_OP_SIN:
        case GGML_OP_COS:
        case GGML_OP_COUNT_EQUAL:
        case GGML_OP_REPEAT:
        case GGML_OP_REPEAT_BACK:
        case GGML_OP_CONCAT:
        case GGML_OP_NORM:
        case GGML_OP_RMS_NORM:
        case GGML_OP_GROUP_NORM:
        case GGML_OP_L2_NORM:
        case GGML_OP_MUL_MAT:
        case GGML_OP_MUL_MAT_ID:
        case GGML_OP_OUT_PROD:
        case GGML_OP_SCALE:
        case GGML_OP_CPY:
        case GGML_OP_CONT:
        case GGML_OP_GET_ROWS_BACK:
        case GGML_OP_SET_ROWS:
        case GGML_OP_DIAG_MASK_INF:
        case GGML_OP_DIAG_MASK_ZERO:
        case GGML_OP_SOFT_MAX:
        case GGML_OP_CLAMP:
        case GGML_OP_UPSCALE:
        case GGML_OP_PAD:
        case GGML_OP_PAD_REFLECT_1D:
        case GGML_OP_ROLL:
        case GGML_OP_ARANGE:
        case GGML_OP_GLU:
            break;
        case GGML_OP_MAP_CUSTOM1:  // they call a function of Python, which gets arrays
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM:
            break;
        default:  // operations that older versions of ggml lack are named
            if (is_op(node, "FILL")) {
                break;
            }
            if (!is_op(node, "TOP_K") && !is_op(node, "CUMSUM") && !is_op(node, "TRI") && !is_op(node, "SOLVE_TRI")) {
                return SHIM_GRAPH_NOT_OFFERED;
            }
            ok = sources_are_plain(node);
    }
    return ok ? SHIM_GRAPH_OK : SHIM_GRAPH_OPERANDS;
}

/* Reads element `i` of a tensor of integers in memory that the CPU can access. */
int64_t integer_at(const ggml_tensor * t, int64_t i) {
    size_t offset = 0;
    for (int axis = 0; axis < GGML_MAX_DIMS; axis++) {
        offset += static_cast<size_t>(i % t->ne[axis]) * t->nb[axis];
        i /= t->ne[axis];
    }
    const char * place = static_cast<const char *>(t->data) + offset;
    return t->type == GGML_TYPE_I64 ? *reinterpret_cast<const int64_t *>(place)
                                    : *reinterpret_cast<const int32_t *>(place);
}

/* Whether a function of Python computes a node. It can write to any memory that it can reach. */
bool is_custom(const ggml_tensor * node) {
    return node->op == GGML_OP_MAP_CUSTOM1 || node->op == GGML_OP_MAP_CUSTOM2 || node->op == GGML_OP_MAP_CUSTOM3 ||
           node->op == GGML_OP_CUSTOM;
}

/* Whether one of the nodes `first` to `end` - 1 writes to the memory of a tensor: in place, or as the target of a copy. */
bool is_written(const ggml_tensor * t, ggml_cgraph * graph, int first, int end) {
    const char * from = static_cast<const char *>(t->data);
    for (int i = first; from != nullptr && i < end; i++) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        const char *        data = static_cast<const char *>(node->data);
        if (is_custom(node)) {
            return true;
        }
        if (data != nullptr && !is_view_op(node) && data < from + ggml_nbytes(t) && from < data + ggml_nbytes(node)) {
            return true;
        }
    }
    return false;
}

/* Whether a tensor has memory of the host that no node before node `index` of the graph writes to. */
bool is_known(const ggml_tensor * t, ggml_cgraph * graph, int index) {
    const ggml_tensor * root = t;
    while (root->op != GGML_OP_NONE && is_view_op(root)) {
        root = root->src[0];
    }
    const ggml_backend_buffer_t buffer = buffer_of(t);
    if (root->op != GGML_OP_NONE || t->data == nullptr || (buffer != nullptr && !ggml_backend_buffer_is_host(buffer))) {
        return false;
    }
    return !is_written(t, graph, 0, index);
}

/* ARGSORT uses std::sort, which takes for granted that numbers can be ranked. Up to 16 it does no harm. */
int32_t check_sort(ggml_cgraph * graph, int index) {
    const ggml_tensor * node = ggml_graph_node(graph, index);
    const ggml_tensor * a    = node->src[0];
    if (node->op != GGML_OP_ARGSORT || a->ne[0] <= 16) {
        return SHIM_GRAPH_OK;
    }
    if (!is_known(a, graph, index)) {
        return SHIM_GRAPH_NAN;
    }
    const float * values = static_cast<const float *>(a->data);
    for (int64_t i = 0, n = ggml_nelements(a); i < n; i++) {
        if (values[i] != values[i]) {
            return SHIM_GRAPH_NAN;
        }
    }
    return SHIM_GRAPH_OK;
}

/* Indices that a kernel uses without a check. They must be known before the computation: no node of it makes them. */
int32_t check_indices(ggml_cgraph * graph, int index) {
    const ggml_tensor * node = ggml_graph_node(graph, index);
    const ggml_tensor * ids  = nullptr;
    int64_t             end  = 0;
    if (node->op == GGML_OP_MUL_MAT_ID) {
        ids = node->src[2];
        end = node->src[0]->ne[2];
    } else if (node->op == GGML_OP_SSM_SCAN) {
        ids = node->src[6];
        end = node->src[0]->ne[3];
    } else {
        return SHIM_GRAPH_OK;
    }
    const ggml_tensor * root = ids;
    while (root->op != GGML_OP_NONE && is_view_op(root)) {
        root = root->src[0];
    }
    const bool ranks = root->op == GGML_OP_ARGSORT || is_op(root, "TOP_K") || root->op == GGML_OP_ARGMAX;
    if (ranks && root->src[0]->ne[0] <= end) {
        int made = index;
        while (made > 0 && ggml_graph_node(graph, made) != root) {
            made--;
        }
        return is_written(ids, graph, made + 1, index) ? SHIM_GRAPH_INDEX_UNKNOWN : SHIM_GRAPH_OK;
    }
    if (!is_known(ids, graph, index)) {
        return SHIM_GRAPH_INDEX_UNKNOWN;
    }
    for (int64_t i = 0, n = ggml_nelements(ids); i < n; i++) {
        const int64_t value = integer_at(ids, i);
        if (value < 0 || value >= end) {
            return SHIM_GRAPH_INDEX;
        }
    }
    return SHIM_GRAPH_OK;
}

bool is_plain(const ggml_tensor * t) {
    return t != nullptr && t->type == GGML_TYPE_F32 && ggml_is_contiguous(t);
}

/* Whether no assertion of a node can fail on the CPU, so that it may run on threads where nobody could catch one. */
bool cannot_fail(const ggml_tensor * node) {
    const ggml_tensor * a = node->src[0];
    const ggml_tensor * b = node->src[1];
    switch (node->op) {
        case GGML_OP_MUL_MAT:
            return node->op_params[1] == 0 && is_plain(node) && a->nb[0] == ggml_type_size(a->type) &&
                   b->nb[0] == ggml_type_size(b->type) && b->type == GGML_TYPE_F32;
        case GGML_OP_ADD:
        case GGML_OP_SUB:
        case GGML_OP_MUL:
        case GGML_OP_DIV:
            return is_plain(node) && is_plain(a) && is_plain(b) && ggml_can_repeat(b, a);
        case GGML_OP_UNARY:
        case GGML_OP_SCALE:
        case GGML_OP_SQR:
        case GGML_OP_SQRT:
            return is_plain(node) && is_plain(a);
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM:
            return true;
        default:
            return is_view_op(node);
    }
}

void swap_sources(ggml_tensor ** nodes, ggml_tensor ** sources, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        std::swap_ranges(nodes[i]->src, nodes[i]->src + GGML_MAX_SRC,
                         sources + static_cast<ptrdiff_t>(i) * GGML_MAX_SRC);
    }
}

/* Checks the memory of a node and of its sources: it must be there, unless it is allocated later, and of a type that
 * `fits`. Memory without a buffer is the CPU's. */
template <typename Fits> int32_t check_memory(ggml_tensor * node, bool allocates, bool cpu, const Fits & fits) {
    for (int s = -1; s < GGML_MAX_SRC; s++) {
        ggml_tensor * t = s < 0 ? node : node->src[s];
        if (t == nullptr) {
            continue;
        }
        follow(t);
        if (t->data == nullptr) {
            if (allocates) {
                continue;
            }
            return SHIM_GRAPH_NO_DATA;
        }
        const ggml_backend_buffer_t buffer = buffer_of(t);
        if (buffer == nullptr ? !cpu : !fits(ggml_backend_buffer_get_type(buffer))) {
            return SHIM_GRAPH_MEMORY;
        }
    }
    return SHIM_GRAPH_OK;
}

}  // namespace

extern "C" {

struct ggml_context * shim_probe(void) {
    if (probe == nullptr) {
        probe.reset(ggml_init({PROBE_BYTES, nullptr, true}));
    } else {
        ggml_reset(probe.get());
    }
    return probe.get();
}

int32_t shim_probe_size(struct ggml_context * ctx, size_t * objects, size_t * data) {
    *objects = ggml_used_mem(ctx);
    *data    = 0;
    for (const ggml_tensor * t = ggml_get_first_tensor(ctx); t != nullptr;
         t                     = ggml_get_next_tensor(ctx, const_cast<ggml_tensor *>(t))) {
        const int32_t fault = check_tensor(t);
        if (fault != SHIM_TENSOR_OK) {
            return fault;
        }
        if (t->view_src == nullptr) {
            *data += GGML_PAD(ggml_nbytes(t), GGML_MEM_ALIGN);
        }
    }
    return SHIM_TENSOR_OK;
}

int32_t shim_graph_expand(struct ggml_cgraph * graph, struct ggml_tensor * tensor) {
    try {
        std::unordered_set<ggml_tensor *> seen;
        int64_t                           leafs = 0;
        const auto                        count = [&](ggml_tensor * t) {
            leafs += t->op == GGML_OP_NONE && (t->flags & GGML_TENSOR_FLAG_PARAM) == 0;
        };
        const int n_nodes = ggml_graph_n_nodes(graph);
        for (int i = 0; i < n_nodes; i++) {
            ggml_tensor * node = ggml_graph_node(graph, i);
            seen.insert(node);
            for (ggml_tensor * src : node->src) {
                if (src != nullptr && seen.insert(src).second) {
                    count(src);
                }
            }
        }
        // ggml recurses from a node to its sources. Here the sources come first, so that it never goes deep.
        std::vector<std::pair<ggml_tensor *, int>> path;
        std::vector<ggml_tensor *>                 order;
        if (seen.insert(tensor).second) {
            path.emplace_back(tensor, 0);
        }
        while (!path.empty()) {
            auto & [node, next] = path.back();
            if (next == GGML_MAX_SRC) {
                order.push_back(node);
                count(node);
                path.pop_back();
                continue;
            }
            ggml_tensor * src = node->src[next++];
            if (src != nullptr && seen.insert(src).second) {
                path.emplace_back(src, 0);
            }
        }
        const int64_t size  = ggml_graph_size(graph);
        int64_t       nodes = n_nodes;
        for (const ggml_tensor * t : order) {
            nodes += t->op != GGML_OP_NONE || (t->flags & GGML_TENSOR_FLAG_PARAM) != 0;
        }
        if (nodes > size || leafs > size) {
            return static_cast<int32_t>(std::max(nodes, leafs));
        }
        for (ggml_tensor * t : order) {
            ggml_build_forward_expand(graph, t);
        }
        return 0;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

int32_t shim_graph_check(struct ggml_cgraph * graph, struct ggml_backend_device * device, bool allocates,
                         int32_t * index, int32_t * threads) {
    const bool cpu = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    *threads       = 1;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        *index             = i;
        if (is_view_op(node)) {
            continue;
        }
        const auto fits = [&](ggml_backend_buffer_type_t buft) { return ggml_backend_dev_supports_buft(device, buft); };
        if (const int32_t fault = check_memory(node, allocates, cpu, fits)) {
            return fault;
        }
        if (const int32_t fault = check_operands(node)) {
            return fault;
        }
        if (cpu && !cpu_knows_types(node)) {
            return SHIM_GRAPH_TYPE;
        }
        if (!ggml_backend_dev_supports_op(device, node)) {
            return SHIM_GRAPH_UNSUPPORTED;
        }
        if (cpu || !allocates) {
            if (const int32_t fault = check_indices(graph, i)) {
                return fault;
            }
        }
        if (cpu) {
            if (const int32_t fault = check_sort(graph, i)) {
                return fault;
            }
        }
        if (!cannot_fail(node)) {
            *threads = 0;
        }
    }
    return SHIM_GRAPH_OK;
}

int32_t shim_sched_check(struct ggml_cgraph * graph, struct ggml_backend_device ** devices, int32_t n_devices,
                         bool allocates, int32_t * index, int32_t * threads) {
    const auto is_cpu = [](ggml_backend_dev_t device) {
        return ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    };
    ggml_backend_dev_t * const end      = devices + n_devices;
    const bool                 cpu_only = std::all_of(devices, end, is_cpu);
    *threads                            = 1;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        *index             = i;
        const auto fits    = [&](ggml_backend_buffer_type_t buft) {
            return std::any_of(devices, end, [&](auto d) { return ggml_backend_dev_supports_buft(d, buft); });
        };
        if (const int32_t fault = check_memory(node, allocates, cpu_only, fits)) {
            return fault;
        }
        if (is_view_op(node)) {
            continue;
        }
        if (const int32_t fault = check_operands(node)) {
            return fault;
        }
        bool supported = false;
        for (ggml_backend_dev_t * device = devices; device != end; device++) {
            if (!is_cpu(*device)) {
                supported = ggml_backend_dev_supports_op(*device, node) || supported;
            } else if (!cpu_knows_types(node)) {  // before supports_op, which could choose it
                return SHIM_GRAPH_TYPE;
            } else {
                supported = ggml_backend_dev_supports_op(*device, node) || supported;
            }
        }
        if (!supported) {
            return SHIM_GRAPH_UNSUPPORTED;
        }
        if (const int32_t fault = check_indices(graph, i)) {
            return fault;
        }
        if (const int32_t fault = check_sort(graph, i)) {
            return fault;
        }
        if (!cannot_fail(node)) {
            *threads = 0;
        }
    }
    return SHIM_GRAPH_OK;
}

int32_t shim_graph_tensors(struct ggml_cgraph * graph) {
    try {
        std::unordered_set<const ggml_tensor *> seen;
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            const ggml_tensor * node = ggml_graph_node(graph, i);
            seen.insert(node);
            seen.insert(node->view_src);
            for (const ggml_tensor * src : node->src) {
                seen.insert(src);
                seen.insert(src != nullptr ? src->view_src : nullptr);
            }
        }
        return static_cast<int32_t>(seen.size());
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

bool shim_sched_alloc(struct ggml_backend_sched * sched, struct ggml_cgraph * graph, bool reserves,
                      struct ggml_tensor ** nodes, struct ggml_tensor ** sources, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        nodes[i] = ggml_graph_node(graph, i);
        std::copy_n(nodes[i]->src, GGML_MAX_SRC, sources + static_cast<ptrdiff_t>(i) * GGML_MAX_SRC);
    }
    const bool done =
        reserves ? ggml_backend_sched_reserve(sched, graph) : ggml_backend_sched_alloc_graph(sched, graph);
    swap_sources(nodes, sources, n);
    return done;
}

int32_t shim_sched_compute(struct ggml_backend_sched * sched, struct ggml_cgraph * graph, struct ggml_tensor ** nodes,
                           struct ggml_tensor ** sources, int32_t n) {
    swap_sources(nodes, sources, n);
    const ggml_status status = ggml_backend_sched_graph_compute(sched, graph);
    swap_sources(nodes, sources, n);
    return status;
}

bool shim_graph_is(struct ggml_cgraph * graph, struct ggml_tensor ** nodes, int32_t n) {
    if (ggml_graph_n_nodes(graph) != n) {
        return false;
    }
    try {
        const std::unordered_set<const ggml_tensor *> known(nodes, nodes + n);
        for (int32_t i = 0; i < n; i++) {
            if (known.count(ggml_graph_node(graph, i)) == 0) {
                return false;
            }
        }
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

struct ggml_tensor * shim_clone(struct ggml_context * ctx, struct ggml_tensor * tensor, struct ggml_tensor ** inputs) {
    try {
        std::unordered_map<const ggml_tensor *, ggml_tensor *> copies;
        std::vector<std::pair<ggml_tensor *, int>>             path{{tensor, 0}};
        while (!path.empty()) {
            auto & [t, next] = path.back();
            if (next <= GGML_MAX_SRC) {
                ggml_tensor * source = next < GGML_MAX_SRC ? t->src[next] : t->view_src;
                next++;
                if (source != nullptr && copies.count(source) == 0) {
                    path.emplace_back(source, 0);
                }
                continue;
            }
            if (copies.count(t) == 0) {
                ggml_tensor * copy = ggml_new_tensor(ctx, t->type, GGML_MAX_DIMS, t->ne);
                if (copy == nullptr) {
                    return nullptr;
                }
                const ggml_tensor empty = *copy;
                *copy                   = *t;
                for (ggml_tensor *& source : copy->src) {
                    source = source != nullptr ? copies.at(source) : nullptr;
                }
                copy->view_src = t->view_src != nullptr ? copies.at(t->view_src) : nullptr;
                if (t->op != GGML_OP_NONE || t->view_src != nullptr) {  // it has no memory, or that of another
                    copy->data   = empty.data;
                    copy->buffer = empty.buffer;
                    follow(copy);
                }
                copies[t] = copy;
            }
            path.pop_back();
        }
        const auto found = copies.find(*inputs);
        *inputs          = found != copies.end() ? found->second : nullptr;
        return copies.at(tensor);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

bool shim_opt_batch(struct ggml_opt_context * opt, struct ggml_opt_dataset * dataset, struct ggml_tensor * inputs,
                    int64_t index, bool backward, struct ggml_opt_result * result) {
    ggml_opt_alloc(opt, backward);
    if (guard::error().kind != SHIM_OK) {
        return false;
    }
    ggml_opt_dataset_get_batch(dataset, inputs, ggml_opt_labels(opt), index);
    if (guard::error().kind != SHIM_OK) {
        return false;
    }
    ggml_opt_eval(opt, result);
    return guard::error().kind == SHIM_OK;
}

int32_t shim_graph_unplaced(struct ggml_cgraph * graph, struct ggml_tensor ** tensors, int32_t room) {
    try {
        std::unordered_set<const ggml_tensor *> seen;
        int32_t                                 n    = 0;
        const auto                              look = [&](ggml_tensor * t) {
            if (t != nullptr && t->data == nullptr && seen.insert(t).second) {
                if (n < room) {
                    tensors[n] = t;
                }
                n++;
            }
        };
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            ggml_tensor * node = ggml_graph_node(graph, i);
            look(node);
            look(node->view_src);
            for (ggml_tensor * src : node->src) {
                if (src != nullptr) {
                    look(src);
                    look(src->view_src);
                }
            }
        }
        return n;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

void shim_unplace(struct ggml_tensor ** tensors, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        tensors[i]->data   = nullptr;
        tensors[i]->buffer = nullptr;
    }
}

bool shim_start_threads(int32_t n) {
    return team::start(n);
}

}  // extern "C"
