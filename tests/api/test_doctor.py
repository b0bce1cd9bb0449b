"""`python -m llama_cffi doctor`: its report of a working install, and of many broken ones."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import llama_cffi
from llama_cffi import __main__
from llama_cffi._children import doctor as _doctor_child
from llama_cffi._core import manifest
from llama_cffi._host.resources import cpu_limits
from llama_cffi.doctor import command as doctor, sections as _doctor_sections
from llama_cffi.doctor.report import FAIL, OK, WARN, Check, Section, document, failed, summary

PACKAGE = Path(llama_cffi.__file__).parent
TITLES = ["Versions", "Libraries", "CPU", "Vulkan", "Devices"]


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama_cffi", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "GGML_USE_VULKAN": "", **environment},
    )


def _no_gpu() -> dict[str, str]:
    return {"GGML_VK_VISIBLE_DEVICES": ""}  # tests/vulkan tests the devices


# The commands


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_help(arguments: tuple[str, ...]) -> None:
    result = _run(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(name in result.stdout for name in __main__.COMMANDS)


def test_an_unknown_command() -> None:
    result = _run("docter")
    assert result.returncode == 2 and "'docter'" in result.stderr and "doctor" in result.stderr


@pytest.mark.parametrize(
    ("value", "says"),
    [("-1", "0 and 60.*got -1"), ("61", "0 and 60.*got 61"), ("nan", "number.*got 'nan'"), ("x", "number.*got 'x'")],
)
def test_seconds_out_of_range(value: str, says: str) -> None:
    result = _run("doctor", "--seconds", value)
    assert result.returncode == 2 and re.search(f"--seconds: .*{says}", result.stderr)
    assert "Traceback" not in result.stderr


# A working install


def test_a_working_install_as_text() -> None:
    result = _run("doctor", "--seconds", "0", **_no_gpu())
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")][:-1] == TITLES
    findings = [line for line in lines if line.startswith("  ") and line[2] != " "]
    assert {line.split()[0] for line in findings} <= {OK, WARN}
    assert "Nothing failed" in lines[-1] or lines[-1] == "All checks passed."
    assert all(len(line) <= 110 for line in lines if "/" not in line)


def test_a_working_install_as_json() -> None:
    result = _run("doctor", "--json", "--seconds", "0", **_no_gpu())
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["ok"] and all(set(check) == {"section", "mark", "text", "advice"} for check in report["checks"])
    facts = report["facts"]
    assert list(facts) == [title.lower() for title in TITLES]
    assert facts["versions"]["python"] and facts["versions"]["cffi"] and facts["versions"]["ggml"]
    assert facts["libraries"]["folder"] == str(manifest.FOLDER)
    assert all(size > 1000 for files in facts["libraries"]["files"].values() for size in files.values())
    chosen = llama_cffi.Ggml.Backend.cpuVariant()
    assert chosen is not None and facts["cpu"]["chosen"] == chosen.name
    assert len(facts["cpu"]["variants"]) == len(llama_cffi.Ggml.Backend.cpuVariants())
    limits = cpu_limits()
    assert facts["cpu"]["threads"] == limits.usable and facts["cpu"]["limits"]["allowed"] == limits.allowed
    assert any(check["text"] == f"threads by default: {limits.usable} ({limits.reason})" for check in report["checks"])
    product = facts["devices"]["products"]["CPU"]
    assert product["gflops"] > 0 and product["largest_error"] <= product["tolerance"]
    assert (product["compared_with"], product["compared"]) == ("numpy", 512 * 512)


def test_the_variants_of_a_small_build_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(**changed: object) -> list[str]:
        data = json.loads((Path(manifest.FOLDER) / "manifest.json").read_text()) | changed
        monkeypatch.setattr(manifest, "read", lambda: manifest.Manifest(data))
        return [check.text for check in _doctor_sections._libraries({}) if check.mark != FAIL]

    every = texts(left_out=[])  # a check of an upgrade builds some variants only
    assert not [text for text in every if "leaves out" in text]
    (line,) = [text for text in every if text.startswith("CPU variants: ")]
    names = [variant.name for variant in llama_cffi.Ggml.Backend.cpuVariants()]
    assert sorted(line.removeprefix("CPU variants: ").split(", ")) == sorted(names)
    small = texts(modules={"cpu": [f"libggml-cpu-{names[-1]}-cffi.so"]}, left_out=[f"cpu-{names[0]}", "rpc"])
    assert f"CPU variants: {names[-1]}" in small
    (line,) = [text for text in small if "leaves out" in text]
    assert f"{names[0]}, rpc" in line and "make build" in line


def test_a_variant_that_was_forced() -> None:
    report = json.loads(_run("doctor", "--json", "--seconds", "0", LLAMA_CFFI_CPU_VARIANT="x64", **_no_gpu()).stdout)
    assert report["facts"]["cpu"]["chosen"] == "x64" and report["ok"]
    assert ["Unset LLAMA_CFFI_CPU_VARIANT" in line for c in report["checks"] for line in c["advice"]].count(True) == 1
    result = _run("doctor", LLAMA_CFFI_CPU_VARIANT="z80", **_no_gpu())
    assert result.returncode == 1 and "-> Unset LLAMA_CFFI_CPU_VARIANT" in result.stdout
    assert "Devices" not in result.stdout


def test_use_vulkan_that_does_not_count() -> None:
    report = json.loads(_run("doctor", "--json", "--seconds", "0", **_no_gpu() | {"GGML_USE_VULKAN": "yes"}).stdout)
    assert any(re.search("GGML_USE_VULKAN.*exactly 1.*'yes'", check["text"]) for check in report["checks"])


# A broken one


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package that a test may break."""
    shutil.copytree(PACKAGE, tmp_path / "llama_cffi", ignore=shutil.ignore_patterns("__pycache__", "lib", "*.so"))
    lib = tmp_path / "llama_cffi" / "lib"
    lib.mkdir()
    for file in (PACKAGE / "lib").iterdir():
        (lib / file.name).symlink_to(file)
    (tmp_path / "llama_cffi" / "_native.abi3.so").symlink_to(next(PACKAGE.glob("_native*.so")))
    return tmp_path


