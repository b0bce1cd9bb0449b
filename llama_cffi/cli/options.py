"""Command-line options that several commands share, and the objects built from them (model, context, sampler)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import llama_cffi.ggml as Ggml
from llama_cffi._core.argparse_types import integer, number
from llama_cffi._core.arguments import is_hub_name
from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.command_parser import CommandParser, program
from llama_cffi._core.files import open_regular
from llama_cffi._generated.enums import FlashAttnType, GgmlBackendDevType, LoadMode
from llama_cffi.cli import output
from llama_cffi.constrain.constraint import Constraint
from llama_cffi.context.context import Context
from llama_cffi.log import logSet
from llama_cffi.model.missing_file import in_cache
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from llama_cffi.generation.prompt_cache.cache import PromptCache

MODEL_VARIABLE = "LLAMA_CFFI_MODEL"
DEFAULT_CTX = 4096
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_FLASH_ATTN = {"auto": FlashAttnType.AUTO, "on": FlashAttnType.ENABLED, "off": FlashAttnType.DISABLED}


def parser(command: str, description: str, *examples: str) -> CommandParser:
    """The argument parser of a command. `examples` are command lines for the help, from the command's name on."""
    return CommandParser(command, description, examples)


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add -t/--threads."""
    parser.add_argument(
        "-t",
        "--threads",
        type=integer(1, 512),
        metavar="N",
        help="compute with N CPU threads (default: one for each CPU that this "
        "process can use, and fewer while other programs need them)",
    )


# The model


def add_model(parser: argparse.ArgumentParser, named: bool = True) -> None:
    """Add the options for the model and its devices. Pass named=False if the command takes the file as an argument."""
    group = parser.add_argument_group("model")
    if named:
        group.add_argument(
            "-m",
            "--model",
            metavar="FILE",
            default=os.environ.get(MODEL_VARIABLE),
            help="GGUF file, hf:ORG/REPO/FILE.gguf, which is downloaded once, or the file name of a model in the cache "
            f"(default: the environment variable {MODEL_VARIABLE})",
        )
        group.add_argument(
            "--untrusted",
            action="store_true",
            help="load the file in a child process first, and refuse it if that fails",
        )
    group.add_argument(
        "-g",
        "--gpu-layers",
        type=integer(-1),
        metavar="N",
        help="offload N layers to GPUs (llama.cpp: -ngl), and load Vulkan if this build has it; 0: none, -1: all "
        "(default: all, if a GPU backend is loaded)",
    )
    group.add_argument("--vulkan", action="store_true", help="use Vulkan; the same as GGML_USE_VULKAN=1")
    group.add_argument("--no-mmap", action="store_true", help="read the file into memory instead of mapping it")
    parser.add_argument("-v", "--verbose", action="store_true", help="print llama.cpp's log to stderr")


def prepare(args: argparse.Namespace) -> None:
    """Load the backends and direct llama.cpp's log as the options say."""
    if args.verbose:
        logSet(lambda level, text, data: output.say(text.rstrip("\n")))
    offloads = (getattr(args, "gpu_layers", None) or 0) > 0
    if args.vulkan or (offloads and "vulkan" in Ggml.Backend.available()):
        Ggml.Backend.vkLoad()  # warns if there is no device
    else:
        Ggml.Backend.ensure()
        if offloads and _only_cpu():
            output.say(
                "no GPU backend is loaded, so --gpu-layers changes nothing: `make build BACKEND=vulkan` adds one"
            )


def _only_cpu() -> bool:
    return all(device.type == GgmlBackendDevType.CPU for device in Ggml.Backend.devices())


def model_params(args: argparse.Namespace) -> Model.Params:
    """The model parameters that the options describe."""
    params = Model.Params()
    if args.gpu_layers is not None and not (args.gpu_layers > 0 and _only_cpu()):  # which `prepare` has said
        params.nGpuLayers = args.gpu_layers
    if args.no_mmap:
        params.loadMode = LoadMode.NONE
    return params


