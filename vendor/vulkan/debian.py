"""Unpack Debian packages of any release into a folder, without root and without installing them.

apt runs with separate package lists and a separate cache. It downloads from the mirror that the machine already uses,
and checks Debian's signatures as usual.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vendor.tools import BuildError

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_STATUS = Path("/var/lib/dpkg/status")


class Apt:
    """apt for one release of Debian (`suite`; None for the machine's own), in a scratch folder. Raises BuildError.

    `architecture` is Debian's name of another machine type, `arm64` for example.
    """

    def __init__(self, work: Path, suite: str | None, architecture: str | None = None) -> None:
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise BuildError(f"{tool} is missing: this works only on Debian and systems derived from it")
        uri, own = _mirror()
        self._work = work
        for part in ("lists/partial", "cache/archives/partial", "debs"):
            (work / part).mkdir(parents=True)
        sources = work / "sources.list"
        sources.write_text(f"deb [signed-by={_KEYS}] {uri} {suite or own} main\n", encoding="utf-8")
        status = work / "status"  # packages of another release do not rely on what is installed here
        own_packages = suite is None and architecture is None and _STATUS.is_file()
        status.write_bytes(_STATUS.read_bytes() if own_packages else b"")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::State": work,
            "Dir::State::lists": work / "lists",
            "Dir::State::status": status,
            "Dir::Cache": work / "cache",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "APT::Get::List-Cleanup": "false",
        }
        if architecture is not None:
            settings |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
        self._settings = [f"-o{key}={value}" for key, value in settings.items()]
        print(f"reading the package lists of Debian {suite or own}", file=sys.stderr, flush=True)
        self._run("apt-get", "update", "-qq")

    def closure(self, names: Sequence[str]) -> list[str]:
        """These packages and their dependencies, without those that are installed."""
        answer = self._run("apt-get", "install", "--simulate", "--no-remove", "-qq", *names)
        return re.findall(r"^Inst (\S+)", answer, re.MULTILINE)

    def unpack(self, names: Sequence[str], target: Path) -> dict[str, str]:
        """Download packages and unpack them into `target`. Returns their versions by name."""
        print(f"downloading {', '.join(names)}", file=sys.stderr, flush=True)
        debs = self._work / "debs"
        self._run("apt-get", "download", "-qq", *names, cwd=debs)
        versions: dict[str, str] = {}
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(deb), str(target)], check=True)
            fields = subprocess.run(["dpkg", "-f", str(deb), "Package", "Version"], capture_output=True, text=True)
            name, version = re.findall(r": (\S+)", fields.stdout)
            versions[name] = version
            deb.unlink()
        return versions

    def _run(self, command: str, *arguments: str, cwd: Path | None = None) -> str:
        words = [command, *self._settings, *arguments]
        result = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        if result.returncode != 0:
            raise BuildError(f"{command} {' '.join(arguments)} failed:\n{result.stderr.strip()[-2000:]}")
        return result.stdout


def _mirror() -> tuple[str, str]:
    """The address from which this machine gets Debian's main archive, and its release."""
    release = _os_release()
    if release.get("ID") == "debian" and _KEYS.is_file():
        own = release.get("VERSION_CODENAME", "stable")
        answer = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True).stdout
        found = re.search(rf"^'(\S+)/dists/{own}/InRelease'", answer, re.MULTILINE)
        if found:
            return found[1], own
    raise BuildError("no mirror found: this machine is not a Debian whose apt uses Debian's main archive")


def _os_release() -> dict[str, str]:
    path = Path("/etc/os-release")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {key: value.strip('"') for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)}
