"""llama.cpp's log in Python's `logging`: quiet by default, and a failed load has its reason in the exception."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from llama_cffi import Context, Model, ModelLoadError, logGet, logSet

ROOT = Path(__file__).resolve().parents[2]
LOGGER = "llama_cffi"


@pytest.fixture
def default_log() -> Iterator[None]:
    logSet(logging.getLogger(LOGGER))
    yield
    logSet(logging.getLogger(LOGGER))


def _run(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, where `logging` is not set up."""
    text = f"import sys\nfrom llama_cffi import Context, Model, ModelLoadError\n{code}"
    environment = {name: value for name, value in os.environ.items() if name != "GGML_USE_VULKAN"}
    return subprocess.run(
        [sys.executable, "-c", text, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


LOAD = "with Model.load(sys.argv[1]) as model, Context.initFromModel(model, Context.Params(nCtx=64)): pass\n"


def test_nothing_is_printed_and_logging_is_not_even_imported(tiny_path: Path) -> None:
    result = _run(
        LOAD + "from llama_cffi._core import native_log as _handle\n"
        "assert 'logging' not in sys.modules\n"
        "try:\n    Model.load(sys.executable)\n"
        "except ModelLoadError as error:\n    assert error.log\n",
        tiny_path,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_warnings_and_errors_are_not_printed_where_logging_is_imported_only(tiny_path: Path) -> None:
    code = "import logging\n" + LOAD + "try: Model.load(sys.executable)\nexcept ModelLoadError: pass\n"
    result = _run(code + "print(logging.getLogger('llama_cffi').handlers)", tiny_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "NullHandler" in result.stdout


def test_the_level_info_is_no_flood(tiny_path: Path) -> None:
    result = _run("import logging; logging.basicConfig(level=logging.INFO)\n" + LOAD, tiny_path)
    lines = result.stderr.splitlines()
    assert result.returncode == 0
    assert len(lines) < 10 and all(line.startswith("WARNING:llama_cffi:") for line in lines)


def test_the_end_of_the_interpreter_logs_nothing(tiny_path: Path) -> None:
    code = (
        "import logging; logging.basicConfig(level=1); model = Model.load(sys.argv[1])\n"
        "ctx = Context.initFromModel(model, Context.Params(nCtx=64)); sys.stderr.flush(); print('end', file=sys.stderr)"
    )
    result = _run(code, tiny_path)
    assert result.returncode == 0
    assert result.stderr.endswith("\nend\n") and "Traceback" not in result.stderr


def test_levels(tiny_path: Path, default_log: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(1, LOGGER):
        Model.load(tiny_path).free()
    levels = {record.levelno for record in caplog.records}
    assert {record.name for record in caplog.records} == {LOGGER}
    assert {5, logging.DEBUG} <= levels and logging.INFO not in levels
    caplog.clear()
    with caplog.at_level(logging.DEBUG, LOGGER):
        Model.load(tiny_path).free()
    assert caplog.records and min(record.levelno for record in caplog.records) == logging.DEBUG
    assert any("general.architecture" in record.getMessage() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER), pytest.raises(ModelLoadError):
        Model.load(sys.executable)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_change_of_level_counts_at_once(tiny: Model, default_log: None, caplog: pytest.LogCaptureFixture) -> None:
    params = Context.Params(nCtx=64)
    with caplog.at_level(logging.CRITICAL, LOGGER):
        Context.initFromModel(tiny, params).free()
        assert not caplog.records
    with caplog.at_level(logging.DEBUG, LOGGER):
        Context.initFromModel(tiny, params).free()
    assert caplog.records
    before = len(caplog.records)
    with caplog.at_level(logging.DEBUG, LOGGER):
        logging.disable(logging.CRITICAL)
        try:
            Context.initFromModel(tiny, params).free()
        finally:
            logging.disable(logging.NOTSET)
    assert len(caplog.records) == before


def test_log_set_replaces_it_and_brings_it_back(
    tiny: Model, default_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    params, lines = Context.Params(nCtx=64), []
    assert logGet() == (logging.getLogger(LOGGER), None)
    with caplog.at_level(1, LOGGER):
        logSet(None)
        Context.initFromModel(tiny, params).free()
        logSet(lambda level, text, data: lines.append(text))
        Context.initFromModel(tiny, params).free()
        assert lines and not caplog.records
        logSet(logging.getLogger(LOGGER))
        Context.initFromModel(tiny, params).free()
    assert {line.rstrip("\n") for line in lines} & {record.getMessage() for record in caplog.records}


def test_another_logger_gets_llama_cpps_own_levels(
    tiny_path: Path, default_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    logSet(logging.getLogger("mine"))
    with caplog.at_level(logging.DEBUG, "mine"):
        Model.load(tiny_path).free()
    assert {logging.DEBUG, logging.INFO} <= {record.levelno for record in caplog.records}


# The exception of a failed load has the log lines, wherever the log goes.


@pytest.fixture(params=["default", "silent"])
def any_log(request: pytest.FixtureRequest, default_log: None) -> None:
    if request.param == "silent":
        logSet(None)


def test_a_missing_file(any_log: None, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.gguf"):
        Model.load(tmp_path / "nowhere.gguf")


def test_a_file_that_is_no_gguf(any_log: None, tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("These are notes, not a model.\n" * 100)
    with pytest.raises(ModelLoadError, match=r"notes\.gguf could not be loaded[\s\S]*llama.cpp logged[\s\S]*magic"):
        Model.load(path)


def test_a_truncated_file(any_log: None, tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    data = tiny_path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(ModelLoadError, match=r"llama.cpp logged[\s\S]*(corrupted|incomplete|bounds)"):
        Model.load(path)


def test_an_unknown_architecture(any_log: None, tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "oddarch")
    writer.add_uint32("oddarch.attention.head_count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=r"unknown model architecture: 'oddarch'"):
        Model.load(path)