def model_path(name: str) -> str:
    """The path or name of a model: as it is given, or that of the only model in the caches whose file has this name."""
    if is_hub_name(name) or os.path.exists(name):
        return name
    found = in_cache(name)
    if len(found) > 1:
        raise output.CommandError(f"{name!r} is the name of several models in the cache: write {' or '.join(found)}")
    return found[0] if found else name


def load(args: argparse.Namespace) -> tuple[Model, float]:
    """Load the model, with a progress bar on stderr. Returns the model and how many seconds the load took."""
    if not args.model:
        raise no_model()
    args.model = model_path(args.model)
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
    """Turn huggingface_hub's progress bars off unless bars are shown."""
    if not shown:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def no_model(option: str = "-m ") -> output.CommandError:
    """The error of a command that was started without a model, with what to do."""
    return output.CommandError(
        f"no model given: use {option}FILE.gguf or {option}hf:ORG/REPO/FILE.gguf, or set the environment variable "
        f"{MODEL_VARIABLE}; `{program()} list` shows the models in the cache",
        2,
    )


# The context


def add_context(parser: argparse.ArgumentParser, sized: bool = True) -> None:
    """Add the options for the context. Pass sized=False if the command chooses the size of the context itself."""
    group = parser.add_argument_group("context")
    if sized:
        group.add_argument(
            "-c",
            "--ctx",
            type=integer(0),
            metavar="N",
            help="size of the context window in tokens (llama.cpp: --ctx-size); 0: the size that the model was trained "
            f"with (default: the same, but at most {DEFAULT_CTX})",
        )
    group.add_argument("-b", "--batch", type=integer(1), metavar="N", help="submit at most N tokens per batch")
    group.add_argument(
        "--ubatch", type=integer(1), metavar="N", help="compute at most N tokens at once (llama.cpp: -ub)"
    )
    add_threads(group)
    for part, name in (("k", "keys"), ("v", "values")):
        group.add_argument(
            f"--cache-type-{part}",
            choices=CACHE_TYPES,
            default="f16",
            help=f"data type of the {name} in the KV cache (default: %(default)s)",
        )
    group.add_argument(
        "--flash-attn", choices=_FLASH_ATTN, default="auto", help="flash attention (default: %(default)s)"
    )


def context_params(args: argparse.Namespace, trained: int, size: int | None = None) -> Context.Params:
    """The context parameters that the options describe.

    `trained` is the context length that the model was trained with; `size` replaces the option --ctx.
    """
    n_ctx: int = size or (min(DEFAULT_CTX, trained) if args.ctx is None else args.ctx)
    params = Context.Params(nCtx=n_ctx)
    if args.threads is not None:
        params.nThreads = params.nThreadsBatch = args.threads
    if args.batch is not None:
        params.nBatch = args.batch
    if args.ubatch is not None:
        params.nUbatch = args.ubatch
    params.typeK = Ggml.Type[args.cache_type_k.upper()]
    params.typeV = Ggml.Type[args.cache_type_v.upper()]
    params.flashAttnType = _FLASH_ATTN[args.flash_attn]
    return params


# Generation


