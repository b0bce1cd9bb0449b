"""Print the pin of a release of the carrier package: `python -m vendor.source.releases 0.3.30`."""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
from pathlib import Path, PurePosixPath

from vendor.source import fetch, pin as pins
from vendor.tools import FetchError

PACKAGE = "llama-cpp-python"

# The file of the carrier's sdist, below its top folder, that names the commit of llama.cpp.
_HEAD = PurePosixPath(".git/modules/vendor/llama.cpp/HEAD")


def resolve(version: str) -> pins.Pin:
    """The pin of a release, which is downloaded if the project does not know it. Raises FetchError."""
    if not re.fullmatch(r"[0-9][0-9A-Za-z.]*", version):
        raise FetchError(f"version of {PACKAGE} must look like 0.3.30, got {version!r}")
    for pin in pins.known():
        if pin.version == version:
            return pin
    cached = [path for path in fetch.downloaded(PACKAGE, version) if _is_whole(path)]
    if not cached:
        print(f"downloading {PACKAGE} {version}, which is not in releases.json", file=sys.stderr, flush=True)
    archive = cached[0] if len(cached) == 1 else fetch.download(PACKAGE, version)
    commit = commit_of(archive)
    if not commit:
        print(f"{archive.name} does not say which commit of llama.cpp it holds", file=sys.stderr, flush=True)
    return pins.Pin(fetch.sha256_of(archive), commit, PACKAGE, version)


def _is_whole(archive: Path) -> bool:
    return archive.name.endswith(f"-{fetch.sha256_of(archive)[:16]}.tar.gz")


def commit_of(archive: Path) -> str:
    """The commit of llama.cpp in an sdist of the carrier; empty if the sdist does not say."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if PurePosixPath(*PurePosixPath(member.name).parts[1:]) == _HEAD and member.isfile():
                stream = tar.extractfile(member)
                text = stream.read(200).decode("ascii", "replace").strip() if stream else ""
                return text if re.fullmatch(r"[0-9a-f]{40}", text) else ""
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.source.releases", description=__doc__.splitlines()[0])
    parser.add_argument("version", help=f"a release of {PACKAGE}")
    try:
        print(resolve(parser.parse_args().version).dumps(), end="")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
