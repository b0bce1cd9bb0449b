"""`load` and `LLM`: what each method does is what the class that it uses does, and who may use it when."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    LLM,
    ChatCompletion,
    ChatSession,
    ClosedError,
    Completion,
    Context,
    ContextFullError,
    Embedder,
    Engine,
    Generation,
    Model,
    PoolingType,
    PromptLookup,
    Request,
    Sampler,
    StopReason,
    defaultSampler,
    detokenize,
    load,
    score,
    tokenize,
)
from llama_cffi._core.ownership import n_owned
from tests import tiny_models

NUMBERS: dict[str, Any] = {"temperature": 1.5, "topK": 90, "topP": 0.99, "minP": 0.0, "repeatPenalty": 1.2, "seed": 7}
GREEDY: dict[str, Any] = {"temperature": 0, "maxTokens": 8}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}},
    },
}


def plain(model: Model, prompt: str | list[int], **options: Any) -> str:
    with Context.initFromModel(model, Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)) as ctx:
        return Generation(ctx, prompt, **options).result()


# Text


def test_a_completion_is_what_a_generation_writes(llm: LLM) -> None:
    text = llm.complete("Once upon a time", **GREEDY)
    assert isinstance(text, str) and text == plain(
        llm.model, "Once upon a time", maxTokens=8, sampler=defaultSampler(0)
    )
    assert text.stopReason is StopReason.LENGTH and len(text.tokens) == 8
    assert text.usage.generatedTokens == 8 and text.usage.promptTokens == len(text.request.prompt)
    assert repr(text) == f"Completion({str(text)!r})" and type(str(text)) is str


def test_a_completion_is_copied_as_plain_text(llm: LLM) -> None:
    text = llm.complete("Once", **GREEDY)
    for twin in (copy.copy(text), copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert type(twin) is str and twin == text


def test_the_prompt_may_be_tokens(llm: LLM) -> None:
    assert llm.complete(llm.tokenize("Once"), **GREEDY) == llm.complete("Once", **GREEDY)


def test_a_stream_has_the_same_text_in_pieces(llm: LLM) -> None:
    whole = llm.complete("Once", **GREEDY)
    pieces = [*llm.complete("Once", **GREEDY, stream=True)]
    assert len(pieces) > 2 and "".join(pieces) == whole

    async def read() -> tuple[str, str]:
        request = llm.complete("Once", **GREEDY, stream=True)
        return "".join([piece async for piece in request]), await llm.complete("Once", **GREEDY, stream=True)

    assert asyncio.run(read()) == (whole, whole)


def test_several_prompts_return_a_list(llm: LLM) -> None:
    prompts = ["One", "Two", "Three", "Four", "Five", "Six"]  # more than run at once
    texts = llm.complete(prompts, **GREEDY)
    assert all(type(text) is Completion for text in texts)
    assert texts == [llm.complete(prompt, **GREEDY) for prompt in prompts]
    requests = llm.complete(prompts, **GREEDY, stream=True)
    assert [request.result() for request in requests] == texts
    assert llm.complete([], **GREEDY) == []


def test_a_wrong_prompt_among_several_cancels_the_others(llm: LLM) -> None:
    with pytest.raises(TypeError, match=r"prompt.*got int"):
        llm.complete(["One", 2], maxTokens=400)  # type: ignore[list-item]
    for request in llm.engine.requests():
        assert request.result() is not None and request.stopReason is StopReason.CANCELLED


def test_the_sampling_numbers_are_those_of_the_default_sampler(llm: LLM) -> None:
    text = llm.complete("Once", maxTokens=12, **NUMBERS)
    assert text == plain(llm.model, "Once", maxTokens=12, sampler=defaultSampler(**NUMBERS))
    assert text != llm.complete("Once", maxTokens=12, **{**NUMBERS, "seed": 8})


def test_a_sampler_replaces_the_numbers(llm: LLM) -> None:
    chain = Sampler.chain(Sampler.initTopK(1), Sampler.initDist(1))
    assert llm.complete("Once", maxTokens=8, sampler=chain) == llm.complete("Once", **GREEDY)
    assert len(llm.complete(["Once", "Twice"], maxTokens=8, sampler=chain)) == 2  # a copy for each
    with pytest.raises(ValueError, match=r"sampler.*temperature"):
        llm.complete("Once", sampler=chain, temperature=0)
    with pytest.raises(TypeError, match=r"sampler.*Sampler.*got int"):
        llm.complete("Once", sampler=3)  # type: ignore[call-overload]


def test_a_completion_follows_a_response_format(llm: LLM) -> None:
    pytest.importorskip("llguidance")
    text = llm.complete("A number:", responseFormat={"type": "integer", "minimum": 3, "maximum": 5}, maxTokens=4)
    assert text.strip() in ("3", "4", "5")


def test_log_probs_are_in_the_steps_of_the_request(llm: LLM) -> None:
    text = llm.complete("Once", **GREEDY, logProbs=2)
    steps = [step for step in text.request.steps() if step.token is not None]
    assert [step.token for step in steps] == text.tokens and all(len(step.alternatives) == 2 for step in steps)


def test_the_default_of_max_tokens_fits_a_small_window(path: Path) -> None:
    with load(path, nCtx=64, nSeqMax=1, nThreads=1) as llm:
        text = llm.complete("Once", temperature=0)
        assert text.stopReason is StopReason.CONTEXT_FULL and 200 < len(text.tokens) <= 256  # nCtx is rounded up
        for wrong in (lambda: llm.complete("Once", maxTokens=257), lambda: llm.complete("Once upon " * 300)):
            assert _refused(wrong)[0] is ContextFullError


# Chat


def test_a_chat_is_what_the_engine_answers(llm: LLM) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = llm.chat(messages, **GREEDY)
    with Engine(llm.model, nCtx=512, nThreads=2) as engine:
        direct = engine.chat(messages, maxTokens=8, sampler=defaultSampler(0))
        assert direct.result() and answer == direct.content
    assert type(answer) is ChatCompletion and answer.message == {"role": "assistant", "content": str(answer)}
    assert llm.chat("Hello", system="Be brief.", **GREEDY) == answer
    assert "".join(llm.chat(messages, **GREEDY, stream=True)) == answer
    assert answer.toolCalls == [] and answer.reasoning == ""


def test_a_chat_calls_tools(llm: LLM) -> None:
    answer = llm.chat("Add", tools=[TOOL], toolChoice="required", temperature=0, maxTokens=200)
    assert {call.name for call in answer.toolCalls} == {"add"} and answer.message["tool_calls"][0]["function"][
        "name"
    ] == "add"


def test_a_chat_remembers_nothing_and_a_session_everything(llm: LLM) -> None:
    assert llm.chat("Hello", **GREEDY).usage.promptTokens == llm.chat("Hello", **GREEDY).usage.promptTokens
    session = llm.session(system="Be brief.")
    session.send("Hello", maxTokens=4).result()
    session.send("Again", maxTokens=4).result()
    assert [message["role"] for message in session.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert llm.context.getModel() is llm.model


def test_a_session_samples_as_it_was_told(llm: LLM) -> None:
    greedy = llm.session(temperature=0).send("Hello", maxTokens=8).result()
    assert greedy == llm.session().send("Hello", maxTokens=8, sampler=defaultSampler(0)).result()
    session = llm.session(**NUMBERS)
    random = session.send("Hello", maxTokens=12).result()
    direct = ChatSession(llm.context, sampler=defaultSampler(**NUMBERS)).send("Hello", maxTokens=12)
    assert random == direct.result() != llm.session(**{**NUMBERS, "seed": 8}).send("Hello", maxTokens=12).result()
    again = llm.session(**NUMBERS)
    assert again.send("Hello", maxTokens=8, sampler=defaultSampler(0)).result() == greedy  # for this answer
    del again.messages[:]
    assert again.send("Hello", maxTokens=12).result() == random
    guessing = llm.session(temperature=0, speculation=PromptLookup(1, adapt=False))
    assert guessing.speculation is not None and guessing.send("Hello", maxTokens=8).result() == greedy


def test_a_sampler_of_a_session(llm: LLM) -> None:
    chain = Sampler.chain(Sampler.initTopK(1), Sampler.initDist(1))
    session = llm.session(sampler=chain)
    assert session.sampler is chain
    assert session.send("Hello", maxTokens=8).result() == llm.session(temperature=0).send("Hello", maxTokens=8).result()
    session.sampler = None
    assert session.send("Again", maxTokens=2).result() is not None
    for wrong, kind, words in (
        ({"sampler": chain, "temperature": 0}, ValueError, ("sampler", "temperature")),
        ({"sampler": 3}, TypeError, ("sampler", "int")),
        ({"max_tokens": 3}, TypeError, ("max_tokens",)),
    ):
        found, said = _refused(lambda wrong=wrong: llm.session(**wrong))  # type: ignore[misc]
        assert found is kind and all(word in said for word in words), said


# Scores


def test_scores_are_those_of_score(llm: LLM) -> None:
    with Context.initFromModel(llm.model, Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)) as ctx:
        direct = [score(ctx, text, "Once upon") for text in (" a time", " a horse")]
    one, many = llm.score(" a time", "Once upon"), llm.score([" a time", " a horse"], "Once upon")
    assert one.tokens == direct[0].tokens and np.allclose(one.logProbs, direct[0].logProbs, atol=1e-4)
    assert [each.pieces for each in many] == [each.pieces for each in direct]
    assert np.allclose([each.sum for each in many], [each.sum for each in direct], atol=1e-3)
    assert llm.score([" a time"], ["Once upon"])[0].tokens == one.tokens and llm.score([]) == []
    tokens = llm.tokenize(" a time", addSpecial=False)
    assert llm.score(tokens).tokens == tokens
    for wrong, kind in ((3, TypeError), (b"x", TypeError), ("", ValueError), ("x " * 2000, ContextFullError)):
        found, said = _refused(lambda wrong=wrong: llm.score(wrong))  # type: ignore[misc]
        assert found is kind and said


# Vectors and tokens


def test_embeddings_are_those_of_an_embedder(tiny: Model) -> None:
    with (
        LLM(tiny, poolingType=PoolingType.LAST, nCtx=128, nThreads=1) as llm,
        Embedder(tiny, PoolingType.LAST, nCtx=128, nThreads=1) as embedder,
    ):
        one, several = llm.embed("Hello"), llm.embed(["Hello", "World"])
        assert one.shape == (tiny.nEmbdOut,) and several.shape == (2, tiny.nEmbdOut)
        assert np.allclose(several, embedder.embed(["Hello", "World"]), atol=1e-5)
        assert (llm.embedder.nCtx, llm.embedder.poolingType) == (128, PoolingType.LAST)


def test_tokens(llm: LLM) -> None:
    vocab = llm.model.vocab
    assert llm.tokenize("Hello world") == tokenize(vocab, "Hello world")
    assert llm.tokenize("Hello", addSpecial=False) == tokenize(vocab, "Hello", addSpecial=False)
    assert llm.detokenize(llm.tokenize("Hello", addSpecial=False)) == detokenize(
        vocab, tokenize(vocab, "Hello", addSpecial=False)
    )


# Parts


def test_the_parts_are_made_when_they_are_needed(path: Path) -> None:
    gc.collect()
    before = n_owned()
    with load(path, nCtx=256, nThreads=1) as llm:
        with_model = n_owned()
        llm.tokenize("Hello")
        assert n_owned() == with_model  # no context yet
        assert llm.engine is llm.engine and llm.context is llm.context
        assert llm.engine.model is llm.context.getModel() is llm.model
        assert (llm.nCtx, llm.context.nCtx, llm.engine.nSeqMax) == (256, 256, 4)
    assert n_owned() == before


def test_fields_reach_model_engine_and_context(path: Path) -> None:
    fields: dict[str, Any] = {"nCtx": 512, "nSeqMax": 2, "nBatch": 64, "nThreads": 1, "useMmap": False}
    with load(path, **fields, kvUnified=True) as llm:
        assert not llm.model._params.useMmap
        assert (llm.engine.nCtx, llm.engine.nSeqMax) == (512, 2)
        assert (llm.context.nBatch, llm.context.nSeqMax, llm.context.nThreads) == (64, 2, 1)
    with load(path, nCtx=0) as llm:
        assert llm.nCtx == llm.model.nCtxTrain


def test_many_threads_may_call(llm: LLM) -> None:
    whole = llm.complete("Once", **GREEDY)
    seen: list[Any] = []

    def call(number: int) -> None:
        seen.append((llm.complete("Once", **GREEDY), id(llm.engine), llm.chat(f"Hello {number}", **GREEDY) != ""))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and {row[:2] for row in seen} == {(whole, id(llm.engine))}


def test_streams_may_alternate(llm: LLM) -> None:
    one, two = (llm.complete(prompt, **GREEDY, stream=True) for prompt in ("One", "Two"))
    pairs = [*zip(one, two, strict=False)]
    assert len(pairs) > 2
    assert (one.result(), two.result()) == (llm.complete("One", **GREEDY), llm.complete("Two", **GREEDY))


# The end


USES: dict[str, Callable[[LLM], object]] = {
    "complete": lambda llm: llm.complete("Once"),
    "chat": lambda llm: llm.chat("Hello"),
    "session": lambda llm: llm.session(),
    "score": lambda llm: llm.score("Once"),
    "embed": lambda llm: llm.embed("Hello"),
    "engine": lambda llm: llm.engine,
    "context": lambda llm: llm.context,
    "embedder": lambda llm: llm.embedder,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("owned", [True, False], ids=["load", "LLM"])
def test_after_it_was_closed(tiny: Model, path: Path, owned: bool, use: Callable[[LLM], object]) -> None:
    llm = load(path) if owned else LLM(tiny)
    llm.close()
    llm.close()
    assert llm.closed and llm.model.closed is owned and repr(llm) == "<LLM closed>"
    with pytest.raises(ClosedError):
        use(llm)


def test_closing_ends_a_stream(path: Path) -> None:
    llm = load(path, nCtx=2048, nThreads=1)
    request = llm.complete("Once", maxTokens=None, stream=True)
    next(iter(request))
    llm.close()
    with pytest.raises(ClosedError):
        request.result()


def test_an_object_that_nobody_has_frees_everything(path: Path) -> None:
    gc.collect()
    before = n_owned()
    for _ in range(2):
        llm = load(path, nCtx=256, nThreads=1)
        llm.complete("Once", **GREEDY)
        llm.session()
        del llm
        deadline = time.monotonic() + 20
        while n_owned() > before and time.monotonic() < deadline:
            gc.collect()  # the engine's thread ends by itself, and leaves cycles
            time.sleep(0.02)
        assert n_owned() == before


def test_a_result_outlives_the_object(path: Path) -> None:
    text = load(path, nThreads=1).complete("Once", **GREEDY)
    assert isinstance(text.request, Request) and text.request.text == text and text.usage.generatedTokens == 8


# Wrong uses


def _refused(call: Callable[[], object]) -> tuple[type[BaseException], str]:
    with pytest.raises(Exception) as caught:
        call()
    return caught.type, str(caught.value)


def test_wrong_keywords_name_the_right_ones(llm: LLM, path: Path) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: load(path, n_ctx=3), "nCtx"),  # type: ignore[call-arg]
        (lambda: load(path, n_gpu_layers=3), "nGpuLayers"),  # type: ignore[call-arg]
        (lambda: load(path, temperature=3), "complete"),  # type: ignore[call-arg]
        (lambda: load(path, nonsense=3), "Model.Params"),  # type: ignore[call-arg]
        (lambda: LLM(llm.model, nGpuLayers=3), "Model.load"),  # type: ignore[call-arg]
        (lambda: llm.complete("x", max_tokens=3), "maxTokens"),  # type: ignore[call-overload]
        (lambda: llm.chat("x", top_p=3), "topP"),  # type: ignore[call-overload]
    ]
    for call, word in cases:
        kind, said = _refused(call)
        assert kind is TypeError and word in said, said


def test_wrong_names_of_attributes() -> None:
    for name, meant in (("generate", "complete"), ("create_chat_completion", "chat"), ("complet", "complete")):
        kind, said = _refused(lambda name=name: getattr(LLM.__new__(LLM), name))  # type: ignore[misc]
        assert issubclass(kind, AttributeError) and repr(meant) in said


def test_what_cannot_be_loaded(tiny: Model, path: Path, tmp_path: Path) -> None:
    gc.collect()
    before = n_owned()
    (tmp_path / "text.gguf").write_text("not a model")
    assert _refused(lambda: load(tmp_path / "none.gguf"))[0] is FileNotFoundError
    assert _refused(lambda: load(tmp_path / "text.gguf"))[0].__name__ == "ModelLoadError"
    kind, said = _refused(lambda: load(path, nCtx=-1))
    assert kind is ValueError and "nCtx" in said and "-1" in said
    assert _refused(lambda: load(3))[0] is TypeError  # type: ignore[arg-type]
    kind, said = _refused(lambda: LLM(3))  # type: ignore[arg-type]
    assert kind is TypeError and "Model" in said and "int" in said
    assert n_owned() == before


def test_models_that_only_embed_and_models_with_an_encoder(tmp_path: Path) -> None:
    for write in (tiny_models.write_bert, tiny_models.write_t5):
        with load(write(tmp_path / "model.gguf"), nThreads=1) as llm:
            kind, said = _refused(lambda: llm.complete("Once"))
            assert kind is ValueError and "decoder" in said and "Embedder" in said and "Generation" in said


def test_a_wrong_stream(llm: LLM) -> None:
    for call in (llm.complete, llm.chat):
        kind, said = _refused(lambda call=call: call("x", stream="yes"))  # type: ignore[misc]
        assert kind is TypeError and "stream" in said and "yes" in said


def test_wrong_messages(llm: LLM) -> None:
    for wrong in (3, {"role": "user", "content": "x"}, None):
        for system in (None, "Be brief."):
            kind, said = _refused(lambda wrong=wrong, system=system: llm.chat(wrong, system=system))  # type: ignore[misc]
            assert kind is TypeError and "messages" in said
    kind, said = _refused(lambda: llm.chat("x", system=3))  # type: ignore[call-overload]
    assert kind is TypeError and "system" in said and "int" in said
