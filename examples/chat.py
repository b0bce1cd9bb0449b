"""Chat with a model: reads one message per line, and streams the answers.

    python examples/chat.py
    python examples/chat.py --model FILE.gguf --system "Answer in one sentence."
    printf 'What is 2+2?\\nName three colors.\\n' | python examples/chat.py --temperature 0
    python examples/chat.py --message "What is the capital of France?"
    python examples/chat.py --save chat.session      # continues where it ended the last time

Without --model it uses SmolLM2-135M-Instruct, which the first call downloads (93 MB). The model's own chat template
formats the messages. A base model has none: name one with `--template chatml`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

import default_model

from llama_cffi import DEFAULT_SEED, ChatAnswer, ChatSession, Context, LlamaError, Model, defaultSampler

NAMES = {"user": "You", "assistant": "Model", "system": "System"}


def read_messages(only: str | None) -> Iterator[str]:
    """The only message; without one, a message per line, from a terminal or a pipe. A pipe's lines are printed too."""
    if only is not None:
        print(f"You: {only}")
        yield only
    while only is None:
        if sys.stdin.isatty():
            print("You: ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        message = line.strip()
        if message:
            if not sys.stdin.isatty():
                print(f"You: {message}")
            yield message


def open_session(ctx: Context, args: argparse.Namespace) -> ChatSession:
    """The session of the file --save, or a new one."""
    if args.save and os.path.exists(args.save):
        session = ChatSession.load(ctx, args.save, template=args.template)
        for message in session.messages:
            print(f"{NAMES.get(message['role'], message['role'])}: {message['content']}")
        return session
    return ChatSession(ctx, system=args.system, template=args.template, overflow="drop")


def stream(answer: ChatAnswer) -> None:
    """Print an answer as it is generated, then a line about it on stderr."""
    print("Model: ", end="", flush=True)
    with answer:
        for text in answer:
            print(text, end="", flush=True)
    print(flush=True)
    usage = answer.usage
    speed = usage.generatedTokens / usage.generationSeconds if usage.generationSeconds else 0.0
    print(
        f"({usage.generatedTokens} tokens, {speed:.0f} tokens/s, "
        f"{usage.reusedTokens} of {usage.promptTokens} prompt tokens reused)",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat with a local language model.")
    parser.add_argument("--model", help="a GGUF file (default: SmolLM2-135M-Instruct, which is downloaded once)")
    parser.add_argument("--template", help="a chat template, for a model without one")
    parser.add_argument("--system", help="the system message of a new conversation")
    parser.add_argument("--message", help="answer this message, and end (default: read messages from stdin)")
    parser.add_argument("--save", metavar="FILE", help="keep the conversation in this file, and continue it")
    parser.add_argument(
        "--ctx", type=int, default=4096, help="size of the context window in tokens (default: %(default)s)"
    )
    parser.add_argument("-n", type=int, default=256, help="most tokens of an answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="the same seed gives the same text")
    args = parser.parse_args()

    with Model.load(args.model or default_model.chat_path()) as model:
        with Context.initFromModel(model, Context.Params(nCtx=args.ctx)) as ctx:
            session = open_session(ctx, args)
            sampler = defaultSampler(args.temperature, args.seed)
            for message in read_messages(args.message):
                try:
                    stream(session.send(message, sampler=sampler, maxTokens=args.n))
                finally:  # also if Ctrl-C ended the answer
                    if args.save:
                        session.save(args.save)


if __name__ == "__main__":
    try:
        main()
    except (ImportError, LlamaError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
