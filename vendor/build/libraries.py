"""The interface of a native build: the libraries to link with and the modules to ship, wherever they came from."""

from __future__ import annotations

import abc
import json
import re
from pathlib import Path

from vendor.build import elf


class Libraries(abc.ABC):
    """Native libraries to compile the extension against and to put inside the package."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Changes when the extension must be recompiled."""

    @property
    @abc.abstractmethod
    def lib(self) -> Path:
        """The folder with the libraries that the extension is linked with, once `make` has run."""

    @property
    @abc.abstractmethod
    def headers(self) -> list[Path]:
        """The folders with llama.cpp's public headers."""

    @property
    @abc.abstractmethod
    def linked(self) -> list[str]:
        """The names of the files that the extension is linked with."""

    @property
    @abc.abstractmethod
    def flags(self) -> tuple[str, ...]:
        """A sanitizer's compiler flags, for the extension too; empty in an ordinary build."""

    @property
    @abc.abstractmethod
    def about(self) -> dict[str, object]:
        """Where the libraries came from, for the manifest."""

    @abc.abstractmethod
    def make(self) -> None:
        """Build or copy the libraries, unless that is done. Raises BuildError."""

    @abc.abstractmethod
    def files(self) -> dict[str, Path]:
        """What goes into the package, by name. Only after `make`."""

    @abc.abstractmethod
    def modules(self) -> dict[str, list[str]]:
        """The files of each backend, by the backend's name; an empty list if it is part of a linked library."""

    def licenses(self) -> dict[str, Path]:
        """The licences of what goes into the package, by their file names there."""
        return {}

    def manifest(self) -> str:
        """The text of the package's `lib/manifest.json`, which it reads at run time. Only after `make`."""
        about = {**self.about, "linked": self.linked, "modules": self.modules(), "ids": self.ids()}
        return json.dumps(about, indent=1) + "\n"

    def ids(self) -> dict[str, str]:
        """The id of each file that goes into the package, by name. Only after `make`."""
        return {name: elf.identify(path) for name, path in self.files().items()}


def module_name(file: str, suffix: str) -> str | None:
    """The backend that a module belongs to: `cpu` for `libggml-cpu-haswell.so`. None for any other library."""
    found = re.fullmatch(rf"libggml-(?!(?:base|cffi)\b)([a-z0-9]+)(?:-[\w.]+?)?{suffix}\.so(?:\.\d+)*", file)
    return found[1] if found else None


def library_name(file: str) -> str:
    """A library's name without prefix, suffix and version: `ggml-base`, `llama`, or the backend of a module."""
    bare = re.sub(r"(-cffi)?\.so.*$", "", file.removeprefix("lib"))
    return module_name(f"lib{bare}.so", "") or bare
