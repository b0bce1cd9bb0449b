"""A small build has what one machine needs. It is completed later, not repeated, and never taken for a build of all.

The builds here are real ones of a tiny tree that has llama.cpp's targets, with compilers that write down what they
compile.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import conftest
from vendor.build import extras, native, recipe, variants, wheel
from vendor.source import fetch
from vendor.tools import BuildError, compilers

ROOT = Path(__file__).resolve().parents[2]

VARIABLES = ("LLAMA_CFFI_BUILD", variants.VARIABLE, "CMAKE_ARGS", "GGML_USE_VULKAN", "LLAMA_CFFI_SANITIZE")

_TOP = """
cmake_minimum_required(VERSION 3.18)
project(tiny C CXX)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
add_subdirectory(ggml/src)
add_library(llama SHARED src/llama.cpp)
target_link_libraries(llama PUBLIC ggml)
"""

# The features of the last two variants exist on no processor.
_GGML = """
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
add_library(ggml-base SHARED base.c)
add_library(ggml SHARED reg.cpp)
target_link_libraries(ggml PUBLIC ggml-base)
function(module name file)
    add_library(${name} MODULE ${file})
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
    target_compile_definitions(${name} PRIVATE GGML_BACKEND_BUILD)
    add_dependencies(ggml ${name})
endfunction()
function(ggml_add_cpu_backend_variant tag)
    module(ggml-cpu-${tag} cpu.cpp)
endfunction()
if (GGML_CPU)
    if (GGML_SYSTEM_ARCH STREQUAL "@ARCH@")
        message(FATAL_ERROR "never")
    else()
        ggml_add_cpu_backend_variant(plain)
        ggml_add_cpu_backend_variant(strange NONE1)
        ggml_add_cpu_backend_variant(stranger NONE1 NONE2)
    endif()
endif()
if (GGML_RPC)
    module(ggml-rpc rpc.c)
    target_link_libraries(ggml-rpc PRIVATE ggml-base)
endif()
"""

_COMPILER = """#!/bin/sh
out=; previous=
for word in "$@"; do
    if [ "$previous" = -o ]; then out=$word; fi
    previous=$word
done
case "$PWD/$out" in
    *CMakeFiles/CMakeTmp*|*CMakeFiles/CMakeScratch*|*CMakeFiles/cmTC_*) ;;
    *.dir/*.o) echo "$out" >> LOG ;;
esac
exec REAL "$@"
"""


class Builder:
    """Runs builds of the tiny tree, each in a process of its own, in one cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.log = folder / "compiled.txt"
        self.tree = folder / "llama.cpp"
        texts = {"CMakeLists.txt": _TOP, "ggml/src/CMakeLists.txt": _GGML.replace("@ARCH@", _architecture())}
        texts |= {"include/llama.h": "", "ggml/include/ggml.h": "", "LICENSE": ""}
        texts |= {"src/llama.cpp": "int llama() { return 1; }", "ggml/src/base.c": "int base(void) { return 1; }"}
        texts |= {"ggml/src/reg.cpp": "int reg() { return 1; }", "ggml/src/cpu.cpp": "int cpu() { return 1; }"}
        texts |= {"ggml/src/rpc.c": "int base(void); int rpc(void) { return base(); }"}
        for name, text in texts.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text, encoding="utf-8")
        self.tools = {}
        for name, words in zip(("CC", "CXX"), compilers(), strict=True):
            path = folder / name.lower()
            path.write_text(_COMPILER.replace("LOG", str(self.log)).replace("REAL", " ".join(words)))
            path.chmod(0o755)
            self.tools[name] = str(path)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        return {**kept, **self.tools, "LLAMA_CPP_SOURCE": str(self.tree), "LLAMA_CFFI_CACHE": str(self.cache), **more}

    def build(self, root: Path = ROOT, **more: str) -> tuple[Path, list[str]]:
        """Returns the folder of the libraries, and the object files that this build has compiled."""
        self.log.write_text("")
        command = [sys.executable, "-m", "vendor.build.native"]
        env = self.environment(**more)
        result = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return Path(result.stdout.strip()), sorted(self.log.read_text().split())

    def manifest(self, **more: str) -> dict[str, object]:
        """The package's manifest of such a build."""
        code = "from vendor.build import native; print(native.plan().manifest())"
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=ROOT, env=self.environment(**more), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found: dict[str, object] = json.loads(result.stdout)
        return found


def _architecture() -> str:
    return variants._ARCHITECTURES[os.uname().machine]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def builds(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    """A small build in an empty cache, then one of everything in another clone, then builds of which nothing is new."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "vendor", clone / "vendor", ignore=shutil.ignore_patterns("__pycache__", "llama.cpp"))
    found = {"small": builder.build(LLAMA_CFFI_BUILD="small")}
    found["manifest"] = Path(), [json.dumps(builder.manifest(LLAMA_CFFI_BUILD="small"))]
    found["all"] = builder.build(clone)
    found["small again"] = builder.build(LLAMA_CFFI_BUILD="small")
    found["named"] = builder.build(LLAMA_CFFI_CPU_VARIANTS="strange")
    found["all again"] = builder.build()
    return found


def _names(lib: Path) -> set[str]:
    return {path.name.removesuffix(f"{recipe.SUFFIX}.so").removeprefix("lib") for path in lib.iterdir()}


def _targets(objects: list[str]) -> set[str]:
    return {found[1] for name in objects if (found := re.search(r"([\w-]+)\.dir/", name))}


def test_a_small_build_has_the_variants_of_this_machine(builds: dict[str, tuple[Path, list[str]]]) -> None:
    lib, objects = builds["small"]
    assert _names(lib) == {"llama", "ggml", "ggml-base", "ggml-cpu-plain"}
    assert _targets(objects) == {"llama", "ggml", "ggml-base", "ggml-cpu-plain"} and len(objects) == 4
    manifest = json.loads(builds["manifest"][1][0])
    assert manifest["left_out"] == ["cpu-strange", "cpu-stranger", "rpc"]
    assert manifest["modules"] == {"cpu": [f"libggml-cpu-plain{recipe.SUFFIX}.so"]}


def test_it_is_completed_and_not_repeated(builds: dict[str, tuple[Path, list[str]]]) -> None:
    """By another clone, whose files are elsewhere."""
    (small, first), (whole, second) = builds["small"], builds["all"]
    assert _names(whole) == _names(small) | {"ggml-cpu-strange", "ggml-cpu-stranger"}
    assert not set(first) & set(second)
    assert _targets(second) == {"ggml-cpu-strange", "ggml-cpu-stranger", "ggml-rpc"} and len(second) == 3
    for name in ("llama", "ggml", "ggml-base", "ggml-cpu-plain"):
        file = f"lib{name}{recipe.SUFFIX}.so"
        assert (small / file).read_bytes() == (whole / file).read_bytes()


def test_the_cache_tells_them_apart(builder: Builder, builds: dict[str, tuple[Path, list[str]]]) -> None:
    (small, _), (whole, _) = builds["small"], builds["all"]
    assert small != whole and small.parent.name == f"{whole.parent.name}-plain"
    assert not list((builder.cache / "native").glob(".build-*/"))  # nothing is left to complete


