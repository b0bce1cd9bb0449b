"""`llama-cffi info`: show what a GGUF file holds and how much memory it needs. Weights are not loaded."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import llama_cffi.ggml as Ggml
from llama_cffi._core.arguments import is_hub_name
from llama_cffi._core.command_parser import CommandParser
from llama_cffi._core.files import require_regular
from llama_cffi._core.native_log import native_log
from llama_cffi._host.resources import cpu_limits
from llama_cffi.cli import options, output
from llama_cffi.cli.gguf_text import ARRAY_ITEMS, short, short_array, type_table
from llama_cffi.cli.memory_estimate import CPU, Estimate, estimate
from llama_cffi.errors import ModelLoadError, UnavailableError
from llama_cffi.ggml.gguf_native import ArrayInfo, GgufFile, Scalar, TensorInfo, open_gguf
from llama_cffi.model.hub import local_path
from llama_cffi.model.missing_file import explained
from llama_cffi.model.validation import ModelFile
from llama_cffi.system import ftypeName

_TEMPLATE = "tokenizer.chat_template"


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "info",
        "Show what a GGUF file holds and how much memory it needs. Its weights are not loaded. The command `show` is "
        "the same.",
        "info model.gguf",
        "info model.gguf --ctx 8192 --cache-type-k q8_0",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default=os.environ.get(options.MODEL_VARIABLE),
        help="GGUF file, hf:ORG/REPO/FILE.gguf, or the file name of a model in the cache (default: the environment "
        f"variable {options.MODEL_VARIABLE})",
    )
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--template", action="store_true", help="print the chat template only")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options.add_model(parser, named=False)
    options.add_context(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Print what a file holds. Returns 0, or 1 if it cannot be read as a model; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if not args.file:
        raise options.no_model("")
    args.file = options.model_path(args.file)
    options.prepare(args)
    options.quiet_downloads(sys.stderr.isatty())
    if not is_hub_name(args.file):
        try:
            require_regular(args.file)  # raises OSError with the reason if the path is wrong
        except OSError as error:
            raise explained(error, args.file) from None
    path = os.fsdecode(local_path(args.file))
    info = Info(path)
    if args.template:
        if info.template is None:
            raise output.CommandError("the file has no chat template")
        output.write(info.template + "\n")
        return 0
    planned: Estimate | None = None
    no_estimate = ""
    try:
        planned = info.estimate(args)
    except (UnavailableError, ModelLoadError) as error:
        no_estimate = str(error)
    if args.json:
        output.write_json(info.document(planned, no_estimate))
    else:
        output.write(output.plain_lines(info.text(planned, no_estimate, args)) + "\n")
    return 0


class Info:
    """The contents of a model's files."""

    def __init__(self, path: str) -> None:
        self.path = path
        name = os.fsencode(path)
        with ExitStack() as stack:
            first = stack.enter_context(open_gguf(name))
            if first is None:
                raise ModelLoadError(f"{path} cannot be read as a GGUF file", log=native_log())
            self.version = first.version
            self.metadata = {key: _value(first, key) for key in first.keys()}
            self.kind = str(self.metadata.get("general.type", "model"))
            self.paths = [name] if self.kind == "adapter" else ModelFile.inspect([name], None, True).paths
            others = [stack.enter_context(open_gguf(other)) for other in self.paths[1:]]
            self.tensors: list[TensorInfo] = [t for file in [first, *others] if file for t in file.tensors()]
        self.size = sum(map(os.path.getsize, self.paths))
        self.parameters = sum(math.prod(tensor.shape) for tensor in self.tensors)

    def get(self, key: str) -> Any:
        """A metadata value or None. `*` at the start of the key stands for the architecture."""
        return self.metadata.get(key.replace("*", str(self.metadata.get("general.architecture", "")), 1))

    @property
    def template(self) -> str | None:
        value = self.get(_TEMPLATE)
        return value if isinstance(value, str) else None

    def estimate(self, args: argparse.Namespace) -> Estimate:
        """The memory that the model needs with the context that the options describe."""
        if self.kind == "adapter":
            raise UnavailableError("the file is an adapter, which needs a model to run")
        trained = self.get("*.context_length")
        params = options.context_params(
            args, trained if isinstance(trained, int) and trained > 0 else options.DEFAULT_CTX
        )
        return estimate(self.path, self.tensors, options.model_params(args), params)

    # Text

    def text(self, planned: Estimate | None, no_estimate: str, args: argparse.Namespace) -> str:
        parts = ["\n".join([output.plain(self.path), output.table(self._summary(), align="<<")])]
        rows = [[key, _shown(value)] for key, value in self.metadata.items()]
        parts.append("\n".join([f"Metadata ({len(rows)})", output.table(rows, align="<<")]))
        lines = [f"Tensors ({len(self.tensors)})"]
        if args.tensors:
            rows = [
                [t.name, Ggml.Type(t.type).name, " x ".join(map(str, _lengths(t))), output.size(t.size)]
                for t in self.tensors
            ]
            lines.append(output.table(rows, align="<<>>"))
        else:
            lines.append(type_table(self.tensors))
        parts.append("\n".join(lines))
        parts.append(_memory(planned, args) if planned else f"Memory cannot be estimated: {no_estimate}")
        limits = cpu_limits()
        parts.append(f"Threads: {limits.usable} by default ({limits.reason})")
        return "\n\n".join(parts)

    def _summary(self) -> list[list[str]]:
        weights = sum(tensor.size for tensor in self.tensors)
        bits = f", {8 * weights / self.parameters:.2f} bits per weight" if self.parameters else ""
        file_type = self.get("general.file_type")
        files = f" in {len(self.paths)} files" if len(self.paths) > 1 else ""
        tokens = self.get("tokenizer.ggml.tokens")
        rows = [
            ["name", self.get("general.name")],
            ["architecture", self.get("general.architecture")],
            ["parameters", f"{self.parameters:,}"],
            ["format", f"{ftypeName(file_type) if isinstance(file_type, int) else 'unknown'}{bits}"],
            ["size", f"{output.size(self.size)}{files} (GGUF version {self.version})"],
            ["context", _tokens(self.get("*.context_length"))],
            ["layers", self._layers()],
            ["vocabulary", _tokens(tokens.length) if isinstance(tokens, ArrayInfo) else None],
            ["chat template", f"{len(self.template):,} characters (--template prints it)" if self.template else "none"],
        ]
        return [[name, str(value)] for name, value in rows if value not in (None, "")]

    def _layers(self) -> str | None:
        layers, width = self.get("*.block_count"), self.get("*.embedding_length")
        return None if layers is None else f"{layers}, {width} wide"

    # JSON

    def document(self, planned: Estimate | None, no_estimate: str) -> dict[str, Any]:
        """The contents as a JSON object. Sizes are in bytes; arrays in the metadata are cut to their first items."""
        return {
            "path": self.path,
            "files": [os.fsdecode(path) for path in self.paths],
            "size": self.size,
            "version": self.version,
            "kind": self.kind,
            "name": self.get("general.name"),
            "architecture": self.get("general.architecture"),
            "parameters": self.parameters,
            "n_ctx_train": self.get("*.context_length"),
            "chat_template": self.template,
            "metadata": {
                key: value.as_dict() if isinstance(value, ArrayInfo) else value for key, value in self.metadata.items()
            },
            "tensors": [
                {"name": t.name, "type": Ggml.Type(t.type).name, "shape": _lengths(t), "size": t.size}
                for t in self.tensors
            ],
            "memory": _as_document(planned) if planned else None,
            "fits": planned.fits if planned else None,
            "no_estimate": no_estimate or None,
            "threads": cpu_limits().usable,
            "threads_reason": cpu_limits().reason,
        }


