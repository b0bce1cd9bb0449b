"""What a wheel says about its contents: the licences of all that it holds, and an SBOM in the form of CycloneDX.

setuptools knows only this project's own licence: the libraries inside are llama.cpp's and GCC's. The texts move to the
folder that PEP 639 names, the SBOM lies where PEP 770 puts it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vendor.tools import BuildError

SBOM = "sboms/llama-cffi.cdx.json"


@dataclass(frozen=True)
class Part:
    """Foreign software in the wheel."""

    name: str
    files: str  # a pattern of the files that it is in
    license: str  # an SPDX expression
    texts: tuple[str, ...]  # the files of its licences
    url: str
    debian: str = ""  # the Debian package that it is from, which tells the version


PARTS = (
    Part(
        "llama.cpp",
        r"lib/lib(llama|ggml|mtmd).*",
        "MIT",
        ("llama.cpp.txt", "llama.cpp-LICENSE-jsonhpp.txt"),
        "https://github.com/ggml-org/llama.cpp",
    ),
    Part(
        "libgomp",
        r"lib/libgomp\.so.*",
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        ("libgomp.txt", "GPL-3.txt"),
        "https://gcc.gnu.org/projects/gomp/",
        "libgomp1",
    ),
    Part(
        "libstdc++",
        r"lib/libllama-(compat|chat).*",
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        ("libgomp.txt", "GPL-3.txt"),  # the text is that of all of GCC
        "https://gcc.gnu.org/onlinedocs/libstdc++/",
        "libstdc++6",
    ),
    Part(
        "stb_image",
        r"lib/libmtmd.*",
        "MIT",
        ("stb_image.txt",),
        "https://github.com/nothings/stb",
    ),
    Part(
        "miniaudio",
        r"lib/libmtmd.*",
        "MIT-0",
        ("miniaudio.txt",),
        "https://miniaud.io",
    ),
    Part(
        "Vulkan-Headers",
        r"lib/libggml-vulkan.*",
        "Apache-2.0 OR MIT",
        ("libvulkan-dev.txt",),
        "https://github.com/KhronosGroup/Vulkan-Headers",
        "libvulkan-dev",
    ),
    Part(
        "SPIRV-Headers",
        r"lib/libggml-vulkan.*",
        "MIT",
        ("spirv-headers.txt",),
        "https://github.com/KhronosGroup/SPIRV-Headers",
        "spirv-headers",
    ),
)


def parts_of(names: Sequence[str]) -> list[Part]:
    """The foreign software in a wheel with these files."""
    return [part for part in PARTS if any(re.fullmatch(f"llama_cffi/{part.files}", name) for name in names)]


def expression(parts: Sequence[Part]) -> str:
    """The SPDX expression of this project, which is MIT, and of these parts."""
    found = ["MIT"]
    for part in parts:
        term = f"({part.license})" if " OR " in part.license else part.license
        if term not in found:
            found.append(term)
    return " AND ".join(found)


def describe(folder: Path, epoch: int) -> None:
    """Complete the metadata of an unpacked wheel. Raises BuildError if a licence's text is missing."""
    (info,) = folder.glob("*.dist-info")
    parts = parts_of([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])
    source, target = folder / "llama_cffi" / "licenses", info / "licenses"
    texts = [name for part in parts for name in part.texts]
    missing = [name for name in texts if not (source / name).is_file()]
    if missing:
        raise BuildError(f"the wheel lacks the licences {', '.join(sorted(missing))}")
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        os.replace(path, target / path.name)
    source.rmdir()
    files = sorted(path.name for path in target.iterdir())
    metadata = info / "METADATA"
    head, separator, body = metadata.read_text(encoding="utf-8").partition("\n\n")
    lines = [line for line in head.split("\n") if not line.startswith(("License-Expression:", "License-File:"))]
    lines += [f"License-Expression: {expression(parts)}", *(f"License-File: {name}" for name in files)]
    metadata.write_text("\n".join(lines) + separator + body, encoding="utf-8")
    version = next(line.split(": ", 1)[1] for line in lines if line.startswith("Version: "))
    manifest = json.loads((folder / "llama_cffi" / "lib" / "manifest.json").read_text(encoding="utf-8"))
    (info / SBOM).parent.mkdir(exist_ok=True)
    (info / SBOM).write_text(sbom(version, manifest["llama_cpp"], parts, epoch), encoding="utf-8")


def sbom(version: str, llama_cpp: str, parts: Sequence[Part], epoch: int) -> str:
    """The software bill of materials in JSON, the same for the same arguments."""
    from cyclonedx.builder.this import this_component
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL

    licenses = LicenseFactory()
    root = Component(
        name="llama-cffi",
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref="llama-cffi",
        purl=PackageURL("pypi", name="llama-cffi", version=version),
        licenses=[licenses.make_from_string(expression(parts))],
    )
    bom = Bom(serial_number=uuid.UUID(int=0), metadata=None)
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, timezone.utc)
    bom.metadata.component = root
    bom.metadata.tools.components.add(this_component())
    components = []
    for part in parts:
        number = llama_cpp.removeprefix("llama.cpp ") if part.name == "llama.cpp" else _debian_version(part.debian)
        component = Component(
            name=part.name,
            version=number or None,
            type=ComponentType.LIBRARY,
            bom_ref=part.name,
            licenses=[licenses.make_from_string(part.license)],
            external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(part.url))],
        )
        components.append(component)
        bom.components.add(component)
    bom.register_dependency(root, components)
    output = JsonV1Dot6(bom)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, output.output_as_string())
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(output.schema_version).validate_str(text)
    if wrong is not None:
        raise BuildError(f"the SBOM is not valid: {wrong}")
    return text + "\n"


def _debian_version(package: str) -> str:
    """The version of an installed Debian package; empty if there is none."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def epoch(root: Path) -> int:
    """The time of a wheel's files, so that two builds are alike: SOURCE_DATE_EPOCH, or that of the commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdigit():
        return int(given)
    command = ["git", "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 315532800  # the first day of 1980, the oldest that a zip file can hold


def repack(folder: Path, scratch: Path, time: int, platform: str) -> Path:
    """Complete the metadata of an unpacked wheel, and pack it with a platform tag. Raises BuildError."""
    packed = scratch / "packed"
    packed.mkdir()
    describe(folder, time)
    (about,) = folder.glob("*.dist-info/WHEEL")
    text = re.sub(r"^(Tag: .*-)linux_\w+$", rf"\1{platform}", about.read_text(encoding="utf-8"), flags=re.MULTILINE)
    about.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "wheel", "pack", str(folder), "--dest-dir", str(packed)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(time)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"wheel pack failed:\n{result.stderr[-2000:]}")
    (path,) = packed.glob("*.whl")
    return path
