"""The memory of contexts."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_CALLS = (
    ("seqRemove({}, 0, 1)", "llama_memory_seq_rm"),
    ("seqCopy({}, 0)", "llama_memory_seq_cp"),
    ("seqCopy(0, {})", "llama_memory_seq_cp"),
    ("seqKeep({})", "llama_memory_seq_keep"),
    ("seqAdd({}, 0, -1, 1)", "llama_memory_seq_add"),
    ("seqDiv({}, 0, -1, 2)", "llama_memory_seq_div"),
    ("seqPosMin({})", "llama_memory_seq_pos_min"),
    ("seqPosMax({})", "llama_memory_seq_pos_max"),
)
_ALL = (
    *((call.format(0), function) for call, function in (*_CALLS[:1], *_CALLS[2:])),  # seqCopy once
    ("clear()", "llama_memory_clear"),
    ("canShift()", "llama_memory_can_shift"),
)
_M = "c = decoded(); m = c.getMemory()\n"

CASES = (
    *(
        Case(
            f"{call.format(seq)}{' of ' + kind if kind != 'llama' else ''}",
            CHECK,
            function,
            f"c = decoded('{kind}', nSeqMax=2); c.getMemory().{call.format(seq)}",
            "ValueError",
            f"and 1, got {seq}: ",
        )
        for kind, seqs in (("llama", (2, -2, 9999, 2**31 - 1)), ("mamba", (2, -7)))
        for call, function in _CALLS
        for seq in seqs
    ),
    *(
        Case(
            f"{call.format(-1)}", CHECK, function, _M + f"m.{call.format(-1)}", "ValueError", "must be between 0 and 0"
        )
        for call, function in _CALLS[1:]
    ),
    Case("every sequence removed", CHECK, "llama_memory_seq_rm", _M + "assert m.seqRemove(-1); c.decode(batch())"),
    Case(
        "a part of a sequence copied",
        CHECK,
        "llama_memory_seq_cp",
        "decoded(nSeqMax=2).getMemory().seqCopy(0, 1, 0, (1 << 31) - 1)",
        "ValueError",
        "kvUnified=True",
    ),
    Case(
        "a part of a shared sequence copied",
        CHECK,
        "llama_memory_seq_cp",
        "c = decoded(nSeqMax=2, kvUnified=True); c.getMemory().seqCopy(0, 1, 0, 1); c.decode(batch())",
    ),
    Case(
        "a sequence copied onto itself", CHECK, "llama_memory_seq_cp", _M + "m.seqCopy(0, 0, 0, 1); c.decode(batch())"
    ),
    Case(
        "ranges the wrong way round",
        CHECK,
        "llama_memory_seq_rm",
        _M + "m.seqRemove(0, 9, 3); m.seqRemove(0, -5, -9); c.decode(batch())",
    ),
    *(
        Case(
            f"positions moved by {delta}",
            CHECK,
            "llama_memory_seq_add",
            f"c = context(); c.decode(batch(3)); c.getMemory().seqAdd(0, 0, -1, {delta})",
            error,
            words,
        )
        for delta, error, words in (
            ("(1 << 31) - 1", "ValueError", "delta"),
            ("(1 << 31) - 2", "ValueError", "delta"),
            ("1 << 31", "ValueError", "delta"),
            ("1 << 40", "ValueError", "delta"),
            ("-(1 << 31)", "ValueError", "delta"),
            ("-1 << 40", "ValueError", "delta"),
            ("1.5", "TypeError", "delta"),
        )
    ),
    Case(
        "positions moved beyond all numbers in steps",
        CHECK,
        "llama_memory_seq_add",
        "c = context(); c.decode(batch(3)); m = c.getMemory()\nfor _ in range(5): m.seqAdd(0, 0, -1, (1 << 30) - 1)",
        "ValueError",
        "delta",
    ),
    Case(
        "positions moved below zero",
        CHECK,
        "llama_memory_seq_add",
        "c = context(); c.decode(batch(9)); m = c.getMemory(); m.seqAdd(0, 0, -1, -5)\n"
        "assert (m.seqPosMin(0), m.seqPosMax(0)) == (0, 3); c.decode(batch())",
    ),
    Case(
        "a part moved behind the rest",
        CHECK,
        "llama_memory_seq_add",
        "c = context(); c.decode(batch(9)); m = c.getMemory(); m.seqRemove(0, 2, 5); m.seqAdd(0, 5, -1, -3); "
        "c.decode(batch())",
    ),
    Case(
        "positions moved up to the last number, then decoded",
        CHECK,
        "llama_decode",
        "c = context(); c.decode(batch(2)); c.getMemory().seqAdd(0, 0, -1, (1 << 30) - 1)\nc.decode(batch(3))",
        "ValueError",
        "1073741823",
    ),
    *(
        Case(
            f"positions {name} on {kind}",
            CHECK,
            function,
            f"c = decoded('{kind}'); c.getMemory().{call}",
            "UnavailableError",
            "cannot shift",
        )
        for name, call, function in (
            ("moved", "seqAdd(0, 0, -1, 1)", "llama_memory_seq_add"),
            ("divided", "seqDiv(0, 0, -1, 2)", "llama_memory_seq_div"),
        )
        for kind in ("qwen2vl",)
    ),
    *(
        Case(
            f"positions divided by {d}{' on ' + kind if kind != 'llama' else ''}",
            CHECK,
            "llama_memory_seq_div",
            f"c = decoded('{kind}'); c.getMemory().seqDiv(0, 0, -1, {d})",
            error,
            words,
        )
        for kind in ("llama", "mamba")
        for d, error, words in (
            ("0", "ValueError", "d must be between 1"),
            ("-2", "ValueError", "d must be between 1"),
            ("-(1 << 31)", "ValueError", "d must be between 1"),
            ("1 << 40", "ValueError", "d"),
            ("1.5", "TypeError", ""),
        )
    ),
    Case(
        "positions divided by a large number",
        CHECK,
        "llama_memory_seq_div",
        _M + "m.seqDiv(0, 0, -1, (1 << 31) - 1); c.decode(batch())",
    ),
    Case(
        "a part of a recurrent state removed",
        CHECK,
        "llama_memory_seq_rm",
        "c = context('mamba'); c.decode(batch(9)); assert isinstance(c.getMemory().seqRemove(0, 3, 5), bool)",
    ),
    Case("positions beyond 32 bits", CHECK, "llama_memory_seq_rm", _M + "m.seqRemove(0, 0, 1 << 31)", "OverflowError"),
    *(
        Case(f"{call} of a model without memory", CHECK, function, f"context('bert').getMemory().{call}")
        for call, function in _ALL
    ),
    *(
        Case(
            f"{call.split('(')[0]} past the facade",
            GUARD,
            function,
            _M + f"lib.{function}(m._c, {arguments})",
            "NativeAssertionError",
            function,
        )
        for call, function, arguments in (
            ("seqRemove", "llama_memory_seq_rm", "999, 0, 1"),
            ("seqCopy", "llama_memory_seq_cp", "0, 999, 0, 1"),
            ("seqKeep", "llama_memory_seq_keep", "999"),
            ("seqAdd", "llama_memory_seq_add", "999, 0, 1, 1"),
            ("seqDiv", "llama_memory_seq_div", "999, 0, 1, 2"),
            ("seqPosMin", "llama_memory_seq_pos_min", "999"),
            ("seqPosMax", "llama_memory_seq_pos_max", "999"),
        )
    ),
    *(
        Case(
            f"{call} after its context", OWNERSHIP, function, _M + f"c.free(); m.{call}", "ClosedError", "it was freed"
        )
        for call, function in _ALL
    ),
    *(
        Case(
            f"{call} inside a decode",
            OWNERSHIP,
            function,
            f"def stop(): c.getMemory().{call}\nc = context(abortCb=stop); c.decode(batch())",
            "BusyError",
            "in use",
        )
        for call, function in _ALL[:-1]
    ),
    Case(
        "asked while its context is freed",
        OWNERSHIP,
        "llama_memory_can_shift",
        "def race():\n    c = context(model); m = c.getMemory()\n"
        "    def ask(): m.canShift(); m.seqPosMax(0); m.seqAdd(0, 0, -1, 1)\n"
        "    only(together(ask, ask, c.free, times=3), BusyError, ClosedError)\n"
        "model = load()\nfor _ in range(50): race()",
    ),
    Case(
        "a memory that outlives its context's name",
        OWNERSHIP,
        "llama_get_memory",
        "m = decoded().getMemory(); gc.collect(); m.clear(); assert m.seqPosMax(0) == -1",
    ),
    Case("a copy of a memory", OWNERSHIP, "llama_memory", _M + "copy.copy(m)", "TypeError", "cannot be copied"),
    Case(
        "a deep copy of a memory", OWNERSHIP, "llama_memory", _M + "copy.deepcopy(m)", "TypeError", "cannot be copied"
    ),
    Case("a pickled memory", OWNERSHIP, "llama_memory", _M + "pickle.dumps(m)", "TypeError", "cannot be copied"),
)
