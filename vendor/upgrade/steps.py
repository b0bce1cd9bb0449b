"""The steps of an upgrade, which run in a copy of the tree, and their outcome."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vendor.build import variants
from vendor.source.pin import Pin
from vendor.upgrade.copy import Copy

_PY = sys.executable

# Checks that tests import the copy, not the tree that this Python has as an editable install.
_WHICH = (
    "import os, pathlib, llama_cffi, codegen, vendor; here = pathlib.Path(os.environ['PYTHONPATH']).resolve(); "
    "found = [pathlib.Path(m.__file__).resolve().parent.parent for m in (llama_cffi, codegen, vendor)]; "
    "assert found == [here] * 3, f'{found} is imported, not the copy in {here}'; print(llama_cffi.__file__); "
    "[getattr(llama_cffi, name) for name in llama_cffi.__all__]"  # a module is loaded when its name is used
)


@dataclass(frozen=True)
class Step:
    """A command in the copy. If a `forgivable` one fails, `--force` still moves the pin."""

    name: str
    command: tuple[str, ...]
    advice: str
    forgivable: bool = False


STEPS = (
    Step(
        "source",
        (_PY, "-m", "vendor.source.fetch"),
        "Check the network and the pin: the output above says what is missing.",
    ),
    Step(
        "native",
        (_PY, "-m", "vendor.build.native"),
        "llama.cpp did not build with the options of vendor/build/recipe.py, or with the headers of "
        "vendor/build/overrides. Try to build it on this machine by its own instructions.",
    ),
    Step(
        "snapshot",
        (_PY, "-m", "codegen", "snapshot"),
        "The generator does not understand something in a header: the output names file and line, and the place in "
        "codegen/ to extend. codegen/README.md has a list.",
    ),
    Step(
        "generate",
        (_PY, "-m", "codegen", "generate"),
        "A table of codegen/ names something that this header lacks, or the facade needs something that changed: the "
        "output names the row. codegen/README.md explains each.",
    ),
    Step(
        "check",
        (_PY, "-m", "codegen", "check"),
        "The generator's output differs from run to run: a mistake in codegen/.",
    ),
    Step(
        "extension",
        (_PY, "setup.py", "-q", "build_ext", "--inplace"),
        "The shim (llama_cffi/_shim/) or the generated code does not compile against this header: see the compiler's "
        "first error.",
        forgivable=True,
    ),
    Step(
        "import",
        (_PY, "-c", _WHICH),
        "The facade cannot be imported: it uses a name that this llama.cpp lacks.",
        forgivable=True,
    ),
    Step(
        "tests",
        (
            _PY,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/api",
            "tests/contract",
            "tests/codegen/test_drift.py",
        ),
        "The facade behaves differently with this llama.cpp. KEEP=1 keeps the copy: run pytest there, with PYTHONPATH "
        "set to it.",
        forgivable=True,
    ),
)


@dataclass(frozen=True)
class Tests:
    """The counts of a test run."""

    __test__ = False

    passed: int
    failed: int
    unavailable: int  # skipped because this llama.cpp lacks something
    skipped: int  # skipped for another reason
    failures: tuple[str, ...]


@dataclass
class Outcome:
    """The outcome of the steps."""

    old: Pin
    new: Pin
    seconds: dict[str, float] = field(default_factory=dict)
    failed: Step | None = None
    tail: str = ""  # the last lines of the failed step's output
    tests: Tests | None = None
    functions: int | None = None
    adapted: int | None = None
    absent: int | None = None
    variants: str = ""  # the CPU variants that were built; empty: all
    warnings: str = ""  # what the native build warns of: overrides of llama.cpp without effect
    changes: str = ""  # the output of `python -m codegen diff`, in Markdown

    @property
    def passed(self) -> bool:
        return self.failed is None


# Variables of make, and those that would select another llama.cpp or another build than the one under test.
_DROPPED = {
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VERSION", "VERSIONS", "SOURCE", "KEEP", "FORCE", "BACKEND"),
    *("GGML_USE_VULKAN", "LLAMA_CFFI_TEST_VULKAN", "LLAMA_CPP_SOURCE", "LLAMA_CFFI_PREFIX", "LLAMA_CFFI_SANITIZE"),
    "LLAMA_CFFI_BUILD",
}


class Runner:
    """Runs commands in a copy, each with a log file."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.env = {key: value for key, value in os.environ.items() if key not in _DROPPED}
        self.env["PYTHONPATH"] = str(copy.tree)

    def run(self, name: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a command. Returns its exit status and its output."""
        log = self.copy.folder / f"{name}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command,
                cwd=self.copy.tree,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.copy.lock,),
            )
            try:
                status = process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        return status, log.read_text(encoding="utf-8", errors="replace")


def run(copy: Copy, old: Pin, new: Pin, steps: Sequence[Step] = STEPS, quick: bool = False) -> Outcome:
    """Run the steps in a copy with the pin `new`, until one fails. `quick` builds only two CPU variants."""
    runner = Runner(copy)
    outcome = Outcome(old, new)
    (copy.tree / "vendor" / "source" / "pin.json").write_text(new.dumps(), encoding="utf-8")
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.name} ...", end="", file=sys.stderr, flush=True)
        if quick and step.name == "native" and variants.VARIABLE not in runner.env:
            status, answer = runner.run("variants", [_PY, "-m", "vendor.build.quick_variants"])
            # The last line: what is unpacked for it is told before.
            runner.env[variants.VARIABLE] = (answer.splitlines() or [""])[-1].strip() if status == 0 else ""
        outcome.variants = runner.env.get(variants.VARIABLE, "")
        extra = [f"--junitxml={copy.folder / 'tests.xml'}"] if step.name == "tests" else []
        started = time.monotonic()
        status, output = runner.run(step.name, [*step.command, *extra])
        outcome.seconds[step.name] = time.monotonic() - started
        print(f" {outcome.seconds[step.name]:.0f} s{'' if status == 0 else ', failed'}", file=sys.stderr, flush=True)
        if step.name == "native":
            outcome.warnings = warnings_in(output)
        if step.name == "tests":
            outcome.tests = read_tests(copy.folder / "tests.xml")
        if status != 0:
            outcome.failed, outcome.tail = step, "\n".join(output.splitlines()[-40:])
            break
    _count(runner, outcome)
    return outcome


def warnings_in(output: str) -> str:
    """The lines of a build's output that begin with `warning:`, with the indented lines below them."""
    found: list[str] = []
    inside = False
    for line in output.splitlines():
        inside = line.startswith("warning: ") or (inside and line.startswith("  "))
        found += [line] if inside else []
    return "\n".join(found)


def read_tests(path: Path) -> Tests | None:
    """The counts in pytest's XML report; None if there is no report."""
    if not path.is_file():
        return None
    passed = unavailable = skipped = 0
    failures: list[str] = []
    for case in ElementTree.parse(path).iter("testcase"):
        found = {child.tag: child for child in case if child.tag in ("failure", "error", "skipped")}
        if "failure" in found or "error" in found:
            failures.append(f"{case.get('classname')}.{case.get('name')}")
        elif "skipped" in found:
            why = found["skipped"].get("message") or ""
            unavailable += "unavailable" in why.lower()
            skipped += "unavailable" not in why.lower()
        else:
            passed += 1
    return Tests(passed, len(failures), unavailable, skipped, tuple(failures))


COUNT = (
    "from codegen.api import snapshot; from codegen.fit import complete, needs; import json; "
    "api = complete.complete(snapshot.load(), needs.load()); "
    "print(json.dumps([sum(1 for f in api.functions if f.body), len(api.absent)]))"
)


def _count(runner: Runner, outcome: Outcome) -> None:
    """Count the header's functions, and those of the facade that are adapted or missing."""
    snapshot = runner.copy.tree / "codegen" / "api" / "api.json"
    if "snapshot" in outcome.seconds and (outcome.failed is None or outcome.failed.name != "snapshot"):
        outcome.functions = len(json.loads(snapshot.read_text(encoding="utf-8"))["functions"])
        status, answer = runner.run("count", [_PY, "-c", COUNT])
        if status == 0:
            outcome.adapted, outcome.absent = json.loads(answer.splitlines()[-1])
