"""Find or download what the Vulkan module is compiled with: `python -m vendor.vulkan [--driver]`.

That is Vulkan headers, SPIRV-Headers and the shader compiler glslc. The machine's own are used if they are new enough.
Debian 12's are too old; for it, Debian 13's are put into a folder of the cache, together with the C library that its
glslc needs. `--driver` adds a Vulkan driver that runs on the CPU (Mesa's lavapipe, of the machine's Debian), for tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vendor.scratch import scratch_folder
from vendor.source import pin as pins
from vendor.tools import BuildError, compilers, is_cross, target_tool, version_of
from vendor.vulkan import debian

LOADER = Path(__file__).with_name("vulkan_loader.c")

SUITE = "trixie"  # Debian 13
PACKAGES = ("libvulkan-dev", "spirv-headers", "glslc", "libshaderc1", "libc6", "libstdc++6", "libgcc-s1")
DRIVER = ("mesa-vulkan-drivers", "libvulkan1")

# The oldest headers with what llama.cpp uses (vk::LayerSettingEXT). Debian 12 has 1.3.239, Ubuntu 24.04 has 1.3.275.
OLDEST = (1, 3, 275)

_HELP = """To install them:
  Debian 13, Ubuntu 24.04 and newer: apt install libvulkan-dev glslc spirv-headers
  Debian 12: make vulkan-tools (or python3 -m vendor.vulkan; downloads Debian 13's into the cache, without root)
  elsewhere: the Vulkan SDK, with VULKAN_SDK set to its folder"""


@dataclass(frozen=True)
class Toolchain:
    """The paths for CMake, and the versions for the manifest."""

    headers: Path
    glslc: Path
    spirv: Path
    versions: tuple[tuple[str, str], ...]

    @property
    def notices(self) -> tuple[Path, ...]:
        """The licences of the headers, whose inline code is in the module, at Debian's place for them."""
        doc = self.headers.parent / "share" / "doc"
        return tuple(
            path for name in ("libvulkan-dev", "spirv-headers") for path in [doc / name / "copyright"] if path.is_file()
        )

    @property
    def options(self) -> dict[str, str]:
        return {
            "Vulkan_INCLUDE_DIR": str(self.headers),
            "Vulkan_GLSLC_EXECUTABLE": str(self.glslc),
            "SPIRV-Headers_DIR": str(self.spirv),
        }


def find() -> Toolchain:
    """The toolchain of this machine, else the one in the cache. Raises BuildError with the list of what is missing."""
    machine, missing = _look(_roots(), _program("glslc"))
    if machine is None or is_cross():  # a cross compiler must not read /usr/include
        machine = _prepared() or machine
    if machine is None:
        lines = "\n".join(f"  {line}" for line in missing)
        raise BuildError(f"the Vulkan backend cannot be built on this machine. Missing:\n{lines}\n{_HELP}")
    return machine


def _roots() -> list[Path]:
    sdk = os.environ.get("VULKAN_SDK")
    return [Path(sdk)] if sdk else [Path("/usr/local"), Path("/usr")]


def _program(name: str) -> Path | None:
    sdk = os.environ.get("VULKAN_SDK")
    found = shutil.which(name, path=f"{sdk}/bin" if sdk else None)
    return Path(found) if found else None


def _look(roots: list[Path], glslc: Path | None) -> tuple[Toolchain | None, list[str]]:
    """The toolchain below these folders, else None and what is missing there. CMAKE_ARGS may name each part."""
    given = _given()
    where = " or ".join(str(root) for root in roots)
    headers = given.get("Vulkan_INCLUDE_DIR") or next(
        (root / "include" for root in roots if (root / "include/vulkan/vulkan.hpp").is_file()), None
    )
    spirv = given.get("SPIRV-Headers_DIR") or next(
        (path for root in roots for path in root.glob("*/cmake/SPIRV-Headers")), None
    )
    glslc = given.get("Vulkan_GLSLC_EXECUTABLE") or glslc
    missing: list[str] = []
    version = _header_version(headers) if headers else ()
    if headers is None:
        missing.append(f"Vulkan headers (vulkan/vulkan.hpp): not in {where}")
    elif version < OLDEST:
        missing.append(f"Vulkan headers {_dotted(OLDEST)} or newer: {headers} has {_dotted(version)}")
    if glslc is None:
        missing.append(
            "glslc, the shader compiler: not on PATH"
            if "VULKAN_SDK" not in os.environ
            else f"glslc: not in {where}/bin"
        )
    if spirv is None:
        missing.append(f"SPIRV-Headers (SPIRV-HeadersConfig.cmake): not in {where}")
    if headers is None or glslc is None or spirv is None or missing:
        return None, missing
    versions = (("Vulkan headers", _dotted(version)), ("glslc", version_of([str(glslc)])))
    return Toolchain(headers, glslc, spirv, versions), []


def _given() -> dict[str, Path]:
    pairs = (word[2:].split("=", 1) for word in shlex.split(os.environ.get("CMAKE_ARGS", "")) if word.startswith("-D"))
    return {pair[0].split(":")[0]: Path(pair[-1]) for pair in pairs}


def _header_version(headers: Path) -> tuple[int, ...]:
    path = headers / "vulkan" / "vulkan_core.h"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    complete = re.search(r"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+),", text)
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
    return (int(complete[1]), int(complete[2]), int(patch[1])) if complete and patch else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "an unknown version"


def compile_loader(headers: Path, archive: Path) -> None:
    """Compile the archive that replaces libvulkan when the module is linked. Raises BuildError."""
    code = archive.with_suffix(".o")
    flags = ["-O2", "-fPIC", "-fvisibility=hidden", f"-I{headers}"]
    for command in (
        [*compilers()[0], *flags, "-c", str(LOADER), "-o", str(code)],
        [target_tool("ar"), "rcs", str(archive), str(code)],
    ):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise BuildError(f"{LOADER.name} did not compile:\n{result.stdout}")


# The folder in the cache


def _folder(name: str) -> Path:
    return pins.cache_root() / "vulkan" / f"{name}-{os.uname().machine}"


def _prepared() -> Toolchain | None:
    folder = _folder(SUITE)
    return _look([folder / "usr"], folder / "glslc")[0] if folder.is_dir() else None


def set_up() -> Path:
    """Make the folder with Debian 13's toolchain, unless it exists. Returns its path. Raises BuildError."""
    folder = _folder(SUITE)
    if not folder.is_dir():
        with _new(folder) as (work, root):
            versions = debian.Apt(work, SUITE).unpack(PACKAGES, root)
            _write_glslc(root)
            (root / "packages.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")
    if _prepared() is None:
        raise BuildError(f"{folder} is incomplete: remove it, and run this again")
    return folder


def _write_glslc(root: Path) -> None:
    """Write a script that starts glslc with the C library that it was linked for. The folder may be moved."""
    loader = next(iter(sorted(root.glob("usr/lib/*/ld-linux*.so.*"))), None)
    if loader is None:
        raise BuildError("no dynamic linker (usr/lib/*/ld-linux*.so.*) in Debian's package libc6")
    lib = loader.parent.relative_to(root)
    script = root / "glslc"
    script.write_text(
        f'#!/bin/sh\nhere=$(dirname "$0")\nlib="$here/{lib}"\n'
        f'exec "$lib/{loader.name}" --library-path "$lib" "$here/usr/bin/glslc" "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)


def driver_environment() -> dict[str, str]:
    """The environment variables that select the driver in the cache; empty if the machine has its own lavapipe."""
    folder = _folder("driver")
    if _machine_has_lavapipe() or not folder.is_dir():
        return {}
    libraries = sorted({str(path.parent) for path in folder.rglob("*.so*")})
    libraries += [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path]
    return {
        "VK_DRIVER_FILES": str(folder / "lavapipe.json"),
        "VK_ICD_FILENAMES": str(folder / "lavapipe.json"),  # the same for loaders before 1.3.207
        "LD_LIBRARY_PATH": ":".join(libraries),
    }


def set_up_driver() -> None:
    """Make the folder with lavapipe, unless it exists or the machine has its own. Raises BuildError."""
    folder = _folder("driver")
    if _machine_has_lavapipe() or folder.is_dir():
        return
    with _new(folder) as (work, root):
        apt = debian.Apt(work, None)
        apt.unpack(apt.closure(DRIVER), root)
        library = next(iter(sorted(root.rglob("libvulkan_lvp.so"))), None)
        if library is None:
            raise BuildError("no libvulkan_lvp.so in Debian's package mesa-vulkan-drivers")
        place = folder / library.relative_to(root)  # where it will be
        icd = {"file_format_version": "1.0.0", "ICD": {"library_path": str(place), "api_version": "1.3.0"}}
        (root / "lavapipe.json").write_text(json.dumps(icd), encoding="utf-8")


def _machine_has_lavapipe() -> bool:
    return any(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A scratch folder, and one that becomes `folder` if the block succeeds."""
    with scratch_folder(folder.parent) as scratch:
        root = scratch / "root"
        root.mkdir()
        yield scratch / "work", root
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.rename(root, folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.vulkan", description=__doc__.splitlines()[0])
    parser.add_argument("--driver", action="store_true", help="also download a Vulkan driver that runs on the CPU")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, help="run a command with that driver, which is downloaded if it is missing"
    )
    args = parser.parse_args()
    try:
        if args.run:
            set_up_driver()
            return subprocess.run(args.run, env={**os.environ, **driver_environment()}).returncode
        if args.driver:
            set_up_driver()
        toolchain = _look(_roots(), _program("glslc"))[0]
        print(f"this machine's own: {toolchain.headers}, {toolchain.glslc}" if toolchain else set_up())
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
