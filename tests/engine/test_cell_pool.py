"""The count of cells, compared with a memory that has each cell as an object."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest

from llama_cffi.engine.batch_policy import BatchPolicy
from llama_cffi.engine.cell_pool import CellPool, EngineSequence
from llama_cffi.generation.prefix import common_length


class Plain:
    """A memory with the cells of each sequence by position, which is also its context and its model."""

    isRecurrent = isHybrid = hasEncoder = False
    nSwa = 0

    def __init__(self, nCtx: int, nSeqMax: int) -> None:
        self.nCtx, self.nSeqMax = nCtx, nSeqMax
        self.cells: list[list[object]] = [[] for _ in range(nSeqMax)]

    def getModel(self) -> Any:
        return self

    def getMemory(self) -> Any:
        return self

    def seqRemove(self, seq: int, p0: int = -1) -> bool:
        del self.cells[seq][max(p0, 0) :]
        return True

    def seqCopy(self, src: int, dst: int, p0: int, p1: int) -> None:
        assert not self.cells[dst]
        self.cells[dst] = self.cells[src][: p1 if p1 >= 0 else None]

    def seqPosMax(self, seq: int) -> int:
        return len(self.cells[seq]) - 1

    def decode(self, seq: int, count: int) -> None:
        self.cells[seq] += [object() for _ in range(count)]
        assert self.used <= self.nCtx

    @property
    def used(self) -> int:
        return len({id(cell) for cells in self.cells for cell in cells})


def test_common_beginnings() -> None:
    rng = random.Random(1)
    for _ in range(500):
        a = [rng.randrange(300) for _ in range(rng.randrange(40))]
        b = a[: rng.randrange(len(a) + 1)] + [rng.randrange(300) for _ in range(rng.randrange(40))]
        n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_length(array("i", a), array("i", b)) == common_length(a, b) == n


@pytest.mark.parametrize("seed", range(12))
def test_the_count_is_true(seed: int) -> None:
    """Requests come and go as the loop has them; none that was admitted is left without room."""
    rng = random.Random(seed)
    memory = Plain(nCtx=120, nSeqMax=rng.choice([2, 4, 9]))
    cells = CellPool(memory)  # type: ignore[arg-type]
    live: dict[EngineSequence, tuple[array[int], int]] = {}
    admitted = 0
    for _ in range(1500):
        choice = rng.random()
        if choice < 0.3 and cells.has_sequence:
            stems = [s.tokens for s in cells._all if s.tokens] or [array("i")]
            stem = rng.choice(stems)
            tokens = stem[: rng.randrange(len(stem) + 1)] + array("i", [rng.randrange(4) for _ in range(9)])
            final = min(120, len(tokens) + rng.randrange(30))
            tokens = tokens[:final]
            reserved = sum(last - len(sequence.tokens) for sequence, (_, last) in live.items())
            donor, shared = cells.find(tokens, live)
            if cells.evict_for(final - shared, reserved, donor, shared):
                sequence = cells.open(tokens, live)
                assert len(sequence.tokens) == shared == memory.seqPosMax(sequence.id) + 1
                assert sequence.tokens == tokens[:shared] and sequence not in live
                live[sequence] = tokens, final
                admitted += 1
            else:
                assert live
        elif choice < 0.85 and live:
            sequence = rng.choice(list(live))
            tokens, final = live[sequence]
            at = len(sequence.tokens)
            count = min(rng.randrange(1, 8), final - at)
            if count:
                more = tokens[at : at + count] if at + count <= len(tokens) else None
                more = more or array("i", [rng.randrange(4) for _ in range(count)])
                memory.decode(sequence.id, count)
                cells.grow(sequence, more)
        elif live:
            sequence = rng.choice(list(live))
            del live[sequence]
            cells.close(sequence, keep=rng.random() < 0.8)
        assert cells.used == memory.used
        in_use = {id(cell) for sequence in live for cell in memory.cells[sequence.id]}
        assert cells.used_by_live == len(in_use)
        for sequence in cells._all:
            assert len(memory.cells[sequence.id]) == len(sequence.tokens) == sum(s.length for s in sequence.ranges)
    assert admitted > 50
    for sequence in live:
        cells.close(sequence, keep=False)
    cells.evict_all()
    assert cells.used == memory.used == 0 and sorted(cells._free) == list(range(memory.nSeqMax))


def test_a_copy_that_did_not_work_is_taken_back() -> None:
    class Whole(Plain):
        """Gives whole sequences only, as a recurrent memory does, and does not say so."""

        def seqCopy(self, src: int, dst: int, p0: int, p1: int) -> None:
            super().seqCopy(src, dst, -1, -1)

    memory = Whole(100, 3)
    cells = CellPool(memory)  # type: ignore[arg-type]
    first = cells.open(array("i", range(20)), ())
    memory.decode(first.id, 20)
    cells.grow(first, array("i", range(20)))
    second = cells.open(array("i", [*range(10), 99, 98]), [first])
    assert len(second.tokens) == 0 and memory.cells[second.id] == []
    third = cells.open(array("i", range(30)), [first, second])
    assert len(third.tokens) == 20


def test_few_sequences_go_the_faster_way() -> None:
    slow, fast = BatchPolicy(), BatchPolicy()
    for policy, together in ((slow, 4.0), (fast, 1.5)):
        assert not policy.decode_separately(3)  # nothing is known
        policy.note(3, together)
        assert policy.decode_separately(3)  # to learn what one costs
        policy.note(1, 1.0)
        assert policy.decode_separately(3) is (policy is slow)
        ways = [policy.decode_separately(3) for _ in range(600)]
        assert ways.count(policy is not slow) == 2  # the other way is measured again now and then
        assert not policy.decode_separately(1) and not policy.decode_separately(9)
    for _ in range(100):
        slow.note(1, 2.0)  # it has become slower
    assert not slow.decode_separately(3)
