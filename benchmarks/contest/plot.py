"""Plots of the contest as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest.cases import FACADE, C, Case
from benchmarks.contest.duel import Result, ratios

COLOURS = {FACADE: "#1b6ca8", "llama-cpp-python": "#c8553d"}
OTHERS = ("#7a7a7a", "#a89b3c", "#6f4e7c")


def contest(target: Path, cases: Sequence[Case], results: Mapping[str, Mapping[str, Result]]) -> None:
    """Speed as a multiple of the C program's: a bar per case and contestant."""
    plt = _pyplot()
    shown = [case for case in cases if case.compared and C in results[case.name] and results[case.name][C].answers]
    names = [name for name in dict.fromkeys(name for case in shown for name in results[case.name]) if name != C]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.16 * len(shown) * max(1, len(names))), layout="constrained")
    height = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        places, values = [], []
        for row, case in enumerate(shown):
            result = results[case.name].get(name)
            if result is not None and result.answers:
                places.append(row + height * number - 0.4 + height / 2)
                values.append(ratios(case, result, results[case.name][C]))
        bars = axes.barh(places, values, height, label=name, color=_colour(name, number))
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=6)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 16, 8)
    axes.set_xticks([1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1/16", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set_yticks(range(len(shown)), [case.title for case in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("speed as a multiple of the C program's (logarithmic)")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    _save(figure, target)


def lines(
    target: Path, title: str, axis: str, rows: Mapping[str, Sequence[tuple[float, float]]], unit: str, log: bool
) -> None:
    """A line per name over the growing number."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for number, (name, points) in enumerate(rows.items()):
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, color=_colour(name, number))
    if log:
        axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=axis, ylabel=unit)
    axes.legend(fontsize=8)
    _save(figure, target)


def _colour(name: str, number: int) -> str:
    return COLOURS.get(name, "black" if name == C else OTHERS[number % len(OTHERS)])


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # keep text as text
    matplotlib.rcParams["svg.hashsalt"] = "llama_cffi"  # same figures, same file
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, target: Path) -> None:
    figure.savefig(target, metadata={"Date": None})
