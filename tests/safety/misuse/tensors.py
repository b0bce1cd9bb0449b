"""Tensors, graphs and what computes them."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_CTX = "from llama_cffi import NativeMemoryError; c = Ggml.Context(); T = Ggml.Type\n"
_A = _CTX + "import numpy as np; a = c.tensor(np.ones((4, 8), np.float32))\n"


def _case(name: str, function: str, code: str, error: str, words: str = "", kind: object = CHECK) -> Case:
    return Case(name, kind, function, code, error, words)  # type: ignore[arg-type]


CASES = (
    *(
        _case(f"a tensor of {what}", "ggml_new_tensor", _CTX + f"c.newTensor({code})", error, words)
        for what, code, error, words in (
            ("no elements", "T.F32, 0", "ValueError", "ne0"),
            ("less than no elements", "T.F32, -4", "ValueError", "ne0"),
            ("2**50 elements", "T.F32, 1 << 40, 1 << 10", "ValueError", "44"),
            ("more bytes than memory", "T.F32, 1 << 40", "NativeMemoryError", "memory"),
            ("five dimensions", "T.F32, 1, 1, 1, 1, 1", "ValueError", "4 dimensions"),
            ("half a block", "T.Q4_0, 16", "ValueError", "block"),
            ("a removed type", "4, 16", "ValueError", "4"),
            ("no type", "99, 16", "ValueError", "99"),
            ("a size that is a text", "T.F32, '4'", "TypeError", "ne0"),
        )
    ),
    *(
        _case(f"a view {what}", "ggml_view_2d", _A + f"c.view(a, {code})", "ValueError", words)
        for what, code, words in (
            ("beyond the end", "4, 4, 32, 20", "end"),
            ("with a huge stride", "8, 4, 1 << 30, 0", "end"),
            ("with a stride of 0", "1, 20, 0, 0", "strides"),
            ("between elements", "1, 1, 32, 2", "multiples"),
            ("before the beginning", "1, 1, 32, -32", "offset"),
        )
    ),
    *(
        _case(f"{name} with {what}", f"ggml_{function}", _A + code, error, words, kind)
        for name, what, function, code, error, words, kind in (
            (
                "mulMat",
                "matrices that do not fit",
                "mul_mat",
                "c.mulMat(a, c.tensor([1.0]))",
                "NativeAssertionError",
                "can_mul_mat",
                GUARD,
            ),
            (
                "reshape",
                "another number of elements",
                "reshape_1d",
                "c.reshape(a, 5)",
                "NativeAssertionError",
                "",
                GUARD,
            ),
            ("pool1d", "a stride of 0", "pool_1d", "c.pool1d(a, Ggml.OpPool.MAX, 2, 0, 0)", "ValueError", "s0", CHECK),
            ("conv1d", "a dilation of 0", "conv_1d", "c.conv1d(a, a, 1, 0, 0)", "ValueError", "d0", CHECK),
            ("groupNorm", "no groups", "group_norm", "c.groupNorm(a, 0, 1e-5)", "ValueError", "nGroups", CHECK),
            ("permute", "an axis that is none", "permute", "c.permute(a, 0, 1, 2, 7)", "ValueError", "axis3", CHECK),
            ("concat", "an axis that is none", "concat", "c.concat(a, a, 9)", "ValueError", "dim", CHECK),
            ("add", "an array", "add", "c.add(a, np.ones(8))", "TypeError", "Ggml.Tensor", CHECK),
            (
                "add",
                "a tensor of a freed context",
                "add",
                "d = Ggml.Context(); b = d.tensor([1.0]); d.free()\nc.add(a, b)",
                "ClosedError",
                "freed",
                OWNERSHIP,
            ),
            ("glu", "COUNT", "glu", "c.glu(a, Ggml.GluOp.COUNT, False)", "ValueError", "op", CHECK),
            (
                "siluBack",
                "other shapes",
                "silu_back",
                "Ggml.compute(c.siluBack(a, c.tensor([1.0])))",
                "ValueError",
                "shapes",
                CHECK,
            ),
            (
                "set",
                "a part beyond the end",
                "set",
                "Ggml.compute(c.set(a, a, 32, 128, 128, 64))",
                "ValueError",
                "fit",
                CHECK,
            ),
            (
                "getRows",
                "an index out of range",
                "get_rows",
                "Ggml.compute(c.getRows(a, c.tensor([9], T.I32)), nThreads=2)",
                "NativeAssertionError",
                "",
                GUARD,
            ),
            (
                "mulMatId",
                "an index out of range",
                "mul_mat_id",
                "e = c.tensor(np.ones((2, 4, 8), 'f4'))\n"
                "Ggml.compute(c.mulMatId(e, c.tensor(np.ones((1, 1, 8), 'f4')), c.tensor([[7]], T.I32)))",
                "ValueError",
                "index",
                CHECK,
            ),
            (
                "mulMatId",
                "indices that the graph writes to before",
                "mul_mat_id",
                "e = c.tensor(np.ones((2, 4, 8), 'f4')); i = c.tensor([[0]], T.I32)\n"
                "w = c.cpy(c.tensor([[1 << 28]], T.I32), i)\n"
                "Ggml.compute([w, c.mulMatId(e, c.tensor(np.ones((1, 1, 8), 'f4')), i)])",
                "ValueError",
                "indices",
                CHECK,
            ),
            (
                "mulMatId",
                "ranks that the graph overwrites",
                "mul_mat_id",
                "e = c.tensor(np.ones((2, 4, 8), 'f4')); i = c.argsort(c.tensor([[1.0]]), 0)\n"
                "w = c.cpy(c.tensor([[1 << 28]], T.I32), i)\n"
                "Ggml.compute([w, c.mulMatId(e, c.tensor(np.ones((1, 1, 8), 'f4')), i)])",
                "ValueError",
                "indices",
                CHECK,
            ),
            *(
                (
                    "argsort",
                    what,
                    "argsort",
                    f"x = c.tensor(np.linspace(-1, 1, 20000, dtype='f4'))\n{code}",
                    "ValueError",
                    "NaN",
                    CHECK,
                )
                for what, code in (
                    ("numbers that are NaN", "x.numpy()[::7] = np.nan; Ggml.compute(c.argsort(x, 0))"),
                    ("results that could be NaN", "Ggml.compute(c.argsort(c.log(x), 1))"),
                    ("numbers that become NaN in place", "Ggml.compute([c.logInplace(x), c.argsort(x, 0)])"),
                    (
                        "rows of which one is NaN",
                        "x.numpy()[-1] = np.nan; Ggml.compute(c.argsort(c.reshape(x, 20, 1000), 0))",
                    ),
                    ("NaN for its first", "x.numpy()[5] = np.nan; Ggml.compute(c.argsortTopK(x, 3))"),
                )
            ),
            (
                "topK",
                "numbers that are NaN",
                "top_k",
                "x = c.log(c.tensor(np.linspace(-1, 1, 20000, dtype='f4')))\n"
                "for k in (1, 17, 19999, 20000): Ggml.compute(c.topK(x, k))",
                "",
                "",
                CHECK,
            ),
            (
                "mulMat",
                "integers",
                "mul_mat",
                "Ggml.compute(c.mulMat(c.tensor(np.ones((4, 8), 'i4')), a))",
                "ValueError",
                "type",
                CHECK,
            ),
            (
                "rmsNorm",
                "integers",
                "rms_norm",
                "Ggml.compute(c.rmsNorm(c.tensor([1, 2], T.I32), 0.1), nThreads=2)",
                "NativeAssertionError",
                "",
                GUARD,
            ),
        )
    ),
    *(
        _case(
            f"{function} of a full context, past the facade",
            f"ggml_{function}",
            f"from llama_cffi import NativeMemoryError\nc = Ggml.Context(512)\nlib.ggml_{function}(c._c{rest})",
            "NativeMemoryError",
            "full",
            GUARD,
        )
        for function, rest in (("new_graph", ""), ("new_graph_custom", ", 100, True"), ("new_buffer", ", 4096"))
    ),
    *(
        _case(
            f"{function} of a type that is none, past the facade",
            f"ggml_{function}",
            f"lib.ggml_{function}({code})",
            "NativeError",
            words,
            GUARD,
        )
        for function, code, words in (
            ("type_size", "99", "99"),
            ("row_size", "4, 10", "removed"),
            ("type_name", "999", "999"),
            ("op_name", "999", "999"),
            ("unary_op_name", "999", "999"),
        )
    ),
    _case(
        "a graph that is too small",
        "ggml_build_forward_expand",
        _A + "g = c.newGraph(1)\nGgml.buildForwardExpand(g, (a + a) * a)",
        "ValueError",
        "newGraph",
    ),
    _case(
        "a graph without memory",
        "ggml_backend_graph_compute",
        "c = Ggml.Context(noAlloc=True); g = c.newGraph(8)\n"
        "Ggml.buildForwardExpand(g, c.sqr(c.newTensor(Ggml.Type.F32, 4)))\nGgml.Backend.cpuInit().graphCompute(g)",
        "ValueError",
        "no memory",
    ),
    _case(
        "a graph of a freed context",
        "ggml_graph_compute",
        _A + "g = c.newGraph(8)\nGgml.buildForwardExpand(g, a + a)\np = g.plan(1)\nc.free()\ng.compute(p)",
        "ClosedError",
        "freed",
        OWNERSHIP,
    ),
    _case(
        "a work memory that is too small",
        "ggml_graph_compute",
        _A + "g = c.newGraph(8)\nw = c.tensor(np.ones((4, 32), 'f4'), T.Q8_0)\n"
        "Ggml.buildForwardExpand(g, c.mulMat(w, c.tensor(np.ones((4, 32), 'f4'))))\np = g.plan(1)\n"
        "p.workData = bytearray(1)\ng.compute(p)",
        "ValueError",
        "workData",
    ),
    _case(
        "an array of a freed context",
        "ggml_get_data",
        _A + "x, d = a.numpy(), a.data\nc.free()\nimport gc; gc.collect()\nx[0, 0] = 3; assert d[3] == 0x40",
        "",
        kind=OWNERSHIP,
    ),
    *(
        _case(f"{name} {what}", f"ggml_backend_tensor_{function}", _A + f"a.{name}({code})", error, words)
        for name, function, what, code, error, words in (
            ("backendGet", "get", "into a pointer", "ffi.new('int *')", "TypeError", "array"),
            ("backendGet", "get", "into NULL", "ffi.NULL, 0, 8", "TypeError", "array"),
            ("backendGet", "get", "over Python objects", "np.array([object()] * 16)", "TypeError", "objects"),
            (
                "backendGet",
                "get",
                "over Python objects in structs",
                "np.zeros(16, [('x', 'O'), ('y', 'f4')])",
                "TypeError",
                "objects",
            ),
            ("backendGet", "get", "before the beginning", "None, -8", "ValueError", "offset"),
            ("backendGet", "get", "of a length that is a text", "None, 0, '4'", "TypeError", "size"),
            ("backendSet", "set", "from NULL", "ffi.NULL, 0, 8", "TypeError", "array"),
            (
                "backendSet",
                "set",
                "from a slice with steps",
                "np.ones((4, 16), 'f4')[:, ::2]",
                "ValueError",
                "contiguous",
            ),
        )
    ),
    _case(
        "contexts that use each other, collected in the middle of a computation",
        "ggml_free",
        _A + "import gc\nd = Ggml.Context(); b = d.tensor(np.ones((4, 8), 'f4'))\n"
        "r, s = c.add(a, b), d.add(a, b); c.free(); gc.collect()\nassert Ggml.compute(s)[0, 0] == 2\n"
        "v = s.context.tensor([7.0]).numpy(); d.free(); del c, d, a, b, r, s; gc.collect()\nassert v[0] == 7",
        "",
        kind=OWNERSHIP,
    ),
    _case(
        "a tensor whose context was collected",
        "ggml_free",
        _A + "del c\nimport gc; gc.collect()\nassert Ggml.compute(a + a)[0, 0] == 2",
        "",
        kind=OWNERSHIP,
    ),
    _case(
        "an allocator that was freed before its graph is read",
        "ggml_gallocr_free",
        "c = Ggml.Context(noAlloc=True); r = c.tensor([2.0]) * 2; g = c.newGraph(8)\n"
        "Ggml.buildForwardExpand(g, r)\nb = Ggml.Backend.cpuInit(); k = Ggml.Gallocr(b.getDefaultBufferType())\n"
        "k.allocGraph(g); b.graphCompute(g); assert r.numpy()[0] == 4\nk.free()\nr.numpy()",
        "ValueError",
        "no memory",
        OWNERSHIP,
    ),
    _case(
        "memory of the caller that is not aligned",
        "ggml_init",
        "Ggml.Context(100, memBuffer=memoryview(bytearray(4096))[3:])",
        "ValueError",
        "memBuffer",
    ),
    _case(
        "a thread pool smaller than the plan",
        "ggml_graph_plan",
        _A + "g = c.newGraph(8)\nGgml.buildForwardExpand(g, a + a)\ng.plan(2, Ggml.Threadpool(1))",
        "ValueError",
        "nThreads",
    ),
    _case(
        "a chain of 100,000 operations",
        "ggml_build_forward_expand",
        "c = Ggml.Context(noAlloc=True); r = c.tensor([1.0])\n"
        "for _ in range(100000): r = c.sqr(r)\nassert Ggml.compute(r, nThreads=1)[0] == 1",
        "",
    ),
    _case(
        "gradients without a loss",
        "ggml_build_backward_expand",
        _A + "g = c.newGraph(64, True)\nGgml.buildForwardExpand(g, c.sum(c.tensor([1.0]).setParam()))\n"
        "Ggml.buildBackwardExpand(c, g)",
        "ValueError",
        "loss",
    ),
    _case(
        "a Vulkan device that is none",
        "ggml_backend_vk_init",
        "import warnings; warnings.simplefilter('ignore'); Ggml.Backend.vkInit(99)",
        "IndexError",
        "devNum",
    ),
)
