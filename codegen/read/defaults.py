"""Reads the default values of llama.cpp's parameters, with a small C program that calls built libraries.

The program calls every function without parameters that has "default" in its name and returns a struct. It prints each
number, boolean and enumeration of the struct.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from codegen.api.model import Api, CodegenError, Enum, Field, Function, Record, flat_fields

# `struct.field` -> its default. The default of an enumeration is the name of the enumerator with that value, if any.
Defaults = Mapping[str, "int | float | bool | str"]

_INTEGERS = {f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"int", "unsigned int", "size_t"}

_PROLOGUE = r"""
#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#define put_int(x) ((x) < 0 ? printf("%lld", (long long)(x)) : printf("%llu", (unsigned long long)(x)))
#define put_bool(x) printf((x) ? "true" : "false")
#define put_float(x) (isfinite(x) ? printf("%.9g", (double)(x)) : printf("\"%g\"", (double)(x)))
int main(int argc, char ** argv) {
    int i;
    void * library = NULL;
    for (i = 1; i < argc; i++) {
        library = dlopen(argv[i], RTLD_LAZY | RTLD_GLOBAL);
        if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    }
    puts("{");
"""


def functions(api: Api) -> list[tuple[Function, Record]]:
    """Return the functions that return defaults, each with its struct."""
    records = {record.spelling: record for record in api.records if record.fields is not None}
    return [
        (function, records[function.returns])
        for function in api.functions
        if "default" in function.name and not function.params and function.returns in records
    ]


def program(api: Api) -> str:
    """Return the C program. It takes paths of libraries, the last of which exports the functions, and prints JSON."""
    parts = [*(f'#include "{name}"\n' for name in api.headers), _PROLOGUE]
    for function, record in functions(api):
        lines = [f"typeof(&{function.name}) ask = (typeof(&{function.name}))dlsym(RTLD_DEFAULT, "]
        lines[0] += f'"{function.name}");\n        if (ask) {{\n            {record.spelling} it = ask();\n'
        for field in flat_fields(record):
            kind = _kind(field, api)
            if kind:
                lines.append(f'            printf("\\"{_tag(record)}.{field.name}\\": ");\n')
                lines.append(f'            put_{kind}(it.{field.name});\n            puts(",");\n')
        parts.append("    {\n        " + "".join(lines) + "        }\n    }\n")
    return "".join([*parts, '    puts("\\"\\": 0}");\n    return 0;\n}\n'])


def _tag(record: Record) -> str:
    return record.tag or record.alias


def _kind(field: Field, api: Api) -> str | None:
    if field.bits is not None or field.inner is not None:
        return None
    if field.type == "bool":
        return "bool"
    if field.type in ("float", "double"):
        return "float"
    return "int" if field.type in _INTEGERS or field.type in {enum.spelling for enum in api.enums} else None


def ask(api: Api, include: Sequence[Path], lib: Path) -> Defaults:
    """Return the defaults of the libraries in the folder `lib`. Raises CodegenError if they cannot be called."""
    libraries = [_library(lib, name) for name in ("ggml-base", "ggml", "llama")]
    with tempfile.TemporaryDirectory() as scratch:
        source, binary = Path(scratch) / "defaults.c", Path(scratch) / "defaults"
        source.write_text(program(api), encoding="utf-8")
        command = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-w", "-D_GNU_SOURCE"]
        command += [*(f"-I{folder}" for folder in include), str(source), "-o", str(binary), "-ldl"]
        _run(command, "the program that reads defaults does not compile")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(lib)}
        output = _run(
            [str(binary), *map(str, libraries)], f"the libraries in {lib} cannot be loaded or called", environment
        )
    raw = json.loads(output)
    del raw[""]
    return _named(raw, api)


def _library(lib: Path, name: str) -> Path:
    found = sorted([*lib.glob(f"lib{name}.so*"), *lib.glob(f"lib{name}-cffi.so")])
    if not found:
        raise CodegenError(f"{lib} has no lib{name}.so: pass the folder with the shared libraries of a llama.cpp build")
    return found[0]


def _run(command: Sequence[str], trouble: str, environment: Mapping[str, str] | None = None) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise CodegenError(f"{command[0]} is not on PATH: install a C compiler, or name one with CC") from None
    if result.returncode != 0:
        raise CodegenError(f"{trouble}:\n{result.stderr.strip()}")
    return result.stdout


def _named(raw: Defaults, api: Api) -> Defaults:
    """Replace the numbers of enumerations with names, which stay the same if upstream renumbers them."""
    enums: dict[str, Enum] = {enum.spelling: enum for enum in api.enums}
    types = {f"{_tag(r)}.{field.name}": field.type for _, r in functions(api) for field in flat_fields(r)}
    out = dict(raw)
    for key, value in raw.items():
        enum = enums.get(types[key])
        if enum is not None:
            out[key] = next((member.name for member in enum.members if member.value == value), value)
    return out


def built(source: Path | None, build: bool = False) -> Path | None:
    """Return the folder with this package's libraries of a source tree, or of the pinned one if `source` is None.

    None if the cache does not have them. `build` builds them, which takes minutes.
    """
    from vendor.build import native  # local: the rest of this module does not need `vendor`
    from vendor.tools import BuildError

    with _environment(LLAMA_CPP_SOURCE=None if source is None else str(source), LLAMA_CFFI_PREFIX=None):
        try:
            plan = native.plan()
            if build:
                plan.make()
        except BuildError as error:
            raise CodegenError(str(error)) from None
        lib = getattr(plan, "lib", None)
    return lib if isinstance(lib, Path) and lib.is_dir() else None


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
