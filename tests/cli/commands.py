"""Runs commands of `python -m llama_cffi`, each in a new interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_UNSET = ("GGML_USE_VULKAN", "LLAMA_CFFI_MODEL", "HF_TOKEN", "HF_HUB_OFFLINE", "NO_COLOR")


def environment(**more: str) -> dict[str, str]:
    """The environment of a command, without the variables that change its behaviour."""
    return {**{name: value for name, value in os.environ.items() if name not in _UNSET}, **more}


def run(*arguments: object, stdin: str = "", timeout: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it to end."""
    return subprocess.run(
        [sys.executable, "-m", "llama_cffi", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def document(*arguments: object, stdin: str = "") -> Any:
    """The JSON document that a command prints with --json."""
    result = run(*arguments, "--json", stdin=stdin)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
