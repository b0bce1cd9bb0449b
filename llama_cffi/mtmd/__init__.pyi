"""The names of mtmd, for type checkers: the same as `_HOMES` in `__init__.py`, which a test compares."""

from llama_cffi._generated.enums import MtmdChunkKind as ChunkKind
from llama_cffi.mtmd.bitmap import Bitmap
from llama_cffi.mtmd.chunks import Chunk, Chunks
from llama_cffi.mtmd.context import MtmdContext as Context
from llama_cffi.mtmd.files import Capabilities, available, capabilities, defaultMarker

__all__ = [
    "Bitmap",
    "Capabilities",
    "Chunk",
    "ChunkKind",
    "Chunks",
    "Context",
    "available",
    "capabilities",
    "defaultMarker",
]
