"""Trainings, schedulers and custom operations."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_NUMPY = "import numpy as np; T = Ggml.Type\n"
_NET = (
    _NUMPY + "c = Ggml.Context(noAlloc=True); x = c.tensor(np.zeros((4, 8), 'f4'))\n"
    "w = c.tensor(np.ones((3, 8), 'f4')).setParam(); y = c.mulMat(w, x)\n"
    "D = Ggml.OptDataset; data = D(np.ones((8, 8), 'f4'), np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]])\n"
)
_SCHED = (
    _NUMPY + "b = Ggml.Backend.cpuInit(); c = Ggml.Context(noAlloc=True); a = c.tensor(np.ones((4, 8), 'f4'))\n"
    "r = c.sqr(a); g = c.newGraph(16); g.expand(r); s = Ggml.BackendSched([b], 64)\n"
)
_RAW = (
    _NET + "o = Ggml.Opt(x, y); q = Ggml.OptResult(); b = Ggml.Backend.cpuInit()\n"
    "live = {'ggml_opt_context': o._c, 'ggml_opt_dataset': data._c, 'ggml_opt_result': q._c, 'ggml_tensor': x._c}\n"
    "r = Ggml.BackendSched([b], 64); l = context(); live |= {'llama_context': l._c, 'ggml_backend_sched': r._c}\n"
)
_SPECULATION = (
    "m = load(); c = context(m, nCtx=256)\n"
    "def run(how): return Generation(c, 'Once upon Once upon', maxTokens=9, speculation=how).result()\n"
)
_CUSTOM = _NUMPY + "c = Ggml.Context(); a = c.tensor(np.ones((4, 8), 'f4'))\n"


def _case(name: str, function: str, code: str, error: str = "", words: str = "", kind: object = CHECK) -> Case:
    return Case(name, kind, function, code, error, words)  # type: ignore[arg-type]


CASES = (
    *(
        _case(f"a dataset {what}", "ggml_opt_dataset_init", _NUMPY + code, error, words)
        for what, code, error, words in (
            ("of no data points", "Ggml.OptDataset([])", "ValueError", "at least 1"),
            ("with too few labels", "Ggml.OptDataset(np.ones((4, 2)), [1.0])", "ValueError", "4 data points"),
            (
                "of 2**60 bytes",
                "Ggml.OptDataset.init(T.F32, T.F32, 1 << 30, 1, 1 << 30)",
                "NativeMemoryError",
                "memory",
            ),
            ("whose shards do not divide it", "Ggml.OptDataset(np.ones((4, 2)), None, 3)", "ValueError", "shard"),
            ("of a quantized type", "Ggml.OptDataset.init(T.Q4_0, T.F32, 32, 1, 4)", "ValueError", "Q4_0"),
            ("of less than nothing", "Ggml.OptDataset.init(T.F32, T.F32, 4, -1, 4)", "ValueError", "neLabel"),
        )
    ),
    *(
        _case(f"training {what}", function, _NET + code, error, words, kind)
        for what, function, code, error, words, kind in (
            ("without a parameter", "ggml_opt_init", "Ggml.Opt(x, c.sqr(x))", "ValueError", "setParam", CHECK),
            ("the inputs", "ggml_opt_init", "x.setParam(); Ggml.Opt(x, c.sqr(x))", "ValueError", "parameter", CHECK),
            ("nothing", "ggml_opt_init", "Ggml.Opt(x, x)", "ValueError", "result of an operation", CHECK),
            ("without memory", "ggml_opt_init", "Ggml.Opt(c.newTensor(T.F32, 8, 4), y)", "ValueError", "depend", CHECK),
            (
                "in memory of a context",
                "ggml_opt_init",
                "d = Ggml.Context(); Ggml.Opt(x, d.mulMat(w, x))",
                "ValueError",
                "noAlloc",
                CHECK,
            ),
            (
                "without a gradient",
                "ggml_build_backward_expand",
                "Ggml.Opt(x, c.norm(y, 1e-5))",
                "NativeAssertionError",
                "",
                GUARD,
            ),
            (
                "a deep net",
                "ggml_opt_init",
                "for _ in range(1500): y = c.sqr(y)\nGgml.Opt(x, y)",
                "ValueError",
                "room",
                CHECK,
            ),
            (
                "a net of 100,000 operations",
                "ggml_opt_init",
                "for _ in range(100000): y = c.sqr(y)\nGgml.Opt(x, y)",
                "ValueError",
                "room",
                CHECK,
            ),
            (
                "on data of another size",
                "ggml_opt_epoch",
                "Ggml.Opt(x, y).epoch(D(np.ones((8, 7)), np.ones((8, 3))))",
                "ValueError",
                "8 numbers",
                CHECK,
            ),
            (
                "on data of another type",
                "ggml_opt_epoch",
                "Ggml.Opt(x, y).epoch(D(np.ones((8, 8), int), np.ones((8, 3))))",
                "ValueError",
                "F32",
                CHECK,
            ),
            (
                "without labels",
                "ggml_opt_epoch",
                "Ggml.Opt(x, y).epoch(D(np.ones((8, 8))))",
                "ValueError",
                "labels",
                CHECK,
            ),
            (
                "on half a batch",
                "ggml_opt_epoch",
                "Ggml.Opt(x, y).epoch(D(np.ones((6, 8)), np.ones((6, 3))))",
                "ValueError",
                "divide 6",
                CHECK,
            ),
            (
                "with half a batch kept",
                "ggml_opt_epoch",
                "Ggml.Opt(x, y).epoch(data, None, None, 2)",
                "ValueError",
                "4",
                CHECK,
            ),
            (
                "into another's result",
                "ggml_opt_eval",
                "r = Ggml.OptResult(); Ggml.Opt(x, y).epoch(data, r)\nGgml.Opt(x, y, optPeriod=2).epoch(data, r)",
                "ValueError",
                "reset",
                CHECK,
            ),
            (
                "at a rate of 0",
                "ggml_opt_eval",
                "Ggml.Opt(x, y, getOptPars=Ggml.OptOptimizerParams(alpha=0)).epoch(data)",
                "ValueError",
                "alpha",
                CHECK,
            ),
            (
                "after its end",
                "ggml_opt_free",
                "o = Ggml.Opt(x, y); o.free(); o.epoch(data)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "a freed net",
                "ggml_opt_free",
                "o = Ggml.Opt(x, y); c.free(); o.epoch(data)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "on a freed dataset",
                "ggml_opt_dataset_free",
                "v = data.data; data.free(); assert v[0, 0] == 1\nGgml.Opt(x, y).epoch(data)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "a net whose context was collected",
                "ggml_opt_free",
                "o = Ggml.Opt(x, y); del c, w, x, y\nimport gc; gc.collect(); o.epoch(data)",
                "",
                "",
                OWNERSHIP,
            ),
            (
                "by indices out of range",
                "ggml_opt_eval",
                "i = c.tensor([[1], [2]], T.I32); t = c.tensor(np.ones((3, 4), 'f4')).setParam()\n"
                "o = Ggml.Opt(i, c.getRows(t, c.reshape(i, 2)), Ggml.OptLossType.SUM)\n"
                "o.epoch(D([[1], [99]]))",
                "NativeAssertionError",
                "",
                GUARD,
            ),
            (
                "in a sort of numbers that are not known",
                "ggml_opt_init",
                "z = c.cast(c.argsort(y, Ggml.SortOrder.ASC), T.F32); Ggml.Opt(x, c.add(y, z))",
                "ValueError",
                "sort",
                CHECK,
            ),
        )
    ),
    *(
        _case(f"a scheduler {what}", function, _SCHED + code, error, words, kind)
        for what, function, code, error, words, kind in (
            ("of nothing", "ggml_backend_sched_new", "Ggml.BackendSched([])", "ValueError", "16", CHECK),
            (
                "of two times the same",
                "ggml_backend_sched_new",
                "Ggml.BackendSched([b, b])",
                "ValueError",
                "different",
                CHECK,
            ),
            (
                "of 17 backends",
                "ggml_backend_sched_new",
                "Ggml.BackendSched([Ggml.Backend.cpuInit() for _ in range(17)])",
                "ValueError",
                "16",
                CHECK,
            ),
            ("for no graph", "ggml_backend_sched_new", "Ggml.BackendSched([b], 0)", "ValueError", "graphSize", CHECK),
            (
                "for a smaller graph",
                "ggml_backend_sched_alloc_graph",
                "Ggml.BackendSched([b], 2).allocGraph(g)",
                "ValueError",
                "graphSize",
                CHECK,
            ),
            (
                "of a freed backend",
                "ggml_backend_sched_graph_compute",
                "b.free(); s.graphCompute(g)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "of a freed context",
                "ggml_backend_sched_graph_compute",
                "s.allocGraph(g); c.free(); s.graphCompute(g)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "that was freed before its result is read",
                "ggml_backend_sched_free",
                "s.graphCompute(g); s.free(); r.numpy()",
                "ValueError",
                "no memory",
                OWNERSHIP,
            ),
            (
                "for a backend of another",
                "ggml_backend_sched_get_buffer_size",
                "s.getBufferSize(Ggml.Backend.cpuInit())",
                "ValueError",
                "not a backend",
                CHECK,
            ),
            (
                "for a tensor with memory",
                "ggml_backend_sched_set_tensor_backend",
                "s.setTensorBackend(a, b)",
                "ValueError",
                "memory",
                CHECK,
            ),
            (
                "for types without a function",
                "ggml_backend_sched_graph_compute",
                "h = c.newGraph(8); h.expand(c.mulMat(c.tensor(np.ones((4, 8), 'i4')), a)); s.graphCompute(h)",
                "ValueError",
                "type",
                CHECK,
            ),
            (
                "whose sources were replaced",
                "ggml_backend_sched_split_graph",
                "s.graphCompute(g); q = r.sources; s.free()\n"
                "assert q == [a] and q[0].numpy()[0, 0] == 1 and Ggml.compute(r)[0, 0] == 1",
                "",
                "",
                OWNERSHIP,
            ),
            (
                "for lone data",
                "ggml_backend_sched_alloc_graph",
                "h = c.newGraph(8); h.expand(c.newTensor(T.F32, 4)); s.graphCompute(h)",
                "",
                "",
                CHECK,
            ),
        )
    ),
    *(
        _case(f"a custom operation {what}", "ggml_custom_4d", _CUSTOM + code, error, words, kind)
        for what, code, error, words, kind in (
            (
                "that raises, on three threads",
                "Ggml.compute(c.mapCustom1(a, lambda a: 1 / 0), nThreads=3)",
                "ZeroDivisionError",
                "division",
                CHECK,
            ),
            (
                "that returns another shape",
                "Ggml.compute(c.mapCustom1(a, lambda a: a.T))",
                "ValueError",
                "shape",
                CHECK,
            ),
            (
                "that frees its context",
                "g = c.newGraph(8); g.expand(c.mapCustom1(a, lambda a: c.free())); c.graphCompute(g)",
                "BusyError",
                "",
                OWNERSHIP,
            ),
            (
                "that keeps its arrays",
                "k = []; Ggml.compute(c.mapCustom1(c.sqr(a), lambda a: k.append(a) or a)); c.free(); del c, a\n"
                "import gc; gc.collect(); assert k[0].sum() == 32",
                "",
                "",
                OWNERSHIP,
            ),
            (
                "that writes to its source",
                "def f(a): a[0] = 1\nGgml.compute(c.mapCustom1(a, f))",
                "ValueError",
                "read-only",
                CHECK,
            ),
            ("whose function is no function", "c.mapCustom1(a, 5)", "TypeError", "function", CHECK),
            ("of too many sources", "c.custom4d(T.F32, 1, 1, 1, 1, [a] * 10, len)", "ValueError", "9", CHECK),
            (
                "that computes itself",
                "r = c.mapCustom1(a, lambda a: Ggml.compute(r, nThreads=1))\nGgml.compute(r, nThreads=1)",
                "RecursionError",
                "",
                CHECK,
            ),
            (
                "that overwrites indices that were checked",
                "i = c.tensor([[0]], T.I32); e = c.tensor(np.ones((2, 4, 8), 'f4'))\n"
                "x = c.mapCustom1(c.tensor(np.ones((1, 1, 8), 'f4')), lambda a: i.set(99) and a)\n"
                "Ggml.compute(c.mulMatId(e, x, i))",
                "ValueError",
                "before",
                CHECK,
            ),
            (
                "that makes indices out of range",
                "Ggml.compute(c.getRows(a, c.custom4d(T.I32, 2, 1, 1, 1, [], lambda: [0, 99])), nThreads=2)",
                "NativeAssertionError",
                "",
                GUARD,
            ),
        )
    ),
    *(
        _case(f"fine-tuning {what}", "llama_opt_init", code, error, words, kind)
        for what, code, error, words, kind in (
            ("a mapped model", "fineTune(Model.load(path()), [5] * 300)", "ValueError", "useMmap", CHECK),
            (
                "by a token that is none",
                "fineTune(Model.load(path(), Model.Params(useMmap=False, useExtraBufts=False)), [10**6] * 300)",
                "IndexError",
                "1000000",
                CHECK,
            ),
            (
                "by a short text",
                "fineTune(Model.load(path(), Model.Params(useMmap=False, useExtraBufts=False)), [5] * 256)",
                "ValueError",
                "256",
                CHECK,
            ),
            (
                "an encoder",
                "fineTune(Model.load(path('bert'), Model.Params(useMmap=False, useExtraBufts=False)), [5] * 300)",
                "ValueError",
                "",
                CHECK,
            ),
            (
                "a model that was freed",
                "m = Model.load(path(), Model.Params(useMmap=False)); m.free(); fineTune(m, [5] * 300)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
        )
    ),
    # Past the facade: each function that takes an object, with NULL, one that was freed, and one of another kind.
    *(
        _case(
            f"{what} for a {kind} past the facade",
            f"{kind}_free",
            f"{_RAW}{code}\nassert wrong_handles('{kind}', {value}, live, {error}, {words!r}) >= {least}",
            kind=CHECK if error == "TypeError" else GUARD,
        )
        for kind, owner, least in (
            ("ggml_opt_dataset", "data", 6),
            ("ggml_opt_result", "q", 5),
            ("ggml_opt_context", "o", 10),
        )
        for what, code, value, error, words in (
            ("NULL", "", "ffi.NULL", "NativeError", "NULL"),
            ("a freed object", f"old = {owner}._c; {owner}.free()", "old", "ClosedError", "freed"),
            ("another object", "", "b._c", "TypeError", "ggml_backend"),
        )
    ),
    _case(
        "a freed scheduler past the facade",
        "ggml_backend_sched_free",
        _SCHED
        + "old = s._c; s.free(); assert wrong_handles('ggml_backend_sched', old, {}, ClosedError, 'freed') >= 15",
        kind=GUARD,
    ),
    _case(
        "NULL for a scheduler past the facade",
        "ggml_backend_sched_reset",
        "assert wrong_handles('ggml_backend_sched', ffi.NULL, {}, NativeError, 'NULL') >= 15",
        kind=GUARD,
    ),
    _case(
        "another object for a scheduler past the facade",
        "ggml_backend_sched_reset",
        _SCHED + "assert wrong_handles('ggml_backend_sched', b._c, {}, TypeError, 'ggml_backend') >= 15",
    ),
    *(
        _case(f"speculation {what}", "llama_decode", _SPECULATION + code, error, words, kind)
        for what, code, error, words, kind in (
            ("by no model", "DraftModel(5)", "TypeError", "Model", CHECK),
            ("by a freed model", "d = load(); d.free(); run(DraftModel(d))", "ClosedError", "freed", OWNERSHIP),
            (
                "by a model whose draft context is freed",
                "d = DraftModel(m, adapt=False); run(d); d.close(); run(d)",
                "",
                "",
                OWNERSHIP,
            ),
            ("by a model of another vocabulary", "run(DraftModel(load('gpt2')))", "ValueError", "family", CHECK),
            ("by an encoder", "run(DraftModel(load('bert')))", "ValueError", "", CHECK),
            ("of 0 tokens", "DraftModel(m, 0)", "ValueError", "most", CHECK),
            ("of 10**6 tokens", "PromptLookup(2, 10**6)", "ValueError", "most", CHECK),
            ("after 0 tokens", "PromptLookup(0)", "ValueError", "n must", CHECK),
            ("with a text that is none", "PromptLookup(text=5)", "TypeError", "text", CHECK),
            (
                "with a text of tokens that are none",
                "run(PromptLookup(1, text=[10**6]))",
                "IndexError",
                "1000000",
                CHECK,
            ),
            ("that is none", "run(m)", "TypeError", "PromptLookup", CHECK),
            (
                "by itself",
                "g = Generation(c, 'a', speculation=PromptLookup); g.result()",
                "TypeError",
                "PromptLookup",
                CHECK,
            ),
            (
                "in a context of 4 tokens",
                "run(DraftModel(m, params=Context.Params(nCtx=4), adapt=False))",
                "",
                "",
                CHECK,
            ),
            (
                "whose model is freed meanwhile",
                "d = load(); g = Generation(c, 'Once', maxTokens=20, speculation=DraftModel(d, adapt=False))\n"
                "s = iter(g); next(s); d.free(); list(s)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "whose context is freed meanwhile",
                "g = Generation(c, 'Once', maxTokens=20, speculation=PromptLookup(1, adapt=False)); s = iter(g)\n"
                "next(s); c.free(); list(s)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            (
                "of two texts at the same time",
                "d = DraftModel(m, adapt=False); e = context(m, nCtx=256)\n"
                "def go(ctx): Generation(ctx, 'Once', maxTokens=9, speculation=d).result()\n"
                "only(together(lambda: go(c), lambda: go(e), times=5), BusyError)",
                "",
                "",
                OWNERSHIP,
            ),
            (
                "by the context's own model, which is freed",
                "d = DraftModel(m); run(d); m.free(); run(d)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
        )
    ),
)
