"""`python -m tests.fuzz.replay JOURNAL`: runs a journal again; with `--shrink`, prints the shortest that ends alike."""

from __future__ import annotations

import argparse
import gc
import json
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from tests.fuzz.models import write_all
from tests.fuzz.supervisor import environment


def steps_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def play(steps: list[str]) -> list[str]:
    """Run steps in this process. Returns the fingerprints of what they should not have raised."""
    from tests.fuzz import prelude
    from tests.fuzz.oracle import fingerprint, is_fine

    warnings.simplefilter("ignore")
    names, found = prelude.namespace(), []
    for step in steps:
        try:
            exec(compile(step, "<step>", "exec"), names)
        except BaseException as error:
            if not is_fine(error):
                found.append(fingerprint(error))
    names.clear()
    prelude.KEPT.clear()
    gc.collect()
    return found


def outcome(steps: list[str], folder: Path) -> set[str]:
    """What became of a process that ran them."""
    command = [sys.executable, "-m", "tests.fuzz.replay", "-"]
    try:
        done = subprocess.run(
            command,
            input="\n".join(steps),
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return {"hung"}
    if done.returncode < 0:
        return {signal.Signals(-done.returncode).name}
    return set(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else {f"exit {done.returncode}"}


def shrink(steps: list[str], folder: Path) -> tuple[list[str], str]:
    """Drop steps as long as the rest ends the same way."""
    wanted = sorted(outcome(steps, folder))
    if not wanted:
        return [], "nothing happened"
    size = max(1, len(steps) // 2)
    while True:
        for start in range(len(steps) - size, -1, -size):
            fewer = steps[:start] + steps[start + size :]
            if wanted[0] in outcome(fewer, folder):
                steps = fewer
        if size == 1:
            return steps, wanted[0]
        size = max(1, size // 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.replay", description=__doc__)
    parser.add_argument("journal", help="- reads the standard input")
    parser.add_argument("--shrink", action="store_true")
    options = parser.parse_args()
    if options.journal == "-":
        print(json.dumps(play(steps_of(sys.stdin.read()))))
        return
    steps = steps_of(Path(options.journal).read_text())
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        if options.shrink:
            steps, how = shrink(steps, Path(folder))
            print("\n".join(steps), f"# {how}", sep="\n")
        else:
            print(*outcome(steps, Path(folder)), sep="\n")


if __name__ == "__main__":
    main()
