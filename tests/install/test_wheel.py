"""The wheel: its contents, and that it works without a compiler on every Python version that is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata, parse_email

import llama_cffi
from vendor.build import wheel_metadata
from vendor.tools import BuildError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# The specification's Basic Usage Pattern, as a user types it.
BASIC_USAGE = """
import sys
from array import array
from llama_cffi import *

Ggml.Backend.cpuLoad()
modelParams = Model.getDefaultParams()
modelParams.nGpuLayers = 0
model = Model.load(sys.argv[1], modelParams)
ctxParams = Context.getDefaultParams()
ctxParams.nCtx = 2048
ctx = Context.initFromModel(model, ctxParams)
chainParams = Sampler.ChainParams()
chainParams.noPerf = True
sampler = Sampler.chainInit(chainParams)
sampler.chainAdd(Sampler.initPenalties(64, 1.1, 0.0, 0.0))
sampler.chainAdd(Sampler.initTopK(40))
sampler.chainAdd(Sampler.initTopP(0.9, 1))
sampler.chainAdd(Sampler.initDist(0))
tokens = array("i", [0] * 512)
nTokens = tokenize(model.vocab, "Hello world", 11, tokens, 512, True, True)
batch = Batch.getOne(tokens, nTokens)
ctx.decode(batch)
for _ in range(16):
    id = sampler.sample(ctx, -1)
    if model.vocab.isEog(id):
        break
    buf = bytearray(64)
    n = detokenize(model.vocab, [id], 1, buf, 64, 0, 0)
    print(bytes(buf[:n]).decode("utf-8", "replace"), end="")
    nextBatch = Batch.getOne([id], 1)
    ctx.decode(nextBatch)
Sampler.free(sampler)
Context.free(ctx)
Model.free(model)
"""


MODULES = json.loads((Path(llama_cffi.__file__).parent / "lib" / "manifest.json").read_text())["modules"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `make wheel` makes, with the backends of this build."""
    return _made(tmp_path_factory.mktemp("wheel"))


