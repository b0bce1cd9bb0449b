"""The hints for keyword arguments of other libraries name parameters that exist."""

from __future__ import annotations

import inspect
import re

import pytest

from llama_cffi import defaultSampler
from llama_cffi._core import hints

_NAMED = {name: text for name, text in hints._KEYWORDS.items() if "defaultSampler(" in text}


@pytest.mark.parametrize("keyword", _NAMED)
def test_a_number_of_a_sampler_is_one_that_the_default_sampler_takes(keyword: str) -> None:
    names = re.findall(r"(\w+)=", _NAMED[keyword].rpartition("defaultSampler(")[2])
    assert names and set(names) <= set(inspect.signature(defaultSampler).parameters)


def test_no_number_of_the_default_sampler_is_forgotten() -> None:
    others = {"dryBase", "dryAllowedLength", "dryPenaltyLastN", "drySequenceBreakers", "vocab", "grammar"}
    names = {hints._plain(name) for name in set(inspect.signature(defaultSampler).parameters) - others}
    assert names <= _NAMED.keys()
