"""The doctor's checks, by subject. Native code runs in child processes only, so a crash is a line of the report."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_cffi._core import manifest as _manifest
from llama_cffi._host import vulkan as _vulkan, vulkan_drivers
from llama_cffi._host.child_process import ChildError, ask
from llama_cffi._host.resources import cpu_limits
from llama_cffi.doctor.report import FAIL, OK, WARN, Check, Section
from llama_cffi.errors import LlamaError

_CHILD = Path(__file__).resolve().parent.parent / "_children" / "doctor.py"
_TIMEOUT_S = 60.0
_PRODUCT_TIMEOUT_S = 300.0  # a device first compiles its shaders, which is slow on a busy machine
_REBUILD = "Run `make build` in the source tree, or reinstall: pip install --force-reinstall llama-cffi"
# The largest allowed error of a matrix product, relative to its largest element. GPUs may use half precision.
_TOLERANCES = {"CPU": 1e-4}
_TOLERANCE = 1e-2

_Facts = dict[str, Any]


def sections(seconds: float) -> Iterator[Section]:
    """Run all checks and yield them by subject. `seconds` is how long each device multiplies matrices."""
    yield _section("Versions", _versions)
    yield _section("Libraries", _libraries)
    cpu = _section("CPU", _cpu)
    yield cpu
    vulkan = _section("Vulkan", _vulkan_checks)
    yield vulkan
    if not any(check.mark == FAIL for check in cpu.checks):
        yield _section("Devices", lambda facts: _devices(facts, cpu.facts, vulkan.facts, seconds))


def _section(title: str, run: Callable[[_Facts], Iterator[Check]]) -> Section:
    """Run the checks of one subject. An exception becomes a failed check."""
    facts: _Facts = {}
    checks: list[Check] = []
    try:
        checks.extend(run(facts))
    except Exception as error:  # the other subjects are still reported
        checks.append(Check(FAIL, f"the check raised {type(error).__name__}: {error}", (_REBUILD,)))
    return Section(title, checks, facts)


def _ask(question: str, timeout: float = _TIMEOUT_S, **more: Any) -> _Facts:
    """Return the child's answer. If the child dies, the answer is `crash`, how it ended, and `log`, its last lines."""
    try:
        return ask(_CHILD, {"question": question, **more}, timeout, {})
    except ChildError as error:
        return {"crash": str(error), "log": error.log.strip().splitlines()[-4:]}


def _failure(answer: _Facts, what: str) -> Check | None:
    """The failed check for an answer that is a crash or an error; None for any other answer."""
    if "crash" in answer:
        tail = "".join(f" | {line}" for line in answer["log"])
        return Check(FAIL, f"{what}: {answer['crash']}{tail}", (_REBUILD,))
    if "error" in answer:
        return Check(FAIL, f"{what}: {answer['error']}", (_REBUILD,))
    return None


def _versions(facts: _Facts) -> Iterator[Check]:
    facts["python"] = platform.python_version()
    facts["implementation"] = platform.python_implementation()
    facts["machine"] = platform.machine()
    facts["libc"] = " ".join(part for part in platform.libc_ver() if part)
    facts["executable"] = sys.executable
    yield Check(
        OK, f"{facts['implementation']} {facts['python']} on {facts['machine']}, {facts['libc'] or 'unknown libc'}"
    )
    answer = _ask("versions")
    failure = _failure(answer, "the package cannot be imported")
    if failure:
        yield failure
        return
    facts.update(answer)
    yield Check(OK, f"llama_cffi {answer['package']}, cffi {answer['cffi']}")
    commit = "" if answer["ggml commit"] in ("", "unknown") else f" ({answer['ggml commit']})"
    linked = ", ".join(f"{file} {id[:12]}" for file, id in answer["linked"].items())
    yield Check(OK, f"extension, Python files (ABI {answer['abi']}) and loaded libraries match: {linked}")
    yield Check(OK, f"compiled for {answer['pin']}: version {answer['llama.cpp']}, ggml {answer['ggml']}{commit}")


