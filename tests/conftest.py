"""Models for the tests, each made or fetched once a run; and the rule that what must run did run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import llama_cffi
from llama_cffi import Context, Ggml, Model, UnavailableError
from llama_cffi._generated.absent import ABSENT
from tests import tiny_models
from tests.older import DIFFERENCES
from vendor.source import fetch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

# A shell that runs a job in the background has it ignore Ctrl-C, and so would every interpreter that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REQUIRED = (
    *("codegen", "contract", "api", "generate", "constrain", "embed", "engine", "cli"),
    *("safety", "fuzz", "hostile", "install", "docs", "rpc", "typing"),
)
# What setting a field goes through.
_FIELDS = ("_core/structs.py", "_core/compat.py", "_core/compat_fields.py", "model/params.py", "context/samplers.py")
_LIBRARIES = Path(llama_cffi.__file__).with_name("lib")


@pytest.fixture(scope="session", autouse=True)
def cpu_backend() -> None:
    Ggml.Backend.cpuLoad()


@pytest.fixture(scope="session")
def vectors() -> Path:
    """llama.cpp's vocab-only models with their tokenizer test vectors."""
    return fetch.vectors_dir()


@pytest.fixture(scope="session")
def tiny_path(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama of a few megabytes, with a real vocabulary of 32,000 tokens."""
    return tiny_models.write_llama(
        tmp_path_factory.mktemp("models") / "tiny.gguf", vectors / "ggml-vocab-llama-spm.gguf"
    )


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[Model]:
    with Model.load(tiny_path) as model:
        yield model


@pytest.fixture
def ctx(tiny: Model) -> Iterator[Context]:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=2, nThreadsBatch=2)) as context:
        yield context


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma 3 270M, from the packages that the test extra installs."""
    import default_model

    return default_model.path()


@pytest.fixture(scope="session")
def gemma(gemma_path: Path) -> Iterator[Model]:
    with Model.load(gemma_path) as model:
        yield model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for end, name, what in DIFFERENCES if ABSENT else ():
        for item in items:
            if name in ABSENT and item.nodeid.endswith(f"::{end}"):
                item.add_marker(pytest.mark.xfail(reason=f"{ABSENT[name]} differ: {what}"))


def _asked_for_it(error: pytest.ExceptionInfo[BaseException]) -> bool:
    name = str(error.value).partition(":")[0]
    called = [entry for entry in error.traceback if "tests" in Path(entry.path).parts]
    if name in ABSENT and called and f"lib.{name}" in str(called[-1].statement):
        return True
    package = _LIBRARIES.parent
    frames = [entry.frame.code for entry in error.traceback if package in Path(entry.path).parents]
    if not {name, name.partition(".")[0]} & set(ABSENT) or not frames:
        return False
    if "." in name or name.isupper():  # a field or a flag
        return all(Path(code.path).as_posix().endswith(_FIELDS) for code in frames) or f"`{name}`" in _doc(frames[0])
    return f"`{name}`" in _doc(frames[0])


def _doc(code: Any) -> str:
    return str(code.raw.co_consts[0]) if code.raw.co_consts else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In a build of another llama.cpp, a test of what that lacks ends with UnavailableError: it is counted as skipped.

    Only for what the generator lists, which is nothing for the version that the facade was written for; and only where
    the test itself called the function that maps to it, or set the field: what the facade calls inside must be there.
    """
    report = yield
    if call.excinfo and isinstance(call.excinfo.value, UnavailableError) and _asked_for_it(call.excinfo):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"unavailable: {call.excinfo.value}")
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A whole run in which one kind of test ran nothing is a failed run.

    Vulkan's must run where the build has the module, and where `LLAMA_CFFI_TEST_VULKAN=1` says so.
    """
    if session.config.args != session.config.getini("testpaths") or session.config.option.keyword:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    passed = [report.nodeid for report in reporter.stats.get("passed", [])]
    vulkan = os.environ.get("LLAMA_CFFI_TEST_VULKAN") == "1" or any(_LIBRARIES.glob("libggml-vulkan*"))
    required = (*_REQUIRED, "vulkan") if vulkan else _REQUIRED
    empty = [kind for kind in required if not any(name.startswith(f"tests/{kind}/") for name in passed)]
    if empty:
        reporter.write_line(f"no test passed in: {', '.join(empty)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
