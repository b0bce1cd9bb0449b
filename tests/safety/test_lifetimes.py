"""Who frees what, when, and what a freed object answers. Each case runs in its own interpreter, which must survive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.safety import isolated

CASES = {
    "free twice": """
model = load(); ctx = context(model); s = Sampler.initGreedy()
for _ in range(2): Sampler.free(s); Context.free(ctx); Model.free(model)
""",
    "free the model first": """
model = load(); ctx = context(model); vocab = model.vocab; memory = ctx.getMemory()
ctx.decode(Batch.getOne([5]))
Model.free(model)
raises(ClosedError, lambda: ctx.decode(Batch.getOne([5])), "its model was freed")
raises(ClosedError, lambda: tokenize(vocab, "Hello"), "freed")
raises(ClosedError, lambda: memory.clear(True), "its model was freed")
raises(ClosedError, lambda: model.nEmbd, "it was freed")
raises(ClosedError, lambda: model.vocab)
raises(ClosedError, lambda: Context.initFromModel(model))
ctx.free()
""",
    "the model's name goes first": """
ctx = context(load()); gc.collect()
assert ctx.decode(Batch.getOne([5])) == 0
vocab = load().vocab; gc.collect()
assert tokenize(vocab, "Hello")
""",
    "cycles in any order": """
class Node: pass
for order in range(40):
    nodes = [Node() for _ in range(3)]
    model = load() if order % 10 == 0 else model
    nodes[order % 3].a = model; nodes[(order + 1) % 3].b = context(model)
    chain = Sampler.chainInit(); chain.chainAdd(Sampler.initGreedy())
    nodes[(order + 2) % 3].c = chain
    for i in range(3): nodes[i].next = nodes[(i + 1) % 3]
    if order % 10 == 9: del model
    del nodes, chain; gc.collect()
""",
    "with": """
with load() as model, context(model) as ctx:
    ctx.decode(Batch.getOne([5]))
assert model.closed and ctx.closed
raises(ClosedError, lambda: ctx.nCtx)
""",
    "an exception inside with": """
try:
    with load() as model, context(model) as ctx:
        raise KeyError
except KeyError:
    assert ctx.closed and model.closed
""",
    "everything alive at exit": """
model = load(); ctx = context(model); ctx.decode(Batch.getOne([5]))
chain = Sampler.chainInit(); chain.chainAdd(Sampler.initGreedy())
sys.keep = [model, ctx, chain, Batch.init(4, 0, 1)]
""",
    "a sampler of a freed context": """
model = load(); ctx = context(model); s = Sampler.initGreedy()
ctx.decode(Batch.getOne([5])); ctx.free()
raises(ClosedError, lambda: s.sample(ctx), "it was freed")
""",
    "copies and pickles": """
model = load(); ctx = context(model)
for thing in (model, ctx, Sampler.initGreedy()):
    raises(TypeError, lambda: copy.copy(thing), "cannot be copied")
    raises(TypeError, lambda: copy.deepcopy(thing), "cannot be copied")
    raises(TypeError, lambda: pickle.dumps(thing), "cannot be copied")
    raises(TypeError, lambda: type(thing)(), "not made by calling the class")
""",
    "fork": """
import warnings; warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork with threads
model = load(); ctx = context(model); ctx.decode(Batch.getOne([5]))
child = os.fork()
if child == 0:
    raises(ClosedError, lambda: ctx.decode(Batch.getOne([5])), "parent process")
    raises(ClosedError, lambda: tokenize(model.vocab, "x"), "parent process")
    del ctx, model; gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert ctx.decode(Batch.getOne([5])) == 0
""",
    "two threads on one context": """
model = load(); ctx = context(model, nThreads=2, nThreadsBatch=2); busy = 0
lock = threading.Lock()
def work():
    global busy
    for _ in range(200):
        try:
            ctx.getMemory().clear(False)
            ctx.decode(Batch.getOne([5] * 32))
        except BusyError:
            with lock: busy += 1
        except ContextFullError:
            pass
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert busy > 0
ctx.getMemory().clear(True)
assert ctx.decode(Batch.getOne([5])) == 0
""",
    "free while another thread decodes": """
model = load(); ctx = context(model, nBatch=64)
stop = False
def work():
    while not stop:
        try:
            ctx.getMemory().clear(False)
            ctx.decode(Batch.getOne([5] * 64))
        except (BusyError, ClosedError):
            pass
thread = threading.Thread(target=work); thread.start()
refused = 0
while not ctx.closed:
    try: model.free()
    except BusyError: refused += 1
stop = True; thread.join()
""",
    "one model, a context for each thread": """
model = load(); results = []
def work():
    ctx = context(model, nThreads=1); s = Sampler.initGreedy(); out = []
    ctx.decode(Batch.getOne(tokenize(model.vocab, "Hello")))
    for _ in range(20):
        out.append(s.sample(ctx)); ctx.decode(Batch.getOne(out[-1:]))
    results.append(out)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(results) == 4 and all(r == results[0] for r in results)
""",
}


@pytest.mark.parametrize("name", CASES)
def test_lifetime(name: str, folder: Path) -> None:
    ended = isolated.run(CASES[name], folder, timeout=600)
    assert ended.passed, ended
