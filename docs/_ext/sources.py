"""Finds the source of public names for sphinx.ext.viewcode: they are defined under other names, and in base classes.

It also makes the sidebar of the source's pages once for all of a folder: that took an eighth of a build.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from members import ours
from names import find, is_class
from reference import groups


@cache
def _sources() -> dict[str, tuple[str, str]]:
    """Return the module and the qualified name there of every public name."""
    found = {}
    for names in groups().values():
        for path in names:
            value = find(path)
            if is_class(value):
                found[path] = (value.__module__, value.__qualname__)
                for base in reversed(ours(value)):
                    for name in vars(base):
                        found[f"{path}.{name}"] = (base.__module__, f"{base.__qualname__}.{name}")
            elif inspect.isroutine(value):
                found[path] = (value.__module__, value.__qualname__)
    return found


@cache
def _code(module: str) -> tuple[str, dict[str, tuple[str, int, int]]]:
    """Return the source of a module, and its lines by public name."""
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.find_tags()
    tags = dict(analyzer.tags)
    for path, (home, name) in _sources().items():
        if home == module and name in tags:
            tags[path] = tags[name]
    return analyzer.code, tags


def _home(app: Sphinx, module: str, name: str) -> str | None:
    home, _ = _sources().get(name, (None, "")) if module == "llama_cffi" else (None, "")
    return None if home == "llama_cffi._generated.enums" else home


def _find_source(app: Sphinx, module: str) -> tuple[str, dict[str, tuple[str, int, int]]] | None:
    return _code(module) if any(home == module for home, _ in _sources().values()) else None


_sidebars: dict[tuple[int, str], str] = {}


def _one_sidebar(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Reuse the list of all pages for those that are not in it themselves: only the way to the top differs."""
    make = context.get("toctree")
    if doctree is not None or make is None:
        return

    def toctree(**options: Any) -> str:
        key = (page.count("/"), repr(options))
        if key not in _sidebars:
            _sidebars[key] = make(**options)
        return _sidebars[key]

    context["toctree"] = toctree


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("viewcode-follow-imported", _home)
    app.connect("viewcode-find-source", _find_source)
    app.connect("html-page-context", _one_sidebar, priority=100)  # before the theme asks for the list
    return {"parallel_read_safe": True}
