"""What importing the package does: nothing that shows."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("statement", ["import llama_cffi", "from llama_cffi import lib", "from llama_cffi import *"])
def test_import_prints_nothing(statement: str) -> None:
    result = _run(statement)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_import_loads_no_backend_and_leaves_the_environment_alone() -> None:
    result = _run(
        "import os; before = dict(os.environ)\n"
        "import llama_cffi; llama_cffi.lib\n"
        "assert dict(os.environ) == before\n"
        "print(llama_cffi.lib.ggml_backend_reg_count(), 'numpy' in __import__('sys').modules)"
    )
    assert result.stdout.split() == ["0", "False"], result.stderr


def test_module_functions_say_what_to_load() -> None:
    result = _run(
        "from llama_cffi import Ggml, UnavailableError, lib\n"
        "try:\n    lib.ggml_cpu_has_avx()\n"
        "except UnavailableError as error:\n    assert 'cpuLoad()' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
        "Ggml.Backend.cpuLoad()\n"
        "print(lib.ggml_cpu_has_sse3() in (0, 1), lib.ggml_backend_reg_count())\n"
        "Ggml.Backend.cpuLoad()\n"
        "print(lib.ggml_backend_reg_count())\n"
        "try:\n    lib.ggml_backend_vk_get_device_count()\n"
        "except UnavailableError as error:\n    assert 'vkLoad()' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    assert result.stdout.split() == ["True", "1", "1"], result.stderr


def test_lazy_names_agree_with_what_type_checkers_see() -> None:
    import ast
    from pathlib import Path

    import llama_cffi

    tree = ast.parse(Path(llama_cffi.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):  # Ggml = ggml: a checker takes no import under another name for public
            ((target,), value) = node.targets, node.value
            assert isinstance(target, ast.Name) and isinstance(value, ast.Name)
            seen[target.id] = seen.pop(value.id)
        if not isinstance(node, ast.ImportFrom):
            continue
        assert node.module
        for alias in node.names:
            home = node.module.removeprefix("llama_cffi").lstrip(".") or alias.name
            seen[alias.asname or alias.name] = home
    assert seen == llama_cffi._HOMES
    assert sorted(seen) == llama_cffi.__all__
    assert set(llama_cffi.__all__) <= set(dir(llama_cffi))


@pytest.mark.parametrize("name", ["Ggml", "Mtmd"])
def test_lazy_names_of_a_namespace_agree_with_what_type_checkers_see(name: str) -> None:
    import ast
    from pathlib import Path

    import llama_cffi

    space = getattr(llama_cffi, name)
    tree = ast.parse(Path(space.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            home = str(node.module).removeprefix("llama_cffi.")
            seen |= {alias.asname or alias.name: (home, alias.name) for alias in node.names}
    if name == "Ggml":
        seen["ThreadPool"], seen["Graph"] = seen["Threadpool"], seen["CGraph"]
        assert space.ThreadPool is space.Threadpool
    assert seen == space._HOMES
    assert sorted(seen) == space.__all__ and set(space.__all__) <= set(dir(space))
    assert all(getattr(space, name).__name__.endswith(there) for name, (_, there) in space._HOMES.items())


def test_an_unknown_name_is_an_attribute_error() -> None:
    result = _run("import llama_cffi\nllama_cffi.Modle")
    assert "has no attribute 'Modle'" in result.stderr and result.returncode == 1
