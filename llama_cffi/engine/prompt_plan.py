"""Which prompts a batch holds, and how many tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from llama_cffi.engine.priority import rank

if TYPE_CHECKING:
    from llama_cffi.engine.job import Job

Plan = dict["Job", tuple[int, int]]  # tokens of the prompt, and dummy tokens after them

_WASTE = 0.25  # most dummy tokens, as a part of the prompts


def with_scores(prompts: list[Job], free: int, rows: int, plan: Callable[[list[Job], int], Plan]) -> Plan:
    """Plan prompts of which some are scored: these have outputs for many tokens, and `rows` is the most of them.

    `plan` plans the others. The prompt that comes first by rank says which kind is first, so that neither waits without
    end.
    """
    scored = [job for job in prompts if job.unscored]
    others = [job for job in prompts if not job.unscored]
    if not others or min(prompts, key=rank) in scored:
        planned = _with_rows(scored, free, rows)
        return {**planned, **plan(others, free - _size(planned))}
    planned = plan(others, free)
    return {**planned, **_with_rows(scored, free - _size(planned), rows)}


def _with_rows(prompts: list[Job], free: int, rows: int) -> Plan:
    """Fill `free` entries by rank, of which `rows` can have an output."""
    plan: Plan = {}
    for job in sorted(prompts, key=rank):
        assert job.sequence is not None
        before = max(0, job.first_row - len(job.sequence.tokens))  # decoded without outputs
        count = min(job.pending, free, before + rows)
        plan[job] = count, 0
        free -= count
        rows -= max(0, count - before)
    return plan


def _size(plan: Plan) -> int:
    return sum(count + dummies for count, dummies in plan.values())


def in_one_pool(prompts: Iterable[Job], free: int) -> Plan:
    """Fill `free` entries by rank. llama.cpp computes all tokens of a batch together."""
    plan: Plan = {}
    for job in sorted(prompts, key=rank):
        count = min(job.pending, free)
        plan[job] = count, 0
        free -= count
    return plan


def in_streams(prompts: Iterable[Job], free: int, per_sequence: int, pads: bool) -> Plan:
    """Fill `free` entries with groups of whole prompts, by rank.

    llama.cpp computes streams together that are neighbours and have the same number of tokens. So neighbours of about
    the same length are made equal: with dummy tokens behind the prompt, which are removed after the decode. A prompt
    that would have to be cut waits, if it fits the next batch.
    """
    plan: Plan = {}
    left = {job.sequence.id: job for job in prompts if job.sequence is not None}
    size = free
    while left:
        first = min(left.values(), key=rank)
        group = _group(first, left, free, per_sequence) if pads else [first]
        for job in group:
            assert job.sequence is not None
            del left[job.sequence.id]
        longest = max(job.pending for job in group)
        if longest * len(group) > free:  # then the group is a single prompt
            whole = plan and longest <= size // 2
            plan[first] = (0 if whole else free), 0
            free -= plan[first][0]
            continue
        for job in group:
            plan[job] = job.pending, longest - job.pending
        free -= longest * len(group)
    return plan


def _group(first: Job, left: dict[int, Job], free: int, per_sequence: int) -> list[Job]:
    """The prompt and its neighbours, as far as they waste few tokens and fit the batch."""
    group, sizes = [first], [first.pending]
    assert first.sequence is not None
    below, above = first.sequence.id - 1, first.sequence.id + 1
    while True:
        near = [job for job in (left.get(below), left.get(above)) if job is not None]
        if not near:
            return group
        best = min(near, key=lambda job: abs(job.pending - first.pending))
        all_sizes = [*sizes, best.pending]
        total = max(all_sizes) * len(all_sizes)
        longest = max(all_sizes) + max(len(job.tokens) - job.pending for job in (*group, best))
        if total > free or total > (1 + _WASTE) * sum(all_sizes) or longest > per_sequence:
            return group
        group.append(best)
        sizes = all_sizes
        if best is left.get(below):
            below -= 1
        else:
            above += 1
