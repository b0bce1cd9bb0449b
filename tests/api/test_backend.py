"""Backends: what the build has, which CPU variant is chosen, what is loaded, and the lock around loading."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llama_cffi import BusyError, Ggml, Model, UnavailableError, lib, printSystemInfo
from llama_cffi._core import manifest as _manifest
from llama_cffi._core.locks import listing, registering
from llama_cffi.ggml import _cpu_variants
from tests.vulkan.models import write_llama
from vendor.build import elf

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


def _python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, after the line that takes Vulkan out of the manifest."""
    command = [sys.executable, "-c", WITHOUT_VULKAN + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


WITHOUT_VULKAN = """
import os, sys, threading, warnings
from llama_cffi import *
from llama_cffi._core import manifest as _manifest
_whole = _manifest.read()
_whole.modules = {n: f for n, f in _whole.modules.items() if n != "vulkan"}
_manifest.read = lambda: _whole
"""


def test_the_package_has_every_x86_variant() -> None:
    names = {variant.name for variant in Ggml.Backend.cpuVariants()}
    few = os.environ.get("LLAMA_CFFI_CPU_VARIANTS")  # a quick build
    all_of_them = {"x64", "sse42", "haswell", "skylakex", "icelake", "zen4", "sapphirerapids"}
    assert names == set(few.split(",")) if few else names >= all_of_them


def test_the_best_variant_that_runs_is_chosen() -> None:
    chosen = Ggml.Backend.cpuVariant()
    assert chosen is not None and chosen.runs
    assert all(variant.score <= chosen.score for variant in Ggml.Backend.cpuVariants() if variant.runs)
    assert all(variant.reason for variant in Ggml.Backend.cpuVariants() if variant.score > chosen.score)
    assert "CPU" in printSystemInfo()


RUNNABLE = [v.name for v in Ggml.Backend.cpuVariants() if v.runs]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A model whose greedy text does not hang on a rounding, and that text by the variant that is chosen here."""
    path = write_llama(tmp_path_factory.mktemp("variants") / "llama.gguf", "F16")
    result = _run(path)
    assert result.returncode == 0, result.stderr
    return path, result.stdout.split()[1:]


@pytest.mark.needs("llama_model_quantize_params.tt_overrides")
@pytest.mark.parametrize("name", RUNNABLE)
def test_every_variant_that_runs_here_gives_the_same_text(text: tuple[Path, list[str]], name: str) -> None:
    path, expected = text
    result = _run(path, LLAMA_CFFI_CPU_VARIANT=name)
    assert result.returncode == 0, result.stderr
    variant, *tokens = result.stdout.split()
    assert variant == name
    assert tokens == expected and len(set(tokens)) > 4


def test_a_variant_that_does_not_exist(tiny_path: Path) -> None:
    result = _run(tiny_path, LLAMA_CFFI_CPU_VARIANT="z80")
    assert "must be one of" in result.stderr and all(name in result.stderr for name in RUNNABLE)
    assert result.returncode == 1


def test_a_machine_whose_amx_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant with AMX scores best there, and must be passed over with the reason."""
    variants = [
        Ggml.CpuVariant("sapphirerapids", Path("a"), 4000, "advertises AMX"),
        Ggml.CpuVariant("zen4", Path("b"), 1984, ""),
    ]
    assert _cpu_variants.choose(variants, None).name == "zen4"
    with pytest.raises(UnavailableError, match="advertises AMX"):
        _cpu_variants.choose(variants, "sapphirerapids")
    with pytest.raises(UnavailableError, match="no variant of the CPU backend runs"):
        _cpu_variants.choose(variants[:1], None)


def test_the_amx_probe_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    liar = Ggml.Backend.cpuVariants()[-1].name

    class Lib:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def shim_variant_ask(self, path: bytes, out: object) -> None:
            lib.shim_variant_ask(path, out)
            out.score, out.uses_amx = 5000, f"-{liar}-".encode() in path  # type: ignore[attr-defined]

        works = False

        def shim_amx_works(self) -> bool:
            return self.works

    fake = Lib()
    monkeypatch.setattr(_cpu_variants, "lib", fake)
    reasons = {v.name: v.reason for v in Ggml.Backend.cpuVariants()}
    assert "advertises AMX" in reasons.pop(liar)
    assert not any("AMX, but" in reason for reason in reasons.values())
    fake.works = True
    assert not {v.name: v.reason for v in Ggml.Backend.cpuVariants()}[liar]


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


# What the build has


def _write(folder: Path, **entries: object) -> None:
    manifest = {"llama_cpp": "llama.cpp", "origin": "pinned", "linked": [], "modules": {}, **entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_build_without_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_manifest, "FOLDER", tmp_path)
    for ask in (Ggml.Backend.available, Ggml.Backend.cpuVariants):
        with pytest.raises(UnavailableError, match=r"manifest.json is missing: run `make build`"):
            ask()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"llama_cpp": "", "origin": "", "linked": [], "modules": {"cpu": ["../evil.so"]}}', "'../evil.so' is not"),
        ('{"llama_cpp": "", "origin": "", "linked": [], "modules": {"cpu": ["/evil.so"]}}', "'/evil.so' is not"),
        ('{"llama_cpp": "", "origin": "", "linked": "x.so", "modules": {}}', "list of names"),
        ('{"llama_cpp": "", "origin": "", "linked": [3], "modules": {}}', "TypeError"),
    ],
)
def test_a_manifest_that_says_nothing_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setattr(_manifest, "FOLDER", tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UnavailableError, match="cannot be read") as caught:
        _manifest.read()
    assert problem in str(caught.value) and "make build" in str(caught.value)


