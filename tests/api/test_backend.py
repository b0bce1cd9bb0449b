"""The CPU backend: which variant is chosen, and on machines that lie about AMX."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import llama_cffi
from llama_cffi import Ggml, UnavailableError, lib, printSystemInfo
from llama_cffi.ggml import _variants

GREEDY = """
import sys
from llama_cffi import *
Ggml.Backend.cpuLoad()
model = Model.load(sys.argv[1])
ctx = Context.initFromModel(model, Context.Params(nCtx=64))
s = Sampler.initGreedy(); out = []
ctx.decode(Batch.getOne(tokenize(model.vocab, "Once upon a time")))
for _ in range(8):
    out.append(s.sample(ctx)); ctx.decode(Batch.getOne(out[-1:]))
print(Ggml.Backend.cpuVariant().name, *out)
"""


def _run(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GREEDY, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_the_package_has_every_x86_variant() -> None:
    names = {variant.name for variant in Ggml.Backend.cpuVariants()}
    assert names >= {"x64", "sse42", "haswell", "skylakex", "icelake", "zen4", "sapphirerapids"}


def test_the_best_variant_that_runs_is_chosen() -> None:
    chosen = Ggml.Backend.cpuVariant()
    assert chosen is not None and chosen.runs
    assert all(variant.score <= chosen.score for variant in Ggml.Backend.cpuVariants() if variant.runs)
    assert all(variant.reason for variant in Ggml.Backend.cpuVariants() if variant.score > chosen.score)
    assert "CPU" in printSystemInfo()


RUNNABLE = [v.name for v in Ggml.Backend.cpuVariants() if v.runs]


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_variant_that_runs_here_gives_text(tiny_path: Path, name: str) -> None:
    result = _run(tiny_path, LLAMA_CFFI_CPU_VARIANT=name)
    assert result.returncode == 0, result.stderr
    variant, *tokens = result.stdout.split()
    assert variant == name
    assert len(tokens) == 8


def test_a_variant_that_does_not_exist(tiny_path: Path) -> None:
    result = _run(tiny_path, LLAMA_CFFI_CPU_VARIANT="z80")
    assert "is none of" in result.stderr and "haswell" in result.stderr
    assert result.returncode == 1


def test_a_machine_whose_amx_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant with AMX scores best there, and must be passed over with the reason."""
    variants = [
        Ggml.CpuVariant("sapphirerapids", Path("a"), 4000, "AMX is advertised, but does not work"),
        Ggml.CpuVariant("zen4", Path("b"), 1984, ""),
    ]
    assert _variants.choose(variants, None).name == "zen4"
    with pytest.raises(UnavailableError, match="AMX is advertised, but does not work"):
        _variants.choose(variants, "sapphirerapids")
    with pytest.raises(UnavailableError, match="no variant of the CPU backend runs"):
        _variants.choose(variants[:1], None)


def test_the_amx_probe_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lib:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def shim_variant_ask(self, path: bytes, out: object) -> None:
            lib.shim_variant_ask(path, out)
            out.score, out.uses_amx = 5000, b"sapphirerapids" in path  # type: ignore[attr-defined]

        works = False

        def shim_amx_works(self) -> bool:
            return self.works

    fake = Lib()
    monkeypatch.setattr(_variants, "lib", fake)
    reasons = {v.name: v.reason for v in Ggml.Backend.cpuVariants()}
    assert "AMX is advertised" in reasons.pop("sapphirerapids")
    assert not any("AMX i" in reason for reason in reasons.values())
    fake.works = True
    assert not {v.name: v.reason for v in Ggml.Backend.cpuVariants()}["sapphirerapids"]


def test_the_probe_leaves_the_process_as_it_was() -> None:
    import signal

    before = [signal.getsignal(s) for s in (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS)]
    answers = {lib.shim_amx_works() for _ in range(5)}
    assert len(answers) == 1
    assert [signal.getsignal(s) for s in (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS)] == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left


def test_loading_twice_is_harmless() -> None:
    before = lib.ggml_backend_reg_count()
    for _ in range(3):
        Ggml.Backend.cpuLoad()
    assert lib.ggml_backend_reg_count() == before


def test_vk_load_without_vulkan_is_a_warning() -> None:
    if (Path(llama_cffi.__file__).parent / "lib" / "libggml-vulkan-cffi.so").exists():
        Ggml.Backend.vkLoad()
        return
    with pytest.warns(RuntimeWarning, match="GGML_USE_VULKAN=1"):
        Ggml.Backend.vkLoad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ggml.Backend.cpuLoad()


def test_backends_come_from_the_package_only(tmp_path: Path, tiny_path: Path) -> None:
    """A module of that name in the working directory is code of a stranger."""
    for name in ("libggml-cpu-zen4-cffi.so", "libggml-cpu-evil.so", "libggml-cpu.so"):
        (tmp_path / name).write_bytes(b"\x7fELF not really")
    code = (
        "import sys\nfrom llama_cffi import *\nbackendInit()\nModel.load(sys.argv[1]).free()\nbackendFree()\n"
        "print(sum('evil' in line or sys.argv[2] in line for line in open('/proc/self/maps')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_path), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout.split()) == (0, ["0"]), result.stderr
