"""Measures speculation: `python benchmarks/speculation.py [--model FILE ...] [--rounds N] [--out FOLDER]`.

Two texts are written with and without `PromptLookup()`, in turns: an edit, greedily, whose answer repeats nearly all of
a program in the prompt; and prose that repeats little, by random sampling with a seed. Prints the tokens per second
of each, the median of the ratios of the rounds, how many guesses were right, and after how many tokens a text first
differed: in quantized models, batches of other sizes are rounded differently, so a text may go on in another way.

The default models are Gemma 3 270M (if the extra `gemma` is installed) and SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report, workload  # noqa: E402
from llama_cffi import Context, Generation, Model, PromptLookup, Sampler, tokenize, version  # noqa: E402
from llama_cffi.generation.prefix import common_length  # noqa: E402
from vendor.source import chat_model  # noqa: E402

_SHAPES = (
    ("rectangle", "width", "height"),
    ("room", "length", "depth"),
    ("field", "east", "north"),
    ("wall", "base", "top"),
)
_FUNCTION = '''\
def {name}_area({a}, {b}):
    """Return the area of a {name}."""
    if {a} < 0 or {b} < 0:
        raise ValueError("a side of the {name} is negative: {{}} {{}}".format({a}, {b}))
    return {a} * {b}


'''
CODE = "".join(_FUNCTION.format(name=name, a=a, b=b) for name, a, b in _SHAPES)
EDIT = (
    f"Version 1:\n```python\n{CODE}```\n\n"
    "Version 2, in which the first function has another name:\n```python\ndef area_of_rectangle("
)
PROSE = "The old lighthouse keeper looked at the sea. Since his youth he had"


@dataclass
class Sample:
    """One text: how fast it was written."""

    speed: float  # tokens per second after the first one
    tokens: list[int]
    guessed: int
    accepted: int


def write(ctx: Context, prompt: list[int], count: int, lookup: bool, greedy: bool) -> Sample:
    """Write a text, to its last token even if the model would end it before."""
    vocab = ctx.getModel().vocab
    ends = [(token, -1e9) for token in range(vocab.nTokens) if vocab.isEog(token)]
    picks = [Sampler.initGreedy()] if greedy else [Sampler.initTopK(40), Sampler.initTemp(1.0), Sampler.initDist(1)]
    with Sampler.chain(Sampler.initLogitBias(vocab.nTokens, ends), *picks) as sampler:
        generation = Generation(
            ctx, prompt, sampler=sampler, maxTokens=count, speculation=PromptLookup() if lookup else None
        )
        generation.result()
    usage = generation.usage
    speed = (usage.generatedTokens - 1) / usage.generationSeconds
    return Sample(speed, generation.tokens, usage.guessedTokens, usage.acceptedTokens)


def measure(path: Path, prompt: str, count: int, rounds: int, greedy: bool) -> dict[str, object]:
    """Compare both sides in turns; a first text warms up."""
    with Model.load(path) as model:
        tokens = tokenize(model.vocab, prompt)
        size = len(tokens) + count + 16
        with Context.initFromModel(model, Context.Params(nCtx=size)) as ctx:
            write(ctx, tokens, 8, False, greedy)
            pairs = [
                tuple(write(ctx, tokens, count, lookup, greedy) for lookup in (False, True)) for _ in range(rounds)
            ]
    plain, guessed = ([pair[side].speed for pair in pairs] for side in (0, 1))
    last = pairs[-1][1]
    return {
        "model": path.stem,
        "prompt": len(tokens),
        "text": count,
        "plain": statistics.median(plain),
        "lookup": statistics.median(guessed),
        "ratio": statistics.median(b / a for a, b in zip(plain, guessed, strict=True)),
        "ratios": ", ".join([f"{b / a:.2f}" for a, b in zip(plain, guessed, strict=True)]),
        "guessed": last.guessed,
        "accepted": last.accepted,
        "same": min(common_length(pair[0].tokens, pair[1].tokens) for pair in pairs),
        "rounds": [[asdict(side) for side in pair] for pair in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", help="GGUF file; may be repeated")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each text (default: %(default)s)")
    parser.add_argument("--only", choices=["edit", "prose"], help="one of the texts")
    report.add_arguments(parser, rounds=5)
    given = parser.parse_args()
    models = given.model or [workload.model_path(None), chat_model.path()]
    cases = {"edit": EDIT, "prose": PROSE}
    lines = [
        "| text | model | prompt | tokens/s | with PromptLookup | ratio | guesses accepted | same tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    figures = []
    for name, prompt in cases.items():
        for path in models if given.only in (None, name) else ():
            found = measure(path, prompt, given.tokens, given.rounds, greedy=name == "edit")
            figures.append({"case": name, **found})
            lines.append(
                f"| {name} | {found['model']} | {found['prompt']} | {found['plain']:.1f} | {found['lookup']:.1f} | "
                f"{found['ratio']:.2f} ({found['ratios']}) | "
                f"{found['accepted']} of {found['guessed']} | {found['same']} |"
            )
            print(lines[-1], file=sys.stderr)
    about = {**report.machine(), "llama.cpp": version()}
    print("\n".join(lines))
    if given.out:
        report.write(
            given.out,
            "speculation",
            [*report.heading("Speculation", about), *lines],
            {"about": about, "cases": figures},
        )


if __name__ == "__main__":
    main()
