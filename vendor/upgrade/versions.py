"""Try upgrades to several releases, and write the table in docs/versions.md: `python -m vendor.upgrade.versions`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vendor.source import pin as pins, releases
from vendor.tools import BuildError, FetchError
from vendor.upgrade.command import check
from vendor.upgrade.journal import ROOT
from vendor.upgrade.report import report
from vendor.upgrade.steps import Outcome

DOCUMENT = ROOT / "docs" / "versions.md"
_BEGIN, _END = "<!-- versions: begin -->", "<!-- versions: end -->"
_HEADINGS = (
    *("version", "llama.cpp", "date", "functions", "adapted", "missing"),
    *("tests passed", "failed", "skipped", "expected to fail", "build seconds", "passes"),
)


def row(outcome: Outcome) -> str:
    """One row of the table."""
    tests = outcome.tests
    native = sum(outcome.seconds.get(name, 0) for name in ("native", "extension"))
    cells = [
        outcome.new.name,
        f"`{outcome.new.revision or 'unknown'}`",
        outcome.new.date or "unknown",
        *(("-" if count is None else str(count)) for count in (outcome.functions, outcome.adapted, outcome.absent)),
        *(map(str, (tests.passed, tests.failed, tests.unavailable, tests.skipped)) if tests else "----"),
        f"{native:.0f}",
        "yes" if outcome.failed is None else f"no: {outcome.failed.name}",
    ]
    return f"| {' | '.join(cells)} |"


def write(outcomes: Sequence[Outcome], path: Path = DOCUMENT) -> None:
    """Write the table between its markers."""
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{' --- |' * len(_HEADINGS)}", *(row(outcome) for outcome in outcomes)]
    head, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    tail = rest.partition(_END)[2]
    path.write_text("\n".join((head + _BEGIN, "", *lines, "", _END + tail)), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vendor.upgrade.versions", description=__doc__.splitlines()[0])
    parser.add_argument(
        "versions", nargs="*", help="releases, as VERSION of `make upgrade` (default: all in releases.json)"
    )
    versions = parser.parse_args().versions or [pin.name for pin in pins.known()]
    outcomes: list[Outcome] = []
    try:
        for version in versions:
            pin = releases.resolve(version)
            print(f"{pin.package} {pin.version}", file=sys.stderr, flush=True)
            outcome, _ = check(ROOT, pin)
            outcomes.append(outcome)
            if not outcome.passed:
                print(report(outcome, False))
    except (BuildError, FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write(outcomes)
    print("\n".join(row(outcome) for outcome in outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
