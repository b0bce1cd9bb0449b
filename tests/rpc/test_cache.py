"""The cache of a worker: files that were cut off are removed at the start, because llama.cpp does not check them."""

from __future__ import annotations

from pathlib import Path

from llama_cffi.ggml.rpc import _remove_partial


def _fnv(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


def test_only_whole_tensors_stay(tmp_path: Path) -> None:
    whole, cut = bytes(range(256)) * 600, b"weights" * 1000
    (tmp_path / f"{_fnv(whole):016x}").write_bytes(whole)
    (tmp_path / f"{_fnv(cut):016x}").write_bytes(cut[:-1])
    (tmp_path / f"{_fnv(b'empty'):016x}").touch()
    (tmp_path / "0123456789abcdeg").write_bytes(b"not of the cache")
    (tmp_path / "notes.txt").write_bytes(b"not of the cache")
    (tmp_path / "0000000000000001").mkdir()
    (tmp_path / "0000000000000002").symlink_to("notes.txt")
    _remove_partial(str(tmp_path))
    left = [f"{_fnv(whole):016x}", "0123456789abcdeg", "notes.txt", "0000000000000001", "0000000000000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)
