"""Reading what a context computed."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, OWNERSHIP, Case

_BERT = "c = context('bert', nSeqMax=2); c.encode(batch(3))\n"

CASES = (
    Case(
        "logits before any decode",
        CHECK,
        "llama_get_logits_ith",
        "context().getLogitsIth()",
        "IndexError",
        "decode a batch first",
    ),
    *(
        Case(
            f"logits of entry {i}",
            CHECK,
            "llama_get_logits_ith",
            f"decoded().getLogitsIth({i})",
            "IndexError",
            f"entry {i}",
        )
        for i in (1, -2, 2**31 - 1, -(2**31))
    ),
    Case(
        "logits of an entry without output",
        CHECK,
        "llama_get_logits_ith",
        "c = context(); c.decode(batch(3)); c.getLogitsIth(0)",
        "IndexError",
        "batch.output[i] = 1",
    ),
    Case(
        "an entry beyond all numbers", CHECK, "llama_get_logits_ith", "decoded().getLogitsIth(1 << 40)", "OverflowError"
    ),
    Case(
        "logits of all before any decode",
        CHECK,
        "llama_get_logits",
        "context().getLogits()",
        "IndexError",
        "decode a batch first",
    ),
    Case(
        "logits of an embedding model",
        CHECK,
        "llama_get_logits_ith",
        _BERT + "c.getLogitsIth()",
        "IndexError",
        "embeddings without logits",
    ),
    Case(
        "embeddings that are off",
        CHECK,
        "llama_get_embeddings_ith",
        "decoded().getEmbeddingsIth()",
        "ValueError",
        "embeddings",
    ),
    Case(
        "all embeddings that are off",
        CHECK,
        "llama_get_embeddings",
        "decoded().getEmbeddings()",
        "ValueError",
        "embeddings",
    ),
    Case(
        "embeddings of a token where they are pooled",
        CHECK,
        "llama_get_embeddings_ith",
        "c = context('bert', embeddings=True); c.encode(batch(3)); c.getEmbeddingsIth(0)",
        "ValueError",
        "getEmbeddingsSeq",
    ),
    Case(
        "embeddings before any decode",
        CHECK,
        "llama_get_embeddings_ith",
        "context(embeddings=True).getEmbeddingsIth()",
        "IndexError",
        "decode a batch first",
    ),
    Case(
        "pooled embeddings where nothing is pooled",
        CHECK,
        "llama_get_embeddings_seq",
        "decoded(embeddings=True).getEmbeddingsSeq(0)",
        "ValueError",
        "poolingType",
    ),
    Case(
        "pooled embeddings of a sequence that was not decoded",
        CHECK,
        "llama_get_embeddings_seq",
        "c = context('bert', embeddings=True, nSeqMax=2); c.encode(batch(3)); c.getEmbeddingsSeq(1)",
        "IndexError",
        "sequence 1",
    ),
    Case(
        "pooled embeddings of a sequence that does not exist",
        CHECK,
        "llama_get_embeddings_seq",
        "context('bert', embeddings=True).getEmbeddingsSeq(7)",
        "ValueError",
        "0 and 0, got 7: raise Context.Params.nSeqMax",
    ),
    Case(
        "pooled embeddings kept",
        OWNERSHIP,
        "llama_get_embeddings_seq",
        "c = context('bert', embeddings=True); c.encode(batch(3)); e = c.getEmbeddingsSeq(0); before = e.tolist()\n"
        "c.encode(batch(5, 9)); c.free(); gc.collect(); assert e.tolist() == before",
    ),
    Case(
        "a ranker's scores, fewer than the embeddings",
        CHECK,
        "llama_get_embeddings_seq",
        "c = context('ranker', embeddings=True); c.encode(batch(3)); assert len(c.getEmbeddingsSeq(0)) == 3",
    ),
    Case(
        "ranking by a model without a classifier",
        CHECK,
        "llama_get_embeddings_seq",
        "c = context('bert', embeddings=True, poolingType=PoolingType.RANK); c.encode(batch(3))\n"
        "assert len(c.getEmbeddingsSeq(0)) == c.getModel().nClsOut",
    ),
    # Views
    Case(
        "logits kept over a decode",
        OWNERSHIP,
        "llama_get_logits_ith",
        "c = decoded(); view = c.getLogitsIth(); c.decode(batch()); view[0]",
        "ValueError",
        "released",
    ),
    Case(
        "logits kept over free",
        OWNERSHIP,
        "llama_get_logits_ith",
        "c = decoded(); view = c.getLogitsIth(); c.free(); view[0]",
        "ValueError",
        "released",
    ),
    Case(
        "an array of logits kept over free and collection",
        OWNERSHIP,
        "llama_get_logits_ith",
        "import numpy\n"
        "c = decoded(); a = numpy.asarray(c.getLogitsIth()); before = a.sum(); c.getModel().free(); del c; "
        "gc.collect()\n"
        "decoded(); assert a.sum() == before",
    ),
    Case(
        "an array of logits kept over a larger batch",
        OWNERSHIP,
        "llama_get_logits_ith",
        "import numpy\n"
        "c = decoded(); a = numpy.asarray(c.getLogitsIth()); b = Batch.init(9)\n"
        "for i in range(9): b.add(5, 1 + i, [0], True)\n"
        "c.decode(b)",
        "BusyError",
        "drop the array",
    ),
    Case(
        "an array of logits kept over embeddings being turned on",
        OWNERSHIP,
        "llama_set_embeddings",
        "import numpy\nc = decoded(); a = numpy.asarray(c.getLogitsIth()); c.setEmbeddings(True)",
        "BusyError",
        "drop the array",
    ),
    Case(
        "an array of logits kept over a state",
        OWNERSHIP,
        "llama_state_set_data",
        "import numpy\n"
        "c = decoded(); state = c.stateGetData(); a = numpy.asarray(c.getLogitsIth()); a.sum()\n"
        "try: c.stateSetData(state)\nexcept BusyError: pass\n"
        "a.sum(); del a; c.stateSetData(state)",
    ),
    Case(
        "writing beyond the logits",
        OWNERSHIP,
        "llama_get_logits_ith",
        "decoded().getLogitsIth()[N_VOCAB] = 1.0",
        "IndexError",
        "out of bounds",
    ),
    Case(
        "views collected with everything else",
        OWNERSHIP,
        "llama_get_logits_ith",
        "for _ in range(20):\n"
        "    c = decoded(); ring = [c, c.getLogitsIth()]; ring.append(ring); del c, ring\n"
        "gc.collect()",
    ),
    # Of samplers on the device
    *(
        Case(f"{call} of an entry that does not exist", CHECK, function, f"assert decoded().{call}(99) == {value}")
        for call, function, value in (
            ("getSampledTokenIth", "llama_get_sampled_token_ith", "-1"),
            ("getSampledProbsIth", "llama_get_sampled_probs_ith", "None"),
            ("getSampledLogitsIth", "llama_get_sampled_logits_ith", "None"),
            ("getSampledCandidatesIth", "llama_get_sampled_candidates_ith", "None"),
            ("getSampledProbsCountIth", "llama_get_sampled_probs_count_ith", "0"),
            ("getSampledLogitsCountIth", "llama_get_sampled_logits_count_ith", "N_VOCAB"),
            ("getSampledCandidatesCountIth", "llama_get_sampled_candidates_count_ith", "0"),
        )
    ),
    Case(
        "what was sampled kept",
        OWNERSHIP,
        "llama_get_sampled_probs_ith",
        "s = Sampler.chain(Sampler.initTopK(5), Sampler.initDist(1))\n"
        "c = context(nOutputsMaxPerSeq=1, samplers={0: s}); c.decode(batch())\n"
        "kept = c.getSampledProbsIth(), c.getSampledLogitsIth(), c.getSampledCandidatesIth()\n"
        "before = [list(values) for values in kept if values is not None]\n"
        "for _ in range(3): c.decode(batch())\n"
        "c.free(); gc.collect(); assert [list(values) for values in kept if values is not None] == before",
    ),
    Case("times of a context that did nothing", CHECK, "llama_perf_context_print", "context().perfContextPrint()"),
)
