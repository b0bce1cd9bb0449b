"""Starts workers, notices when one dies or hangs, and adds up what they report."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.busy import patience
from tests.fuzz.calls import NAMES
from tests.fuzz.models import write_all

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 60  # seconds without a new step, of a process that has a CPU to itself
_ENOUGH = 20  # dead processes
_SHARE = 5_000  # steps that one process makes
_TAIL = 6_000  # characters of what a dead process leaves that the summary shows


def environment(folder: Path) -> dict[str, str]:
    """For a process that runs steps in a folder."""
    return {**os.environ, "FUZZ_FOLDER": str(folder), "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(_ROOT)}


class Worker:
    """A process, with a folder of its own."""

    def __init__(self, folder: Path, seed: int, steps: int, only: tuple[str, ...] = ()) -> None:
        folder.mkdir(parents=True)
        write_all(folder)
        self.folder, self.seed, self.left = folder, seed, steps
        self.hung = False
        self.stderr = folder / "stderr"
        with open(self.stderr, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", str(folder), str(seed), str(steps), *only],
                cwd=folder,  # steps write to names like "x"
                env=environment(folder),
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        self.started = time.time()

    def journal(self) -> str:
        path = self.folder / "journal.py"
        return path.read_text() if path.exists() else ""

    def quiet_for(self) -> float:
        """Seconds since its last step."""
        path = self.folder / "journal.py"
        return time.time() - max(self.started, path.stat().st_mtime if path.exists() else 0)

    def hangs(self) -> bool:
        """Return whether it makes no steps. On a busy machine, even the imports may take a minute."""
        return self.quiet_for() > patience(_PATIENCE)

    def kill(self) -> None:
        """Have it say where it hangs, then end it."""
        self.hung = True
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        self.process.kill()


class Supervisor:
    """A whole run."""

    def __init__(self, folder: Path, keep: Path | None = None, only: tuple[str, ...] = ()) -> None:
        self.folder, self.keep, self.only = folder, keep, only
        self.steps = self.examples = 0
        self.raised: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        self.native: dict[str, str] = {}
        self.killed: list[str] = []
        self.hung: list[str] = []

    @property
    def clean(self) -> bool:
        return not (self.findings or self.native or self.killed or self.hung)

    def run(self, steps: int, seed: int, workers: int, progress: bool = False) -> None:
        shares = [min(_SHARE, steps - done) for done in range(0, steps, _SHARE)]
        waiting = [(1_000_000 * seed + 1_000 * index, share) for index, share in enumerate(shares)]
        selector = selectors.DefaultSelector()
        live: dict[Any, Worker] = {}
        while waiting or live:
            # A process that died leaves the rest of its steps to another one.
            while waiting and len(live) < workers:
                first, share = waiting.pop(0)
                worker = Worker(self.folder / f"worker-{first}", first, share, self.only)
                live[worker.stdout] = worker
                selector.register(worker.stdout, selectors.EVENT_READ)
            for key, _ in selector.select(timeout=5):
                worker = live[key.fileobj]
                line = worker.stdout.readline()
                if line.endswith(b"\n"):
                    worker.left -= self.add(json.loads(line))
                    if progress and self.examples % 20 == 0:
                        print(self.progress(), file=sys.stderr, flush=True)
                    continue
                selector.unregister(worker.stdout)
                del live[key.fileobj]
                if not self.ended(worker) and worker.left > 0 and len(self.killed) + len(self.hung) < _ENOUGH:
                    waiting.append((worker.seed + 101, worker.left))
            for worker in live.values():
                if worker.hangs() and worker.process.poll() is None:
                    worker.kill()
                    self.note(self.hung, "hung", worker)

    def add(self, state: dict[str, Any]) -> int:
        """Take over what a worker says about an example. Returns how many steps it had."""
        self.steps += state["steps"]
        self.examples += 1
        self.raised.update(state["raised"])
        self.tried.update(state["tried"])
        self.succeeded.update(state["succeeded"])
        for name, mine in (("findings", self.findings), ("native", self.native)):
            for print_, journal in state[name].items():
                if print_ not in mine:
                    mine[print_] = journal
                    self.save(f"{name}-{len(mine)}.py", f"# {print_}\n{journal}")
        steps: int = state["steps"]
        return steps

    def ended(self, worker: Worker) -> bool:
        """Whether a worker that is no more had finished."""
        code = worker.process.wait()
        if code != 0 and not worker.hung:
            self.note(self.killed, signal.Signals(-code).name if code < 0 else f"exit {code}", worker)
        return code == 0

    def note(self, where: list[str], what: str, worker: Worker) -> None:
        journal = worker.journal()
        steps = journal.splitlines()
        self.steps += len(steps)
        errors = worker.stderr.read_text(errors="replace")[-_TAIL:]
        where.append(
            f"{what}, seed {worker.seed}, at step {len(steps)}: {steps[-1] if steps else 'none'}\n"
            f"its last words:\n{errors}\nits journal, for tests.fuzz.replay:\n{journal[-_TAIL:]}"
        )
        commented = errors.replace("\n", "\n# ")
        self.save(f"{what.lower().replace(' ', '-')}-{worker.seed}.py", f"{journal}# {commented}\n")

    def save(self, name: str, text: str) -> None:
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / name).write_text(text)

    def progress(self) -> str:
        return f"{self.steps} steps, {self.examples} examples; {self.counts()}"

    def counts(self) -> str:
        return (
            f"findings: {len(self.findings)}, native assertions reached: {len(self.native)}, "
            f"workers killed: {len(self.killed)}, hung: {len(self.hung)}"
        )

    def rarest(self, most: int = 60) -> str:
        """Names that seldom succeed, with their counts."""
        share = {name: self.succeeded[name] / self.tried[name] for name in NAMES & self.tried.keys()}
        chosen = sorted(share, key=lambda name: (share[name], name))[:most]
        return ", ".join(f"{name} {self.succeeded[name]}/{self.tried[name]}" for name in chosen)

    def summary(self) -> str:
        """What was found, then the counts."""
        lines = [f"finding: {text}" for text in self.findings]
        lines += [f"reached llama.cpp's assertions: {text}" for text in self.native]
        lines += [f"killed: {text}" for text in self.killed] + [f"hung: {text}" for text in self.hung]
        never = sorted(NAMES - self.succeeded.keys())
        lines.append(f"names: {len(NAMES)} called, {len(never)} never with success: {', '.join(never) or 'none'}")
        lines.append(f"successes of tries, the rarest first: {self.rarest()}")
        raised = ", ".join(f"{name} {count}" for name, count in self.raised.most_common())
        lines += [
            f"steps: {self.steps} in {self.examples} examples, {self.succeeded.total()} of them without an exception",
            f"exceptions: {raised}",
            self.counts(),
        ]
        return "\n".join(lines)
