"""A short run of the fuzzer, always the same; and that it knows every public name."""

from __future__ import annotations

import enum
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import llama_cffi
from llama_cffi import Ggml, Mtmd
from tests.fuzz.calls import GROUPS, NAMES
from tests.fuzz.each import AFTER_CLOSE
from tests.fuzz.machine import Facade
from tests.fuzz.models import write_all
from tests.fuzz.supervisor import Supervisor, environment

# Constants and names of types; cffi's own objects, which are no part of the facade.
_NOT_CALLED = {
    "DEFAULT_SEED",
    "TOKEN_NULL",
    "Pos",
    "SeqId",
    "Token",
    "ProgressCallback",
    "ffi",
    "lib",
    "Ggml",
    "Mtmd",
    "ThreadPool",
}


def _public(prefix: str, module: Any) -> Iterator[str]:
    """The functions, and the methods and attributes of the classes that a module lists."""
    for name in module.__all__:
        value = getattr(module, name)
        if name in _NOT_CALLED:
            continue
        if not inspect.isclass(value) or issubclass(value, tuple):
            yield prefix + name
        elif not issubclass(value, (enum.Enum, BaseException)):
            inherited = dir(str) if issubclass(value, str) else ()
            members = [member for member in dir(value) if member[0] != "_" and member not in inherited]
            yield from (f"{prefix}{name}.{member}" for member in members)
            if not members:
                yield prefix + name


def test_steps_for_every_public_name() -> None:
    public = [*_public("", llama_cffi), *_public("Ggml.", Ggml), *_public("Mtmd.", Mtmd)]
    assert len(public) > 250
    assert [name for name in public if name not in NAMES] == []


def test_every_group_is_a_rule() -> None:
    assert [group for group in GROUPS if not hasattr(Facade, group)] == []


def test_a_run_can_be_about_some_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(Facade, "step", lambda self, template, name, rng: taken.append(name) or True)
    machine, rng = Facade.__new__(Facade), Random(0)
    monkeypatch.setattr(Facade, "only", ("media", "images"))
    for _ in range(200):
        machine.take("samplers", rng)
    assert 140 < sum(name in GROUPS["media"] for name in taken) < 180
    monkeypatch.setattr(Facade, "only", ())
    taken.clear()
    machine.take("samplers", rng)
    assert taken[0] in GROUPS["samplers"]


# A worker that listens, tokens for filling in the middle, and a state for embeddings are not there. The gradient of
# flash attention always fails in ggml ("TODO: adapt").
_NEVER = {
    *("BatchExt.setEmbdState", "Constraint", "Ggml.Rpc.addServer", "Ggml.Rpc.startServer", "infillPrompt"),
    *("Ggml.Context.flashAttnBack", "Ggml.abort"),
}
_VULKAN = {"Ggml.Backend.vkLoad", "Ggml.Backend.vkInit"}  # where there is no driver


@pytest.mark.slow
def test_every_call_succeeds_sometimes(tmp_path: Path) -> None:
    """Or the fuzzer would test no more than its first check."""
    write_all(tmp_path)
    command = [sys.executable, "-m", "tests.fuzz.each", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    state = json.loads(done.stdout)
    assert state["findings"] == state["native"] == {}
    assert _NEVER <= set(state["never"]) <= _NEVER | _VULKAN
    assert set(state["stuck"]) == {AFTER_CLOSE}


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.run(steps=2500, seed=1, workers=1)
    assert supervisor.clean, supervisor.summary()
    assert supervisor.steps >= 2500
