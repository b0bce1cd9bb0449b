"""Output of the commands: exit statuses, errors in one line, the progress bar, tables, sizes and speeds."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from llama_cffi.errors import ContextFullError, LlamaError
from llama_cffi.generation.steps import Usage

_BAR_WIDTH = 30
_IN_PYTHON = re.compile(r"pass nCtx to load\(\) or Engine\(\)|raise Context\.Params\.nCtx")
_ESCAPED_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


class CommandError(Exception):
    """An error to print in one line; `status` is the exit status of the command."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit status.

    An error becomes a line on stderr and status 1, or the status of the CommandError. Ctrl-C is status 130; a closed
    pipe is status 1, silently.
    """
    warnings.showwarning = _show_warning
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader closed the pipe, as `| head` does
        discard_stdout()
        return 1
    except KeyboardInterrupt:
        return 130
    except CommandError as error:
        say(f"error: {error}")
        return error.status
    except ContextFullError as error:
        say(f"error: {_IN_PYTHON.sub('raise --ctx', str(error))}")
        return 1
    except (LlamaError, ImportError, OSError, ValueError, MemoryError) as error:
        say(f"error: {error}")
        return 1


def discard_stdout() -> None:
    """Point stdout at /dev/null: Python flushes it at exit, which would fail on a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    say(f"warning: {message}")


def say(line: str) -> None:
    """Print a line to stderr, for people. Control characters, which a file may have given a name, are escaped."""
    print(plain_lines(line), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """Text from a file, with escapes for whatever is not a visible character or a space."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def plain_lines(text: str) -> str:
    """Text of several lines, each as `plain` makes it."""
    return "\n".join(map(plain, text.split("\n")))


def has_colours() -> bool:
    """Return True if stdout is a terminal that shows styles, and NO_COLOR is not set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(text: str) -> None:
    """Print a piece of text to stdout and flush it.

    Characters that the encoding of stdout lacks become "?". On a terminal, control characters are shown escaped: the
    model's output must not control it.
    """
    if sys.stdout.isatty():
        text = text.translate(_ESCAPED_CONTROLS)
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def write_json(document: Any) -> None:
    """Print a JSON document to stdout, for programs."""
    print(json.dumps(document, indent=2), flush=True)


class Progress:
    """A progress bar on stderr, callable as `Model.Params.progressCallback`; hidden unless stderr is a terminal."""

    def __init__(self, verb: str, name: str, quiet: bool = False) -> None:
        self.label = plain(f"{verb} {name}".rstrip())
        self.shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.started = time.perf_counter()
        self._last = -1

    def __call__(self, done: float) -> None:
        percent = int(100 * done)
        if self.shown and percent != self._last:
            self._last = percent
            full = round(_BAR_WIDTH * done)
            bar = f" [{'#' * full}{'.' * (_BAR_WIDTH - full)}] {percent}%"
            width = max(shutil.get_terminal_size().columns - len(bar) - 1, 0)  # a wrapped line could not be erased
            print(f"\r\033[K{self.label[:width]}{bar}", end="", file=sys.stderr, flush=True)

    def end(self) -> float:
        """Erase the bar. Returns the seconds since the start."""
        if self.shown and self._last >= 0:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        return time.perf_counter() - self.started


def size(count: int) -> str:
    """Format a number of bytes as B, KiB, MiB or GiB."""
    if count < 1 << 10:
        return f"{count} B"
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.1f} {unit}"
    raise AssertionError(count)


def speed(count: int, seconds: float) -> float:
    """Tokens per second; 0 if there are no tokens or no time passed."""
    return count / seconds if count and seconds > 0 else 0.0


def speeds(loaded: float, usage: Usage) -> str:
    """The closing line: the time to load, and the speed of prompt and answer."""
    new = usage.promptTokens - usage.reusedTokens
    disk = f", {usage.tokensFromDisk} of them from disk" if usage.tokensFromDisk else ""
    reused = f" ({usage.reusedTokens} more reused{disk})" if usage.reusedTokens else ""
    after = max(usage.generatedTokens - 1, 0)  # the time of the first one is part of the prompt's
    guessed = f" ({usage.acceptedTokens} of {usage.guessedTokens} guesses accepted)" if usage.guessedTokens else ""
    return (
        f"loaded in {loaded:.1f} s; prompt {new} tokens{reused}, {speed(new, usage.promptSeconds):.1f} tokens/s; "
        f"answer {usage.generatedTokens} tokens, {speed(after, usage.generationSeconds):.1f} tokens/s{guessed}"
    )


def usage_document(usage: Usage) -> dict[str, Any]:
    """The usage of a generation as a JSON object."""
    return {
        "prompt_tokens": usage.promptTokens,
        "reused_tokens": usage.reusedTokens,
        "generated_tokens": usage.generatedTokens,
        "prompt_seconds": usage.promptSeconds,
        "generation_seconds": usage.generationSeconds,
        "guessed_tokens": usage.guessedTokens,
        "accepted_tokens": usage.acceptedTokens,
        "tokens_from_disk": usage.tokensFromDisk,
    }


def table(rows: list[list[str]], align: str = "") -> str:
    """Format rows as aligned columns.

    `align` has a character per column: < is left, > is right. By default only the first column is left-aligned.
    """
    rows = [[plain(cell) for cell in row] for row in rows]
    sides = align or "<" + ">" * (len(rows[0]) - 1 if rows else 0)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
