"""The names of ggml that the specification uses: `Ggml.Backend`, `Ggml.Type`, `Ggml.NumaStrategy`."""

from __future__ import annotations

from llama_cffi._generated.enums import GgmlNumaStrategy as NumaStrategy
from llama_cffi._generated.enums import GgmlType as Type
from llama_cffi.ggml.backend import Backend, CpuVariant

__all__ = ["Backend", "CpuVariant", "NumaStrategy", "Type"]
