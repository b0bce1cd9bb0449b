"""Move the pin to another llama.cpp: `python -m vendor.upgrade [VERSION | --source DIR]`, to the newest by default.

All steps run in a temporary copy of the tree. If they pass, the results are moved into the tree, all at once. With
`--check` the tree does not change, and exit status 0 means that the upgrade would work.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vendor.source import carriers, fetch, pin as pins, releases, trees
from vendor.tools import BuildError, FetchError
from vendor.upgrade import journal
from vendor.upgrade.copy import Copy, copied, listed
from vendor.upgrade.journal import ROOT, JournalError
from vendor.upgrade.report import report
from vendor.upgrade.steps import STEPS, Outcome, Runner, Step, run

# What an upgrade changes in the tree: these files, and everything below these folders.
RESULTS = (
    "vendor/source/pin.json",
    "vendor/source/releases.json",
    "codegen/api/api.json",
    "codegen/diff/history",
    "llama_cffi/_generated",
    "llama_cffi/_native.pyi",
)

# VERSION for the newest llama.cpp of all carriers.
LATEST = "latest"

REBUILD = ("make", "--no-print-directory", "build")


def target(version: str, source: str) -> pins.Pin:
    """The pin of a release or a folder, whose source is copied into the cache; without both, the newest llama.cpp.

    Raises FetchError.
    """
    if version and source:
        raise FetchError(f"expected one of VERSION=<release of {carriers.PACKAGES}> and SOURCE=<llama.cpp checkout>")
    if not source:
        return releases.resolve(version) if version and version != LATEST else releases.latest()
    tree = trees.checked(Path(source), f"SOURCE={source}")
    pin = trees.pin_of(tree)
    fetch.adopt(tree, pin)
    return pin


def check(
    root: Path, new: pins.Pin, steps: Sequence[Step] = STEPS, keep: bool = False, quick: bool = True
) -> tuple[Outcome, dict[str, bytes | None]]:
    """Try an upgrade in a copy. Returns the outcome, and the tree's new files by name (None: to be removed)."""
    with copied(root, keep) as copy:
        before = _results(root)
        runner = Runner(copy)
        old_api = copy.folder / "old.json"
        if (root / "codegen" / "api" / "api.json").is_file():
            old_api.write_bytes((root / "codegen" / "api" / "api.json").read_bytes())
        outcome = run(copy, pins.load(root / "vendor" / "source" / "pin.json"), new, steps, quick)
        if outcome.failed is None or outcome.failed.forgivable:
            _remember(copy, runner, new)
            words = ["diff", str(old_api), "codegen/api/api.json", "--format", "markdown"]
            status, text = runner.run("diff", [sys.executable, "-m", "codegen", *words])
            outcome.changes = text.strip() if status in (0, 1) else ""  # 1: they differ
        after = _results(copy.tree)
        changed = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
    return outcome, changed


def _results(tree: Path) -> dict[str, bytes]:
    found = [path for name in RESULTS for top in [tree / name] for path in ([top] if top.is_file() else top.rglob("*"))]
    files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in files}


# Orders a release of an unknown date after all others.
_NEVER = "9999-12-31"


def _remember(copy: Copy, runner: Runner, new: pins.Pin) -> None:
    """Record a release that the project does not know yet, and its API, for later comparisons."""
    path = copy.tree / "vendor" / "source" / "releases.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    known = [pins.Pin(**row) for row in rows]
    if new.is_tree or any((pin.package, pin.version) == (new.package, new.version) for pin in known):
        return
    rows = [json.loads(pin.dumps()) for pin in sorted([*known, new], key=lambda pin: pin.date or _NEVER)]
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    runner.run("history", [sys.executable, "-m", "codegen", "history", new.name])


def upgrade(
    root: Path,
    new: pins.Pin,
    steps: Sequence[Step] = STEPS,
    force: bool = False,
    keep: bool = False,
    rebuild: Sequence[str] = REBUILD,
) -> tuple[Outcome, bool, str]:
    """Move the pin if all steps pass in a copy. Returns the outcome, True if the pin moved, and the report."""
    refuse_dirty(root)
    outcome, changed = check(root, new, steps, keep, quick=False)
    moved = outcome.failed is None or (force and outcome.failed.forgivable)
    if moved:
        refuse_dirty(root)  # it may have changed in the meantime
        journal.move(root, changed)
        started = time.monotonic()
        print("building in the tree", file=sys.stderr, flush=True)
        status = subprocess.run(rebuild, cwd=root, stdout=sys.stderr).returncode
        outcome.seconds["rebuild in the tree" if status == 0 else "rebuild in the tree (failed)"] = (
            time.monotonic() - started
        )
    return outcome, moved, report(outcome, moved)


def refuse_dirty(root: Path) -> None:
    """Raise BuildError if the tree has uncommitted changes."""
    answer = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise BuildError(f"an upgrade needs a git checkout, and {root} is not one: {answer.stderr.strip()}")
    if answer.stdout:
        first = "\n".join(f"  {line}" for line in answer.stdout.splitlines()[:10])
        raise BuildError(
            f"the tree has uncommitted changes:\n{first}\nCommit them or run `git stash -u` first, so that the upgrade "
            "is a separate commit. `make check-upgrade` works with uncommitted changes."
        )


_VERSION_HELP = (
    f"a release of {carriers.DEFAULT.package} ({carriers.DEFAULT.example}), or of any carrier (package==version); "
    "default: the newest llama.cpp of all carriers"
)


def _end(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)  # unwinds, which removes the copy


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.upgrade", description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", default="", help=_VERSION_HELP)
    parser.add_argument("--source", default="", help="a llama.cpp checkout, instead of a release")
    parser.add_argument(
        "--check", action="store_true", help="change nothing in the tree; exit status 0 if it would work"
    )
    parser.add_argument(
        "--force", action="store_true", help="move the pin even if the extension does not compile or tests fail"
    )
    parser.add_argument("--keep", action="store_true", help="keep the copy of the tree, with the logs beside it")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        journal.finish(ROOT)
        if not args.check:
            refuse_dirty(ROOT)
        new = target(args.version, args.source)
        old = pins.load()
        if not (args.check or args.version or args.source) and (new == old or new.date < old.date):
            print(f"the pin is {old.label} of {old.date}: no carrier has a newer llama.cpp")
            return 0
        print(f"from {old.label} to {new.label}, in a copy of {len(listed(ROOT))} files", file=sys.stderr, flush=True)
        moved = False
        if args.check:
            outcome, _ = check(ROOT, new, keep=args.keep)
            text = report(outcome, moved)
        else:
            outcome, moved, text = upgrade(ROOT, new, force=args.force, keep=args.keep)
        path = journal.folder(ROOT) / "report.md"
        path.write_text(text, encoding="utf-8")
        print(text)
        print(f"This report is in {path}", file=sys.stderr)
        return 0 if outcome.passed else 1
    except (BuildError, FetchError, JournalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the tree is unchanged", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
