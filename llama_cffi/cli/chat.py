"""`llama-cffi chat`: chat with a model, in a terminal or from a pipe."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_cffi._core import argparse_types
from llama_cffi._core.command_parser import CommandParser
from llama_cffi.chat.answer import ChatAnswer
from llama_cffi.chat.session import ChatSession
from llama_cffi.chat.template import ChatTemplate
from llama_cffi.cli import media, options, output, speculation
from llama_cffi.context.context import Context
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.steps import StopReason, Usage
from llama_cffi.model.model import Model
from llama_cffi.mtmd.context import MtmdContext
from llama_cffi.sampling.sampler import Sampler

_MAX_TOKENS = 512
_HELP = (
    "/clear starts a new conversation; /image FILE and /audio FILE add a file to the next message; /exit or Ctrl-D "
    "quits; Ctrl-C stops an answer"
)


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "chat",
        "Chat with a model. Type one message per line, or give messages as arguments. Answers are streamed.",
        "chat -m model.gguf",
        'chat "Who was Ada Lovelace?" -m model.gguf --system "Answer in one sentence."',
    )
    parser.add_argument(
        "messages",
        nargs="*",
        metavar="MESSAGE",
        help="messages to send, one after another (default: the lines of stdin)",
    )
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    options.add_output(parser, "print one JSON object per answer, each on a line")
    options.add_model(parser)
    thoughts = parser.add_argument_group("thoughts")
    thoughts.add_argument(
        "--thoughts",
        choices=("show", "hide"),
        help="show what the model thinks before it answers (default: only in a terminal, dimmed)",
    )
    thoughts.add_argument("--no-thinking", action="store_true", help="ask the model to answer at once")
    thoughts.add_argument(
        "--thinking-budget", type=argparse_types.integer(0), metavar="N", help="end a thought after N tokens"
    )
    saved = parser.add_argument_group("sessions")
    saved.add_argument("--load", metavar="FILE", help="continue the session of a file")
    saved.add_argument("--save", metavar="FILE", help="write the session to a file at the end, with its KV cache")
    options.add_prompt_cache(saved)
    template = parser.add_argument_group("chat template").add_mutually_exclusive_group()
    template.add_argument(
        "--template", metavar="NAME", help="built-in template of llama.cpp, such as chatml (default: the model's)"
    )
    template.add_argument("--template-file", metavar="FILE", help="Jinja template")
    options.add_generation(parser, _MAX_TOKENS)
    speculation.add(parser)
    media.add(parser, "for the first message")
    options.add_context(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Chat. Returns 0, 1 on failure, or 130 after Ctrl-C at the prompt; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    model, loaded = options.load(args)
    total = Usage()
    with model, options.make_sampler(args, model.vocab) as sampler:
        template = _template(args, model)
        with Context.initFromModel(model, options.context_params(args, model.nCtxTrain)) as ctx:
            projector = media.load(args, model, media.new_marker())
            session = _load(ctx, template, args, projector) if args.load else _new(ctx, template, args, projector)
            guesses = speculation.make(args)
            try:
                for message in _messages(args):
                    if message == "/clear":
                        session = _new(ctx, template, args, projector)
                        continue
                    session.speculation = guesses
                    _answer(session, message, sampler, args, total)
                if args.save:
                    session.save(args.save)
            finally:
                if not args.quiet and total.generatedTokens:
                    output.say(output.speeds(loaded, total))
    return 0


def _new(ctx: Context, template: ChatTemplate, args: argparse.Namespace, projector: MtmdContext | None) -> ChatSession:
    return ChatSession(
        ctx,
        system=args.system,
        template=template,
        overflow="drop",
        thinking=not args.no_thinking,
        mtmd=projector,
        promptCache=options.prompt_cache(args),
    )


def _load(ctx: Context, template: ChatTemplate, args: argparse.Namespace, projector: MtmdContext | None) -> ChatSession:
    chosen: dict[str, Any] = {"overflow": "drop", "mtmd": projector, "promptCache": options.prompt_cache(args)}
    if args.system is not None:
        chosen["system"] = args.system
    if args.no_thinking:
        chosen["thinking"] = False
    return ChatSession.load(ctx, args.load, template=template, **chosen)


def _template(args: argparse.Namespace, model: Model) -> ChatTemplate:
    text = options.read_file(args.template_file, "--template-file") if args.template_file else args.template
    try:
        return ChatTemplate(model, text)
    except ValueError as error:
        raise output.CommandError(f"{error} (use --template NAME or --template-file FILE)") from None


def _messages(args: argparse.Namespace) -> Iterator[str]:
    """Yield the messages of the command line, or else the lines of stdin. A terminal also takes /clear and /exit."""
    if args.messages:
        yield from args.messages
        return
    if not sys.stdin.isatty():
        for line in options.read_lines():
            if line.strip():
                yield line.strip()
        return
    try:
        import readline  # noqa: F401  gives input() a history and line editing
    except ImportError:
        pass
    if not args.quiet:
        output.say(_HELP)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            output.write("\n")
            return
        if line == "/exit":
            return
        command, _, file = line.partition(" ")
        if command in ("/image", "/audio") and file:
            args.media.append(Path(file.strip()))  # for the next message
            continue
        if line.startswith("/") and line != "/clear":
            output.say(_HELP)
        elif line:
            yield line


def _answer(session: ChatSession, message: str, sampler: Sampler, args: argparse.Namespace, total: Usage) -> None:
    """Send a message and print the answer as it is generated. In a terminal, Ctrl-C stops the answer, not the chat."""
    try:
        parts, args.media = [*args.media, message], []
        answer = session.send(
            parts if len(parts) > 1 else message,
            sampler=sampler,
            maxTokens=args.tokens,
            stop=args.stop,
            penalizePrompt=args.penalize_prompt,
            thinkingBudget=args.thinking_budget,
        )
    except ContextFullError:
        raise output.CommandError("the message does not fit the context: shorten it or raise --ctx") from None
    with answer:
        try:
            _print(answer, args)
        except KeyboardInterrupt:
            if args.messages or not sys.stdin.isatty():
                raise
        finally:
            if not args.json:
                output.write("\n")
    _add(total, answer.usage)
    if args.json:
        output.write(json.dumps(_document(message, answer)) + "\n")
    elif answer.stopReason is StopReason.LENGTH and not args.quiet:
        output.say(f"(stopped after {args.tokens} tokens: raise -n)")


def _print(answer: ChatAnswer, args: argparse.Namespace) -> None:
    """Print the parts of an answer as they come: its thought, dimmed in a terminal, and its content."""
    dim, normal = ("\x1b[2m", "\x1b[22m") if output.has_colours() else ("(", ")") if sys.stdout.isatty() else ("", "")
    shows = args.thoughts == "show" or (args.thoughts is None and sys.stdout.isatty())
    thinks = False
    try:
        for event in answer.events():
            if args.json or event.kind not in ("content", "reasoning") or not event.text:
                continue
            if event.kind == "reasoning":
                if shows:
                    sys.stdout.write("" if thinks else dim)  # `output.write` escapes control characters
                    output.write(event.text)
                    thinks = True
            else:
                sys.stdout.write(f"{normal}\n" if thinks else "")
                output.write(event.text)
                thinks = False
    finally:
        if thinks:
            sys.stdout.write(normal)


def _document(message: str, answer: ChatAnswer) -> dict[str, object]:
    return {
        "message": message,
        "answer": answer.content,
        "reasoning": answer.reasoning,
        "stop_reason": answer.stopReason.value if answer.stopReason else None,
        "usage": output.usage_document(answer.usage),
    }


def _add(total: Usage, usage: Usage) -> None:
    total.promptTokens += usage.promptTokens
    total.reusedTokens += usage.reusedTokens
    total.generatedTokens += usage.generatedTokens
    total.promptSeconds += usage.promptSeconds
    total.generationSeconds += usage.generationSeconds
    total.guessedTokens += usage.guessedTokens
    total.acceptedTokens += usage.acceptedTokens
    total.tokensFromDisk += usage.tokensFromDisk


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
