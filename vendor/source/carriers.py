"""The packages on PyPI whose sdists carry llama.cpp's source: where it is in them, and how its age is found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from vendor.tools import FetchError


@dataclass(frozen=True)
class Carrier:
    """A package whose sdist carries llama.cpp. Paths are below the sdist's top folder."""

    package: str
    tree: str  # llama.cpp's source
    example: str  # a version, for messages
    git: str = ""  # llama.cpp's git folder, which has the commit and its date; empty: the sdist has none
    build: str = ""  # matches the versions that contain llama.cpp's build number, which is its group

    def build_of(self, version: str) -> int:
        """llama.cpp's build number (11549 for its tag b11549); 0 if the version does not contain it."""
        found = re.fullmatch(self.build, version) if self.build else None
        return int(found[1]) if found else 0


CARRIERS = (
    Carrier("llama-cpp-python", "vendor/llama.cpp", "0.3.30", git=".git/modules/vendor/llama.cpp"),
    Carrier("xllamacpp", "thirdparty/llama.cpp", "2026.10.11549", build=r"20\d\d\.\d+\.(\d+)(?:\.\d+)?"),
)

# The carrier of a version without a package's name.
DEFAULT = CARRIERS[0]

PACKAGES = " or ".join(carrier.package for carrier in CARRIERS)


def of(package: str) -> Carrier:
    """The carrier of this name. Raises FetchError."""
    for carrier in CARRIERS:
        if carrier.package == package:
            return carrier
    raise FetchError(f"package must be {PACKAGES}, which carry llama.cpp, got {package!r}")


def parse(name: str) -> tuple[Carrier, str]:
    """Split "0.3.30", "xllamacpp==2026.10.11549" or "xllamacpp", whose version is empty. Raises FetchError."""
    package, equals, version = name.partition("==")
    if not equals and re.match("[a-z]", name):
        return of(name), ""
    carrier, version = (of(package), version) if equals else (DEFAULT, name)
    if not re.fullmatch(r"[0-9][0-9A-Za-z.]*", version):
        raise FetchError(f"version of {carrier.package} must look like {carrier.example}, got {version!r}")
    return carrier, version


def name_of(package: str, version: str) -> str:
    """The name of a release, which `parse` splits: without the package if it is the default one."""
    return version if package == DEFAULT.package else f"{package}=={version}"


def below(member: str, folder: str) -> PurePosixPath | None:
    """The path of an sdist's member inside a folder below its top folder; None if it is elsewhere."""
    path, top = PurePosixPath(member), PurePosixPath(folder).parts
    inside = path.parts[1 : 1 + len(top)] == top and len(path.parts) > 1 + len(top)
    return PurePosixPath(*path.parts[1 + len(top) :]) if inside and ".." not in path.parts else None