def test_what_is_there_is_used(builder: Builder, builds: dict[str, tuple[Path, list[str]]]) -> None:
    assert builds["small again"] == (builds["all"][0], []) and builds["all again"] == (builds["all"][0], [])
    lib, objects = builds["named"]
    assert objects == [] and _names(lib) == {"llama", "ggml", "ggml-base", "ggml-cpu-strange"}
    assert builder.manifest(LLAMA_CFFI_BUILD="small")["left_out"] == []
    named = builder.manifest(LLAMA_CFFI_CPU_VARIANTS="strange")
    assert named["left_out"] == ["cpu-plain", "cpu-stranger"]


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    """Also if a source with the same contents is at another path now, which CMake would refuse."""
    builder = Builder(tmp_path)
    (builder.tree / "src" / "llama.cpp").write_text("#error not yet")
    builder.log.write_text("")
    command = [sys.executable, "-m", "vendor.build.native"]
    env = builder.environment(LLAMA_CFFI_BUILD="small")
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and "not yet" in result.stderr
    moved = builder.tree.with_name("moved")
    builder.tree.rename(moved)
    builder.tree = moved
    result = subprocess.run(command, cwd=ROOT, env=builder.environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and "not yet" in result.stderr and "CMakeCache" not in result.stderr


def test_an_unknown_kind_of_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CFFI_BUILD", "tiny")
    with pytest.raises(BuildError, match="LLAMA_CFFI_BUILD.*small.*'tiny'"):
        native.plan()


# Which variants


def _flags(*features: str, machine: str = "x86") -> frozenset[str]:
    return frozenset(flag for feature in features for flag in variants._FLAGS[machine][feature])


_HASWELL = ("SSE42", "AVX", "F16C", "FMA", "AVX2", "BMI2")
_ZEN4 = (*_HASWELL, "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ((), ("x64",)),
        (("SSE42",), ("x64", "sse42")),
        (_HASWELL, ("x64", "haswell")),
        ((*_HASWELL, "AVX_VNNI"), ("x64", "alderlake")),
        ((*_HASWELL, "AVX512"), ("x64", "skylakex")),
        ((*_HASWELL, "AVX512", "AVX_VNNI"), ("x64", "skylakex")),  # as many features; ggml's score is higher
        (_ZEN4, ("x64", "zen4")),
        ((*_ZEN4, "AMX_TILE", "AMX_INT8"), ("x64", "zen4", "sapphirerapids")),  # AMX may fail when it is tried
    ],
)
def test_the_variants_for_a_processor(features: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert variants.for_this_machine(fetch.source_dir(), _flags(*features), "x86_64") == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ((), ("armv8.0_1",)),
        (("DOTPROD",), ("armv8.0_1", "armv8.2_1")),
        (("DOTPROD", "FP16_VECTOR_ARITHMETIC", "SVE", "MATMUL_INT8"), ("armv8.0_1", "armv8.6_1")),
        (("DOTPROD", "FP16_VECTOR_ARITHMETIC", "MATMUL_INT8"), ("armv8.0_1", "armv8.2_2")),
    ],
)
def test_the_variants_for_an_arm_processor(features: tuple[str, ...], expected: tuple[str, ...]) -> None:
    flags = _flags(*features, machine="ARM")
    assert variants.for_this_machine(fetch.source_dir(), flags, "aarch64") == expected


