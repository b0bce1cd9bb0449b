"""Chat with a model by hand: what a `ChatSession` does, over the API of llama.h.

    python examples/chat_by_hand.py --model FILE.gguf --system "Answer in one sentence."
    printf 'Who was Ada Lovelace?\\nAnd her father?\\n' | python examples/chat_by_hand.py --model FILE.gguf

The model's own chat template formats the messages. A base model has none: name one with `--template chatml`.

The tokens of the conversation stay in the KV cache, so each turn decodes only what is new in it. When the context
window is full, the oldest turns are removed from the cache, and the positions of what follows are shifted; the system
message and the newest message stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import default_model
from completion import add_arguments, generate, make_params, make_sampler, stream_text

from llama_cffi import (
    ChatMessage,
    Context,
    Ggml,
    LlamaError,
    Model,
    Sampler,
    UnavailableError,
    chatApplyTemplate,
    tokenize,
)


class Chat:
    """A conversation in one context, and its tokens in the KV cache."""

    def __init__(self, ctx: Context, sampler: Sampler, template: str | Model, system: str = "") -> None:
        self.ctx = ctx
        self.sampler = sampler
        self.template = template
        self.messages = [ChatMessage("system", system)] if system else []
        self.first = len(self.messages)  # the index of the first turn
        self.tokens: list[int] = []  # those in the KV cache, by position

    def say(self, text: str, limit: int) -> Iterator[str]:
        """Add the user's message, and stream the answer of at most `limit` tokens."""
        self.messages.append(ChatMessage("user", text))
        prompt = self.make_room(limit)
        start = self.reuse(prompt)
        limit = min(limit, self.ctx.nCtx - len(prompt))
        answer = ""
        self.tokens = prompt.copy()
        try:
            for piece in stream_text(self.ctx, self.noting(generate(self.ctx, self.sampler, prompt[start:], limit))):
                answer += piece
                yield piece
        finally:  # also if the answer was interrupted
            del self.tokens[self.ctx.getMemory().seqPosMax(0) + 1 :]  # the last one may not be decoded
            self.messages.append(ChatMessage("assistant", answer))

    def noting(self, tokens: Iterator[int]) -> Iterator[int]:
        for token in tokens:
            self.tokens.append(token)
            yield token

    def render(self) -> list[int]:
        """The whole conversation as tokens, up to the point where the assistant's answer begins."""
        text = chatApplyTemplate(self.template, self.messages)
        return tokenize(self.ctx.getModel().vocab, text, addSpecial=True, parseSpecial=True)

    def make_room(self, limit: int) -> list[int]:
        """Drop the oldest turns until the conversation and an answer fit; return the conversation as tokens."""
        prompt = self.render()
        while len(prompt) + limit > self.ctx.nCtx and len(self.messages) > self.first + 1:
            del self.messages[self.first : self.first + 2]  # a question and its answer
            shorter = self.render()
            self.cut(shorter, len(prompt) - len(shorter))
            prompt = shorter
        if len(prompt) >= self.ctx.nCtx:
            self.messages.pop()
            raise ValueError(f"the message has {len(prompt)} tokens, but the context {self.ctx.nCtx}: raise --ctx")
        return prompt

    def cut(self, shorter: list[int], count: int) -> None:
        """Remove the `count` tokens that `shorter` lacks from the KV cache, and close the gap."""
        memory = self.ctx.getMemory()
        start = common_length(self.tokens, shorter)
        rest = self.tokens[start + count :]
        if common_length(rest, shorter[start:]) == 0:
            return  # nothing after the gap can be reused
        if not memory.seqRemove(0, start, start + count):
            return  # this kind of memory cannot remove a part
        self.tokens[start:] = []
        try:
            memory.seqAdd(0, start + count, -1, -count)
        except UnavailableError:  # positions cannot be shifted: that part must be decoded again
            memory.seqRemove(0, start, -1)
        else:
            self.tokens += rest

    def reuse(self, prompt: list[int]) -> int:
        """Keep the prefix that the KV cache shares with the prompt, remove the rest; return the prefix's length."""
        memory = self.ctx.getMemory()
        start = min(common_length(self.tokens, prompt), len(prompt) - 1)  # the last token's logits are needed
        if start < len(self.tokens) and not memory.seqRemove(0, start, -1):
            memory.clear()
            start = 0
        return start


def common_length(a: list[int], b: list[int]) -> int:
    """The length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def read_messages() -> Iterator[str]:
    """One message per line, from a terminal or a pipe."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat with a local language model.")
    parser.add_argument("--template", help="a built-in chat template, for a model without one")
    parser.add_argument("--system", default="", help="the system message")
    parser.add_argument(
        "--ctx", type=int, default=4096, help="size of the context window in tokens (default: %(default)s)"
    )
    add_arguments(parser, limit=256)
    args = parser.parse_args()

    Ggml.Backend.cpuLoad()
    with Model.load(args.model or default_model.path()) as model:
        template = args.template or model
        try:
            chatApplyTemplate(template, [ChatMessage("user", "")])  # fail now, not after the first question
        except ValueError as error:
            sys.exit(f"error: {error} (with --template NAME)")
        params = make_params(args.ctx)
        with Context.initFromModel(model, params) as ctx, make_sampler(args.temperature, args.seed) as sampler:
            chat = Chat(ctx, sampler, template, args.system)
            for message in read_messages():
                for text in chat.say(message, args.n):
                    print(text, end="", flush=True)
                print()


if __name__ == "__main__":
    try:
        main()
    except (LlamaError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
