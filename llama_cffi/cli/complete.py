"""`python -m llama_cffi complete`: go on with a text, and stream it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llama_cffi.cli import options, output
from llama_cffi.context.context import Context
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.generation import Generation
from llama_cffi.generation.steps import StopReason
from llama_cffi.vocab.tokenize import tokenize

_TOKENS = 128


def main(argv: Sequence[str]) -> int:
    """Complete a prompt. Returns 1 where that fails, 130 after Ctrl-C; wrong arguments are status 2."""
    parser = options.parser("complete", "Goes on with a text, and streams it to stdout; speeds go to stderr.")
    parser.add_argument("prompt", metavar="PROMPT", help="the text to go on with; - reads it from stdin")
    parser.add_argument("--special", action="store_true", help="control tokens that the prompt spells out are meant")
    parser.add_argument("--echo", action="store_true", help="print the prompt too")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end, and nothing else")
    parser.add_argument("-q", "--quiet", action="store_true", help="no bar, no speeds")
    options.add_generation(parser, _TOKENS)
    options.add_model(parser)
    options.add_context(parser)
    args = parser.parse_args(argv)
    return output.guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    prompt = options.read_text(args.prompt)
    model, loaded = options.load(args)
    with model, options.make_sampler(args, model.vocab) as sampler:
        tokens = tokenize(model.vocab, prompt, parseSpecial=args.special)
        if not tokens:
            raise output.Refused("the prompt is empty, and this model has no token that begins a text: name a word")
        with Context.initFromModel(model, options.context_params(args, model.nCtxTrain)) as ctx:
            try:
                generation = Generation(
                    ctx,
                    tokens,
                    sampler=sampler,
                    maxTokens=args.tokens,
                    stop=args.stop,
                    overflow="shift" if args.shift else "stop",
                )
            except ContextFullError:
                raise output.Refused(
                    f"the prompt has {len(tokens)} tokens, and the context takes {ctx.nCtxSeq}: raise it with --ctx"
                ) from None
            with generation:
                _stream(generation, args, prompt)
    if args.json:
        output.write_json(
            {
                "prompt": prompt,
                "text": generation.text,
                "tokens": generation.tokens,
                "stop_reason": generation.stopReason.value if generation.stopReason else None,
                "stop_string": generation.stopString,
                "usage": output.usage_document(generation.usage),
                "load_seconds": loaded,
            }
        )
    if not args.quiet:
        output.say(output.speeds(loaded, generation.usage))
    return 0


def _stream(generation: Generation, args: argparse.Namespace, prompt: str) -> None:
    """Print the text as it comes, with a line's end behind it whatever happens."""
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
