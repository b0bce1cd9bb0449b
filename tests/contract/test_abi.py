"""An extension, Python files and libraries that do not belong together are refused, with both sides and the fix."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import llama_cffi
from codegen.emit import layout as emit_layout
from codegen.fit import complete
from llama_cffi import ffi, lib
from llama_cffi._core import abi, manifest
from llama_cffi._generated import layout
from llama_cffi._generated.pin import ABI, PIN
from vendor.build import elf

PACKAGE = Path(llama_cffi.__file__).resolve().parent
IDS = {library.file: library.linked for library in abi.libraries(ffi, lib)}
LLAMA, GGML, BASE = IDS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package without its modules, to be broken."""
    target = tmp_path / "llama_cffi"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "libggml-*", "_shim"))
    for path in manifest.read().linked:
        shutil.copy2(path, target / "lib")
    return target


def _python(
    package: Path, code: str = "from llama_cffi import Model", **environment: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=package.parent, capture_output=True, text=True, timeout=60)


def _refused(package: Path, **environment: str) -> str:
    """The message of the ImportError with which the package refuses."""
    result = _python(package, **environment)
    assert result.returncode == 1, result
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    return last


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def _patch(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes of a file, which gets a new inode: it may be mapped, or a link."""
    data = path.read_bytes()
    assert len(old) == len(new) and data.count(old) == 1
    path.unlink()
    path.write_bytes(data.replace(old, new))


def _flip_id(path: Path) -> str:
    """Give a library another build-id."""
    old = bytes.fromhex(elf.identify(path))
    new = bytes(byte ^ 0xFF for byte in old)
    _patch(path, old, new)
    return new.hex()


# What belongs together


def test_a_good_copy_is_imported_and_reads_no_tables(copy: Path) -> None:
    code = (
        "import sys, llama_cffi; llama_cffi.lib\n"
        "print(llama_cffi.__file__, *[m for m in sys.modules if m.startswith('llama_cffi')])"
    )
    result = _python(copy, code)
    file, *modules = result.stdout.split()
    assert Path(file).parent == copy, result.stderr
    assert "llama_cffi._native" in modules
    assert not {"llama_cffi._core.abi", "llama_cffi._core.manifest", "llama_cffi._generated.layout"} & {*modules}


def test_the_extension_has_the_digest_of_the_snapshot() -> None:
    assert lib.shim_abi() == ABI == emit_layout.digest(complete.load())
    assert lib.shim_libraries_agree()
    assert abi.why_not(ffi, lib) == "" and list(abi.differences(ffi, lib)) == []


def test_ids_in_memory_are_those_of_the_files() -> None:
    for library in abi.libraries(ffi, lib):
        assert library.linked == library.loaded == elf.identify(Path(library.path))
        assert Path(library.path).resolve() == PACKAGE / "lib" / library.file
    assert all(elf.identify(PACKAGE / "lib" / name) == id for name, id in manifest.read().ids.items())


def test_readelf_says_the_same() -> None:
    for name, id in manifest.read().ids.items():
        command = ["readelf", "-n", str(PACKAGE / "lib" / name)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.findall(r"Build ID: (\w+)", text) == [id]


# The generated Python


def test_another_pin(copy: Path) -> None:
    _replace(copy / "_generated" / "pin.py", f'PIN = "{PIN}"', 'PIN = "llama.cpp another"')
    said = _refused(copy)
    assert PIN in said and "llama.cpp another" in said and "make build" in said


def test_an_extension_of_another_pin(copy: Path) -> None:
    other = PIN.replace("llama.cpp", "llama.CPP")
    _patch(copy / "_native.abi3.so", PIN.encode(), other.encode())
    said = _refused(copy)
    assert f"compiled for {other}, but the Python files are for {PIN}" in said and "make build" in said


def test_another_layout_names_the_row(copy: Path) -> None:
    offset = layout.RECORDS["struct llama_context_params"][1]["n_batch"]
    _replace(copy / "_generated" / "pin.py", f"{ABI:016x}", f"{ABI ^ 1:016x}")
    path = copy / "_generated" / "layout.py"
    text = path.read_text()
    start = text.index("'struct llama_context_params'")
    path.write_text(text[:start] + text[start:].replace(f"'n_batch': {offset}", f"'n_batch': {offset + 4}", 1))
    said = _refused(copy)
    assert f"llama_context_params.n_batch: offset {offset} in the extension, {offset + 4} in the Python files" in said
    assert f"{ABI:016x}" in said and f"{ABI ^ 1:016x}" in said and "make build" in said


def test_another_signature_alone(copy: Path) -> None:
    _replace(copy / "_generated" / "pin.py", f"{ABI:016x}", f"{ABI ^ 1:016x}")
    assert "in the type of a field or of a function: run `make build`" in _refused(copy)


def test_many_differences_are_cut_short(copy: Path) -> None:
    _replace(copy / "_generated" / "pin.py", f'PIN = "{PIN}"', 'PIN = "llama.cpp another"')
    path = copy / "_generated" / "layout.py"
    path.write_text(re.sub(r"'LLAMA_FTYPE_(\w+)': (\d+)", r"'LLAMA_FTYPE_\1': 9\2", path.read_text()))
    said = _refused(copy)
    assert said.count("in the extension, ") == 3 and "; and more)" in said


def test_a_value_and_a_function_that_are_not_there(copy: Path) -> None:
    _replace(copy / "_generated" / "pin.py", f'PIN = "{PIN}"', 'PIN = "llama.cpp another"')
    path = copy / "_generated" / "layout.py"
    text = path.read_text().replace("'llama_decode'", "'llama_dekode'", 1)
    path.write_text(text.replace("'LLAMA_SPLIT_MODE_LAYER'", "'LLAMA_SPLIT_MODE_LAIR'", 1))
    said = _refused(copy)
    assert "llama_dekode: not in the extension" in said
    assert "LLAMA_SPLIT_MODE_LAIR: None in the extension, 1 in the Python files" in said


# The libraries


@pytest.mark.parametrize("name", IDS)
def test_a_library_with_another_id(copy: Path, name: str) -> None:
    new = _flip_id(copy / "lib" / name)
    said = _refused(copy)
    assert f"linked with {name} of id {IDS[name]}" in said
    assert f"{copy / 'lib' / name} of id {new}" in said
    assert PIN in said and "make build" in said


def test_a_library_of_a_prefix_says_how_to_build_again(copy: Path) -> None:
    _replace(
        copy / "lib" / "manifest.json", f'"origin": "{manifest.read().origin}"', '"origin": "LLAMA_CFFI_PREFIX=/x"'
    )
    _flip_id(copy / "lib" / LLAMA)
    assert "LLAMA_CFFI_PREFIX=/x pip install --force-reinstall --no-deps ." in _refused(copy)


def test_a_library_of_a_package_without_a_manifest(copy: Path) -> None:
    (copy / "lib" / "manifest.json").unlink()
    _flip_id(copy / "lib" / LLAMA)
    assert "run `make build`" in _refused(copy)


def test_a_preloaded_library(copy: Path, tmp_path: Path) -> None:
    """Calls go to it, although the package's own is loaded too."""
    source = tmp_path / "other.c"
    source.write_text("unsigned long ggml_nbytes(const void * tensor) { return 0; }\n")
    other = tmp_path / "libother.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,--build-id=sha1", str(source), "-o", str(other)], check=True)
    said = _refused(copy, LD_PRELOAD=str(other))
    assert f"linked with {BASE} of id {IDS[BASE]}" in said and f"{other} of id {elf.identify(other)}" in said
    assert f"start Python without LD_PRELOAD={other}" in said


