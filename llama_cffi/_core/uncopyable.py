"""`Uncopyable`: a base class of objects that own C memory, which two objects must not own at once."""

from __future__ import annotations

from llama_cffi._core.explain import unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, NoReturn


class _Suggesting(type):
    """Metaclass that suggests a name for an unknown one: `Sampler.init_top_k`."""

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> NoReturn:
            raise unknown(f"type object {cls.__name__!r} has no attribute {name!r}", cls, name)


class Uncopyable(metaclass=_Suggesting):
    """Refuses `copy.copy`, `copy.deepcopy` and `pickle`. `_KIND` and `_INSTEAD` are parts of the message."""

    __slots__ = ()

    _KIND: ClassVar[str] = "object"
    _INSTEAD: ClassVar[str] = "it refers to memory of this process"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {self._KIND} cannot be copied or pickled: {self._INSTEAD}")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()