def _libraries(facts: _Facts) -> Iterator[Check]:
    facts["folder"] = _manifest.FOLDER
    try:
        manifest = _manifest.read()
    except LlamaError as error:
        yield Check(FAIL, str(error), (_REBUILD,))
        return
    facts.update(
        origin=manifest.origin,
        llama_cpp=manifest.llama_cpp,
        arguments=manifest.arguments,
        compilers=manifest.compilers,
        tools=dict(manifest.tools),
        left_out=manifest.left_out,
        files={},
    )
    yield Check(OK, f"in {_manifest.FOLDER}, from {manifest.llama_cpp}, {manifest.origin}")
    for name, files in {"linked": manifest.linked, **manifest.modules}.items():
        paths = [Path(file) for file in files]
        sizes = {path.name: path.stat().st_size for path in paths if path.exists()}
        facts["files"][name] = sizes
        missing = [path.name for path in paths if path.name not in sizes]
        if missing:
            yield Check(FAIL, f"{name}: {', '.join(missing)} is missing", (_REBUILD,))
        elif sizes:
            listed = ", ".join(sizes) if len(sizes) < 5 else f"{len(sizes)} files"
            yield Check(OK, f"{name}: {listed}, {_megabytes(sum(sizes.values()))}")
        else:
            yield Check(OK, f"{name}: part of libggml")
    variants = [Path(file).name for file in manifest.modules.get("cpu", ())]
    if variants:
        names = ", ".join(name.removeprefix("libggml-cpu-").partition("-cffi")[0] for name in variants)
        yield Check(OK, f"CPU variants: {names}")
    if manifest.left_out:
        others = ", ".join(name.removeprefix("cpu-") for name in manifest.left_out)
        yield Check(OK, f"a build for one machine, which leaves out {others}: run `make build` to build them")
    if "rpc" not in manifest.modules:
        yield Check(WARN, "rpc: not in this build, so models cannot use the devices of other machines", (_REBUILD,))
    tools = "; ".join((*manifest.compilers, *(f"{tool} {version}" for tool, version in manifest.tools.items())))
    if tools:
        yield Check(OK, f"built with {tools}")


def _cpu(facts: _Facts) -> Iterator[Check]:
    answer = _ask("cpu")
    facts.update(answer)
    variants = answer.get("variants", [])
    if "chosen" in answer:
        yield _chosen_variant(answer["chosen"], variants)
    else:
        forced = os.environ.get("LLAMA_CFFI_CPU_VARIANT")
        failure = _failure(answer, "the CPU backend cannot be loaded")
        assert failure is not None
        yield failure._replace(advice=("Unset LLAMA_CFFI_CPU_VARIANT",)) if forced and variants else failure
    for reason in dict.fromkeys(variant["reason"] for variant in variants if variant["reason"]):
        names = [variant["name"] for variant in variants if variant["reason"] == reason]
        yield Check(OK, f"not used: {', '.join(names)} ({reason})")
    others = [v["name"] for v in variants if not v["reason"] and v["name"] != answer.get("chosen")]
    if others:
        yield Check(OK, f"also able to run: {', '.join(others)}")
    for backend in answer.get("backends", []):
        yield Check(OK, f"features in use: {_features(backend['features'])}")
    if "amx" in answer:
        yield _amx(facts)
    limits = cpu_limits()
    facts["threads"], facts["limits"] = limits.usable, vars(limits)
    yield Check(OK, f"threads by default: {limits.usable} ({limits.reason})")


def _chosen_variant(name: str, variants: list[_Facts]) -> Check:
    score = next((variant["score"] for variant in variants if variant["name"] == name), 0)
    forced = os.environ.get("LLAMA_CFFI_CPU_VARIANT")
    if not forced:
        return Check(OK, f"variant {name} (score {score}), the best of {len(variants)} that runs here")
    best = next((variant["name"] for variant in variants if not variant["reason"]), name)
    if best == name:
        return Check(OK, f"variant {name} (score {score}), set by LLAMA_CFFI_CPU_VARIANT, and also the default here")
    advice = f"Unset LLAMA_CFFI_CPU_VARIANT to use {best}, the best one here"
    return Check(WARN, f"variant {name} (score {score}), set by LLAMA_CFFI_CPU_VARIANT", (advice,))


def _amx(facts: _Facts) -> Check:
    facts["amx_advertised"] = "amx_int8" in _cpu_flags()
    if os.environ.get("LLAMA_CFFI_AMX") == "0":
        return Check(OK, "AMX: turned off by LLAMA_CFFI_AMX=0")
    if facts["amx"]:
        return Check(OK, "AMX: works; a small product in a child process was right")
    if facts["amx_advertised"]:
        return Check(OK, "AMX: not used; the CPU advertises it, but a small product in a child process failed")
    return Check(OK, "AMX: not supported by this CPU")


def _cpu_flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return next((line.split() for line in text.splitlines() if line.startswith("flags")), [])


