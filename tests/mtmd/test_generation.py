"""`Generation` with images and sounds: exact, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import (
    TOKEN_NULL,
    Context,
    ContextFullError,
    Generation,
    Model,
    Mtmd,
    PromptCache,
    PromptLookup,
    Sampler,
    StopReason,
    defaultSampler,
    tokenize,
)
from tests.mtmd.counting import encodes
from tests.mtmd.samples import image, png, tone, wav

MARKER = "<__media__>"
MakeContext = Callable[..., Context]


def greedy() -> Sampler:
    return Sampler.initGreedy()


def medium(name: str, seed: int = 1) -> object:
    return tone(0.5, hertz=440.0 * (seed + 1)) if name == "ultravox" else image(seed, 56, 112)


def by_hand(projector: Mtmd.Context, ctx: Context, prompt: str, media: list[Mtmd.Bitmap], n: int) -> list[int]:
    """Return the greedy tokens after a prompt, by `evalChunks`."""
    from llama_cffi import Batch

    chunks = projector.tokenize(prompt, media, parseSpecial=False)
    position, sampler, tokens = projector.evalChunks(ctx, chunks), greedy(), []
    for _ in range(n):
        token = sampler.sample(ctx, -1)
        if projector.getModel().vocab.isEog(token):
            break
        tokens.append(token)
        batch = Batch.init(1)
        batch.extend([token], position, output="last")
        ctx.decode(batch)
        position += 1
    return tokens


@pytest.fixture(params=["llava", "ultravox", "gemma3", "qwen"])
def named(request: pytest.FixtureRequest) -> tuple[str, Mtmd.Context]:
    """A projector of each kind, with its name."""
    return request.param, request.getfixturevalue(request.param)


def bitmaps(name: str, *seeds: int) -> list[Mtmd.Bitmap]:
    make = Mtmd.Bitmap.fromAudio if name == "ultravox" else Mtmd.Bitmap.fromImage
    return [make(medium(name, seed)) for seed in seeds]


def test_equal_to_chunks_by_hand(named: tuple[str, Mtmd.Context], make_ctx: MakeContext) -> None:
    name, projector = named
    media = bitmaps(name, 1, 2)
    prompt = f"see {MARKER} and {MARKER} what is it"
    expected = by_hand(projector, make_ctx(projector), prompt, media, 12)
    made = Generation(make_ctx(projector), prompt, media=media, mtmd=projector, sampler=greedy(), maxTokens=12)
    made.result()
    assert made.tokens == expected and len(expected) > 2
    chunks = projector.tokenize(prompt, media, parseSpecial=False)
    assert made.usage.promptTokens == len(made.prompt) == chunks.nTokens
    assert made.prompt.count(TOKEN_NULL) == sum(chunk.nTokens for chunk in chunks if chunk.tokens is None)
    given = Generation(make_ctx(projector), chunks, mtmd=projector, sampler=greedy(), maxTokens=12)
    given.result()
    assert given.tokens == expected


def test_reuse_of_a_prefix_is_exact(named: tuple[str, Mtmd.Context], make_ctx: MakeContext) -> None:
    """After each prompt, the cache holds what a new context would."""
    name, projector = named
    one, two, three = bitmaps(name, 1, 2, 3)
    used = make_ctx(projector)
    prompts = [
        (f"see {MARKER} what is it", [one]),
        (f"see {MARKER} what is that", [one]),
        (f"see {MARKER} what is that", [two]),
        (f"see {MARKER}{MARKER} what is that", [two, two]),
        (f"see {MARKER}{MARKER} what is that", [two, three]),
        (f"see {MARKER} it", [two]),
        ("see it", []),
        (f"{MARKER} it", [one]),
    ]
    for prompt, media in prompts:
        made = Generation(used, prompt, media=media, mtmd=projector, sampler=greedy(), maxTokens=6)
        made.result()
        fresh = Generation(make_ctx(projector), prompt, media=media, mtmd=projector, sampler=greedy(), maxTokens=6)
        fresh.result()
        assert made.tokens == fresh.tokens and made.prompt == fresh.prompt
        ours, theirs = used.getMemory(), fresh._run.context.getMemory()
        assert ours.seqPosMax(0) == theirs.seqPosMax(0)
        last = np.array(used.getLogitsIth(-1)), np.array(fresh._run.context.getLogitsIth(-1))
        assert np.abs(last[0] - last[1]).max() < 1e-3 * np.abs(last[1]).max()


def test_how_much_is_reused(named: tuple[str, Mtmd.Context], make_ctx: MakeContext) -> None:
    name, projector = named
    one, two = bitmaps(name, 1, 2)
    ctx = make_ctx(projector)

    def reused(prompt: str, *media: Mtmd.Bitmap) -> int:
        made = Generation(ctx, prompt, media=media, mtmd=projector, sampler=greedy(), maxTokens=3)
        made.result()
        return made.usage.reusedTokens

    before = projector.tokenize(f"see {MARKER}", [one], parseSpecial=False)
    head, size = before[0].nTokens, before.nTokens
    assert reused(f"see {MARKER} what", one) == 0
    assert reused(f"see {MARKER} that", one) >= size
    assert reused(f"see {MARKER} that", two) == head  # another content: not even a part of it
    assert reused(f"see {MARKER}{MARKER} that", two, two) >= size
    assert 0 < reused("see nothing") <= head


def test_another_image_has_other_logits_and_the_same_one_the_same(
    named: tuple[str, Mtmd.Context], make_ctx: MakeContext
) -> None:
    name, projector = named
    found = []
    for bitmap in bitmaps(name, 1, 1, 2):
        ctx = make_ctx(projector)
        Generation(ctx, f"see {MARKER} it", media=[bitmap], mtmd=projector, maxTokens=0).result()
        found.append(np.array(ctx.getLogitsIth(-1)))
    assert (found[0] == found[1]).all() and np.abs(found[0] - found[2]).max() > 1e-4


def test_an_image_is_encoded_once(llava: Mtmd.Context, make_ctx: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = image(77)
    with encodes(monkeypatch) as seen:
        for ctx in (make_ctx(llava), make_ctx(llava)):
            for prompt in (f"see {MARKER} it", f"{MARKER} or {MARKER}"):
                n = prompt.count(MARKER)
                Generation(ctx, f"{prompt} ok", media=[pixels] * n, mtmd=llava, maxTokens=2).result()
    assert seen == [4]


def test_embeddings_that_are_kept_have_a_limit(
    llava: Mtmd.Context, make_ctx: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_cffi.mtmd.embeddings.MOST_ENTRIES", 2)
    ctx = make_ctx(llava)
    with encodes(monkeypatch) as seen:
        for seed in (81, 82, 83, 83, 82, 81):
            ctx.getMemory().clear()
            Generation(ctx, f"{MARKER} ok", media=[image(seed)], mtmd=llava, maxTokens=0).result()
    assert len(seen) == 4 and len(llava._embeddings._kept) == 2


def test_equal_ids_are_equal_contents_and_no_id_is_never_equal(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx, bitmap = make_ctx(llava), Mtmd.Bitmap.fromImage(image(5))
    bitmap.setId("")

    def reused() -> int:
        made = Generation(ctx, f"{MARKER} ok", media=[bitmap], mtmd=llava, maxTokens=0)
        made.result()
        return made.usage.reusedTokens

    assert reused() == 0
    assert reused() == 1  # BOS
    bitmap.setId("mine")
    assert reused() == 1
    assert reused() > 4


def test_media_of_each_kind(
    tiny: Model, llava: Mtmd.Context, ultravox: Mtmd.Context, make_ctx: MakeContext, tmp_path: Path
) -> None:
    from PIL import Image

    pixels, samples = image(9), tone(0.4)
    (tmp_path / "image.png").write_bytes(png(pixels))
    (tmp_path / "sound.wav").write_bytes(wav(samples))
    whole = {
        llava: [
            pixels,
            png(pixels),
            bytearray(png(pixels)),
            tmp_path / "image.png",
            str(tmp_path / "image.png"),
            Image.fromarray(pixels),
            Mtmd.Bitmap.fromImage(pixels),
        ],
        ultravox: [samples, wav(samples), tmp_path / "sound.wav", Mtmd.Bitmap.fromAudio(samples)],
    }
    for projector, media in whole.items():
        found = []
        for value in media:
            ctx = make_ctx(projector)
            Generation(ctx, f"{MARKER} it", media=[value], mtmd=projector, maxTokens=0).result()
            found.append(np.array(ctx.getLogitsIth(-1)))
        most = 0.0 if projector is llava else 0.2  # WAV files round samples to 16 bits
        assert all(np.abs(one - found[0]).max() <= most for one in found)


@pytest.mark.parametrize(
    ("media", "error", "words"),
    [
        ([np.zeros((4, 4), np.uint8)], ValueError, r"shape.*\(4, 4\)"),
        ([np.zeros(9)], ValueError, "32-bit floats.*'d'"),
        ([3], TypeError, "an Mtmd.Bitmap, a path.*got int"),
        (image(), TypeError, "a sequence.*ndarray"),
        (b"GIF89a", TypeError, "a sequence.*bytes"),
        ("photo.png", TypeError, "a sequence.*str"),
        (None, TypeError, "a sequence.*NoneType"),
        (["missing.png"], FileNotFoundError, "missing.png"),
        ([b"not an image"], ValueError, "image.*sound"),
        ([tone(0.1)], ValueError, "no sounds"),
        ([], ValueError, "0 media.*got 1"),
        ([image(), image()], ValueError, "2 media.*got 1"),
    ],
)
def test_media_that_are_refused(
    media: object, error: type[Exception], words: str, llava: Mtmd.Context, make_ctx: MakeContext
) -> None:
    with pytest.raises(error, match=words):
        Generation(make_ctx(llava), f"{MARKER} it", media=media, mtmd=llava)  # type: ignore[arg-type]


def test_what_does_not_go_with_media(llava: Mtmd.Context, qwen: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx, prompt, pixels = make_ctx(llava), f"{MARKER} it", image()
    with pytest.raises(ValueError, match="mtmd="):
        Generation(ctx, prompt, media=[pixels])
    with pytest.raises(ValueError, match="mtmd="):
        Generation(ctx, prompt, media=pixels)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an Mtmd.Context, got Model"):
        Generation(ctx, prompt, media=[pixels], mtmd=llava.getModel())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another model"):
        Generation(ctx, prompt, media=[pixels], mtmd=qwen)
    with pytest.raises(ValueError, match="shift"):
        Generation(ctx, prompt, media=[pixels], mtmd=llava, overflow="shift")
    with pytest.raises(ValueError, match="promptLogProbs"):
        Generation(ctx, prompt, media=[pixels], mtmd=llava, promptLogProbs=1)
    with pytest.raises(ValueError, match="add some after it"):
        Generation(ctx, f"it {MARKER}", media=[pixels], mtmd=llava)
    with pytest.raises(TypeError, match="a str or an Mtmd.Chunks, got list"):
        Generation(ctx, [1, 2], media=[pixels], mtmd=llava)
    chunks = llava.tokenize(prompt, [Mtmd.Bitmap.fromImage(pixels)])
    with pytest.raises(ValueError, match="media must be empty"):
        Generation(ctx, chunks, media=[pixels], mtmd=llava)
    with pytest.raises(ValueError, match=r"another Mtmd\.Context"):
        Generation(make_ctx(qwen), chunks, mtmd=qwen)
    with pytest.raises(TypeError, match="a str or a list of tokens, got Chunks"):
        Generation(ctx, chunks)  # without its projector
    plain = Generation(ctx, tokenize(llava.getModel().vocab, "it"), mtmd=llava, maxTokens=1)
    assert TOKEN_NULL not in plain.prompt and plain.result() is not None


def test_images_whose_tokens_see_each_other_need_a_batch(gemma3: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx = make_ctx(gemma3, nUbatch=3)
    with pytest.raises(ValueError, match=r"nUbatch.*at least 4.*got 3"):
        Generation(ctx, f"{MARKER} it", media=[image()], mtmd=gemma3)


def test_a_prompt_that_does_not_fit(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx = make_ctx(llava, nCtx=256)
    with pytest.raises(ContextFullError, match="256"):
        Generation(ctx, MARKER * 70 + "it", media=[image()] * 70, mtmd=llava)


def test_cancelled_between_images(llava: Mtmd.Context, make_ctx: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second image is not encoded, and the cache stays right."""
    ctx = make_ctx(llava)
    first = Generation(ctx, f"{MARKER}{MARKER} it", media=[image(91), image(92)], mtmd=llava, sampler=greedy())
    encode, seen = Mtmd.Context._encode, []

    def cancelling(projector: Mtmd.Context, pointer: object, chunk: object) -> None:
        encode(projector, pointer, chunk)
        seen.append(1)
        first.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(Mtmd.Context, "_encode", cancelling)
        assert first.result() == ""
    assert first.stopReason is StopReason.CANCELLED and seen == [1]
    again = Generation(ctx, f"{MARKER} it", media=[image(91)], mtmd=llava, sampler=greedy(), maxTokens=4)
    other = Generation(make_ctx(llava), f"{MARKER} it", media=[image(91)], mtmd=llava, sampler=greedy(), maxTokens=4)
    assert again.result() == other.result() and again.tokens == other.tokens


