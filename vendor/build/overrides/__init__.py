"""Headers that change a few lines of llama.cpp without a patch: the table, and the proof that each took effect.

The compiler includes an override before every C++ file of one backend (its `-include` option). The header redefines a
macro or an intrinsic that llama.cpp uses, and its own `#if` says for which compilers and instruction sets. Should
llama.cpp rename what an override hooks into, the build would still pass; so each header leaves symbols in the module:

- `llama_cffi_<name>_needed` or `llama_cffi_<name>_idle`: the header was included, and does or does not apply here;
- the row's `proof`: the code that it changes was compiled.

`inspect` looks for them before the modules are stripped, and `warning` is what the build prints when one is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vendor.build import elf

FOLDER = Path(__file__).resolve().parent

ACTIVE, INACTIVE, NOT_NEEDED = "active", "inactive", "not needed"


@dataclass(frozen=True)
class Override:
    """One header of this folder."""

    file: str
    backend: str  # a row of `recipe.BACKENDS`: the header is included in its build, and in no other
    place: str  # what of llama.cpp it hooks into
    without: str  # what happens where it has no effect
    until: str  # what makes it unnecessary
    upstream: str  # where that is discussed or to be sent
    proof: tuple[str, ...]  # symbols that a module has only if the hooked code was compiled with the header

    @property
    def path(self) -> Path:
        return FOLDER / self.file

    @property
    def name(self) -> str:
        """The stem of the symbols that say whether it applies."""
        return f"llama_cffi_{self.path.stem}"


OVERRIDES = (
    Override(
        "tile_config.h",
        backend="cpu",
        place="_tile_loadconfig in ggml-cpu/amx/mmq.cpp",
        without="on a CPU with AMX, the first product of a quantized matrix may end the process (SIGSEGV or SIGILL)",
        until="GCC 11.5, 12.4, 13.3 and 14 have fixed _tile_loadconfig; or llama.cpp has tile_config.patch",
        upstream="https://gcc.gnu.org/PR114098, https://github.com/ggml-org/llama.cpp/pull/26954",
        proof=("llama_cffi_tile_config_active",),
    ),
    Override(
        "prefetch.h",
        backend="cpu",
        place="_mm256_loadu_si256 and _mm_loadu_si128 in ggml-cpu/llamafile/sgemm.cpp",
        without="decoding 2 to 16 sequences of a Q8_0, Q5_0, Q4_0 or IQ4_NL model takes up to 2.5 times as long",
        until="llama.cpp has prefetch.patch, or prefetches weights there in another way",
        upstream="vendor/build/overrides/upstream.md, not sent yet",
        proof=("llama_cffi_prefetch_active",),
    ),
    Override(
        "rpc_lost.h",
        backend="rpc",
        place="GGML_ABORT and GGML_ASSERT in ggml-rpc/ggml-rpc.cpp, send and recv in ggml-rpc/transport.cpp",
        without="a lost RPC worker ends the process that uses it, where RpcError is raised otherwise",
        until="llama.cpp reports a lost RPC server as an error to the caller",
        upstream="https://github.com/ggml-org/llama.cpp/pull/26724, https://github.com/ggml-org/llama.cpp/issues/25938",
        proof=(
            "llama_cffi_rpc_lost_enqueue_hooked",
            "llama_cffi_rpc_lost_abort_hooked",
            "llama_cffi_rpc_lost_sockets_hooked",
        ),
    ),
)


def of(backend: str) -> tuple[Override, ...]:
    """The overrides of one backend."""
    return tuple(row for row in OVERRIDES if row.backend == backend)


def inspect(rows: Sequence[Override], modules: Sequence[Path]) -> dict[str, str]:
    """The state of each override in the modules of its backend, which must not be stripped yet, by the header's name.

    `inactive` if it had no effect on one of the modules that need it, or was not included there at all.
    """
    symbols = [" ".join(elf.symbols(path)) for path in modules]
    return {row.file: _worst([_state(row, text) for text in symbols]) for row in rows}


def _state(row: Override, symbols: str) -> str:
    if all(_has(symbols, name) for name in row.proof):
        return ACTIVE
    return NOT_NEEDED if _has(symbols, f"{row.name}_idle") and not _has(symbols, f"{row.name}_needed") else INACTIVE


def _has(symbols: str, name: str) -> bool:
    """True if a symbol has this name, which C++ surrounds with the name's length and its template arguments."""
    return re.search(rf"(?<![A-Za-z_]){name}(?![a-z_])", symbols) is not None


def _worst(states: Sequence[str]) -> str:
    return next((state for state in (INACTIVE, ACTIVE) if state in states), NOT_NEEDED)


def warning(states: Mapping[str, str]) -> str:
    """What the build says about overrides that had no effect; empty if there are none."""
    return "".join(
        f"warning: vendor/build/overrides/{row.file} has no effect on this build's {row.backend} backend: "
        f"{row.without}.\n"
        f"  It hooks into {row.place}, which this llama.cpp does not have or has changed (or CMAKE_ARGS sets "
        "CMAKE_CXX_FLAGS, which replaces the build's own).\n"
        f"  The build goes on. To mend it, see 'Overrides' in vendor/README.md. Upstream: {row.upstream}\n"
        for row in OVERRIDES
        if states.get(row.file) == INACTIVE
    )
