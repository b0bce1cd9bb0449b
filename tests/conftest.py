"""What all tests share: models that are made or fetched once a run, markers, and the rule that every kind of test ran.

Nothing here imports native code before a test asks for it, so that tests/unit starts without a build.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import llama_cffi
from tests import older
from vendor.source import chat_model, fetch

if TYPE_CHECKING:
    from llama_cffi import Context, Model

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

# A shell that runs a job in the background has it ignore Ctrl-C, and so would every interpreter that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REQUIRED = (
    *(
        "unit",
        "codegen",
        "contract",
        "api",
        "ggml",
        "generate",
        "constrain",
        "embed",
        "engine",
        "llm",
        "chat",
        "server",
        "cli",
        "compat",
    ),
    *("safety", "fuzz", "hostile", "install", "docs", "rpc", "typing"),
)
# Folders whose tests need no native build; in tests/codegen, but for those that read llama.cpp's headers.
_PURE = ("unit", "codegen")
_HEADERS = {"real_folders"}
# A test that uses one of these has a model to load.
_MODELS = {"chatty", "folder", "gemma_path", "kind", "models", "path", "plain", "smol_path", "tiny_path", "vectors"}


@pytest.fixture(scope="session")
def vectors() -> Path:
    """llama.cpp's vocab-only models with their tokenizer test vectors."""
    return fetch.vectors_dir()


@pytest.fixture(scope="session")
def tiny_path(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama of a few megabytes, with a real vocabulary of 32,000 tokens."""
    from tests import tiny_models

    return tiny_models.write_llama(
        tmp_path_factory.mktemp("models") / "tiny.gguf", vectors / "ggml-vocab-llama-spm.gguf"
    )


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[Model]:
    from llama_cffi import Model

    with Model.load(tiny_path) as model:
        yield model


@pytest.fixture
def ctx(tiny: Model) -> Iterator[Context]:
    from llama_cffi import Context

    with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=2, nThreadsBatch=2)) as context:
        yield context


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma 3 270M, from the packages that the test extra installs."""
    import default_model

    return default_model.path()


@pytest.fixture(scope="session")
def gemma(gemma_path: Path) -> Iterator[Model]:
    from llama_cffi import Model

    with Model.load(gemma_path) as model:
        yield model


@pytest.fixture(scope="session")
def smol_path() -> Path:
    """SmolLM2-135M-Instruct, a small chat model, which the first run downloads."""
    return chat_model.path()


@pytest.fixture(scope="session")
def smol(smol_path: Path) -> Iterator[Model]:
    from llama_cffi import Model

    with Model.load(smol_path) as model:
        yield model


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark by folder and by fixtures: native, model, vulkan. (`slow` stands on the tests.)"""
    folder = _folder(item)
    fixtures = set(getattr(item, "fixturenames", ()))
    if folder not in _PURE or fixtures & _HEADERS:
        item.add_marker("native")
    if folder not in _PURE and fixtures & _MODELS:
        item.add_marker("model")
    if folder == "vulkan":
        item.add_marker("vulkan")
    older.apply(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Load the CPU backend before the fixtures of a native test."""
    if _folder(item) not in _PURE:
        from llama_cffi import Ggml

        Ggml.Backend.cpuLoad()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where an older llama.cpp lacks what a test needs, say with which marker the test states that."""
    report = yield
    advice = older.advice(call.excinfo.value) if call.excinfo else ""
    if report.failed and advice:
        report.sections.append(("Older llama.cpp", advice))
    return report


def left_out(manifest: Mapping[str, Any] | None = None) -> list[str]:
    """What this build lacks because it is small, by the manifest of its libraries. A whole run needs all."""
    if manifest is None:
        manifest = json.loads(Path(llama_cffi.__file__).with_name("lib").joinpath("manifest.json").read_text())
    return list(manifest.get("left_out", ()))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A whole run in which one kind of test ran nothing is a failed run.

    So is one with a small build. Vulkan's must run where the build has the module, and where `LLAMA_CFFI_TEST_VULKAN=1`
    says so.
    """
    config = session.config
    if hasattr(config, "workerinput"):  # a process of pytest-xdist: the one that has started it knows all results
        return
    selected = config.option.keyword or config.option.markexpr or config.option.collectonly
    vulkan_only = config.args == ["tests/vulkan"]  # `make test` runs it apart: what loads Vulkan changes later tests
    if selected or not (vulkan_only or config.args == config.getini("testpaths")):
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    passed = [report.nodeid for report in reporter.stats.get("passed", [])]
    libraries = Path(llama_cffi.__file__).with_name("lib")
    vulkan = os.environ.get("LLAMA_CFFI_TEST_VULKAN") == "1" or any(libraries.glob("libggml-vulkan*"))
    required: tuple[str, ...] = () if vulkan_only else _REQUIRED
    if vulkan and "tests/vulkan" not in (config.option.ignore or ()):
        required += ("vulkan",)
    if missing := left_out():
        reporter.write_line(f"this build leaves out {', '.join(missing)}: run make build", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    empty = [kind for kind in required if not any(name.startswith(f"tests/{kind}/") for name in passed)]
    if empty:
        reporter.write_line(f"no test passed in: {', '.join(empty)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
