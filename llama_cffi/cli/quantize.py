"""`llama-cffi quantize`: write a model in another format, with fewer bits for each weight."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import llama_cffi.ggml as Ggml
from llama_cffi._core.argparse_types import integer
from llama_cffi._core.command_parser import USAGE_STATUS, CommandParser
from llama_cffi._generated.enums import Ftype
from llama_cffi.cli import options, output
from llama_cffi.errors import NativeError
from llama_cffi.ggml.quantization import DTYPES, writable
from llama_cffi.log import logSet
from llama_cffi.model.model import Model


def _formats() -> dict[str, Ftype]:
    """The formats of whole models by their names here, such as `q4_k_m`."""
    return {kind.name.lower().split("_", 1)[1]: kind for kind in Ftype if kind.name.startswith(("MOSTLY_", "ALL_"))}


def _tensor_types() -> dict[str, Ggml.Type]:
    """The types of single tensors by their names here, such as `q4_k`."""
    found = {}
    for kind in Ggml.Type:
        try:
            found[kind.name.lower()] = writable(kind, "type")
        except ValueError:
            pass
    found.pop("count", None)
    return found


FORMATS, TENSOR_TYPES = _formats(), _tensor_types()
_NAMES = [name for name in TENSOR_TYPES if TENSOR_TYPES[name] not in DTYPES or name in ("f32", "f16")]


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "quantize",
        "Write a model in another format: with fewer bits for each weight it is smaller, faster and a little worse. "
        "Quantize from a file with the original weights (F32, F16 or BF16).",
        "quantize model-f16.gguf model-q4.gguf q4_k_m",
        "quantize model-f16.gguf model-iq2.gguf iq2_xs --imatrix imatrix.gguf",
        "quantize model-f16.gguf model.gguf q4_k_m --tensor-type attn_v=q8_0 --output-type q6_k",
    )
    parser.add_argument("source", metavar="FILE", help="GGUF file of a model; of a split one, its first file")
    parser.add_argument("target", metavar="TARGET", help="file to write; with --keep-split, the start of the names")
    parser.add_argument("format", metavar="FORMAT", type=str.lower, choices=FORMATS, help=", ".join(FORMATS))
    parser.add_argument(
        "--imatrix", metavar="FILE", help="importance matrix from llama-imatrix, a GGUF file; iq1 and iq2 need one"
    )
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=TYPE",
        help=f"the type of the tensors whose names match, in lower case; may be repeated, the first match decides: "
        f"{', '.join(_NAMES)}",
    )
    parser.add_argument(
        "--output-type", type=str.lower, choices=_NAMES, metavar="TYPE", help="the type of the output tensor"
    )
    parser.add_argument(
        "--embedding-type", type=str.lower, choices=_NAMES, metavar="TYPE", help="the type of the token embeddings"
    )
    parser.add_argument("--pure", action="store_true", help="give all tensors the same type, without a mixture")
    parser.add_argument(
        "--leave-output",
        action="store_true",
        help="do not quantize the output tensor (llama.cpp: --leave-output-tensor)",
    )
    parser.add_argument(
        "--allow-requantize", action="store_true", help="quantize weights that are quantized already, which is worse"
    )
    parser.add_argument("--keep-split", action="store_true", help="write as many files as the model has")
    parser.add_argument("--prune-layers", metavar="N[,N...]", help="leave these layers out, counted from 0")
    parser.add_argument("--dry-run", action="store_true", help="write nothing, and print the size that it would have")
    parser.add_argument("-t", "--threads", type=integer(1, 512), metavar="N", help="threads (default: one a CPU)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no progress bar and no sizes")
    parser.add_argument("-v", "--verbose", action="store_true", help="print llama.cpp's log to stderr")
    return parser


def main(argv: Sequence[str]) -> int:
    """Quantize. Returns 0, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    params = params_of(args)
    sizes: list[str] = []

    def note(level: object, text: str, data: object) -> None:
        if "size  =" in text:
            sizes.append(text.rstrip("\n").split(": ", 1)[-1])
        if args.verbose:
            output.say(text.rstrip("\n"))

    logSet(note)
    progress = output.Progress("quantizing", os.path.basename(args.source), args.quiet)
    try:
        Model.quantize(args.source, args.target, params, progress if progress.shown else None)
    except NativeError as error:
        text = str(error)
        if "allowRequantize=True" not in text:
            raise
        raise output.CommandError(text.replace("allowRequantize=True", "--allow-requantize")) from None
    finally:
        progress.end()
    if not args.quiet:
        output.write("".join(f"{' '.join(line.split())}\n" for line in sizes[-2:]))
    return 0


def params_of(args: argparse.Namespace) -> Model.QuantizeParams:
    """The parameters that the options describe."""
    params = Model.QuantizeParams(ftype=FORMATS[args.format])
    if args.threads is not None:
        params.nthread = args.threads
    if args.imatrix is not None:
        params.imatrix = args.imatrix
    if args.tensor_type:
        params.ttOverrides = dict(map(_override, args.tensor_type))
    if args.output_type is not None:
        params.outputTensorType = TENSOR_TYPES[args.output_type]
    if args.embedding_type is not None:
        params.tokenEmbeddingType = TENSOR_TYPES[args.embedding_type]
    if args.prune_layers is not None:
        params.pruneLayers = _layers(args.prune_layers)
    if args.dry_run:
        params.dryRun = True
    params.pure, params.keepSplit = args.pure, args.keep_split
    params.allowRequantize, params.quantizeOutputTensor = args.allow_requantize, not args.leave_output
    return params


def _override(word: str) -> tuple[str, Ggml.Type]:
    pattern, _, name = word.rpartition("=")
    if not pattern or name.lower() not in TENSOR_TYPES:
        raise output.CommandError(
            f"--tensor-type: expected REGEX=TYPE with a type such as q8_0, got {word!r}", USAGE_STATUS
        )
    return pattern, TENSOR_TYPES[name.lower()]


def _layers(word: str) -> list[int]:
    try:
        return [int(number) for number in word.split(",")]
    except ValueError:
        raise output.CommandError(f"--prune-layers: expected numbers such as 3,7, got {word!r}", USAGE_STATUS) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
