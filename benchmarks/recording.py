"""Record a terminal for the README: `python -m benchmarks.recording [--out docs/plots/terminal.svg]`.

The commands run, and the picture shows what they print, piece by piece, at the times at which it came. It is an SVG
that is animated by CSS alone, with colours for light and dark. Commands are there from the beginning, and a viewer that
animates nothing shows the end.
"""

from __future__ import annotations

import argparse
import codecs
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "plots" / "terminal.svg"
COLUMNS = 80

PROGRAM = """\
import llama_cffi

llm = llama_cffi.load("model.gguf")
question = "Describe the sea in one sentence."
for text in llm.chat(question, temperature=0, stream=True):
    print(text, end="", flush=True)
"""
COMMANDS = (
    "cat first.py",
    "python first.py",
    'llama-cffi complete "Once upon a time" -m model.gguf -n 40 --temperature 0',
)

_PAUSE = 1.0  # between two programs
_ADVANCE, _LINE, _MARGIN, _SIZE = 8.4, 20, 16, 14  # pixels

_STYLE = """\
svg{--back:#f6f8fa;--edge:#d1d9e0;--text:#1f2328;--prompt:#1a7f37}
@media (prefers-color-scheme:dark){svg{--back:#151b23;--edge:#3d444d;--text:#f0f6fc;--prompt:#3fb950}}
rect{fill:var(--back);stroke:var(--edge)}
text{font:%dpx ui-monospace,Menlo,Consolas,monospace;fill:var(--text);white-space:pre}
.p{fill:var(--prompt);font-weight:bold}
@keyframes show{from{visibility:hidden}}
@media (prefers-reduced-motion:reduce){tspan{animation:none!important}}
"""


@dataclass(frozen=True)
class Piece:
    """Text that came at once, and when, in seconds."""

    text: str
    at: float
    kind: str = ""


def run(command: str, folder: Path) -> list[Piece]:
    """Run a command, and return what it prints. Raises CalledProcessError."""
    words = shlex.split(command)
    own = {"python": [sys.executable], "llama-cffi": [sys.executable, "-m", "llama_cffi"]}
    argv = [*own.get(words[0], [words[0]]), *words[1:]]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    begin, decoder = time.monotonic(), codecs.getincrementaldecoder("utf-8")()
    pieces = []
    with subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 4096):
            if text := decoder.decode(data):
                pieces.append(Piece(text, time.monotonic() - begin))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(piece.text for piece in pieces))
    return pieces


def record(model: Path) -> list[Piece]:
    """Run all commands in an empty folder with a model, and return the session of the terminal."""
    session: list[Piece] = []
    now = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "first.py").write_text(PROGRAM, encoding="utf-8")
        (folder / "model.gguf").symlink_to(model)
        for command in COMMANDS:
            session += [Piece("$ ", 0.0, "p"), Piece(f"{command}\n", 0.0)]
            output = run(command, folder)
            if command.startswith("cat "):
                session += [Piece(piece.text, 0.0) for piece in output]
                continue
            session += [Piece(piece.text, now + piece.at) for piece in output]
            if not output[-1].text.endswith("\n"):
                session.append(Piece("\n", now))
            now += output[-1].at + _PAUSE
    return session


def lines(session: list[Piece]) -> list[list[Piece]]:
    """The session as a terminal shows it: lines of at most COLUMNS characters."""
    rows: list[list[Piece]] = [[]]
    column = 0
    for piece in session:
        text = ""
        for character in piece.text:
            if character == "\n" or column == COLUMNS:
                rows[-1].append(Piece(text, piece.at, piece.kind))
                rows.append([])
                text, column = "", 0
            if character != "\n":
                text += character
                column += 1
        rows[-1].append(Piece(text, piece.at, piece.kind))
    return rows[:-1] if not any(piece.text for piece in rows[-1]) else rows


def draw(session: list[Piece], title: str) -> str:
    """The picture."""
    rows = lines(session)
    width, height = round(COLUMNS * _ADVANCE) + 2 * _MARGIN, len(rows) * _LINE + 2 * _MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE % _SIZE}</style>",
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    for number, row in enumerate(rows):
        spans = "".join(
            f"<tspan{' class=' + chr(34) + piece.kind + chr(34) if piece.kind else ''} "
            f'style="animation-delay:{piece.at:.2f}s">{escape(piece.text)}</tspan>'
            for piece in row
            if piece.text
        )
        out.append(f'<text x="{_MARGIN}" y="{_MARGIN + _SIZE + number * _LINE}">{spans}</text>')
    return "\n".join([*out, "</svg>", ""])


def _attributes(piece: Piece) -> str:
    kind = f' class="{piece.kind}"' if piece.kind else ""
    return f'{kind} style="animation:show .01s {piece.at:.2f}s backwards"' if piece.at else kind


def main() -> int:
    from vendor.source import chat_model

    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write (default: docs/plots/terminal.svg)")
    args = parser.parse_args()
    picture = draw(
        record(chat_model.path()), "In a terminal, a short program answers a question, and a command continues a text."
    )
    args.out.write_text(picture, encoding="utf-8")
    print(f"{args.out}: {len(picture.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
