"""The report of `make upgrade` and `make check-upgrade`, as Markdown."""

from __future__ import annotations

from vendor.source.pin import Pin
from vendor.upgrade.steps import Outcome, Tests


def report(outcome: Outcome, moved: bool) -> str:
    """The text of the report. `moved` is True if the pin was moved."""
    parts = [f"# llama.cpp: {outcome.old.name} to {outcome.new.name}", _pins(outcome), _result(outcome, moved)]
    if outcome.failed is not None:
        parts.append(f"Last lines of the step `{outcome.failed.name}`:\n\n```\n{outcome.tail}\n```")
    if outcome.warnings:
        parts.append(f"## Warnings of the native build\n\n```\n{outcome.warnings}\n```")
    if outcome.tests is not None and outcome.tests.failures:
        failures = "\n".join(f"- `{name}`" for name in outcome.tests.failures)
        parts.append(f"## Tests that failed\n\n{failures}")
    parts.append(f"## Steps\n\n{_steps(outcome)}")
    parts.append(f"## What changed in the API\n\n{outcome.changes or 'Unknown: `python -m codegen diff` failed.'}")
    parts.append(f"## What to do now\n\n{_checklist(outcome, moved)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _pins(outcome: Outcome) -> str:
    rows = [("from", outcome.old), ("to", outcome.new)]
    lines = [f"| {name} | {pin.label} | `{pin.sha256[:16]}...` |" for name, pin in rows]
    return "\n".join(("| | pin | sha256 |", "| --- | --- | --- |", *lines))


def _result(outcome: Outcome, moved: bool) -> str:
    pin = "The pin was moved." if moved else "The tree is unchanged."
    if outcome.failed is None:
        return f"Everything passed. {pin}"
    return f"**The step `{outcome.failed.name}` failed.** {pin} {outcome.failed.advice}"


def tests_line(tests: Tests | None) -> str:
    """The counts of passed, failed and skipped tests, in one line."""
    if tests is None:
        return "not run"
    return (
        f"{tests.passed} passed, {tests.failed} failed, {tests.unavailable} skipped because something is missing in "
        f"this llama.cpp, {tests.skipped} skipped for other reasons"
    )


def _steps(outcome: Outcome) -> str:
    rows = [f"| {name} | {seconds:.0f} |" for name, seconds in outcome.seconds.items()]
    lines = ["| step | seconds |", "| --- | --- |", *rows, "", f"Tests: {tests_line(outcome.tests)}."]
    if outcome.functions is not None:
        lines.append(f"The header has {outcome.functions} functions.")
    if outcome.adapted is not None:
        lines.append(
            f"Of the functions that the facade uses, {outcome.adapted} are adapted and {outcome.absent} are missing."
        )
    if outcome.variants:
        lines.append(f"CPU variants built: {outcome.variants}.")
    return "\n".join(lines)


def _checklist(outcome: Outcome, moved: bool) -> str:
    items: list[str] = []
    if outcome.failed is not None:
        items.append(f"Fix what stopped the step `{outcome.failed.name}`: {outcome.failed.advice}")
    if not moved:
        if outcome.failed is None:
            items.append(f"To move the pin: `make upgrade {_target(outcome.new)}`.")
        else:
            items.append(f"Try again: `make check-upgrade {_target(outcome.new)}`.")
    else:
        items += [
            "Read the changes above that break users' code, and `git diff llama_cffi/_generated/report.md`.",
            "Read what relies on llama.cpp's internals (`git grep is_pinned_version`). If it still holds, the facade "
            "is written for this llama.cpp: run `python -m codegen needs`, `generate` and `changes`.",
            "Add the output of `python -m codegen diff OLD NEW --changelog` to CHANGELOG.md, under Unreleased.",
            "Decide which new functions need a facade. Without one they are available as `llama_cffi.lib.llama_x`.",
            "`make check test`.",
            f"Commit: `git add -A && git commit -m 'llama.cpp: {outcome.old.name} to {outcome.new.name}'`.",
            "To undo the upgrade: `git checkout .` and `make build`.",
        ]
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


def _target(pin: Pin) -> str:
    return f"VERSION={pin.name}" if not pin.is_tree else "SOURCE=<that tree>"
