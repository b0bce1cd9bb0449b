"""Images and sounds as input (multimodal models): llama.cpp's mtmd, with projector files (mmproj) beside models."""

from __future__ import annotations

import sys

import llama_cffi._core.ffi  # noqa: F401  # a broken extension is reported by `from llama_cffi import Mtmd`

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Module -> the names in it, each with its own name there. A module is loaded when one of its names is first used.
# `__init__.pyi` has the same names for type checkers.
_MODULES: dict[str, dict[str, str]] = {
    "_generated.enums": {"ChunkKind": "MtmdChunkKind"},
    "mtmd.bitmap": {"Bitmap": "Bitmap"},
    "mtmd.chunks": {"Chunk": "Chunk", "Chunks": "Chunks"},
    "mtmd.context": {"Context": "MtmdContext"},
    "mtmd.files": {
        "Capabilities": "Capabilities",
        "available": "available",
        "capabilities": "capabilities",
        "defaultMarker": "defaultMarker",
    },
}
_HOMES = {name: (module, there) for module, names in _MODULES.items() for name, there in names.items()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    from llama_cffi._core.explain import looked_up

    return looked_up(sys.modules[__name__], _HOMES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
