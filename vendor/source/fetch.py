"""Fetch the pinned llama.cpp source: `python -m vendor.source.fetch [--vectors]`.

The source is taken from a package's sdist. pip downloads it, so the user's index, proxy and certificates apply. If the
pin is a commit of a repository, git fetches it. A source distribution of this package contains it already. The files
are stored unchanged, in the cache, under the pin's digest. An interrupted run leaves nothing incomplete.

What this project changes in llama.cpp, it changes when it is compiled: see `vendor/build/overrides`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from vendor.progress import Progress
from vendor.scratch import scratch_folder
from vendor.source import carriers, pin as pins, trees
from vendor.tools import FetchError

# Parts of llama.cpp's tree that a library build reads. The rest (tools, docs, tests, 75 MB of models) is not unpacked.
BUILD_PARTS = ("CMakeLists.txt", "LICENSE", "AUTHORS", "cmake", "ggml", "include", "licenses", "src", "vendor")

# The sources of llama.cpp's programs that benchmarks run. They are linked to the libraries that exist already.
PROGRAM_PARTS = (
    *("common", "include", "vendor", "ggml/include", "src"),
    *("tools/llama-bench", "tools/batched-bench", "tools/server", "tools/mtmd", "tools/ui"),
)

# llama.cpp's chat code, and what it includes. The folder in the cache has another name if these change.
CHAT_PARTS = ("common", "include", "ggml/include", "src/llama-ext.h", "vendor/nlohmann")
_CHAT = "chat-2"

# llama.cpp's code for images and sound, and what it includes.
MTMD_PARTS = (
    *("tools/mtmd", "include", "ggml/include", "src/llama-ext.h"),
    *("vendor/hash", "vendor/miniaudio", "vendor/sheredom", "vendor/stb"),
)

# Where a source distribution of this package holds the tree, and what says that it is the pinned one.
BUNDLED = Path(__file__).resolve().parents[1] / "llama.cpp"
_PROOF = BUNDLED.with_suffix(".json")


def source_dir(pin: pins.Pin | None = None) -> Path:
    """The llama.cpp tree to use, which is fetched if it is the pinned one and not in the cache yet.

    `LLAMA_CPP_SOURCE` names another checkout of llama.cpp. If the pin is a tree that no package carries, it must be
    that tree. Raises FetchError.
    """
    return _override() or _bundled("include/llama.h", "source") or _cached(pin or pins.load(), "source")


def programs_dir(pin: pins.Pin | None = None) -> Path:
    """A llama.cpp tree with the sources of the programs that benchmarks run, or the checkout of `LLAMA_CPP_SOURCE`."""
    return _override() or _cached(pin or pins.load(), "programs")


def chat_dir(pin: pins.Pin | None = None) -> Path:
    """A llama.cpp tree with the sources of its chat code, or the checkout of `LLAMA_CPP_SOURCE`."""
    return _override() or _bundled("common/chat.h", _CHAT) or _cached(pin or pins.load(), _CHAT)


def mtmd_dir(pin: pins.Pin | None = None) -> Path:
    """A llama.cpp tree with its code for images and sound, or the checkout of `LLAMA_CPP_SOURCE`."""
    return _override() or _bundled("tools/mtmd/mtmd.h", "mtmd") or _cached(pin or pins.load(), "mtmd")


def _bundled(file: str, kind: str) -> Path | None:
    """The tree of a source distribution; the same tree in the cache if it is there, so that builds can share work."""
    if not (BUNDLED / file).is_file():
        return None
    cached = _target(pins.load(), kind)
    return cached if cached.is_dir() and bundled_is_pinned() else BUNDLED


@functools.cache
def bundled_is_pinned() -> bool:
    """True if the tree of a source distribution is the pinned one, unchanged since the distribution was made."""
    if not _PROOF.is_file():
        return False
    proof: dict[str, str] = json.loads(_PROOF.read_text(encoding="utf-8"))
    return proof == _proof(BUNDLED)


def bundle(folder: Path) -> None:
    """Put llama.cpp's tree into `folder`, a source distribution in the making, with a proof of its pin."""
    tree = folder / BUNDLED.relative_to(BUNDLED.parents[1])
    sources = (source_dir(), chat_dir(), mtmd_dir())
    for source in sources:
        shutil.copytree(source, tree, dirs_exist_ok=True)
    if all(is_pinned(source) for source in sources):
        tree.with_suffix(_PROOF.suffix).write_text(json.dumps(_proof(tree), indent=1) + "\n", encoding="utf-8")