def _vulkan_checks(facts: _Facts) -> Iterator[Check]:
    vulkan = _vulkan.probe()
    drivers = vulkan_drivers.installed()
    module = _has_vulkan()
    facts.update(
        module=module,
        loader=vulkan.loader,
        version=".".join(map(str, vulkan.version)),
        drivers=[{**driver._asdict(), "file": str(driver.file)} for driver in drivers.found],
        places=drivers.places,
        listed=[{**device._asdict(), "kind": device.kind} for device in vulkan.devices],
        backends=[],
    )
    if module is False:
        yield Check(WARN, _vulkan.NO_MODULE.cause, (_vulkan.NO_MODULE.advice,))
    if vulkan.loader:
        yield Check(OK, f"loader {vulkan.loader}, Vulkan {facts['version']}")
    for driver in drivers.found:
        if driver.problem:
            yield Check(WARN, f"driver {driver}", (f"Remove {driver.file}, or reinstall its driver",))
        else:
            yield Check(OK, f"driver {driver}: {driver.library}")
    for number, device in enumerate(vulkan.devices):
        version = ".".join(map(str, device.version))
        yield Check(OK, f"device {number}: {device}, Vulkan {version}, {device.driver}")
    yield from _load_vulkan(facts, bool(module))


def _load_vulkan(facts: _Facts, module: bool) -> Iterator[Check]:
    try:
        problem = _vulkan.why_not()
    except ValueError as error:
        yield Check(FAIL, str(error), ("Set GGML_VK_VISIBLE_DEVICES to device numbers, or unset it",))
        return
    if problem:
        yield Check(WARN, problem.cause, (problem.advice,))
    elif module:
        answer = _ask("vulkan")
        failure = _failure(answer, "Vulkan has devices, but loading the backend failed")
        if failure:
            yield failure._replace(
                advice=("Update the GPU's driver; until then do not call vkLoad(): models run on the CPU",)
            )
            return
        facts["backends"] = answer["backends"]
        names = [device["name"] for device in _devices_of(answer, "Vulkan")]
        yield Check(OK, f"vkLoad() works; devices: {', '.join(names) or 'none'}")
    use = os.environ.get("GGML_USE_VULKAN")
    if use and use != "1":
        advice = "Set GGML_USE_VULKAN=1, or call Ggml.Backend.vkLoad()"
        yield Check(WARN, f"GGML_USE_VULKAN is ignored: it must be exactly 1, got {use!r}", (advice,))


def _devices(facts: _Facts, cpu: _Facts, vulkan: _Facts, seconds: float) -> Iterator[Check]:
    """Multiply matrices on each device, and compare the results."""
    facts["products"] = {}
    for backend, loaded in (("CPU", cpu), ("Vulkan", vulkan)):
        for device in _devices_of(loaded, backend):
            answer = _ask(
                "product", _PRODUCT_TIMEOUT_S, device=device["name"], vulkan=backend == "Vulkan", duration=seconds
            )
            tolerance = _TOLERANCES.get(backend, _TOLERANCE)
            facts["products"][device["name"]] = {**device, **answer, "tolerance": tolerance}
            yield _compare(device, answer, tolerance)
    if not facts["products"]:
        yield Check(FAIL, "no device to compute with", (_REBUILD,))


def _compare(device: _Facts, answer: _Facts, tolerance: float) -> Check:
    memory = f"{_gigabytes(device['free'])} of {_gigabytes(device['total'])} free"
    name = f"{device['name']}: {device['description']}, {memory}"
    advice = (
        _REBUILD
        if device["name"] == "CPU"
        else "Update the GPU's driver, or leave the device out with GGML_VK_VISIBLE_DEVICES"
    )
    failure = _failure(answer, f"{name}; a matrix product failed")
    if failure:
        return failure._replace(advice=(advice,))
    error, size = answer["largest_error"], answer["error_size"]
    which = "all elements" if answer["compared"] == size**2 else f"{answer['compared']} of {size**2:,} elements"
    errors = f"largest error {'not a number' if error is None else f'{error:.1e}'}, {tolerance:.0e} allowed"
    checked = f"{size} x {size}: {errors}, {which}, checked with {answer['compared_with']}"
    if error is None or error > tolerance:
        return Check(FAIL, f"{name}; wrong results ({checked})", (advice,))
    speed = f"{answer['gflops']:,.1f} GFLOP/s ({answer['size']} x {answer['size']})"
    return Check(OK, f"{name}; {speed}; {checked}")


def _devices_of(answer: _Facts, backend: str) -> list[_Facts]:
    return [device for entry in answer.get("backends", []) if entry["name"] == backend for device in entry["devices"]]


def _has_vulkan() -> bool | None:
    """Return whether this build has the Vulkan module; None if the manifest is unreadable, which Libraries reports."""
    try:
        return "vulkan" in _manifest.read().modules
    except LlamaError:
        return None


def _features(features: Mapping[str, str]) -> str:
    return ", ".join(name if value == "1" else f"{name}={value}" for name, value in features.items()) or "none"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
