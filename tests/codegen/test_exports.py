"""Which library exports a function, as the libraries themselves say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from codegen.api.model import Api, CodegenError, Function
from codegen.read import exports
from codegen.rules import policy

Make = Callable[..., Path]

FUNCTIONS = (
    Function("in_llama", "llama.h", "int"),
    Function("in_cpu", "ggml-cpu.h", "int"),
    Function("moved_to_base", "ggml-cpu.h", "int"),
    Function("in_cpu_by_mistake", "ggml.h", "int"),
    Function("hidden", "llama.h", "int"),
    Function("in_vulkan", "ggml-vulkan.h", "int"),
)


@pytest.fixture
def make(tmp_path: Path, run: Callable[[Sequence[str]], str]) -> Make:
    """Builds lib<name>.so from C text."""

    def build(name: str, text: str, *options: str) -> Path:
        source, library = tmp_path / f"{name}.c", tmp_path / f"lib{name}.so"
        source.write_text(text, encoding="utf-8")
        run(["cc", "-shared", "-fPIC", *options, str(source), "-o", str(library)])
        return library

    return build


def test_homes(make: Make) -> None:
    libraries = {
        "llama": make("llama", "int in_llama(void) { return 1; } static int hidden(void) { return hidden(); }", "-w"),
        "ggml-base": make("ggml-base", "int moved_to_base(void) { return 1; }"),
        "cpu": make("cpu", "int in_cpu(void) { return 1; } int in_cpu_by_mistake(void) { return 1; }"),
    }
    api = exports.assign_homes(Api("test", ("llama.h", "ggml-cpu.h", "ggml-vulkan.h"), FUNCTIONS), libraries)
    assert {f.name: f.home for f in api.functions} == {
        "in_llama": "llama",
        "in_cpu": "cpu",
        "moved_to_base": "ggml-base",
        "in_cpu_by_mistake": None,  # its header does not say that a module must be loaded for it
        "hidden": None,
        "in_vulkan": "vulkan",  # taken at its word: builds without Vulkan have no library to ask
    }
    modules = {f.name: policy.module_of(f) for f in api.functions}
    assert {name for name, module in modules.items() if module} == {"in_cpu", "in_vulkan"}


def test_versioned_symbols(make: Make, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("V_1 { global: in_llama; };", encoding="utf-8")
    script = f"-Wl,--version-script={tmp_path / 'map'}"
    library = make("llama", "int in_llama(void) { return 1; }", script)
    api = exports.assign_homes(Api("test", ("llama.h",), FUNCTIONS[:1]), {"llama": library})
    assert api.functions[0].home == "llama"


def test_module_without_a_library() -> None:
    with pytest.raises(CodegenError, match=r"library of the cpu module, .*ggml-cpu\.h"):
        exports.assign_homes(Api("test", ("ggml-cpu.h",)), {})


def test_file_that_is_not_a_library(tmp_path: Path) -> None:
    (tmp_path / "libtext.so").write_text("no library", encoding="utf-8")
    with pytest.raises(CodegenError, match=r"nm cannot read .*libtext\.so"):
        exports.assign_homes(Api("test", ()), {"llama": tmp_path / "libtext.so"})


def test_missing_nm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CodegenError, match="nm is not on PATH: install binutils"):
        exports.assign_homes(Api("test", ()), {"llama": tmp_path / "libllama.so"})
