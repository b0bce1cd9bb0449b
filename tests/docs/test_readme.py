"""README.md: all its blocks run as they stand, its figures and links are true, and README.ar.md says the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import recording
from tests.cli.commands import environment
from tests.docs.test_howtos import _FENCE, _RUNNER, SECONDS, blocks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
README, ARABIC = ROOT / "README.md", ROOT / "README.ar.md"
PICTURE = ROOT / "docs" / "plots" / "terminal.svg"

# Blocks that this module does not run, and the test that does.
ELSEWHERE = {
    "make run\n": "tests/install/test_small_build.py",
    "python3 -m venv .venv\n. .venv/bin/activate\npip install llama_cffi-*.whl\n": "tests/install/test_wheel.py",
    "curl http://127.0.0.1:8080/": "tests/server/test_serve.py",
}


@pytest.fixture
def checkout(tmp_path: Path, smol_path: Path) -> Path:
    """A folder as `make run` leaves it: an environment with the command, and the model in the cache of the user."""
    commands, cache = tmp_path / ".venv" / "bin", tmp_path / "home" / ".cache" / "llama-cffi" / "models"
    commands.mkdir(parents=True)
    cache.mkdir(parents=True)
    (cache / smol_path.name).symlink_to(smol_path)
    (commands / "activate").write_text(f'PATH="{commands}:$PATH"\n')
    program = commands / "llama-cffi"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llama_cffi "$@"\n')
    program.chmod(0o755)
    return tmp_path


def _run(command: list[str], folder: Path) -> str:
    env = environment(HOME=str(folder / "home"), PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8")
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_block_runs_in_order(checkout: Path) -> None:
    shell = [text for _, text in blocks(README, "sh")]
    here = [text for text in shell if not text.startswith(tuple(ELSEWHERE))]
    assert len(shell) == len(here) + len(ELSEWHERE) and len(here) == 2
    said = _run(["bash", "-euo", "pipefail", "-c", "".join(here)], checkout)
    assert "Memory with a context of" in said and len(said.splitlines()) > 20
    python = blocks(README, "python")
    assert len(python) == 2
    (checkout / "blocks.txt").write_text("\0".join(f"{line}\n{code}" for line, code in python), encoding="utf-8")
    assert len(_run([sys.executable, "-c", _RUNNER, "blocks.txt", str(README)], checkout)) > 100


def test_blocks_that_run_elsewhere_do() -> None:
    for start, test in ELSEWHERE.items():
        text = (ROOT / test).read_text(encoding="utf-8")
        assert {"make": '"run"', "python3": '"pip", "install"', "curl": "README.md"}[start.split()[0]] in text


def test_the_first_program_has_three_lines_and_the_page_is_short() -> None:
    (_, first), *_ = blocks(README, "python")
    assert len([line for line in first.splitlines() if line]) == 3
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_links_lead_to_files_and_headings() -> None:
    for page in (README, ARABIC):
        for target in re.findall(r"\]\(([^()\s]+)\)", page.read_text(encoding="utf-8")):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            assert (ROOT / path).exists(), target
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.M) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


# Figures of the table, and how their pages write them.
FACTS = {
    "1,594": ("docs/safety.md", "1,594 cases"),
    "1,017 of the 1,023": ("llama_cffi/_generated/report.md", "| all | 1023 | 1017 |"),
    "1.03 times": ("docs/performance.md", "| greedy loop, Gemma 3 270M, tokens/s | 89.9 | 91.9 | 1.028 |"),
    "2.0 times": ("docs/performance.md", "| 1,732 | 2,089 | 1.203 | 1,056 |"),
    "371": ("docs/performance.md", "by an `Engine` at 371.1"),
    "108": ("docs/performance.md", "they ran at 107.8 tokens/s"),
    "90 % of 3,920": (
        "docs/howto/constrain.md",
        '3,538 of 3,920 are taken (90.3 %), 3,746 (95.6 %) with `unenforced="check"`, and 0 of 14,280 texts',
    ),
    "August 2025 to": ("docs/versions.md", "| 0.3.16 | `4227c9be4268` | 2025-08-"),
    "to October 2026": ("docs/versions.md", "| xllamacpp==2026.10.11549 | `b11549` | 2026-10-"),
}


def test_figures_are_those_of_the_pages_that_they_link_to() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for figure, (page, words) in FACTS.items():
        (row,) = [row for row in rows if figure in row]
        assert f"({page})" in row and words in (ROOT / page).read_text(encoding="utf-8"), figure


# The picture


def test_the_picture_is_plain_small_and_has_two_schemes() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    assert len(text) < 20_000 and "prefers-color-scheme:dark" in text and "prefers-reduced-motion" in text
    assert not re.search(r"<script|<image|<a |href|@import|@font-face|url\(|data:", text)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = ["".join(line.itertext()) for line in root.iter("{http://www.w3.org/2000/svg}text")]
    assert max(map(len, lines)) <= recording.COLUMNS
    assert all(any(line == f"$ {command}" for line in lines) for command in recording.COMMANDS)


def test_the_picture_shows_what_the_program_prints(smol_path: Path, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(recording.PROGRAM, encoding="utf-8")
    (tmp_path / "model.gguf").symlink_to(smol_path)
    (command,) = [command for command in recording.COMMANDS if command.startswith("python ")]
    session = [recording.Piece(f"$ {command}\n", 0.0), *recording.run(command, tmp_path)]
    assert "".join(piece.text for piece in session[1:]).count(" ") > 10 and len(session) > 10  # piece by piece
    root = ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))
    shown = ["".join(line.itertext()) for line in root.iter("{http://www.w3.org/2000/svg}text")]
    now = ["".join(piece.text for piece in row) for row in recording.lines(session)]
    first = shown.index(now[0])
    assert shown[first : first + len(now)] == now


def test_a_recording_wraps_lines_and_escapes_text() -> None:
    session = [recording.Piece("$ ", 0, "p"), recording.Piece("x" * 100 + "\n<&>\n", 0.5)]
    root = ElementTree.fromstring(recording.draw(session, "A <title>"))
    lines = ["".join(line.itertext()) for line in root.iter("{http://www.w3.org/2000/svg}text")]
    assert lines == ["$ " + "x" * 78, "x" * 22, "<&>"]


# In Arabic


def test_the_arabic_page_has_the_same_blocks_links_and_tables() -> None:
    english, arabic = (page.read_text(encoding="utf-8") for page in (README, ARABIC))
    assert _FENCE.findall(arabic) == _FENCE.findall(english) and len(_FENCE.findall(english)) > 6
    own = {"README.ar.md", "README.md"}
    targets = [set(re.findall(r"\]\(([^()\s]+)\)", text)) - own for text in (english, arabic)]
    assert targets[0] == targets[1]
    for pattern in (r"^## ", r"^\| ", r"^- "):
        assert len(re.findall(pattern, arabic, re.M)) == len(re.findall(pattern, english, re.M)), pattern
    for figure in FACTS:
        assert re.findall(r"[\d.,]*\d", figure)[0] in arabic
    assert arabic.startswith('<div dir="rtl">\n\n# llama_cffi\n') and arabic.rstrip().endswith("</div>")
    assert "[English](README.md)" in arabic and len(re.findall(r"[\u0600-\u06ff]", arabic)) > 1500


def test_the_arabic_blocks_read_from_left_to_right() -> None:
    """Code in a page from right to left is in a block of its own direction."""
    text = ARABIC.read_text(encoding="utf-8")
    for fence in re.finditer(r"^```\w+\n.*?^```$", text, re.M | re.S):
        assert text[: fence.start()].endswith('<div dir="ltr">\n\n') and text[fence.end() :].startswith("\n\n</div>\n")
    assert text.count("<div ") == text.count("</div>")