def _value(file: GgufFile, key: str) -> Scalar | ArrayInfo:
    scalar = file.scalar(key)
    return scalar if scalar is not None else file.array(key, ARRAY_ITEMS) or ""


def _shown(value: Scalar | ArrayInfo) -> str:
    return short_array(value.type, value.length, value.first) if isinstance(value, ArrayInfo) else short(value)


def _lengths(tensor: TensorInfo) -> list[int]:
    shape = list(tensor.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return shape


def _tokens(count: object) -> str | None:
    return f"{count:,} tokens" if isinstance(count, int) else None


def _memory(planned: Estimate, args: argparse.Namespace) -> str:
    names = list(planned.shares)
    columns = [planned.shares[name] for name in names]
    rows = [["", *names]]
    for part in ("weights", "cache", "compute", "output", "total", "free"):
        values = [getattr(share, part) for share in columns]
        rows.append([part, *("unknown" if value is None else output.size(value) for value in values)])
    kinds = f"keys in {args.cache_type_k}, values in {args.cache_type_v}"
    return "\n".join(
        [f"Memory with a context of {planned.n_ctx:,} tokens ({kinds})", output.table(rows), _verdict(planned)]
    )


def _verdict(planned: Estimate) -> str:
    if planned.fits is None:
        return "It is unknown whether it fits: this system does not report its free memory."
    if planned.fits:
        return "It fits."
    if planned.fits_mapped:
        return "It runs slowly: the mapped weights do not fit into memory and are read from disk repeatedly."
    full = [name for name, share in planned.shares.items() if share.fits is False]
    advice = "a smaller --ctx, or --cache-type-k q8_0 --cache-type-v q8_0"
    if full != [CPU]:
        advice += ", or fewer --gpu-layers"
    return f"It does not fit ({', '.join(full)}): try {advice}."


def _as_document(planned: Estimate) -> dict[str, Any]:
    parts = ("weights", "cache", "compute", "output", "total", "free", "fits")
    devices = {name: {part: getattr(share, part) for part in parts} for name, share in planned.shares.items()}
    return {"n_ctx": planned.n_ctx, "total": planned.total, "devices": devices}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
