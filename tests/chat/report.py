"""How many of llama.cpp's chat cases hold, by template and kind: `python -m tests.chat.report [--layer NAME] [--all]`.

Each case is an answer of a model, which is parsed whole and in all its prefixes. A case that fails, and is not listed
in `KNOWN` with a reason, fails the run.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from llama_cffi import Ggml
from tests.chat import cases, evaluate
from tests.chat.evaluate import Result

KINDS = ("content", "reasoning", "calls")

_EOS = "llama.cpp finds out the format of a call by rendering some; with EOS, it misses the id of a call"
_ENDED = "a last message with a thought alone is continued there; the case takes the thought as ended"

# What does not hold: layer, template and what is wrong, with how many cases it concerns, and why.
KNOWN = {
    ("with tokens", "Mistral-Small-3.2-24B-Instruct-2506", "error"): (2, _EOS),
    ("public", "Mistral-Small-3.2-24B-Instruct-2506", "error"): (2, _EOS),
    ("public", "mistralai-Mistral-Nemo-Instruct-2407", "events"): (
        1,
        "the model writes the id of a call after its arguments, when the event of the call is out",
    ),
    ("public", "inclusionai-ling-3.0-flash", "content"): (1, _ENDED),
    ("public", "inclusionai-ling-3.0-flash", "reasoning"): (1, _ENDED),
}


def unknown(layer: str, results: Iterable[Result]) -> list[str]:
    """Describe what is wrong and not listed in `KNOWN`, and what is listed there and not wrong."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        for kind, text in result.wrong.items():
            stem = Path(result.case.template).stem
            found.setdefault((layer, stem, kind), []).append(f"{result.case.name}: {kind}: {text}")
    described = []
    for key in sorted({*found, *(key for key in KNOWN if key[0] == layer)}):
        expected, reason = KNOWN.get(key, (0, ""))
        if len(found.get(key, [])) != expected:
            described.append(f"{key}: expected {expected} ({reason}), got {len(found.get(key, []))}")
            described += found.get(key, [])
    return described


def table(results: list[Result]) -> str:
    """Count right and all cases, by template and by what the message holds."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        count = counts.setdefault(Path(result.case.template).stem, Counter())
        count["cases"] += 1
        count["right"] += not result.wrong
        for kind in result.case.kinds:
            count[kind] += 1
            count[f"{kind} right"] += not {kind, "error"} & result.wrong.keys()
    lines = [f"{'template':46}{'cases':>9}" + "".join(f"{kind:>11}" for kind in KINDS)]
    whole: Counter[str] = sum(counts.values(), Counter())
    for name, count in [*sorted(counts.items()), ("together", whole)]:
        cells = [f"{count[f'{kind} right']}/{count[kind]}" if count[kind] else "" for kind in KINDS]
        whole_cell = f"{count['right']}/{count['cases']}"
        lines.append(f"{name:46}{whole_cell:>9}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chat.report", description=__doc__.splitlines()[0])
    parser.add_argument("--layer", choices=list(evaluate.LAYERS), help="only this one")
    parser.add_argument("--missing", action="store_true", help="list the places of llama.cpp's tests that are not read")
    arguments = parser.parse_args()
    Ggml.Backend.cpuLoad()
    read = cases.read()
    wrong: list[str] = []
    for layer in [arguments.layer] if arguments.layer else evaluate.LAYERS:
        results = [evaluate.parse(case, layer) for case in read.parse]
        print(f"{layer}: {evaluate.LAYERS[layer].__doc__}\n{table(results)}\n")
        wrong += unknown(layer, results)
    prompts = [evaluate.prompt(one) for one in read.prompt]
    renders = [evaluate.render(one) for one in cases.render_cases()]
    for what, results in (("properties of prompts", prompts), ("whole prompts", renders)):
        print(f"{sum(not result.wrong for result in results)}/{len(results)} {what}")
        wrong += [f"{result.case.name}: {result.wrong}" for result in results if result.wrong]
    reasons = Counter(one.reason for one in read.missing)
    print(
        f"{len(read.missing)} places of test-chat.cpp that are not read" + ("" if arguments.missing else " (--missing)")
    )
    if arguments.missing:
        print("\n".join(f"{count:6} {reason}" for reason, count in reasons.most_common()))
    print("\n".join(["", f"{len(wrong)} unexpected:", *wrong] if wrong else ["", "nothing unexpected"]))
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
