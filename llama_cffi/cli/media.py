"""Options for images and sounds, which `complete` and `chat` share."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from llama_cffi.cli.output import CommandError
from llama_cffi.model.hub import local_path
from llama_cffi.model.model import Model
from llama_cffi.mtmd.bitmap import Bitmap
from llama_cffi.mtmd.context import MtmdContext


def add(parser: argparse.ArgumentParser, where: str) -> None:
    """Add --mmproj, --image and --audio. `where` says where they go."""
    group = parser.add_argument_group("images and sounds")
    group.add_argument("--mmproj", metavar="FILE", help="projector file of the model, or hf:ORG/REPO/FILE.gguf")
    for name, kinds in (("image", "image (PNG, JPEG, GIF, BMP or PNM)"), ("audio", "sound (WAV, MP3 or FLAC)")):
        group.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="FILE",
            dest="media",
            type=Path,
            help=f"{kinds} {where}; may be repeated",
        )


def load(args: argparse.Namespace, model: Model, marker: str | None = None) -> MtmdContext | None:
    """Load the projector that the options name, with a marker; None if they name none."""
    if args.mmproj is None:
        if args.media:
            raise CommandError("--image and --audio need the projector file of the model: add --mmproj FILE", 2)
        return None
    return load_file(args, args.mmproj, model, marker)


def load_file(args: argparse.Namespace, file: str, model: Model, marker: str | None) -> MtmdContext:
    """Load a projector for a model, with the options for its devices and threads."""
    params = MtmdContext.Params(useGpu=args.gpu_layers != 0, mediaMarker=marker)
    if args.threads is not None:
        params.nThreads = args.threads
    return MtmdContext.initFromFile(local_path(file), model, params, untrusted=args.untrusted)


def new_marker() -> str:
    """Return a marker that no text contains."""
    return f"<media-{secrets.token_hex(8)}>"


def bitmaps(args: argparse.Namespace, projector: MtmdContext) -> list[Bitmap]:
    """Read the files that the options name."""
    return [Bitmap.fromFile(projector, path) for path in args.media]
