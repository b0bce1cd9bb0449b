"""Install the packages of extras, without the package itself: `python -m vendor.build.extras server`.

pip would build the package for `pip install '.[server]'`, with all variants, and replace an editable installation.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

_OF_EXTRA = re.compile(r"(?: and )?\bextra == ['\"]([^'\"]+)['\"]")


def by_extra(requirements: Iterable[str]) -> dict[str, list[str]]:
    """Return the requirements of each extra, of those that the metadata of a package has."""
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        name = _OF_EXTRA.search(requirement)
        if name is not None:
            plain = _OF_EXTRA.sub("", requirement).strip().removesuffix(";").strip()
            found.setdefault(name[1], []).append(plain)
    return found


def main(names: Sequence[str]) -> int:
    try:
        known = by_extra(metadata.requires("llama_cffi") or ())
    except metadata.PackageNotFoundError:
        print(
            "error: llama_cffi is not installed in this environment: run make run or make build first", file=sys.stderr
        )
        return 1
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"there is no extra {unknown[0]!r}" if unknown else "name an extra"
        print(f'error: {what}: make extras E="server constrain" takes {", ".join(sorted(known))}', file=sys.stderr)
        return 2
    packages = [package for name in names for package in known[name]]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