def test_what_the_build_has() -> None:
    available = Ggml.Backend.available()
    assert available == sorted(available) and "cpu" in available
    for files in _manifest.read().modules.values():
        assert all(os.path.isfile(path) for path in files)


def test_variants_of_a_llama_cpp_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names have other endings, and one that has no name is the only one."""
    ours = {variant.name: variant for variant in Ggml.Backend.cpuVariants()}
    other = max(set(ours) - {"x64"})
    monkeypatch.setattr(_manifest, "FOLDER", tmp_path)
    _write(tmp_path, modules={"cpu": [f"libggml-cpu-{other}.so", "libggml-cpu.so.0", "libggml-cpu-x64-9.so.1.2"]})
    (tmp_path / f"libggml-cpu-{other}.so").symlink_to(ours[other].path)
    (tmp_path / "libggml-cpu.so.0").symlink_to(ours["x64"].path)
    found = {variant.name: variant for variant in Ggml.Backend.cpuVariants()}
    assert set(found) == {other, "default", "x64-9"}
    assert found[other].score == ours[other].score and found["default"].score == ours["x64"].score
    assert found["x64-9"].reason == "the file is missing"


def test_a_build_without_a_cpu_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_manifest, "FOLDER", tmp_path)
    _write(tmp_path, modules={"rpc": []})
    with pytest.raises(UnavailableError, match="does not contain a CPU backend"):
        _cpu_variants.choose(Ggml.Backend.cpuVariants(), None)


def test_a_cpu_backend_that_is_part_of_libggml(tmp_path: Path, tiny_path: Path) -> None:
    """Nothing is loaded then; its functions are found through the library that needs all of the others."""
    module = next(variant.path for variant in Ggml.Backend.cpuVariants() if variant.name == "x64")
    (tmp_path / "empty.c").write_text("")
    library = tmp_path / "libllama-of-mine.so"
    compiler = shutil.which("cc")
    assert compiler, "install a C compiler (Debian: apt install gcc)"
    subprocess.run([compiler, "-shared", "-o", library, tmp_path / "empty.c", "-Wl,--no-as-needed", module], check=True)
    result = _python(
        "_whole.linked, _whole.modules, _whole.ids = "
        "(sys.argv[1],), {'cpu': ()}, {'libllama-of-mine.so': sys.argv[4]}\n"
        "mine = ffi.dlopen(sys.argv[1])\n"
        "assert lib.ggml_backend_load(os.fsencode(sys.argv[2]))  # as the constructor of libggml's list would\n"
        "Ggml.Backend.cpuLoad()\n"
        "Model.load(sys.argv[3]).free()\n"
        "print(Ggml.Backend.cpuVariant().name, lib.ggml_backend_reg_count(), lib.ggml_cpu_has_sse3() in (0, 1))",
        library,
        module,
        tiny_path,
        elf.identify(library),
    )
    assert result.stdout.split() == ["linked", "1", "True"], result.stderr
    result = _python(
        "_whole.modules = {'cpu': ()}\ntry: Ggml.Backend.cpuLoad()\nexcept UnavailableError as error: print(error)"
    )
    assert "part of libggml in this build, did not start" in result.stdout, result.stderr


# What is loaded


def test_registrations_say_what_they_have() -> None:
    cpu = Ggml.Backend.registrations()[0]
    assert cpu.name == "CPU" and repr(cpu) == "<BackendReg CPU>"
    assert cpu.features["SSE3"] == "1" and all(isinstance(value, str) for value in cpu.features.values())
    (device,) = cpu.devices()
    assert device == Ggml.Backend.devices()[0] and device.backendReg() == cpu
    assert cpu in {cpu} and cpu != device
    with pytest.raises(TypeError, match="lists the devices"):
        Ggml.BackendReg(device._c)


def test_what_a_device_can_do() -> None:
    device = Ggml.Backend.devices()[0]
    assert device.deviceId is None
    assert device.caps == Ggml.DeviceCaps(
        async_=False, hostBuffer=False, bufferFromHostPtr=True, events=False, mmapSupport=True
    )
    free, total = device.memory
    assert 0 < free <= total


def test_backends_by_name() -> None:
    result = _python(
        "for name in ('rpc', 'cpu', 'rpc'): Ggml.Backend.load(name)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always'); Ggml.Backend.load('vulkan')\n"
        "try: Ggml.Backend.load('cuda')\n"
        "except UnavailableError as error: print(error)\n"
        "print(len(caught), *[r.name for r in Ggml.Backend.registrations()], supportsRpc())"
    )
    refused, *rest = result.stdout.splitlines()
    assert "does not contain a backend 'cuda', only cpu, rpc" in refused, result.stderr
    assert rest == ["1 CPU RPC True"]


# Vulkan, in a build without it


def test_vk_load_without_the_module_is_a_warning(tmp_path: Path) -> None:
    result = _python("Ggml.Backend.vkLoad()\nprint([r.name for r in Ggml.Backend.registrations()])")
    assert result.stdout.split() == ["['CPU']"]
    assert "no Vulkan module: models run on the CPU" in result.stderr and "make build BACKEND=vulkan" in result.stderr
    assert "<string>:" in result.stderr  # the line of the caller, not one of ours


@pytest.mark.parametrize(
    ("value", "warned"), [("1", 1), ("0", 0), ("", 0), ("true", 0), ("01", 0), (" 1", 0), ("yes", 0)]
)
def test_use_vulkan_counts_only_when_it_is_one(tiny_path: Path, value: str, warned: int) -> None:
    result = _python(
        "Ggml.Backend.cpuLoad()\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(3): Model.load(sys.argv[1]).free()\n"
        "    backendInit()\n"
        "print(len(caught), {w.filename for w in caught})",
        tiny_path,
        GGML_USE_VULKAN=value,
    )
    assert result.stdout.split() == [str(warned), "{'<string>'}" if warned else "set()"], result.stderr


def test_loads_on_several_threads() -> None:
    result = _python(
        "warnings.simplefilter('ignore')\n"
        "start = threading.Barrier(8)\n"
        "def load(first, second):\n    start.wait(); first(); second()\n"
        "both = (Ggml.Backend.cpuLoad, Ggml.Backend.vkLoad)\n"
        "threads = [threading.Thread(target=load, args=both[::1 - 2 * (i % 2)]) for i in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "print(lib.ggml_backend_reg_count(), len(Ggml.Backend.devices()))"
    )
    assert result.stdout.split() == ["1", "1"], result.stderr


def test_a_fork_after_vulkan_cannot_load_models(tiny_path: Path) -> None:
    result = _python(
        "from llama_cffi._core import process\n"
        "Ggml.Backend.cpuLoad()\n"
        "process.devices_opened()\n"
        "if os.fork() == 0:\n"
        "    try: Model.load(sys.argv[1])\n"
        "    except ForkError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait(); Model.load(sys.argv[1]).free()",
        tiny_path,
    )
    assert "forked after its parent had loaded a GPU backend" in result.stdout and result.returncode == 0, result.stderr


# The lock of ggml's list


def test_a_backend_waits_for_models_that_load() -> None:
    order: list[str] = []

    def load_backend() -> None:
        with registering(), listing(), registering():
            order.append("backend")

    thread = threading.Thread(target=load_backend)
    with listing(), listing():
        thread.start()
        thread.join(0.2)
        order.append("model")
    thread.join(10)
    assert order == ["model", "backend"]


def test_a_model_waits_for_a_backend_that_loads() -> None:
    order: list[str] = []

    def load_model() -> None:
        with listing():
            order.append("model")

    thread = threading.Thread(target=load_model)
    with registering():
        thread.start()
        thread.join(0.2)
        order.append("backend")
    thread.join(10)
    assert order == ["backend", "model"]


def test_no_backend_is_loaded_inside_a_load(tiny_path: Path) -> None:
    def progress(done: float) -> None:
        Ggml.Backend.cpuLoad()  # is loaded, and stays so
        with registering():
            pass

    with pytest.raises(BusyError, match="inside a callback of a model that is loading"):
        Model.load(tiny_path, Model.Params(progressCallback=progress))
    with registering():
        assert Ggml.Backend.devices()
