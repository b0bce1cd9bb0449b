"""Reports of measurements: their options, the description of the machine, and the files that they write."""

from __future__ import annotations

import argparse
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


def add_arguments(parser: argparse.ArgumentParser, rounds: int | None = None) -> None:
    """Add the options of a report: --out and --label, and --rounds with this default."""
    if rounds is not None:
        help = "number of rounds; in each, all sides are measured once (default: %(default)s)"
        parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=help)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the report and all figures to this folder")
    parser.add_argument("--label", default="", help="add this to the names of the files")


def machine() -> dict[str, Any]:
    """Date, processor, driver and versions, without anything that identifies the machine."""
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
    """The processor's name with its family, model and stepping."""
    first = next(iter(_cpus()), {})
    name, *numbers = (first.get(row, "?") for row in _ROWS)
    return f"{name} (family {numbers[0]}, model {numbers[1]}, stepping {numbers[2]})"


def _cpus() -> list[dict[str, str]]:
    blocks = Path("/proc/cpuinfo").read_text(encoding="utf-8").strip().split("\n\n")
    rows = [[row.partition(":") for row in block.splitlines()] for block in blocks]
    return [{name.strip(): value.strip() for name, _, value in row} for row in rows]


def _nvidia() -> list[str]:
    """NVIDIA GPUs with driver and memory, such as `NVIDIA H100 80GB HBM3, 580.159.04, 81559 MiB`."""
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
    """Write FOLDER/DATE-NAME.txt and .json, with the name in lower case and dashes. Returns the path of the text."""
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", name).lower()).strip("-")
    target = folder / f"{datetime.date.today().isoformat()}-{slug}"
    target.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    print(f"wrote {target}.txt and .json", file=sys.stderr, flush=True)
    return target.with_suffix(".txt")
