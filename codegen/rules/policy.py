"""Which functions are bound and how: tables of the decisions that headers cannot make. Each row has its reason."""

from __future__ import annotations

import re

from codegen.api.model import Api, CodegenError, Function
from codegen.read.exports import MODULE_OF_HEADER

# Types that cffi cannot express.
_FORBIDDEN_TYPES = {
    "FILE": "takes a FILE *: a C library's private object, which Python does not have",
    "va_list": "takes a va_list, which only C code can make",
}

# Handles. A failed call that takes one of these as a writable pointer may have left it half-changed.
HANDLES = (
    "llama_adapter_lora",
    "llama_batch_ext",
    "llama_context",
    "llama_memory_i",
    "llama_model",
    "llama_sampler",
    "mtmd_batch",
    "mtmd_context",
    "mtmd_helper_gen_audio",
    "mtmd_input_chunks",
)

# Handles whose users the guard counts, so that a call never gets a freed one. Users can only make them through a
# function of the API. Samplers are not among them: C code may bring its own, and the facade never uses one in two calls
# at a time.
_COUNTED = (
    *("llama_adapter_lora", "llama_batch_ext", "llama_context", "llama_model", "ggml_threadpool"),
    *("mtmd_batch", "mtmd_bitmap", "mtmd_context", "mtmd_helper_gen_audio", "mtmd_helper_video"),
    *("mtmd_input_chunk", "mtmd_input_chunks"),
    *("ggml_backend_sched", "ggml_opt_context", "ggml_opt_dataset", "ggml_opt_result"),
)

# Handle -> the functions for which NULL means something in its place ("" stands for all). Others refuse it.
_NULLABLE = {
    "llama_memory_i": ("",),  # every function ignores it
    "ggml_threadpool": ("ggml_backend_cpu_set_threadpool", "ggml_graph_plan", "llama_attach_threadpool"),
    "ggml_opt_result": ("ggml_opt_epoch", "ggml_opt_eval", "llama_opt_epoch"),
    "ggml_backend_sched": ("ggml_opt_default_params",),
    "llama_context": ("llama_get_memory", "llama_perf_context", "llama_perf_context_print"),
    "llama_model": ("llama_init_from_model", "llama_new_context_with_model", "mtmd_init_from_file"),
    "llama_vocab": (
        *("llama_sampler_init_dry", "llama_sampler_init_grammar", "llama_sampler_init_grammar_lazy"),
        "llama_sampler_init_grammar_lazy_patterns",
    ),
    "mtmd_context": ("mtmd_bitmap_init_lazy",),
    "mtmd_input_chunk": ("mtmd_decode_use_non_causal",),
}

# Typedefs of pointers to handles and their parts.
_POINTERS = {
    "llama_memory_t": "struct llama_memory_i *",
    **{
        f"{name}_t": f"struct {name} *"
        for name in (
            *("ggml_backend_sched", "ggml_opt_context", "ggml_opt_dataset", "ggml_opt_result", "ggml_threadpool"),
        )
    },
}

# Structs that functions return by value -> the fields that hold new handles.
RETURNED_HANDLES = {"mtmd_helper_bitmap_wrapper": ("bitmap", "video_ctx")}

# Objects that live inside a handle and end with it.
_PARTS = ("llama_memory_i", "llama_vocab", "mtmd_image_tokens", "mtmd_input_chunk")

# Functions that fail without changing the handles that they take.
UNTOUCHED = {
    "llama_init_from_model": "makes a context and does not change the model",
    "llama_adapter_lora_init": "registers the adapter with its model only once it is complete",
    "llama_get_logits_ith": "reads",
    "llama_get_embeddings_ith": "reads",
    "llama_get_embeddings_seq": "reads",
    "llama_memory_seq_pos_min": "reads",
    "llama_memory_seq_pos_max": "reads",
    "llama_memory_can_shift": "reads",
    "mtmd_get_output_embd": "reads",
    "mtmd_batch_get_output_embd": "reads",
}

