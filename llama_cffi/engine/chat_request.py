"""A request for an answer in a conversation."""

from __future__ import annotations

from llama_cffi.chat.answer import AnswerParts
from llama_cffi.engine.request import Request


class ChatRequest(AnswerParts, Request):
    """What `Engine.chat` returns: a `Request` with the parts of an answer.

    Iterating yields the text as the model writes it, with thoughts and tool calls; `events` yields its parts.
    """