def _proof(tree: Path) -> dict[str, str]:
    return {"pin": pins.load().sha256, "tree": trees.digest(tree, (*trees.SOURCE_PARTS, "common", "tools"))}


def is_pinned(tree: Path) -> bool:
    """True if a tree that a function here returned is the pinned one, so that the pin can stand for it."""
    return not os.environ.get("LLAMA_CPP_SOURCE") and (tree != BUNDLED or bundled_is_pinned())


def _override() -> Path | None:
    override = os.environ.get("LLAMA_CPP_SOURCE")
    if not override:
        return None
    tree = trees.checked(Path(override), f"LLAMA_CPP_SOURCE={override}")
    pin = pins.load()
    if pin.is_tree and (found := trees.digest(tree)) != pin.sha256:
        raise FetchError(
            f"LLAMA_CPP_SOURCE={override} is not the pinned tree ({pin.label}): expected the digest {pin.sha256} of "
            f"vendor/source/pin.json, got {found}. `make upgrade SOURCE={override}` moves the pin there."
        )
    return tree


def vectors_dir(pin: pins.Pin | None = None) -> Path:
    """The folder with llama.cpp's vocab-only GGUF files and their tokenizer test vectors. Raises FetchError."""
    override = os.environ.get("LLAMA_CPP_SOURCE")
    if override and any((Path(override) / "models").glob("ggml-vocab-*.gguf")):
        return Path(override).resolve() / "models"
    pin = pin or pins.load()
    if pin.is_tree and not _target(pin, "vectors").is_dir() and _target(pin, "source").is_dir():
        pin = pins.known()[-1]  # the tree has none
    return _cached(pin, "vectors") / "models"


def chat_tests_dir(pin: pins.Pin | None = None) -> Path:
    """The folder with llama.cpp's tests of chat templates, and its collection of templates. Raises FetchError."""
    override = os.environ.get("LLAMA_CPP_SOURCE")
    if override and (Path(override) / "tests" / "test-chat.cpp").is_file():
        return Path(override).resolve()
    pin = pin or pins.load()
    if pin.is_tree and not _target(pin, "chat-tests").is_dir() and _target(pin, "source").is_dir():
        pin = pins.known()[-1]  # the tree has none
    return _cached(pin, "chat-tests")


def _is_build_part(path: PurePosixPath) -> bool:
    return path.parts[0] in BUILD_PARTS


_SOURCES = {".c", ".cpp", ".h", ".hpp", ".in"}


def _is_program_part(path: PurePosixPath) -> bool:
    return path.suffix in _SOURCES and any(path.is_relative_to(part) for part in PROGRAM_PARTS)


def _is_chat_part(path: PurePosixPath) -> bool:
    return path.suffix in _SOURCES and any(path.is_relative_to(part) for part in CHAT_PARTS)


def _is_mtmd_part(path: PurePosixPath) -> bool:
    source = path.suffix in _SOURCES or path.name.startswith("LICENSE")
    return source and any(path.is_relative_to(part) for part in MTMD_PARTS)


def _is_vector(path: PurePosixPath) -> bool:
    return len(path.parts) == 2 and path.parts[0] == "models" and path.name.startswith("ggml-vocab-")


