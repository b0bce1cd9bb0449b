"""Loads versions of llama.cpp's API to compare: from `codegen/diff/history/`, snapshots, source trees or releases."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from codegen.api import snapshot
from codegen.api.model import Api, CodegenError
from codegen.read import defaults as default_values
from codegen.read.defaults import Defaults
from vendor.source import fetch, pin
from vendor.source.pin import Pin
from vendor.tools import FetchError

FOLDER = Path(__file__).with_name("history")
RELEASES = pin.PIN_FILE.with_name("releases.json")


@dataclass(frozen=True)
class Version:
    """One version of the API, and the defaults of its parameters if they are known."""

    api: Api
    defaults: Defaults | None = None
    source: Path | None = None  # the tree that the API was read from; None for a snapshot
    folders: tuple[Path, ...] = ()  # the folders with the headers

    @property
    def label(self) -> str:
        return self.api.pin


def load(path: Path) -> Version:
    """Read a snapshot of either form. Raises CodegenError if the file is not a snapshot."""
    api = snapshot.load(path)
    return Version(api, json.loads(path.read_text(encoding="utf-8")).get("defaults"))


def dumps(version: Version) -> str:
    """Return the text of a file in `codegen/diff/history/`."""
    more = {} if version.defaults is None else {"defaults": dict(version.defaults)}
    return snapshot.dumps_small(version.api, **more)


def names() -> list[str]:
    """Return the names of the releases with a snapshot, that with the oldest llama.cpp first."""
    order = list(releases())
    found = (path.stem for path in FOLDER.glob("*.json"))
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def read_tree(tree: Path, label: str, mtmd: Path | None = None) -> Version:
    """Return the API of a llama.cpp source tree. Functions have no homes, because nothing is built.

    `mtmd` is the tree with mtmd's headers, if it is another one.
    """
    from codegen.read import headers, parse, probe  # local: snapshots can be compared without pycparser

    folders = include_folders(tree, mtmd)
    return Version(probe.measure(parse.parse(headers.preprocess(folders), label), folders), None, tree, tuple(folders))


def include_folders(tree: Path, mtmd: Path | None = None) -> list[Path]:
    """Return the folders with the public headers of a source tree, and of the one with mtmd's if it is another one."""
    folders = (tree / "include", tree / "ggml" / "include", (mtmd or tree) / "tools" / "mtmd")
    return [folder for folder in folders if folder.is_dir()]


def resolve(argument: str) -> Version:
    """Load what an argument names: a snapshot file, a llama.cpp source tree, or a release of a carrier package."""
    path = Path(argument).expanduser()
    if path.is_file():
        found = load(path)
        same = (load(FOLDER / f"{name}.json") for name in names() if found.defaults is None)
        return replace(
            found, defaults=next((known.defaults for known in same if known.label == found.label), found.defaults)
        )
    if path.is_dir():
        if not (path / "include" / "llama.h").is_file():
            raise CodegenError(f"{argument} is not a llama.cpp source tree: it has no include/llama.h")
        return read_tree(path.resolve(), f"the tree {path.name or path.resolve().name}")
    if (FOLDER / f"{argument}.json").is_file():
        return load(FOLDER / f"{argument}.json")
    pins = releases()
    if argument in pins:
        return fetched(pins[argument])
    from vendor.source import releases as published

    try:
        return fetched(published.resolve(argument))
    except FetchError as error:
        raise CodegenError(
            f"expected a snapshot file, a llama.cpp source tree or a version, got {argument} ({error}): known versions "
            f"are {', '.join(pins)}"
        ) from None


def releases() -> dict[str, Pin]:
    """Return the known releases by name, that with the oldest llama.cpp first, and the pinned one."""
    rows = json.loads(RELEASES.read_text(encoding="utf-8"))
    return {one.name: one for one in (*(Pin(**row) for row in rows), pin.load())}


def fetched(release: Pin) -> Version:
    """Return a release's API, read from its source, which is fetched unless it is in the cache."""
    if os.environ.get("LLAMA_CPP_SOURCE"):
        raise CodegenError(
            "LLAMA_CPP_SOURCE would replace the source of every release: unset it, or pass the tree as an argument"
        )
    try:
        return read_tree(fetch.source_dir(release), release.label, fetch.mtmd_dir(release))
    except FetchError as error:
        raise CodegenError(str(error)) from None


def libraries(version: Version, build: bool = False) -> Path | None:
    """Return the folder of this package's build of a version; None if there is no build, or no source to build."""
    if version.label == pin.load().label:
        return default_values.built(None, build)
    return None if version.source is None else default_values.built(version.source, build)


def with_defaults(version: Version, lib: Path | None = None, build: bool = False) -> Version:
    """Return the version with its defaults, if they are known or can be read from a build."""
    if version.defaults is not None and lib is None:
        return version
    release = next((one for one in releases().values() if one.label == version.label), None)
    if version.source is None and release is not None and (lib is not None or build or _is_fetched(release)):
        tree = fetched(release)
        version = replace(version, source=tree.source, folders=tree.folders)
    lib = lib or libraries(version, build)
    if lib is None or version.source is None:
        return version
    return replace(version, defaults=default_values.ask(version.api, version.folders, lib))


def _is_fetched(release: Pin) -> bool:
    return (pin.cache_root() / "source" / release.sha256[:16]).is_dir()


def write(versions: Iterable[str] = (), libs: Mapping[str, Path] | None = None) -> list[Path]:
    """Write the snapshots of these versions, or of every known release. Known defaults are kept.

    `libs` maps versions to folders of built libraries to read defaults from.
    """
    known, written = releases(), []
    chosen = list(versions) or list(known)
    for version in chosen:
        if version not in known:
            raise CodegenError(f"version must be in vendor/source/releases.json ({', '.join(known)}), got {version}")
    for done, version in enumerate(chosen):
        print(f"{done + 1}/{len(chosen)}: {known[version].label}", file=sys.stderr, flush=True)
        path = FOLDER / f"{version}.json"
        new = with_defaults(fetched(known[version]), (libs or {}).get(version))
        if new.defaults is None and path.is_file():
            new = replace(new, defaults=load(path).defaults)
        path.parent.mkdir(exist_ok=True)
        path.write_text(dumps(new), encoding="utf-8")
        written.append(path)
    return written
