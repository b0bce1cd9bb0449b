"""Chat: messages to one text, the way a model was trained to see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from llama_cffi._core.arguments import OutBuffer, StrOrBytes, c_string, out_buffer, require_together
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.model.model import Model

_MOST = (1 << 31) // 4  # bytes of messages whose text surely has a length that C can name


@dataclass
class ChatMessage:
    """One message of a chat. `role` is `system`, `user` or `assistant`.

    Maps to `llama_chat_message`.
    """

    role: StrOrBytes
    content: StrOrBytes


@overload
def chatApplyTemplate(
    tmpl: StrOrBytes | Model | int | None,
    chat: Sequence[ChatMessage],
    nMsg: int | None = None,
    addAssistant: bool = True,
    *,
    model: Model | None = None,
) -> str: ...
@overload
def chatApplyTemplate(
    tmpl: StrOrBytes | Model | int | None,
    chat: Sequence[ChatMessage],
    nMsg: int | None,
    addAssistant: bool,
    buf: OutBuffer,
    bufLen: int,
    *,
    model: Model | None = None,
) -> int: ...
def chatApplyTemplate(
    tmpl: StrOrBytes | Model | int | None,
    chat: Sequence[ChatMessage],
    nMsg: int | None = None,
    addAssistant: bool = True,
    buf: OutBuffer | None = None,
    bufLen: int | None = None,
    *,
    model: Model | None = None,
) -> str | int:
    """Format messages with a chat template.

    `tmpl` is the name of a built-in template (see `chatBuiltinTemplates`), the text of a Jinja template, or a model,
    whose own template it means; so do None and 0 with `model=`. llama.cpp does not run Jinja: it recognizes templates
    of families that it knows, and formats as they do. `nMsg` takes the first so many messages. `addAssistant` ends
    the text where the assistant's answer begins.

    Without `buf` and `bufLen`: returns the text. With them: writes at most `bufLen` bytes of UTF-8 and returns the
    length of the whole; where that is `bufLen` or more, the end is missing, and there is no closing NUL.
    Tokenize the text with `addSpecial=True`, which begins it, and `parseSpecial=True`.

    Raises ValueError for a template that is not recognized, and where there is none to take.

    Maps to `llama_chat_apply_template`.
    """
    template, origin = _template(tmpl, model)
    array, memory, n = _messages(chat, nMsg)

    def apply(out: Any, size: int) -> int:
        length = lib.llama_chat_apply_template(template, array, n, addAssistant, out, size)
        if length < 0:
            raise ValueError(
                f"{origin} is none that llama.cpp recognizes, and it does not run Jinja: name one of "
                f"{', '.join(chatBuiltinTemplates())}; or format the chat yourself"
            )
        return length

    if require_together(buf, bufLen, "buf and bufLen"):
        assert bufLen is not None
        return apply(out_buffer(buf, "char", bufLen, "buf", "bufLen"), bufLen)
    size = 2 * sum(map(len, memory)) + 256
    while True:
        out = ffi.new("char[]", size)
        length = apply(out, size)
        if length <= size:
            return bytes(ffi.buffer(out, length)).decode("utf-8", "replace")
        size = length


def _template(tmpl: StrOrBytes | Model | int | None, model: Model | None) -> tuple[bytes, str]:
    """A template for C, and what to call it in an error."""
    if isinstance(tmpl, Model):
        if model is not None and model is not tmpl:
            raise TypeError("tmpl and model are different models: pass one of them")
        tmpl, model = None, tmpl
    if isinstance(tmpl, (str, bytes)):
        return c_string(tmpl, "tmpl"), f"the template {_shortened(tmpl)!r}"
    if tmpl is not None and (isinstance(tmpl, bool) or tmpl != 0):
        raise TypeError(f"tmpl is a template's name or text, a Model, or None, not {type(tmpl).__name__}")
    if model is None:
        raise ValueError(
            "there is no template to take: name a built-in one (chatBuiltinTemplates() lists them), or pass model= "
            "for the model's own"
        )
    if not isinstance(model, Model):
        raise TypeError(f"model is a Model, not {type(model).__name__}: Model.load(path) makes one")
    own = model.chatTemplate()
    if own is None:
        raise ValueError(
            "this model carries no chat template (a base model, not trained to chat?): name a built-in one; "
            "chatBuiltinTemplates() lists them"
        )
    return own.encode(), "the model's own template"


def _shortened(text: StrOrBytes) -> StrOrBytes:
    return text if len(text) <= 60 else text[:60] + (b"..." if isinstance(text, bytes) else "...")  # type: ignore[operator]


def _messages(chat: Sequence[ChatMessage], count: int | None) -> tuple[Any, list[Any], int]:
    """Messages as a C array, with the texts that it points to."""
    if isinstance(chat, (ChatMessage, str, bytes)):
        raise TypeError("chat is a sequence of messages: write [ChatMessage('user', text)] for one")
    if not isinstance(chat, Sequence):
        raise TypeError(f"chat is a sequence of messages, not {type(chat).__name__}")
    n = len(chat) if count is None else count
    if not 0 <= n <= len(chat):
        raise ValueError(f"nMsg is {n}, but chat has {len(chat)} messages")
    array = ffi.new("struct llama_chat_message[]", n)
    memory: list[Any] = []
    for entry, message in zip(array, chat, strict=False):
        if not isinstance(message, ChatMessage):
            raise TypeError(f"chat holds {message!r}: write ChatMessage(role, content)")
        memory.append(ffi.new("char[]", c_string(message.role, "a message's role")))
        memory.append(ffi.new("char[]", c_string(message.content, "a message's content")))
        entry.role, entry.content = memory[-2:]
    if sum(map(len, memory)) > _MOST:
        raise ValueError(f"the messages have more than {_MOST} bytes: shorten them")
    return array, memory, n


@overload
def chatBuiltinTemplates() -> list[str]: ...
@overload
def chatBuiltinTemplates(out: Any, len: int) -> int: ...
def chatBuiltinTemplates(out: Any = None, len: int | None = None) -> list[str] | int:
    """The names of the built-in chat templates.

    Without `out` and `len`: returns a list. With them: writes the first `len` names to `out`, an array of pointers
    that cffi made (`ffi.new("char *[]", 99)`), and returns how many there are.

    Maps to `llama_chat_builtin_templates`.
    """
    if require_together(out, len, "out and len"):
        kind = ffi.typeof(out) if isinstance(out, ffi.CData) else None
        if kind is None or kind.kind != "array" or kind.item.cname not in ("char *", "char const *"):
            raise TypeError("out is an array of char pointers: ffi.new('char *[]', 99)")
        room = ffi.sizeof(out) // ffi.sizeof("char *")
        if len is None or not 0 <= len <= room:
            raise ValueError(f"len is {len}, but out has room for {room}")
        return lib.llama_chat_builtin_templates(ffi.cast("char const **", out), len)
    count = lib.llama_chat_builtin_templates(ffi.NULL, 0)
    names = ffi.new("char *[]", count)
    lib.llama_chat_builtin_templates(ffi.cast("char const **", names), count)
    return [bytes(ffi.string(name)).decode() for name in names]
