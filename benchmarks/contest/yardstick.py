"""Builds C programs, that of the contest and others, against the library files that the package loads."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from benchmarks.build_llama_bench import LIB, BuildError
from vendor.build.recipe import LINKED, SUFFIX
from vendor.source import fetch, pin as pins

SOURCE = Path(__file__).with_name("yardstick.c")
FLAGS = ("-std=c11", "-O2", "-DNDEBUG", "-Wall", "-Wextra", "-Wno-unused-result")


def executable(source: Path = SOURCE) -> Path:
    """The path of the program, or of another one. It is compiled first unless it is in the cache."""
    libraries = [LIB / f"lib{name}{SUFFIX}.so" for name in LINKED]
    missing = [path.name for path in libraries if not path.is_file()]
    if missing:
        raise BuildError(f"{LIB} has no {missing[0]}: run `make build`")
    headers = fetch.source_dir()
    compiler = shlex.split(os.environ.get("CC") or "cc")
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    seed = repr((source.read_text(encoding="utf-8"), str(headers), str(LIB), version, FLAGS, SUFFIX))
    target = pins.cache_root() / "yardstick" / hashlib.sha256(seed.encode()).hexdigest()[:16]
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
            made = Path(folder) / "yardstick"
            command = [*compiler, *FLAGS, f"-I{headers / 'include'}", f"-I{headers / 'ggml/include'}", str(source)]
            command += [*map(str, libraries), f"-Wl,-rpath,{LIB}", "-lm", "-o", str(made)]
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode != 0:
                raise BuildError(f"the C program could not be built: {shlex.join(command)}\n{result.stdout}")
            os.replace(made, target)
    return target