def _replace(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def _lose_modules(package: Path) -> None:
    for file in (package / "lib").glob("*cpu*"):
        file.unlink()


def _empty_lib(package: Path) -> None:
    for file in (package / "lib").iterdir():
        file.unlink()


def _lose_extension(package: Path) -> None:
    (package / "_native.abi3.so").unlink()
    (package / "_native.py").write_text("raise ModuleNotFoundError(\"No module named 'llama_cffi._native'\")")


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (_lose_extension, "llama_cffi._native is not built: run `pip install -e .` (or `make build`)"),
    (lambda p: _replace(p / "_native.abi3.so", "no library"), "does not fit the libraries beside it"),
    (lambda p: _replace(p / "_generated" / "pin.py", 'PIN = "another"\nABI = 0'), "the Python files are for another"),
    (_empty_lib, "manifest.json is missing"),
    (_lose_modules, "is missing"),
    (lambda p: _replace(p / "lib" / "manifest.json", "{"), "cannot be read"),
    (lambda p: (p / "_children" / "doctor.py").unlink(), "ended with exit code 2"),
    (lambda p: _replace(p / "_children" / "doctor.py", "import os; os.abort()"), "ended by signal 6 (SIGABRT)"),
    (lambda p: _replace(p / "_children" / "list_vulkan_devices.py", "print('no JSON')"), "a Vulkan driver crashed"),
]


