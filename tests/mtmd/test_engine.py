"""`Engine` with images and sounds: the same texts as `Generation`, whatever runs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    TOKEN_NULL,
    ChatSession,
    ChatTemplate,
    Context,
    ContextFullError,
    Engine,
    Generation,
    Model,
    Mtmd,
    PromptCache,
    PromptLookup,
    Sampler,
)
from tests import tiny_models, tiny_projectors
from tests.engine.conftest import exact as without_halves
from tests.generate.conftest import CHATML
from tests.mtmd.conftest import params
from tests.mtmd.counting import encodes
from tests.mtmd.samples import image, tone
from tests.mtmd.test_chat import image_part, sound_part

MARKER = "<__media__>"
MakeContext = Callable[..., Context]
KINDS = ["llava", "ultravox", "gemma3", "qwen"]


Exact = Callable[[str], Mtmd.Context]


@pytest.fixture(scope="module")
def exact(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exact]:
    """Makes projectors beside models of 32-bit floats, which batches of all sizes compute alike."""
    folder = tmp_path_factory.mktemp("exact")
    made: dict[str, Mtmd.Context] = {}
    write = {
        "llava": tiny_projectors.write_llava,
        "ultravox": tiny_projectors.write_ultravox,
        "gemma3": tiny_projectors.write_gemma3,
        "qwen": tiny_projectors.write_qwen2vl,
    }

    def make(name: str) -> Mtmd.Context:
        if name not in made:
            path = folder / f"{name}-model.gguf"
            if name == "qwen":
                tiny_models.write_qwen2vl(path, replace(tiny_models.QWEN2VL, quant="F32"))
            else:
                vocab = vectors / "ggml-vocab-llama-spm.gguf"
                tiny_models.write_llama(path, vocab, spec=replace(tiny_models.LLAMA, quant="F32"))
            model = Model.load(path)
            write[name](folder / f"{name}.gguf", model.nEmbd)
            made[name] = Mtmd.Context.initFromFile(folder / f"{name}.gguf", model, params())
        return made[name]

    yield make
    for projector in made.values():
        projector.getModel().close()


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(projector: Mtmd.Context, **options: Any) -> Engine:
        given = {"nCtx": 1024, "nSeqMax": 4, "nThreads": 1, "mtmd": projector, **options}
        made.append(Engine(projector.getModel(), **given))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def media(name: str, seed: int) -> Any:
    return tone(0.5, hertz=300.0 + 50 * seed) if name == "ultravox" else image(seed, 56, 112)


def prompts(name: str) -> list[tuple[str, list[Any]]]:
    return [
        (f"see {MARKER} what is it", [media(name, 1)]),
        (f"see {MARKER} what was it", [media(name, 1)]),
        (f"see {MARKER}{MARKER} what is it", [media(name, 1), media(name, 2)]),
        (f"{MARKER} a {MARKER} it", [media(name, 2), media(name, 1)]),
        ("only a text", []),
        (f"see {MARKER} what is it", [media(name, 3)]),
        (f"{MARKER}{MARKER}{MARKER} it", [media(name, 3)] * 3),
    ]


@pytest.mark.parametrize("unified", [True, False, None])
@pytest.mark.parametrize("name", KINDS)
def test_equal_to_generations(
    name: str,
    unified: bool | None,
    exact: Exact,
    make_engine: Callable[..., Engine],
    make_ctx: MakeContext,
) -> None:
    projector = exact(name)
    engine = make_engine(projector, kvUnified=unified, nCtx=4096)
    work = prompts(name)
    for _ in range(2):  # the second time, from prefixes that were kept
        requests = [engine.submit(text, media=given, sampler=Sampler.initGreedy(), maxTokens=6) for text, given in work]
        for made, (text, given) in zip(requests, work, strict=True):
            alone = Generation(
                make_ctx(projector), text, media=given, mtmd=projector, sampler=Sampler.initGreedy(), maxTokens=6
            )
            assert made.result() == alone.result() and made.tokens == alone.tokens
            assert made.prompt == alone.prompt and made.usage.promptTokens == len(made.prompt)
    assert unified is not True or sum(made.usage.reusedTokens > 0 for made in requests) >= 4
    assert engine.load.running == 0


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_guesses_and_a_prompt_cache_change_no_text(
    name: str, unified: bool, exact: Exact, make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    projector = exact(name)
    options: dict[str, Any] = {"kvUnified": unified, "nCtx": 4096, "params": without_halves()}
    plain = make_engine(projector, **options)
    engine = make_engine(projector, promptCache=PromptCache(tmp_path, minTokens=2), **options)
    work = [*prompts(name), *prompts(name)]
    found = [plain.submit(text, media=given, sampler=Sampler.initGreedy(), maxTokens=16) for text, given in work]
    requests = []
    for alone, (text, given) in zip(found, work, strict=True):
        alone.result()
        guesses = PromptLookup(1, 4, alone.tokens, adapt=False)
        made = engine.submit(text, media=given, sampler=Sampler.initGreedy(), maxTokens=16, speculation=guesses)
        if len(requests) < len(work) // 2:  # the others run together
            made.result()
        requests.append(made)
    for made, alone in zip(requests, found, strict=True):
        assert made.result() == alone.result() and made.tokens == alone.tokens
    assert sum(made.usage.acceptedTokens for made in requests) > 20


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_an_image_is_encoded_once_and_a_prefix_is_shared(
    name: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    projector: Mtmd.Context = request.getfixturevalue(name)
    engine, pixels = make_engine(projector, kvUnified=True), image(61, 56, 112)
    with encodes(monkeypatch) as seen:
        for text in ("what is it", "what was it", "why"):
            made = engine.submit(f"see {MARKER} {text}", media=[pixels], maxTokens=2)
            made.result()
        assert len(seen) == 1 and made.usage.reusedTokens > made.prompt.count(TOKEN_NULL) > 0
        other = engine.submit(f"see {MARKER} why", media=[image(62, 56, 112)], maxTokens=2)
        other.result()
        assert len(seen) == 2 and other.usage.reusedTokens == other.prompt.index(TOKEN_NULL)


def test_preempted_requests_go_on(exact: Exact, make_engine: Callable[..., Engine], make_ctx: MakeContext) -> None:
    """Open-ended requests that do not fit together."""
    qwen = exact("qwen")
    engine = make_engine(qwen, nCtx=256, kvUnified=True)
    texts = [f"{n} {MARKER} {'word ' * 20}" for n in range(4)]
    options: dict[str, Any] = {"media": [image(63, 56, 112)], "stopTokens": ()}
    requests = [engine.submit(text, sampler=Sampler.initGreedy(), **options) for text in texts]
    found = [made.tokens for made in requests if made.result() is not None]
    for tokens, text in zip(found, texts, strict=True):
        alone = Generation(make_ctx(qwen), text, mtmd=qwen, sampler=Sampler.initGreedy(), maxTokens=40, **options)
        alone.result()
        n = min(len(alone.tokens), 40)
        assert tokens[:n] == alone.tokens[:n]


def test_a_chat_with_parts(exact: Exact, make_engine: Callable[..., Engine], make_ctx: MakeContext) -> None:
    llava = exact("llava")
    template = ChatTemplate(llava.getModel(), CHATML)
    chat = ChatSession(make_ctx(llava), template=template, mtmd=llava, sampler=Sampler.initGreedy())
    expected = chat.send(["what", image_part(64), "is it"], maxTokens=6)
    expected.result()
    engine = make_engine(llava)
    for parts in (chat.messages[0]["content"], ["what", image_part(64), "is it"]):
        messages = [{"role": "user", "content": parts}]
        made = engine.chat(messages, template=template, sampler=Sampler.initGreedy(), maxTokens=6)
        made.result()
        assert made.tokens == expected.tokens and made.prompt == expected.prompt


def test_what_is_refused(llava: Mtmd.Context, qwen: Mtmd.Context, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(llava)
    template = ChatTemplate(llava.getModel(), CHATML)
    with pytest.raises(ValueError, match="no sounds"):
        engine.submit(f"{MARKER} it", media=[tone(0.1)])
    with pytest.raises(ValueError, match="no sounds"):
        engine.chat([{"role": "user", "content": [sound_part(), "it"]}], template=template)
    with pytest.raises(ValueError, match="1 media.*got 0"):
        engine.submit("it", media=[image()])
    with pytest.raises(ContextFullError):
        engine.submit(f"{MARKER}" * 300 + "it", media=[image()] * 300)
    with pytest.raises(ValueError, match="promptLogProbs"):
        engine.submit(f"{MARKER} it", media=[image()], promptLogProbs=0)
    plain = make_engine(llava, mtmd=None)
    with pytest.raises(ValueError, match="mtmd="):
        plain.submit(f"{MARKER} it", media=[image()])
    with pytest.raises(ValueError, match="mtmd="):
        plain.chat([{"role": "user", "content": [image_part(0), "it"]}], template=template)
    assert plain.submit(f"{MARKER} it", maxTokens=1).result() is not None
    with pytest.raises(ValueError, match="another model"):
        Engine(llava.getModel(), mtmd=qwen)
    with pytest.raises(TypeError, match="an Mtmd.Context, got int"):
        Engine(llava.getModel(), mtmd=5)  # type: ignore[arg-type]


def test_an_encoder_that_fails_ends_its_request_alone(
    llava: Mtmd.Context, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(llava)
    before = engine.submit("a text", sampler=Sampler.initGreedy(), maxTokens=30)
    with monkeypatch.context() as patch:
        patch.setattr(Mtmd.Context, "_encode", lambda *_: (_ for _ in ()).throw(KeyError("mine")))
        broken = engine.submit(f"see {MARKER} it", media=[image(65)], maxTokens=3)
        with pytest.raises(KeyError, match="mine"):
            broken.result()
    assert before.result() is not None
    again = engine.submit(f"see {MARKER} it", media=[image(65)], maxTokens=3)
    assert again.result() is not None and not engine.closed
    assert np.sum(np.array(again.prompt) == TOKEN_NULL) == 4
