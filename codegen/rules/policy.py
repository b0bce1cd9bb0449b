"""What is bound and how: the tables of decisions that the headers cannot make, each row with its reason."""

from __future__ import annotations

import re

from codegen.api.model import Api, CodegenError, Function
from codegen.read.exports import MODULE_OF_HEADER

# Types that cffi cannot express.
_FORBIDDEN_TYPES = {
    "FILE": "takes a FILE *: a C library's private object, which Python does not have",
    "va_list": "takes a va_list, which only C code can make",
}

# Handles: a failed call that had one of these to write to may have left it half-changed.
HANDLES = (
    "llama_adapter_lora",
    "llama_batch_ext",
    "llama_context",
    "llama_memory_i",
    "llama_model",
    "llama_sampler",
)

# Handles that a call must find alive: what a user cannot make but through a function. Samplers are none: C code may
# bring its own, and the facade never lends one to two calls.
_COUNTED = ("llama_adapter_lora", "llama_batch_ext", "llama_context", "llama_model", "ggml_threadpool")

# Typedefs of pointers to them.
_POINTERS = {"llama_memory_t": "struct llama_memory_i *", "ggml_threadpool_t": "struct ggml_threadpool *"}

# What lives inside a handle, and as long.
_PARTS = ("llama_memory_i", "llama_vocab")

# Functions that fail without touching the handles that they take.
UNTOUCHED = {
    "llama_init_from_model": "makes a context beside the model",
    "llama_adapter_lora_init": "registers the adapter with its model only once it is complete",
    "llama_get_logits_ith": "reads",
    "llama_get_embeddings_ith": "reads",
    "llama_get_embeddings_seq": "reads",
    "llama_memory_seq_pos_min": "reads",
    "llama_memory_seq_pos_max": "reads",
    "llama_memory_can_shift": "reads",
}

# Structs whose layout Python code or the shim relies on: a field more, less or elsewhere stops the generator.
EXACT_RECORDS = {
    "llama_batch": "the shim copies what its fields point to, and the facade makes one field by field",
    "llama_token_data": "arrays of it are read and written as words of four bytes",
    "llama_token_data_array": "the shim makes one by position",
}

# Structs that the facade makes, of zeros: a field that it does not know would be left at 0.
FILLED_RECORDS = {
    name: "the facade makes one, and what it does not know would be left at 0"
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
    )
}

# Constants that the sources name without asking whether they are there, and why that does no harm.
OPTIONAL_CONSTANTS = {
    "LLAMA_STATE_SEQ_FLAGS_ON_DEVICE": "named to refuse it",
}


def left_out(function: Function) -> str | None:
    """Why a function is not bound; None if it is."""
    for ctype in (function.returns, *(param.type for param in function.params)):
        for word, reason in _FORBIDDEN_TYPES.items():
            if re.search(rf"\b{word}\b", ctype):
                return reason if ctype != function.returns else reason.replace("takes", "returns")
    if function.home is None:
        return "declared, but exported by no library"
    return None


def bound(api: Api) -> list[Function]:
    return [function for function in api.functions if left_out(function) is None]


def module_of(function: Function) -> str | None:
    """The backend module that must be loaded before the call; None for a linked function."""
    return function.home if function.home in MODULE_OF_HEADER.values() else None


def guarded(function: Function) -> bool:
    """C cannot forward `...`, so a variadic function goes unguarded."""
    return not function.variadic


def suspects(function: Function) -> list[int]:
    """Which parameters, by index, a failed call may have left half-changed."""
    if function.name in UNTOUCHED:
        return []
    pattern = re.compile(rf"^struct ({'|'.join(HANDLES)}) \*$")
    return [i for i, p in enumerate(function.params) if pattern.match(p.type) or p.type == "llama_memory_t"]


def _pointee(ctype: str) -> tuple[str, bool]:
    """The struct that a type points to, and whether it may be written; empty for any other type."""
    ctype = {"llama_memory_t": "struct llama_memory_i *", "ggml_threadpool_t": "struct ggml_threadpool *"}.get(
        ctype, ctype
    )
    match = re.fullmatch(r"(const )?struct (\w+) \*", ctype)
    return (match[2], not match[1]) if match else ("", False)


def handles(function: Function) -> list[int]:
    """Which parameters, by index, must be alive while the function runs."""
    return [i for i, p in enumerate(function.params) if _pointee(p.type)[0] in (*_COUNTED, *_PARTS)]


def begins(function: Function) -> bool:
    """Whether the function makes a handle."""
    struct, writable = _pointee(function.returns)
    return struct in _COUNTED and writable


def ends(function: Function) -> bool:
    """Whether the function frees the handle that it takes."""
    return len(handles(function)) == 1 == len(function.params) and bool(re.search(r"(^|_)free(_|$)", function.name))


def frees(function: Function) -> bool:
    """Whether all that the function does is to free something."""
    return function.returns == "void" and bool(re.search(r"(^|_)free(_|$)", function.name))


def is_part(function: Function) -> bool:
    """Whether the function returns what lives inside its first handle."""
    return _pointee(function.returns)[0] in _PARTS and bool(handles(function))


def check(api: Api, rows: bool = True) -> None:
    """Fail on a type that cannot be bound, and with `rows` on a row that names nothing in this header."""
    functions = {function.name for function in api.functions}
    records = {record.tag for record in api.records}
    for typedef in api.typedefs:
        if re.search(r"\bva_list\b", typedef.type):
            what = f"{typedef.header}: the type {typedef.name} {_FORBIDDEN_TYPES['va_list']}"
            advice = "Teach codegen/rules/policy.py to leave it out with every function that uses it."
            raise CodegenError(f"{what}. {advice}")
    if not rows:
        return
    for name in UNTOUCHED:
        if name not in functions:
            raise _no_such("UNTOUCHED", name)
    for table, names in (("EXACT_RECORDS", EXACT_RECORDS), ("FILLED_RECORDS", FILLED_RECORDS)):
        for name in names:
            if name not in records:
                raise _no_such(table, name)
    for name in HANDLES:
        if name not in records:
            raise _no_such("HANDLES", name)


def _no_such(table: str, name: str) -> CodegenError:
    return CodegenError(f"codegen/rules/policy.py: {table} names {name}, which this header lacks: drop the row")
