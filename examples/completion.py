"""Complete a prompt, and stream the text.

    python examples/completion.py --prompt "The capital of France is" -n 48

All steps of a completion: load a model, make a context, tokenize, decode the prompt, then sample, print and decode one
token at a time.
"""

from __future__ import annotations

import argparse
import codecs
import sys
import time
from collections.abc import Iterator

import default_model

from llama_cffi import DEFAULT_SEED, Batch, Context, Ggml, LlamaError, Model, Sampler, tokenize


def make_sampler(temperature: float, seed: int) -> Sampler:
    """A usual chain: repetition penalty, top-k, top-p, temperature, random sampling. Temperature 0 is greedy."""
    if temperature <= 0:
        return Sampler.chain(Sampler.initGreedy(), noPerf=True)
    return Sampler.chain(
        Sampler.initPenalties(64, 1.1),
        Sampler.initTopK(40),
        Sampler.initTopP(0.95),
        Sampler.initTemp(temperature),
        Sampler.initDist(seed),
        noPerf=True,
    )


def generate(ctx: Context, sampler: Sampler, tokens: list[int], limit: int) -> Iterator[int]:
    """Decode the prompt, then yield up to `limit` tokens, until the model ends the text."""
    vocab = ctx.getModel().vocab
    for start in range(0, len(tokens), ctx.nBatch):  # a long prompt takes several batches
        ctx.decode(Batch.getOne(tokens[start : start + ctx.nBatch]))
    for count in range(1, limit + 1):
        token = sampler.sample(ctx, -1)
        if vocab.isEog(token):
            return
        yield token
        if count < limit:
            ctx.decode(Batch.getOne([token]))


def stream_text(ctx: Context, tokens: Iterator[int]) -> Iterator[str]:
    """Yield text in whole characters: a character may be spread over several tokens."""
    vocab = ctx.getModel().vocab
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    piece = bytearray(256)
    for token in tokens:
        length = vocab.tokenToPiece(token, piece, len(piece), 0, False)
        yield decoder.decode(piece[:length])
    yield decoder.decode(b"", final=True)


def make_params(size: int) -> Context.Params:
    """A context of `size` tokens. By default, it uses the CPUs that this process can use."""
    return Context.Params(nCtx=size)


def add_arguments(parser: argparse.ArgumentParser, limit: int) -> None:
    """Add the arguments of all examples."""
    parser.add_argument("--model", help="a GGUF file (default: Gemma 3 270M from the optional extra)")
    parser.add_argument("-n", type=int, default=limit, help="most tokens to generate (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="the same seed gives the same text")


def main() -> None:
    parser = argparse.ArgumentParser(description="Complete a prompt with a local language model.")
    parser.add_argument("--prompt", default="The capital of France is", help="the text to complete")
    add_arguments(parser, limit=64)
    args = parser.parse_args()

    Ggml.Backend.cpuLoad()
    with Model.load(args.model or default_model.path()) as model:
        tokens = tokenize(model.vocab, args.prompt, addSpecial=True)
        if not tokens:
            sys.exit("error: the prompt is empty, and this model has no BOS token: pass --prompt TEXT")
        params = make_params(len(tokens) + args.n)
        with Context.initFromModel(model, params) as ctx, make_sampler(args.temperature, args.seed) as sampler:
            print(args.prompt, end="", flush=True)
            started, count = time.perf_counter(), 0
            for text in stream_text(ctx, generate(ctx, sampler, tokens, args.n)):
                print(text, end="", flush=True)
                count += 1
            seconds = time.perf_counter() - started
            print()
            print(f"({len(tokens)} + {count - 1} tokens in {seconds:.2f} s)", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (LlamaError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
