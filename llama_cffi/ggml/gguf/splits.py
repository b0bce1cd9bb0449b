"""Models in several files, as llama.cpp splits them: `x-00001-of-00003.gguf`, with `split.*` keys in each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from llama_cffi._core.checks import integer
from llama_cffi._generated.enums import GgufType
from llama_cffi.ggml.gguf.header import ALIGNMENT_KEY
from llama_cffi.ggml.gguf.values import Value, encode
from llama_cffi.ggml.gguf.writer import reporter, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from llama_cffi.ggml.gguf.metadata import GgufMetadata
    from llama_cffi.ggml.gguf.tensors import GgufTensor, GgufTensors

    class Part(Protocol):
        """What is needed here of a `Gguf`."""

        @property
        def path(self) -> str | None: ...
        @property
        def version(self) -> int: ...
        @property
        def metadata(self) -> GgufMetadata: ...
        @property
        def tensors(self) -> GgufTensors: ...

    P = TypeVar("P", bound=Part)

MAX_FILES = 0xFFFF  # split.count is a UINT16
DEFAULT_TENSORS = 128  # of a file, as llama-gguf-split has it
NO, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def part_name(prefix: str, number: int, count: int) -> str:
    """Return the path of a part, counted from 1."""
    return f"{prefix}-{number:05}-of-{count:05}.gguf"


def split(
    gguf: Part,
    target: str,
    max_tensors: int | None,
    max_size: int | None,
    progress: Callable[[float], object] | None,
) -> list[str]:
    """`Gguf.split`."""
    from llama_cffi._core.atomic_write import atomic_write

    tensors = list(gguf.tensors.values())
    parts = list(_parts(tensors, *_limits(max_tensors, max_size)))
    if len(parts) > MAX_FILES:
        raise ValueError(f"the tensors must fit into {MAX_FILES} files, got {len(parts)}: raise maxTensors or maxSize")
    prefix = target.removesuffix(".gguf")
    paths = [part_name(prefix, i + 1, len(parts)) for i in range(len(parts))]
    values = {key: value for key, value in gguf.metadata._values.items() if not key.startswith("split.")}
    report = reporter(sum(tensor.size for tensor in tensors), progress)
    with atomic_write(paths[0]) as first:
        for i, (path, part) in enumerate(zip(paths, parts, strict=True)):
            kept = {key: value for key, value in values.items() if not i or key == ALIGNMENT_KEY}
            with open(os.path.join(os.path.dirname(first), os.path.basename(path)), "wb") as file:
                write_file(file, gguf.version, kept | _keys(i, len(parts), len(tensors)), part, report)
    return paths


def _limits(max_tensors: int | None, max_size: int | None) -> tuple[int, int]:
    largest = (1 << 63) - 1
    if max_tensors is None and max_size is None:
        return DEFAULT_TENSORS, largest
    n = largest if max_tensors is None else integer(max_tensors, 1, largest, "maxTensors")
    return n, largest if max_size is None else integer(max_size, 1, largest, "maxSize")


def _parts(tensors: list[GgufTensor], max_tensors: int, max_size: int) -> Iterator[list[GgufTensor]]:
    part: list[GgufTensor] = []
    size = 0
    for tensor in tensors:
        if part and (len(part) == max_tensors or size + tensor.size > max_size):
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.size
    yield part


def _keys(number: int, count: int, n_tensors: int) -> dict[str, Value]:
    facts = ((NO, number, GgufType.UINT16), (COUNT, count, GgufType.UINT16), (TENSORS, n_tensors, GgufType.INT32))
    return {key: encode(value, key, kind, None, None) for key, value, kind in facts}


def merged(opened: Callable[[str], P], first: str) -> list[P]:
    """Open all files of a split model, and check that they belong together."""
    parts = [opened(first)]
    count = _number(parts[0], COUNT)
    match = _NAME.fullmatch(first)
    if match is None or int(match[3]) != count or _number(parts[0], NO) != 0:
        raise ValueError(
            f"{first} must be the first file of a split model, with a name such as {part_name('x', 1, count or 3)}"
        )
    parts += [opened(part_name(match[1], number, count)) for number in range(2, count + 1)]
    names: set[str] = set()
    for number, part in enumerate(parts):
        if (_number(part, NO), _number(part, COUNT)) != (number, count):
            raise ValueError(f"{part.path} must be file {number + 1} of {count} by its split.no and split.count")
        twice = names.intersection(part.tensors)
        if twice:
            raise ValueError(f"{part.path} has the tensor {min(twice)}, which another file of the model has too")
        names.update(part.tensors)
    expected = _number(parts[0], TENSORS)
    if len(names) != expected:
        raise ValueError(f"the files must have {expected} tensors together, by {TENSORS}, got {len(names)}")
    return parts


def _number(part: Part, key: str) -> int:
    value = part.metadata.get(key)
    return value if isinstance(value, int) else -1
