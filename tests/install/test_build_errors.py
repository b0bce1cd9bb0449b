"""A build that cannot start says what is missing and how to install it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vendor.build import native
from vendor.build.libraries import module_name
from vendor.source import fetch, pin
from vendor.vulkan import vulkan

ROOT = Path(__file__).resolve().parents[2]


def _build(tmp_path: Path, tools: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the native build with only these tools on PATH and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in tools:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    python = tmp_path / "python"  # a Python with nothing beside it, such as a ninja of this environment
    python.symlink_to(sys.executable)
    env = {"PATH": str(folder), "HOME": str(tmp_path), "LLAMA_CFFI_CACHE": str(tmp_path / "cache"), **environment}
    command = [str(python), "-m", "vendor.build.native"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([], "build-essential"),
        (["cc"], "build-essential"),
        (["cc", "c++"], "apt install cmake"),
        (["cc", "c++", "cmake"], "apt install ninja-build"),
    ],
)
def test_what_is_missing(tmp_path: Path, tools: list[str], words: str) -> None:
    result = _build(tmp_path, tools, LLAMA_CPP_SOURCE=str(fetch.source_dir()))
    assert result.returncode == 1
    assert words in result.stderr and "Traceback" not in result.stderr


def test_a_source_that_is_none(tmp_path: Path) -> None:
    result = _build(tmp_path, [], LLAMA_CPP_SOURCE=str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert "is not a llama.cpp checkout" in result.stderr


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"something else")
    with pytest.raises(fetch.FetchError, match="the pin says 00"):
        fetch._verify(path, "00")


def test_an_unknown_backend(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vendor.build.native", "cuda"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 1 and "choose from cpu, rpc, vulkan" in result.stderr


# Vulkan that cannot be built


def _with_vulkan(tmp_path: Path, **environment: str) -> str:
    """The error of a build with Vulkan, on a machine with nothing but a Vulkan SDK in `tmp_path/sdk`."""
    environment |= {"GGML_USE_VULKAN": "1", "VULKAN_SDK": str(tmp_path / "sdk")}
    source = str(fetch.source_dir())
    result = _build(tmp_path, ["cc", "c++", "cmake", "ninja"], LLAMA_CPP_SOURCE=source, **environment)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr


def _write_sdk(folder: Path, version: tuple[int, int, int]) -> None:
    include = folder / "include" / "vulkan"
    include.mkdir(parents=True)
    (include / "vulkan.hpp").touch()
    (include / "vulkan_core.h").write_text(
        f"#define VK_HEADER_VERSION {version[2]}\n#define VK_HEADER_VERSION_COMPLETE "
        f"VK_MAKE_API_VERSION(0, {version[0]}, {version[1]}, VK_HEADER_VERSION)\n"
    )


def test_vulkan_without_anything_lists_all_that_is_missing(tmp_path: Path) -> None:
    words = _with_vulkan(tmp_path)
    for part in ("vulkan/vulkan.hpp", "glslc", "SPIRV-Headers", "make vulkan-tools", "apt install libvulkan-dev"):
        assert part in words


def test_vulkan_headers_that_are_too_old(tmp_path: Path) -> None:
    _write_sdk(tmp_path / "sdk", (1, 3, 239))
    words = _with_vulkan(tmp_path)
    assert "1.3.275 or newer" in words and "has 1.3.239" in words


def test_what_is_there_is_not_called_missing(tmp_path: Path) -> None:
    _write_sdk(tmp_path / "sdk", (1, 4, 309))
    (tmp_path / "sdk/share/cmake/SPIRV-Headers").mkdir(parents=True)
    words = _with_vulkan(tmp_path)
    assert (
        "glslc: not in" in words
        and "Vulkan headers" not in words.split("To install")[0]
        and "SPIRV-HeadersConfig" not in words
    )


def test_vulkan_is_a_build_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Adding it recompiles neither the other libraries nor the extension. The user's options reach both builds."""
    sdk = tmp_path / "sdk"
    _write_sdk(sdk, (1, 4, 309))
    (sdk / "share/cmake/SPIRV-Headers").mkdir(parents=True)
    glslc = sdk / "bin" / "glslc"
    glslc.parent.mkdir()
    glslc.write_text("#!/bin/sh\necho shaderc v9\n")
    glslc.chmod(0o755)
    monkeypatch.setenv("VULKAN_SDK", str(sdk))
    monkeypatch.setenv("GGML_USE_VULKAN", "0")
    plain = native.plan()
    monkeypatch.setenv("GGML_USE_VULKAN", "1")
    both = native.plan()
    assert isinstance(plain, native.Plan) and isinstance(both, native.Plan)
    assert both.builds[:-1] == plain.builds and both.digest == plain.digest
    assert both.builds[-1].targets == ("ggml-vulkan",) and both.versions["glslc"] == "shaderc v9"
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_OPENMP=OFF '-DCMAKE_C_COMPILER_LAUNCHER=my cache'")
    other = native.plan()
    assert isinstance(other, native.Plan)
    assert all("-DCMAKE_C_COMPILER_LAUNCHER=my cache" in build.arguments for build in other.builds)
    assert not {build.digest for build in other.builds} & {build.digest for build in both.builds}


