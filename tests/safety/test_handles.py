"""Handles below the facade: who uses one is counted, a free waits, and a use after it raises."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Batch, BatchExt, BusyError, ClosedError, Context, Model, ffi, lib, tokenize
from llama_cffi._core.ownership import n_owned, own


@pytest.fixture
def raw_model(tiny_path: Path) -> object:
    return lib.llama_model_load_from_file(str(tiny_path).encode(), lib.llama_model_default_params())


def raw_context(model: object) -> object:
    params = lib.llama_context_default_params()
    params.n_ctx = 64
    return lib.llama_init_from_model(model, params)


def test_a_use_after_a_free_raises(raw_model: object) -> None:
    ctx, vocab = raw_context(raw_model), lib.llama_model_get_vocab(raw_model)
    memory = lib.llama_get_memory(ctx)
    lib.llama_free(ctx)
    for call in (
        lambda: lib.llama_n_ctx(ctx),
        lambda: lib.llama_decode(ctx, lib.llama_batch_get_one(ffi.new("llama_token[1]"), 1)),
        lambda: lib.llama_memory_clear(memory, True),
        lambda: lib.llama_free(ctx),
    ):
        with pytest.raises(ClosedError, match="was freed before"):
            call()
    assert lib.llama_vocab_n_tokens(vocab) == 32000
    lib.llama_model_free(raw_model)
    for call in (lambda: lib.llama_vocab_n_tokens(vocab), lambda: lib.llama_model_free(raw_model)):
        with pytest.raises(ClosedError, match="was freed before"):
            call()


def test_freeing_nothing_is_fine() -> None:
    for free in (lib.llama_free, lib.llama_model_free, lib.llama_adapter_lora_free, lib.llama_batch_ext_free):
        free(ffi.NULL)


def test_an_address_that_is_used_again_is_alive_again(tiny: Model) -> None:
    addresses = set()
    for _ in range(50):
        ctx = raw_context(tiny._c)
        addresses.add(int(ffi.cast("uintptr_t", ctx)))
        assert lib.llama_n_ctx(ctx) >= 64
        lib.llama_free(ctx)
    assert len(addresses) < 50, "malloc never gave an address out again: this tested nothing"


def test_a_free_waits_for_a_call_on_another_thread(raw_model: object) -> None:
    vocab = lib.llama_model_get_vocab(raw_model)
    text = b"A text that takes a while to tokenize. " * 20_000
    results: list[object] = []
    started = threading.Event()

    def work() -> None:
        started.set()
        try:
            while True:
                results.append(lib.llama_tokenize(vocab, text, len(text), ffi.NULL, 0, False, False))
        except ClosedError as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    while not results:
        pass
    lib.llama_model_free(raw_model)  # most likely in the middle of a call
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(results[-1], ClosedError)
    assert len({int(n) for n in results[:-1]}) == 1  # type: ignore[call-overload]


def inside_abort(ctx: Context, action: Callable[[], object]) -> list[BaseException]:
    """What an action raises in a callback of a context's decode."""
    caught: list[BaseException] = []

    def callback() -> bool:
        if not caught:
            try:
                action()
            except BaseException as error:
                caught.append(error)
        return False

    ctx.setAbortCallback(callback)
    ctx.decode(Batch.getOne([5] * 4))
    return caught


@pytest.mark.parametrize(
    "action",
    [
        lambda ctx: lib.llama_free(ctx._pointer),
        lambda ctx: ctx.free(),
        lambda ctx: ctx.getModel().free(),
        lambda ctx: ctx.decode(Batch.getOne([5])),
        lambda ctx: ctx.getMemory().clear(True),
        lambda ctx: ctx.stateGetData(),
    ],
    ids=["raw free", "free", "free of the model", "decode", "clear", "state"],
)
def test_nothing_is_freed_or_entered_from_inside_its_own_call(
    tiny_path: Path, action: Callable[[Context], object]
) -> None:
    with Model.load(tiny_path) as model, Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
        (error,) = inside_abort(ctx, lambda: action(ctx))
        assert isinstance(error, BusyError)
        assert ctx.decode(Batch.getOne([5])) == 0


