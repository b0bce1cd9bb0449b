"""Options for speculation, which `complete` and `chat` share: guesses from the prompt, or by a smaller model."""

from __future__ import annotations

import argparse

from llama_cffi.cli import options
from llama_cffi.generation.draft_model import DraftModel
from llama_cffi.generation.prompt_lookup import PromptLookup
from llama_cffi.generation.speculation import Speculation
from llama_cffi.model.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    """Add --lookup and --draft-model."""
    kinds = parser.add_argument_group("speculation").add_mutually_exclusive_group()
    kinds.add_argument(
        "--lookup",
        action="store_true",
        help="guess that the text repeats the prompt, and check several tokens at once: faster for edits and quotes",
    )
    kinds.add_argument(
        "--draft-model",
        metavar="MODEL",
        help="guess with this smaller model of the same vocabulary, a file or hf:ORG/REPO/FILE (llama.cpp: "
        "--model-draft)",
    )


def make(args: argparse.Namespace) -> Speculation | None:
    """Return how to guess, as the options say; None if not at all."""
    if args.lookup:
        return PromptLookup()
    if args.draft_model is None:
        return None
    return DraftModel(Model.load(args.draft_model, options.model_params(args), untrusted=args.untrusted))
