"""When a text ends: at an end-of-generation token, a stop token, a stop string, or a number of tokens."""

from __future__ import annotations

from collections.abc import Set

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import lib
from llama_cffi.generation.steps import StopReason
from llama_cffi.generation.text_stream import TextStream


class StopRules:
    """The end of one text. Feed it each sampled token until `reason` is set, then call `finish`.

    `tokens` collects the tokens of the text. The one that ended it is not among them, but in `stop_token`.
    """

    __slots__ = (
        "_feed",
        "_limit_reason",
        "_stop_tokens",
        "_stream",
        "_vocab",
        "limit",
        "reason",
        "stop_token",
        "tokens",
    )

    def __init__(
        self,
        stream: TextStream,
        stop_tokens: Set[Token],
        limit: int,
        limit_reason: StopReason = StopReason.LENGTH,
    ) -> None:
        """`limit` is the most tokens the text may have, and `limit_reason` why it stops there."""
        self._stream, self._feed = stream, stream.feed
        self._vocab = stream.vocab._c
        self._stop_tokens, self.limit, self._limit_reason = stop_tokens, limit, limit_reason
        self.tokens: list[Token] = []
        self.reason: StopReason | None = None
        self.stop_token: Token | None = None

    def feed(self, token: Token, ends: bool | None = None, data: bytes | None = None) -> str | None:
        """Take the next token. Returns the text it completed, or None if the token itself ends the text.

        Sets `reason` if the text ends here. `ends` and `data` are what is known already: whether it is an
        end-of-generation token, and its bytes.
        """
        if lib.llama_vocab_is_eog(self._vocab, token) if ends is None else ends:
            self.reason, self.stop_token = StopReason.END, token
            return None
        if token in self._stop_tokens:
            self.reason, self.stop_token = StopReason.STOP_TOKEN, token
            return None
        text = self._feed(token, data)
        tokens = self.tokens
        tokens.append(token)
        if self._stream.stopped is not None:
            self.reason = StopReason.STOP_STRING
        elif len(tokens) >= self.limit:
            self.reason = self._limit_reason
        return text

    def finish(self) -> str:
        """Return the text that was held back, which no token will complete any more."""
        return self._stream.finish()

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text."""
        return self._stream.stopped
