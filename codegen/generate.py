"""`generate(api)`: every generated file as text. Pure and deterministic: no clock, no path and no host gets in."""

from __future__ import annotations

from pathlib import Path

from codegen.api.model import Api
from codegen.emit import cdef, guard, layout, python, report, stub
from codegen.fit.complete import complete
from codegen.fit.needs import Needs
from codegen.rules import naming, policy, spec

ROOT = Path(__file__).resolve().parent.parent

_SHIM_STUB = """
    SHIM_OK: Final[int]
    SHIM_ASSERT: Final[int]
    SHIM_EXCEPTION: Final[int]
    SHIM_NO_MEMORY: Final[int]
    SHIM_PYTHON: Final[int]
    SHIM_UNAVAILABLE: Final[int]
    SHIM_CLOSED: Final[int]
    SHIM_BUSY: Final[int]
    SHIM_CHECK_INTERPRETER: Final[int]
    SHIM_ABSENT: Final[int]
    SHIM_BATCH_EMPTY: Final[int]
    SHIM_BATCH_SIZE: Final[int]
    SHIM_BATCH_OVER_UBATCH: Final[int]
    SHIM_BATCH_TOKEN: Final[int]
    SHIM_BATCH_POSITION: Final[int]
    SHIM_BATCH_UNKNOWN: Final[int]
    SHIM_BATCH_COUNT: Final[int]
    SHIM_BATCH_SEQUENCE: Final[int]
    SHIM_BATCH_OUTPUTS: Final[int]
    SHIM_BATCH_PINNED: Final[int]
    SHIM_BATCH_WIDTH: Final[int]
    SHIM_BATCH_POSITION_DIMS: Final[int]
    SHIM_BATCH_NOT_ENCODED: Final[int]
    SHIM_BATCH_FAILED: Final[int]
    SHIM_SAMPLE_NO_OUTPUT: Final[int]
    SHIM_SAMPLE_NAN: Final[int]
    SHIM_SAMPLE_NO_PICK: Final[int]
    SHIM_SAMPLE_NO_MEMORY: Final[int]
    LLAMA_CFFI_PIN: Final[_CData]
    def shim_init(self) -> None: ...
    def shim_abi(self) -> int: ...
    def shim_libraries_agree(self) -> bool: ...
    def shim_libraries(self, buffer: _CData, size: int, /) -> int: ...
    def shim_library_id(self, path: bytes | _CData, buffer: _CData, size: int, /) -> bool: ...
    def shim_log_since_call(self, buffer: _CData, size: int, /) -> int: ...
    def shim_log_keep(self, keep: bool, /) -> None: ...
    def shim_log_take(self, buffer: _CData, size: int, /) -> int: ...
    def shim_abort(self, data: _CData, /) -> bool: ...
    def shim_variant_ask(self, path: bytes | _CData, out: _CData, /) -> None: ...
    def shim_amx_works(self) -> bool: ...
    def shim_avx512_works(self) -> bool: ...
    def shim_module_open(self, name: bytes | _CData, path: bytes | _CData, /) -> bool: ...
    def shim_first_outside(self, tokens: _CData, n: int, n_vocab: int, /) -> int: ...
    def shim_pin(self, handle: _CData, /) -> _CData: ...
    def shim_unpin(self, pin: _CData, /) -> None: ...
    def shim_compute(
        self, ctx: _CData, limits: _CData, batch: _CData, width: int, n_embd: int, encode: bool, pinned: bool, /
    ) -> int: ...
    def shim_check_size(self, limits: _CData, n_tokens: int, n_outputs: int, encode: bool, pinned: bool, /) -> int: ...
    def shim_sample(self, smpl: _CData, ctx: _CData, limits: _CData, idx: int, wanted: int, /) -> int: ...
    def shim_after_newline(self, vocab: _CData, goes_on: _CData, /) -> bool: ...
    def shim_tokenize(
        self,
        vocab: _CData,
        text: bytes,
        size: int,
        tokens: _CData,
        room: int,
        add_special: bool | int,
        parse_special: bool | int,
        goes_on: _CData,
        /,
    ) -> int: ...
    def shim_logits(self, ctx: _CData, limits: _CData, idx: int, /) -> _CData: ...
    def shim_log_probs(
        self, logits: _CData, n_vocab: int, token: int, n_top: int, top: _CData, top_log_probs: _CData, /
    ) -> float: ...
    python_progress: Final[_CData]
    python_abort: Final[_CData]
    python_eval: Final[_CData]
    python_sampler_name: Final[_CData]
    python_sampler_accept: Final[_CData]
    python_sampler_apply: Final[_CData]
    python_sampler_reset: Final[_CData]
    python_sampler_clone: Final[_CData]
    python_sampler_free: Final[_CData]
    shim_on_progress: Final[_CData]
    shim_on_abort: Final[_CData]
    shim_on_eval: Final[_CData]
    shim_sampler_name: Final[_CData]
    shim_sampler_accept: Final[_CData]
    shim_sampler_apply: Final[_CData]
    shim_sampler_reset: Final[_CData]
    shim_sampler_clone: Final[_CData]
    shim_sampler_free: Final[_CData]
    def shim_begin_reading(self) -> None: ...
    def shim_end_reading(self) -> None: ...
    def shim_begin_writing(self) -> bool: ...
    def shim_end_writing(self) -> None: ...
    def shim_stop(self) -> None: ...
    def shim_stopping(self) -> bool: ...
    def shim_callbacks(self) -> int: ...
    def shim_in_callback(self) -> bool: ...
"""


def generate(api: Api, needs: Needs | None = None) -> dict[str, str]:
    """Path below the repository's root -> content, for every generated file.

    With `needs`, the API is completed. The tables are held to the version that the facade was written for: in another
    one, a row may name what that lacks.
    """
    rows = needs is None or needs.api.pin == api.pin
    api = complete(api, needs) if needs else api
    naming.check(api, rows)
    policy.check(api, rows)
    generated = "llama_cffi/_generated"
    return {
        f"{generated}/__init__.py": _python(api, '"""Generated modules: see the banner of each."""\n'),
        f"{generated}/cdef.h": _c(api, cdef.emit(api)),
        f"{generated}/guard.h": _c(api, guard.emit_header(api)),
        f"{generated}/guard.cpp": _c(api, guard.emit_source(api)),
        f"{generated}/enums.py": _python(api, python.emit_enums(api)),
        f"{generated}/structs.py": _python(api, python.emit_structs(api)),
        f"{generated}/names.py": _python(api, python.emit_names(api)),
        f"{generated}/layout.py": _python(api, layout.emit_tables(api)),
        f"{generated}/layout.cpp": _c(api, layout.emit_source(api)),
        f"{generated}/absent.py": _python(api, python.emit_absent(api, needs.api.pin if needs else api.pin)),
        f"{generated}/pin.py": _python(api, layout.emit_pin(api)),
        f"{generated}/report.md": f"<!-- {_banner(api)} -->\n\n{report.emit(api, spec.load())}",
        "llama_cffi/_native.pyi": _python(api, stub.emit(api, _SHIM_STUB)),
    }


def _banner(api: Api) -> str:
    return f"Generated by `python -m codegen generate` from {api.pin}. Do not edit."


def _c(api: Api, text: str) -> str:
    return f"/* {_banner(api)} */\n{text}"


def _python(api: Api, text: str) -> str:
    return f"# {_banner(api)}\n{text.rstrip()}\n"
