"""The how-tos and the tutorial work: their blocks of Python run, and so do their commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny_models, tiny_projectors
from tests.cli.commands import environment
from tests.cli.fake_hub import FakeHub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
HUB_REPO, HUB_FILE = "ggml-org/gemma-3-270m-it-GGUF", "gemma-3-270m-it-Q8_0.gguf"  # the model that the pages use
ON_A_CHAT_MODEL = {"cli", "tutorial"}  # the one that readers have after `make run`
ON_A_TINY_MODEL = {"gpu", "llama-h", "lora", "media", "sampling"}  # it writes nonsense, but it is fast
WITHOUT_PYTHON = {"cli", "troubleshooting"}
SECONDS = 300

_PROGRAM = re.compile(r"(?:python -m llama_cffi|(?<![\w/-])llama-cffi) ([\w-]+)")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Runs all blocks in one namespace. Newlines before each give tracebacks the line numbers of the page.
_RUNNER = """\
import sys
namespace = {"__name__": "__main__", "__builtins__": __builtins__}
for number, block in enumerate(open(sys.argv[1], encoding="utf-8").read().split("\\0")):
    line, _, code = block.partition("\\n")
    exec(compile("\\n" * int(line) + code, sys.argv[2], "exec"), namespace)
"""


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The blocks of a language: the number of the line above each block, and its text."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(2)), m[2]) for m in _FENCE.finditer(text) if m[1] == language]


@pytest.fixture(scope="module")
def hub(tiny_path: Path) -> Iterator[FakeHub]:
    with FakeHub({HUB_FILE: tiny_path.read_bytes()}, HUB_REPO) as server:
        yield server


@pytest.fixture
def folder(page: Path, tmp_path: Path, gemma_path: Path, smol_path: Path, tiny_path: Path) -> Path:
    """Where the programs of a page run, with the files that it names."""
    others = smol_path if page.stem in ON_A_CHAT_MODEL else gemma_path
    (tmp_path / "model.gguf").symlink_to(tiny_path if page.stem in ON_A_TINY_MODEL else others)
    (tmp_path / "chat-model.gguf").symlink_to(smol_path)
    if page.stem == "media":
        tiny_projectors.write_llava(tmp_path / "mmproj.gguf", tiny_models.LLAMA.n_embd)
    if page.stem == "lora":
        tiny_models.write_lora(tmp_path / "french.gguf")
        tiny_models.write_lora(tmp_path / "polite.gguf", seed=3)
    elif page.stem == "quantize":
        spec = replace(tiny_models.LLAMA, n_embd=256, n_head=4, n_ff=512, quant="F32")
        tiny_models.write_llama(tmp_path / "model-f16.gguf", spec=spec)
    return tmp_path


def around(folder: Path, hub: FakeHub) -> dict[str, str]:
    """The environment of a page's programs: this checkout, and a Hub on this machine."""
    cache = str(folder / "cache")
    return environment(HF_ENDPOINT=hub.endpoint, HF_HOME=cache, PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8")


def test_there_are_pages() -> None:
    assert {"tutorial", "cli", "models", "logging"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_python(page: Path, folder: Path, hub: FakeHub) -> None:
    found = blocks(page, "python")
    assert bool(found) is (page.stem not in WITHOUT_PYTHON), "a page without a block of Python"
    script = folder / "blocks.txt"
    script.write_text("\0".join(f"{line}\n{code}" for line, code in found) or "0\n", encoding="utf-8")
    command = [sys.executable, "-c", _RUNNER, str(script), str(page)]
    result = subprocess.run(
        command, cwd=folder, env=around(folder, hub), capture_output=True, text=True, timeout=SECONDS
    )
    assert result.returncode == 0, f"{page.name}:\n{result.stderr}"


def _commands() -> list[tuple[Path, str]]:
    lines = [
        (page, line[2:])
        for page in PAGES
        for _, text in blocks(page, "console")
        for line in text.replace("\\\n", "").splitlines()
        if line.startswith("$ ")
    ]
    return [(page, line) for page, line in lines if _PROGRAM.search(line) or "llama_cffi.compat" in line]


def test_there_are_commands() -> None:
    named = {match[1] for _, line in _commands() if (match := _PROGRAM.search(line))}
    assert {"info", "complete", "chat", "embed", "bench", "pull", "list"} <= named


@pytest.mark.parametrize(
    ("page", "line"), _commands(), ids=lambda value: value.stem if isinstance(value, Path) else value[:60]
)
def test_a_command(page: Path, line: str, folder: Path, hub: FakeHub) -> None:
    python = shlex.quote(sys.executable)
    command = line.replace("python -m llama_cffi.compat", f"{python} -m llama_cffi.compat")
    command = _PROGRAM.sub(lambda match: f"{python} -m llama_cffi {match[1]}", command)
    (folder / "schema.json").write_text(
        '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"], '
        '"additionalProperties": false}'
    )
    (folder / "colours.gbnf").write_text('root ::= ("red" | "green") "\\n"\n')
    (folder / "script.py").write_text(
        "import sys\nfrom llama_cpp import Llama\n"
        "print(sys.argv[1:], Llama('model.gguf', n_ctx=256)('Hello', max_tokens=2)['usage'])\n"
    )
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=around(folder, hub),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() or os.path.exists(folder / "vectors.npy")
