"""Libraries that run with an older glibc than the one they were linked with: small ones, made here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vendor.build import portable, symbol_versions
from vendor.tools import BuildError, compilers

# Each line needs a symbol that glibc 2.28 and GCC 8 lack, or have in an older version only.
NEW = """
#include <cmath>
#include <condition_variable>
#include <dlfcn.h>
#include <filesystem>
#include <mutex>
#include <new>
#include <sched.h>
#include <sstream>
#include <stdexcept>
#include <sys/stat.h>
#include <thread>

extern "C" int files(const char * folder) {
    int found = 0;
    for (const auto & entry : std::filesystem::directory_iterator(folder)) {
        found += entry.path().extension() == ".txt";
    }
    return found;
}

extern "C" long size(const char * path) {
    struct stat about = {};
    return stat(path, &about) == 0 ? static_cast<long>(about.st_size) : -1;
}

extern "C" int threads() {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    std::thread other([&] {
        const std::lock_guard<std::mutex> lock(mutex);
        done = true;
        changed.notify_one();
    });
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return done; });
    lock.unlock();
    other.join();
    return dlsym(RTLD_DEFAULT, "malloc") != nullptr;
}

extern "C" double logarithm(double x) {
    return std::log2(x) + std::exp(x);
}

extern "C" int processor() {
    unsigned cpu = 0, node = 0;
    return getcpu(&cpu, &node);
}

/* 1: an exception of the library that lies between was caught by its type. */
extern "C" int caught(long count) {
    try {
        std::stringstream text;
        text << (new int[static_cast<unsigned long>(count)])[0];
        return 0;
    } catch (const std::bad_array_new_length &) {
        return 1;
    } catch (const std::exception &) {
        return 2;
    }
}
"""

USE = """
import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1])
lib.logarithm.restype, lib.logarithm.argtypes, lib.size.restype = ctypes.c_double, [ctypes.c_double], ctypes.c_long
lib.caught.argtypes = [ctypes.c_long]
folder = os.fsencode(sys.argv[2])
print(lib.files(folder), lib.size(folder + b"/a.txt"), lib.threads(), round(lib.logarithm(1.0), 3), lib.processor(),
      lib.caught(-1))
"""


def _package(folder: Path, source: str) -> Path:
    """A package with one library, as an unpacked wheel has it."""
    lib = folder / "llama_cffi" / "lib"
    lib.mkdir(parents=True)
    (lib / "manifest.json").write_text('{"ids": {}}')
    code = folder / "new.cpp"
    code.write_text(source)
    command = [*compilers()[1], "-std=c++17", "-O1", "-fPIC", "-shared", "-Wl,-rpath,$ORIGIN", str(code), "-o"]
    subprocess.run([*command, str(lib / "libnew.so")], check=True)
    return folder / "llama_cffi"


def test_a_library_loses_the_versions_that_old_systems_lack_and_still_works(tmp_path: Path) -> None:
    package = _package(tmp_path, NEW)
    library, compat = package / "lib" / "libnew.so", package / "lib" / portable.COMPAT
    before = {row.version for row in symbol_versions.symbols(library) if row.undefined}
    assert any(not portable._is_allowed(version) for version in before if version)
    portable.convert(package)
    for path in (library, compat):
        text = subprocess.run(["readelf", "-WV", str(path)], capture_output=True, text=True, check=True).stdout
        assert "GLIBC_2.34" not in text and "GLIBCXX_3.4.26" not in text
        kept = [row.version for row in symbol_versions.symbols(path) if row.undefined and row.version]
        assert kept and all(map(portable._is_allowed, kept))
    manifest = json.loads((package / "lib" / "manifest.json").read_text())
    assert manifest["glibc"] == portable.GLIBC and len(manifest["ids"][portable.COMPAT]) >= 16
    for name in ("a.txt", "b.txt", "c.dat"):
        (tmp_path / name).write_text("five!")
    command = [sys.executable, "-c", USE, str(library), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["2", "5", "1", "2.718", "0", "1"], result.stderr


def test_the_added_library_serves_where_the_system_lacks_the_symbol(tmp_path: Path) -> None:
    """Its functions are called by themselves: on this machine, the system's own come first."""
    package = _package(tmp_path, NEW)
    portable.convert(package)
    (tmp_path / "a.txt").write_text("five!")
    code = """
import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1])
about = ctypes.create_string_buffer(144)
print(lib.stat(os.fsencode(sys.argv[2]), about), int.from_bytes(about[48:56], "little"), lib.getcpu(None, None),
      lib.stat(b"/nowhere", about), ctypes.c_char.in_dll(lib, "__libc_single_threaded").value)
"""
    file = str(tmp_path / "a.txt")
    command = [sys.executable, "-c", code, str(package / "lib" / portable.COMPAT), file]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["0", "5", "0", "-1", "b'\\x00'"], result.stderr


def test_a_symbol_that_nothing_provides_is_named(tmp_path: Path) -> None:
    source = '#include <stdlib.h>\nextern "C" unsigned f() { return arc4random(); }\n'  # glibc 2.36
    if "arc4random" not in portable._known_versions():
        pytest.skip("this glibc has no arc4random either")
    with pytest.raises(BuildError, match=r"arc4random.*2\.28.*compat\.cpp"):
        portable.convert(_package(tmp_path, source))


def test_versions_are_compared_as_numbers() -> None:
    allowed = ["GLIBC_2.2.5", "GLIBC_2.28", "GLIBCXX_3.4.9", "GLIBCXX_3.4.24", "CXXABI_1.3", "CXXABI_TM_1", "GOMP_5.0"]
    refused = ["GLIBC_2.29", "GLIBC_2.34", "GLIBCXX_3.4.25", "CXXABI_1.3.12", "GCC_11.0", "GLIBC_PRIVATE"]
    assert all(map(portable._is_allowed, allowed))
    assert not any(map(portable._is_allowed, refused))