def _is_chat_test(path: PurePosixPath) -> bool:
    return path.match("tests/test-chat*.cpp") or path.match("models/templates/*.jinja")


_KINDS = {
    "source": _is_build_part,
    "programs": _is_program_part,
    _CHAT: _is_chat_part,
    "mtmd": _is_mtmd_part,
    "vectors": _is_vector,
    "chat-tests": _is_chat_test,
}


# Folders that hold any of it.
_PARTS = (*PROGRAM_PARTS, *CHAT_PARTS, *MTMD_PARTS)
_TOPS = {*BUILD_PARTS, *(PurePosixPath(part).parts[0] for part in _PARTS), "models", "tests"}


def _target(pin: pins.Pin, kind: str) -> Path:
    return pins.cache_root() / kind / pin.sha256[:16]


def _cached(pin: pins.Pin, kind: str) -> Path:
    target = _target(pin, kind)
    if target.is_dir():
        return target
    if pin.is_tree:
        _clone(pin)
        if not target.is_dir():
            raise FetchError(f"{pin.label} has no files of the kind {kind!r}")
        return target
    archive = _archive(pin)
    with scratch_folder(target.parent) as scratch:
        tree = scratch / "tree"
        unpack(archive, carriers.of(pin.package).tree, tree, _KINDS[kind], kind)
        _publish(tree, target)
    return target


def adopt(tree: Path, pin: pins.Pin) -> None:
    """Copy the parts of a tree that builds, benchmarks and tests read into the cache, under its pin."""
    for kind, wanted in _KINDS.items():
        target = _target(pin, kind)
        paths = [] if target.is_dir() else [path for path in _files(tree) if wanted(path)]
        if not paths:
            continue
        with scratch_folder(target.parent) as scratch:
            for path in paths:
                out = scratch / "tree" / path
                out.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree / path, out)
                shutil.copymode(tree / path, out)
            if kind == "source" and trees.digest(scratch / "tree") != pin.sha256:
                raise FetchError(f"{tree} is not the pinned tree ({pin.label}): its digest differs")
            _publish(scratch / "tree", target)


def _files(tree: Path) -> Iterator[PurePosixPath]:
    for folder, below, names in os.walk(tree):
        here = PurePosixPath(folder).relative_to(tree)
        below[:] = sorted(name for name in below if name != ".git" and (here.parts or name in _TOPS))
        yield from (here / name for name in sorted(names))


def _clone(pin: pins.Pin) -> None:
    """Fetch a commit from its repository into the cache. Raises FetchError if the pin names none or git fails."""
    if not pin.repository:
        raise FetchError(
            f"the pinned tree cannot be fetched, because its pin names no repository: {pin.label}. Set "
            f"LLAMA_CPP_SOURCE to a copy of it (with the digest {pin.sha256}), or move the pin with `make upgrade`."
        )
    print(f"fetching {pin.label} from {pin.repository}", file=sys.stderr, flush=True)
    with scratch_folder(pins.cache_root() / "source") as scratch:
        for words in (
            ["init", "--quiet"],
            ["fetch", "--quiet", "--depth", "1", pin.repository, pin.commit],
            ["-c", "core.autocrlf=false", "checkout", "--quiet", "--detach", pin.commit],
        ):
            command = ["git", "-C", str(scratch), *words]
            try:
                result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            except FileNotFoundError:
                raise FetchError("git is missing, and the pin is a commit of a repository: install git") from None
            if result.returncode != 0:
                raise FetchError(
                    f"git could not fetch {pin.label} from {pin.repository}: {result.stdout.strip()[-500:]}\n"
                    "Check the network, or set LLAMA_CPP_SOURCE to a checkout of that commit."
                )
        adopt(scratch, pin)


def _archive(pin: pins.Pin) -> Path:
    target = _download_target(pin.package, pin.version, pin.sha256)
    if not target.is_file():
        print(f"downloading {pin.package} {pin.version} (carries {pin.label})", file=sys.stderr, flush=True)
        download(pin.package, pin.version, pin.sha256)
    return target


