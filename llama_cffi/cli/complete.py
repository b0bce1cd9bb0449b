"""`llama-cffi complete`: complete a prompt and stream the text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Literal

from llama_cffi._core.base_types import Token
from llama_cffi._core.command_parser import CommandParser
from llama_cffi.cli import media, options, output, speculation
from llama_cffi.context.context import Context
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.generation import Generation
from llama_cffi.generation.steps import StopReason
from llama_cffi.model.model import Model
from llama_cffi.mtmd.chunks import Chunks
from llama_cffi.mtmd.context import MtmdContext
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import tokenize

_MAX_TOKENS = 128


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "complete",
        "Complete a prompt. The text is streamed to stdout; speeds go to stderr.",
        'complete "Once upon a time" -m model.gguf -n 100',
        'complete "Three colours:" -m model.gguf --temperature 0 --stop "."',
    )
    parser.add_argument("prompt", metavar="PROMPT", help="text to complete; - reads it from stdin")
    parser.add_argument(
        "--special",
        action="store_true",
        help="parse special tokens in the prompt, such as <eos>, instead of taking them as text",
    )
    parser.add_argument("--echo", action="store_true", help="print the prompt before the text")
    options.add_output(parser, "print one JSON document at the end instead of the text")
    options.add_model(parser)
    options.add_generation(parser, _MAX_TOKENS)
    speculation.add(parser)
    media.add(parser, "for a <__media__> in the prompt, or before the prompt")
    options.add_context(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Complete a prompt. Returns 0, 1 on failure, or 130 after Ctrl-C; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    prompt = options.read_text(args.prompt)
    model, loaded = options.load(args)
    with model, options.make_sampler(args, model.vocab) as sampler:
        projector = media.load(args, model)
        tokens = _read(prompt, model, projector, args)
        if not tokens:
            raise output.CommandError(
                "the prompt has no tokens, and this model adds none at the beginning: give at least one word"
            )
        with Context.initFromModel(model, options.context_params(args, model.nCtxTrain)) as ctx:
            with _start(ctx, tokens, projector, sampler, args) as generation:
                _stream(generation, args, prompt)
    if args.json:
        output.write_json(_document(generation, prompt, loaded))
    if not args.quiet:
        output.say(output.speeds(loaded, generation.usage))
    return 0


def _read(prompt: str, model: Model, projector: MtmdContext | None, args: argparse.Namespace) -> list[Token] | Chunks:
    """Return the tokens of the prompt, or with images and sounds its chunks."""
    if projector is None or not args.media:
        return tokenize(model.vocab, prompt, parseSpecial=args.special)
    marker = projector.getMarker()
    text = prompt if marker in prompt else f"{marker * len(args.media)}\n{prompt}"
    return projector.tokenize(text, media.bitmaps(args, projector), parseSpecial=args.special)


def _start(
    ctx: Context,
    tokens: list[Token] | Chunks,
    projector: MtmdContext | None,
    sampler: Sampler,
    args: argparse.Namespace,
) -> Generation:
    overflow: Literal["shift", "stop"] = "shift" if args.shift else "stop"
    try:
        return Generation(
            ctx,
            tokens,
            mtmd=projector,
            sampler=sampler,
            maxTokens=args.tokens,
            stop=args.stop,
            overflow=overflow,
            penalizePrompt=args.penalize_prompt,
            speculation=speculation.make(args),
        )
    except ContextFullError:
        n = tokens.nTokens if isinstance(tokens, Chunks) else len(tokens)
        raise output.CommandError(
            f"the prompt has {n} tokens, but the context holds {ctx.nCtxSeq}: raise --ctx"
        ) from None


def _document(generation: Generation, prompt: str, loaded: float) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "text": generation.text,
        "tokens": generation.tokens,
        "stop_reason": generation.stopReason.value if generation.stopReason else None,
        "stop_string": generation.stopString,
        "usage": output.usage_document(generation.usage),
        "load_seconds": loaded,
    }


def _stream(generation: Generation, args: argparse.Namespace, prompt: str) -> None:
    """Print the text as it is generated; it always ends with a newline, even after Ctrl-C or an error."""
    if args.json:
        for _ in generation:
            pass
        return
    last = prompt[-1:] if args.echo else ""
    try:
        if args.echo:
            output.write(prompt)
        for text in generation:
            output.write(text)
            last = text[-1:] or last
    finally:
        if last != "\n":
            output.write("\n")
    if generation.stopReason is StopReason.CONTEXT_FULL and not args.quiet:
        output.say("the context is full: raise --ctx, or use --shift")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
