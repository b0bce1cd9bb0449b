"""Saving states and taking them over."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

CASES = (
    Case(
        "a buffer smaller than it is said to be",
        CHECK,
        "llama_state_get_data",
        "c = decoded(); c.stateGetData(bytearray(8), c.stateSize)",
        "ValueError",
        "room for 8",
    ),
    Case(
        "a buffer too small for the state",
        CHECK,
        "llama_state_get_data",
        "decoded().stateGetData(bytearray(8), 8)",
        "StateError",
        "ctx.stateSize",
    ),
    Case(
        "a read-only buffer",
        CHECK,
        "llama_state_get_data",
        "decoded().stateGetData(bytes(8), 8)",
        "TypeError",
        "read-only",
    ),
    Case(
        "a buffer without its length",
        CHECK,
        "llama_state_get_data",
        "decoded().stateGetData(bytearray(8))",
        "TypeError",
        "together",
    ),
    Case(
        "no state",
        CHECK,
        "llama_state_set_data",
        "decoded().stateSetData(b'')",
        "StateError",
        "expected a state of a llama model",
    ),
    Case("None for a state", CHECK, "llama_state_set_data", "decoded().stateSetData(None)", "TypeError", "src"),
    Case(
        "more of a state than there is",
        CHECK,
        "llama_state_set_data",
        "c = decoded(); s = c.stateGetData(); c.stateSetData(s, len(s) + 1)",
        "ValueError",
        "size must be between 0 and",
    ),
    Case(
        "truncated states",
        CHECK,
        "llama_state_set_data",
        "c = decoded(); s = c.stateGetData()\n"
        "for n in range(0, len(s) - 1, 97): raises(StateError, lambda: c.stateSetData(s[:n]))\n"
        "c.decode(batch())",
    ),
    Case(
        "a state with gigabytes of a name",
        CHECK,
        "llama_state_set_data",
        "c = decoded(); c.stateSetData(b'\\xff' * 4 + c.stateGetData()[4:])",
        "StateError",
        "expected a state of a llama model",
    ),
    Case(
        "a state of another kind of model",
        CHECK,
        "llama_state_set_data",
        "decoded().stateSetData(decoded('mamba').stateGetData())",
        "StateError",
        "llama model",
    ),
    Case(
        "a state of a larger context",
        CHECK,
        "llama_state_set_data",
        "big = context(nCtx=1024); big.decode(batch(600))\n"
        "c = context(nCtx=256)\nraises(StateError, lambda: c.stateSetData(big.stateGetData()), 'empty now')\n"
        "c.decode(batch())",
    ),
    Case(
        "a state of another cache type",
        CHECK,
        "llama_state_set_data",
        "c = decoded(typeK=Ggml.Type.Q8_0); c.stateSetData(decoded().stateGetData())",
        "StateError",
        "does not fit",
    ),
    Case(
        "states with bits flipped",
        CHECK,
        "llama_state_set_data",
        "import random\nrandom.seed(1)\n"
        "for name in ('llama', 'mamba', 'qwen2vl'):\n"
        "    c = decoded(name); s = c.stateGetData()\n"
        "    for _ in range(150):\n"
        "        bad = bytearray(s)\n"
        "        for _ in range(4):\n"
        "            place = random.randrange(len(bad) if random.random() < .3 else 200)\n"
        "            bad[place] ^= 1 << random.randrange(8)\n"
        "        try: c.stateSetData(bad); c.getMemory().clear(); c.decode(batch())\n"
        "        except StateError: c.decode(batch()); c.getMemory().clear()\n"
        "        except (ClosedError, NativeAssertionError): c = context(name)\n",
    ),
    # Files
    Case("no path", CHECK, "llama_state_load_file", "decoded().stateLoadFile(None)", "TypeError", "path"),
    Case(
        "a file that is not there", CHECK, "llama_state_load_file", "decoded().stateLoadFile('no')", "FileNotFoundError"
    ),
    Case("a folder", CHECK, "llama_state_load_file", "decoded().stateLoadFile('/')", "IsADirectoryError"),
    Case(
        "an empty file",
        CHECK,
        "llama_state_load_file",
        "decoded().stateLoadFile(written(b''))",
        "StateError",
        "too short",
    ),
    Case(
        "truncated files",
        CHECK,
        "llama_state_load_file",
        "c = decoded(); name = scratch(); c.stateSaveFile(name, [1, 2, 3]); data = Path(name).read_bytes()\n"
        "for n in (*range(64), *range(64, len(data) - 1, 997)):\n"
        "    raises(StateError, lambda: c.stateLoadFile(written(data[:n])))\n"
        "assert c.stateLoadFile(name) == [1, 2, 3]",
    ),
    Case(
        "a file of absurdly many tokens",
        CHECK,
        "llama_state_load_file",
        "c = decoded(); name = scratch(); c.stateSaveFile(name); data = bytearray(Path(name).read_bytes())\n"
        "data[8:12] = b'\\xff' * 4; c.stateLoadFile(written(data))",
        "StateError",
        "4294967295 tokens",
    ),
    Case(
        "a buffer smaller than the tokens",
        CHECK,
        "llama_state_load_file",
        "c = decoded(); name = scratch(); c.stateSaveFile(name, [1, 2, 3])\n"
        "c.stateLoadFile(name, array.array('i', [0] * 2), 2)",
        "StateError",
        "cap must be at least 3, the tokens in the file, got 2",
    ),
    Case(
        "a buffer for tokens smaller than it is said to be",
        CHECK,
        "llama_state_load_file",
        "c = decoded(); name = scratch(); c.stateSaveFile(name, [1, 2, 3])\n"
        "c.stateLoadFile(name, array.array('i', [0] * 2), 9)",
        "ValueError",
        "room for 2",
    ),
    Case(
        "a disk that is full",
        CHECK,
        "llama_state_save_file",
        "c = decoded(); name = scratch(); resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99))\n"
        "raises(OSError, lambda: c.stateSaveFile(name)); assert not os.path.exists(name)",
    ),
    Case(
        "a file that is not a regular file",
        CHECK,
        "llama_state_save_file",
        "name = scratch(); os.mkfifo(name); c = decoded(); raises(OSError, lambda: c.stateSaveFile(name), 'file')\n"
        "assert not os.path.isfile(name)",
    ),
    Case(
        "more tokens than there are",
        CHECK,
        "llama_state_save_file",
        "decoded().stateSaveFile(scratch(), [1, 2], 3)",
        "ValueError",
        "between 0 and 2, got 3",
    ),
    Case(
        "a file of a sequence as a whole state",
        CHECK,
        "llama_state_load_file",
        "c = decoded(); name = scratch(); c.stateSeqSaveFile(name, 0); c.stateLoadFile(name)",
        "StateError",
        "not a state file of this kind",
    ),
    # Sequences
    *(
        Case(
            f"{call} of sequence {seq}",
            CHECK,
            function,
            f"c = decoded(); s = c.stateSeqGetData(); c.{call}",
            "ValueError",
            "nSeqMax",
        )
        for seq in (1, -1, 2**31 - 1)
        for call, function in (
            (f"stateSeqGetSize({seq})", "llama_state_seq_get_size"),
            (f"stateSeqGetData(None, None, {seq})", "llama_state_seq_get_data"),
            (f"stateSeqSetData(s, None, {seq})", "llama_state_seq_set_data"),
            (f"stateSeqSaveFile(scratch(), {seq})", "llama_state_seq_save_file"),
            (f"stateSeqLoadFile(scratch(), {seq})", "llama_state_seq_load_file"),
        )
    ),
    Case(
        "a sequence that does not exist past the facade",
        GUARD,
        "llama_state_seq_set_data",
        "c = decoded(); s = c.stateSeqGetData(); lib.llama_state_seq_set_data(c._c, s, len(s), 999)",
        "NativeAssertionError",
    ),
    Case(
        "a state left on the device",
        CHECK,
        "llama_state_seq_get_data_ext",
        "decoded().stateSeqGetData(flags=lib.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE)",
        "ValueError",
        "ON_DEVICE",
    ),
    Case(
        "a state left on the device past the facade",
        GUARD,
        "llama_state_seq_set_data_ext",
        "c = decoded(); lib.llama_state_seq_set_data_ext(c._c, bytes(64), 64, 0, lib.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE)",
        "NativeError",
    ),
    Case(
        "flags that are none",
        CHECK,
        "llama_state_seq_get_size_ext",
        "decoded().stateSeqGetSize(0, 64)",
        "ValueError",
        "0x40",
    ),
    Case(
        "sequence states with bits flipped",
        CHECK,
        "llama_state_seq_set_data",
        "import random\nrandom.seed(2)\n"
        "for name in ('llama', 'mamba'):\n"
        "    c = decoded(name); s = c.stateSeqGetData()\n"
        "    for _ in range(150):\n"
        "        bad = bytearray(s)\n"
        "        for _ in range(4): bad[random.randrange(min(len(bad), 200))] ^= 1 << random.randrange(8)\n"
        "        try: c.stateSeqSetData(bad); c.getMemory().clear(); c.decode(batch())\n"
        "        except StateError: c.getMemory().clear(); c.decode(batch())\n"
        "        except (ClosedError, NativeAssertionError): c = context(name)",
    ),
    Case(
        "a truncated sequence file past the facade",
        GUARD,
        "llama_state_seq_load_file",
        "c = decoded(); name = scratch(); c.stateSeqSaveFile(name, 0, [1, 2])\n"
        "Path(name).write_bytes(Path(name).read_bytes()[:30]); n = ffi.new('size_t *'); t = ffi.new('int32_t[]', 9)\n"
        "assert lib.llama_state_seq_load_file(c._c, name.encode(), 0, t, 9, n) == 0",
    ),
    Case(
        "a state buffer that shrinks while it is read",
        OWNERSHIP,
        "llama_state_set_data",
        "c = decoded(); s = bytearray(c.stateGetData())\n"
        "def work(): c.stateSetData(s)\n"
        "def shrink(): s.append(0); s.pop()\n"
        "only(together(work, shrink), BufferError, StateError)",
    ),
)
