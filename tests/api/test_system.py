"""Functions of the library as a whole: names, versions, the paths of split models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_cffi import (
    FlashAttnType,
    Ftype,
    LoadMode,
    ffi,
    flashAttnTypeName,
    ftypeName,
    lib,
    loadModeFromStr,
    loadModeName,
    maxTensorBuftOverrides,
    splitPath,
    splitPrefix,
    version,
)


@pytest.mark.needs("llama_version")
def test_version() -> None:
    assert version() == ffi.string(lib.llama_version()).decode() != ""


@pytest.mark.needs("llama_ftype_name")
def test_names() -> None:
    assert ftypeName(Ftype.MOSTLY_Q8_0) == "Q8_0"
    assert ftypeName(Ftype.ALL_F32) == "all F32"
    assert ftypeName(12345)  # unknown, and said to be
    assert len({flashAttnTypeName(kind) for kind in FlashAttnType}) == len(FlashAttnType)
    assert len({loadModeName(mode) for mode in LoadMode}) == len(LoadMode)
    assert maxTensorBuftOverrides() == lib.llama_max_tensor_buft_overrides() > 1


@pytest.mark.needs("llama_load_mode_name")
def test_load_modes_by_name() -> None:
    assert [loadModeFromStr(loadModeName(mode)) for mode in LoadMode] == list(LoadMode)
    for bad in ("nonsense", "", "MMAP"):
        with pytest.raises(ValueError, match="one of auto, none, mmap"):
            loadModeFromStr(bad)


@pytest.mark.parametrize("call", [lambda: flashAttnTypeName(99), lambda: loadModeName(99)])  # type: ignore[arg-type]
def test_names_of_what_is_none(call: Any) -> None:
    with pytest.raises(ValueError, match="99"):
        call()


@pytest.mark.parametrize("prefix", ["/models/m", "m", "mödel ☃", "x" * 5000, Path("a/b")])
def test_split_paths(prefix: str | Path) -> None:
    for number, count in ((0, 1), (0, 4), (3, 4), (65534, 65535)):
        path = splitPath(prefix, number, count)
        assert path == f"{prefix}-{number + 1:05d}-of-{count:05d}.gguf"
        assert splitPrefix(path, number, count) == str(prefix)
    assert splitPath(b"m", 0, 2) == "m-00001-of-00002.gguf"


@pytest.mark.parametrize("path", ["m", "m-00001-of-00002.gguf", "-00001-of-00004.gguf", "m-00001-of-00004.ggu"])
def test_paths_that_are_of_no_split(path: str) -> None:
    assert splitPrefix(path, 0, 4) is None


@pytest.mark.parametrize("function", [splitPath, splitPrefix])
def test_splits_that_cannot_be(function: Any) -> None:
    cases = ((0, 0, "splitCount"), (0, 65536, "splitCount"), (4, 4, "splitNo"), (-1, 4, "splitNo"))
    for number, count, words in cases:
        with pytest.raises(ValueError, match=words):
            function("m", number, count)
    with pytest.raises(ValueError, match="NUL"):
        function("a\0b", 0, 4)
    with pytest.raises(TypeError, match=r"os\.PathLike, got int"):
        function(5, 0, 4)
