"""A build for another machine type: its compilers, its options, its CPU variants. Nothing is compiled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vendor import tools
from vendor.build import native, variants, wheel
from vendor.source import fetch
from vendor.tools import BuildError

OTHER = "aarch64" if os.uname().machine == "x86_64" else "x86_64"


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cross compiler that knows every option: a build is only planned."""
    for name in ("CMAKE_ARGS", "LLAMA_CFFI_SANITIZE", "LLAMA_CFFI_PREFIX", "LLAMA_CPP_SOURCE", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("gcc", "g++"):
        program = tmp_path / f"{OTHER}-linux-gnu-{name}"
        program.write_text(f"#!/bin/sh\necho a compiler for {OTHER}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GGML_USE_VULKAN", "0")
    monkeypatch.setenv("LLAMA_CFFI_ARCH", OTHER)
    variants._known.cache_clear()


@pytest.mark.usefixtures("compilers")
def test_every_build_of_a_plan_is_for_the_other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there = native.plan()
    monkeypatch.delenv("LLAMA_CFFI_ARCH")
    here = native.plan()
    assert isinstance(there, native.Plan) and isinstance(here, native.Plan)
    assert len(there.builds) == len(here.builds) >= 2
    for other, own in zip(there.builds, here.builds, strict=True):
        assert other.digest != own.digest
        assert {f"-DCMAKE_SYSTEM_PROCESSOR={OTHER}", f"-DCMAKE_CXX_COMPILER={OTHER}-linux-gnu-g++"} <= {
            *other.arguments
        }
        assert not [word for word in own.arguments if "CMAKE_SYSTEM" in word or "COMPILER=" in word]


@pytest.mark.usefixtures("compilers")
def test_the_programs_of_the_other_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.is_cross() and tools.machine() == OTHER and tools.target_tool("strip") == f"{OTHER}-linux-gnu-strip"
    assert tools.compilers() == ([f"{OTHER}-linux-gnu-gcc"], [f"{OTHER}-linux-gnu-g++"])
    environment = wheel._cross_environment()
    assert environment["_PYTHON_HOST_PLATFORM"] == f"linux-{OTHER}" and environment["AR"] == f"{OTHER}-linux-gnu-ar"
    monkeypatch.setenv("CXX", f"{OTHER}-linux-gnu-g++ -pipe")
    assert tools.compilers()[1] == [f"{OTHER}-linux-gnu-g++", "-pipe"]
    monkeypatch.setenv("LLAMA_CFFI_ARCH", os.uname().machine)
    assert not tools.is_cross() and tools.target_tool("strip") == "strip" and wheel._cross_environment() == {}


def test_an_unknown_machine_and_a_missing_compiler_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMA_CFFI_ARCH", "arm64")
    with pytest.raises(BuildError, match=r"LLAMA_CFFI_ARCH.*x86_64, aarch64.*'arm64'"):
        tools.machine()
    monkeypatch.setenv("LLAMA_CFFI_ARCH", "aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(tools.os, "uname", lambda: os.uname_result(("Linux", "", "", "", "x86_64")))
    with pytest.raises(BuildError, match=r"aarch64-linux-gnu-gcc: .*apt install g\+\+-aarch64-linux-gnu"):
        tools.compilers()


def test_variants_that_the_compiler_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = fetch.source_dir()
    monkeypatch.setattr(variants, "target", lambda: "aarch64")
    monkeypatch.setattr(variants, "_known", lambda feature: True)
    assert variants.limited(source) == () and len(variants.buildable(source)) == len(variants.available(source))
    monkeypatch.setattr(variants, "_known", lambda feature: feature != "SME")
    kept = variants.limited(source)
    there = variants.available(source)
    assert set(there) - set(kept) == {name for name, features in there.items() if "SME" in features} != set()


def test_every_feature_that_needs_a_newer_compiler_has_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's compiler knows no option of another architecture, and every feature of its own."""
    variants._known.cache_clear()
    monkeypatch.delenv("LLAMA_CFFI_ARCH", raising=False)
    if os.uname().machine == "x86_64":
        assert not variants._known("SME") and variants._known("AVX2")
        assert variants.limited(fetch.source_dir()) == ()
    variants._known.cache_clear()
