"""Edits a copy of the pinned headers and runs the generator over it, up to the generated texts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from codegen import generate
from codegen.api import snapshot
from codegen.api.model import Api, CodegenError
from codegen.diff import history
from codegen.fit import needs
from codegen.fit.complete import complete
from codegen.fit.needs import Needs
from codegen.read import headers, parse, probe
from codegen.read.exports import MODULE_OF_HEADER
from tests.mutations.model import Mutation, Refused, Result, Unavailable, is_absent
from vendor.source import fetch

_FOLDERS = ("include", "ggml/include", "tools/mtmd")


@contextmanager
def edited(mutation: Mutation) -> Iterator[list[Path]]:
    """The folders of the mutated headers, for as long as the block runs."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in _FOLDERS]
        for folder, source in zip(folders, history.include_folders(fetch.source_dir(), fetch.mtmd_dir()), strict=True):
            folder.mkdir(parents=True)
            for header in source.glob("*.h"):
                (folder / header.name).write_bytes(header.read_bytes())
        for name, old, new in [*((mutation.header, *edit) for edit in mutation.edits), *mutation.elsewhere]:
            _edit(folders, name, old, new)
        if mutation.crlf:
            for path in (path for folder in folders for path in folder.glob("*.h")):
                path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        yield folders


def _edit(folders: list[Path], name: str, old: str, new: str) -> None:
    path = next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
    if not old:
        assert not path.exists(), f"{name} is there already"
        path.write_text(new, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}: an edit needs a text that is there once"
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(mutation: Mutation) -> Result:
    """What the generator makes of the mutation."""
    with edited(mutation) as folders:
        return read(mutation, folders)


def read(mutation: Mutation, folders: list[Path]) -> Result:
    """The same, for folders that `edited` made."""
    try:
        api = parse.parse(headers.preprocess(folders), "llama.cpp (edited)")
        api = _with_homes(probe.measure(api, folders), mutation.unexported)
        return Result(complete(api, facade()), generate.generate(api, facade()))
    except CodegenError as error:
        return Result(error=error)


@cache
def facade() -> Needs:
    return needs.load()


@cache
def _homes() -> dict[str, str | None]:
    return {function.name: function.home for function in snapshot.load().functions}


def _with_homes(api: Api, unexported: tuple[str, ...]) -> Api:
    """As if llama.cpp were built from these headers: what its libraries export now, and what was added to them."""

    def home(name: str, header: str) -> str | None:
        return None if name in unexported else _homes().get(name, MODULE_OF_HEADER.get(header, "llama"))

    return replace(api, functions=tuple(replace(f, home=home(f.name, f.header)) for f in api.functions))


def surprise(mutation: Mutation, result: Result) -> str:
    """What is not as expected; empty if all is."""
    expected = mutation.expected
    if isinstance(expected, Refused):
        if result.error is None:
            return "was not refused"
        if not re.search(r"\w\.h\b", str(result.error)):
            return f"the error names no header:\n{result.error}"
        return next((f"the error lacks {x!r}:\n{result.error}" for x in expected.patterns if not _in(x, result)), "")
    if result.error is not None:
        return f"was refused:\n{result.error}"
    try:
        if isinstance(expected, Unavailable):
            for name in expected.names:
                is_absent(result, name)
        for check in expected.checks:
            check(result)
    except AssertionError as error:
        return str(error)
    return ""


def outcome(mutation: Mutation, result: Result) -> str:
    """What came of the mutation, in a word."""
    if result.error is not None:
        return "refused"
    return "unavailable" if isinstance(mutation.expected, Unavailable) else "absorbed"


def _in(pattern: str, result: Result) -> bool:
    return re.search(pattern, str(result.error), re.S) is not None
