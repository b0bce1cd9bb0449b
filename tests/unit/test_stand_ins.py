"""The stand-in for `dataclass` behaves as the real one, which is imported only when somebody asks for its parts."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest

from llama_cffi._core import stand_ins

_set = object.__setattr__


@stand_ins.dataclass(frozen=True)
class LightStep:
    token: int | None
    text: str = ""
    more: tuple[int, ...] = ()

    def __init__(self, token: int | None, text: str = "", more: tuple[int, ...] = ()) -> None:
        _set(self, "token", token)
        _set(self, "text", text)
        _set(self, "more", more)


@dataclasses.dataclass(frozen=True)
class HeavyStep:
    token: int | None
    text: str = ""
    more: tuple[int, ...] = ()


@stand_ins.dataclass()
class LightUsage:
    count: int = 0
    seconds: float = 0.0

    def __init__(self, count: int = 0, seconds: float = 0.0) -> None:
        self.count, self.seconds = count, seconds


@dataclasses.dataclass
class HeavyUsage:
    count: int = 0
    seconds: float = 0.0


PAIRS = [(LightStep, HeavyStep, (1, "a")), (LightUsage, HeavyUsage, (3, 0.5))]
EACH = pytest.mark.parametrize(("light", "heavy", "values"), PAIRS, ids=["frozen", "mutable"])


@EACH
def test_repr_and_comparison(light: Any, heavy: Any, values: tuple[Any, ...]) -> None:
    one, same, other = light(*values), light(*values), light(9)
    assert repr(one) == repr(heavy(*values)).replace("Heavy", "Light")
    assert one == same and one != other and one != heavy(*values) and one != tuple(values)
    assert light.__match_args__ == heavy.__match_args__
    child = type("Child", (light,), {})(*values)
    assert child != one and repr(child).startswith("Child(")


def test_hash() -> None:
    assert hash(LightStep(1, "a")) == hash(LightStep(1, "a")) == hash(HeavyStep(1, "a"))
    assert {LightStep(1): 2}[LightStep(1)] == 2
    for cls in (LightUsage, HeavyUsage):
        with pytest.raises(TypeError, match="unhashable"):
            hash(cls())


@pytest.mark.parametrize("cls", [LightStep, HeavyStep])
def test_a_frozen_one_refuses_changes(cls: Any) -> None:
    step = cls(1)
    for change in (lambda: setattr(step, "text", "b"), lambda: setattr(step, "new", 1), lambda: delattr(step, "text")):
        with pytest.raises(dataclasses.FrozenInstanceError, match=r"cannot (assign to|delete) field '(text|new)'"):
            change()
    child = type("Child", (cls,), {})(1)
    child.new = 1  # a plain subclass may have more
    with pytest.raises(dataclasses.FrozenInstanceError, match="'token'"):
        child.token = 2


@EACH
def test_the_functions_of_dataclasses_work(light: Any, heavy: Any, values: tuple[Any, ...]) -> None:
    one = light(*values)
    assert dataclasses.is_dataclass(light) and dataclasses.is_dataclass(one)
    assert dataclasses.asdict(one) == dataclasses.asdict(heavy(*values))
    assert dataclasses.astuple(one) == dataclasses.astuple(heavy(*values))
    described = [
        [(f.name, f.type, f.default, f.init, f.repr) for f in dataclasses.fields(cls)] for cls in (light, heavy)
    ]
    assert described[0] == described[1]
    name = dataclasses.fields(light)[0].name
    assert dataclasses.replace(one, **{name: 7}) == light(7, *values[1:]) == one.__replace__(**{name: 7})
    assert light.__dataclass_params__.frozen == heavy.__dataclass_params__.frozen


@EACH
def test_copies(light: Any, heavy: Any, values: tuple[Any, ...]) -> None:
    one = light(*values)
    assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


def test_a_real_dataclass_may_inherit() -> None:
    @dataclasses.dataclass(frozen=True)
    class More(LightStep):
        extra: int = 0

    more = More(1, "a", (), 5)
    assert dataclasses.asdict(more) == {"token": 1, "text": "a", "more": (), "extra": 5}
    assert repr(more).endswith("More(token=1, text='a', more=(), extra=5)") and more == More(1, "a", (), 5)


def test_patterns() -> None:
    match LightStep(4, "d"):
        case LightStep(token, text):
            assert (token, text) == (4, "d")


def test_it_imports_no_dataclasses() -> None:
    code = (
        "import sys; from llama_cffi._core.stand_ins import dataclass\n"
        "@dataclass()\n"
        "class A:\n    x: int\n    def __init__(self, x): self.x = x\n"
        "assert repr(A(1)) == 'A(x=1)' and A(1) == A(1) and 'dataclasses' not in sys.modules\n"
        "assert A.__dataclass_fields__['x'].name == 'x' and 'dataclasses' in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
