"""What a GGUF file holds and in what two files differ, as text and as JSON: for the commands `gguf` and `info`."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, Protocol

import llama_cffi.ggml as Ggml
from llama_cffi.cli import output

ARRAY_ITEMS = 8  # items of an array that are shown
VALUE_WIDTH = 90  # characters of a value that are shown


class Sized(Protocol):
    """A tensor of either reader."""

    type: Any

    @property
    def size(self) -> int: ...


def short(value: object) -> str:
    """A value in one line, cut to the width of the table."""
    line = output.plain(f"{value:.7g}" if isinstance(value, float) else str(value))
    return line if len(line) <= VALUE_WIDTH else line[: VALUE_WIDTH - 3] + "..."


def short_array(kind: str, length: int, first: list[Any]) -> str:
    """An array in one line: its type, its length and its first items."""
    more = ", ..." if length > len(first) else ""
    return short(f"{length:,} of {kind}: " + ", ".join(map(repr, first)) + more)


def shown(metadata: Ggml.GgufMetadata, key: str) -> str:
    """A value in one line."""
    item = metadata.itemType(key)
    if item is None:
        return short(metadata[key])
    return short_array(item.name.lower(), metadata.length(key), metadata.first(key, ARRAY_ITEMS))


def types(tensors: Iterable[Sized]) -> dict[str, tuple[int, int]]:
    """The number of tensors and of their bytes by data type, most bytes first."""
    counts: Counter[str] = Counter()
    sizes: dict[str, int] = defaultdict(int)
    for tensor in tensors:
        name = Ggml.Type(tensor.type).name
        counts[name] += 1
        sizes[name] += tensor.size
    return {name: (counts[name], sizes[name]) for name in sorted(sizes, key=lambda name: -sizes[name])}


def type_table(tensors: Iterable[Sized]) -> str:
    """The table of `types`."""
    return output.table([[name, str(count), output.size(size)] for name, (count, size) in types(tensors).items()])


def type_name(metadata: Ggml.GgufMetadata, key: str) -> str:
    """The type of a value, such as `uint32` or `string[]`."""
    item = metadata.itemType(key)
    return metadata.type(key).name.lower() if item is None else f"{item.name.lower()}[]"


def text(file: Ggml.Gguf, every_tensor: bool) -> str:
    """What a file holds."""
    tensors = list(file.tensors.values())
    summary = [
        ["version", str(file.version)],
        ["alignment", str(file.alignment)],
        ["size", output.size(os.path.getsize(file.path or ""))],
        ["numbers", f"{sum(math.prod(tensor.ne) for tensor in tensors):,}"],
    ]
    rows = [[key, type_name(file.metadata, key), shown(file.metadata, key)] for key in file.metadata]
    parts = ["\n".join([output.plain(file.path or ""), output.table(summary, align="<<")])]
    parts.append("\n".join([f"Metadata ({len(rows)})", output.table(rows, align="<<<")]))
    if every_tensor:
        rows = [[t.name, t.type.name, " x ".join(map(str, t.ne)), output.size(t.size), str(t.offset)] for t in tensors]
        table = output.table(rows, align="<<>>>")
    else:
        table = type_table(tensors)
    parts.append("\n".join([f"Tensors ({len(tensors)})", table]))
    return "\n\n".join(part.rstrip("\n") for part in parts)


def document(file: Ggml.Gguf) -> dict[str, Any]:
    """What a file holds as a JSON object, with whole arrays. Sizes and offsets are in bytes."""
    return {
        "path": file.path,
        "version": file.version,
        "alignment": file.alignment,
        "metadata": {
            key: {"type": type_name(file.metadata, key), "value": value} for key, value in file.metadata.items()
        },
        "tensors": [
            {"name": t.name, "type": t.type.name, "shape": list(t.shape), "offset": t.offset, "size": t.size}
            for t in file.tensors.values()
        ],
    }


def differences(first: Ggml.Gguf, second: Ggml.Gguf) -> list[dict[str, str]]:
    """In what two files differ: a row for each value and tensor, with what has changed."""
    found: list[dict[str, str]] = []

    def note(what: str, name: str, change: str) -> None:
        found.append({"what": what, "name": name, "change": change})

    if first.version != second.version:
        note("version", "", f"{first.version} -> {second.version}")
    for key in dict.fromkeys([*first.metadata, *second.metadata]):
        before, after = (_typed(file.metadata, key) if key in file.metadata else None for file in (first, second))
        if before is None or after is None:
            note("metadata", key, f"only in the first: {before}" if before else f"only in the second: {after}")
        elif first.metadata._value(key) != second.metadata._value(key):
            note("metadata", key, f"{before} -> {after}" if before != after else "later items of the list differ")
    for name in dict.fromkeys([*first.tensors, *second.tensors]):
        one, other = first.tensors.get(name), second.tensors.get(name)
        if one is None or other is None:
            note("tensor", name, "only in the first" if one else "only in the second")
        elif (one.type, one.ne) != (other.type, other.ne):
            note("tensor", name, f"{_facts(one)} -> {_facts(other)}")
        elif not _same_data(one, other):
            note("tensor", name, "the data differ")
    if not found and (list(first.metadata), list(first.tensors)) != (list(second.metadata), list(second.tensors)):
        note("order", "", "the same values and tensors in another order")
    return found


def _typed(metadata: Ggml.GgufMetadata, key: str) -> str:
    return f"{shown(metadata, key)} ({type_name(metadata, key)})"


def _facts(tensor: Ggml.GgufTensor) -> str:
    return f"{tensor.type.name} {' x '.join(map(str, tensor.ne))}"


def _same_data(one: Ggml.GgufTensor, other: Ggml.GgufTensor) -> bool:
    return all(a == b for a, b in zip_longest(one._data.chunks(1), other._data.chunks(1)))
