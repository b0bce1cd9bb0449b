"""Maps C names to the facade's class and camelCase name: one rule, and tables of exceptions to it.

The rule: a function belongs to the class of its prefix (`llama_model_` is `Model`), or else to the class of its first
parameter (`llama_n_ctx(ctx)` is `Context`, `ggml_nbytes(tensor)` is `Ggml.Tensor`), or else to the module. Its name is
the rest after the prefix, in camelCase. A function of ggml that takes a context first and returns a tensor is a method
of `Ggml.Context`, whatever its prefix.
Types, fields, enumerators and constants follow the same rule. Every exception has a reason; a row that does not fit the
header is an error.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass

from codegen.api.model import Api, CodegenError, Enum, Function, Record, flat_fields

# Prefix of a C name -> class. The longest prefix wins.
PREFIXES = {
    "llama_model_": "Model",
    "llama_vocab_": "Vocab",
    "llama_sampler_": "Sampler",
    "llama_memory_": "Memory",
    "llama_adapter_": "Adapter",
    "llama_batch_ext_": "BatchExt",
    "llama_batch_": "Batch",
    "llama_": "",
    "ggml_backend_dev_": "Ggml.BackendDevice",
    "ggml_backend_buft_": "Ggml.BackendBufferType",
    "ggml_backend_buffer_": "Ggml.BackendBuffer",
    "ggml_backend_reg_": "Ggml.BackendReg",
    "ggml_backend_sched_": "Ggml.BackendSched",
    "ggml_backend_event_": "Ggml.BackendEvent",
    "ggml_backend_meta_": "Ggml.BackendMeta",
    "ggml_backend_": "Ggml.Backend",
    "ggml_threadpool_": "Ggml.Threadpool",
    "ggml_gallocr_": "Ggml.Gallocr",
    "ggml_tallocr_": "Ggml.Tallocr",
    "ggml_opt_dataset_": "Ggml.OptDataset",
    "ggml_opt_result_": "Ggml.OptResult",
    "ggml_opt_": "Ggml.Opt",
    "ggml_cpu_": "Ggml.Cpu",
    "ggml_graph_": "Ggml.CGraph",
    "ggml_quantize_": "Ggml.Quantize",
    "ggml_": "Ggml",
    "gguf_": "Gguf",
    "mtmd_bitmap_": "Mtmd.Bitmap",
    "mtmd_input_chunks_": "Mtmd.Chunks",
    "mtmd_input_chunk_": "Mtmd.Chunk",
    "mtmd_image_tokens_": "Mtmd.ImageTokens",
    "mtmd_batch_": "Mtmd.Batch",
    "mtmd_gen_": "Mtmd.Gen",
    "mtmd_helper_bitmap_": "Mtmd.Bitmap",
    "mtmd_helper_video_": "Mtmd.Video",
    "mtmd_helper_gen_audio_": "Mtmd.GenAudio",
    "mtmd_helper_": "Mtmd",
    "mtmd_": "Mtmd",
}

# Type of the first parameter -> class, for functions without the prefix of a class.
FIRST_PARAMETER = {
    "llama_model": "Model",
    "llama_context": "Context",
    "llama_vocab": "Vocab",
    "llama_sampler": "Sampler",
    "ggml_context": "Ggml.Context",
    "ggml_tensor": "Ggml.Tensor",
    "ggml_cgraph": "Ggml.CGraph",
    "mtmd_context": "Mtmd.Context",
}


@dataclass(frozen=True)
class NameException:
    """A function whose name differs from the rule."""

    c_name: str
    owner: str
    name: str
    reason: str
    # The function that replaces it, if the facade has the name and the pinned header does not.
    absent: str = ""
    # The other C function, if one method covers two.
    same_as: str = ""


_SPEC = "the specification's spelling"

EXCEPTIONS: tuple[NameException, ...] = (
    NameException("llama_model_default_params", "Model", "getDefaultParams", _SPEC),
    NameException("llama_model_load_from_file", "Model", "load", _SPEC),
    NameException("llama_model_load_from_splits", "Model", "loadSplits", _SPEC),
    NameException("llama_model_save_to_file", "Model", "save", _SPEC),
    NameException("llama_model_get_vocab", "Model", "vocab", _SPEC),
    NameException("llama_context_default_params", "Context", "getDefaultParams", _SPEC),
    NameException("llama_init_from_model", "Context", "initFromModel", "makes a Context; takes a Model first"),
    NameException("llama_state_get_size", "Context", "stateSize", _SPEC),
    NameException(
        "llama_state_seq_get_size_ext", "Context", "stateSeqGetSize", "flags are a parameter",
        same_as="llama_state_seq_get_size",
    ),
    NameException(
        "llama_state_seq_get_data_ext", "Context", "stateSeqGetData", "flags are a parameter",
        same_as="llama_state_seq_get_data",
    ),
    NameException(
        "llama_state_seq_set_data_ext", "Context", "stateSeqSetData", "flags are a parameter",
        same_as="llama_state_seq_set_data",
    ),
    NameException("llama_sampler_chain_n", "Sampler", "chainCount", _SPEC),
    NameException("llama_memory_seq_rm", "Memory", "seqRemove", _SPEC),
    NameException("llama_memory_seq_cp", "Memory", "seqCopy", _SPEC),
    NameException("llama_tokenize", "", "tokenize", "a function of the module in the specification"),
    NameException("llama_detokenize", "", "detokenize", "a function of the module in the specification"),
    *(
        NameException(f"mtmd_{c}", f"Mtmd.{owner}".rstrip("."), name, "a property, or says what it is made from")
        for c, owner, name in (
            ("context_params_default", "Context", "getDefaultParams"), ("init_from_file", "Context", "initFromFile"),
            ("get_cap_from_file", "", "capabilities"), ("bitmap_init", "Bitmap", "fromImage"),
            ("bitmap_init_from_audio", "Bitmap", "fromAudio"), ("helper_bitmap_init_from_file", "Bitmap", "fromFile"),
            ("helper_bitmap_init_from_buf", "Bitmap", "fromBytes"), ("bitmap_get_nx", "Bitmap", "width"),
            ("bitmap_get_ny", "Bitmap", "height"), ("bitmap_get_data", "Bitmap", "data"),
            ("bitmap_get_n_bytes", "Bitmap", "nBytes"), ("bitmap_get_id", "Bitmap", "id"),
            ("input_chunk_get_type", "Chunk", "kind"), ("input_chunk_get_tokens_text", "Chunk", "tokens"),
            ("input_chunk_get_n_tokens", "Chunk", "nTokens"), ("input_chunk_get_n_pos", "Chunk", "nPos"),
            ("input_chunk_get_id", "Chunk", "id"), ("helper_get_n_tokens", "Chunks", "nTokens"),
            ("helper_get_n_pos", "Chunks", "nPos"), ("helper_log_set", "", "helperLogSet"),
            ("helper_image_get_decoder_pos", "ImageTokens", "getDecoderPositions"),
        )
    ),
    NameException(
        "llama_model_has_dencoder", "Model", "hasDencoder", "misspelled in the specification; kept as an alias",
        absent="llama_model_has_decoder",
    ),
    NameException(
        "llama_set_adapter_lora", "Context", "setAdapterLora", "older headers", absent="llama_set_adapters_lora",
    ),
    NameException(
        "llama_rm_adapter_lora", "Context", "removeAdapterLora", "older headers", absent="llama_set_adapters_lora",
    ),
    NameException(
        "llama_clear_adapter_lora", "Context", "clearAdapterLora", "older headers", absent="llama_set_adapters_lora",
    ),
    NameException("ggml_free", "Ggml", "free", _SPEC),
    NameException("ggml_build_forward_expand", "Ggml", "buildForwardExpand", _SPEC),
    NameException("ggml_build_backward_expand", "Ggml", "buildBackwardExpand", _SPEC),
    NameException("ggml_tensor_overhead", "Ggml", "getTensorOverhead", _SPEC),
    NameException("ggml_graph_overhead", "Ggml", "getGraphOverhead", _SPEC),
    NameException(
        "ggml_graph_overhead_custom", "Ggml", "getGraphOverhead", "size and grads are parameters",
        same_as="ggml_graph_overhead",
    ),
    NameException("ggml_type_size", "Ggml", "getTypeSize", _SPEC),
    NameException("ggml_row_size", "Ggml", "getRowSize", _SPEC),
    NameException("ggml_ftype_to_ggml_type", "Ggml", "fTypeToType", _SPEC),
    NameException("ggml_fp16_to_fp32_row", "Ggml", "fp16ToFp32", "a row or one number", same_as="ggml_fp16_to_fp32"),
    NameException("ggml_fp32_to_fp16_row", "Ggml", "fp32ToFp16", "a row or one number", same_as="ggml_fp32_to_fp16"),
    NameException("ggml_bf16_to_fp32_row", "Ggml", "bf16ToFp32", "a row or one number", same_as="ggml_bf16_to_fp32"),
    NameException("ggml_fp32_to_bf16_row", "Ggml", "fp32ToBf16", "a row or one number", same_as="ggml_fp32_to_bf16"),
    NameException("ggml_dup_tensor", "Ggml.Context", "dup", _SPEC),
    NameException("ggml_dup", "Ggml.Context", "dupData", "`dup` is ggml_dup_tensor in the specification"),
    NameException("ggml_graph_dup", "Ggml.Context", "dup", "a tensor or a graph", same_as="ggml_dup_tensor"),
    NameException(
        "ggml_new_graph_custom", "Ggml.Context", "newGraph", "size and grads are parameters", same_as="ggml_new_graph",
    ),
    NameException("ggml_graph_compute_with_ctx", "Ggml.Context", "graphCompute", _SPEC),
    NameException("ggml_backend_alloc_ctx_tensors", "Ggml.Context", "backendAllocTensors", _SPEC),
    NameException("ggml_get_name", "Ggml.Tensor", "name", _SPEC),
    NameException("ggml_set_name", "Ggml.Tensor", "name", "a property that can be set", same_as="ggml_get_name"),
    NameException("ggml_get_data", "Ggml.Tensor", "data", _SPEC),
    NameException("ggml_get_data_f32", "Ggml.Tensor", "dataF32", _SPEC),
    NameException("ggml_nelements", "Ggml.Tensor", "nElements", _SPEC),
    NameException("ggml_nrows", "Ggml.Tensor", "nRows", _SPEC),
    NameException("ggml_nbytes", "Ggml.Tensor", "nBytes", _SPEC),
    NameException("ggml_nbytes_pad", "Ggml.Tensor", "nBytesPad", _SPEC),
    NameException("ggml_backend_tensor_set", "Ggml.Tensor", "backendSet", _SPEC),
    NameException("ggml_backend_tensor_get", "Ggml.Tensor", "backendGet", _SPEC),
)  # fmt: skip

# Types whose class is not the camelCase of their name.
TYPE_EXCEPTIONS = {
    "llama_model_params": ("Model.Params", "a nested class in the specification"),
    "llama_context_params": ("Context.Params", "a nested class in the specification"),
    "llama_sampler_chain_params": ("Sampler.ChainParams", "a nested class in the specification"),
    "llama_model_quantize_params": ("Model.QuantizeParams", "nested like its siblings"),
    "llama_model_tensor_buft_override": ("TensorBuftOverride", "the specification's spelling"),
    "llama_adapter_lora": ("Adapter", "the specification's spelling"),
    "llama_memory_i": ("Memory", "the specification's spelling"),
    "ggml_cgraph": ("Ggml.CGraph", _SPEC),
    "ggml_cplan": ("Ggml.CPlan", _SPEC),
    "ggml_ftype": ("Ggml.FType", _SPEC),
    "ggml_threadpool_params": ("Ggml.Threadpool.Params", "a nested class in the specification"),
    "mtmd_context_params": ("Mtmd.Context.Params", "a nested class, as for models and contexts"),
    "mtmd_input_chunk_type": ("Mtmd.ChunkKind", "the type of the property `kind`"),
    "mtmd_input_chunk": ("Mtmd.Chunk", "one word: all chunks are input"),
    "mtmd_input_chunks": ("Mtmd.Chunks", "one word: all chunks are input"),
    "ggml_backend_dev_t": ("Ggml.BackendDevice", "a pointer to struct ggml_backend_device, whose functions say `dev`"),
}

# (struct, C field) -> camelCase, where the rule does not give the specification's spelling.
FIELD_EXCEPTIONS = {
    ("llama_batch", "logits"): ("output", "upstream's own comment asks for this name"),
    ("llama_context_params", "cb_eval_user_data"): ("cbEvalData", _SPEC),
    ("llama_context_params", "abort_callback"): ("abortCb", _SPEC),
    ("llama_context_params", "abort_callback_data"): ("abortCbData", _SPEC),
    ("ggml_threadpool_params", "cpumask"): ("cpuMask", _SPEC),
    ("ggml_cplan", "threadpool"): ("threadPool", _SPEC),
    ("mtmd_context_params", "cb_eval_user_data"): ("cbEvalData", "as for contexts"),
}

# Attributes of the facade without a field in the pinned header: (class, C name) -> (name, the field used instead).
VIRTUAL_FIELDS = {
    ("Model.Params", "use_mmap"): ("useMmap", "llama_model_params.load_mode"),
    ("Model.Params", "use_direct_io"): ("useDirectIo", "llama_model_params.load_mode"),
    ("Model.Params", "use_mlock"): ("useMlock", "llama_model_params.load_mode"),
    ("Context.Params", "flash_attn"): ("flashAttnType", "llama_context_params.flash_attn_type"),
}


def camel(name: str) -> str:
    """Convert snake_case to camelCase: `n_ctx_train` to `nCtxTrain`."""
    head, *tail = [part for part in name.split("_") if part]
    return _identifier(head + "".join(part[:1].upper() + part[1:] for part in tail))


def _identifier(name: str) -> str:
    """Return a valid Python identifier: `lambda_` for `lambda`."""
    return f"{name}_" if keyword.iskeyword(name) else name


def pascal(name: str) -> str:
    """Convert snake_case to PascalCase: `split_mode` to `SplitMode`."""
    text = camel(name)
    return text[:1].upper() + text[1:]


def split_prefix(c_name: str) -> tuple[str, str]:
    """Return the class of the longest prefix of a C name, and the rest of the name."""
    prefix = _prefix(c_name)
    rest = c_name[len(prefix) :]
    return (PREFIXES[prefix], rest) if prefix and rest else ("", c_name)


def _prefix(c_name: str) -> str:
    return max((p for p in PREFIXES if c_name.startswith(p)), key=len, default="")


def function_name(function: Function) -> tuple[str, str]:
    """Return the class (empty for the module) and the name of a function."""
    for row in EXCEPTIONS:
        if row.c_name == function.name:
            return row.owner, row.name
    if is_constructor(function):
        return "Ggml.Context", camel(function.name.removeprefix("ggml_"))
    owner, rest = split_prefix(function.name)
    if owner in ("", "Ggml", "Mtmd") and function.params:
        base = _base(function.params[0].type)
        if base.partition("_")[0] == function.name.partition("_")[0]:
            owner = FIRST_PARAMETER.get(base, owner)
    return owner, camel(rest)


def is_constructor(function: Function) -> bool:
    """Return True if a function makes a tensor in a ggml context, which is its first parameter."""
    first = function.params[0].type if function.params else ""
    return first == "struct ggml_context *" and function.returns == "struct ggml_tensor *"


def _base(ctype: str) -> str:
    return re.sub(r"\b(const|struct|enum|union)\b|[*\s]", "", ctype)


def type_name(c_name: str) -> str:
    """Return the facade's name of a struct, union, enum or typedef: `SplitMode` for `llama_split_mode`."""
    if c_name in TYPE_EXCEPTIONS:
        return TYPE_EXCEPTIONS[c_name][0]
    for prefix, owner in (("llama_", ""), ("ggml_", "Ggml."), ("gguf_", "Gguf."), ("mtmd_", "Mtmd.")):
        if c_name.startswith(prefix):
            return owner + pascal(c_name[len(prefix) :].removesuffix("_t"))
    return pascal(c_name.removesuffix("_t"))


