"""Imports go one way: private helpers, then the facade's modules, each only from those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Lower may not import higher. Modules of one layer may not import each other.
LAYERS = (
    {
        "_native",
        "_generated.pin",
        "_generated.names",
        "_generated.enums",
        "_generated.layout",
        "_generated.absent",
        "errors",
    },
    {"_manifest"},
    {"_abi"},
    {
        "_ffi",
        "_remote",
        "_warnings",
        "_stack",
        "_files",
        "_machine",
        "_uncopyable",
        "_numbers",
        "_process",
        "_python_log",
        "_child",
        "_doctor_report",
        "_stop_strings",
        "_jinja",
        "tool_calls",
    },
    {"_older"},
    {
        "_struct",
        "_buffers",
        "_callbacks",
        "_handle",
        "_views",
        "_gguf",
        "_gate",
        "tokens",
        "_rpc_probe",
        "ggml._registry",
    },
    {"_older_fields"},
    {"ggml.device", "ggml._variants", "_vulkan_drivers", "_special_tokens", "_refusals", "_state_data"},
    {"_vulkan"},
    {"_doctor_sections"},
    {"doctor", "__main__"},
    {"_generated.structs", "vocab", "ggml.backend", "batch", "memory", "log", "token_data"},
    {"_model_params", "_model_info", "ggml.rpc", "ggml.threadpool", "text", "token_data_array", "_sampler_checks"},
    {"_text_stream"},
    {"_candidates"},
    {"_custom_sampler"},
    {"_sampler_base"},
    {"_sampler_picking", "_sampler_weighing", "_sampler_reading", "_sampler_chain"},
    {"sampler", "_constraint_tokens", "_constraint_mask", "_constraint_types"},
    {"constraint"},
    {"quantize", "ggml", "system", "_model_scan", "_model_source", "_offload", "_trial"},
    {"model"},
    {"adapter", "_context_base", "_context_memory", "sampler_config"},
    {"_context_outputs", "_context_state", "_context_tuning"},
    {"batch_ext", "_context_params"},
    {"context"},
    {"chat", "_token_cache", "_generation_steps", "_generation_async", "_embedding_batches"},
    {"_generation_run", "chat_template", "embedding"},
    {"generation", "_engine_cells", "_engine_batch", "_engine_request", "_engine_pace"},
    {"chat_session", "_engine_job", "_engine_queue"},
    {"_engine_loop"},
    {"engine"},
    {"__init__"},
    {"_cli_output"},
    {"_cli_options"},
    {"_cli_estimate"},
    {"rpc_worker", "cli_bench", "cli_chat", "cli_complete", "cli_embed", "cli_info"},
    {"_trial_child", "_vulkan_child", "_doctor_child"},  # programs, which use the package like any other, or not at all
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def _modules() -> list[Path]:
    return [
        p
        for p in sorted((ROOT / "llama_cffi").rglob("*.py"))
        if p.name != "__init__.py" or p.parent.name != "_generated"
    ]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT / "llama_cffi").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imports(tree: ast.Module) -> list[str]:
    """What a module imports from its own package when it runs; what stands under TYPE_CHECKING does not count."""
    found: list[str] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llama_cffi"):
            module = (node.module or "").removeprefix("llama_cffi").lstrip(".")
            found += [module] if module else [alias.name for alias in node.names]
        pending += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_go_down(path: Path) -> None:
    name = _name(path)
    assert name in RANK, f"give {name} a place in LAYERS"
    for imported in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert imported in RANK, f"{name} imports {imported}, which has no place in LAYERS"
        assert RANK[imported] < RANK[name], f"{name} imports {imported}, which is not below it"


def test_only_ffi_imports_the_extension() -> None:
    importers = [_name(p) for p in _modules() if "_native" in _imports(ast.parse(p.read_text(encoding="utf-8")))]
    assert importers == ["_ffi"]


def test_the_generator_and_the_package_do_not_know_each_other() -> None:
    for folder, stranger in (("codegen", "llama_cffi"), ("vendor", "llama_cffi"), ("llama_cffi", "codegen")):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [n for n in names if n.split(".")[0] == stranger], path


def test_pycparser_appears_in_one_module() -> None:
    users = [p.name for p in (ROOT / "codegen").glob("*.py") if "from pycparser" in p.read_text(encoding="utf-8")]
    assert users == ["parse.py"]
