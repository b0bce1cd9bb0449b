"""Headers that change a few lines of llama.cpp: their table, their digests, and the proof that each took effect."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vendor.build import cmake, native, overrides, recipe
from vendor.build.overrides import ACTIVE, INACTIVE, NOT_NEEDED, OVERRIDES, Override
from vendor.source import fetch
from vendor.tools import BuildError, compilers
from vendor.vulkan import vulkan

ROOT = Path(__file__).resolve().parents[2]
ROWS = {row.file: row for row in OVERRIDES}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CMAKE_ARGS", "LLAMA_CFFI_SANITIZE", "LLAMA_CFFI_PREFIX", "LLAMA_CPP_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GGML_USE_VULKAN", "0")


def test_the_table_lists_the_headers_of_the_folder() -> None:
    assert sorted(ROWS) == sorted(path.name for path in overrides.FOLDER.glob("*.h"))
    for row in OVERRIDES:
        text = row.path.read_text(encoding="utf-8")
        assert row.backend in recipe.BACKENDS
        assert row.proof and all(row.place and row.without and row.until and row.upstream for _ in row.proof)
        for symbol in (f"{row.name}_needed", *row.proof):
            assert re.search(rf"inline constexpr char {symbol} = 0;", text), symbol


@pytest.mark.parametrize("patch", sorted(overrides.FOLDER.glob("*.patch")), ids=lambda path: path.name)
def test_a_patch_for_upstream_applies_to_the_pinned_tree(patch: Path, tmp_path: Path) -> None:
    assert f"{patch.stem}.h" in ROWS and f"## {patch.name}\n" in (overrides.FOLDER / "upstream.md").read_text()
    (file,) = re.findall(r"^\+\+\+ b/(\S+)$", patch.read_text(encoding="utf-8"), re.MULTILINE)
    copy = tmp_path / file
    copy.parent.mkdir(parents=True)
    shutil.copyfile(fetch.source_dir() / file, copy)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    result = subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert copy.read_bytes() != (fetch.source_dir() / file).read_bytes()


# The digest


def _digests(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    tools = vulkan.Toolchain(Path("/h"), Path("/g"), Path("/s"), (("glslc", "1"),))
    monkeypatch.setattr(vulkan, "find", lambda: tools)
    plan = native.plan(["vulkan"])
    assert isinstance(plan, native.Plan)
    return {build.backends[0].name: build.digest for build in plan.builds}


@pytest.mark.parametrize("row", OVERRIDES, ids=lambda row: row.file)
def test_a_header_is_in_the_digest_of_its_backend_alone(
    row: Override, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = _digests(monkeypatch)
    assert before.keys() == {"cpu", "chat", "mtmd", "rpc", "vulkan"}
    folder = tmp_path / "overrides"
    shutil.copytree(overrides.FOLDER, folder)
    monkeypatch.setattr(overrides, "FOLDER", folder)
    assert _digests(monkeypatch) == before
    with row.path.open("a", encoding="utf-8") as stream:
        stream.write("/* changed */\n")
    after = _digests(monkeypatch)
    assert {name for name in after if after[name] != before[name]} == {row.backend}


def test_a_header_is_included_in_the_build_of_its_backend_alone() -> None:
    plan = native.plan()
    assert isinstance(plan, native.Plan)
    for build in plan.builds:
        included = re.findall(r"-include \S*/overrides/(\S+)", " ".join(build.arguments))
        assert sorted(included) == sorted(row.file for row in OVERRIDES if row.backend == build.backends[0].name)


# The proof


def _library(folder: Path, code: str, *options: str, name: str = "libx.so", source: str = "x.cpp") -> Path:
    """A shared library of some C++ code, with its symbols."""
    path = folder / source
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    out = folder / name
    command = [*compilers()[1], "-std=c++17", "-O3", "-fno-gnu-unique", "-fPIC", "-shared", *options]
    result = subprocess.run([*command, str(path), "-o", str(out)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out


FAKE = replace(OVERRIDES[0], file="fake.h", proof=("llama_cffi_fake_one", "llama_cffi_fake_two"))


@pytest.mark.parametrize(
    ("symbols", "state"),
    [
        (("fake_needed", "fake_one", "fake_two"), ACTIVE),
        (("fake_needed", "fake_idle", "fake_one", "fake_two"), ACTIVE),
        (("fake_needed", "fake_one"), INACTIVE),
        (("fake_needed", "fake_one", "fake_two_too"), INACTIVE),
        (("fake_needed", "fake_idle"), INACTIVE),
        (("fake_idle",), NOT_NEEDED),
        (("other_idle",), INACTIVE),
        ((), INACTIVE),
    ],
)
def test_the_state_of_an_override_by_a_modules_symbols(tmp_path: Path, symbols: tuple[str, ...], state: str) -> None:
    code = "int f() { return 1; }\n" + "".join(f'extern "C" char llama_cffi_{name}; ' for name in symbols)
    code += "".join(f"char llama_cffi_{name} = 0; " for name in symbols)
    assert overrides.inspect([FAKE], [_library(tmp_path, code)]) == {"fake.h": state}


def test_one_module_without_effect_is_enough_to_call_it_inactive(tmp_path: Path) -> None:
    code = {
        "active": "char llama_cffi_fake_needed, llama_cffi_fake_one, llama_cffi_fake_two;",
        "idle": "char llama_cffi_fake_idle;",
        "missed": "char llama_cffi_fake_needed;",
    }
    made = {name: _library(tmp_path, text, name=f"{name}.so") for name, text in code.items()}
    assert overrides.inspect([FAKE], [made["active"], made["idle"]]) == {"fake.h": ACTIVE}
    assert overrides.inspect([FAKE], list(made.values())) == {"fake.h": INACTIVE}
    assert overrides.inspect([FAKE], [made["idle"]]) == {"fake.h": NOT_NEEDED}


def test_a_file_that_is_not_a_library_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "libx.so"
    path.write_bytes(b"not ELF at all")
    with pytest.raises(BuildError, match=r"libx\.so"):
        overrides.inspect([FAKE], [path])


def _is_gcc() -> bool:
    """True if the C++ compiler is GCC, for which prefetch.h and tile_config.h are written."""
    words = [*compilers()[1], "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


on_x86_gcc = pytest.mark.skipif(
    os.uname().machine != "x86_64" or not _is_gcc(), reason="prefetch.h and tile_config.h apply to GCC on x86-64 only"
)

LOADS = "#include <immintrin.h>\nint f(const int *p) { return _mm_cvtsi128_si32(_mm_loadu_si128((const __m128i *)p)); }"


@on_x86_gcc
@pytest.mark.parametrize(
    ("source", "options", "state"),
    [
        ("llamafile/sgemm.cpp", ("-mavx2",), ACTIVE),
        ("llamafile/other.cpp", ("-mavx2",), INACTIVE),
        ("llamafile/sgemm.cpp", (), NOT_NEEDED),
    ],
)
def test_prefetch(tmp_path: Path, source: str, options: tuple[str, ...], state: str) -> None:
    row = ROWS["prefetch.h"]
    words = ("-DGGML_BACKEND_BUILD", "-include", str(row.path), *options)
    assert overrides.inspect([row], [_library(tmp_path, LOADS, *words, source=source)]) == {row.file: state}
    no_loads = _library(tmp_path, "int f() { return 1; }", *words, source=source)
    expected = NOT_NEEDED if state == NOT_NEEDED else INACTIVE
    assert overrides.inspect([row], [no_loads]) == {row.file: expected}
    without = _library(tmp_path, LOADS, *options, source=source)
    assert overrides.inspect([row], [without]) == {row.file: INACTIVE}


@on_x86_gcc
@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        *(((11, 4), True), ((11, 5), False), ((12, 2), True), ((12, 3), True), ((12, 4), False)),
        *(((13, 2), True), ((13, 3), False), ((14, 1), False), ((15, 1), False)),
    ],
)
def test_tile_config_is_for_compilers_with_the_bug(tmp_path: Path, version: tuple[int, int], has_bug: bool) -> None:
    row = ROWS["tile_config.h"]
    stub = tmp_path / "stub" / "immintrin.h"  # the real one cannot be read as if by another version
    stub.parent.mkdir()
    stub.write_text("#pragma once\nvoid _tile_loadconfig(const void *);\n", encoding="utf-8")
    words = (
        *("-DGGML_BACKEND_BUILD", "-D__AMX_TILE__", f"-I{stub.parent}"),
        *("-U__GNUC__", f"-D__GNUC__={version[0]}", "-U__GNUC_MINOR__", f"-D__GNUC_MINOR__={version[1]}"),
        *("-include", str(row.path)),
    )
    loads = _library(tmp_path, "#include <immintrin.h>\nvoid f(const void *p) { _tile_loadconfig(p); }", *words)
    assert overrides.inspect([row], [loads]) == {row.file: ACTIVE if has_bug else NOT_NEEDED}
    no_loads = _library(tmp_path, "int f() { return 1; }", *words)
    assert overrides.inspect([row], [no_loads]) == {row.file: INACTIVE if has_bug else NOT_NEEDED}


# The build


@pytest.fixture
def rpc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> cmake.Build:
    """The build of the RPC module, in a cache that is empty."""
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLAMA_CFFI_CPU_VARIANTS", raising=False)
    variants = tmp_path / "ggml" / "src" / "CMakeLists.txt"
    variants.parent.mkdir(parents=True)
    variants.touch()
    monkeypatch.setattr(fetch, "source_dir", lambda: tmp_path)
    monkeypatch.setattr(fetch, "chat_dir", lambda: tmp_path)
    plan = native.plan()
    assert isinstance(plan, native.Plan)
    build = next(build for build in plan.builds if build.backends[0].name == "rpc")
    build.prefix.parent.mkdir(parents=True)
    return build


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("int f() { return 1; }", INACTIVE),
        ("char llama_cffi_rpc_lost_needed;", INACTIVE),
        ("char llama_cffi_rpc_lost_needed, " + ", ".join(ROWS["rpc_lost.h"].proof) + ";", ACTIVE),
    ],
)
def test_the_build_warns_and_goes_on(
    rpc: cmake.Build, tmp_path: Path, code: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the time of the build, and later, when the result comes from the cache."""
    work = tmp_path / "work"
    (work / "bin").mkdir(parents=True)
    _library(work / "bin", code, name=recipe.BACKENDS["rpc"].modules)
    cmake._collect(rpc, work)
    assert json.loads((rpc.prefix / "manifest.json").read_text())["overrides"] == {"rpc_lost.h": state}
    assert not overrides.inspect([], []) and [path.name for path in rpc.lib.iterdir()] == [
        recipe.BACKENDS["rpc"].modules
    ]
    for _ in range(2):
        rpc.make()
        said = capsys.readouterr().err
        if state == ACTIVE:
            assert said == ""
        else:
            row = ROWS["rpc_lost.h"]
            assert said.startswith("warning: ") and "rpc_lost.h" in said and row.without in said
            assert row.place in said and "vendor/README.md" in said and "prefetch.h" not in said


def test_the_overrides_of_this_build_took_effect() -> None:
    """The manifest of the package, and that of the build in the cache, say so of each override."""
    packaged = json.loads((ROOT / "llama_cffi" / "lib" / "manifest.json").read_text(encoding="utf-8"))
    plan = native.plan()
    assert isinstance(plan, native.Plan)
    states = plan.about["overrides"]
    assert packaged["overrides"] == states
    assert isinstance(states, dict) and states.keys() == ROWS.keys()
    assert set(states.values()) <= {ACTIVE, NOT_NEEDED} and states["rpc_lost.h"] == ACTIVE
