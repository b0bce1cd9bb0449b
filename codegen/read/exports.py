"""Finds the library that exports each function. The extension must not link a function that no library exports."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from codegen.api.model import Api, CodegenError

# Headers whose functions belong to a backend module that is loaded at run time.
MODULE_OF_HEADER = {"ggml-cpu.h": "cpu", "ggml-rpc.h": "rpc", "ggml-vulkan.h": "vulkan"}
MODULE_OF_HEADER |= {"mtmd.h": "mtmd", "mtmd-helper.h": "mtmd"}  # a library of its own, loaded like a module

# Modules that a build may leave out. Without the library, all functions of the header count as exported.
OPTIONAL_MODULES = ("rpc", "vulkan", "mtmd")


def assign_homes(api: Api, libraries: Mapping[str, Path]) -> Api:
    """Return the API with the home of every function.

    `libraries` maps `llama`, `ggml`, `ggml-base`, `cpu` and perhaps `rpc` and `mtmd` to a file.
    """
    exported = {name: _symbols(path) for name, path in libraries.items()}
    linked = [name for name in exported if name not in MODULE_OF_HEADER.values()]
    for header, module in MODULE_OF_HEADER.items():
        if header in api.headers and module not in (*exported, *OPTIONAL_MODULES):
            raise CodegenError(
                f"expected a library of the {module} module, whose functions {header} declares, got none"
            )

    def home(function_name: str, header: str) -> str | None:
        module = MODULE_OF_HEADER.get(header)
        if module in OPTIONAL_MODULES and module not in exported:
            return module
        candidates = [module, *linked] if module else linked
        return next((lib for lib in candidates if function_name in exported[lib]), None)

    return replace(api, functions=tuple(replace(f, home=home(f.name, f.header)) for f in api.functions))


def _symbols(library: Path) -> frozenset[str]:
    try:
        output = subprocess.run(
            ["nm", "-D", "--defined-only", "--format=posix", str(library)], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        raise CodegenError("nm is not on PATH: install binutils (Debian: apt install binutils)") from None
    except subprocess.CalledProcessError as error:
        raise CodegenError(f"nm cannot read {library}: {error.stderr.strip()}") from None
    return frozenset(line.split()[0].partition("@")[0] for line in output.splitlines() if line.strip())  # name@VERSION
