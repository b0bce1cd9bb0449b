"""Runs the commands `diff`, `history` and `changes` of `python -m codegen`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from codegen.api.model import CodegenError
from codegen.api.paths import ROOT
from codegen.diff import changes, history, text
from codegen.diff.history import Version
from codegen.diff.impact import Impact
from codegen.diff.text import Report
from codegen.rules import spec

CHANGES = ROOT / "docs" / "changes.md"
OLDER = CHANGES.with_name("changes-older.md")
_NEW = 3  # pairs of versions in CHANGES; the others are in OLDER, so that no page is huge

_FORMATS: dict[str, Callable[[Report], str]] = {
    "text": text.text,
    "markdown": text.markdown,
    "json": text.to_json,
}


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    try:
        return {"diff": _diff, "history": _history, "changes": _changes}[args.command](args)
    except CodegenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def compare(old: Version, new: Version) -> Report:
    """Return every change with its impact, the most serious first."""
    findings = Impact(old.api, new.api, spec.load()).findings(changes.changes(old, new))
    unknown = [version.label for version in (old, new) if version.defaults is None]
    note = ""
    if unknown and old.api != new.api:
        note = f"Defaults were not compared, because those of {' and '.join(dict.fromkeys(unknown))} are unknown. "
        note += "`--build` builds the libraries to read them from; `--old-lib` and `--new-lib` name existing ones."
    return Report(old.label, new.label, tuple(findings), note)


def _diff(args: argparse.Namespace) -> int:
    old, new = history.resolve(args.old), history.resolve(args.new)
    old = history.with_defaults(old, args.old_lib, args.build)
    new = history.with_defaults(new, args.new_lib, args.build)
    report = compare(old, new)
    sys.stdout.write(text.changelog(report) if args.changelog else _FORMATS[args.format](report))
    return 1 if report.findings else 0


def _history(args: argparse.Namespace) -> int:
    libs: dict[str, Path] = {}
    for word in args.lib:
        version, equals, folder = word.partition("=")
        if not equals or not Path(folder).is_dir():
            raise CodegenError(f"--lib must be VERSION=FOLDER with an existing folder, got {word}")
        libs[version] = Path(folder)
    for path in history.write(args.versions, libs):
        print(path.relative_to(ROOT))
    return 0


def changes_pages() -> dict[Path, str]:
    """Return the texts of docs/changes.md and docs/changes-older.md, the newest pair of versions first."""
    versions = [history.load(history.FOLDER / f"{name}.json") for name in history.names()]
    pairs = list(zip(versions[:-1], versions[1:], strict=True))[::-1]
    parts = [text.markdown(compare(old, new)) for old, new in pairs]
    return {CHANGES: _INTRODUCTION + "\n".join(parts[:_NEW]), OLDER: _OLDER + "\n".join(parts[_NEW:])}


_INTRODUCTION = """\
# What changed in llama.cpp's API

This page lists the changes between the [versions of llama.cpp](versions.md) that llama_cffi supports, the newest first.
[Older changes](changes-older.md) have a page of their own.
`python -m codegen changes` writes it from `codegen/diff/history/`. `python -m codegen diff OLD NEW` compares any two
versions; `--format json` lists every member.

Each entry has the name in llama_cffi first, then the C name. *perhaps* marks a guess: the headers do not say what was
renamed.

"""


_OLDER = """\
# Older changes in llama.cpp's API

This page continues [What changed in llama.cpp's API](changes.md) with older versions.

"""


def _changes(_: argparse.Namespace) -> int:
    for path, page in changes_pages().items():
        path.write_text(page, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0
