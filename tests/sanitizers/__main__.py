"""`python -m tests.sanitizers address` or `thread`: build, run the tests, count what was reported."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.sanitizers import kinds, reports, tree

_LIMIT = 3600  # seconds for one file of tests
_WORKERS = 2  # files of tests at a time
# The sanitizers report what Python's fault handler would.
_PYTEST = ("-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:faulthandler")


@dataclass(frozen=True)
class Ended:
    """How the pytest process of one file of tests ended."""

    file: str
    status: int
    seconds: float
    result: Path

    @property
    def text(self) -> str:
        return self.result.with_suffix(".txt").read_text(encoding="utf-8", errors="replace")


@dataclass
class Counts:
    """What the processes of a run said."""

    tests: int = 0
    failed: int = 0
    skipped: int = 0
    killed: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        self.tests += other.tests
        self.failed += other.failed
        self.skipped += other.skipped
        self.killed += other.killed
        return self

    def add(self, ended: Ended) -> None:
        """Count one pytest process: its results, or its death."""
        if ended.status not in (0, 1, 5):  # passed, failed, no tests
            self.killed += 1
        if ended.result.is_file():
            suite = next(ElementTree.parse(ended.result).iter("testsuite"))
            self.tests += int(suite.attrib["tests"])
            self.failed += int(suite.attrib["failures"]) + int(suite.attrib["errors"])
            self.skipped += int(suite.attrib["skipped"])


class Run:
    """A tree that was built, and the environment in which its tests are run."""

    def __init__(self, kind: kinds.Kind) -> None:
        self.kind = kind
        self.tree = tree.make(kind.name)
        self.reports = self.tree / "reports"

    def _empty(self) -> dict[str, str]:
        shutil.rmtree(self.reports, ignore_errors=True)
        self.reports.mkdir()
        return self.kind.environment(self.tree, self.reports)

    def prove(self) -> None:
        """A sanitizer that is silent about a mistake made on purpose is not there."""
        for expected, code in self.kind.canaries.items():
            environment = self._empty()
            for variable in self.kind.options:
                environment[variable] += ":halt_on_error=1"  # one report is enough; each costs time
            with tempfile.TemporaryDirectory() as elsewhere:
                command = [sys.executable, "-c", f"from llama_cffi import ffi, lib\n{code}"]
                result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
            found = reports.read(self.reports)
            if not any(expected in report for report in found):
                raise SystemExit(f"error: no report of {expected!r} where one must come:\n{result.stderr}{found}")

    def programs(self) -> Counts:
        """Compile and run the programs in C++, with the parts of the extension that they test."""
        counts, environment = Counts(), self.kind.environment(self.tree, self.reports)
        for name in self.kind.programs:
            program = tree.compile_program(self.tree, self.kind.name, name)
            environment["LD_PRELOAD"] = ""  # it is linked with the runtime
            status = subprocess.run([program], env=environment).returncode
            print(f"-- {name}: status {status}", flush=True)
            counts.tests += 1
            counts.failed += status == 1
            counts.killed += status not in (0, 1)
        return counts

    def test(self, paths: Sequence[str]) -> Counts:
        """Run each file of tests in its own process, a few at a time."""
        environment, counts = self._empty(), Counts()
        with ThreadPoolExecutor(_WORKERS) as pool:
            for done in as_completed([pool.submit(self._file, file, environment) for file in self._files(paths)]):
                ended = done.result()
                print(f"{ended.text}-- {ended.file}: status {ended.status}, {ended.seconds:.0f} s", flush=True)
                counts.add(ended)
        return counts

    def _file(self, file: str, environment: dict[str, str]) -> Ended:
        result = self.tree / "results" / f"{file.replace('/', '.')}.xml"
        result.parent.mkdir(exist_ok=True)
        command = [sys.executable, *_PYTEST, f"--junitxml={result}", file]
        command += [f"--deselect={name}" for name in self.kind.left_out]
        started = time.monotonic()
        with result.with_suffix(".txt").open("wb") as log:
            try:
                status = subprocess.run(
                    command, cwd=self.tree, env=environment, stdout=log, stderr=log, timeout=_LIMIT
                ).returncode
            except subprocess.TimeoutExpired:
                status = -1
        return Ended(file, status, time.monotonic() - started, result)

    def _files(self, paths: Sequence[str]) -> list[str]:
        found: list[Path] = []
        for path in (self.tree / name.split("::")[0] for name in paths):
            if not path.exists():
                raise SystemExit(f"error: there is no {path.relative_to(self.tree)}")
            found += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found.sort(key=lambda path: path.name not in kinds.LONGEST)
        return [str(path.relative_to(self.tree)) for path in dict.fromkeys(found)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizers", description=__doc__)
    parser.add_argument("kind", choices=kinds.KINDS)
    parser.add_argument("paths", nargs="*", help="files or folders of tests, in place of the default ones")
    args = parser.parse_args()
    # A shell has what it starts in the background ignore Ctrl-C, and the tests of Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind = kinds.KINDS[args.kind]
    run = Run(kind)
    run.prove()
    counts = run.test(args.paths or kind.paths)
    if not args.paths:
        counts += run.programs()
    found = reports.read(run.reports)
    if found:
        print(f"reports, with their stacks in {run.reports}:\n{reports.summary(found)}")
    print(
        f"{kind.name}: {counts.tests} tests run ({counts.failed} failed, {counts.skipped} skipped), "
        f"{len(found)} reports of the sanitizers, {counts.killed} interpreters killed"
    )
    return 1 if found or counts.failed or counts.killed or not counts.tests else 0


if __name__ == "__main__":
    sys.exit(main())
