"""The generated enumerations: classes made at first use, the same as type checkers see."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

import pytest

from llama_cffi._generated import enums

STUB = ast.parse(Path(enums.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def test_every_class_is_as_its_stub_says() -> None:
    assert sorted(CLASSES) == sorted(enums.__all__) and set(CLASSES) <= set(dir(enums))
    for name, node in CLASSES.items():
        kind = getattr(enums, name)
        assert issubclass(kind, IntEnum) and (kind.__name__, kind.__qualname__) == (name, name)
        assert kind.__module__ == enums.__name__
        members = {
            target.id: ast.literal_eval(statement.value)
            for statement in node.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        assert {key: int(member) for key, member in kind.__members__.items()} == members
        assert (kind.__doc__ or "").split() == (ast.get_docstring(node) or "").split()


def test_members_can_be_pickled() -> None:
    member = enums.GgmlType.F16
    assert pickle.loads(pickle.dumps(member)) is member
    code = f"import pickle; print(repr(pickle.loads({pickle.dumps(member)!r})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == repr(member), result.stderr


def test_threads_get_one_class() -> None:
    code = """
import sys, threading
from llama_cffi._generated import enums
sys.setswitchinterval(1e-6)
found, start = [], threading.Barrier(8)
def ask():
    start.wait()
    found.extend(getattr(enums, name) for name in enums.__all__)
threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(found) == 8 * len(enums.__all__), len(set(map(id, found))) == len(enums.__all__))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_a_name_that_is_none_of_them() -> None:
    with pytest.raises(AttributeError, match="GgmlTipe"):
        _ = enums.GgmlTipe  # type: ignore[attr-defined]
