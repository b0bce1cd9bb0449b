"""Threads, forks, and the end of the interpreter."""

from __future__ import annotations

from tests.safety.misuse.case import CHECK, GUARD, OWNERSHIP, Case

_FORK = "warnings.simplefilter('ignore', DeprecationWarning)\n"
_WAIT = "\nassert os.waitpid(child, 0)[1] == 0\n"


def _in_child(setup: str, body: str) -> str:
    """Code that forks; the child must end by itself, with status 0."""
    child = "".join(f"        {line}\n" for line in body.splitlines())
    return (
        f"{_FORK}{setup}\nchild = os.fork()\nif child == 0:\n    try:\n{child}        os._exit(0)\n"
        f"    except BaseException: sys.excepthook(*sys.exc_info())\n    os._exit(1){_WAIT}"
    )


def _at_exit(name: str, function: str, code: str) -> Case:
    """A case whose snippet leaves something alive that the interpreter finds at its end."""
    return Case(name, OWNERSHIP, function, code)


CASES = (
    # Forks
    *(
        Case(
            f"{name} in a forked child",
            OWNERSHIP,
            function,
            _in_child(setup, f"raises(ClosedError, lambda: {call}, 'parent process')"),
        )
        for name, function, setup, call in (
            ("decode", "llama_decode", "c = decoded()", "c.decode(batch())"),
            ("tokenize", "llama_tokenize", "v = load().vocab", "tokenize(v, 'x')"),
            ("sample", "llama_sampler_sample", "c = decoded(); s = Sampler.initGreedy()", "s.sample(c)"),
            ("a new context", "llama_init_from_model", "m = load()", "context(m)"),
            ("a state", "llama_state_get_data", "c = decoded()", "c.stateGetData()"),
            ("a memory", "llama_memory_clear", "m = (c := decoded()).getMemory()", "m.clear()"),
            ("a thread pool", "ggml_threadpool_pause", "p = Ggml.Threadpool(2)", "p.pause()"),
            (
                "an adapter",
                "llama_set_adapters_lora",
                "m = load(); c = context(m); a = Adapter.loraInit(m, path('lora'))",
                "c.setAdapterLora(a)",
            ),
            ("an extended batch", "llama_process", "c = context(); b = BatchExt.init(c)", "b.addToken(0, 5)"),
        )
    ),
    Case(
        "everything freed in a forked child",
        OWNERSHIP,
        "llama_free",
        _in_child(
            "m = load(); c = decoded(m); s = grammar(m); p = Ggml.Threadpool(2)",
            "for x in (p, s, c, m): x.free()\ndel p, s, c, m; gc.collect()",
        )
        + "c.decode(batch())",
    ),
    Case(
        "a forked child that ends by itself",
        OWNERSHIP,
        "llama_free",
        _FORK
        + "m = load(); c = decoded(m)\nchild = os.fork()\nif child == 0: sys.exit(0)"
        + _WAIT
        + "c.decode(batch())",
    ),
    Case(
        "a model loaded in a forked child",
        OWNERSHIP,
        "llama_model_load_from_file",
        _in_child(
            "c = decoded(nThreads=2, nThreadsBatch=2); c.decode(batch(9))",
            "raises(ForkError, lambda: decoded(nThreads=2, nThreadsBatch=2).decode(batch(9)), 'spawn')",
        ),
    ),
    Case(
        "a fork while another thread decodes",
        OWNERSHIP,
        "llama_decode",
        _FORK + "c = context(nThreads=1, nThreadsBatch=1); stop = False\n"
        "def work():\n    while not stop: c.getMemory().clear(False); c.decode(batch(64))\n"
        "t = threading.Thread(target=work); t.start()\n"
        "for _ in range(9):\n"
        "    child = os.fork()\n    if child == 0:\n        try: raises(ClosedError, lambda: c.decode(batch()))\n"
        "        except BaseException: os._exit(1)\n        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "stop = True; t.join()",
    ),
    Case(
        "a fork before anything is loaded",
        OWNERSHIP,
        "llama_model_load_from_file",
        _in_child("", "decoded(nThreads=2, nThreadsBatch=2).decode(batch(9))"),
        alone=True,
    ),
    Case(
        "processes that are spawned",
        OWNERSHIP,
        "llama_decode",
        "import subprocess\nc = decoded()\n"
        "code = 'from tests.safety.child import *; decoded()'\n"
        "assert subprocess.run([sys.executable, '-c', code, str(FOLDER)]).returncode == 0",
    ),
    # The end
    _at_exit(
        "everything alive at the end",
        "llama_free",
        "m = load(); c = decoded(m); s = Sampler.chain(grammar(m), Sampler.initGreedy()); "
        "a = Adapter.loraInit(m, path('lora'))\n"
        "c.setAdapterLora(a); b = BatchExt.init(c); v = c.getLogitsIth(); "
        "sys.keep = [m, c, s, a, b, v, Ggml.Threadpool(2)]",
    ),
    _at_exit(
        "everything alive in a cycle at the end",
        "llama_free",
        "class Node: pass\nn = Node(); n.n = n; n.m = load(); n.c = decoded(n.m); n.s = grammar(n.m); sys.n = n; del n",
    ),
    _at_exit(
        "a daemon thread that decodes at the end",
        "llama_decode",
        "c = context(nThreads=2, nThreadsBatch=2); go = threading.Event()\n"
        "def work():\n"
        "    while True: go.set(); c.getMemory().clear(False); c.decode(batch(64))\n"
        "threading.Thread(target=work, daemon=True).start(); go.wait()",
    ),
    _at_exit(
        "a daemon thread with callbacks at the end",
        "llama_decode",
        "go = threading.Event()\n"
        "class Own:\n"
        "    def apply(self, candidates): candidates.selected = 0\n"
        "c = context(nThreads=2, nThreadsBatch=2, abortCb=lambda: False, cbEval=lambda tensor, ask: None); "
        "s = Sampler.init(Own())\n"
        "def work():\n"
        "    while True: go.set(); c.getMemory().clear(False); c.decode(batch(64)); s.sample(c)\n"
        "threading.Thread(target=work, daemon=True).start(); go.wait()",
    ),
    _at_exit(
        "a daemon thread that loads models at the end",
        "llama_model_load_from_file",
        "go = threading.Event()\n"
        "def work():\n"
        "    while True: go.set(); load(progressCallback=lambda done: None)\n"
        "threading.Thread(target=work, daemon=True).start(); go.wait()",
    ),
    _at_exit(
        "a daemon thread with a log target at the end",
        "llama_log_set",
        "go = threading.Event(); logSet(lambda *a: None)\n"
        "def work():\n"
        "    while True: go.set(); load()\n"
        "threading.Thread(target=work, daemon=True).start(); go.wait()",
    ),
    _at_exit(
        "an exit handler that decodes", "llama_decode", "c = decoded(); atexit.register(lambda: c.decode(batch()))"
    ),
    _at_exit(
        "an exit handler that frees",
        "llama_free",
        "m = load(); c = decoded(m); atexit.register(m.free); atexit.register(c.free)",
    ),
    _at_exit(
        "a destructor that decodes at the end",
        "llama_decode",
        "class Late:\n"
        "    def __del__(self):\n"
        "        try: c.decode(batch())\n"
        "        except Exception: pass\n"
        "c = decoded(); sys.late = Late()",
    ),
    Case(
        "an exit from inside a callback",
        OWNERSHIP,
        "llama_decode",
        "def stop(): sys.exit(3)\n"
        "c = context(abortCb=stop)\n"
        "try: c.decode(batch())\n"
        "except SystemExit as error: assert error.code == 3",
    ),
    Case(
        "Ctrl-C inside a decode",
        OWNERSHIP,
        "llama_decode",
        "import signal\n"
        "def stop(): signal.raise_signal(signal.SIGINT)\n"
        "c = context(abortCb=stop)\n"
        "try: c.decode(batch())\n"
        "except KeyboardInterrupt: pass\n"
        "c.setAbortCallback(None); c.getMemory().clear(); c.decode(batch())",
    ),
    Case(
        "Ctrl-C inside a load",
        OWNERSHIP,
        "llama_model_load_from_file",
        "import signal\n"
        "def progress(done): signal.raise_signal(signal.SIGINT)\n"
        "try: load(progressCallback=progress)\n"
        "except KeyboardInterrupt: pass",
    ),
    # Threads
    Case(
        "objects dropped on other threads",
        OWNERSHIP,
        "llama_free",
        "m = load()\n"
        "def work():\n"
        "    c = decoded(m, nThreads=1, nThreadsBatch=1); "
        "ring = [c, Sampler.initGreedy(), c.getLogitsIth()]; ring.append(ring)\n"
        "only(together(work, work, lambda: gc.collect(), times=20))",
    ),
    Case(
        "a thread that ends with everything alive",
        OWNERSHIP,
        "llama_free",
        "kept = threading.local()\ndef work(): kept.c = decoded(nThreads=2, nThreadsBatch=2)\n"
        "for _ in range(9):\n    t = threading.Thread(target=work); t.start(); t.join()\n",
    ),
    Case(
        "assertions on several threads",
        GUARD,
        "llama_decode",
        "m = load()\n"
        "def work():\n"
        "    c, b = context(m, nBatch=8), batch(9)\n"
        "    raises(NativeAssertionError, lambda: lib.llama_decode(c._c, b._c[0]))\n"
        "    raises(ClosedError, lambda: c.decode(batch()))\n"
        "only(together(work, work, work, times=10))",
    ),
    Case(
        "a second interpreter",
        OWNERSHIP,
        "llama_model",
        "try: import _xxsubinterpreters as interpreters\n"
        "except ImportError: import _interpreters as interpreters\n"
        "i = interpreters.create()\n"
        "try: interpreters.run_string(i, 'from llama_cffi import lib')\n"
        "except Exception as error: assert 'interpreter' in str(error), error\n",
    ),
    Case(
        "the package imported anew",
        OWNERSHIP,
        "llama_model",
        "c = decoded()\n"
        "for name in [n for n in sys.modules if n.startswith('llama_cffi')]: del sys.modules[name]\n"
        "try:\n"
        "    import llama_cffi\n"
        "    llama_cffi.Ggml.Backend.cpuLoad()\n"
        "except ImportError: pass\n"
        "gc.collect(); c.decode(batch())",
    ),
    Case(
        "unloaded backends past the facade",
        CHECK,
        "ggml_backend_load",
        "raises(UnavailableError, lambda: lib.ggml_threadpool_new(ffi.NULL), 'cpuLoad')",
        alone=True,
    ),
)
