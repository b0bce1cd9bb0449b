"""`Ggml.Gguf`: GGUF files as objects, to read, change and write them."""

from __future__ import annotations

import os
from collections.abc import Callable

from llama_cffi._core.arguments import StrPath, path_bytes
from llama_cffi._core.checks import expected
from llama_cffi._core.native_log import native_log
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi._generated.enums import GgmlType
from llama_cffi.errors import ClosedError, NativeError
from llama_cffi.ggml.gguf.header import VERSION, Header, alignment_of, parse
from llama_cffi.ggml.gguf.metadata import GgufMetadata
from llama_cffi.ggml.gguf.sources import FileData, FileSource
from llama_cffi.ggml.gguf.tensors import GgufTensor, GgufTensors
from llama_cffi.ggml.gguf.writer import reporter, write_file
from llama_cffi.ggml.gguf_native import open_gguf
from llama_cffi.ggml.quantization import tensor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

Progress = Callable[[float], object]


class Gguf(Uncopyable):
    """A GGUF file: its metadata and tensors. `Gguf()` is an empty one, `Gguf.open(path)` reads a file.

    Changes are in memory until `write`. What is not changed is written byte for byte as it was read; a file without
    any change is copied.
    """

    __slots__ = ("__weakref__", "_changes", "_closed", "_metadata", "_source", "_tensors", "_version")

    def __init__(self) -> None:
        """Create an empty file."""
        self._source: FileSource | None = None
        self._fill(Header(VERSION, {}, []), {})

    def _fill(self, header: Header, tensors: dict[str, GgufTensor]) -> None:
        self._changes, self._closed = 0, False
        self._version = header.version
        self._metadata = GgufMetadata(header.metadata, self._note)
        self._tensors = GgufTensors(tensors, self._note)

    def _note(self) -> None:
        """Remember that something changes."""
        self._require_open()
        self._changes += 1

    def _require_open(self) -> None:
        if self._closed:
            where = f" {self._source.path}" if self._source else ""
            raise ClosedError(f"the GGUF file{where} is closed: open it again")

    @classmethod
    def open(cls, path: StrPath) -> Self:
        """Open a file. Its metadata and the list of its tensors are read, their data is not.

        Of a split model, this is one of its files; `merge` reads all. Raises OSError if it cannot be read,
        `NativeError` with ggml's reasons if it is not a valid GGUF file, or is incomplete.

        Maps to `gguf_init_from_file`.
        """
        name = os.fsdecode(path_bytes(path))
        source = FileSource(name)
        with open_gguf(os.fsencode(name)) as file:
            if file is None:
                raise _invalid(name, "ggml cannot read it", native_log())
            start = file.data_offset
        if start > source.size:
            raise _invalid(name, "it changes while it is read")
        try:
            header = parse(source.read(start))
        except ValueError as error:
            raise _invalid(name, f"it changes while it is read ({error})") from None
        self = cls()
        self._source = source
        self._fill(header, _tensors_of(source, header, start))
        return self

    @classmethod
    def merge(cls, first: StrPath) -> Self:
        """Read all files of a split model as one; `first` is the first of them, such as `x-00001-of-00003.gguf`.

        `write` makes one file of it. Raises ValueError if `first` is not the first file of a split model, or the files
        do not belong together.
        """
        from llama_cffi.ggml.gguf.splits import merged

        parts = merged(cls.open, os.fsdecode(path_bytes(first, "first")))
        self = cls()
        metadata = {key: value for key, value in parts[0]._metadata._values.items() if not key.startswith("split.")}
        tensors = {name: tensor for part in parts for name, tensor in part._tensors.items()}
        self._fill(Header(parts[0].version, metadata, []), tensors)
        self._changes = 1
        return self

    @property
    def path(self) -> str | None:
        """The path of the file that was opened; None for one that was made."""
        return None if self._source is None else self._source.path

    @property
    def version(self) -> int:
        """The version of the GGUF format.

        Maps to `gguf_get_version`.
        """
        return self._version

    @property
    def alignment(self) -> int:
        """The alignment of the tensors' data in bytes: `general.alignment`, else 32.

        Maps to `gguf_get_alignment`.
        """
        return alignment_of(self._metadata._values)

    @property
    def metadata(self) -> GgufMetadata:
        """The metadata: a mapping."""
        return self._metadata

    @property
    def tensors(self) -> GgufTensors:
        """The tensors: a mapping from names."""
        return self._tensors

    def write(self, path: StrPath, progress: Progress | None = None) -> None:
        """Write the file. If that fails, what was at `path` before stays.

        It is written beside `path`, flushed to disk and renamed, and its data is read in parts: it may be larger than
        the memory, and `path` may be the file that was opened. `progress` is called with the share that is written.

        Raises OSError if it cannot be written, ValueError for tensors that cannot be quantized.
        """
        from llama_cffi._core.atomic_write import atomic_write

        target = os.fsdecode(path_bytes(path))
        _check_progress(progress)
        self._require_open()
        tensors = list(self._tensors.values())
        with atomic_write(target) as scratch, open(scratch, "wb") as file:
            if self._source is not None and not self._changes:
                whole = FileData(self._source, 0, self._source.size)
                report = reporter(whole.size, progress)
                for part in whole.chunks(1):
                    file.write(part)
                    report(len(part))
            else:
                report = reporter(sum(tensor.size for tensor in tensors), progress)
                write_file(file, self._version, {**self._metadata._values}, tensors, report)

    def split(
        self,
        path: StrPath,
        maxTensors: int | None = None,
        maxSize: int | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Write the file as several, as llama.cpp splits models: `x.gguf` as `x-00001-of-00003.gguf` and so on.

        Each file has at most `maxTensors` tensors, and at most `maxSize` bytes of them or a single tensor. The first
        has the metadata. Returns the paths. Raises ValueError, OSError; then none of the files is there.
        """
        from llama_cffi.ggml.gguf.splits import split

        target = os.fsdecode(path_bytes(path))
        _check_progress(progress)
        self._require_open()
        return split(self, target, maxTensors, maxSize, progress)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """Close the file. Its metadata and arrays that were read stay valid; its tensors raise ClosedError."""
        self._closed = True
        if self._source is not None:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return (
            f"<Gguf {self.path or 'without a file'}: {len(self._metadata)} keys, {len(self._tensors)} tensors{state}>"
        )


def _invalid(path: str, why: str, log: str = "") -> NativeError:
    message = f"{path} cannot be read as a GGUF file: {why}"
    return NativeError(message, operation="gguf_init_from_file", log=log)


def _tensors_of(source: FileSource, header: Header, start: int) -> dict[str, GgufTensor]:
    found = {}
    for name, lengths, number, offset in header.tensors:
        kind = GgmlType(number)
        size = tensor_bytes(kind, lengths, name)
        if start + offset + size > source.size:
            missing = start + offset + size - source.size
            raise _invalid(source.path, f"it is incomplete: the tensor {name} ends {missing} bytes behind its end")
        found[name] = GgufTensor(name, kind, lengths, FileData(source, start + offset, size))
    return found


def _check_progress(progress: object) -> None:
    if progress is not None and not callable(progress):
        raise expected("a function of a number", progress, name="progress")
