"""Many threads at once, at random: what they may share works, and what they may not is a clear error, never a race.

Each case is a storm of calls in its own interpreter, for `LLAMA_CFFI_STORM` seconds (half a second unless set). They
run under ThreadSanitizer too: `make sanitize-threads`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import write_lora

_SETUP = """
import gc, os, random, sys, threading, time
from llama_cffi import *
path, lora = sys.argv[1:]
REFUSALS = (BusyError, ClosedError, ContextFullError)
model = Model.load(path); vocab = model.vocab
def context(model=model, **params): return Context.initFromModel(model, Context.Params(nCtx=64, nThreads=2, **params))
def usual(): return Sampler.chain(Sampler.initTopK(40), Sampler.initTemp(0.8), Sampler.initDist(1))
def generate(ctx, sampler, n=4, prompt="Hello"):
    ctx.getMemory().clear(False)
    ctx.decode(Batch.getOne(tokenize(vocab, prompt)))
    out = []
    for _ in range(n):
        out.append(sampler.sample(ctx)); ctx.decode(Batch.getOne(out[-1:]))
    return out

def storm(*jobs, threads=2):
    # Every job on so many threads, again and again. Refusals are counted; anything else that is raised ends the test.
    end = time.monotonic() + float(os.environ.get("LLAMA_CFFI_STORM", "0.5"))
    done, refused, wrong = [0] * len(jobs), 0, []
    lock = threading.Lock()
    start = threading.Barrier(len(jobs) * threads)
    def work(index, seed):
        nonlocal refused
        rng = random.Random(seed)
        start.wait()
        while not wrong and (time.monotonic() < end or not done[index]):
            try:
                jobs[index](rng)
            except REFUSALS:
                with lock: refused += 1
                time.sleep(rng.random() / 1000)
            except BaseException as error:
                wrong.append(error)
                raise
            else:
                with lock: done[index] += 1
    workers = [threading.Thread(target=work, args=(i % len(jobs), i)) for i in range(len(jobs) * threads)]
    [w.start() for w in workers]; [w.join() for w in workers]
    assert not wrong, wrong
    return done, refused
"""

CASES = {
    "contexts of one model": """
expected = generate(context(), Sampler.initGreedy())
mine = threading.local()
def work(rng):
    if not hasattr(mine, "ctx") or rng.random() < 0.1: mine.ctx, mine.s = context(), Sampler.initGreedy()
    assert generate(mine.ctx, mine.s) == expected
    assert len(mine.ctx.getLogitsIth(-1)) == vocab.nTokens
done, refused = storm(work, threads=4)
assert refused == 0  # contexts of their own are never in each other's way, though making one may be
""",
    "one vocabulary": """
text = "Once upon a time, in a land far away; 3.14 and ünïcödé"
tokens = tokenize(vocab, text)
def encode(rng): assert tokenize(vocab, text) == tokens
def decode(rng): assert detokenize(vocab, tokens).strip() == text
def look(rng):
    token = rng.randrange(vocab.nTokens)
    vocab.tokenToPiece(token), vocab.getText(token), vocab.getScore(token), vocab.getAttr(token), vocab.isEog(token)
def ask(rng): model.desc, model.nParams, model.metaValStr("general.name"), model.metaCount
def choose(rng):
    with Sampler.initGrammar(vocab, 'root ::= "yes" | "no"') as s: s.apply(TokenDataArray(vocab.nTokens))
done, refused = storm(encode, decode, look, ask, choose)
assert refused == 0
""",
    "one context": """
ctx = context(nSeqMax=2); sampler = usual(); memory = ctx.getMemory()
def decode(rng): ctx.decode(Batch.getOne([rng.randrange(vocab.nTokens) for _ in range(rng.randint(1, 8))]))
def sample(rng):
    try: sampler.sample(ctx)
    except (ValueError, IndexError, LlamaError) as error:
        if not isinstance(error, REFUSALS): assert "output" in str(error) or "logits" in str(error), error
def look(rng):
    try: ctx.getLogitsIth(-1)[rng.randrange(vocab.nTokens)]
    except (IndexError, LlamaError, ValueError) as error:
        if not isinstance(error, REFUSALS): assert "output" in str(error) or "logits" in str(error), error
