"""`import llama_cpp`: the modules of llama-cpp-python, made of this package."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import llama_cffi
from llama_cffi._core.ffi import lib
from llama_cffi._generated.names import FUNCTIONS
from llama_cffi.compat import chat_format, grammar, llama, memory, sampling, speculative, tokenizer, types
from llama_cffi.compat.unsupported import unsupported

# The release of llama-cpp-python whose API this is, with any llama.cpp: programs compare `__version__` with theirs.
VERSION = "0.3.36"

_INSTEAD = {
    "server": "python -m llama_cffi serve is the server",
    "llava_cpp": "models see no images yet",
    "mtmd_cpp": "models see no images or sounds yet",
}


def install() -> None:
    """Make `import llama_cpp` and its submodules find this package. Raises RuntimeError if another one is loaded."""
    known = sys.modules.get("llama_cpp")
    if isinstance(known, _Module):
        return
    if known is not None:
        raise RuntimeError("llama_cpp is loaded already: call install() before the first import of it")
    top = _Module("llama_cpp", [llama, memory, sampling, grammar, tokenizer, types])
    top.__dict__.update(__version__=VERSION, __path__=[])
    parts = {
        "llama": [llama, memory, sampling, grammar, tokenizer, types],
        "llama_cache": [memory],
        "llama_chat_format": [chat_format],
        "llama_cpp": [],
        "llama_grammar": [grammar],
        "llama_speculative": [speculative],
        "llama_tokenizer": [tokenizer],
        "llama_types": [types],
    }
    for name, homes in parts.items():
        module = _Module(f"llama_cpp.{name}", homes)
        setattr(top, name, module)
        sys.modules[module.__name__] = module
    sys.modules["llama_cpp"] = top
    sys.meta_path.insert(0, _Refuser())


class _Module(ModuleType):
    """A module with the names of other modules, llama.cpp's constants, and errors that name our part."""

    def __init__(self, name: str, homes: list[ModuleType]) -> None:
        super().__init__(name, "Made by llama_cffi.compat.")
        self._homes = homes
        self.__spec__ = ModuleSpec(name, None, is_package=name == "llama_cpp")
        self.__all__ = sorted({each for home in homes for each in _public(home)})

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        for home in self._homes:
            if name in _public(home) or (home is chat_format and name[0] != "_"):
                return getattr(home, name)
        if name.startswith(("LLAMA_", "GGML_")) and isinstance(getattr(lib, name, None), (int, float)):
            return getattr(lib, name)
        _refuse(self.__name__, name)


_ALIASES = ("LlamaCache", "LogitsProcessor", "StoppingCriteria", "JSON_GBNF", "JSON_ARR_GBNF")


def _public(home: ModuleType) -> frozenset[str]:
    """Return the names that a module defines."""
    if home is types:
        return types.NAMES
    own = {name for name, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__}
    return frozenset(name for name in (*own, *_ALIASES) if name[0] != "_" and name in vars(home))


def _refuse(module: str, name: str) -> NoReturn:
    """Raise AttributeError with what to use instead; ImportError for `from llama_cpp import name`.

    Python would turn an AttributeError into an ImportError without the reason, so the caller's instruction decides.
    """
    if name in FUNCTIONS:
        ours = f"{FUNCTIONS[name]} of llama_cffi, or " if _is_there(FUNCTIONS[name]) else ""
        reason = f"use {ours}llama_cffi.lib.{name}"
    elif name in _INSTEAD:
        reason = _INSTEAD[name]
    else:
        reason = "the guide 'Coming from llama-cpp-python' lists what there is"
    message = f"{module}.{name} is not in llama_cffi.compat: {reason}"
    caller = sys._getframe(2)
    if caller.f_lasti >= 0:
        from opcode import opname

        if opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM":
            raise ImportError(message, name=name)
    raise AttributeError(message, name=name)


def _is_there(path: str) -> bool:
    """Return True if the facade has this name: others are in `lib` only."""
    found: Any = llama_cffi
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is not None


class _Refuser:
    """Says what to use instead of a submodule that is not there."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        top, _, part = name.partition(".")
        if top == "llama_cpp" and part:
            first = part.partition(".")[0]
            raise ModuleNotFoundError(
                str(unsupported(f"the module {name}", _INSTEAD.get(first, "llama_cffi.compat has llama_cpp's Llama"))),
                name=name,
            )
