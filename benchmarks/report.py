"""What a measurement says of the machine, and the files that it leaves."""

from __future__ import annotations

import datetime
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from vendor.source import pin as pins

_ROWS = ("model name", "cpu family", "model", "stepping")


def machine() -> dict[str, Any]:
    """Date, processor, driver and versions; nothing that names the machine."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cpus": len(_cpus()),
        "nvidia": _nvidia(),
        "pin": pins.load().label,
        "python": platform.python_version(),
        "linux": platform.release().split("-")[0],
    }


def processor() -> str:
    """The processor's name, with the numbers that tell its generation."""
    first = next(iter(_cpus()), {})
    name, *numbers = (first.get(row, "?") for row in _ROWS)
    return f"{name} (family {numbers[0]}, model {numbers[1]}, stepping {numbers[2]})"


def _cpus() -> list[dict[str, str]]:
    blocks = Path("/proc/cpuinfo").read_text(encoding="utf-8").strip().split("\n\n")
    rows = [[row.partition(":") for row in block.splitlines()] for block in blocks]
    return [{name.strip(): value.strip() for name, _, value in row} for row in rows]


def _nvidia() -> list[str]:
    """NVIDIA's GPUs and driver, where there are any: `NVIDIA H100 80GB HBM3, 580.159.04, 81559 MiB`."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


def heading(title: str, about: dict[str, Any]) -> list[str]:
    """The first lines of a report."""
    lines = [f"{title}, {about['date']}", f"processor: {about['processor']}, {about['cpus']} CPUs"]
    lines += [f"GPU and driver: {line}" for line in about["nvidia"]]
    return [*lines, f"{about['pin']}; Python {about['python']}, Linux {about['linux']}"]


def write(folder: Path, name: str, lines: list[str], figures: dict[str, Any]) -> Path:
    """Write `FOLDER/DATE-NAME.txt`, whose path is returned, and `.json`; a name becomes lower case with dashes."""
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", name).lower()).strip("-")
    target = folder / f"{datetime.date.today().isoformat()}-{slug}"
    target.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    print(f"written: {target}.txt and .json", file=sys.stderr, flush=True)
    return target.with_suffix(".txt")