def class_name(c_name: str) -> str:
    """Return the name of a C type's class without dots: `GgmlType` for `ggml_type`, which is `Ggml.Type`."""
    return type_name(c_name).replace(".", "")


def field_name(record: Record, field: str) -> str:
    """Return the attribute of a field: `nCtx` for `n_ctx`."""
    exception = FIELD_EXCEPTIONS.get((record.tag or record.alias, field))
    return exception[0] if exception else camel(field)


def member_names(enum: Enum) -> dict[str, str]:
    """Map enumerators to members: without the tag, or without the longest prefix of whole words that all share."""
    names = [member.name for member in enum.members]
    tag = (enum.tag or enum.alias).upper().removesuffix("_T")
    prefix = tag + "_" if tag and all(n.startswith(tag + "_") for n in names) else _common_words(names)
    while prefix and not all(
        name[len(prefix) :].isidentifier() for name in names
    ):  # keep AXIS_0: 0 is not an identifier
        prefix = prefix[: prefix.rstrip("_").rfind("_") + 1]
    return {name: _identifier(name[len(prefix) :]) for name in names}


def _common_words(names: list[str]) -> str:
    if len(names) == 1:
        return names[0][: names[0].find("_") + 1]
    first, last = min(names), max(names)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[: first.rfind("_", 0, same) + 1]