def test_another_context_may_be_used_and_freed_inside_a_callback(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:

        def action() -> None:
            with Context.initFromModel(tiny, Context.Params(nCtx=64)) as other:
                other.decode(Batch.getOne([7]))
            raise LookupError("came through")

        (error,) = inside_abort(ctx, action)
        assert isinstance(error, LookupError)


def test_a_free_by_the_facade_waits_and_turns_new_calls_away(tiny_path: Path) -> None:
    model = Model.load(tiny_path)
    ctx = Context.initFromModel(model, Context.Params(nCtx=512, nBatch=512))
    inside, go_on, refused = threading.Event(), threading.Event(), []

    def callback() -> bool:
        inside.set()
        go_on.wait(30)
        return False

    ctx.setAbortCallback(callback)
    decoding = threading.Thread(target=lambda: ctx.decode(Batch.getOne([5] * 8)))
    decoding.start()
    assert inside.wait(30)
    freeing = threading.Thread(target=model.free)
    freeing.start()
    while not ctx._closing:  # the model waits for the context
        pass
    try:
        ctx.decode(Batch.getOne([5]))
    except (ClosedError, BusyError) as error:
        refused.append(error)
    assert not ctx.closed and freeing.is_alive()
    go_on.set()
    for thread in (decoding, freeing):
        thread.join(30)
        assert not thread.is_alive()
    assert refused and ctx.closed and model.closed


def test_a_result_that_points_into_a_model_is_read_before_it_goes(tiny_path: Path) -> None:
    model = Model.load(tiny_path)
    with model._pinned() as pointer:
        owned = n_owned()
        freeing = threading.Thread(target=model.free)
        freeing.start()
        freeing.join(30)
        assert model.closed and n_owned() == owned  # C frees it after the block
        assert lib.llama_model_n_embd(pointer) == 64
    assert n_owned() == owned - 1
    with pytest.raises(ClosedError), model._pinned():
        pass


def test_threads_that_read_a_model_while_it_is_freed(tiny_path: Path) -> None:
    """Every call returns what is true, or says that the model is gone."""
    for _ in range(5):
        model = Model.load(tiny_path)
        vocab, wrong, ends = model.vocab, [], []

        def work(
            model: Model = model, vocab: object = vocab, wrong: list[object] = wrong, ends: list[int] = ends
        ) -> None:
            try:
                while True:
                    found = (model.nEmbd, model.desc(), vocab.getText(5), tokenize(vocab, "Hello"))  # type: ignore
                    if found[0] != 64 or len(found[3]) != 2:
                        wrong.append(found)
            except ClosedError:
                ends.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.05)
        model.free()
        for thread in threads:
            thread.join(30)
        assert not wrong and len(ends) == 4


def test_threads_that_fill_one_extended_batch(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=512, nBatch=512)) as ctx, BatchExt.init(ctx) as batch:
        busy: list[BusyError] = []

        def work() -> None:
            for _ in range(60):
                try:
                    batch.addToken(0, 5)
                except BusyError as error:
                    busy.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(batch) + len(busy) == 240


def chain_of(*keeps: tuple[int, int]) -> tuple[list[Any], list[int]]:
    """Objects that keep each other by number, and the numbers of those that are freed."""
    freed: list[int] = []
    objects = [own(freed.append, int, number) for number in range(1 + max(map(max, keeps)))]
    for one, other in keeps:
        assert objects[one].keep(objects[other])
    return objects, freed


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_objects_that_keep_each_other_are_freed_after_the_last(order: tuple[int, ...]) -> None:
    objects, freed = chain_of((0, 1), (1, 2), (2, 0))
    before = n_owned()
    for number in order[:-1]:
        objects[number].finish()
        assert freed == []
    objects[order[-1]].finish()
    assert sorted(freed) == [0, 1, 2] and n_owned() == before - 3
    for one in objects:
        one.finish()
    assert len(freed) == 3


def test_what_something_else_keeps_is_not_freed_with_its_ring() -> None:
    objects, freed = chain_of((0, 1), (1, 0), (2, 1), (1, 3), (4, 3), (3, 4))
    for number in (0, 1, 3, 4):
        objects[number].finish()
    assert freed == []  # 2 keeps 1, and so all others
    objects[2].finish()
    assert freed[0] == 2 and sorted(freed) == [0, 1, 2, 3, 4]


def test_a_pin_keeps_a_ring() -> None:
    objects, freed = chain_of((0, 1), (1, 0))
    pin = objects[0].pin()
    for one in objects:
        one.finish()
    assert freed == [] and objects[0].pointer == 0
    pin.finish()
    assert sorted(freed) == [0, 1]


def test_the_collector_frees_a_ring_once() -> None:
    gc.collect()  # what other tests have left
    before = n_owned()
    objects, freed = chain_of((0, 1), (1, 0), (1, 2), (2, 1), (0, 3))
    del objects
    gc.collect()
    assert sorted(freed) == [0, 1, 2, 3] and n_owned() == before


def test_a_free_that_raises_does_not_keep_the_rest_of_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(what.exc_value))
    freed: list[int] = []

    def fail(number: int) -> None:
        raise ValueError(number)

    one, two = own(fail, int, 5), own(freed.append, int, 6)
    assert one.keep(two) and two.keep(one)
    one.finish()
    two.finish()
    assert freed == [6] and [str(error) for error in reported] == ["5"]
