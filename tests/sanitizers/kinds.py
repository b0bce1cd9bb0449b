"""What a run with each sanitizer consists of: runtime libraries, their options, the tests, and those that cannot be."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

REPORTED = 86  # exit status of a process that a sanitizer ended

LONGEST = ("test_misuse.py",)  # begun first, so that the rest runs beside it

# A report that must come, or the run proves nothing: in each, llama.cpp itself does the wrong thing.
_OVERFLOW = """
out = ffi.new("ggml_fp16_t[]", 4096)
lib.ggml_fp32_to_fp16_row(ffi.new("float[]", 8), out, 4096)
"""
_MISALIGNED = """
numbers = ffi.new("char[]", 64)
lib.ggml_fp16_to_fp32_row(ffi.cast("ggml_fp16_t *", numbers + 1), ffi.new("float[]", 1), 1)
"""
_RACE = """
import threading
n = 20_000
numbers, out = ffi.new("float[]", n), ffi.new("ggml_fp16_t[]", n)
def work():
    for _ in range(20): lib.ggml_fp32_to_fp16_row(numbers, out, n)
threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


@dataclass(frozen=True)
class Kind:
    """One run."""

    name: str
    runtimes: tuple[str, ...]  # preloaded, as Python itself is not instrumented
    options: dict[str, dict[str, str]]  # environment variable: the options in it
    suppressions: dict[str, str]  # environment variable: the file
    paths: tuple[str, ...]
    canaries: dict[str, str]  # what the report must say: the code that must cause it
    left_out: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()  # C++ files of `programs/` that test the file of the same name in `_shim`

    def environment(self, tree: Path, reports: Path) -> dict[str, str]:
        """The environment of the tests; their child processes inherit it."""
        environment = {
            **os.environ,
            "LD_PRELOAD": ":".join(_runtime(name) for name in self.runtimes),
            "PYTHONPATH": f"{tree}:{HERE / 'startup'}",
            "PYTHONMALLOC": "malloc",  # Python's own allocator would hide the ends of its blocks
            "LLAMA_CFFI_STACK_SCALE": "16",  # instrumented frames are larger (llama_cffi/_core/large_stack.py)
            "LLAMA_CFFI_STORM": "3",  # seconds for each case of tests/safety/test_threads.py
        }
        for variable, options in self.options.items():
            words = {**options, "log_path": str(reports / variable.split("_")[0].lower())}
            if variable in self.suppressions:
                words["suppressions"] = str(HERE / "suppressions" / self.suppressions[variable])
            environment[variable] = ":".join(f"{key}={value}" for key, value in words.items())
        return environment


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "address",
            # libstdc++ must be there when the runtime starts: it looks up __cxa_throw, which the guard depends on.
            ("libasan.so", "libubsan.so", "libstdc++.so"),
            {
                "ASAN_OPTIONS": {
                    "exitcode": str(REPORTED),
                    "detect_leaks": "0",  # Python keeps what it interned; leaks are measured by tests/leaks
                    "allocator_may_return_null": "1",  # as malloc does
                    "max_allocation_size_mb": "16384",  # or a size that no machine has is granted, and then touched
                    "handle_abort": "2",  # an abort() is a report, with its stack
                    "handle_segv": "2",
                    "handle_sigbus": "2",
                    "handle_sigfpe": "2",
                    "handle_sigill": "2",
                    "detect_stack_use_after_return": "1",
                    "strict_string_checks": "1",
                },
                "UBSAN_OPTIONS": {"print_stacktrace": "1", "halt_on_error": "0"},
            },
            {"UBSAN_OPTIONS": "undefined.txt"},
            ("tests/api", "tests/mtmd", "tests/safety", "tests/contract/test_extension.py"),
            {"heap-buffer-overflow": _OVERFLOW, "misaligned address": _MISALIGNED},
            left_out=(
                # The build has one variant of the CPU backend, and these ask for all of them.
                "tests/api/test_backend.py::test_the_package_has_every_x86_variant",
                "tests/api/test_backend.py::test_a_variant_that_does_not_exist",
                "tests/api/test_backend.py::test_the_amx_probe_decides",
                # Its second is one of an ordinary build: between two looks for Ctrl-C lies a whole product here.
                "tests/api/test_tuning.py::test_ctrl_c_interrupts_a_long_prompt_within_a_second",
                # It asks C's heap, which is the sanitizer's here.
                "tests/safety/test_leaks.py",
                # It sends itself the signal of a crash, which is a report here.
                "tests/safety/test_untrusted.py::test_a_child_that_dies",
                # Freed memory stays unused for a while here.
                "tests/safety/test_handles.py::test_an_address_that_is_used_again_is_alive_again",
                # They leave no addresses for the sanitizer's own memory.
                "tests/safety/test_no_threads.py::test_after_the_context_was_made[limit_memory(30 << 20)]",
                "tests/safety/test_no_threads.py::test_the_threads_of_a_thread_that_has_loaded_a_model",
                "tests/safety/test_no_threads.py::test_quantize",
                # A new that fails is a report, not a std::bad_alloc; and no limit of addresses leaves room for shadows.
                "tests/safety/test_misuse.py::test_misuse[sampler: an endless memory of penalties past the facade]",
            ),
        ),
        Kind(
            "thread",
            ("libtsan.so", "libstdc++.so"),
            {"TSAN_OPTIONS": {"exitcode": "0", "halt_on_error": "0", "die_after_fork": "0", "history_size": "4"}},
            {"TSAN_OPTIONS": "thread.txt"},
            (
                "tests/safety/test_threads.py",
                "tests/safety/test_lifetimes.py",
                "tests/safety/test_sampler_lifetimes.py",
            ),
            {"data race": _RACE},
            programs=("team",),
        ),
    )
}


def _runtime(name: str) -> str:
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    answer = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(answer.stdout.strip())
    if not path.is_file():  # the compiler answers with the bare name when it does not know
        raise SystemExit(f"error: the compiler has no {name}: install its sanitizer libraries (Debian: libasan8, ...)")
    return str(path.resolve())
