"""Counters and latencies of the server, as text for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from llama_cffi.server.record import Record

if TYPE_CHECKING:
    from llama_cffi.server.served import Models

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_RECENT = 0.1  # weight of the latest request in the typical duration

_TOTALS = (
    ("prompt_tokens_total", "promptTokens"),
    ("cached_tokens_total", "reusedTokens"),
    ("disk_tokens_total", "tokensFromDisk"),
    ("generated_tokens_total", "generatedTokens"),
    ("steps_total", "steps"),
    ("compute_seconds_total", "seconds"),
)
_HELP = {
    "requests_total": "Requests that have ended, by path and status.",
    "disconnects_total": "Requests whose client went away before the end.",
    "prompt_tokens_total": "Tokens of prompts.",
    "cached_tokens_total": "Tokens of prompts that were in the KV cache already.",
    "disk_tokens_total": "Tokens of prompts that were read from the prompt cache on disk.",
    "generated_tokens_total": "Generated tokens.",
    "texts_total": "Texts of the engine that have ended, by reason.",
    "embedded_tokens_total": "Tokens of texts that were embedded or ranked.",
    "steps_total": "Batches that the engine has decoded.",
    "compute_seconds_total": "Seconds that the engine has computed.",
    "open_requests": "Requests that are open.",
    "running": "Texts that the engine runs.",
    "waiting": "Texts in the engine's queue.",
    "kv_cells": "Capacity of the KV cache in tokens.",
    "kv_cells_used": "Cells of the KV cache that running texts use.",
    "kv_cells_kept": "Cells of the KV cache that are kept for prompts with the same prefix.",
    "request_seconds": "Time from the head of a request to the end of its answer.",
    "first_byte_seconds": "Time from the head of a request to the first piece of its answer.",
}


class Histogram:
    """Durations in buckets."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.buckets[bisect_left(_BOUNDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Yield the lines of Prometheus' text format."""
        count = 0
        for bound, number in zip((*map(str, _BOUNDS), "+Inf"), self.buckets, strict=True):
            count += number
            yield f'llama_cffi_{name}_bucket{{{labels},le="{bound}"}} {count}'
        yield f"llama_cffi_{name}_sum{{{labels}}} {self.total:.6f}"
        yield f"llama_cffi_{name}_count{{{labels}}} {count}"


class Metrics:
    """Counts requests that have ended. Only the event loop uses it."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._embedded: dict[str, int] = {}  # tokens, by the model that computed vectors or scores
        self._gone = 0
        self._whole: dict[str, Histogram] = {}
        self._first: dict[str, Histogram] = {}
        self._typical = 1.0

    def typical_seconds(self) -> float:
        """Return how long a request takes, by the latest ones."""
        return self._typical

    def add(self, record: Record) -> None:
        """Count a request that has ended."""
        key = (record.route, record.status)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._gone += record.gone
        if record.model is None:
            return
        if record.embedded_tokens:
            self._embedded[record.model] = self._embedded.get(record.model, 0) + record.embedded_tokens
        seconds = perf_counter() - record.started
        self._whole.setdefault(record.route, Histogram()).add(seconds)
        if record.first is not None:
            self._first.setdefault(record.route, Histogram()).add(record.first - record.started)
        if record.status == 200:
            self._typical += _RECENT * (seconds - self._typical)

    def text(self, models: Models, open_requests: int) -> str:
        """Return all metrics in Prometheus' text format."""
        return "\n".join(self._lines(models, open_requests)) + "\n"

    def _lines(self, models: Models, open_requests: int) -> Iterator[str]:
        rows = [(f'path="{path}",status="{status}"', n) for (path, status), n in sorted(self._requests.items())]
        yield from _family("requests_total", "counter", rows)
        yield from _family("disconnects_total", "counter", [("", self._gone)])
        engines = {name: served.engine for name, served in models.by_name.items() if served.engine is not None}
        totals = {name: engine.totals for name, engine in engines.items()}
        ended = [
            (f'model="{_escaped(name)}",reason="{reason}"', number)
            for name, total in sorted(totals.items())
            for reason, number in sorted(total.ended.items())
        ]
        yield from _family("texts_total", "counter", ended)
        for name, member in _TOTALS:
            yield from _family(name, "counter", _by_model({m: getattr(t, member) for m, t in totals.items()}))
        yield from _family("embedded_tokens_total", "counter", _by_model(self._embedded))
        yield from _family("open_requests", "gauge", [("", open_requests)])
        loads = {name: engine.load for name, engine in engines.items()}
        for name, member in (
            ("running", "running"),
            ("waiting", "waiting"),
            ("kv_cells", "nCells"),
            ("kv_cells_used", "usedCells"),
            ("kv_cells_kept", "keptCells"),
        ):
            values = {model: getattr(load, member) for model, load in loads.items()}
            yield from _family(name, "gauge", _by_model({m: v for m, v in values.items() if v is not None}))
        for name, histograms in (("request_seconds", self._whole), ("first_byte_seconds", self._first)):
            yield f"# HELP llama_cffi_{name} {_HELP[name]}"
            yield f"# TYPE llama_cffi_{name} histogram"
            for path, histogram in sorted(histograms.items()):
                yield from histogram.lines(name, f'path="{path}"')


def _by_model(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(f'model="{_escaped(model)}"', value) for model, value in sorted(values.items())]


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, kind: str, rows: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP llama_cffi_{name} {_HELP[name]}"
    yield f"# TYPE llama_cffi_{name} {kind}"
    for labels, value in rows:
        yield f"llama_cffi_{name}{{{labels}}} {value}" if labels else f"llama_cffi_{name} {value}"
