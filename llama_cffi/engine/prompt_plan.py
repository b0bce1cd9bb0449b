"""Which prompts a batch holds, and how many tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from llama_cffi.engine.priority import rank

if TYPE_CHECKING:
    from llama_cffi.engine.job import Job

Plan = dict["Job", tuple[int, int]]  # tokens of the prompt, and dummy tokens after them


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
        count = min(job.part, free)
        plan[job] = count, 0
        free -= count
    return plan


def in_streams(prompts: Iterable[Job], free: int, per_sequence: int, most_dummies: int) -> Plan:
    """Fill `free` entries with groups of whole prompts, by rank.

    llama.cpp computes streams together that are neighbours and have the same number of tokens. So neighbours of about
    the same length are made equal: with dummy tokens behind the prompt, which are removed after the decode. A prompt
    joins a group if that takes at most `most_dummies` more of them; 0 means that none are possible. A prompt that would
    have to be cut waits, if it fits the next batch.
    """
    plan: Plan = {}
    left = {job.sequence.id: job for job in prompts if job.sequence is not None}
    size = free
    while left:
        first = min(left.values(), key=rank)
        if most_dummies:
            first = _start(first, left, free, most_dummies)
        group = _group(first, left, free, per_sequence, most_dummies) if most_dummies else [first]
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


def _start(first: Job, left: dict[int, Job], free: int, most_dummies: int) -> Job:
    """Return where the group of a prompt begins: the first one of its neighbours that are not longer or ranked lower.

    Prompts that start together are neighbours in the order of their lengths. Groups from one end on leave no single
    prompts between them, which would be computed alone.
    """
    assert first.sequence is not None
    start, number, before = first, first.sequence.id - 1, rank(first)[:2]
    while (job := left.get(number)) is not None:
        if job.pending > min(free, start.pending + most_dummies) or rank(job)[:2] != before:
            break
        start = job
        number -= 1
    return start


def _group(first: Job, left: dict[int, Job], free: int, per_sequence: int, most_dummies: int) -> list[Job]:
    """The prompt and the neighbours behind it, as far as they fit the batch and need few dummy tokens."""
    assert first.sequence is not None
    group, longest, number = [first], first.pending, first.sequence.id + 1
    while (job := left.get(number)) is not None:
        length = max(longest, job.pending)
        total = length * (len(group) + 1)
        more = total - longest * len(group) - job.pending  # dummy tokens
        behind = max(len(each.tokens) - each.pending for each in (*group, job))  # dummies take positions, too
        if total > free or more > most_dummies or length + behind > per_sequence:
            return group
        group.append(job)
        longest = length
        number += 1
    return group
