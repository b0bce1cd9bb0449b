"""Models and texts for the cases: written once, kept in the cache, the same bytes every time."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

from vendor.source import fetch, pin as pins  # noqa: E402

FOLDER = "contest-1"  # raise the number with every change of the inputs

SENTENCES = (
    "The library opens at nine, and the reading room closes half an hour before the rest of the building.",
    "Nobody had expected the river to rise so quickly; by noon the lower road was under water.",
    "Add the flour slowly, stir until it is smooth, and let it rest for twenty minutes.",
    "Der Zug nach München hält heute nicht in Augsburg, sondern fährt über Ingolstadt weiter.",
    "Die größten Äpfel hingen wie immer dort, wo keine Leiter hinreichte.",
    "Le marché commence à sept heures, mais les meilleures pêches partent avant l'aube.",
    "Mañana por la mañana saldremos temprano; lleva agua, pan y un sombrero.",
    "Вчера вечером мы долго искали ключ, а он лежал под старой газетой.",
    "今天下午三点在图书馆二楼开会，请带上上周的报告。",
    "駅から公園まで歩いて十五分ぐらいかかります。",
    "내일 아침에는 비가 오고 오후부터 맑아지겠습니다.",
    "يبدأ الدرس في الساعة الثامنة وينتهي قبل الظهر.",
    "बाज़ार सुबह छह बजे खुलता है और शाम को देर तक चलता है।",
    "Το καράβι φεύγει στις δέκα και γυρίζει το απόγευμα.",
    "def mean(values):\n    return sum(values) / len(values) if values else 0.0\n",
    "for (size_t i = 0; i < n; ++i) {\n    total += weights[i] * inputs[i];\n}\n",
    '{"id": 4711, "name": "lamp", "price": 39.95, "tags": ["light", "desk"], "stock": null}',
    "| city | people | area |\n|---|---:|---:|\n| Ulm | 126,949 | 118.7 |\n",
    "2024-03-17T08:45:12Z WARN pool: 17 of 32 connections are busy (oldest 12.5 s)",
    "🙂🚀 see you at 18:30 — bring the 🎸 & the café-crème! 👩‍💻👍🏽",
)

WORDS = (
    "green small old quick quiet bright round heavy early cold river table window garden letter station bridge market "
    "engine winter doctor number island forest picture morning paper kitchen road music teacher holiday ticket answer "
    "opens finds carries follows paints repairs counts leaves remembers brings"
).split()


@dataclass(frozen=True)
class Inputs:
    """The files that the cases use."""

    gemma: Path
    small: Path
    """About 4 million parameters and a vocabulary of 32,000 tokens."""
    wide: Path
    """About as many parameters and a vocabulary of 262,144 tokens."""
    text: Path
    """1 MB of mixed text."""
    lines: Path
    """1,000 short texts."""


def prepare() -> Inputs:
    """Write the files that are missing, and return all of them."""
    folder = pins.cache_root() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT / "examples"))
    import default_model

    text, lines = folder / "mixed.txt", folder / "lines.txt"
    if not text.is_file():
        text.write_text(mixed_text(1_000_000), encoding="utf-8")
    if not lines.is_file():
        lines.write_text("\n".join(short_texts(1000)) + "\n", encoding="utf-8")
    small, wide = (model(folder, n_vocab, n_embd) for n_vocab, n_embd in ((32_000, 128), (262_144, 16)))
    return Inputs(default_model.path(), small, wide, text, lines)


def model(folder: Path, n_vocab: int, n_embd: int) -> Path:
    """A random Llama of two layers. With 32,000 tokens it has Llama's tokenizer, else mostly unused tokens."""
    from tests import tiny_models

    path = folder / f"llama-{n_vocab}-{n_embd}.gguf"
    if not path.is_file():
        heads = max(1, n_embd // 32)
        spec = tiny_models.TinySpec(
            n_layer=2,
            n_embd=n_embd,
            n_head=heads,
            n_head_kv=max(1, heads // 2),
            n_ff=2 * n_embd,
            n_ctx_train=4096,
            quant="F32",
        )
        vocab = fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf" if n_vocab == 32_000 else None
        print(f"writing {path.name}", file=sys.stderr, flush=True)
        tiny_models.write_llama(path, vocab, spec, n_vocab=n_vocab)
    return path


def mixed_text(size: int) -> str:
    """At most `size` bytes of UTF-8 text: prose of many languages, code, tables, logs, emoji."""
    rng = random.Random(1)
    parts: list[str] = []
    length = 0
    while True:
        part = " ".join(rng.choice(SENTENCES) for _ in range(rng.randrange(1, 6))) + f" {rng.randrange(10**6)}\n\n"
        length += len(part.encode())
        if length > size:
            return "".join(parts)
        parts.append(part)


def short_texts(count: int) -> list[str]:
    """Lines of 3 to 16 words."""
    rng = random.Random(2)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 17))) for _ in range(count)]
