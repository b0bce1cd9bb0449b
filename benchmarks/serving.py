"""Compares the Engine with llama-server and with the hardware's limit: `python benchmarks/serving.py [--out FOLDER]`.

All have the same model, library files, prompts, limits, threads and number of slots, and generate greedily.
llama-server is a process of its own, and its clients talk to it by HTTP on the loopback interface. The sides take
turns, each time in a new process. `--ngl 99` compares on a GPU (Vulkan).

The limit is what llama-batched-bench would need: it measures how fast prompts are processed, and how fast tokens are
generated in as many sequences as there are slots. At these speeds the same tokens would take that much time,
without sampling, text or scheduling.

There are two workloads: prompts with different beginnings, and prompts with a common one (`--common` tokens), which
both keep and do not compute again; for the limit it is counted once. Throughput is measured with all requests sent at
once. Latencies are measured in another pass: as many clients as slots read their texts token by token, and send a
request when the last one has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import build_llama_bench, llama_bench, report, workload  # noqa: E402
from benchmarks.build_llama_bench import BuildError  # noqa: E402
from benchmarks.llama_bench import MeasurementError  # noqa: E402
from benchmarks.serving_side import WARM_UP, Settings  # noqa: E402
from vendor.tools import FetchError  # noqa: E402

ENGINE, SERVER, LIMIT = "engine", "llama-server", "limit"
PROGRAMS = {SERVER: "llama-server", LIMIT: "llama-batched-bench"}

LATENCIES = (
    ("first_p50", "first token, p50, ms"),
    ("first_p95", "first token, p95, ms"),
    ("between_p50", "between tokens, p50, ms"),
    ("between_p95", "between tokens, p95, ms"),
)

Rounds = list[dict[str, float]]


def settings(given: argparse.Namespace, model: Path, common: int, folder: Path) -> Settings:
    """The settings of one workload. No prompt occurs twice."""
    sizes = (given.slots, given.requests, given.requests)
    passes = [
        workload.prompts(model, count, given.prompt, common, start=sum(sizes[:number]))
        for number, count in enumerate(sizes)
    ]
    longest = max(len(prompt) for prompts in passes for prompt in prompts)
    return Settings(
        model=str(model),
        passes=passes,
        tokens=given.tokens,
        slots=given.slots,
        cells=-(-(longest + given.tokens + 16) // 256) * 256,  # llama.cpp rounds up as well
        batch=given.batch,
        ubatch=given.ubatch,
        threads=given.threads,
        ngl=given.ngl,
        reuse=common > 0,
        server=str(folder),
    )


def side(name: str, given: Settings) -> dict[str, float]:
    """Measure the Engine or llama-server in a new process."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "settings.json"
        file.write_text(json.dumps(asdict(given)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmarks" / "serving_side.py"), name, str(file)]
        return _last_line(name, command, ROOT)


def limit(folder: Path, given: Settings) -> dict[str, float]:
    """The speeds of llama-batched-bench, in tokens per second."""
    prompts = given.passes[1]
    length = round(statistics.mean(map(len, prompts)))
    options = {
        "-m": given.model,
        "-c": given.slots * given.cells,
        "-b": given.batch,
        "-ub": given.ubatch,
        "-npp": length,
        "-ntg": given.tokens,
        "-npl": given.slots,
        "-t": given.threads,
        "-tb": given.threads,
        "-ngl": given.ngl,
        "--output-format": "jsonl",
    }
    words = [str(word) for option in options.items() for word in option]
    found = _last_line(LIMIT, [str(folder / PROGRAMS[LIMIT]), *words], folder)
    return {"prompt_speed": found["speed_pp"], "generation_speed": found["speed_tg"]}


def _last_line(name: str, command: list[str], folder: Path) -> dict[str, float]:
    """Run a program, and read the last of its lines that is JSON."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    rows = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode != 0 or not rows:
        reason = "\n".join(result.stderr.splitlines()[-8:])
        raise MeasurementError(f"{name} failed with exit status {result.returncode}:\n{reason}")
    found: dict[str, float] = json.loads(rows[-1])
    return found


def limit_seconds(speeds: dict[str, float], prompts: list[list[int]], common: int, generated: float) -> float:
    """The seconds that these speeds need for the prompts, the common beginning counted once, and for the tokens."""
    needed = sum(map(len, prompts)) - common * (len(prompts) - 1 if common else 0)
    return needed / speeds["prompt_speed"] + generated / speeds["generation_speed"]


def measure(names: list[str], folders: dict[str, Path], given: Settings, rounds: int) -> dict[str, Rounds]:
    """Measure the sides in turns, in another order each round."""
    results: dict[str, Rounds] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found = limit(folders[LIMIT], given) if name == LIMIT else side(name, given)
            results[name].append(found)
            rounded = ", ".join(f"{key} {value:,.4g}" for key, value in found.items())
            print(f"  round {number + 1}, {name}: {rounded}", file=sys.stderr, flush=True)
    return results


@dataclass
class Throughput:
    """What a side generated in each round, and in how many seconds."""

    generated: list[float]
    seconds: list[float]

    def rates(self, n_prompt: int = 0) -> list[float]:
        """Generated tokens per second of each round; with `n_prompt`, those of the prompts count too."""
        return [(count + n_prompt) / spent for count, spent in zip(self.generated, self.seconds, strict=True)]


def throughputs(results: dict[str, Rounds], given: Settings, common: int) -> dict[str, Throughput]:
    """The throughput of each side. The limit generates as many tokens as the Engine, or else llama-server, did."""
    found = {
        name: Throughput([each["generated"] for each in rounds], [each["seconds"] for each in rounds])
        for name, rounds in results.items()
        if name != LIMIT
    }
    if LIMIT in results:
        speeds, prompts = results[LIMIT], given.passes[1]
        first = next(iter(found.values()), None)
        counts = first.generated if first else [float(len(prompts) * given.tokens)] * len(speeds)
        seconds = [limit_seconds(each, prompts, common, n) for each, n in zip(speeds, counts, strict=True)]
        found[LIMIT] = Throughput(counts, seconds)
    return found


def table(title: str, results: dict[str, Rounds], given: Settings, common: int) -> list[str]:
    """The medians, the ratios round by round, and all rounds."""
    found = throughputs(results, given, common)
    lengths = [len(prompt) for prompt in given.passes[1]]
    lines = [
        f"{title}: {len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths):,} in all; "
        f"{given.tokens} tokens each, {given.slots} at once",
        f"{'medians':28}" + "".join(f"{name:>14}" for name in found),
        _row("generated tokens/s", [statistics.median(each.rates()) for each in found.values()]),
        _row("with those of the prompts", [statistics.median(each.rates(sum(lengths))) for each in found.values()]),
    ]
    for key, what in LATENCIES:
        sides = [results[name] for name in found if name != LIMIT]
        lines.append(_row(what, [1e3 * statistics.median(each[key] for each in rounds) for rounds in sides]))
    for name in (SERVER, LIMIT):
        if ENGINE in found and name in found:
            ratios = [a / b for a, b in zip(found[ENGINE].rates(), found[name].rates(), strict=True)]
            rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            lines.append(f"{ENGINE} to {name}: {statistics.median(ratios):.3f}; rounds {rounds}")
    for name, each in found.items():
        lines.append(f"{name}, rounds, generated tokens/s: " + ", ".join(f"{rate:,.1f}" for rate in each.rates()))
    for speeds in results.get(LIMIT, []):
        lines.append(
            f"llama-batched-bench: prompt {speeds['prompt_speed']:,.1f}, generation in {given.slots} sequences "
            f"{speeds['generation_speed']:,.1f} tokens/s"
        )
    return lines


def _row(what: str, figures: list[float]) -> str:
    return f"{what:28}" + "".join(f"{value:14,.1f}" for value in figures)


def _folders(given: argparse.Namespace, stack: ExitStack) -> Iterator[tuple[str, Path]]:
    """The folder of each program that takes part, where it finds the libraries of this package."""
    from benchmarks.offload import cpu_module

    for name, program in PROGRAMS.items():
        if name in given.sides:
            path = given.programs / program if given.programs else build_llama_bench.executable(program)
            yield name, stack.enter_context(llama_bench.staged(path, cpu_module(), given.ngl > 0, program))


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=workload.MODEL_HELP)
    parser.add_argument("--sides", nargs="+", choices=(ENGINE, SERVER, LIMIT), default=[ENGINE, SERVER, LIMIT])
    parser.add_argument("--requests", type=int, default=64, help="prompts of a pass (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=32, help="texts generated at once (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="mean length of a prompt (default: %(default)s tokens)")
    parser.add_argument("--common", type=int, default=256, help="tokens of the common beginning (default: %(default)s)")
    parser.add_argument(
        "--workloads", nargs="+", choices=("different", "common"), default=["different", "common"], help="default: both"
    )
    parser.add_argument("--tokens", type=int, default=128, help="tokens to generate per prompt (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one per CPU")
    parser.add_argument("--ngl", type=int, default=0, help="layers on the GPU (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="tokens of a batch (default: %(default)s)")
    parser.add_argument("--ubatch", type=int, default=512, help="tokens of a physical batch (default: %(default)s)")
    parser.add_argument(
        "--programs", type=Path, metavar="FOLDER", help=f"llama.cpp's programs; {llama_bench.HOW_TO_ALL}"
    )
    report.add_arguments(parser, rounds=3)
    return parser.parse_args(words)


def main() -> None:
    given = _parse()
    model = workload.model_path(given.model)
    about, load = report.machine(), os.getloadavg()[0]
    lines = report.heading("The Engine beside llama-server", about)
    lines.append(
        f"{model.name}; {given.threads} threads, {given.ngl} layers on the GPU, batch {given.batch}, ubatch "
        f"{given.ubatch}, {given.rounds} rounds; load {load:.1f} before"
    )
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        folders = dict(_folders(given, stack))
        for name in given.workloads:
            common = given.common if name == "common" else 0
            title = f"a common beginning of {common} tokens" if common else "different beginnings"
            print(title, file=sys.stderr, flush=True)
            chosen = settings(given, model, common, folders.get(SERVER, ROOT))
            results = measure(given.sides, folders, chosen, given.rounds)
            lines += ["", *table(title, results, chosen, common)]
            figures[name] = {
                "settings": asdict(chosen) | {"model": model.name, "server": "", "passes": "", "warm_up": WARM_UP},
                "prompt_tokens": sum(map(len, chosen.passes[1])),
                "common": common,
                "results": results,
            }
    print("\n".join(lines), flush=True)
    if given.out is not None:
        device = about["nvidia"][0].split(",")[0] if given.ngl and about["nvidia"] else about["processor"]
        about["load"] = [load, os.getloadavg()[0]]
        name = f"{device} serving {model.stem} {given.label}"
        report.write(given.out, name, lines, {"machine": about, "workloads": figures})


if __name__ == "__main__":
    try:
        main()
    except (BuildError, FetchError, MeasurementError) as error:
        sys.exit(f"error: {error}")
