"""Whose turn it is: llama.cpp applies LoRA adapters to a whole batch, so a batch holds requests with the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi.engine.priority import MAX_OVERTAKEN

if TYPE_CHECKING:
    from llama_cffi.engine.adapter_set import AdapterKey
    from llama_cffi.engine.job import Job

_STEPS = 4  # of a turn: a change of adapters makes llama.cpp plan its memory again


class Turns:
    """Requests with the same adapters are a group, and the groups take turns of a few steps.

    The next turn is that of the group with the highest priority, and of these the one that has waited longest. A group
    that has waited for `MAX_OVERTAKEN` steps comes before all others.
    """

    def __init__(self) -> None:
        self._waited: dict[AdapterKey, int] = {}  # steps since the last one of the group
        self._present: AdapterKey = ()
        self._left = 0  # steps of the present turn

    def choose(self, jobs: list[Job]) -> list[Job]:
        """The jobs of the next batch, in their order."""
        groups: dict[AdapterKey, list[Job]] = {}
        for job in jobs:
            groups.setdefault(job.adapters.key, []).append(job)
        if len(groups) < 2:
            self._left = 0
            self._waited.clear()
            return jobs
        waited = self._waited = {key: self._waited.get(key, 0) + 1 for key in groups}
        self._left -= 1
        if self._left <= 0 or self._present not in groups:
            self._left = _STEPS
            self._present = max(groups, key=lambda key: _claim(groups[key], waited[key]))
        waited[self._present] = 0
        return groups[self._present]


def _claim(group: list[Job], waited: int) -> tuple[bool, int, int]:
    """A sort key: the group with the largest one is next."""
    return waited >= MAX_OVERTAKEN, max(job.request.priority for job in group), waited
