"""The options that commands share, and the objects that they stand for."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from llama_cffi import ggml as Ggml
from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._generated.enums import FlashAttnType, LoadMode
from llama_cffi._host.resources import usable_cpus
from llama_cffi.cli import output
from llama_cffi.constrain.constraint import Constraint
from llama_cffi.context.context import Context
from llama_cffi.log import logSet
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.vocab import Vocab

MODEL = "LLAMA_CFFI_MODEL"
CONTEXT = 4096
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_FLASH = {"auto": FlashAttnType.AUTO, "on": FlashAttnType.ENABLED, "off": FlashAttnType.DISABLED}


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for `python -m llama_cffi COMMAND`."""
    return argparse.ArgumentParser(prog=f"python -m llama_cffi {command}", description=description)


def whole(low: int, high: int = (1 << 31) - 1) -> Callable[[str], int]:
    """A type of argparse: a whole number within limits."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} does not fit: from {low} to {high}")
        return value

    return read


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """A type of argparse: a number within limits."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not low <= value <= high or math.isinf(value):
            limits = f"from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
            raise argparse.ArgumentTypeError(f"{text} does not fit: {limits}")
        return value

    return read


# The model


def add_model(parser: argparse.ArgumentParser, named: bool = True) -> None:
    """Which model, and where it goes. `named` adds -m; else the command has an argument of its own for it."""
    group = parser.add_argument_group("model")
    if named:
        group.add_argument(
            "-m",
            "--model",
            metavar="FILE",
            default=os.environ.get(MODEL),
            help=f"a GGUF file, or hf:ORG/REPO/FILE.gguf (default: the environment variable {MODEL})",
        )
        group.add_argument("--untrusted", action="store_true", help="try the file in a child process first")
    group.add_argument(
        "-g",
        "--gpu-layers",
        type=whole(-1),
        metavar="N",
        help="how many layers go to GPUs; 0: none (default: all, where a backend for GPUs is loaded)",
    )
    group.add_argument("--vulkan", action="store_true", help="use Vulkan (or GGML_USE_VULKAN=1 in the environment)")
    group.add_argument("--no-mmap", action="store_true", help="read the file into memory in place of mapping it")
    parser.add_argument("-v", "--verbose", action="store_true", help="show on stderr what llama.cpp logs")


def prepare(args: argparse.Namespace) -> None:
    """Load the backends and point the log where the options say."""
    if args.verbose:
        logSet(lambda level, text, data: output.say(text.rstrip("\n")))
    if args.vulkan:
        Ggml.Backend.vkLoad()
    else:
        Ggml.Backend.ensure()


def model_params(args: argparse.Namespace) -> Model.Params:
    """What the options say of the model."""
    params = Model.Params()
    if args.gpu_layers is not None:
        params.nGpuLayers = args.gpu_layers
    if args.no_mmap:
        params.loadMode = LoadMode.NONE
    return params


def load(args: argparse.Namespace) -> tuple[Model, float]:
    """Load the model with a bar on stderr; returns it, and the seconds that it took."""
    if not args.model:
        raise output.Refused(f"no model: name one with -m FILE.gguf, or in the environment variable {MODEL}", 2)
    prepare(args)
    params = model_params(args)
    progress = output.Progress("loading", os.path.basename(args.model), getattr(args, "quiet", False))
    params.progressCallback = progress
    quiet_downloads(progress.shown)
    try:
        model = Model.load(args.model, params, untrusted=args.untrusted)
    finally:
        seconds = progress.end()
    return model, seconds


def quiet_downloads(shown: bool) -> None:
    """Have huggingface_hub draw no bars where stderr is no terminal."""
    if not shown:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


# The context


def add_context(parser: argparse.ArgumentParser, sized: bool = True) -> None:
    """How large the context is, and how it computes. Without `sized`, the command knows itself how large."""
    group = parser.add_argument_group("context")
    if sized:
        group.add_argument(
            "-c",
            "--ctx",
            type=whole(0),
            metavar="N",
            help="how many tokens fit in all; 0: as many as the model was trained with (default: the same, but at most "
            f"{CONTEXT})",
        )
    group.add_argument("-b", "--batch", type=whole(1), metavar="N", help="how many tokens are given to it at once")
    group.add_argument("--ubatch", type=whole(1), metavar="N", help="how many are computed at once")
    group.add_argument("-t", "--threads", type=whole(1, 512), metavar="N", help="default: one for each CPU")
    group.add_argument("--cache-type-k", choices=CACHE_TYPES, default="f16", help="of the keys (default: %(default)s)")
    group.add_argument(
        "--cache-type-v", choices=CACHE_TYPES, default="f16", help="of the values (default: %(default)s)"
    )
    group.add_argument("--flash-attn", choices=_FLASH, default="auto", help="default: %(default)s")


