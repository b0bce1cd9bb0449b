"""No message of CPython or cffi comes out of the facade for a wrong argument; and what that costs."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import llama_cffi
from llama_cffi import (
    Batch,
    ChatSession,
    Constraint,
    Context,
    Engine,
    Ftype,
    Generation,
    Ggml,
    Model,
    Sampler,
    StopReason,
    TokenDataArray,
    Vocab,
    defaultSampler,
)
from llama_cffi._core.explain import PER_TOKEN
from tests.safety import isolated, words


def test_wrong_types_anywhere(folder: Path, tmp_path: Path) -> None:
    """Over 55,000 calls: each parameter of each public function with values of 40 kinds."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.safety.words", tmp_path],
        cwd=isolated.ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0 and ended.stdout == "", ended.stdout + ended.stderr[-2000:]
    assert int(ended.stderr.split(" calls")[0].split()[-1]) > 50_000


def test_every_public_function_explains_its_arguments() -> None:
    missing = [
        name
        for name, cls, attribute in words.functions()
        if attribute
        and attribute not in PER_TOKEN
        and "call.<" not in repr(_raw(cls, attribute))
        and not _wrapped(cls, attribute)
    ]
    assert missing == []


def _raw(cls: Any, attribute: str) -> Any:
    return inspect.getattr_static(cls or llama_cffi, attribute)


def _wrapped(cls: Any, attribute: str) -> bool:
    raw = _raw(cls, attribute)
    return hasattr(getattr(raw, "__func__", raw), "__wrapped__")


def test_signatures_and_docstrings_are_those_of_the_functions() -> None:
    assert list(inspect.signature(Model.load).parameters) == ["path", "params", "untrusted"]
    assert Model.load.__name__ == "load" and Model.load.__qualname__ == "Model.load"
    assert "Maps to `llama_model_load_from_file`." in (Model.load.__doc__ or "")
    assert list(inspect.signature(Generation).parameters)[:2] == ["ctx", "prompt"]


def test_errors_of_callbacks_are_not_reworded(ctx: Context) -> None:
    class Faulty:
        def apply(self, candidates: TokenDataArray) -> None:
            raise TypeError("'int' object is not iterable")

        def accept(self, token: int) -> None:
            raise AttributeError("'int' object has no attribute 'x'")

        def reset(self) -> None:
            len(5)  # type: ignore[arg-type]

    sampler = Sampler.init(Faulty())
    with pytest.raises(TypeError, match=r"^'int' object is not iterable$"):
        sampler.apply(TokenDataArray([(1, 0.5)]))
    with pytest.raises(AttributeError, match="has no attribute 'x'"):
        sampler.accept(1)
    with pytest.raises(TypeError, match="has no len"):
        sampler.reset()


def test_a_property_that_fails_keeps_its_own_error() -> None:
    class Broken(Model):
        @property
        def wrong(self) -> int:
            return self._nothing  # type: ignore[attr-defined, no-any-return]

    with pytest.raises(AttributeError, match="_nothing"):
        Broken.__new__(Broken).wrong  # noqa: B018


def test_a_missing_attribute_is_found_missing_quickly(tiny: Model) -> None:
    started = time.process_time()
    for _ in range(20_000):
        assert not hasattr(tiny, "n_params") and getattr(tiny, "nothing", 5) == 5
    assert time.process_time() - started < 4, "the suggestion is looked for although nobody sees it"
    with pytest.raises(AttributeError) as caught:
        tiny.n_params  # type: ignore[attr-defined]  # noqa: B018
    assert type(caught.value).__name__ == "AttributeError" and caught.value.name == "n_params"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_copying_and_pickling_as_before(tiny: Model, ctx: Context) -> None:
    for value in (tiny, ctx, tiny.vocab, Sampler.initGreedy(), Batch.getOne([1])):
        for action in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="copied or pickled"):
                action(value)
    for function in (llama_cffi.tokenize, llama_cffi.defaultSampler, Model.load, Constraint.fromGbnf):
        assert pickle.loads(pickle.dumps(function)) == function
    for member in (StopReason.END, Ftype.MOSTLY_Q4_0, Ggml.Type.Q4_0):
        assert pickle.loads(pickle.dumps(member)) is member and copy.copy(member) is member


# repr


def test_reprs_say_what_things_are(tiny: Model, ctx: Context) -> None:
    model = repr(tiny)
    assert "'tiny-llama'" in model and "Q8_0" in model and "MiB" in model
    assert f"nCtx={ctx.nCtx}" in repr(ctx) and model in repr(ctx) and repr(ctx) in repr(ctx.getMemory())
    assert repr(tiny.vocab) == f"<Vocab SPM, {tiny.vocab.nTokens} tokens>"
    chain = Sampler.chain(
        Sampler.initPenalties(64, 1.1),
        Sampler.chain(Sampler.initTopK(40)),
        Sampler.initGrammar(tiny.vocab, 'root ::= "a"'),
        Sampler.init(type("Mine", (), {"apply": lambda self, candidates: None})()),
        Sampler.initDist(7),
    )
    assert repr(chain) == "<Sampler chain[penalties(64, 1.1, 0, 0), chain[top-k(40)], grammar, Mine, dist(7)]>"
    long = Sampler.chain(*(Sampler.initTopK(k) for k in range(1, 100)))
    assert "and 83 more" in repr(long) and len(repr(long)) < 400
    assert "at 0x" not in "".join(map(repr, (tiny, ctx, chain, tiny.vocab, ctx.getMemory(), Generation(ctx, "x"))))
    with Engine(tiny, nCtx=64, nThreads=1) as engine:
        assert "nCtx=" in repr(engine) and model in repr(engine)


def test_reprs_of_what_is_closed(tiny_path: Path) -> None:
    model = Model.load(tiny_path)
    ctx = Context.initFromModel(model, Context.Params(nCtx=64, nThreads=1))
    values = [
        model,
        ctx,
        model.vocab,
        ctx.getMemory(),
        Sampler.initDry(model.vocab, 0.8),
        ChatSession(ctx, template="chatml"),
    ]
    model.free()
    texts = list(map(repr, values))
    assert texts[0] == "<Model closed: it was freed>" and texts[1] == "<Context closed: its model was freed>"
    assert "closed" in texts[2] and "closed" in texts[3] and "closed" in texts[4]


def test_a_repr_never_raises(tiny: Model) -> None:
    """Of half-made objects, which debuggers show, and while another call uses the object."""
    classes = [
        value
        for name in llama_cffi.__all__
        if isinstance(value := getattr(llama_cffi, name), type) and not hasattr(value, "__members__")
    ]
    assert Vocab in classes and len(classes) > 30
    for cls in classes:
        plain = hasattr(cls, "__match_args__") or issubclass(cls, BaseException)  # dataclasses: Python's own repr
        if cls.__module__.startswith("llama_cffi") and not plain:
            assert cls.__name__ in repr(cls.__new__(cls)) or "Params" in cls.__name__
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=1)) as ctx, ctx._exclusive():
        assert "nCtx=" in repr(ctx)
    sampler = defaultSampler()
    with sampler._exclusive():
        assert "top-k(40)" in repr(sampler)
