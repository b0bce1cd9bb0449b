"""The guard: one wrapper a function, every call sent through it, and every failure caught."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.api.model import CodegenError, Function, Param
from codegen.api.paths import ROOT
from codegen.emit import guard
from codegen.fit import complete
from codegen.read.exports import MODULE_OF_HEADER
from codegen.rules import policy

API = complete.load()
BOUND = policy.bound(API)
GUARDED = [f for f in BOUND if not f.variadic]
FOLDER = ROOT / "llama_cffi" / "_generated"
HEADER = (FOLDER / "guard.h").read_text(encoding="utf-8")
SOURCE = (FOLDER / "guard.cpp").read_text(encoding="utf-8")
WRAPPERS = dict(re.findall(r'^extern "C" [^\n]*?\bguard_(\w+)\([^\n]* \{\n(.*?)^\}\n', SOURCE, re.M | re.S))


def by_name(name: str) -> Function:
    return next(f for f in API.functions if f.name == name)


# Which functions


def test_every_function_of_llama_h_is_guarded() -> None:
    functions = {f.name for f in BOUND if f.header == "llama.h"}
    assert len(functions) > 240
    assert not [f for f in BOUND if f.header == "llama.h" and f.variadic]
    assert functions <= set(WRAPPERS)


def test_every_bound_function_that_c_can_forward_to_is_guarded() -> None:
    assert list(WRAPPERS) == [f.name for f in GUARDED]
    assert [f.name for f in BOUND if not policy.guarded(f)] == ["ggml_abort", "ggml_format_name"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (HEADER, r"^#define (\w+)\(\.\.\.\) guard_\1\(__VA_ARGS__\)$"),
        (HEADER, r"\bguard_(\w+)\([^\n]*\);$"),
        (SOURCE, r'^extern "C" [^\n]*\bguard_(\w+)\([^\n]* \{$'),
        (SOURCE, r'^    guard::Call guard_call\("(\w+)"\);$'),
    ],
    ids=["macro", "prototype", "wrapper", "call"],
)
def test_each_guarded_function_appears_once(text: str, pattern: str) -> None:
    assert re.findall(pattern, text, re.MULTILINE) == [f.name for f in GUARDED]


def test_functions_left_out_are_not_guarded() -> None:
    out = {f.name for f in API.functions if policy.left_out(f)}
    assert len(out) == 6
    assert not out & set(WRAPPERS)
    assert not [name for name in out if re.search(rf"\b(guard_)?{name}\b", HEADER + SOURCE)]


# What a wrapper does


def wrapper_is_whole(function: Function) -> bool:
    """Whether the body forwards every argument once, returns the result, and catches everything."""
    arguments = ", ".join(p.name or f"arg{i}" for i, p in enumerate(function.params))
    target = "guard_target" if function.header in MODULE_OF_HEADER else function.name
    call = f"{target}({arguments})"
    end = "" if policy.only_frees(function) else "        guard_call.check_workers();\n"
    fallback = ""
    if function.returns != "void":
        found = re.search(
            r"return (?:guard_call\.(?:checked|new_handle|new_handles<[^>]+>)|guard::part_of)\((.*)"
            rf"{re.escape(call)}(\)+);\n",
            WRAPPERS[function.name],
        )
        call, end, fallback = (found[0][:-2] if found else "no result"), "", "        return {};\n"
    lifetime = re.search(
        r"    if \(!guard_call\.(?:acquire|remove)\([^\n]*\) \{\n.*?    \}\n", WRAPPERS[function.name], re.S
    )
    checks = "".join(f"        {line};\n" for line in policy.preconditions(function))
    warned = f'    guard::note_deprecated("{function.name}");\n' if function.deprecated else ""
    pattern = (
        f'    guard::Call guard_call("{function.name}");\n{warned}{lifetime[0] if lifetime else ""}'
        f"    try {{\n{checks}        {call};\n{end}"
        "    } catch (...) {\n        guard_call.record_exception({@});\n" + fallback + "    }\n"
    )
    before, after = pattern.split("@")
    body = WRAPPERS[function.name]
    return bool(body.count(before) == 1 and body.endswith(after))


def test_every_wrapper_forwards_every_argument_and_catches_everything() -> None:
    assert len(GUARDED) > 900
    assert [f.name for f in GUARDED if not wrapper_is_whole(f)] == []


def test_functions_of_modules_are_looked_up_and_no_others() -> None:
    looked_up = re.findall(r'static guard::ModuleFunction guard_module\("(\w+)", "(\w+)"\);', SOURCE)
    expected = [(MODULE_OF_HEADER[f.header], f.name) for f in GUARDED if f.header in MODULE_OF_HEADER]
    assert looked_up == expected
    assert {module for module, _ in looked_up} == {"cpu", "rpc", "vulkan", "mtmd"}
    for _, name in looked_up:
        body = WRAPPERS[name]
        assert not re.search(rf"(?<![\"\w]){name}\(", body), f"{name} is called, and so linked, directly"
        assert body.index("if (guard_target == nullptr) {") < body.index("guard::Call")


def test_a_module_function_that_returns_a_function_pointer_has_a_type() -> None:
    function = Function("cpu_pick", "ggml-cpu.h", "int (*)(int)", (Param("char", "op"),), home="cpu")
    text = guard.emit_source(replace(API, functions=(function,)))
    assert 'extern "C" int (*guard_cpu_pick(char op))(int) {' in text
    assert "guard_module.find<int (*(*)(char))(int)>();" in text


# Which handles must be alive


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("llama_decode", "if (!guard_call.acquire({ctx})) {"),
        ("llama_n_ctx", "if (!guard_call.acquire({ctx})) {"),  # reading what was freed is no better than writing it
        ("llama_token_to_piece", "if (!guard_call.acquire({vocab})) {"),
        ("llama_memory_clear", "if (!guard_call.acquire({}, {mem})) {"),  # which ignores NULL
        ("llama_attach_threadpool", "if (!guard_call.acquire({ctx}, {threadpool, threadpool_batch})) {"),
        ("mtmd_tokenize", "if (!guard_call.acquire({ctx, output})) {"),
        ("mtmd_decode_use_non_causal", "if (!guard_call.acquire({ctx}, {chunk})) {"),
        ("ggml_opt_epoch", "if (!guard_call.acquire({opt_ctx, dataset}, {result_train, result_eval})) {"),
        ("ggml_backend_sched_reset", "if (!guard_call.acquire({sched})) {"),
        ("ggml_opt_init", "return guard_call.new_handle(ggml_opt_init(params));"),
        ("llama_sampler_sample", "if (!guard_call.acquire({ctx})) {"),  # samplers are not counted
        ("llama_init_from_model", "return guard_call.new_handle(llama_init_from_model(model, params));"),
        ("llama_model_load_from_file", "return guard_call.new_handle(llama_model_load_from_file(path_model, params));"),
        ("ggml_threadpool_new", "return guard_call.new_handle(guard_target(params));"),
        ("llama_model_get_vocab", "return guard::part_of(model, guard_call.checked(llama_model_get_vocab(model)));"),
        ("llama_get_memory", "return guard::part_of(ctx, guard_call.checked(llama_get_memory(ctx)));"),
        ("llama_get_model", "return guard_call.checked(llama_get_model(ctx));"),  # it is noted already
        ("llama_decode", "return guard_call.checked(llama_decode(ctx, batch));"),  # raises where a worker is lost
        ("llama_memory_clear", "guard_call.check_workers();"),
        ("llama_free", "        llama_free(ctx);\n    } catch"),  # and does not
        ("llama_free", "if (!guard_call.remove(ctx)) {"),
        ("llama_model_free", "if (!guard_call.remove(model)) {"),
        ("llama_free_model", "if (!guard_call.remove(model)) {"),
        ("llama_adapter_lora_free", "if (!guard_call.remove(adapter)) {"),
        ("llama_batch_ext_free", "if (!guard_call.remove(batch)) {"),
        ("ggml_threadpool_free", "if (!guard_call.remove(threadpool)) {"),
        ("ggml_backend_sched_free", "if (!guard_call.remove(sched)) {"),
    ],
)
def test_handles_are_acquired_registered_and_removed(name: str, line: str) -> None:
    assert WRAPPERS[name].count(line) == 1


def test_no_call_has_more_handles_than_there_is_room_for() -> None:
    most = re.search(r"MAX_HANDLES = (\d+);", (ROOT / "llama_cffi" / "_shim" / "guard.hpp").read_text(encoding="utf-8"))
    assert most is not None
    assert max(len(policy.handles(function)) for function in GUARDED) <= int(most[1])


def test_what_frees_does_not_check_for_lost_workers() -> None:
    silent = {
        name
        for name, body in WRAPPERS.items()
        if not re.search(r"guard_call\.(check_workers|checked|new_handle|new_handles<.+>)\(", body)
    }
    assert {"llama_free", "llama_model_free", "ggml_backend_buffer_free"} <= silent
    assert all("free" in name for name in silent)


def test_only_what_frees_a_handle_removes_one() -> None:
    removing = {name for name, body in WRAPPERS.items() if "guard_call.remove(" in body}
    assert removing == {
        "ggml_backend_sched_free",
        "ggml_opt_dataset_free",
        "ggml_opt_free",
        "ggml_opt_result_free",
        "ggml_threadpool_free",
        "llama_adapter_lora_free",
        "llama_batch_ext_free",
        "llama_free",
        "llama_free_model",
        "llama_model_free",
        "mtmd_batch_free",
        "mtmd_bitmap_free",
        "mtmd_free",
        "mtmd_helper_gen_audio_free",
        "mtmd_helper_video_free",
        "mtmd_input_chunk_free",
        "mtmd_input_chunks_free",
    }


# Which handles a failure leaves in doubt


@pytest.mark.parametrize(
    ("name", "suspects"),
    [
        ("llama_decode", ["ctx"]),
        ("llama_sampler_sample", ["smpl", "ctx"]),
        ("llama_sampler_chain_add", ["chain", "smpl"]),
        ("llama_memory_seq_rm", ["mem"]),
        ("llama_batch_ext_clear", ["batch"]),
        ("llama_n_ctx", []),  # const: it cannot write
        ("llama_vocab_bos", []),
        ("llama_model_load_from_file", []),
        ("ggml_add", []),  # what it may half-change is no handle of the facade
        *((name, []) for name in policy.UNTOUCHED),
    ],
)
def test_suspects(name: str, suspects: list[str]) -> None:
    function = by_name(name)
    assert [function.params[i].name for i in policy.suspects(function)] == suspects
    assert f"guard_call.record_exception({{{', '.join(suspects)}}});" in WRAPPERS[name]


def test_no_call_has_more_suspects_than_the_guard_remembers(shim: Path) -> None:
    room = re.search(r"suspects\[(\d+)\]", (shim / "guard.hpp").read_text(encoding="utf-8"))
    assert room is not None
    assert max(len(policy.suspects(f)) for f in BOUND) <= int(room[1])


def test_every_untouched_row_is_needed() -> None:
    for name in policy.UNTOUCHED:
        renamed = replace(by_name(name), name=f"{name}_renamed")
        assert policy.suspects(renamed), f"{name} has no suspects: delete the row"


def test_a_row_for_an_unknown_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policy.UNTOUCHED, "llama_gone", "reads")
    with pytest.raises(CodegenError, match=r"policy\.py: UNTOUCHED names llama_gone\b"):
        policy.check(API)


def test_a_row_for_an_unknown_handle_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "HANDLES", (*policy.HANDLES, "llama_gone"))
    with pytest.raises(CodegenError, match=r"policy\.py: HANDLES names llama_gone\b"):
        policy.check(API)


# The compiler's word


def test_guard_compiles(run: Callable[[Sequence[str]], str], real_folders: list[Path], shim: Path) -> None:
    include = [f"-I{folder}" for folder in (*real_folders, FOLDER, shim)]
    run(["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *include, str(FOLDER / "guard.cpp")])


def test_a_call_by_the_c_name_is_a_call_of_the_wrapper(
    run: Callable[[Sequence[str]], str], real_folders: list[Path], tmp_path: Path
) -> None:
    """Names that are an enum too stay usable as one; a call goes to the wrapper."""
    source = tmp_path / "caller.c"
    source.write_text(
        '#include "llama.h"\n#include "guard.h"\n'
        "enum llama_pooling_type ask(struct llama_context * ctx) { return llama_pooling_type(ctx); }\n"
        "int count(void) { return ggml_cpu_has_avx(); }\n",
        encoding="utf-8",
    )
    made = source.with_suffix(".o")
    include = [f"-I{folder}" for folder in (*real_folders, FOLDER)]
    run(["cc", "-std=gnu11", "-Wall", "-Werror", "-c", *include, str(source), "-o", str(made)])
    wanted = set(re.findall(r" U (\w+)", run(["nm", str(made)])))
    assert wanted == {"guard_llama_pooling_type", "guard_ggml_cpu_has_avx"}
