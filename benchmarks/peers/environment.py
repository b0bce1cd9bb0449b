"""Installs each peer into its own virtual environment in the cache.

llama-cpp-python is installed from its source distribution, without compiling the llama.cpp in it: its CMake file has a
switch for that. At run time it gets links to the libraries of this package, so that only the binding differs. The
others are wheels that contain their own libraries.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vendor.build.recipe import LINKED, SUFFIX
from vendor.source import fetch, pin as pins
from vendor.tools import FetchError

ROOT = Path(__file__).resolve().parent.parent.parent
LIB = ROOT / "llama_cffi" / "lib"

RECIPE = "1"  # raise it when `make` changes what it installs for the same peer
TIMEOUT_S = 900  # for pip, per peer
READY = "made.txt"  # written last: the environment is complete

# Variables that pip sets for build backends, and settings for the build of this package.
_NOT_FOR_PIP = ("PYTHONPATH", "PYTHONHOME", "PIP_BUILD_TRACKER", "PIP_REQ_TRACKER", "CMAKE_ARGS", "SKBUILD_CMAKE_ARGS")


class PeerError(RuntimeError):
    """A peer cannot take part; the message says why."""


@dataclass(frozen=True)
class Peer:
    """Another binding and what pip installs for it."""

    name: str  # on PyPI
    version: str
    module: str  # to import
    script: str  # in this folder
    needs: tuple[str, ...] = ()  # all dependencies, pinned
    ours: bool = False  # a package that can contain the pinned llama.cpp: it runs with this package's libraries
    note: str = ""

    @property
    def digest(self) -> str:
        """A digest of everything that determines the environment."""
        seed = repr(
            (RECIPE, self.name, self.version, self.needs, self.ours, sys.version, sys.base_prefix, platform.machine())
        )
        return hashlib.sha256(seed.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        return pins.cache_root() / "peers" / self.digest

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"


def is_made(peer: Peer) -> bool:
    """Return whether the environment is complete."""
    return (peer.folder / READY).is_file()


def make(peer: Peer) -> Path:
    """Install the peer unless the cache has it. Returns its Python. Raises PeerError if that fails."""
    if not is_made(peer):
        peer.folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(peer.folder.with_suffix(".lock")):
            if not is_made(peer):
                _make(peer)
    return peer.python


def _make(peer: Peer) -> None:
    print(f"installing {peer.name} {peer.version} for comparison", file=sys.stderr, flush=True)
    started = time.monotonic()
    sources = [str(_sdist(peer))] if peer.ours else [f"{peer.name}=={peer.version}"]
    shutil.rmtree(peer.folder, ignore_errors=True)  # left by an interrupted run
    try:
        _run([sys.executable, "-m", "venv", str(peer.folder)])
        install = [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if peer.needs:
            _run([*install, "--only-binary", ":all:", *peer.needs])
        # The dependencies are installed already: pip must not fetch newer ones.
        _run([*install, "--no-deps", *(WITHOUT_LLAMA if peer.ours else WHEEL), *sources])
    except PeerError:
        shutil.rmtree(peer.folder, ignore_errors=True)
        raise
    (peer.folder / READY).write_text(f"{peer.name} {peer.version}\n", encoding="utf-8")
    seconds = time.monotonic() - started
    print(f"installing {peer.name} {peer.version}: done in {seconds:.0f} s", file=sys.stderr, flush=True)


# llama-cpp-python's CMakeLists.txt adds llama.cpp only if LLAMA_BUILD is on; nothing is compiled without it.
WITHOUT_LLAMA = ("--config-settings=cmake.define.LLAMA_BUILD=OFF",)
WHEEL = ("--only-binary", ":all:")


def _sdist(peer: Peer) -> Path:
    """The pinned source distribution; the build of this package has put it into the cache."""
    pin = pins.load()
    if pin.is_tree or (pin.package, pin.version) != (peer.name, peer.version):
        raise PeerError(
            f"the pin is {pin.label}, which no release of {peer.name} contains: its declarations would not match the "
            f"libraries. In a checkout that is pinned to one (`make upgrade VERSION={peer.version}`), it takes part"
        )
    found = [path for path in fetch.downloaded(pin.package, pin.version) if pin.sha256[:16] in path.name]
    try:
        return found[0] if found else fetch.download(pin.package, pin.version, pin.sha256)
    except FetchError as error:
        raise PeerError(str(error)) from None


def _run(command: Sequence[str]) -> None:
    env = {key: value for key, value in os.environ.items() if key not in _NOT_FOR_PIP}
    try:
        result = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{command[0]} failed: {error}") from None
    if result.returncode != 0:
        errors = [line for line in result.stdout.splitlines() if line.lower().startswith("error")]
        said = errors or result.stdout.strip().splitlines() or ["pip failed without a message"]
        raise PeerError(said[-1].removeprefix("ERROR: "))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock: two runs must not write to one folder."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def links(lib: Path = LIB) -> dict[str, Path]:
    """Map file names to the libraries of this package: the names that llama-cpp-python loads, and the real names.

    The libraries find each other by their real names, because the dynamic linker searches the folder of the link.
    Raises PeerError if one is missing, or if they were built from another llama.cpp than the pinned one.
    """
    found: dict[str, Path] = {}
    for name in LINKED:
        path = lib / f"lib{name}{SUFFIX}.so"
        if not path.is_file():
            raise PeerError(f"{lib} has no {path.name}: run `make build`")
        found[f"lib{name}.so"] = found[path.name] = path.resolve()
    built = json.loads((lib / "manifest.json").read_text(encoding="utf-8"))["llama_cpp"]
    if built != pins.load().label:
        raise PeerError(f"the libraries in {lib} are of {built}, but its declarations are of {pins.load().label}")
    return found


def link(folder: Path, lib: Path = LIB) -> Path:
    """Create the links in a folder. Returns the folder, for `LLAMA_CPP_LIB_PATH`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in links(lib).items():
        place = folder / name
        place.unlink(missing_ok=True)
        place.symlink_to(path)
    return folder


def try_import(peer: Peer, env: Mapping[str, str]) -> None:
    """Import the peer in a new process. Raises PeerError with its output if that fails."""
    command = [str(peer.python), "-c", f"import {peer.module}"]
    try:
        result = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"it is installed but cannot be imported: {error}") from None
    if result.returncode != 0:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise PeerError(f"it is installed but cannot be imported: {said[-1]}")
