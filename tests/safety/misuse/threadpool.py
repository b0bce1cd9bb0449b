"""Thread pools."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, OWNERSHIP, Case

_SETUP = "c = context(nThreads=2, nThreadsBatch=2); p = Ggml.Threadpool(2); c.attachThreadpool(p)\n"
_WORK = "def work(): c.getMemory().clear(False); c.decode(batch(64))\n"

CASES = (
    *(
        Case(f"{n} threads", CHECK, "ggml_threadpool_new", f"Ggml.Threadpool({n})", error, "nThreads")
        for n, error in (
            ("0", "ValueError"),
            ("-1", "ValueError"),
            ("513", "ValueError"),
            ("(1 << 31) - 1", "ValueError"),
            ("1 << 40", "ValueError"),
            ("True", "TypeError"),
            ("1.5", "TypeError"),
        )
    ),
    Case(
        "more threads than the process may start",
        CHECK,
        "ggml_threadpool_new",
        "import llama_cffi._host.resources as machine\nmachine.startable = lambda: 3\nGgml.Threadpool(300)",
        "ValueError",
        "nThreads",
    ),
    Case("a priority that is none", CHECK, "ggml_threadpool_new", "Ggml.Threadpool(1, prio=99)", "ValueError", "99"),
    Case(
        "a priority that the process may not have",
        CHECK,
        "ggml_threadpool_new",
        "Ggml.Threadpool(1, prio=Ggml.SchedPriority.REALTIME).free()",
    ),
    Case(
        "a poll beyond 100",
        CHECK,
        "ggml_threadpool_new",
        "Ggml.Threadpool(1, poll=101)",
        "ValueError",
        "between 0 and 100",
    ),
    Case(
        "a CPU that is none", CHECK, "ggml_threadpool_new", "Ggml.Threadpool(1, cpumask=[511])", "ValueError", "CPU 511"
    ),
    Case(
        "a CPU beyond any", CHECK, "ggml_threadpool_new", "Ggml.Threadpool(1, cpumask=[1 << 40])", "ValueError", "CPU"
    ),
    Case("a negative CPU", CHECK, "ggml_threadpool_new", "Ggml.Threadpool(1, cpumask=[-1])", "ValueError", "CPU -1"),
    Case(
        "a CPU that is a text", CHECK, "ggml_threadpool_new", "Ggml.Threadpool(1, cpumask='x')", "TypeError", "cpumask"
    ),
    # Attaching
    Case("no pool", CHECK, "llama_attach_threadpool", "context().attachThreadpool(None)", "TypeError", "Threadpool"),
    Case(
        "a pool smaller than the context",
        CHECK,
        "llama_attach_threadpool",
        "context(nThreads=4).attachThreadpool(Ggml.Threadpool(2))",
        "ValueError",
        "4 threads (nThreads), got 2",
    ),
    Case(
        "a pool for batches smaller than the context",
        CHECK,
        "llama_attach_threadpool",
        "context(nThreads=1, nThreadsBatch=4).attachThreadpool(Ggml.Threadpool(4), Ggml.Threadpool(2))",
        "ValueError",
        "4 threads (nThreadsBatch), got 2",
    ),
    Case(
        "a context that outgrows its pool",
        CHECK,
        "llama_set_n_threads",
        _SETUP + "c.setNThreads(3)",
        "ValueError",
        "make a larger pool",
    ),
    Case(
        "a context that would outgrow its pool if it were calm",
        CHECK,
        "llama_set_n_threads",
        _SETUP + "c.setNThreads(3, adaptThreads=True)",
        "ValueError",
        "make a larger pool",
    ),
    Case(
        "a context that adapts its threads to others, on a pool",
        OWNERSHIP,
        "llama_attach_threadpool",
        "c = context(adaptThreads=True, nThreads=2, nThreadsBatch=2); p = Ggml.Threadpool(2)\n"
        "for _ in range(9):\n"
        "    c.attachThreadpool(p); assert not c.adaptThreads; c.decode(batch(2))\n"
        "    c.setNThreads(2, adaptThreads=True); c.decode(batch()); c.detachThreadpool(); c.decode(batch())",
    ),
    Case(
        "a pool for two contexts",
        OWNERSHIP,
        "llama_attach_threadpool",
        _SETUP + "context(nThreads=2, nThreadsBatch=2).attachThreadpool(p)",
        "BusyError",
        "one pool for each context",
    ),
    Case(
        "a pool that was freed",
        OWNERSHIP,
        "llama_attach_threadpool",
        "p = Ggml.Threadpool(9); p.free(); context(nThreads=1, nThreadsBatch=1).attachThreadpool(p)",
        "ClosedError",
        "it was freed",
    ),
    Case(
        "attached again and again",
        OWNERSHIP,
        "llama_attach_threadpool",
        "c = context(nThreads=2, nThreadsBatch=2)\n"
        "for _ in range(4):\n"
        "    p = Ggml.Threadpool(2); c.attachThreadpool(p); c.decode(batch()); c.detachThreadpool(); p.free()\n"
        "    c.decode(batch())",
    ),
    Case(
        "replaced without detaching",
        OWNERSHIP,
        "llama_attach_threadpool",
        _SETUP + "q = Ggml.Threadpool(2); c.attachThreadpool(q); c.decode(batch()); p.free(); c.decode(batch(9)); "
        "c.decode(batch())",
    ),
    Case(
        "detached without being attached",
        OWNERSHIP,
        "llama_detach_threadpool",
        "c = context(); c.detachThreadpool(); c.detachThreadpool(); c.decode(batch())",
    ),
    # The end
    Case(
        "freed while a context uses it",
        OWNERSHIP,
        "ggml_threadpool_free",
        _SETUP + "p.free()",
        "BusyError",
        "detachThreadpool",
    ),
    Case(
        "forgotten while a context uses it",
        OWNERSHIP,
        "ggml_threadpool_free",
        _SETUP + "del p; gc.collect(); c.decode(batch()); c.decode(batch(9))",
    ),
    Case(
        "freed after the context",
        OWNERSHIP,
        "ggml_threadpool_free",
        _SETUP + "c.decode(batch()); c.free(); p.free(); p.free()",
    ),
    Case(
        "freed after it was detached, before the context",
        OWNERSHIP,
        "llama_detach_threadpool",
        _SETUP
        + "c.decode(batch(9)); c.detachThreadpool(); p.free(); gc.collect(); c.decode(batch()); c.decode(batch(9))",
    ),
    Case(
        "forgotten after it was detached, before the context",
        OWNERSHIP,
        "llama_detach_threadpool",
        _SETUP + "c.decode(batch(9)); c.detachThreadpool(); del p; gc.collect(); c.decode(batch()); c.decode(batch(9))",
    ),
    Case(
        "forgotten together with its context",
        OWNERSHIP,
        "ggml_threadpool_free",
        "for _ in range(4):\n    " + _SETUP.replace("\n", "; c.decode(batch()); del c, p; gc.collect()\n"),
    ),
    Case(
        "freed with its context by freeing the model",
        OWNERSHIP,
        "ggml_threadpool_free",
        _SETUP + "c.getModel().free(); p.free(); assert p.closed and c.closed",
    ),
    *(
        Case(
            f"{call} while the context decodes",
            OWNERSHIP,
            function,
            _SETUP + _WORK + f"only(together(work, lambda: {body}, times=100), BusyError)\np.resume(); work()",
        )
        for call, function, body in (
            ("paused and resumed", "ggml_threadpool_pause", "(p.pause(), p.resume())"),
            ("freed", "ggml_threadpool_free", "p.free()"),
        )
    ),
    Case(
        "detached and freed while the context decodes",
        OWNERSHIP,
        "ggml_threadpool_free",
        _SETUP + _WORK + "def swap():\n    c.detachThreadpool(); p.free()\n"
        "only(together(work, swap, times=100), BusyError); c.detachThreadpool(); p.free(); work()",
    ),
    Case(
        "detached inside a decode",
        OWNERSHIP,
        "llama_detach_threadpool",
        "def stop(): c.detachThreadpool()\nc = context(nThreads=2, nThreadsBatch=2, abortCb=stop)\n"
        "p = Ggml.Threadpool(2); c.attachThreadpool(p); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "paused inside a decode",
        OWNERSHIP,
        "ggml_threadpool_pause",
        "def stop(): p.pause()\nc = context(nThreads=2, nThreadsBatch=2, abortCb=stop)\n"
        "p = Ggml.Threadpool(2); c.attachThreadpool(p); c.decode(batch())",
        "BusyError",
        "in use",
    ),
    Case(
        "decoding with a paused pool",
        OWNERSHIP,
        "ggml_threadpool_pause",
        _SETUP + "p.pause(); c.decode(batch(9)); p.pause(); p.resume(); c.decode(batch())",
    ),
    Case(
        "paused twice, freed paused",
        OWNERSHIP,
        "ggml_threadpool_pause",
        "p = Ggml.Threadpool(2, paused=True); p.pause(); p.pause(); p.free()",
    ),
    *(
        Case(
            f"{call} after its end",
            OWNERSHIP,
            function,
            f"p = Ggml.Threadpool(2); p.free(); p.{call}()",
            "ClosedError",
            "it was freed",
        )
        for call, function in (("pause", "ggml_threadpool_pause"), ("resume", "ggml_threadpool_resume"))
    ),
    Case("freed twice", OWNERSHIP, "ggml_threadpool_free", "p = Ggml.Threadpool(2); p.free(); p.free(); p.close()"),
    Case(
        "freed by several threads",
        OWNERSHIP,
        "ggml_threadpool_free",
        "def race():\n"
        "    p = Ggml.Threadpool(2); "
        "only(together(p.free, p.pause, p.resume, times=2), BusyError, ClosedError)\n"
        "for _ in range(50): race()",
    ),
    Case("left alone at the end", OWNERSHIP, "ggml_threadpool_free", _SETUP + "c.decode(batch()); sys.keep = [p, c]"),
    Case(
        "copies of a pool",
        OWNERSHIP,
        "ggml_threadpool",
        "copy.copy(Ggml.Threadpool(1))",
        "TypeError",
        "cannot be copied",
    ),
)
