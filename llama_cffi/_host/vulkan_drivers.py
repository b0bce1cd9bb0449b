"""The installed Vulkan drivers, read from the same files as the Vulkan loader reads. No driver code runs here."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import NamedTuple

# Variables that replace the search; the second one is the older name of the first.
_OVERRIDES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


class Driver(NamedTuple):
    """An installed driver: its manifest file, and the library that the manifest names."""

    file: Path
    library: str
    problem: str
    """What is wrong with it; empty if nothing is known to be."""

    def __str__(self) -> str:
        return f"{self.file} ({self.problem})" if self.problem else str(self.file)


class Drivers(NamedTuple):
    """The drivers that were found, and the places that were searched."""

    found: list[Driver]
    places: list[str]
    override: str
    """The variable that replaced the search; empty if it is not set."""

    def __str__(self) -> str:
        """Completes "it looked for drivers at ..."."""
        places = ", ".join(self.places)
        looked = f"{self.override}={places}" if self.override else places
        return f"{looked}, and found {', '.join(map(str, self.found)) or 'none'}"


def installed() -> Drivers:
    """Return the drivers in the places where the loader of Linux distributions looks for them."""
    for name in _OVERRIDES:
        value = os.environ.get(name)
        if value:
            places = [place for place in value.split(":") if place]
            return Drivers([_read(path) for place in places for path in _files(place)], places, name)
    places = _search_path()
    added = [place for place in os.environ.get("VK_ADD_DRIVER_FILES", "").split(":") if place]
    return Drivers([_read(path) for place in (*added, *places) for path in _files(place)], [*added, *places], "")


def closed_nodes() -> list[str]:
    """Return the device files of GPUs that this user may not open."""
    nodes = sorted([*glob.glob("/dev/dri/renderD*"), *glob.glob("/dev/nvidia[0-9]*"), *glob.glob("/dev/nvidiactl")])
    return [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]


def _search_path() -> list[str]:
    def variable(name: str, default: str) -> list[str]:
        return (os.environ.get(name) or default).split(":")

    home = os.path.expanduser("~")
    tops = [
        *variable("XDG_CONFIG_HOME", f"{home}/.config"),
        *variable("XDG_CONFIG_DIRS", "/etc/xdg"),
        "/etc",
        *variable("XDG_DATA_HOME", f"{home}/.local/share"),
        *variable("XDG_DATA_DIRS", "/usr/local/share:/usr/share"),
    ]
    return [f"{top}/vulkan/icd.d" for top in dict.fromkeys(tops) if top]


def _files(place: str) -> list[Path]:
    """The manifests in a folder; or the file itself, even a missing one, if its name ends in .json."""
    path = Path(place)
    if path.is_dir():
        return sorted(path.glob("*.json"))
    return [path] if path.suffix == ".json" else []


def _read(file: Path) -> Driver:
    try:
        library = str(json.loads(file.read_text(encoding="utf-8"))["ICD"]["library_path"])
    except FileNotFoundError:
        return Driver(file, "", "the file does not exist")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Driver(file, "", f"cannot be read: {error}")
    # The dynamic linker searches for a bare name; any other path is relative to the folder of the manifest.
    if "/" in library and not (file.parent / library).exists():
        return Driver(file, library, f"its library {library} does not exist")
    return Driver(file, library, "")
