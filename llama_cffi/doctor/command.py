"""`llama-cffi doctor`: check the installation and the devices, and say how to fix what fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from llama_cffi._core.argparse_types import number
from llama_cffi._core.command_parser import CommandParser
from llama_cffi.doctor.report import Section, document, failed, summary
from llama_cffi.doctor.sections import sections


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = CommandParser(
        "doctor",
        "Check the installation and the devices of this machine, and say how to fix what fails. The exit status is 1 "
        "if a check failed.",
        ("doctor", "doctor --json --seconds 0"),
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--seconds",
        type=number(0, 60),
        default=1.0,
        metavar="N",
        help="seconds to multiply matrices on each device (default: 1)",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run all checks and print them. Returns 1 if one failed, else 0; warnings do not count."""
    arguments = make_parser().parse_args(argv)
    try:
        return _report(arguments.json, arguments.seconds)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout at exit
        if not isinstance(error, BrokenPipeError):  # the reader closed the pipe, as `| head` does
            print(f"error: {error}", file=sys.stderr)
        return 1


# Names of devices and drivers come from elsewhere.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def _report(as_json: bool, seconds: float) -> int:
    done: list[Section] = []
    for section in sections(seconds):
        done.append(section)
        if not as_json:
            print(section.lines().translate(_ESCAPED), end="\n\n", flush=True)
    print(json.dumps(document(done), indent=2) if as_json else summary(done), flush=True)
    return int(failed(done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
