"""On anything but Linux, the package and its build say so in one line. The platform is faked in a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLATFORMS = ["darwin", "win32", "android"]


def _run(platform: str, code: str) -> subprocess.CompletedProcess[str]:
    before = ", setuptools" if "setup.py" in code else ""  # which looks at the platform, too
    start = f"import runpy, sys{before}\nsys.platform = {platform!r}\n"
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_import_on_another_platform_says_so(platform: str) -> None:
    result = _run(platform, "import llama_cffi")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: llama_cffi ") and "Linux" in last and platform in last


@pytest.mark.parametrize("platform", PLATFORMS[:2])
@pytest.mark.parametrize(
    "code",
    [
        "sys.path.insert(0, '.'); sys.argv = ['setup.py', 'build_ext']; runpy.run_path('setup.py')",
        "runpy.run_module('vendor.build.native', run_name='__main__')",
        "runpy.run_module('vendor.build.wheel', run_name='__main__')",
    ],
    ids=["setup.py", "native", "wheel"],
)
def test_a_build_on_another_platform_ends_with_one_line(platform: str, code: str) -> None:
    result = _run(platform, code)
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 1 and line.startswith("error: llama_cffi ") and "Linux" in line and platform in line


def test_this_platform_is_not_refused() -> None:
    result = _run("linux", "import llama_cffi, vendor; print(llama_cffi.__version__)")
    assert result.returncode == 0, result.stderr
