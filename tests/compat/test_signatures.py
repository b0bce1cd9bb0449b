"""The parameters of every method are those of llama-cpp-python 0.3.36, with their defaults and in their order."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import compat
from llama_cffi.compat import chat_format, tokenizer

# Function -> its parameters, each a name and its default if it has one: facts of llama-cpp-python's source.
STORED: dict[str, list[list[Any]]] = json.loads(Path(__file__).with_name("signatures.json").read_text())


def _function(name: str) -> Any:
    owner, method = name.split(".")
    for home in (compat, chat_format, tokenizer):
        if hasattr(home, owner):
            return getattr(getattr(home, owner), method)
    raise AssertionError(f"there is no {owner}")


@pytest.mark.parametrize("name", STORED)
def test_the_parameters_are_the_same(name: str) -> None:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = [
        [each.name] if each.default is each.empty else [each.name, each.default]
        for each in inspect.signature(_function(name)).parameters.values()
        if each.name not in ("self", "cls") and each.kind not in kinds
    ]
    assert found == STORED[name]


def test_enough_is_compared() -> None:
    assert len(STORED) > 45 and len(STORED["Llama.__init__"]) > 40


def test_the_parameters_after_the_path_are_keywords() -> None:
    parameters = inspect.signature(compat.Llama).parameters.values()
    assert [each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD] == ["model_path"]
