"""Deprecated C functions warn users of the facade by the header's own hint. The facade does not lead to them itself."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import llama_cffi
from codegen.api import snapshot
from codegen.emit import guard
from llama_cffi import Context, ffi, lib
from llama_cffi._generated.names import DEPRECATED

PACKAGE = Path(llama_cffi.__file__).parent


def _uses() -> dict[str, set[str]]:
    """Deprecated C functions that the facade calls: the names of the Python functions that do."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "_generated":
            continue
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lib":
                    maps = f"`{node.attr}`" in (ast.get_docstring(function) or "").rpartition("Maps to")[2]
                    if node.attr in DEPRECATED:
                        found.setdefault(node.attr, set()).add(function.name if maps else f"{path.name} uses it inside")
    return found


# Other versions deprecate other functions; the facade offers this one of the pin's.
WARNS = pytest.mark.skipif("llama_set_warmup" not in DEPRECATED, reason="unavailable: it is not deprecated")


def test_the_facade_calls_none_but_to_offer_it() -> None:
    assert _uses() == ({"llama_set_warmup": {"setWarmup"}} if "llama_set_warmup" in DEPRECATED else {})


def test_the_shim_calls_none() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in Path("llama_cffi/_shim").resolve().glob("*.cpp"))
    assert "llama_decode(" in text and not [name for name in DEPRECATED if f"{name}(" in text]


@WARNS
def test_everything_that_maps_to_one_warns_of_the_users_line(ctx: Context) -> None:
    """Today that is one method; the test above names it."""
    with pytest.warns(DeprecationWarning) as caught:
        ctx.setWarmup(False)
    (warning,) = caught
    assert str(warning.message) == f"llama_set_warmup is deprecated: {DEPRECATED['llama_set_warmup']}"
    assert warning.filename == __file__


@WARNS
def test_where_warnings_are_errors_the_call_raises(ctx: Context) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        with pytest.raises(DeprecationWarning, match="llama_set_warmup is deprecated"):
            ctx.setWarmup(False)
        assert ctx.nCtx == 256  # and the next call knows nothing of it


def test_the_raw_layer_is_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lib.ggml_type_sizef(lib.GGML_TYPE_F32) == 4.0
        assert ffi.sizeof("llama_token") == 4


def test_the_default_filters_show_it_to_programs(tiny_path: Path, tmp_path: Path) -> None:
    """In `__main__`, as Python has it for every DeprecationWarning: so the line that it names must be right."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom llama_cffi import *\nmodel = Model.load(sys.argv[1])\n"
        "ctx = Context.initFromModel(model, Context.Params(nCtx=64))\nctx.setWarmup(True)\n"
    )
    command = [sys.executable, str(program), str(tiny_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    warned = f"{program}:5: DeprecationWarning: llama_set_warmup is deprecated" in result.stderr
    assert warned == ("llama_set_warmup" in DEPRECATED), result.stderr


def test_the_guard_of_any_deprecated_function_says_so() -> None:
    api = snapshot.load()
    (decode,) = [f for f in api.functions if f.name == "llama_decode"]
    note = 'guard::note_deprecated("llama_decode");'
    assert note not in guard.emit_source(replace(api, functions=(decode,)))
    assert note in guard.emit_source(replace(api, functions=(replace(decode, deprecated="use another"),)))