def constant_name(c_name: str) -> str:
    """Return the facade's name of a constant: `DEFAULT_SEED` for `LLAMA_DEFAULT_SEED`, `Ggml.X` for `GGML_X`."""
    for prefix, owner in (("LLAMA_", ""), ("GGML_", "Ggml."), ("GGUF_", "Gguf."), ("MTMD_", "Mtmd.")):
        if c_name.startswith(prefix):
            return owner + c_name[len(prefix) :]
    return c_name


def check(api: Api, rows: bool = True) -> None:
    """Check that no two C names map to one name, and with `rows` that every row of the tables fits this header.

    Raises CodegenError otherwise.
    """
    if rows:
        _check_function_rows(api)
        _check_type_rows(api)
        _check_field_rows(api)
    _check_collisions(api)


def _misfit(table: str, row: str) -> CodegenError:
    return CodegenError(
        f"codegen/rules/naming.py: {table} has a row for {row} that matches nothing in this header: delete it"
    )


def _check_function_rows(api: Api) -> None:
    functions = {function.name for function in api.functions}
    for row in EXCEPTIONS:
        if bool(row.absent) == (row.c_name in functions) or (row.absent and row.absent not in functions):
            raise _misfit("EXCEPTIONS", row.c_name)
    used = {_prefix(name) for name in functions}
    for prefix in PREFIXES:
        if prefix not in used:
            raise _misfit("PREFIXES", prefix)