def test_another_compiler_of_shaders_makes_another_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(version: str) -> str:
        tools = vulkan.Toolchain(Path("/h"), Path("/g"), Path("/s"), (("glslc", version),))
        monkeypatch.setattr(vulkan, "find", lambda: tools)
        plan = native.plan(["vulkan"])
        assert isinstance(plan, native.Plan)
        return plan.builds[-1].digest

    assert planned("1") != planned("2") and planned("1") == planned("1")


# A llama.cpp of the user's


def _prefix(tmp_path: Path, **environment: str) -> str:
    result = _build(tmp_path, ["cc", "c++", "readelf"], LLAMA_CFFI_PREFIX=str(tmp_path / "prefix"), **environment)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr


def test_a_prefix_without_llama_cpp(tmp_path: Path) -> None:
    words = _prefix(tmp_path)
    assert "include/llama.h" in words and "lib/libllama.so" in words and "cmake --install" in words


def _write_prefix(root: Path, plan: native.Plan) -> None:
    """Lay out an installation of llama.cpp, with the libraries of this build."""
    for folder in ("include", "lib", "bin"):
        (root / folder).mkdir(parents=True)
    for folder in plan.headers:
        for path in folder.glob("*.h"):
            shutil.copy(path, root / "include")
    for name in native.LINKED:
        shutil.copy(plan.lib / f"lib{name}{native.SUFFIX}.so", root / "lib" / f"lib{name}.so")
    for name in ("cpu-haswell", "cpu-x64"):
        shutil.copy(plan.lib / f"libggml-{name}{native.SUFFIX}.so", root / "bin" / f"libggml-{name}.so")


def test_a_prefix_without_the_backend_that_is_asked_for(tmp_path: Path) -> None:
    _write_prefix(tmp_path / "prefix", _pinned())
    words = _prefix(tmp_path, GGML_USE_VULKAN="1")
    assert "has no vulkan backend" in words and "-DGGML_VULKAN=ON" in words


def test_a_prefix_gives_its_libraries_by_the_names_that_they_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_prefix(tmp_path / "prefix", _pinned())
    monkeypatch.setenv("LLAMA_CFFI_PREFIX", str(tmp_path / "prefix"))
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GGML_USE_VULKAN", "0")
    plan = native.plan()
    plan.make()
    assert set(plan.linked) == {f"lib{name}{native.SUFFIX}.so" for name in native.LINKED}
    assert plan.modules() == {"cpu": ["libggml-cpu-haswell.so", "libggml-cpu-x64.so"]}
    assert {path.name for path in plan.lib.iterdir()} == set(plan.files())
    manifest = json.loads(plan.manifest())
    assert manifest["origin"] == f"LLAMA_CFFI_PREFIX={tmp_path / 'prefix'}"
    assert manifest["modules"] == plan.modules()


def _pinned() -> native.Plan:
    plan = native.plan()
    assert isinstance(plan, native.Plan)
    return plan


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("libggml-cpu-haswell.so", "cpu"),
        ("libggml-cpu.so.0", "cpu"),
        ("libggml-cpu-armv8.2_1.so", "cpu"),
        ("libggml-cpu-armv9.2_2.so.0.25", "cpu"),
        ("libggml-vulkan.so", "vulkan"),
        ("libggml-base.so.0", None),
        ("libggml.so", None),
        ("libllama.so.0", None),
        ("libgomp.so.1", None),
    ],
)
def test_the_backend_of_a_module(file: str, name: str | None) -> None:
    assert module_name(file, "") == name
    own = file.replace(".so", "-cffi.so")
    assert module_name(own, native.SUFFIX) == name


