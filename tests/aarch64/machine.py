"""An emulated aarch64 machine: QEMU's user mode, Debian's Python, the wheel, and the packages that the tests need.

Nothing is installed. QEMU and Debian 12's packages for arm64 are unpacked into the cache, and pip unpacks the wheel and
the packages into a temporary folder. The Python is a script that starts the emulator, so that the child processes of
tests are emulated, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vendor.scratch import scratch_folder
from vendor.source import pin as pins
from vendor.vulkan import debian

ROOT = Path(__file__).resolve().parents[2]

# Debian 12's QEMU does not know the newer processors. The Python must be one of Debian 12, which has the oldest.
_QEMU, _PYTHON = "trixie", "bookworm"
_VERSION = "3.11"
_PACKAGES = (
    *(
        "numpy",
        "pytest",
        "hypothesis",
        "gguf",
        "jinja2",
        "llguidance",
        "pydantic",
        "jsonschema",
        "pyyaml",
        "setuptools",
    ),
    *("httpx", "starlette", "uvicorn"),
)
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


class Machine:
    """Runs Python on an emulated processor."""

    def __init__(self, work: Path, wheel: Path) -> None:
        """Set the machine up in the folder `work`. Raises BuildError or CalledProcessError."""
        self.tree = work / "tree"
        self._python = work / "python"
        self._site = work / "site"
        qemu = _unpacked("qemu", _QEMU, None, ["qemu-user"]) / "usr" / "bin" / "qemu-aarch64"
        root = _unpacked(f"python-{_PYTHON}-arm64", _PYTHON, "arm64", [f"python{_VERSION}", "libstdc++6", "libgcc-s1"])
        self._python.write_text(
            f'#!/bin/sh\nexec "{qemu}" ${{QEMU_PROCESSOR:+-cpu "$QEMU_PROCESSOR"}} -0 "{self._python}" -L "{root}" '
            f'"{root}/usr/bin/python{_VERSION}" "$@"\n',
            encoding="utf-8",
        )
        self._python.chmod(0o755)
        self._install(wheel)
        self._copy_tests()

    def _install(self, wheel: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--target", str(self._site), "--only-binary=:all:", "--implementation", "cp"]
        command += [word for name in _PLATFORMS for word in ("--platform", name)]
        command += [word for name in (f"cp{_VERSION.replace('.', '')}", "abi3", "none") for word in ("--abi", name)]
        subprocess.run([*command, "--python-version", _VERSION, str(wheel), *_PACKAGES], check=True)

    def _copy_tests(self) -> None:
        """Copy the repository without the package, whose place the installed one takes."""
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in names.splitlines():
            if not name.startswith("llama_cffi/") and (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        (self.tree / "llama_cffi").symlink_to(self._site / "llama_cffi")

    def command(self, *words: str) -> list[str]:
        """The command that runs Python with these arguments."""
        return [str(self._python), *words]

    def environment(self, processor: str, variant: str = "") -> dict[str, str]:
        """The environment variables for one of QEMU's processors, and for a variant of ggml's CPU backend."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "LLAMA_CFFI_CACHE") if name in os.environ}
        chosen = {"LLAMA_CFFI_CPU_VARIANT": variant} if variant else {}
        return {**kept, **chosen, "QEMU_PROCESSOR": processor, "PYTHONPATH": str(self._site), "LC_ALL": "C.UTF-8"}

    def run(self, words: Sequence[str], processor: str, variant: str = "") -> str:
        """Run Python, and return what it prints. Raises CalledProcessError, with stderr on this process's stderr."""
        environment = self.environment(processor, variant)
        command = self.command(*words)
        return subprocess.run(
            command, cwd=self.tree, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600
        ).stdout


def _unpacked(name: str, suite: str, architecture: str | None, packages: Sequence[str]) -> Path:
    """The folder of the cache with Debian packages, and with all that they depend on for another architecture."""
    folder = pins.cache_root() / "emulation" / name
    if not folder.is_dir():
        with scratch_folder(folder.parent) as scratch:
            root = scratch / "root"
            root.mkdir()
            apt = debian.Apt(scratch / "apt", suite, architecture)
            apt.unpack(apt.closure(packages) if architecture else packages, root)
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.rename(root, folder)
    return folder
