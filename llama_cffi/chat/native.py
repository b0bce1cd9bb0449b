"""llama.cpp's chat code: renders templates, makes the grammar of tool calls, and parses answers.

It is a library of its own (`vendor/build/chat`), with JSON both ways. Where the chat code of llama.cpp has another
interface, it is not built: templates then run in jinja2, and `tool_calls.py` reads the calls of three families.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import Owned, own
from llama_cffi.errors import NativeMemoryError, UnavailableError

_LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib", "libllama-chat-cffi.so")

# Templates and answers may come from strangers. What a conversation needs grows with its length.
SECONDS = 10.0  # CPU time of a call
MEMORY = 128 << 20  # bytes, and ...
MEMORY_PER_BYTE = 64  # ... for each byte of the conversation
_STACK = 4  # bytes of stack for each byte of memory: values of templates can be nested as deeply as memory allows

# Results of calls: `enum chat_status` of chat_api.h.
_OK, _ERROR, _LIMIT, _MEMORY, _STOPPED = range(5)


class ChatCodeError(ValueError):
    """llama.cpp's chat code failed, and says why."""


class ChatLimitError(ChatCodeError):
    """The call took too much time, memory or stack."""


@lru_cache(maxsize=1)
def available() -> bool:
    """Return True if this build has the chat library."""
    return os.path.isfile(_LIBRARY) and bool(lib.shim_chat_open(os.fsencode(_LIBRARY)))


def require() -> None:
    """Raise UnavailableError if this build does not have the chat library."""
    if not available():
        raise UnavailableError(
            "this build has no chat library, because its llama.cpp has another interface: build with the pinned "
            "llama.cpp (unset LLAMA_CPP_SOURCE and LLAMA_CFFI_PREFIX)"
        )


class NativeTemplate:
    """A template of llama.cpp's chat code. Threads can share it."""

    __slots__ = ("_owned", "_pointer")

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        """Raises ChatCodeError if the template cannot be parsed; UnavailableError."""
        require()
        status, text = ffi.new("int32_t *"), _new_text()
        given = source.encode(errors="replace")
        limits = _limits(len(given))
        make, words = lib.shim_chat_make_templates, (given, bos.encode(), eos.encode())
        self._owned = own(lib.shim_chat_free_templates, make, *words, limits, status, text.pointer)
        _check(status[0], text)
        self._pointer = self._owned.pointer

    def info(self) -> dict[str, Any]:
        """Return what the template can do."""
        return self._call(b"info", {})

    def render(self, inputs: Mapping[str, Any]) -> str:
        """Return the prompt for `messages`."""
        prompt: str = self._call(b"render", inputs)["prompt"]
        return prompt

    def apply(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the prompt with the grammar and the triggers of the answer, and its `parser`, a NativeParser."""
        given = json.dumps(inputs).encode()
        size = len(given)
        parser, text = NativeParser._make(lib.shim_chat_apply, self._pointer, given, size, _limits(size))
        found: dict[str, Any] = json.loads(text)
        parser.content, parser.rules = found.pop("content"), found.pop("rules")
        found["parser"] = parser
        return found

    def _call(self, function: bytes, inputs: Mapping[str, Any]) -> dict[str, Any]:
        given = json.dumps(inputs).encode()
        text = _new_text()
        status = lib.shim_chat_call(self._pointer, function, given, len(given), _limits(len(given)), text.pointer)
        found: dict[str, Any] = json.loads(_check(status, text))
        return found


class NativeParser:
    """A parser of answers, which `NativeTemplate.apply` makes. Threads can share it."""

    __slots__ = ("_owned", "_pointer", "content", "rules")

    _owned: Owned
    _pointer: Any
    content: str
    """What the parser takes as content: "all" text, the "tail" after a beginning, or "" if it is not that simple."""
    rules: int
    """The number of its rules, which its memory grows with."""

    def __init__(self) -> None:
        """Not for other modules: `plain()` makes one."""
        raise TypeError("a NativeParser is made by NativeTemplate.apply() or NativeParser.plain()")

    @classmethod
    def plain(cls) -> NativeParser:
        """Make a parser for which all text is content."""
        require()
        return cls._make(lib.shim_chat_make_parser, _limits(0))[0]

    @classmethod
    def _make(cls, make: Any, *arguments: Any) -> tuple[NativeParser, str]:
        """Make a parser with a function of C. Returns the text of the call, too."""
        made, status, text = cls.__new__(cls), ffi.new("int32_t *"), _new_text()
        made.content, made.rules = "", 0
        made._owned = own(lib.shim_chat_free_parser, make, *arguments, status, text.pointer)
        words = _check(status[0], text)
        made._pointer = made._owned.pointer
        return made, words

    def parse(self, text: str | bytes, partial: bool = False) -> dict[str, Any]:
        """Parse an answer from its beginning. Returns `content`, `reasoning` and `calls`.

        Raises ChatCodeError if the text is not in the format of the template.
        """
        given = text.encode() if isinstance(text, str) else text
        result = _new_text()
        status = lib.shim_chat_parse(self._pointer, given, len(given), partial, _limits(len(given)), result.pointer)
        found: dict[str, Any] = json.loads(_check(status, result))
        return found


def schema_to_grammar(schema: str) -> str:
    """Convert a JSON Schema to a GBNF grammar."""
    require()
    given, result = schema.encode(), _new_text()
    return _check(lib.shim_chat_schema_to_grammar(given, len(given), _limits(len(given)), result.pointer), result)


def _limits(size: int) -> Any:
    memory = MEMORY + MEMORY_PER_BYTE * size
    return ffi.new("struct shim_chat_limits *", (SECONDS, memory, _STACK * memory))


def _new_text() -> Owned:
    return own(lib.shim_chat_free_text, ffi.new, "struct shim_chat_text *")


def _check(status: int, text: Owned) -> str:
    """Take the text of a call, and raise its error."""
    given = text.pointer
    found = bytes(ffi.buffer(given.data, given.size)).decode(errors="replace") if given.data != ffi.NULL else ""
    text.finish()
    if status == _OK:
        return found
    if status == _MEMORY and not found:
        raise NativeMemoryError("out of memory in llama.cpp's chat code", operation="chat")
    raise (ChatCodeError if status == _ERROR else ChatLimitError)(found.strip())