def forget(rng): rng.choice([lambda: memory.clear(True), lambda: memory.seqRemove(0), lambda: memory.seqCopy(0, 1)])()
def save(rng): ctx.stateSetData(ctx.stateGetData())
def tune(rng): ctx.setNThreads(rng.randint(1, 3)), ctx.perfContext, ctx.synchronize(), memory.seqPosMax(0)
done, refused = storm(decode, sample, look, forget, save, tune)
assert refused > 0 and all(done)
memory.clear(True)
assert ctx.decode(Batch.getOne([5])) == 0
""",
    "freed while in use": """
shared = {"ctx": context(), "s": usual()}
def use(rng): generate(shared["ctx"], shared["s"], 2)
def free(rng):
    time.sleep(rng.random() / 100)
    name = rng.choice(list(shared)); shared[name].free()
    shared[name] = context() if name == "ctx" else usual()
done, refused = storm(use, use, free)
assert all(done)
""",
    "a model freed while in use": """
shared = [Model.load(path)]
def use(rng):
    mine = shared[0]
    ctx = context(mine); ctx.decode(Batch.getOne(tokenize(mine.vocab, "Hello"))); ctx.getLogitsIth(-1)[0]
def read(rng): tokenize(shared[0].vocab, "Hello"), shared[0].vocab.tokenToPiece(5), shared[0].nEmbd
def free(rng):
    time.sleep(rng.random() / 20)
    shared[0].free()
    shared[0] = Model.load(path)
done, refused = storm(use, read, free)
assert all(done)
""",
    "a model freed while things are made of it": """
shared = [Model.load(path)]
def adapt(rng):
    with Adapter.loraInit(shared[0], lora) as adapter: assert adapter.metaCount
def choose(rng):
    with Sampler.chain(Sampler.initGrammar(shared[0].vocab, 'root ::= "yes" | "no"'), Sampler.initGreedy()) as s:
        s.apply(TokenDataArray(vocab.nTokens))
def free(rng):
    time.sleep(rng.random() / 20)
    shared[0].free()
    shared[0] = Model.load(path)
done, refused = storm(adapt, choose, free)
assert all(done)
""",
    "one chain": """
ctx = context(); generate(ctx, Sampler.initGreedy(), 1); shared = usual()
def sample(rng): shared.sample(ctx)
def accept(rng): shared.accept(rng.randrange(vocab.nTokens))
def apply(rng): shared.apply(TokenDataArray(256))
def clone(rng):
    with shared.clone() as twin: twin.apply(TokenDataArray(256)); twin.accept(7)
def change(rng):
    shared.chainAdd(Sampler.initTopP(0.9)); shared.reset()
    shared.chainRemove(shared.chainCount - 1).free()
done, refused = storm(sample, accept, apply, clone, change)
assert all(done)
""",
    "adapters": """
kept = Adapter.loraInit(model, lora)
plain = generate(context(), Sampler.initGreedy())
mine = threading.local()
def use(rng):
    if not hasattr(mine, "ctx"): mine.ctx, mine.s = context(), Sampler.initGreedy()
    mine.ctx.setAdapterLora(kept, rng.random()); generate(mine.ctx, mine.s)
    mine.ctx.clearAdapterLora(); assert generate(mine.ctx, mine.s) == plain
def load(rng):
    with Adapter.loraInit(model, lora) as adapter: assert adapter.metaCount
storm(use, load)
""",
    "the log": """
lines = []
def switch(rng): logSet(rng.choice([None, lambda level, text, data: lines.append(text)]))
def load(rng): Model.load(path).free()
def fail(rng):
    try: Model.load(lora)
    except ModelLoadError as error: assert "is an adapter" in str(error)
    else: raise AssertionError("an adapter is no model")
def use(rng): context().free()
storm(switch, load, fail, use)
logSet(None)
assert lines
""",
    "callbacks": """
class Stop(Exception): pass
calls = [0, 0, 0]
def progress(rng):
    def report(done):
        calls[0] += 1
        if rng.random() < 0.1: raise Stop
    try: Model.load(path, Model.Params(progressCallback=report)).free()
    except Stop: pass
def abort(rng):
    def ask():
        calls[1] += 1
        if rng.random() < 0.01: raise Stop
        return rng.random() < 0.01
    ctx = context(abortCb=ask)
    try: ctx.decode(Batch.getOne([5] * 16))
    except (Stop, DecodeError): pass
def watch(rng):
    def show(tensor, ask):
        calls[2] += 1
        if rng.random() < 0.01: raise Stop
        return rng.random() < 0.2
    ctx = context(cbEval=show)
    try: ctx.decode(Batch.getOne([5] * 16))
    except (Stop, DecodeError): pass
