"""`python -m llama_cffi doctor`: what works on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from llama_cffi.doctor.report import Section, document, failed, summary
from llama_cffi.doctor.sections import sections


def main(argv: Sequence[str]) -> int:
    """Look at everything and print it. Returns 1 where something is broken, 0 where at most something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_cffi doctor",
        description="Says what works on this machine, what is missing, and what to do about it. The exit status is 1 "
        "where something is broken.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=1.0,
        metavar="N",
        help="how long each device multiplies matrices (default 1)",
    )
    arguments = parser.parse_args(argv)
    try:
        return _report(arguments.json, arguments.seconds)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text} does not fit: from 0 to 60")
    return seconds


def _report(as_json: bool, seconds: float) -> int:
    seen: list[Section] = []
    for section in sections(seconds):
        seen.append(section)
        if not as_json:
            print(section.lines(), end="\n\n", flush=True)
    print(json.dumps(document(seen), indent=2) if as_json else summary(seen), flush=True)
    return int(failed(seen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