def _download_target(package: str, version: str, sha256: str) -> Path:
    return pins.cache_root() / "download" / f"{package}-{version}-{sha256[:16]}.tar.gz"


def downloaded(package: str, version: str) -> list[Path]:
    """The sdists of a release in the cache."""
    return sorted((pins.cache_root() / "download").glob(f"{package}-{version}-{'?' * 16}.tar.gz"))


def download(package: str, version: str, sha256: str = "") -> Path:
    """Download the sdist of a release into the cache, with pip. Without `sha256`, only the index's hash is checked."""
    folder = _download_target(package, version, sha256).parent
    with scratch_folder(folder) as scratch:
        file = pip_download(package, version, sha256, scratch, "tar.gz")
        if file is None:
            raise FetchError(
                f"pip could not download the source of {package} {version}. Check the network and pip's index settings "
                "(`pip config list`), or set LLAMA_CPP_SOURCE to a llama.cpp checkout."
            )
        if sha256:
            _verify(file, sha256)
        target = _download_target(package, version, sha256 or sha256_of(file))
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())  # a later build trusts the name
        os.replace(file, target)
    return target


def pip_download(
    package: str, version: str, sha256: str, folder: Path, suffix: Literal["tar.gz", "whl"]
) -> Path | None:
    """Download one file of a release into `folder`, with pip and without dependencies: the sdist or the wheel.

    Returns its path; None if pip failed, which has written why to stderr. Without `sha256`, only the index's hash is
    checked.
    """
    requirements = folder / "requirements.txt"
    pinned = f" --hash=sha256:{sha256}" if sha256 else ""
    requirements.write_text(f"{package}=={version}{pinned}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary" if suffix == "whl" else "--no-binary", package]
    command += [*(["--require-hashes"] if sha256 else []), "-r", str(requirements), "-d", str(folder)]
    result = subprocess.run(command, env=pip_environment(), stdout=sys.stderr)
    files = sorted(folder.glob(f"*.{suffix}"))
    return files[0] if result.returncode == 0 and len(files) == 1 else None


def pip_environment() -> dict[str, str]:
    """The environment for pip: the build isolation of an outer pip must not affect it."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_BUILD_TRACKER", "PIP_REQ_TRACKER")}


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise FetchError(
            f"{path.name} has sha256 {found}, but the pin says {sha256}: the index served another file. "
            "Do not use it, and check vendor/source/pin.json."
        )


def unpack(archive: Path, folder: str, tree: Path, wanted: Callable[[PurePosixPath], bool], what: str) -> None:
    """Unpack files of one folder of an sdist, which lies below its top folder. Raises FetchError if there are none."""
    tree.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        members = [
            (m, p) for m in tar for p in [carriers.below(m.name, folder)] if p is not None and m.isfile() and wanted(p)
        ]
        if not members:
            raise FetchError(
                f"{archive.name} has no {what} in {folder}: use another version of the package, or name a llama.cpp "
                "checkout with LLAMA_CPP_SOURCE"
            )
        progress = Progress(f"unpacking {what}", len(members))
        for done, (member, path) in enumerate(members, 1):
            out = tree / path
            out.parent.mkdir(parents=True, exist_ok=True)
            stream = tar.extractfile(member)
            assert stream is not None, member.name
            with stream, out.open("wb") as sink:
                shutil.copyfileobj(stream, sink)
            out.chmod(0o755 if member.mode & 0o100 else 0o644)
            progress.update(done)
        progress.finish()


def _publish(made: Path, target: Path) -> None:
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster, with the same bytes
            raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.source.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", action="store_true", help="also unpack the tokenizer test vectors")
    args = parser.parse_args()
    try:
        print(source_dir())
        if args.vectors:
            print(vectors_dir())
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