def test_the_variant_for_this_machine_is_the_one_that_the_package_loads() -> None:
    from llama_cffi import Ggml

    chosen = Ggml.Backend.cpuVariant()
    assert chosen is not None
    if os.uname().machine in ("x86_64", "aarch64"):
        assert chosen.name in variants.for_this_machine(fetch.source_dir())


def test_machines_whose_features_are_unknown_build_all() -> None:
    assert variants.for_this_machine(fetch.source_dir(), frozenset(), "riscv64") == ()


# Who refuses a small build


def test_a_wheel_of_a_small_build_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llama_cffi-1.0-cp310-abi3-manylinux_2_35_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llama_cffi/lib/manifest.json", json.dumps({"left_out": ["cpu-zen4", "rpc"]}))
    with pytest.raises(BuildError, match="cpu-zen4, rpc.*LLAMA_CFFI_BUILD"):
        wheel.check(path)


def test_a_whole_test_run_with_a_small_build_fails() -> None:
    assert conftest.left_out() == []
    assert conftest.left_out({"left_out": ["cpu-zen4", "rpc"]}) == ["cpu-zen4", "rpc"]


def _commands(*words: str, **more: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in (*VARIABLES, "MAKEFLAGS", "BACKEND")}
    command = ["make", "--dry-run", "--always-make", *words]
    return subprocess.run(command, cwd=ROOT, env={**kept, **more}, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("light", ["run", "chat", "serve", "extras"])
def test_what_follows_a_small_build_keeps_it(light: str, tmp_path: Path) -> None:
    here = f"VENV={tmp_path}"
    text = _commands(light, here)
    assert "LLAMA_CFFI_BUILD=small " in text and "LLAMA_CFFI_BUILD= " not in text
    assert text.count("--editable") == 1, "the package is installed once, and not again for an extra"
    assert "LLAMA_CFFI_BUILD=small " not in _commands(light, here, "BACKEND=cpu")
    (tmp_path / ".backend").write_text("cpu\n")
    assert "LLAMA_CFFI_BUILD=small " not in _commands(light, here)


def test_the_packages_of_an_extra() -> None:
    found = extras.by_extra(
        [
            "numpy>=1.24",
            'starlette>=0.40; extra == "server"',
            "uvloop>=0.19; implementation_name == 'cpython' and extra == 'server'",
            "jinja2 ; extra == 'chat'",
        ]
    )
    assert found == {
        "server": ["starlette>=0.40", "uvloop>=0.19; implementation_name == 'cpython'"],
        "chat": ["jinja2"],
    }


def test_an_extra_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert extras.main(["sever"]) == 2
    assert "'sever'" in (words := capsys.readouterr().err) and "server" in words and "constrain" in words
    assert extras.main([]) == 2


@pytest.mark.parametrize("goal", ["build", "wheel", "test", "docs"])
def test_only_make_run_makes_a_small_build(goal: str, tmp_path: Path) -> None:
    here = f"VENV={tmp_path}"
    assert "LLAMA_CFFI_BUILD=small " in _commands("run", here)
    assert "LLAMA_CFFI_BUILD=small " not in _commands("run", here, "BACKEND=cpu")
    for words in ([goal], ["run", goal]):
        text = _commands(*words, here, LLAMA_CFFI_BUILD="small")
        assert "LLAMA_CFFI_BUILD= " in text and "LLAMA_CFFI_BUILD=small " not in text
    (tmp_path / ".backend").write_text("cpu\n")
    assert "LLAMA_CFFI_BUILD=small " not in _commands("run", here)


# What people see


def test_what_make_run_prints_is_in_the_readme(smol_path: Path) -> None:
    (line,) = [line for line in _commands("run").splitlines() if "examples/chat.py" in line]
    words = shlex.split(line)[1:]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr
    assert "The sea is" in result.stdout and result.stdout in (ROOT / "README.md").read_text(encoding="utf-8")


def test_below_pip_progress_goes_to_the_terminal() -> None:
    """pip hides what a build prints on stderr."""
    child, terminal = pty.fork()
    if child == 0:
        code = "from vendor.progress import Progress; p = Progress('compiling', 20); p.update(7); p.finish()"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-c", code], {**os.environ, "PIP_BUILD_TRACKER": "/tmp"})
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal's output
        while block := os.read(terminal, 1000):
            said += block
    assert os.waitpid(child, 0)[1] == 0
    assert [line.strip() for line in said.decode().splitlines() if line.strip()] == [
        "compiling: 0/20",
        "compiling: 7/20",
        "compiling: done in 0 s",
    ]
