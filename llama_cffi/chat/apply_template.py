"""llama.cpp's own chat templates: format messages as the text that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from llama_cffi._core.arguments import OutBuffer, StrOrBytes, c_string, out_buffer, require_together
from llama_cffi._core.checks import expected, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.model.model import Model

_MAX_BYTES = (1 << 31) // 4  # of all messages: the text is longer, and its length must fit an int32_t


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

    `tmpl` is the name of a built-in template (see `chatBuiltinTemplates`), the text of a Jinja template, or a model;
    a model, or None or 0 with `model=`, means the model's own template. llama.cpp does not run Jinja: it recognizes the
    templates of known model families, and formats as they do. `nMsg` takes only the first messages. `addAssistant` ends
    the text where the assistant's answer begins.

    Without `buf` and `bufLen`: returns the text. With them: writes at most `bufLen` bytes of UTF-8 and returns the
    length of the whole text; if that is `bufLen` or more, the text is cut off and has no closing NUL.
    Tokenize the text with `addSpecial=True`, for the BOS token, and `parseSpecial=True`.

    Raises ValueError for a template that is not recognized, and if there is no template.

    Maps to `llama_chat_apply_template`.
    """
    template, origin = _template(tmpl, model)
    array, memory, n = _messages(chat, nMsg)

    def apply(out: Any, size: int) -> int:
        length = lib.llama_chat_apply_template(template, array, n, addAssistant, out, size)
        if length < 0:
            raise ValueError(
                f"llama.cpp does not recognize {origin}, and it does not run Jinja: name one of "
                f"{', '.join(chatBuiltinTemplates())}; or use ChatTemplate, which runs Jinja"
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
    """The template as C takes it, and its description for errors."""
    if isinstance(tmpl, Model):
        if model is not None and model is not tmpl:
            raise TypeError("tmpl and model are different models: pass one of them")
        tmpl, model = None, tmpl
    if isinstance(tmpl, (str, bytes)):
        return c_string(tmpl, "tmpl"), f"the template {_shortened(tmpl)!r}"
    if tmpl is not None and (isinstance(tmpl, bool) or tmpl != 0):
        raise expected("a template's name or text, a Model, or None", tmpl, name="tmpl")
    if model is None:
        raise ValueError(
            "tmpl names no template: name a built-in one (chatBuiltinTemplates() lists them), or pass model= for the "
            "model's own"
        )
    if not isinstance(model, Model):
        raise expected("a Model", model, "Model.load(path) makes one", "model")
    own = model.chatTemplate()
    if own is None:
        raise ValueError(
            "this model has no chat template (it may be a base model, not trained to chat): name a built-in one; "
            "chatBuiltinTemplates() lists them"
        )
    return own.encode(), "the model's own template"


def _shortened(text: StrOrBytes) -> StrOrBytes:
    return text if len(text) <= 60 else text[:60] + (b"..." if isinstance(text, bytes) else "...")  # type: ignore[operator]


def _messages(chat: Sequence[ChatMessage], count: int | None) -> tuple[Any, list[Any], int]:
    """The messages as a C array, the strings that it points to, and their number."""
    if isinstance(chat, (ChatMessage, str, bytes)):
        raise expected("a list of messages", chat, "write [ChatMessage('user', text)] for one", "chat")
    if not isinstance(chat, Sequence):
        raise expected("a list of messages", chat, name="chat")
    n = len(chat) if count is None else count
    if not 0 <= n <= len(chat):
        raise out_of_range("nMsg", n, 0, len(chat), f"chat has {len(chat)} messages")
    array = ffi.new("struct llama_chat_message[]", n)
    memory: list[Any] = []
    for entry, message in zip(array, chat, strict=False):
        if not isinstance(message, ChatMessage):
            raise expected("a ChatMessage", message, "write ChatMessage(role, content)", "a message of chat")
        memory.append(ffi.new("char[]", c_string(message.role, "a message's role")))
        memory.append(ffi.new("char[]", c_string(message.content, "a message's content")))
        entry.role, entry.content = memory[-2:]
    if sum(map(len, memory)) > _MAX_BYTES:
        raise ValueError(f"the messages have more than {_MAX_BYTES} bytes: shorten them")
    return array, memory, n


@overload
def chatBuiltinTemplates() -> list[str]: ...
@overload
def chatBuiltinTemplates(out: Any, len: int) -> int: ...
def chatBuiltinTemplates(out: Any = None, len: int | None = None) -> list[str] | int:
    """List the names of llama.cpp's built-in chat templates.

    Without `out` and `len`: returns a list. With them: writes the first `len` names to `out`, a cffi array of pointers
    (`ffi.new("char *[]", 99)`), and returns the number of all names.

    Maps to `llama_chat_builtin_templates`.
    """
    if require_together(out, len, "out and len"):
        kind = ffi.typeof(out) if isinstance(out, ffi.CData) else None
        if kind is None or kind.kind != "array" or kind.item.cname not in ("char *", "char const *"):
            raise expected("a cffi array of char pointers", out, "make one with ffi.new('char *[]', 99)", "out")
        capacity = ffi.sizeof(out) // ffi.sizeof("char *")
        if len is None or not 0 <= len <= capacity:
            raise out_of_range("len", len, 0, capacity, f"out has room for {capacity}")
        return lib.llama_chat_builtin_templates(ffi.cast("char const **", out), len)
    count = lib.llama_chat_builtin_templates(ffi.NULL, 0)
    names = ffi.new("char *[]", count)
    lib.llama_chat_builtin_templates(ffi.cast("char const **", names), count)
    return [bytes(ffi.string(name)).decode() for name in names]


def near_template(name: str, known: Sequence[str]) -> str:
    """Return the template that was meant, or "": of names that are about as near, one of the same length."""
    import difflib  # only messages need it

    close = difflib.get_close_matches(name.lower(), known, cutoff=0.75) if len(name) < 60 else []
    return min(close, key=lambda one: abs(len(one) - len(name)), default="")