def _made(out: Path) -> Path:
    environment = {**os.environ, "GGML_USE_VULKAN": "1" if "vulkan" in MODULES else "0"}
    command = [sys.executable, "-m", "vendor.build.wheel", "--out", str(out)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_is_abi3_and_runs_on_many_linuxes(wheel: Path) -> None:
    assert re.fullmatch(rf"llama_cffi-[\d.]+-cp310-abi3-manylinux_2_28_{os.uname().machine}\.whl", wheel.name)
    assert wheel.stat().st_size <= 30_000_000


def test_the_platform_tag_is_true(wheel: Path, tmp_path: Path) -> None:
    """No library needs a newer glibc than the tag says, or a library that is not in the wheel."""
    promised = int(re.search(r"manylinux_2_(\d+)_", wheel.name)[1])  # type: ignore[index]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    libraries = [path for path in tmp_path.rglob("*.so*") if path.is_file()]
    inside = {path.name for path in libraries}
    assert len(libraries) > 15
    for path in libraries:
        command = ["readelf", "-W", "-V", "-d", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert max((int(v) for v in re.findall(r"GLIBC_2\.(\d+)", text)), default=0) <= promised, path.name
        outside = set(re.findall(r"\(NEEDED\).*\[(.*)\]", text)) - inside
        system = r"(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+)\.so\.\d|ld-linux.*"
        assert not [name for name in outside if not re.fullmatch(system, name)], path.name
    shown = subprocess.run([sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True)
    tag = re.search(r"platform tag:\s+\"manylinux_2_(\d+)_", shown.stdout)
    assert tag and int(tag[1]) <= promised, shown.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name.split("/")[0] for name in names}
    assert {name for name in inside if not name.endswith(".dist-info")} == {"llama_cffi"}
    assert {"llama_cffi/_native.abi3.so", "llama_cffi/_native.pyi", "llama_cffi/py.typed"} <= set(names)
    files = [file for module in MODULES.values() for file in module]
    assert {f"llama_cffi/lib/{file}" for file in [*files, "libllama-cffi.so", "manifest.json"]} <= set(names)
    assert not [name for name in names if name.endswith((".cpp", ".hpp", ".h", ".gguf"))]
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llama_cffi").rglob("*.py*")}
    sources = {name for name in tree if name.endswith((".py", ".pyi"))}
    assert sources == {name for name in names if name.endswith((".py", ".pyi"))}
    assert not [name for name in names if "licenses/" in name and ".dist-info/" not in name]


def _information(wheel: Path) -> dict[str, bytes]:
    """The files of the wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        return {name.split(".dist-info/")[1]: archive.read(name) for name in names}


def test_the_metadata_names_the_licences_of_all_that_is_inside(wheel: Path) -> None:
    files = _information(wheel)
    metadata, _ = parse_email(files["METADATA"])
    # MIT-0: miniaudio, in the library for images and sounds.
    terms = {"MIT", "MIT-0", "GPL-3.0-or-later WITH GCC-exception-3.1"} | (
        {"(Apache-2.0 OR MIT)"} if "vulkan" in MODULES else set()
    )
    assert set(str(metadata["license_expression"]).split(" AND ")) == terms
    Metadata.from_raw(metadata)  # raises if something is not valid
    listed = set(metadata["license_files"])
    assert listed == {name.removeprefix("licenses/") for name in files if name.startswith("licenses/")}
    assert {"LICENSE", "GPL-3.txt", "libgomp.txt", "llama.cpp.txt"} <= listed
    assert b"GNU GENERAL PUBLIC LICENSE" in files["licenses/GPL-3.txt"]
    assert b"GCC RUNTIME LIBRARY EXCEPTION" in files["licenses/libgomp.txt"].upper()


def test_the_sbom_names_what_is_inside(wheel: Path) -> None:
    found = json.loads(_information(wheel)["sboms/llama-cffi.cdx.json"])
    parts = {component["name"]: component.get("version") for component in found["components"]}
    manifest = json.loads((Path(llama_cffi.__file__).parent / "lib" / "manifest.json").read_text())
    assert parts["llama.cpp"] == manifest["llama_cpp"].removeprefix("llama.cpp ")
    assert {"libgomp", "libstdc++"} <= parts.keys() and ("Vulkan-Headers" in parts) == ("vulkan" in MODULES)
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == ("CycloneDX", "llama-cffi")


def test_the_wheel_installs_the_console_script(wheel: Path) -> None:
    script = "[console_scripts]\nllama-cffi = llama_cffi.__main__:console\n"
    assert _information(wheel)["entry_points.txt"].decode() == script


def test_two_builds_are_alike(wheel: Path, tmp_path: Path) -> None:
    assert _made(tmp_path).read_bytes() == wheel.read_bytes()


def test_a_wheel_without_a_licence_is_refused(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    shutil.copytree(next(tmp_path.glob("*.dist-info")) / "licenses", tmp_path / "llama_cffi" / "licenses")
    (tmp_path / "llama_cffi" / "licenses" / "libgomp.txt").unlink()
    with pytest.raises(BuildError, match=r"lacks the licences libgomp\.txt"):
        wheel_metadata.describe(tmp_path, 0)


def _pythons() -> list[str]:
    """This Python, and one of each other supported version that is installed."""
    found = [sys.executable]
    for minor in (10, 11, 12, 13, 14):
        if minor != sys.version_info.minor:
            installed = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")
            candidates = [shutil.which(f"python3.{minor}"), *map(str, installed)]
            found += [c for c in candidates if c and _works(c, minor)][:1]
    return found


def _works(python: str, minor: int) -> bool:
    code = f"import sys, venv, ensurepip; sys.exit(sys.version_info[1] != {minor})"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def _bare_path(tmp_path: Path) -> str:
    """A PATH without compilers, CMake or anything else that a build could use."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("env", "uname"):
        (folder / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    return str(folder)


@pytest.mark.parametrize("python", _pythons(), ids=lambda p: Path(p).resolve().name)
def test_the_wheel_works_without_a_compiler(python: str, wheel: Path, tiny_path: Path, tmp_path: Path) -> None:
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    inside = str(tmp_path / "venv" / "bin" / "python")
    environment = {**os.environ, "PATH": _bare_path(tmp_path)}
    environment.pop("PYTHONPATH", None)
    install = [inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:", str(wheel)]
    result = subprocess.run(install, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    result = subprocess.run(
        [inside, "-c", BASIC_USAGE, str(tiny_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 10


ON_VULKAN = """
import sys
from llama_cffi import *

Ggml.Backend.vkLoad()
(gpu,) = [device for device in Ggml.Backend.devices() if device.name == "Vulkan0"]
with Model.load(sys.argv[1], Model.Params(devices=[gpu])) as model:
    with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
        ctx.decode(Batch.getOne(tokenize(model.vocab, "Hello world")))
        print(Sampler.initGreedy().sample(ctx, -1))
"""


@pytest.mark.skipif("vulkan" not in MODULES, reason="this build has no Vulkan module (make test BACKEND=cpu)")
def test_the_wheel_computes_on_vulkan_and_its_doctor_is_content(wheel: Path, tiny_path: Path, tmp_path: Path) -> None:
    """Without a compiler and without numpy, on the first Vulkan device, which may be Mesa's driver for CPUs."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    inside = str(tmp_path / "venv" / "bin" / "python")
    environment = {"GGML_VK_VISIBLE_DEVICES": "0", **os.environ, "PATH": _bare_path(tmp_path)}
    environment.pop("PYTHONPATH", None)

    def run(*words: str) -> str:
        command = [inside, *words]
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("-m", "pip", "install", "--quiet", "--only-binary=:all:", str(wheel))
    assert run("-c", ON_VULKAN, str(tiny_path)).strip().isdigit()
    report = json.loads(run("-m", "llama_cffi", "doctor", "--json"))
    assert report["ok"] and "Vulkan0" in json.dumps(report["checks"])