class Own:
    def apply(self, candidates): candidates.selected = 3
    def clone(self): return Own()
def choose(rng):
    with Sampler.chain(Sampler.initTopK(8), Sampler.init(Own())) as s, s.clone() as twin:
        array = TokenDataArray(64); twin.apply(array); assert array.selected == 3
storm(progress, abort, watch, choose)
assert all(calls)
""",
    "states": """
ctx = context(); generate(ctx, Sampler.initGreedy()); state = ctx.stateGetData()
expected = None
mine = threading.local()
def work(rng):
    global expected
    if not hasattr(mine, "ctx"): mine.ctx, mine.s = context(), Sampler.initGreedy()
    assert mine.ctx.stateSetData(state) == len(state)
    mine.ctx.decode(Batch.getOne([9])); token = mine.s.sample(mine.ctx)
    expected = token if expected is None else expected
    assert token == expected
    assert len(mine.ctx.stateSeqGetData(seqId=0))
storm(work, threads=4)
""",
    "trials of more threads": """
# As on two CPUs that other programs use about once each: faked, as the machine may be quiet or hide its load.
mine = threading.local()
greedy = lambda: Sampler.initGreedy()
expected, after = generate(context(), greedy(), 2), set()
def adapting(): return context(nThreadsBatch=2, adaptThreads=True)
def decide(state, phase, now, rate):
    at, trial = time.monotonic(), state.trial
    state.now, state.others, state.decided, trial.phase, trial.since = now, 2.0, at - 1, phase, at - 10
    trial.others, trial.base, trial.kept, trial.reference, trial.lowest = 2.0, 1, 1, 1, 1
    trial.next = trial.work = trial.worked = 0
    window = ffi.new("struct shim_window *", [at, 1.0, 300.0, 1.0, now + 2.0, rate, 1.0])
    lib.shim_threads_decide(state, window)
    after.add((phase, now, rate, trial.phase, state.now))
def work(rng):
    if not hasattr(mine, "ctx") or rng.random() < 0.1: mine.ctx, mine.s = adapting(), greedy()
    for phase in range(3):
        for now in 1, 2:
            mine.ctx.setNThreads(2, 2, adaptThreads=True)
            state = mine.ctx._threads
            state.cpus, state.now, state.marked = 2, now, rng.choice([0, time.monotonic() - 1, time.monotonic()])
            state.trial.phase, state.trial.next = phase, 0
            assert generate(mine.ctx, mine.s, 2) == expected
            for rate in 0.1, 10.0: decide(state, phase, now, rate)
    if rng.random() < 0.3: mine.ctx.setNThreads(rng.randint(1, 2), 2), generate(mine.ctx, mine.s, 1)
def alone(rng): assert generate(context(), greedy(), 2) == expected
shared = adapting()
def collide(rng):
    generate(shared, greedy(), 1)
    shared.setNThreads(2, 2, adaptThreads=True)
done, refused = storm(work, alone, collide)
assert all(done) and {row[3:] for row in after} == {(0, 1), (1, 2), (2, 1), (2, 2)}, after
""",
    "thread pools": """
mine = threading.local()
expected = generate(context(), Sampler.initGreedy())
def work(rng):
    if not hasattr(mine, "ctx"): mine.ctx, mine.s = context(nThreadsBatch=2), Sampler.initGreedy()
    with Ggml.Threadpool(rng.randint(2, 4)) as pool:
        mine.ctx.attachThreadpool(pool)
        assert generate(mine.ctx, mine.s) == expected
        if rng.random() < 0.5: pool.pause(), pool.resume()
        mine.ctx.detachThreadpool()
def quantize(rng): Model.quantize(path, f"{path}.{threading.get_ident()}", Model.QuantizeParams(nthread=2))
storm(work, quantize)
""",
    "the garbage collector": """
class Node: pass
def drop(rng):
    a, b = Node(), Node(); a.b, b.a = b, a
    a.model = Model.load(path); a.ctx = context(a.model); b.s = usual(); b.s.apply(TokenDataArray(16))
    a.ctx.decode(Batch.getOne([5])); a.logits = a.ctx.getLogitsIth(-1)
def collect(rng): gc.collect()
def use(rng): generate(context(), usual(), 1)
storm(drop, collect, use)
""",
}


@pytest.fixture(scope="module")
def lora_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "lora.gguf"
    write_lora(path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_storm(name: str, tiny_path: Path, lora_path: Path) -> None:
    command = [sys.executable, "-c", _SETUP + CASES[name], str(tiny_path), str(lora_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
