"""Samplers that read a vocabulary or call Python: in every order of ends, the interpreter's included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.safety import isolated

_SETUP = """
class Own:
    freed = 0
    def apply(self, candidates): candidates.selected = 0
    def accept(self, token): pass
    def clone(self): return Own()
    def __del__(self): Own.freed += 1
"""

CASES = {
    "a grammar keeps its model": """
s = grammar(load()); gc.collect()
s.apply(TokenDataArray(N_VOCAB)); s.free()
c = Sampler.chain(grammar(load()), Sampler.initGreedy()); gc.collect()
c.apply(TokenDataArray(N_VOCAB))
twin = c.clone(); del c; gc.collect()
twin.apply(TokenDataArray(N_VOCAB)); twin.reset()
""",
    "the model is freed under a grammar": """
model = load(); s = grammar(model)
c = Sampler.chain(grammar(model), Sampler.initInfill(model.vocab), Sampler.initGreedy())
twin = c.clone(); outer = Sampler.chain(c); member = c.chainGet(2)
model.free()
for sampler in (s, c, twin, outer, member):
    assert sampler.closed
    raises(ClosedError, sampler.reset, "its model was freed" if sampler in (s, outer) else "freed")
    sampler.free()
raises(ClosedError, lambda: grammar(model))
""",
    "a model is not leaked by a chain that is collected": """
model = load(); gone = weakref.ref(model)
c = Sampler.chain(grammar(model), Sampler.initDry(model.vocab, 0.8, seqBreakers=[]), Sampler.initGreedy())
c2 = c.clone(); del c; gc.collect()
c2.chainRemove(0); gc.collect()
del c2; gc.collect()
assert model._owned.dependents == 0, model._owned.dependents
c = Sampler.chain(Sampler.chain(grammar(model))); c.free()
assert model._owned.dependents == 0, model._owned.dependents
""",
    "cycles in any order": """
class Node: pass
for order in range(60):
    nodes = [Node() for _ in range(4)]
    model = load() if order % 10 == 0 else model
    own = Own(); made = Sampler.chain(grammar(model), Sampler.init(own), Sampler.initGreedy())
    own.chain = made
    params = Context.Params(nCtx=64, nOutputsMaxPerSeq=1)
    if order % 2: params.samplers = {0: made}
    nodes[order % 4].a = model; nodes[(order + 1) % 4].b = Context.initFromModel(model, params)
    nodes[(order + 2) % 4].c = made; own.node = nodes[(order + 3) % 4]
    for i in range(4): nodes[i].next = nodes[(i + 1) % 4]
    if order % 10 == 9: del model
    del nodes, made, own, params; gc.collect()
assert Own.freed == 60, Own.freed
""",
    "python samplers alive at exit": """
model = load(); ctx = context(model); ctx.decode(Batch.getOne([5]))
c = Sampler.chain(grammar(model), Sampler.init(Own())); alone = Sampler.init(Own())
own = Own(); own.s = Sampler.init(own)
assert alone.sample(ctx) == 0
sys.keep = [model, ctx, c, c.clone(), alone, own]
""",
    "given to a context and alive at exit": """
params = Context.Params(nCtx=64, nOutputsMaxPerSeq=1)
c = Sampler.chain(Sampler.initTopK(9), Sampler.init(Own())); params.samplers = {0: c}
model = load(); ctx = Context.initFromModel(model, params); ctx.decode(Batch.getOne([5])); c.sample(ctx)
sys.keep = [params, c, ctx, model]
""",
    "used by an exit handler": """
def late():
    raises(ClosedError, lambda: own.accept(1), "the interpreter is ending")
    assert plain.name == "greedy"
atexit.register(late)
import llama_cffi.sampling.base as base
atexit.unregister(base._close_python_samplers); atexit.register(base._close_python_samplers)  # runs first
own = Sampler.init(Own()); plain = Sampler.initGreedy()
""",
    "a daemon thread samples at exit": """
model = load(); ctx = context(model); ctx.decode(Batch.getOne([5])); started = threading.Event()
class Slow:
    def apply(self, candidates):
        started.set(); threading.Event().wait(60)
c = Sampler.chain(Sampler.init(Slow()), Sampler.initGreedy())
threading.Thread(target=lambda: c.sample(ctx), daemon=True).start(); started.wait()
""",
    "freed from inside": """
class Suicide:
    def apply(self, candidates): raises(BusyError, s.free); candidates.selected = 0
s = Sampler.init(Suicide()); s.apply(TokenDataArray(3)); s.free(); s.free()
""",
    "a name that is asked for after the object is gone": """
s = Sampler.init(Own()); gc.collect(); assert s.name == "Own"
c = Sampler.chain(s); del s; gc.collect(); assert c.chainGet(0).name == "Own"
""",
    "raw clones": """
s = Sampler.init(Own()); raw = lib.llama_sampler_clone(s._c); lib.llama_sampler_free(raw); s.free(); del s; gc.collect()
assert Own.freed == 2
""",
    "threads with a sampler each": """
model = load(); errors = []
def work():
    try:
        ctx = context(model, nThreads=1); c = Sampler.chain(grammar(model), Sampler.initTopK(1), Sampler.init(Own()))
        for _ in range(30):
            ctx.decode(Batch.getOne([5])); ctx.getMemory().clear(True)
            candidates = TokenDataArray(N_VOCAB); c.apply(candidates); assert candidates.selected == 0
    except BaseException as error: errors.append(error)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not errors, errors
""",
    "threads on one chain": """
model = load(); busy = 0; c = Sampler.chain(Sampler.initTopK(40), Sampler.initPenalties(64, 1.1), Sampler.initDist(1))
def work():
    global busy
    member = c.chainGet(1)
    for _ in range(300):
        try:
            c.apply(TokenDataArray(2000)); c.accept(7); member.accept(8); c.clone().free()
        except BusyError: busy += 1
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
c.apply(TokenDataArray(2000))
""",
    "fork": """
s = Sampler.init(Own()); g = grammar(load())
child = os.fork()
if child == 0:
    raises(ClosedError, lambda: s.accept(1), "parent process")
    del s, g; gc.collect(); sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
s.accept(1); g.reset()
""",
    "the context fails to be made": """
c = Sampler.chain(Sampler.init(Own())); params = Context.Params(nCtx=64); params.samplers = [(0, c)]
model = load()
params.nThreads = 0
raises(ValueError, lambda: Context.initFromModel(model, params), "nThreads")
params.nThreads = 1
ctx = Context.initFromModel(model, params)
raises(ValueError, c.free, "free the context first")
ctx.free(); c.free(); del c, params, ctx; gc.collect(); assert Own.freed == 1
""",
}


@pytest.mark.parametrize("name", CASES)
def test_lifetime(name: str, folder: Path) -> None:
    ended = isolated.run(_SETUP + CASES[name], folder, timeout=120)
    assert ended.passed, ended