def context_params(args: argparse.Namespace, trained: int, size: int | None = None) -> Context.Params:
    """What the options say of the context of a model that was trained with so many tokens; `size` sets its own size."""
    threads = args.threads or usable_cpus()
    n_ctx: int = size or (min(CONTEXT, trained) if args.ctx is None else args.ctx)
    params = Context.Params(nCtx=n_ctx, nThreads=threads, nThreadsBatch=threads)
    if args.batch is not None:
        params.nBatch = args.batch
    if args.ubatch is not None:
        params.nUbatch = args.ubatch
    params.typeK = Ggml.Type[args.cache_type_k.upper()]
    params.typeV = Ggml.Type[args.cache_type_v.upper()]
    params.flashAttnType = _FLASH[args.flash_attn]
    return params


# What is generated


def add_generation(parser: argparse.ArgumentParser, limit: int) -> None:
    """How long the text is, how its tokens are chosen, what form it has."""
    group = parser.add_argument_group("text")
    group.add_argument(
        "--shift", action="store_true", help="forget the oldest half when the context is full, and go on"
    )
    group.add_argument(
        "-n", "--tokens", type=whole(1), default=limit, metavar="N", help="at most so many (default: %(default)s)"
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given repeatedly"
    )
    forms = group.add_mutually_exclusive_group()
    forms.add_argument("--grammar", metavar="FILE", help="a grammar in GBNF that the text must follow")
    forms.add_argument("--json-schema", metavar="FILE", help="a JSON Schema that the text must follow")
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature", type=number(0), default=0.8, metavar="X", help="0: the likeliest (default: %(default)s)"
    )
    group.add_argument("--top-k", type=whole(0), default=40, metavar="N", help="0: all (default: %(default)s)")
    group.add_argument("--top-p", type=number(0, 1), default=0.95, metavar="X", help="1: all (default: %(default)s)")
    group.add_argument("--min-p", type=number(0, 1), default=0.05, metavar="X", help="0: all (default: %(default)s)")
    group.add_argument(
        "--repeat-penalty", type=number(0), default=1.0, metavar="X", help="1: none (default: %(default)s)"
    )
    group.add_argument(
        "--repeat-last", type=whole(-1), default=64, metavar="N", help="tokens that it looks at (default: %(default)s)"
    )
    group.add_argument(
        "--seed",
        type=whole(0, DEFAULT_SEED),
        default=DEFAULT_SEED,
        metavar="N",
        help="the same seed gives the same text",
    )


def read_text(argument: str) -> str:
    """A text of the command line; `-` is what stdin has, without the end of its last line."""
    if argument != "-":
        return argument
    return _decoded(sys.stdin.buffer.read()).removesuffix("\n").removesuffix("\r")


def read_lines() -> Iterator[str]:
    """The lines of stdin, each as soon as it is there."""
    for line in sys.stdin.buffer:
        yield _decoded(line)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise output.Refused("what stdin has is no text in UTF-8") from None


def read_file(path: str, option: str) -> str:
    """The text of a file that an option names."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise output.Refused(f"{option} {path}: the file is no text in UTF-8") from None
    except OSError as error:
        raise output.Refused(f"{option} {path}: {error.strerror}") from None


def make_sampler(args: argparse.Namespace, vocab: Vocab) -> Sampler:
    """The chain that the options describe."""
    chain = Sampler.chainInit()
    if args.grammar:
        chain.chainAdd(Constraint.fromGbnf(read_file(args.grammar, "--grammar")).sampler(vocab))
    if args.json_schema:
        chain.chainAdd(_json_constraint(args.json_schema).sampler(vocab))
    if args.repeat_penalty != 1:
        chain.chainAdd(Sampler.initPenalties(args.repeat_last, args.repeat_penalty, 0.0, 0.0))
    if args.temperature == 0:
        chain.chainAdd(Sampler.initGreedy())
        return chain
    if args.top_k:
        chain.chainAdd(Sampler.initTopK(args.top_k))
    if args.top_p < 1:
        chain.chainAdd(Sampler.initTopP(args.top_p, 1))
    if args.min_p > 0:
        chain.chainAdd(Sampler.initMinP(args.min_p, 1))
    chain.chainAdd(Sampler.initTemp(args.temperature))
    chain.chainAdd(Sampler.initDist(args.seed))
    return chain


def _json_constraint(path: str) -> Constraint:
    text = read_file(path, "--json-schema")
    try:
        return Constraint.fromJsonSchema(text)
    except ValueError as error:  # of which GrammarError is one
        raise output.Refused(f"--json-schema {path}: {error}") from None
