"""What all commands have in common: errors as one line, a bar while a model loads, sizes and speeds for people."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from llama_cffi.errors import LlamaError
from llama_cffi.generation.steps import Usage

_BAR = 30
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


class Refused(Exception):
    """Why a command does not go on; `status` is its exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit status: 1 with an error in words, 1 for a pipe that broke, 130 for Ctrl-C."""
    warnings.showwarning = _show_warning
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads has had enough
        _give_up_stdout()
        return 1
    except KeyboardInterrupt:
        return 130
    except Refused as error:
        say(f"error: {error}")
        return error.status
    except (LlamaError, ImportError, OSError, ValueError, MemoryError) as error:
        say(f"error: {error}")
        return 1


def _give_up_stdout() -> None:
    """Have Python find something to flush to at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    say(f"warning: {message}")


def say(line: str) -> None:
    """A line for people, on stderr."""
    print(line, file=sys.stderr, flush=True)


def write(text: str) -> None:
    """A piece of the answer, at once. What the encoding lacks is replaced, and what would drive a terminal is shown."""
    if sys.stdout.isatty():
        text = text.translate(_CONTROLS)
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def write_json(document: Any) -> None:
    """One JSON document, for programs."""
    print(json.dumps(document, indent=2), flush=True)


class Progress:
    """A bar on stderr while something loads, for `Model.Params.progressCallback`; nothing where no terminal is."""

    def __init__(self, what: str, name: str, quiet: bool = False) -> None:
        self.label = f"{what} {name}".rstrip()
        self.shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.started = time.perf_counter()
        self._last = -1

    def __call__(self, done: float) -> None:
        percent = int(100 * done)
        if self.shown and percent != self._last:
            self._last = percent
            full = round(_BAR * done)
            bar = f" [{'#' * full}{'.' * (_BAR - full)}] {percent}%"
            room = max(shutil.get_terminal_size().columns - len(bar) - 1, 0)  # a longer line would stay
            print(f"\r\033[K{self.label[:room]}{bar}", end="", file=sys.stderr, flush=True)

    def end(self) -> float:
        """Take the bar away; returns the seconds since the start."""
        if self.shown and self._last >= 0:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        return time.perf_counter() - self.started


def size(count: int) -> str:
    """Bytes, in the unit that suits them."""
    if count < 1 << 10:
        return f"{count} B"
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.1f} {unit}"
    raise AssertionError(count)


def speed(count: int, seconds: float) -> float:
    """Tokens per second; 0 where there is nothing to divide."""
    return count / seconds if count and seconds > 0 else 0.0


def speeds(loaded: float, usage: Usage) -> str:
    """The line at the end: how long the load took, and how fast prompt and answer were."""
    new = usage.promptTokens - usage.reusedTokens
    reused = f" ({usage.reusedTokens} more were there)" if usage.reusedTokens else ""
    after = max(usage.generatedTokens - 1, 0)  # the first one comes with the prompt
    return (
        f"loaded in {loaded:.1f} s; prompt {new} tokens{reused}, {speed(new, usage.promptSeconds):.1f} tokens/s; "
        f"answer {usage.generatedTokens} tokens, {speed(after, usage.generationSeconds):.1f} tokens/s"
    )


def usage_document(usage: Usage) -> dict[str, Any]:
    """What a generation took, for programs."""
    return {
        "prompt_tokens": usage.promptTokens,
        "reused_tokens": usage.reusedTokens,
        "generated_tokens": usage.generatedTokens,
        "prompt_seconds": usage.promptSeconds,
        "generation_seconds": usage.generationSeconds,
    }


def table(rows: list[list[str]], align: str = "") -> str:
    """Lines with their columns in place: to the left (<) or to the right (>); only the first to the left by default."""
    sides = align or "<" + ">" * (len(rows[0]) - 1 if rows else 0)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