# setup.py


def test_setup_and_build_ffi_do_nothing_at_import(tmp_path: Path) -> None:
    """Neither looks for compilers or a source before a command needs them."""
    code = (
        "import runpy, setuptools; setuptools.setup = lambda **k: print(sorted(k), k['cffi_modules']); "
        "runpy.run_path('setup.py'); import build_ffi; print(callable(build_ffi.ffibuilder))"
    )
    env = {"PATH": "", "HOME": str(tmp_path), "LLAMA_CFFI_CACHE": str(tmp_path / "cache"), "LLAMA_CPP_SOURCE": "/none"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "['cffi_modules', 'cmdclass', 'options'] ['build_ffi.py:ffibuilder']",
        "True",
    ]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LLAMA_CPP_SOURCE": "/none"}, "is not a llama.cpp checkout"),  # FetchError
        ({"LLAMA_CFFI_PREFIX": "/none"}, "LLAMA_CFFI_PREFIX=/none"),  # BuildError
        ({"LLAMA_CFFI_SANITIZE": "nonsense"}, "'nonsense'"),
    ],
)
@pytest.mark.parametrize("command", ["build_ext", "sdist"])
def test_setup_ends_with_one_plain_line(tmp_path: Path, variables: dict[str, str], words: str, command: str) -> None:
    env = {**os.environ, **variables}
    where = {"build_ext": ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path)], "sdist": ["-d", str(tmp_path)]}
    result = subprocess.run(
        [sys.executable, "setup.py", "--quiet", command, *where[command]],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line


# A source distribution


@pytest.mark.slow
def test_a_source_distribution_needs_no_network_for_llama_cpp(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        tar.extractall(tmp_path / "tree")
    wanted = [
        "vendor/llama.cpp/LICENSE",
        "vendor/llama.cpp/src/llama.cpp",
        "codegen/api/api.json",
        "vendor/vulkan/vulkan_loader.c",
    ]
    assert {*wanted, "llama_cffi/_generated/cdef.h", "llama_cffi/_native.pyi", "Makefile"} <= names
    assert not [name for name in names if name.endswith((".so", ".gguf", ".pyc"))]
    (tree,) = (tmp_path / "tree").iterdir()
    env = {**os.environ, "PIP_NO_INDEX": "1", "LLAMA_CFFI_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ""}
    command = [sys.executable, "-m", "vendor.source.fetch"]
    result = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == str(tree / "vendor" / "llama.cpp"), result.stderr
    assert not (tmp_path / "cache").exists()
    _compare_digests(tree, env)


def _compare_digests(tree: Path, env: dict[str, str]) -> None:
    """A source distribution builds what a checkout builds, until somebody changes its llama.cpp."""
    checkout = _pinned()
    code = "from vendor.build import native; p = native.plan(); print([b.digest for b in p.builds], p.source)"

    def planned(**more: str) -> tuple[list[str], Path]:
        command = [sys.executable, "-c", code]
        result = subprocess.run(
            command, cwd=tree, env={**env, "GGML_USE_VULKAN": "0", **more}, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        digests, _, source = result.stdout.strip().rpartition(" ")
        return json.loads(digests.replace("'", '"')), Path(source)

    digests = [build.digest for build in checkout.builds if build.backends[0].name != "vulkan"]
    assert planned() == (digests, tree / "vendor" / "llama.cpp")
    # Where the cache has the same tree, it is used, so that one can go on where the other was interrupted.
    assert planned(LLAMA_CFFI_CACHE=str(pin.cache_root())) == (digests, checkout.source)
    for file in ("common/chat.cpp", "src/llama.cpp"):
        path = tree / "vendor" / "llama.cpp" / file
        before = path.read_bytes()
        path.write_bytes(before + b"\n// changed\n")
        changed, source = planned(LLAMA_CFFI_CACHE=str(pin.cache_root()))
        assert source == tree / "vendor" / "llama.cpp" and not set(changed) & set(digests)
        path.write_bytes(before)
    assert planned()[0] == digests