# Functions that dereference NULL if a context's memory is full, and what the guard calls before them: it throws.
PRECONDITIONS = {
    "ggml_new_graph": "guard::require_graph_room({ctx}, GGML_DEFAULT_GRAPH_SIZE, false)",
    "ggml_new_graph_custom": "guard::require_graph_room({ctx}, {size}, {grads})",
    "ggml_graph_dup": "guard::require_graph_room({ctx}, ggml_graph_size({cgraph}), true)",
    "ggml_new_buffer": "guard::require_room({ctx}, {nbytes})",
    "ggml_graph_compute_with_ctx": "guard::require_work_room({ctx}, {cgraph}, {n_threads})",
}

# Enumerations by which ggml looks into its tables without a check, and their last members.
TABLE_ENUMS = {
    "enum ggml_type": "GGML_TYPE_COUNT",
    "enum ggml_op": "GGML_OP_COUNT",
    "enum ggml_unary_op": "GGML_UNARY_OP_COUNT",
    "enum ggml_glu_op": "GGML_GLU_OP_COUNT",
}

# Structs whose layout Python code or the shim relies on. The generator stops if a field is added, removed or moved.
EXACT_RECORDS = {
    "llama_batch": "the shim copies the arrays that its fields point to, and the facade fills it field by field",
    "llama_token_data": "arrays of it are read and written as 4-byte words",
    "llama_token_data_array": "the shim initializes it by position",
}

# Structs that the facade creates, filled with zeros: it would leave a new field at 0.
FILLED_RECORDS = {
    name: "the facade creates it, and would leave a field that it does not know at 0"
    for name in (
        "ggml_init_params",
        "gguf_init_params",
        "llama_chat_message",
        "llama_embd",
        "llama_logit_bias",
        "llama_model_imatrix_data",
        "llama_model_kv_override",
        "llama_model_tensor_buft_override",
        "llama_model_tensor_override",
        "llama_sampler",
        "llama_sampler_i",
        "llama_sampler_seq_config",
        "mtmd_input_part",
        "mtmd_input_text",
    )
}

# Types of callbacks for which the facade passes NULL only: their form may differ.
UNUSED_CALLBACKS = ("mtmd_helper_post_decode_callback", "mtmd_bitmap_lazy_callback")

# Constants that the sources name without a check (`has`) for them, and why that does no harm.
OPTIONAL_CONSTANTS = {
    "LLAMA_STATE_SEQ_FLAGS_ON_DEVICE": "named only to reject it",
}

# Structs of plain data that C returns. They become objects with attributes, as structs of parameters do.
DATA_RECORDS = ("llama_perf_context_data", "llama_perf_sampler_data")

# Structs that the facade's own classes are built on.
NEEDED_RECORDS = (
    "llama_model_params",
    "llama_context_params",
    "llama_sampler_chain_params",
    "llama_model_quantize_params",
    "mtmd_context_params",
    *DATA_RECORDS,
)


def left_out(function: Function) -> str | None:
    """Return why a function is not bound; None if it is bound."""
    for ctype in (function.returns, *(param.type for param in function.params)):
        for word, reason in _FORBIDDEN_TYPES.items():
            if re.search(rf"\b{word}\b", ctype):
                return reason if ctype != function.returns else reason.replace("takes", "returns")
    if function.home is None:
        return "declared, but exported by no library"
    return None


def bound(api: Api) -> list[Function]:
    """Return the functions that are bound."""
    return [function for function in api.functions if left_out(function) is None]


def module_of(function: Function) -> str | None:
    """Return the backend module that must be loaded before the call; None for a linked function."""
    return function.home if function.home in MODULE_OF_HEADER.values() else None


def guarded(function: Function) -> bool:
    """Return True if the function has a guard wrapper. A variadic function has none: C cannot forward `...`."""
    return not function.variadic