def _check_type_rows(api: Api) -> None:
    records = {record.tag for record in api.records}
    types = records | {typedef.name for typedef in api.typedefs} | {enum.tag or enum.alias for enum in api.enums}
    for table, rows, known in (
        ("FIRST_PARAMETER", FIRST_PARAMETER, records),
        ("TYPE_EXCEPTIONS", TYPE_EXCEPTIONS, types),
    ):
        for name in rows:
            if name not in known:
                raise _misfit(table, name)


def _check_field_rows(api: Api) -> None:
    fields = {(record.tag or record.alias, field.name) for record in api.records for field in flat_fields(record)}
    for tag, name in FIELD_EXCEPTIONS:
        if (tag, name) not in fields:
            raise _misfit("FIELD_EXCEPTIONS", f"{tag}.{name}")
    by_class = {(type_name(tag), name) for tag, name in fields}
    for (owner, name), (_, stand_in) in VIRTUAL_FIELDS.items():
        tag, _, field = stand_in.partition(".")
        if (owner, name) in by_class or (tag, field) not in fields:
            raise _misfit("VIRTUAL_FIELDS", f"{owner}.{name}")


def _check_collisions(api: Api) -> None:
    taken: dict[tuple[str, str], Function] = {}
    for function in api.functions:
        key = function_name(function)
        other = taken.setdefault(key, function)
        shared = any(row.c_name in (function.name, other.name) and row.same_as for row in EXCEPTIONS)
        if other is not function and not shared and not (other.deprecated or function.deprecated):
            what = f"{function.header}: {function.name} and {other.name} both map to {'.'.join(key)}"
            raise CodegenError(f"{what}: add a row to EXCEPTIONS in codegen/rules/naming.py")
        if other.deprecated and not function.deprecated:
            taken[key] = function
    for record in api.records:
        fields = flat_fields(record)
        _check_distinct((field_name(record, field.name), f"{record.spelling}.{field.name}") for field in fields)
    _check_distinct((type_name(x.tag or x.alias), x.spelling) for x in api.enums if x.tag or x.alias)


def _check_distinct(rows: Iterable[tuple[str, str]]) -> None:
    taken: dict[str, str] = {}
    for name, c_name in rows:
        if taken.setdefault(name, c_name) != c_name:
            raise CodegenError(f"{c_name} and {taken[name]} both map to {name}: add a row to codegen/rules/naming.py")