def add_generation(parser: argparse.ArgumentParser, limit: int) -> None:
    """Add the options for length, stop strings, constraints and sampling. `limit` is the default of --tokens."""
    group = parser.add_argument_group("text")
    group.add_argument(
        "--shift",
        action="store_true",
        help="when the context is full, drop the oldest half and continue (llama.cpp: --context-shift)",
    )
    group.add_argument(
        "-n",
        "--tokens",
        type=integer(1),
        default=limit,
        metavar="N",
        help="generate at most N tokens (llama.cpp: --predict; default: %(default)s)",
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop before this text; may be repeated"
    )
    forms = group.add_mutually_exclusive_group()
    forms.add_argument("--grammar", metavar="FILE", help="constrain the text to a GBNF grammar")
    forms.add_argument("--json-schema", metavar="FILE", help="constrain the text to a JSON Schema")
    _add_sampling(parser.add_argument_group("sampling"))


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--temperature",
        type=number(0),
        default=0.8,
        metavar="X",
        help="sampling temperature (llama.cpp: --temp); 0: greedy, the likeliest token (default: %(default)s)",
    )
    group.add_argument(
        "--top-k",
        type=integer(0),
        default=40,
        metavar="N",
        help="sample from the N likeliest tokens; 0: disabled (default: %(default)s)",
    )
    group.add_argument(
        "--top-p",
        type=number(0, 1),
        default=0.95,
        metavar="X",
        help="sample from the likeliest tokens that reach a total probability of X; 1: disabled (default: %(default)s)",
    )
    group.add_argument(
        "--min-p",
        type=number(0, 1),
        default=0.05,
        metavar="X",
        help="drop tokens less likely than X times the likeliest one; 0: disabled (default: %(default)s)",
    )
    group.add_argument(
        "--repeat-penalty",
        type=number(0),
        default=1.0,
        metavar="X",
        help="penalty for recent tokens; 1: disabled (default: %(default)s)",
    )
    group.add_argument(
        "--repeat-last",
        type=integer(-1),
        default=64,
        metavar="N",
        help="apply --repeat-penalty to the last N tokens (llama.cpp: --repeat-last-n); 0: none, -1: the size of the "
        "context (default: %(default)s)",
    )
    group.add_argument(
        "--no-penalize-prompt",
        action="store_false",
        dest="penalize_prompt",
        help="apply --repeat-penalty to generated tokens only, not to those of the prompt and of earlier turns",
    )
    group.add_argument(
        "--seed",
        type=integer(0, DEFAULT_SEED),
        default=DEFAULT_SEED,
        metavar="N",
        help="random seed; the same seed repeats the text (default: a new one each time)",
    )


def add_output(parser: CommandParser, json: str = "print one JSON document") -> None:
    """Add --json, with its help, and --quiet."""
    parser.add_argument("--json", action="store_true", help=json)
    parser.add_argument("-q", "--quiet", action="store_true", help="print no progress bar and no speeds")


def read_text(argument: str) -> str:
    """The text given as an argument; `-` reads stdin, without its final newline."""
    if argument != "-":
        return argument
    return _decoded(sys.stdin.buffer.read()).removesuffix("\n").removesuffix("\r")


def read_whole(path: str, option: str) -> str:
    """The text of the file that an option names; `-` is stdin."""
    return read_text("-") if path == "-" else read_file(path, option)


def read_lines() -> Iterator[str]:
    """Yield the lines of stdin as they arrive."""
    for line in sys.stdin.buffer:
        yield _decoded(line)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise output.CommandError("stdin is not UTF-8 text") from None


def read_file(path: str, option: str) -> str:
    """The text of the file at `path`; `option` names the option in errors."""
    try:
        with open_regular(path) as file:
            return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise output.CommandError(f"{option} {path}: the file is not UTF-8 text") from None
    except OSError as error:
        raise output.CommandError(f"{option} {path}: {error.strerror}") from None


def add_prompt_cache(parser: argparse._ActionsContainer) -> None:
    """Add --prompt-cache."""
    parser.add_argument(
        "--prompt-cache",
        metavar="FOLDER",
        help="keep the KV cache of long prompts in this folder, at most 10 GiB, for the next start",
    )


def prompt_cache(args: argparse.Namespace) -> PromptCache | None:
    """The prompt cache on disk that the options name."""
    if args.prompt_cache is None:
        return None
    from llama_cffi.generation.prompt_cache.cache import PromptCache

    return PromptCache(args.prompt_cache)


def make_sampler(args: argparse.Namespace, vocab: Vocab) -> Sampler:
    """The sampler chain that the options describe."""
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


def _json_constraint(path: str) -> Constraint[object]:
    text = read_file(path, "--json-schema")
    try:
        return Constraint.fromJsonSchema(text)
    except ValueError as error:  # GrammarError is one
        raise output.CommandError(f"--json-schema {path}: {error}") from None