@pytest.mark.parametrize(("break_it", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_broken_install(copy: Path, break_it: Callable[[Path], object], said: str) -> None:
    break_it(copy / "llama_cffi")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GGML_VK")}
    environment["PYTHONPATH"] = str(copy)
    command = [sys.executable, "-m", "llama_cffi", "doctor", "--json", "--seconds", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=copy)
    assert result.stderr == ""
    report = json.loads(result.stdout)
    hits = [check for check in report["checks"] if said in check["text"] and check["mark"] != OK]
    assert hits and all(check["advice"] for check in hits), report["checks"]
    assert result.returncode == int(not report["ok"]) == int(any(check["mark"] == FAIL for check in hits))
    text = subprocess.run(command[:-3], capture_output=True, text=True, timeout=300, env=environment, cwd=copy)
    assert text.stderr == "" and "Traceback" not in text.stdout and text.returncode == result.returncode


def test_a_closed_pipe() -> None:
    command = f"'{sys.executable}' -m llama_cffi doctor --seconds 0 | head -1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert (result.stdout, result.stderr) == ("Versions\n", "")


# A broken device


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that replaces the code of the matrix product in the doctor's child process."""

    def replace(product: str) -> None:
        program = tmp_path / "child.py"
        program.write_text(
            f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
            "from llama_cffi._children import doctor as real\n"
            f"def product(request):\n    {product}\n"
            "real._QUESTIONS['product'] = product\n"
            "real.main()\n"
        )
        monkeypatch.setattr(_doctor_sections, "_CHILD", program)
        monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "")

    return replace


def _devices(sections: Iterable[Section]) -> list[Check]:
    return [section for section in sections if section.title == "Devices"][0].checks


@pytest.mark.parametrize(
    ("product", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11 (SIGSEGV)"),
        ("raise RuntimeError('it is ill')", "a matrix product failed: RuntimeError: it is ill"),
        (
            "return dict(gflops=1, size=512, error_size=512, largest_error=0.5, compared_with='numpy', compared=9)",
            "wrong results (512 x 512: largest error 5.0e-01, 1e-04 allowed, 9 of 262,144 elements, ",
        ),
        (
            "return dict(gflops=1, size=512, error_size=512, largest_error=None, compared_with='x', compared=9)",
            "largest error not a number",
        ),
        ("import sys; print('a driver speaks'); return {'error': 'out'}", "a matrix product failed: out"),
    ],
)
def test_a_broken_device(
    child: Callable[[str], None], capsys: pytest.CaptureFixture[str], product: str, said: str
) -> None:
    child(product)
    (check,) = _devices(_doctor_sections.sections(0))
    assert check.mark == FAIL and said in check.text and check.advice
    assert doctor.main(["--seconds", "0"]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_the_result_of_a_device_is_checked() -> None:
    """With numpy, one wrong element among all of them is found."""
    size = _doctor_child._SIZE
    a = array("f", [1.0]) * size**2
    b = array("f", [2.0]) * size**2
    right = array("f", [2.0 * size]) * size**2
    assert _doctor_child._largest_error(right, a, b) == (0.0, "numpy", size**2)
    wrong = right[:]
    wrong[size * 3 + 5] = 0.0
    assert _doctor_child._largest_error(wrong, a, b)[0] == 1.0
    wrong[7] = math.nan
    assert math.isnan(_doctor_child._largest_error(wrong, a, b)[0])


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    size = _doctor_child._SIZE
    a = array("f", (i % 7 - 3.0 for i in range(size**2)))
    b = array("f", (i % 5 - 2.0 for i in range(size**2)))
    error, by, compared = _doctor_child._largest_error(array("f", [math.nan]) * size**2, a, b)
    assert (error, by, compared) == (math.inf, "plain Python, because numpy is not installed", 64)
    right = array("f", bytes(4 * size**2))
    for place in range(size**2):  # the numbers are small: whole rows repeat
        row, column = divmod(place, size)
        right[place] = _dot(a, b, row % 5, column % 7)
    assert _doctor_child._largest_error(right, a, b)[0] == 0.0


_dots: dict[tuple[int, int], float] = {}


def _dot(a: array[float], b: array[float], row: int, column: int) -> float:
    """Rows of `b` repeat after five, those of `a` after seven."""
    if (row, column) not in _dots:
        size = _doctor_child._SIZE
        left, upper = b[size * row : size * (row + 1)], a[size * column : size * (column + 1)]
        _dots[row, column] = sum(x * y for x, y in zip(left, upper, strict=True))
    return _dots[row, column]


# The report


def test_marks_decide() -> None:
    fine = Section("A", [Check(OK, "x")], {})
    noted = Section("B", [Check(WARN, "y", ("do this",))], {})
    broken = Section("C", [Check(FAIL, "z", ("do that",))], {})
    assert not failed([fine, noted]) and failed([noted, broken])
    assert summary([fine]) == "All checks passed."
    assert "1 failed, 1 warning:" in summary([noted, broken])
    assert document([broken]) == {
        "ok": False,
        "summary": summary([broken]),
        "checks": [{"section": "C", "mark": "fail", "text": "z", "advice": ("do that",)}],
        "facts": {"c": {}},
    }
    assert broken.lines() == "C\n  fail  z\n        -> do that"


def test_a_check_that_raises() -> None:
    def look(facts: dict[str, Any]) -> Any:
        facts["seen"] = 1
        yield Check(OK, "so far")
        raise ValueError("and no further")

    section = _doctor_sections._section("X", look)
    assert [check.mark for check in section.checks] == [OK, FAIL] and section.facts == {"seen": 1}
    assert "ValueError: and no further" in section.checks[1].text
