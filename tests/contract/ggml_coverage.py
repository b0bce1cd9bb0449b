"""How much of ggml's headers the facade has: `python -m tests.contract.ggml_coverage` prints a table, and the rest.

A function is in the facade under its name there, or where a docstring says that something maps to it. Of the others,
`ROWS` says which the facade has in another form, and why the rest is in `lib` only.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import llama_cffi
from codegen.api.model import Function
from codegen.fit import complete
from codegen.rules import naming

HEADERS = ("ggml.h", "ggml-backend.h", "ggml-alloc.h", "ggml-cpu.h", "gguf.h")
OTHER, LIB = "in another form", "lib only"

# A pattern for names, and what becomes of the functions: the first that matches counts.
ROWS: list[tuple[str, str, str]] = [
    ("gguf_(init_from_file_ptr|write_to_file_ptr)|ggml_fopen", LIB, "a FILE * is a C library's private object"),
    ("gguf_init_from_callback", LIB, "a callback of C that reads"),
    ("gguf_.*", OTHER, "Ggml.Gguf is a mapping, and reads and writes the file itself"),
    ("ggml_backend_sched_.*", LIB, "of BackendSched: pipelines, and callbacks that see tensors of the scheduler"),
    ("ggml_backend_event_.*|.*_async", LIB, "events and copies that do not wait: lifetimes are not checked"),
    ("ggml_backend_graph_plan_.*", LIB, "of a backend's own; Ggml.CGraph.plan is the CPU's"),
    ("ggml_backend_graph_copy.*|ggml_backend_compare_graph_backend", LIB, "tools for tests of backends"),
    ("ggml_backend_tensor_(get|set)_2d|ggml_backend_tensor_memset", OTHER, "Tensor.numpy, set and setZero"),
    ("ggml_backend_tensor_copy", OTHER, "ctx.cpy, or other.set(tensor.numpy())"),
    ("ggml_backend_(alloc_buffer|get_alignment|get_max_size|supports_buft)", OTHER, "by the BackendBufferType"),
    ("ggml_backend_buf.*|ggml_backend_tensor_alloc|ggml_backend_view_init|ggml_tallocr.*", LIB, "raw addresses"),
    ("ggml_backend_cpu_buffer_(from_ptr|type)|ggml_backend_dev_buffer_from_host_ptr", LIB, "raw addresses"),
    ("ggml_backend_(dev_)?(supports|offload)_op|ggml_backend_cpu_set_.*", OTHER, "methods of Backend check and set it"),
    ("ggml_backend_init_by.*|ggml_backend_init_best|ggml_backend_load_all.*", OTHER, "Backend.init, Backend.loadAll"),
    ("ggml_backend_(cpu_reg|reg_by_name|reg_get_proc_address|guid)|ggml_guid_matches", LIB, "of use to C"),
    ("ggml_backend_(unload|device_register|meta_.*)", LIB, "changes what models and contexts use"),
    ("ggml_backend_alloc_ctx_tensors_from_buft.*", OTHER, "ctx.backendAllocTensors"),
    ("ggml_gallocr_(new_n|reserve.*)", LIB, "BackendSched has several buffers; allocGraph reserves"),
    ("ggml_cpu_has_.*|ggml_cpu_get_.*|ggml_cpu_init", OTHER, "Backend.cpuVariants says what the CPU has"),
    ("ggml_cpu_fp.*|ggml_cpu_bf.*|ggml_fp32_to_bf16_row_ref", OTHER, "Ggml.fp16ToFp32 and the like"),
    ("ggml_[gs]et_(f32|i32)(_1d|_nd)?", OTHER, "tensor.numpy()[...]"),
    ("ggml_get_type_traits.*|ggml_quantize_.*|ggml_validate_row_data", OTHER, "ctx.tensor(array, type), Ggml.Gguf"),
    ("ggml_threadpool_get_n_threads", LIB, "exported by no library"),
    ("ggml_is_.*|ggml_are_same_.*|ggml_can_repeat", OTHER, "tensor.ne, nb and shape"),
    ("ggml_(element_size|type_sizef|unravel_index|get_max_tensor_size)", OTHER, "tensor.nb, and numbers"),
    ("ggml_(op|unary_op|glu_op)_(name|symbol|desc)|ggml_get_(unary|glu)_op", OTHER, "enumerations: tensor.op.name"),
    ("ggml_graph_dump_dot", OTHER, "CGraph.dump"),
    ("ggml_graph_(cpy|add_node)|ggml_build_forward_.*|ggml_format_name", LIB, "expand and name are enough"),
    ("ggml_log_.*", OTHER, "logSet"),
    ("ggml_(time|cycles).*", OTHER, "time.perf_counter"),
    ("ggml_version|ggml_commit", OTHER, "llama_cffi.version"),
    (
        "ggml_(reset|set_no_alloc|new_buffer|get_mem_buffer|print_object.*)",
        LIB,
        "would invalidate tensors, or raw memory",
    ),
    ("ggml_.*_set_prec|.*_set_hint|.*_add_sinks|.*_set_n_kv_max|ggml_prec_.*|.*_get_prec", LIB, "settings of a node"),
    ("ggml_rope_(set_offset|yarn_corr_dims)", LIB, "settings of a node"),
]


def functions(header: str) -> list[Function]:
    return [f for f in complete.load().functions if f.header == header]


def mapped() -> set[str]:
    """The C names behind `Maps to` in docstrings."""
    found: set[str] = set()
    for path in Path(llama_cffi.__file__).parent.rglob("*.py"):
        for line in re.findall(r"Maps to [^\n]*", path.read_text(encoding="utf-8")):
            found |= set(re.findall(r"`(\w+)`", line))
    return found


def is_reachable(function: Function) -> bool:
    owner, name = naming.function_name(function)
    holder: object = llama_cffi
    for part in filter(None, owner.split(".")):
        holder = getattr(holder, part, None)
    return hasattr(holder, name)


def rest() -> dict[str, tuple[str, str, str] | None]:
    """The functions that the facade does not have under a name, each with its row."""
    names = mapped()
    return {
        f.name: next((row for row in ROWS if re.fullmatch(row[0], f.name)), None)
        for header in HEADERS
        for f in functions(header)
        if f.name not in names and not is_reachable(f)
    }


def table() -> str:
    """The counts of each header, as Markdown."""
    left = rest()
    lines = [["header", "functions", "in the facade", OTHER, LIB], ["---", *["---:"] * 4]]
    total: Counter[str] = Counter()
    for header in HEADERS:
        names = [f.name for f in functions(header)]
        counts = Counter(row[1] for name in names if (row := left.get(name)) is not None)
        counts |= {"all": len(names), "have": sum(name not in left for name in names)}
        total += counts
        lines.append([header, *(str(counts[key]) for key in ("all", "have", OTHER, LIB))])
    lines.append(["all", *(str(total[key]) for key in ("all", "have", OTHER, LIB))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    print(table())
    left = rest()
    for pattern, form, reason in ROWS:
        names = [name for name, row in left.items() if row is not None and row[0] == pattern]
        print(f"{form}: {reason}\n  {' '.join(names)}")


if __name__ == "__main__":
    main()