def suspects(function: Function) -> list[int]:
    """Return the indices of the parameters that a failed call may have left half-changed."""
    if function.name in UNTOUCHED:
        return []
    pattern = re.compile(rf"^(struct )?({'|'.join(HANDLES)}) \*$")
    return [i for i, p in enumerate(function.params) if pattern.match(p.type) or p.type == "llama_memory_t"]


def preconditions(function: Function) -> list[str]:
    """Return the C++ calls that check the arguments before the function is called. They throw."""
    found = [
        f'guard::require_member("{p.type.removeprefix("enum ")}", {p.name}, {TABLE_ENUMS[p.type]})'
        for p in function.params
        if p.type in TABLE_ENUMS and function.header.startswith("ggml") and not function.absent
    ]
    if function.name in PRECONDITIONS:
        names = {p.name: p.name for p in function.params}
        found.append(PRECONDITIONS[function.name].format_map(names))
    return found


def _pointee(ctype: str) -> tuple[str, bool]:
    """Return the struct that a type points to, and True if it is writable; ("", False) for any other type."""
    match = re.fullmatch(r"(const )?(?:struct )?(\w+) \*", _POINTERS.get(ctype, ctype))
    return (match[2], not match[1]) if match else ("", False)


def handles(function: Function) -> list[int]:
    """Return the indices of the parameters that must stay alive while the function runs."""
    return [i for i, p in enumerate(function.params) if _pointee(p.type)[0] in (*_COUNTED, *_PARTS)]


def nullable(function: Function, index: int) -> bool:
    """Return True if NULL means something for a parameter that is a handle."""
    names = _NULLABLE.get(_pointee(function.params[index].type)[0], ())
    return "" in names or function.name in names


def makes_handle(function: Function) -> bool:
    """Return True if the function returns a new handle."""
    struct, writable = _pointee(function.returns)
    return struct in _COUNTED and writable


def frees_handle(function: Function) -> bool:
    """Return True if the function frees the handle that it takes."""
    return len(handles(function)) == 1 == len(function.params) and bool(re.search(r"(^|_)free(_|$)", function.name))


def only_frees(function: Function) -> bool:
    """Return True if the function frees something and does nothing else."""
    return function.returns == "void" and bool(re.search(r"(^|_)free(_|$)", function.name))


def returns_part(function: Function) -> bool:
    """Return True if the function returns an object that lives inside its first handle."""
    return _pointee(function.returns)[0] in _PARTS and bool(handles(function))


def param_records(api: Api) -> list[str]:
    """Return the tags of the structs of parameters (`*_params`)."""
    return [record.tag for record in api.records if record.tag.endswith("_params") and record.fields]


def check(api: Api, rows: bool = True) -> None:
    """Check that every type can be bound, and with `rows` that every row names something in this header.

    Raises CodegenError otherwise.
    """
    functions = {function.name for function in api.functions}
    records = {record.tag for record in api.records}
    for typedef in api.typedefs:
        if re.search(r"\bva_list\b", typedef.type):
            what = f"{typedef.header}: the type {typedef.name} {_FORBIDDEN_TYPES['va_list']}"
            advice = "Change codegen/rules/policy.py to leave out the type and every function that uses it."
            raise CodegenError(f"{what}. {advice}")
    if not rows:
        return
    for name in UNTOUCHED:
        if name not in functions:
            raise _no_such("UNTOUCHED", name)
    for name in PRECONDITIONS:
        if name not in functions:
            raise _no_such("PRECONDITIONS", name)
    for table, names in (
        ("EXACT_RECORDS", EXACT_RECORDS),
        ("FILLED_RECORDS", FILLED_RECORDS),
        ("HANDLES", HANDLES),
        ("NEEDED_RECORDS", NEEDED_RECORDS),
    ):
        for name in names:
            if name not in records:
                raise _no_such(table, name)


def _no_such(table: str, name: str) -> CodegenError:
    return CodegenError(f"codegen/rules/policy.py: {table} names {name}, which this header lacks: delete the row")
