"""llama-cpp-python's API for programs that were written for it, opt-in: `from llama_cffi.compat import Llama`.

`python -m llama_cffi.compat script.py` runs a program that imports `llama_cpp`, and `install()` makes `import
llama_cpp` find this package. What it lacks raises an error that names the part of `llama_cffi` to use.
"""

from __future__ import annotations

from llama_cffi.compat.grammar import LlamaGrammar
from llama_cffi.compat.llama import Llama
from llama_cffi.compat.memory import LlamaCache, LlamaDiskCache, LlamaRAMCache, LlamaState
from llama_cffi.compat.modules import install
from llama_cffi.compat.sampling import (
    LogitsProcessor,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from llama_cffi.compat.tokenizer import LlamaTokenizer

__all__ = [
    "Llama",
    "LlamaCache",
    "LlamaDiskCache",
    "LlamaGrammar",
    "LlamaRAMCache",
    "LlamaState",
    "LlamaTokenizer",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinTokensLogitsProcessor",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "install",
]