def test_an_encoder_that_fails_leaves_the_cache_right(
    qwen: Mtmd.Context, make_ctx: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_ctx(qwen)
    prompt, media = f"{MARKER}see{MARKER} it", [image(93, 56, 112), image(94, 56, 112)]
    encode, seen = Mtmd.Context._encode, []

    def failing(projector: Mtmd.Context, pointer: object, chunk: object) -> None:
        seen.append(1)
        if len(seen) == 2:
            raise KeyError("mine")
        encode(projector, pointer, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(Mtmd.Context, "_encode", failing)
        with pytest.raises(KeyError, match="mine"):
            Generation(ctx, prompt, media=media, mtmd=qwen).result()
    again = Generation(ctx, prompt, media=media, mtmd=qwen, sampler=greedy(), maxTokens=4)
    other = Generation(make_ctx(qwen), prompt, media=media, mtmd=qwen, sampler=greedy(), maxTokens=4)
    assert again.result() == other.result() and again.tokens == other.tokens
    assert again.usage.reusedTokens > 8  # the first image


def test_penalties_and_speculation(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    """Neither sees the cells of an image; both leave greedy text as it is."""
    prompt, media = f"one two one two {MARKER} one two one", [image(95)]
    expected = Generation(make_ctx(llava), prompt, media=media, mtmd=llava, sampler=greedy(), maxTokens=20)
    guessed = Generation(
        make_ctx(llava), prompt, media=media, mtmd=llava, sampler=greedy(), maxTokens=20, speculation=PromptLookup()
    )
    assert guessed.result() == expected.result() and guessed.tokens == expected.tokens
    made = Generation(make_ctx(llava), prompt, media=media, mtmd=llava, sampler=defaultSampler(seed=1), maxTokens=20)
    made.result()
    assert len(made.tokens) > 0


def test_a_prompt_cache_holds_the_text_before_an_image(
    named: tuple[str, Mtmd.Context], make_ctx: MakeContext, tmp_path: Path
) -> None:
    name, projector = named
    cache = PromptCache(tmp_path, minTokens=8)
    text = "one two three four five six seven eight nine ten eleven twelve "
    expected = []
    for turn in range(3):
        for number in (1, 2):
            made = Generation(
                make_ctx(projector),
                f"{text}{MARKER} what is it",
                media=[medium(name, number)],
                mtmd=projector,
                sampler=greedy(),
                maxTokens=6,
                promptCache=cache if turn else None,
            )
            made.result()
            expected += [made.tokens] if not turn else []
            assert made.tokens == expected[number - 1]
            assert made.usage.tokensFromDisk <= made.prompt.index(TOKEN_NULL)
        assert cache.flush(60)
    assert made.usage.tokensFromDisk > 8
