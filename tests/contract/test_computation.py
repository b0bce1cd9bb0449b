"""What C++ of the shim leaves behind if an exception passes through it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import llama_cffi
from vendor.source import fetch

SHIM = Path(llama_cffi.__file__).with_name("_shim")

# An exception leaves a computation of a second context, inside a callback of the first. Its state is freed then, so
# nothing may write to it any more.
PROGRAM = r"""
#include "threads.hpp"

#include <cstdio>

#include "llama.h"

int32_t llama_n_threads(llama_context *) {
    return 1;
}

int32_t llama_n_threads_batch(llama_context *) {
    return 1;
}

static bool written(shim_threads & state) {
    state.sampled = 0;  // a sample is due
    threads::sample();
    return state.sampled != 0;
}

int main() {
    shim_threads outer{}, inner{};
    shim_threads_start(&outer, 2, 2, 2);
    shim_threads_start(&inner, 2, 2, 2);
    {
        threads::Computation one(&outer, 1);
        one.begin();
        printf("%d", written(outer));
        try {
            threads::Computation two(&inner, 1);
            two.begin();
            printf("%d%d", written(inner), written(outer));
            throw 1;
        } catch (int) {
        }
        printf("%d%d", written(inner), written(outer));
        threads::Computation fixed(nullptr, 1);
        printf("%d", fixed.begin() || fixed.end());
    }
    printf("%d%d\n", written(inner), written(outer));
}
"""


def test_an_exception_ends_a_computation(tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(PROGRAM)
    source = fetch.source_dir()
    command = shlex.split(os.environ.get("CXX", "c++"))
    command += ["-std=c++17", f"-I{SHIM}", f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    command += [str(tmp_path / "main.cpp"), str(SHIM / "threads.cpp"), str(SHIM / "team.cpp"), "-pthread"]
    command += ["-o", str(tmp_path / "main")]
    subprocess.run(command, check=True)
    ran = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "11001000\n"  # outer; inner, outer; after the exception; fixed; after the end


def test_locks_and_marks_are_held_by_objects() -> None:
    """In C++, whatever ends what it began does so in a destructor: an exception would skip a plain call."""
    calls = ("shim_begin_reading", "shim_begin_writing", "shim_begin_listing", "shim_begin_registering")
    for path in SHIM.glob("*.cpp"):
        text = path.read_text(encoding="utf-8")
        for call in calls:
            uses = text.count(f"{call}(") - text.count(f"{call}(void)")
            assert uses <= text.count(f"{{\n    {call}();\n}}") + text.count(f"held_({call}())"), (path.name, call)
