"""`Mtmd.Context`: the encoder against numpy, counts of tokens and positions, and evaluation in a context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from llama_cffi import Batch, Context, ContextFullError, Model, Mtmd, ffi, lib
from tests import tiny_projectors
from tests.mtmd.samples import image, tone

MakeContext = Callable[..., Context]
MARKER = "<__media__>"


def logits(ctx: Context) -> npt.NDArray[np.float32]:
    return np.array(ctx.getLogitsIth(-1), dtype=np.float32)


# Encoding


def test_the_encoder_computes_what_numpy_does(
    llava: Mtmd.Context, llava_tensors: dict[str, tiny_projectors.Array]
) -> None:
    for seed in range(3):
        pixels = image(seed)
        with Mtmd.Bitmap.fromImage(pixels) as bitmap, llava.tokenize(MARKER, [bitmap], addSpecial=False) as chunks:
            llava.encodeChunk(chunks[0])
            found = np.array(llava.getOutputEmbd())
        expected = tiny_projectors.llava_forward(llava_tensors, pixels)
        assert found.shape == expected.shape == (4, llava.getModel().nEmbdInp)
        # GELU comes from a table of half floats
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_output_needs_an_encoded_chunk(tiny: Model, llava: Mtmd.Context) -> None:
    with llava.tokenize("only text") as chunks:
        llava.encodeChunk(chunks[0])  # ignored
        with pytest.raises(ValueError, match="encodeChunk"):
            llava.getOutputEmbd()


def test_the_same_sound_is_encoded_the_same_and_another_one_is_not(ultravox: Mtmd.Context) -> None:
    found = []
    for hertz in (440.0, 440.0, 880.0):
        with Mtmd.Bitmap.fromAudio(tone(hertz=hertz)) as bitmap, ultravox.tokenize(MARKER, [bitmap]) as chunks:
            (chunk,) = [chunk for chunk in chunks if chunk.kind == Mtmd.ChunkKind.AUDIO]
            ultravox.encodeChunk(chunk)
            found.append(np.array(ultravox.getOutputEmbd()))
            assert found[-1].shape == (chunk.nTokens, ultravox.getModel().nEmbdInp)
    assert (found[0] == found[1]).all() and np.abs(found[0] - found[2]).max() > 1e-3


# Chunks


def test_chunks_of_a_prompt(llava: Mtmd.Context) -> None:
    bitmaps = [Mtmd.Bitmap.fromImage(image(seed)) for seed in range(2)]
    chunks = llava.tokenize(f"a {MARKER} b {MARKER} c", bitmaps)
    kinds = [chunk.kind.name for chunk in chunks]
    assert kinds == ["TEXT", "IMAGE", "TEXT", "IMAGE", "TEXT"] and len(chunks) == chunks.size() == 5
    media = [chunk for chunk in chunks if chunk.kind == Mtmd.ChunkKind.IMAGE]
    assert [chunk.nTokens for chunk in media] == [chunk.nPos for chunk in media] == [4, 4]  # 28 / 14 patches a side
    assert [chunk.id for chunk in media] == [bitmap.id for bitmap in bitmaps]
    assert media[0].id != media[1].id and media[0].tokens is None
    texts = [chunk for chunk in chunks if chunk.kind == Mtmd.ChunkKind.TEXT]
    assert all(chunk.id is None and chunk.tokens and len(chunk.tokens) == chunk.nTokens for chunk in texts)
    assert chunks.nTokens == sum(chunk.nTokens for chunk in chunks) == chunks.nPos
    assert chunks[-1].tokens == chunks.get(4).tokens
    for wrong in (5, -6):
        with pytest.raises(IndexError, match=f"0 and 4.*got {wrong}"):
            chunks.get(wrong)


def test_special_tokens_at_the_beginning(llava: Mtmd.Context) -> None:
    bos = llava.getModel().vocab.bos
    assert (llava.tokenize("hello")[0].tokens or [])[0] == bos
    assert bos not in (llava.tokenize("hello", addSpecial=False)[0].tokens or [])
    assert bos in (llava.tokenize("x <s> y", addSpecial=False)[0].tokens or [])
    assert bos not in (llava.tokenize("x <s> y", addSpecial=False, parseSpecial=False)[0].tokens or [])


def test_markers_and_media_must_agree(llava: Mtmd.Context) -> None:
    bitmap = Mtmd.Bitmap.fromImage(image())
    for text, media, numbers in ((MARKER, [], "0 media.*got 1"), ("none", [bitmap], "1 media.*got 0")):
        with pytest.raises(ValueError, match=numbers):
            llava.tokenize(text, media)


def test_another_marker(tiny: Model, llava_path: str) -> None:
    given = Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False, mediaMarker="[[x]]")
    with Mtmd.Context.initFromFile(llava_path, tiny, given) as made:
        assert made.getMarker() == "[[x]]" and Mtmd.defaultMarker() == MARKER
        chunks = made.tokenize("a [[x]] b", [Mtmd.Bitmap.fromImage(image())])
        assert [chunk.kind.name for chunk in chunks] == ["TEXT", "IMAGE", "TEXT"]


def test_a_sound_for_a_vision_model_says_so(llava: Mtmd.Context, ultravox: Mtmd.Context) -> None:
    with pytest.raises(ValueError, match="no sounds"):
        llava.tokenize(MARKER, [Mtmd.Bitmap.fromAudio(tone(0.1))])
    with pytest.raises(ValueError, match="no images"):
        ultravox.tokenize(MARKER, [Mtmd.Bitmap.fromImage(image())])


def test_what_a_file_can_do(llava: Mtmd.Context, ultravox: Mtmd.Context, llava_path: str, ultravox_path: str) -> None:
    assert Mtmd.capabilities(llava_path) == (llava.supportVision(), llava.supportAudio()) == (True, False)
    assert Mtmd.capabilities(ultravox_path) == (ultravox.supportVision(), ultravox.supportAudio()) == (False, True)
    assert (llava.getAudioSampleRate(), ultravox.getAudioSampleRate()) == (-1, 16000)
    assert not llava.decodeUseMrope() and not llava.decodeUseNonCausal()


# Evaluation


def test_the_same_image_has_the_same_logits_and_another_one_has_not(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    found = []
    for seed in (0, 0, 1):
        ctx = make_ctx(llava)
        chunks = llava.tokenize(f"see {MARKER} what is it", [Mtmd.Bitmap.fromImage(image(seed))])
        assert llava.evalChunks(ctx, chunks) == chunks.nPos == ctx.getMemory().seqPosMax(0) + 1
        found.append(logits(ctx))
    assert (found[0] == found[1]).all() and np.abs(found[0] - found[2]).max() > 1e-3


@pytest.mark.parametrize("n_batch", [1, 3, 512])
@pytest.mark.parametrize("name", ["llava", "ultravox", "gemma3", "qwen"])
def test_the_facade_and_llama_cpp_s_helper_agree(
    name: str, n_batch: int, request: pytest.FixtureRequest, make_ctx: MakeContext
) -> None:
    projector: Mtmd.Context = request.getfixturevalue(name)
    media = Mtmd.Bitmap.fromAudio(tone(0.5)) if name == "ultravox" else Mtmd.Bitmap.fromImage(image(1, 56, 56))
    chunks = projector.tokenize(f"see {MARKER} what is it", [media])
    if projector.decodeUseNonCausal() and n_batch < 512:
        with pytest.raises(ValueError, match=rf"nBatch.*nUbatch.*at least 4.*got {n_batch}"):
            projector.evalChunks(make_ctx(projector), chunks, nBatch=n_batch)
        return
    ours, theirs = make_ctx(projector), make_ctx(projector)
    end = projector.evalChunks(ours, chunks, nBatch=n_batch)
    out = ffi.new("int32_t *")
    assert lib.mtmd_helper_eval_chunks(projector._c, theirs._c, chunks._c, 0, 0, n_batch, True, out) == 0
    assert end == out[0] == chunks.nPos
    n = projector.getModel().vocab.nTokens
    raw = np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(theirs._c, -1), 4 * n), dtype=np.float32)
    assert (logits(ours) == raw).all()


def test_by_hand(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    """Texts by `decode`, the image by its embeddings, in a batch of embeddings."""
    chunks = llava.tokenize(f"see {MARKER} what is it", [Mtmd.Bitmap.fromImage(image(2))])
    whole, by_hand, kept = make_ctx(llava), make_ctx(llava), make_ctx(llava)
    llava.evalChunks(whole, chunks)
    embeddings, past = {}, 0
    for chunk in chunks:
        last = past + chunk.nPos == chunks.nPos
        if chunk.kind == Mtmd.ChunkKind.TEXT:
            batch = Batch.init(chunk.nTokens)
            batch.extend(chunk.tokens or [], past, output="last" if last else "none")
        else:
            llava.encodeChunk(chunk)
            embeddings[chunk.id] = llava.getOutputEmbd()
            batch = Batch.init(chunk.nTokens, llava.getModel().nEmbdInp)
            batch.nTokens = chunk.nTokens
            assert batch.embd is not None and batch.pos is not None
            batch.embd[:] = memoryview(embeddings[chunk.id]).cast("B").cast("f")
            batch.pos[:] = memoryview(np.arange(past, past + chunk.nTokens, dtype=np.int32))
        by_hand.decode(batch)
        past += chunk.nPos
    assert (logits(whole) == logits(by_hand)).all()
    past = 0
    for chunk in chunks:  # a second question about the same image encodes nothing
        if chunk.kind == Mtmd.ChunkKind.TEXT:
            past = llava.evalChunkSingle(kept, chunk, past)
        else:
            past = llava.decodeImageChunk(kept, chunk, embeddings[chunk.id], past)
    assert (logits(whole) == logits(kept)).all()


def test_positions_of_mrope(qwen: Mtmd.Context, make_ctx: MakeContext) -> None:
    """An image has as many positions as its longer side has tokens."""
    assert qwen.decodeUseMrope()
    chunks = qwen.tokenize(f"see {MARKER} it", [Mtmd.Bitmap.fromImage(image(3, 56, 112))])
    (chunk,) = [chunk for chunk in chunks if chunk.kind == Mtmd.ChunkKind.IMAGE]
    assert chunk.nPos < chunk.nTokens and chunks.nPos < chunks.nTokens
    ctx = make_ctx(qwen)
    assert qwen.evalChunks(ctx, chunks) == chunks.nPos == ctx.getMemory().seqPosMax(0) + 1


def test_another_sequence_and_a_later_position(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx = make_ctx(llava, nSeqMax=2)
    chunks = llava.tokenize(f"{MARKER} it", [Mtmd.Bitmap.fromImage(image())])
    end = llava.evalChunks(ctx, chunks, 0, 1)
    assert llava.evalChunks(ctx, chunks, end, 1) == 2 * end
    memory = ctx.getMemory()
    assert (memory.seqPosMax(0), memory.seqPosMax(1)) == (-1, 2 * end - 1)


def test_no_logits_unless_requested(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx = make_ctx(llava)
    llava.evalChunks(ctx, llava.tokenize("hello"), logitsLast=False)
    with pytest.raises(IndexError):
        ctx.getLogitsIth(-1)
    chunks = llava.tokenize(f"it {MARKER}", [Mtmd.Bitmap.fromImage(image())])
    end = llava.evalChunks(ctx, llava.tokenize("hello"), ctx.getMemory().seqPosMax(0) + 1)
    llava.evalChunkSingle(ctx, chunks[1], end)
    with pytest.raises(IndexError):
        ctx.getLogitsIth(-1)  # those of the text before are gone


def test_a_full_cache(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    ctx = make_ctx(llava, nCtx=256)
    bitmap = Mtmd.Bitmap.fromImage(image())
    chunks = llava.tokenize(MARKER * 70, [bitmap] * 70)
    assert chunks.nTokens > ctx.nCtx
    with pytest.raises(ContextFullError):
        llava.evalChunks(ctx, chunks)
    ctx.getMemory().clear()
    assert llava.evalChunks(ctx, llava.tokenize(f"{MARKER} x", [bitmap])) > 4


def test_a_context_of_another_model_is_refused(llava: Mtmd.Context, qwen: Mtmd.Context, make_ctx: MakeContext) -> None:
    chunks = llava.tokenize(f"{MARKER} it", [Mtmd.Bitmap.fromImage(image())])
    with pytest.raises(ValueError, match="another model"):
        llava.evalChunks(make_ctx(qwen), chunks)
    with pytest.raises(ValueError, match=r"another Mtmd\.Context"):
        qwen.evalChunks(make_ctx(qwen), chunks)


def test_embeddings_of_the_wrong_size_are_refused(llava: Mtmd.Context, make_ctx: MakeContext) -> None:
    chunks = llava.tokenize(f"{MARKER} it", [Mtmd.Bitmap.fromImage(image())])
    (chunk,) = [chunk for chunk in chunks if chunk.kind == Mtmd.ChunkKind.IMAGE]
    with pytest.raises(ValueError, match=r"encodedEmbd.*4 x \d+.*got 8"):
        llava.decodeImageChunk(make_ctx(llava), chunk, np.zeros(8, np.float32))


# Loading


def test_progress_and_its_end(tiny: Model, llava_path: str) -> None:
    seen: list[float] = []
    given = Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False, progressCallback=seen.append)
    Mtmd.Context.initFromFile(llava_path, tiny, given).close()
    assert seen and seen == sorted(seen) and seen[-1] == 1.0
    given.progressCallback = lambda progress: False
    with pytest.raises(OSError, match="progressCallback"):
        Mtmd.Context.initFromFile(llava_path, tiny, given)

    def fail(progress: float) -> bool:
        raise KeyError("mine")

    given.progressCallback = fail
    with pytest.raises(KeyError, match="mine"):
        Mtmd.Context.initFromFile(llava_path, tiny, given)


def test_tensors_of_the_encoder(tiny: Model, llava_path: str) -> None:
    names: list[str] = []

    def see(tensor: object, ask: bool) -> bool:
        names.append(tensor.name)  # type: ignore[attr-defined]
        return False

    given = Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False, cbEval=see)
    with Mtmd.Context.initFromFile(llava_path, tiny, given) as made:
        chunks = made.tokenize(MARKER, [Mtmd.Bitmap.fromImage(image())], addSpecial=False)
        made.encodeChunk(chunks[0])
    assert any("attn" in name for name in names)


def test_a_file_that_does_not_fit(tiny: Model, tmp_path: str, tiny_path: str) -> None:
    path = f"{tmp_path}/wide.gguf"
    tiny_projectors.write_llava(path, tiny.nEmbd * 2)
    with pytest.raises(OSError, match=rf"n_embd = {tiny.nEmbd}.*n_embd = {2 * tiny.nEmbd}"):
        Mtmd.Context.initFromFile(path, tiny)
    with pytest.raises(OSError, match="mmproj"):
        Mtmd.Context.initFromFile(tiny_path, tiny)
    with pytest.raises(OSError, match="mmproj"):
        Mtmd.capabilities(tiny_path)
    with pytest.raises(FileNotFoundError):
        Mtmd.Context.initFromFile(f"{tmp_path}/missing.gguf", tiny)
