"""Puts each peer into a virtual environment of its own, in the cache.

llama-cpp-python is installed from its source distribution without the llama.cpp in it: the CMake file there has a
switch for that. At run time it gets links to the libraries of this package, so that only the binding differs. The
others are wheels with libraries of their own.
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

from vendor.build import native
from vendor.source import fetch, pin as pins
from vendor.tools import FetchError

ROOT = Path(__file__).resolve().parent.parent.parent
LIB = ROOT / "llama_cffi" / "lib"

RECIPE = "1"  # to be raised when `make` makes something else of the same peer
SECONDS = 900  # that pip may take for one peer
READY = "made.txt"  # the last file that is written

# What pip would set by itself when it calls a build backend, or a user's settings for our own build.
_NOT_FOR_PIP = ("PYTHONPATH", "PYTHONHOME", "PIP_BUILD_TRACKER", "PIP_REQ_TRACKER", "CMAKE_ARGS", "SKBUILD_CMAKE_ARGS")


class PeerError(RuntimeError):
    """A peer cannot take part; the text says why."""


@dataclass(frozen=True)
class Peer:
    """Another binding, and what pip installs for it."""

    name: str  # as PyPI has it
    version: str
    module: str  # what a program imports
    script: str  # in this folder
    needs: tuple[str, ...] = ()  # everything that it depends on, pinned
    ours: bool = False  # it is the package that carries the pinned llama.cpp, and runs with this package's libraries
    note: str = ""

    @property
    def digest(self) -> str:
        """Of everything that goes into its environment."""
        seed = repr(
            (RECIPE, self.name, self.version, self.needs, self.ours, sys.version, sys.base_prefix, platform.machine())
        )
        return hashlib.sha256(seed.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where its environment is, or will be."""
        return pins.cache_root() / "peers" / self.digest

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"


def is_made(peer: Peer) -> bool:
    """Whether the environment is there already."""
    return (peer.folder / READY).is_file()


def make(peer: Peer) -> Path:
    """The environment's interpreter, with everything installed first unless the cache has it. Raises PeerError."""
    if not is_made(peer):
        peer.folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(peer.folder.with_suffix(".lock")):
            if not is_made(peer):
                _make(peer)
    return peer.python


def _make(peer: Peer) -> None:
    print(f"installing {peer.name} {peer.version} for comparison", file=sys.stderr, flush=True)
    started = time.monotonic()
    sources = [str(_sdist(peer))] if peer.ours else [f"{peer.name}=={peer.version}"]
    shutil.rmtree(peer.folder, ignore_errors=True)  # an interrupted run left it
    try:
        _run([sys.executable, "-m", "venv", str(peer.folder)])
        install = [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if peer.needs:
            _run([*install, "--only-binary", ":all:", *peer.needs])
        # Its dependencies are there already: pip must not look for newer ones.
        _run([*install, "--no-deps", *(WITHOUT_LLAMA if peer.ours else WHEEL), *sources])
    except PeerError:
        shutil.rmtree(peer.folder, ignore_errors=True)
        raise
    (peer.folder / READY).write_text(f"{peer.name} {peer.version}\n", encoding="utf-8")
    seconds = time.monotonic() - started
    print(f"installing {peer.name} {peer.version}: done in {seconds:.0f} s", file=sys.stderr, flush=True)


# llama-cpp-python's CMakeLists.txt asks `LLAMA_BUILD` before it adds llama.cpp; without it nothing is compiled.
WITHOUT_LLAMA = ("--config-settings=cmake.define.LLAMA_BUILD=OFF",)
WHEEL = ("--only-binary", ":all:")


def _sdist(peer: Peer) -> Path:
    """The pinned source distribution, which the build of this package has put into the cache."""
    pin = pins.load()
    if pin.is_tree or (pin.package, pin.version) != (peer.name, peer.version):
        raise PeerError(
            f"the pin is {pin.label}, which no release of {peer.name} carries: its declarations would not match"
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
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{command[0]} did not end well: {error}") from None
    if result.returncode != 0:
        errors = [line for line in result.stdout.splitlines() if line.lower().startswith("error")]
        said = errors or result.stdout.strip().splitlines() or ["pip failed and did not say why"]
        raise PeerError(said[-1].removeprefix("ERROR: "))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two runs would write into the same folder: the second waits."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def links(lib: Path = LIB) -> dict[str, Path]:
    """Names to files: the libraries of this package as llama-cpp-python looks for them, and under their own names.

    Their own are those by which they find each other: the dynamic linker searches the folder of the link. Raises
    PeerError where they are missing, or of another llama.cpp than the pinned one.
    """
    found: dict[str, Path] = {}
    for name in native.LINKED:
        path = lib / f"lib{name}{native.SUFFIX}.so"
        if not path.is_file():
            raise PeerError(f"{lib} has no {path.name}: run `make build`")
        found[f"lib{name}.so"] = found[path.name] = path.resolve()
    built = json.loads((lib / "manifest.json").read_text(encoding="utf-8"))["llama_cpp"]
    if built != pins.load().label:
        raise PeerError(f"the libraries in {lib} are of {built}, and its declarations of {pins.load().label}")
    return found


def link(folder: Path, lib: Path = LIB) -> Path:
    """Make the links in a folder, which is the value of `LLAMA_CPP_LIB_PATH`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in links(lib).items():
        place = folder / name
        place.unlink(missing_ok=True)
        place.symlink_to(path)
    return folder


def try_import(peer: Peer, env: Mapping[str, str]) -> None:
    """Import it in a process of its own. Raises PeerError with what that said."""
    command = [str(peer.python), "-c", f"import {peer.module}"]
    try:
        result = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"it is installed, and cannot be imported: {error}") from None
    if result.returncode != 0:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise PeerError(f"it is installed, and cannot be imported: {said[-1]}")
