"""How many positions a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_cffi._ffi import ffi, lib

_TABLE = b"position_embd.weight"


def table_rows(names: Sequence[Any]) -> int:
    """The positions in the table of a model that learned them, from its files' C paths; 0 for a model without a table.

    Beyond the last row, a thread of ggml's own would end the process.
    """
    for name in names:
        tensors = ffi.new("struct ggml_context **")
        file = lib.gguf_init_from_file(name, {"no_alloc": True, "ctx": tensors})
        if file == ffi.NULL:
            continue
        try:
            table = lib.ggml_get_tensor(tensors[0], _TABLE)
            if table != ffi.NULL:
                return int(table.ne[1])
        finally:
            lib.ggml_free(tensors[0])
            lib.gguf_free(file)
    return 0
