"""What stands for memory of C, and therefore has no copies: two objects would own, or forget, the same memory."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class Uncopyable:
    """Refuses `copy.copy`, `copy.deepcopy` and `pickle`. `_KIND` and `_INSTEAD` are for the message."""

    __slots__ = ()

    _KIND: ClassVar[str] = "object"
    _INSTEAD: ClassVar[str] = "it stands for memory of this process"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {self._KIND} cannot be copied or pickled: {self._INSTEAD}")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()
