"""The guard: what would end the process comes back as an exception, also from raw `lib` calls, and others live on."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llama_cffi import Batch, ClosedError, Context, Model, NativeAssertionError, NativeError, Sampler, ffi, lib, logSet
from llama_cffi._core.native_log import native_log


def test_an_assert_names_its_place_and_operation() -> None:
    with pytest.raises(NativeAssertionError, match=r"llama\.cpp/ggml/src/.*GGML_ASSERT\(index < ") as caught:
        lib.ggml_backend_dev_get(99)
    assert caught.value.operation == "ggml_backend_dev_get"


def test_a_cpp_exception_comes_back(tiny: Model) -> None:
    buffer = ffi.new("char[]", 8)
    with pytest.raises(NativeError, match="llama_token_to_piece"):
        lib.llama_token_to_piece(tiny.vocab._c, 99_999_999, buffer, 8, 0, False)
    with pytest.raises(NativeError):
        lib.llama_tokenize(tiny.vocab._c, b"x", -1, ffi.NULL, 0, False, False)
    with pytest.raises(NativeError, match="llama_load_mode_from_str"):
        lib.llama_load_mode_from_str(b"nonsense")


def test_a_failed_call_leaves_nothing_behind(tiny: Model) -> None:
    with pytest.raises(NativeError):
        lib.llama_load_mode_from_str(b"nonsense")
    assert lib.llama_vocab_n_tokens(tiny.vocab._c) == 32000  # no stale error
    assert lib.llama_load_mode_from_str(b"mmap") == lib.LLAMA_LOAD_MODE_MMAP


def test_a_context_with_a_failed_assert_refuses_further_use(tiny: Model) -> None:
    ctx = Context.initFromModel(tiny, Context.Params(nCtx=64, nBatch=8))
    other = Context.initFromModel(tiny, Context.Params(nCtx=64))
    batch = Batch.getOne([5] * 16)
    with pytest.raises(NativeAssertionError, match="llama_decode"):
        lib.llama_decode(ctx._c, batch._c[0])  # past the facade's check
    assert ctx.closed
    with pytest.raises(ClosedError, match="llama_decode may have left it half-changed"):
        ctx.decode(Batch.getOne([5]))
    ctx.free()
    assert other.decode(batch) == 0
    assert not tiny.closed


def test_sampling_without_logits_past_the_facade(tiny: Model) -> None:
    ctx, sampler = Context.initFromModel(tiny, Context.Params(nCtx=64)), Sampler.initGreedy()
    with pytest.raises(NativeAssertionError, match="llama_sampler_sample"):
        lib.llama_sampler_sample(sampler._c, ctx._c, -1)
    with pytest.raises(ClosedError):
        sampler.reset()


def test_reading_functions_invalidate_nothing(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
        with pytest.raises(NativeAssertionError):
            lib.llama_memory_seq_pos_max(ctx.getMemory()._c, 9999)
        assert ctx.decode(Batch.getOne([5])) == 0
        with pytest.raises(NativeError):
            lib.llama_vocab_get_text(tiny.vocab._c, -1)
        assert not tiny.closed


def test_a_failed_memory_call_invalidates_its_context(tiny: Model) -> None:
    ctx = Context.initFromModel(tiny, Context.Params(nCtx=64))
    with pytest.raises(NativeAssertionError):
        lib.llama_memory_seq_keep(ctx.getMemory()._c, 9999)
    with pytest.raises(ClosedError, match="llama_memory_seq_keep"):
        ctx.getMemory()


def test_guarded_calls_from_several_threads(tiny: Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def fail(i: int) -> str:
        try:
            lib.llama_load_mode_from_str(f"mode {i}".encode())
        except NativeError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        for i, text in enumerate(pool.map(fail, range(400))):
            assert text.endswith(f"mode {i}")  # each thread its own error


@pytest.mark.parametrize("name", ["ggml_backend_reg_get", "ggml_backend_dev_get"])
def test_no_debugger_is_started(name: str) -> None:
    code = f"from llama_cffi import lib, NativeError\ntry:\n    lib.{name}(7)\nexcept NativeError:\n    print('caught')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "caught", "")


def test_errors_carry_the_log(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    with pytest.raises(NativeError) as caught:
        Model.load(bad)
    assert "invalid magic" in caught.value.log and "invalid magic" in str(caught.value)


def _leave_a_context(model: Model) -> None:
    """A context that only the collector frees, which logs."""
    ring: list[object] = [Context.initFromModel(model, Context.Params(nCtx=64))]
    ring.append(ring)


def test_what_the_collector_frees_is_not_in_an_error(tiny: Model, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    path = ffi.new("char[]", str(bad).encode())
    seen: list[str] = []

    def collect(level: int, text: str, data: object) -> None:
        seen.append(text)
        if "invalid magic" in text:  # between the failure and the question for its reason
            gc.collect()

    try:
        _leave_a_context(tiny)
        logSet(collect)
        with pytest.raises(NativeError) as caught:
            Model.load(bad)
        assert "invalid magic" in caught.value.log and "llama_context" not in caught.value.log
        assert any("llama_context" in line for line in seen)
        logSet(None)
        _leave_a_context(tiny)
        assert lib.llama_model_load_from_file(path, lib.llama_model_default_params()) == ffi.NULL
        gc.collect()
        assert "invalid magic" in native_log() and "llama_context" not in native_log()
    finally:
        logSet(None)


def test_an_error_has_its_own_threads_lines_only(tiny: Model, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    stop = threading.Event()

    def make_contexts() -> None:
        while not stop.is_set():
            Context.initFromModel(tiny, Context.Params(nCtx=64)).close()

    noise = threading.Thread(target=make_contexts)
    noise.start()
    try:
        for _ in range(300):
            with pytest.raises(NativeError) as caught:
                Model.load(bad)
            assert "invalid magic" in caught.value.log and "llama_context" not in caught.value.log
    finally:
        stop.set()
        noise.join()
