"""Arrays of candidates for the next token, which samplers work on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache

from llama_cffi._core.checks import expected, no_such_token, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import Lock, exclusive, own
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi.errors import BusyError, ClosedError
from llama_cffi.sampling.token_data import SIZE, Row, TokenData, row_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn

    from typing_extensions import Buffer

_CAPACITY_LIMIT = 1 << 26  # candidates
_PLUS_INF = b"\x00\x00\x80\x7f"  # the float, as it is in memory


class TokenDataItems:
    """The candidates of a `TokenDataArray`, by index."""

    __slots__ = ("_owner",)

    def __init__(self, owner: TokenDataArray) -> None:
        self._owner = owner

    def __len__(self) -> int:
        return len(self._owner)

    def __getitem__(self, index: int) -> TokenData:
        return self._owner[index]

    def __setitem__(self, index: int, row: Row) -> None:
        self._owner[index] = row

    def __iter__(self) -> Iterator[TokenData]:
        return iter(self._owner)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._owner.__array_interface__


class TokenDataArray(Uncopyable):
    """Array of candidates for the next token, which samplers work on. It owns its memory.

    `TokenDataArray(n)` has the tokens 0 to n-1 with logits of 0, `TokenDataArray(rows)` takes rows of `(id, logit)` or
    `(id, logit, p)` or a numpy array of `dtype()`, and `fromLogits` takes the logits of a model. It is a sequence of
    `TokenData`, and `numpy.asarray` makes a structured array that shares its memory. Samplers may drop and reorder
    candidates: `size` shrinks then, and numpy arrays made before keep their old length.

    Maps to `llama_token_data_array`.
    """

    __slots__ = ("__weakref__", "_array", "_busy", "_c", "_capacity", "_dead")

    _closing = ""  # for `exclusive`

    _KIND = "TokenDataArray"
    _INSTEAD = "TokenDataArray(candidates) makes a copy"

    _array: Any  # the candidates; C may drop the first ones by moving its pointer
    _c: Any  # the struct; None once it must not be used any more

    def __init__(self, rows: int | Iterable[Row] | Buffer) -> None:
        if isinstance(rows, int) and not isinstance(rows, bool):
            self._allocate(rows)
            ffi.memmove(self._array, _numbered(rows), SIZE * rows)
            return
        view = _structured(rows)
        if view is not None:
            self._allocate(view.nbytes // SIZE)
            ffi.memmove(self._array, view, view.nbytes)
            return
        if isinstance(rows, (str, bytes, bytearray, memoryview, bool)) or not isinstance(rows, Iterable):
            raise expected(
                "a number, or rows of (id, logit) or (id, logit, p)",
                rows,
                "TokenDataArray.fromLogits takes logits alone",
                "candidates",
            )
        items = [row_values(row) for row in rows]
        self._allocate(len(items))
        for index, item in enumerate(items):
            self._array[index] = item

    def _allocate(self, count: int) -> None:
        if not 1 <= count <= _CAPACITY_LIMIT:
            raise out_of_range("the number of candidates", count, 1, _CAPACITY_LIMIT)
        self._array = ffi.new("struct llama_token_data[]", count)
        self._c = ffi.new("struct llama_token_data_array *", {"data": self._array, "size": count, "selected": -1})
        self._capacity = count
        self._dead = ""
        self._busy = Lock()

    @classmethod
    def fromLogits(cls, logits: Buffer | Iterable[float]) -> TokenDataArray:
        """Make an array of the tokens 0 to n-1 with these logits, a buffer of 32-bit floats or any numbers; a copy."""
        if isinstance(logits, ffi.CData):
            logits = ffi.buffer(logits)
        view: memoryview[Any]
        try:
            view = memoryview(logits)  # type: ignore[arg-type]
        except TypeError:
            view = _floats(logits)  # type: ignore[arg-type]
        if view.format == "B" and view.nbytes % 4 == 0 and view.c_contiguous:
            view = view.cast("f")
        if view.ndim != 1:
            raise ValueError(f"logits must have 1 dimension, got {view.ndim}: pass one row")
        if view.format != "f":
            view = _floats(view.tolist())
        candidates = cls(len(view))
        words, numpy = candidates._words("f"), _numpy()
        if numpy is None:
            words[1::3] = view
        else:  # ten times as fast
            numpy.asarray(words)[1::3] = numpy.asarray(view)
        return candidates

    @staticmethod
    def dtype() -> Any:
        """Return numpy's data type of a candidate: `id` (int32), `logit` and `p` (float32). Needs numpy."""
        import numpy

        return numpy.dtype(_DESCR)

    # Use by samplers

    def _alive(self) -> Any:
        struct = getattr(self, "_c", None)
        if struct is None:
            self._raise_closed()
        if self._busy.locked():
            self._raise_busy()
        return struct

    def _exclusive(self) -> AbstractContextManager[Any]:
        """Return a context manager: exclusive use of the candidates; yields the C struct."""
        return exclusive(self)

    @property
    def _pointer(self) -> Any:
        return getattr(self, "_c", None)

    def _raise_busy(self) -> NoReturn:
        raise BusyError("a sampler is working on these candidates: use a TokenDataArray for each thread")

    def _raise_closed(self) -> NoReturn:
        why = getattr(self, "_dead", "the array was never initialized")
        raise ClosedError(f"these candidates cannot be used: {why}")

    def _expire(self) -> None:
        self._c = None
        self._dead = "they are valid only during apply(): copy what you need there"

    def _words(self, kind: str) -> Any:
        """View of all candidates as 32-bit integers (`i`) or floats (`f`): id, logit, p, id, ..."""
        return memoryview(ffi.buffer(self._array)).cast(kind)  # type: ignore[call-overload]

    def _sync_from_c(self) -> None:
        """Follow a change by C: some samplers drop the first candidates by moving the pointer."""
        struct = self._c
        if struct.data != self._array:
            ffi.memmove(self._array, struct.data, SIZE * struct.size)
            struct.data = self._array

    def _has_nan(self, offset: int = 1) -> bool:
        size, numpy = 3 * self._c.size, _numpy()
        if numpy is not None:
            return bool(numpy.isnan(numpy.asarray(self._words("f"))[offset:size:3]).any())
        first, second = self._words("f")[offset:size:3], self._words("f")[offset:size:3]
        return bool(first != second)  # only NaN differs from itself

    def _check_logits(self) -> None:
        if self._has_nan():
            index = next(i for i, item in enumerate(self) if item.logit != item.logit)
            raise ValueError(
                f"the logit of candidate {index} (token {self[index].id}) is NaN, which cannot be ranked: "
                "use float('-inf') to rule a token out"
            )

    def _check_written(self, sampler: str) -> None:
        """Raise ValueError if a sampler written in Python left NaN, from which llama.cpp would pick anything."""
        for offset, field in ((1, "logit"), (2, "p")):
            if self._has_nan(offset):
                index = next(i for i, item in enumerate(self) if getattr(item, field) != getattr(item, field))
                raise ValueError(
                    f"the sampler {sampler} set {field} of candidate {index} (token {self[index].id}) to NaN: "
                    "use float('-inf') as the logit to rule a token out"
                )

    def _check_ids(self, n_vocab: int) -> None:
        ids = self._words("i")[0 : 3 * self._c.size : 3].tobytes()
        bad = lib.shim_first_outside(ffi.from_buffer("int32_t[]", ids), self._c.size, n_vocab)
        if bad >= 0:
            raise IndexError(f"candidate {bad}: {no_such_token(self[bad].id, n_vocab)}")

    # The fields

    @property
    def data(self) -> TokenDataItems:
        """The candidates: `data[i]` is a `TokenData`. Assigning rows, at most as many as fit, replaces them."""
        self._alive()
        return TokenDataItems(self)

    @data.setter
    def data(self, rows: Iterable[Row] | Buffer) -> None:
        struct = self._alive()
        new = TokenDataArray(rows)
        if new._capacity > self._capacity:
            raise ValueError(
                f"the array has a capacity of {self._capacity} candidates, got {new._capacity}: "
                "make a new TokenDataArray"
            )
        ffi.memmove(self._array, new._array, SIZE * new._capacity)
        struct.size, struct.selected, struct.sorted = new._capacity, -1, False

    @property
    def size(self) -> int:
        """Number of candidates. Assigning a smaller one drops the last ones; `selected` becomes -1 if it is dropped."""
        result: int = self._alive().size
        return result

    @size.setter
    def size(self, value: int) -> None:
        struct = self._alive()
        if not 1 <= value <= self._capacity:
            raise out_of_range("size", value, 1, self._capacity)
        struct.size = value
        if struct.selected >= value:
            struct.selected = -1

    @property
    def selected(self) -> int:
        """Index (not token) of the candidate that was picked; -1 before."""
        struct = self._alive()
        result: int = struct.selected
        return result if 0 <= result < struct.size else -1

    @selected.setter
    def selected(self, value: int) -> None:
        struct = self._alive()
        if not -1 <= value < struct.size:
            raise IndexError(f"selected must be between -1 (none) and {struct.size - 1}, got {value}")
        struct.selected = value

    @property
    def sorted(self) -> bool:
        """True if the candidates are sorted, the most likely first. Set it to False after changing logits."""
        return bool(self._alive().sorted)

    @sorted.setter
    def sorted(self, value: bool) -> None:
        self._alive().sorted = bool(value)

    def sort(self) -> None:
        """Sort the candidates, the most likely first. `selected` follows its candidate."""
        struct = self._alive()
        self._check_logits()
        size: int = struct.size
        picked = self[struct.selected].id if self.selected >= 0 else None
        logits = self._words("f")[1 : 3 * size : 3].tobytes()
        if size > 128 and _PLUS_INF in logits:  # llama.cpp puts +inf last there
            items = sorted((tuple(item) for item in self), key=lambda row: -row[1])
            ffi.memmove(self._array, TokenDataArray(items)._array, SIZE * size)  # type: ignore[arg-type]
        else:
            struct.sorted = False
            sampler = own(lib.llama_sampler_free, lib.llama_sampler_init_top_k, size)
            lib.llama_sampler_apply(sampler.pointer, struct)
            sampler.finish()
        struct.sorted = True
        if picked is not None:
            struct.selected = self._words("i")[0 : 3 * size : 3].tolist().index(picked)

    # As a sequence

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> TokenData:
        return TokenData._at(ffi.addressof(self._array, self._place(index)), self)

    def __setitem__(self, index: int, row: Row) -> None:
        self._array[self._place(index)] = row_values(row)

    def _place(self, index: int) -> int:
        size = self.size
        try:
            place = index + size if index < 0 else index
        except TypeError:
            raise expected("an integer", index, name="index") from None
        if not 0 <= place < size:
            raise IndexError(f"index {index} is out of range: there are {size} candidates")
        return place

    def __iter__(self) -> Iterator[TokenData]:
        for index in range(self.size):
            yield self[index]

    def __repr__(self) -> str:
        if self._c is None:
            return "<TokenDataArray, expired>"
        return f"<TokenDataArray of {self.size}, selected {self.selected}, {'' if self.sorted else 'not '}sorted>"

    # As an array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The array interface of numpy, whose arrays keep this object alive."""
        return {
            "version": 3,
            "shape": (self.size,),
            "typestr": f"|V{SIZE}",
            "descr": _DESCR,
            "data": (int(ffi.cast("uintptr_t", self._array)), False),
        }

    def view(self) -> memoryview:
        """Return a writable memoryview of the candidates, of format `T{<i:id:<f:logit:<f:p:}`; no copy."""
        import ctypes  # only ctypes makes a memoryview of structs

        class Item(ctypes.Structure):
            _fields_ = [("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float)]

        size = self.size
        return memoryview((Item * size).from_buffer(ffi.buffer(self._array, SIZE * size)))

    def __buffer__(self, flags: int) -> memoryview:
        """The buffer protocol, from Python 3.12 on."""
        return self.view()


_DESCR = [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]


def _floats(numbers: Iterable[float]) -> memoryview[Any]:
    from array import array

    try:
        return memoryview(array("f", numbers))
    except TypeError:
        raise expected("a buffer or a list of numbers", numbers, name="logits") from None


@lru_cache(maxsize=2)
def _numbered(count: int) -> Any:
    """The tokens 0 to count - 1 as candidates, to be copied; cached, as vocabularies are large."""
    template = ffi.new("struct llama_token_data[]", count)
    from array import array

    memoryview(ffi.buffer(template)).cast("i")[0::3] = array("i", range(count))
    return template


def _numpy() -> Any:
    """Return numpy if the program has imported it, completely; else None."""
    module = sys.modules.get("numpy")
    return module if hasattr(module, "asarray") and hasattr(module, "isnan") else None


def _structured(rows: object) -> memoryview | None:
    """Return the bytes of a buffer of `llama_token_data`; None for anything else."""
    if isinstance(rows, TokenDataArray):
        return memoryview(ffi.buffer(rows._array, SIZE * rows.size))
    try:
        view = memoryview(rows)  # type: ignore[arg-type]
    except TypeError:
        return None
    if view.itemsize != SIZE or view.format.replace("=", "").replace("<", "") != "T{i:id:f:logit:f:p:}":
        return None
    if view.ndim != 1:
        raise ValueError(f"candidates must have 1 dimension, got {view.ndim}")
    return view if view.c_contiguous else memoryview(view.tobytes())
