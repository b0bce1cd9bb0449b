"""The other bindings of the contest: `contestants(folder)` installs them and returns how to start each.

Each is a program of this folder (`with_NAME.py`) in its own virtual environment; `protocol.py` describes its input and
output. A peer that cannot be installed or imported is left out, and `reasons` says why. `python -m benchmarks.peers`
installs all peers and prints the commands and the reasons.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import environment
from benchmarks.peers.environment import Peer, PeerError
from vendor.source import pin as pins

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Contestant:
    """A program of the contest: `command` takes a case and `key=value` arguments; `env` is added to the environment."""

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    note: str = ""
    version: str = ""


reasons: dict[str, str] = {}
"""Why a peer was left out, by name; `contestants` fills it."""


OTHERS = (
    Peer("cyllama", "0.2.18", "cyllama", "with_cyllama.py", note="its own llama.cpp in the wheel, for AVX2"),
    Peer(
        "xllamacpp", "2026.10.11549", "xllamacpp", "with_xllamacpp.py", note="its own llama.cpp in the wheel, for AVX2"
    ),
)

LEFT_OUT = {
    "easy-llama": "0.2.14 contains no library, and its structs are those of llama.cpp of July 2025: with the pinned "
    "one it crashes the interpreter when it loads a model",
    "llama-cpp-cffi": "0.4.42 loads models only by their name at Hugging Face, and its wheel has 290 MB",
    "llama-cpp-py-sync": "0.11739 is tagged manylinux2014, but its library needs glibc 2.38",
}
"""Peers that were tried by hand and cannot take part, with the reason."""


def peers() -> list[Peer]:
    """The peers to install, each at one version.

    llama-cpp-python is the pinned release or, if the pin is another llama.cpp, the newest that the project knows.
    """
    releases = [pin for pin in (*pins.known(), pins.load()) if pin.package == "llama-cpp-python"]
    carrier = Peer(
        "llama-cpp-python",
        releases[-1].version,
        "llama_cpp",
        "with_llama_cpp_python.py",
        ("numpy==2.2.6", "diskcache==5.6.3", "jinja2==3.1.6", "markupsafe==3.0.3", "typing-extensions==4.15.0"),
        ours=True,
        note="the same library files, the same CPU variant",
    )
    return [carrier, *OTHERS]


def contestants(folder: Path, cpu: Path | None = None) -> list[Contestant]:
    """Install the peers, which takes minutes the first time, and return how to start each.

    `folder` must outlive them: it gets links to this package's libraries. `cpu` is the file of the CPU variant to use;
    by default the one that the package chooses.
    """
    reasons.clear()
    reasons.update(LEFT_OUT)
    found = []
    for peer in peers():
        try:
            found.append(_contestant(peer, folder, cpu))
        except (PeerError, OSError) as why:
            reasons[peer.name] = str(why)
            print(f"{peer.name} is left out: {why}", file=sys.stderr, flush=True)
    return found


def installed(name: str, folder: Path, cpu: Path | None = None) -> Contestant:
    """How to start one peer, which must be installed already; `python -m benchmarks.peers` does that.

    Raises PeerError if it is not.
    """
    peer = next(peer for peer in peers() if peer.name == name)
    if not environment.is_made(peer):
        raise PeerError("it is not installed: `python -m benchmarks.peers` installs it")
    return _contestant(peer, folder, cpu)


def _contestant(peer: Peer, folder: Path, cpu: Path | None) -> Contestant:
    python = environment.make(peer)
    env: dict[str, str] = {}
    if peer.ours:
        env = {
            "LLAMA_CPP_LIB_PATH": str(environment.link(folder / peer.module)),
            "PEER_CPU_MODULE": str(cpu or chosen()),
        }
    environment.try_import(peer, env)
    return Contestant(peer.name, [str(python), str(HERE / peer.script)], env, peer.note, peer.version)


def chosen() -> Path:
    """The file of the CPU variant that the package chooses on this machine."""
    from llama_cffi import Ggml

    Ggml.Backend.cpuLoad()
    variant = Ggml.Backend.cpuVariant()
    assert variant is not None
    return variant.path