def test_a_library_that_was_loaded_for_everybody(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "libelsewhere.so"
    shutil.copy2(copy / "lib" / BASE, other)
    new = _flip_id(other)
    result = _python(copy, f"import ctypes; ctypes.CDLL({str(other)!r}, ctypes.RTLD_GLOBAL); import llama_cffi.log")
    said = result.stderr.strip().splitlines()[-1]
    assert said.startswith("ImportError: ") and f"{other} of id {new}" in said
    advice = re.search(r"`(from llama_cffi import .*)` first", said)
    assert advice, said
    result = _python(
        copy, f"{advice[1]}; import ctypes; ctypes.CDLL({str(other)!r}, ctypes.RTLD_GLOBAL); lib.llama_time_us()"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_library_that_lacks_functions(copy: Path, tmp_path: Path) -> None:
    source = tmp_path / "empty.c"
    source.write_text("")
    (copy / "lib" / LLAMA).unlink()
    subprocess.run(["cc", "-shared", str(source), "-o", str(copy / "lib" / LLAMA), f"-Wl,-soname,{LLAMA}"], check=True)
    said = _refused(copy)
    assert "does not fit the libraries beside it" in said and "undefined symbol" in said and "make build" in said


# When it is noticed

FIRST_USE = """
import llama_cffi
said = {}
for name in llama_cffi.__all__:
    try:
        getattr(llama_cffi, name)
        said[name] = ""
    except ImportError as error:
        said[name] = str(error)
import json
print(json.dumps(said))
"""
# Their modules need no native code.
PURE = {"errors", "_generated.enums", "chat.tool_calls"}


def test_a_broken_extension_is_noticed_at_the_first_use_of_any_name_that_needs_it(copy: Path) -> None:
    _replace(copy / "_generated" / "pin.py", f'PIN = "{PIN}"', 'PIN = "llama.cpp another"')
    assert _python(copy, "import llama_cffi").returncode == 0
    said = json.loads(_python(copy, FIRST_USE).stdout)
    expected = _refused(copy).removeprefix("ImportError: ")
    assert PIN in expected and "llama.cpp another" in expected
    assert sorted(said) == llama_cffi.__all__
    assert said == {name: "" if llama_cffi._HOMES[name] in PURE else expected for name in said}


def test_an_extension_that_is_not_there(copy: Path) -> None:
    (copy / "_native.abi3.so").unlink()
    # Else Python would find the extension of an editable install.
    (copy / "_native.py").write_text("raise ModuleNotFoundError(\"No module named 'llama_cffi._native'\")")
    assert "llama_cffi._native is not built: run `pip install -e .`" in _refused(copy)
    assert _python(copy, "import llama_cffi; llama_cffi.LlamaError").returncode == 0


# Modules

LOAD = "from llama_cffi import Ggml\ntry: Ggml.Backend.load('rpc')\nexcept Exception as error: print(repr(error))"


def test_a_module_of_another_build_is_not_registered(copy: Path) -> None:
    for name in ("cpu", "rpc"):
        for path in manifest.read().modules[name]:
            shutil.copy2(path, copy / "lib")
    code = LOAD + "\nprint([backend.name for backend in Ggml.Backend.registrations()])"
    result = _python(copy, code)
    assert result.stdout.strip() == "['CPU', 'RPC']", result
    (module,) = manifest.read().modules["rpc"]
    new = _flip_id(copy / "lib" / Path(module).name)
    said, registered = _python(copy, code).stdout.strip().splitlines()
    assert said.startswith("UnavailableError") and registered == "['CPU']"
    assert new in said and elf.identify(Path(module)) in said and PIN in said and "make build" in said


# A library without a build-id


def _compile(folder: Path, code: str, *flags: str) -> Path:
    source = folder / "some.c"
    source.write_text(code)
    library = folder / f"libsome{len(list(folder.iterdir()))}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library), *flags], check=True)
    return library


def _in_memory(path: Path) -> str:
    buffer = ffi.new("char[128]")
    assert lib.shim_library_id(os.fsencode(path), buffer, len(buffer))
    return bytes(ffi.string(buffer)).decode()


def test_without_a_build_id_the_code_counts(tmp_path: Path) -> None:
    def compiled(number: int) -> Path:
        return _compile(tmp_path, f"int f(void) {{ return {number}; }}\n", "-Wl,--build-id=none")

    first, again, other = compiled(1), compiled(1), compiled(2)
    assert elf.identify(first) == _in_memory(first) == elf.identify(again)
    assert elf.identify(first).startswith("code-")
    assert elf.identify(other) == _in_memory(other) != elf.identify(first)


@pytest.mark.parametrize("style", ["md5", "sha1", "uuid", "0x0123456789abcdef01"])
def test_every_style_of_build_id(tmp_path: Path, style: str) -> None:
    path = _compile(tmp_path, "int f(void) { return 1; }\n", f"-Wl,--build-id={style}")
    assert elf.identify(path) == _in_memory(path) and not elf.identify(path).startswith("code-")


def test_stripping_keeps_the_id(tmp_path: Path) -> None:
    for style in ("sha1", "none"):
        path = _compile(tmp_path, "int f(void) { return 1; }\n", f"-Wl,--build-id={style}")
        before = elf.identify(path)
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
        assert elf.identify(path) == before == _in_memory(path)


def test_what_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    for content in (b"", b"text", b"\x7fELF\2\1"):
        path.write_bytes(content)
        with pytest.raises(elf.BuildError, match=r"text\.so.*shared library"):
            elf.identify(path)
    assert not lib.shim_library_id(os.fsencode(path), ffi.new("char[8]"), 8)


# Headers of another llama.cpp


@pytest.mark.parametrize(
    "mutate",
    [
        lambda text: text.replace("int32_t n_gpu_layers;", "int32_t more; int32_t n_gpu_layers;"),
        lambda text: re.sub(r"(LLAMA_SPLIT_MODE_LAYER +)= 1", r"\1= 4", text),
        lambda text: text.replace("int32_t n_gpu_layers;", "uint32_t n_gpu_layers;"),
        lambda text: text.replace("llama_n_batch    (const struct", "llama_n_batch    (struct"),
    ],
    ids=["field", "enumerator", "type", "signature"],
)
def test_other_headers_stop_the_build(tmp_path: Path, mutate: Callable[[str], str]) -> None:
    from vendor.build import native

    folders = native.plan().headers
    for folder in folders:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    header = tmp_path / "llama.h"
    text = header.read_text()
    root = PACKAGE if (PACKAGE / "_shim").is_dir() else Path(__file__).resolve().parents[2] / "llama_cffi"
    source = root / "_generated" / "layout.cpp"
    command = ["c++", "-fsyntax-only", f"-I{tmp_path}", f"-I{root / '_shim'}", str(source)]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    changed = mutate(text)
    assert changed != text
    header.write_text(changed)
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "run `make generate`" in result.stderr
