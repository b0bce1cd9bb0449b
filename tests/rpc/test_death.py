"""A worker that dies takes nothing along but what it held."""

from __future__ import annotations

import pytest

from tests.rpc.conftest import Client
from tests.rpc.workers import Worker, pids

BEGINNING = """
import signal

pid = [int(text) for text in sys.argv[2:] if ":" not in text]

def gone(victim):
    os.kill(pid[victim], signal.SIGKILL)
    proc = f"/proc/{pid[victim]}"
    while Path(f"{proc}/stat").read_text().split()[2] != "Z" or len(os.listdir(f"{proc}/task")) > 1:
        time.sleep(0.01)  # its threads end one by one, and the last one closes the sockets

devices = added()
model = Model.load(path("rpc"), Model.Params(devices=devices, nGpuLayers=6))
ctx, other = context(model), context(model)
sampler = Sampler.initGreedy()
for each in (ctx, other):
    each.decode(batch(8))
    sampler.sample(each, -1)
"""


def _run(client: Client, workers: list[Worker], code: str) -> None:
    client(BEGINNING + code, *(w.endpoint for w in workers), *pids(workers))


@pytest.mark.parametrize("victim", [0, 1])
def test_between_two_calls(client: Client, fresh: list[Worker], victim: int) -> None:
    code = f"""
gone({victim})

def use(context):
    context.decode(batch())
    Sampler.initGreedy().sample(context, -1)

raises(RpcError, lambda: use(ctx), endpoints[{victim}])
for _ in range(2):
    raises((RpcError, ClosedError), lambda: ctx.decode(batch()), "ended, or the connection to it was lost")
raises(ClosedError, lambda: ctx.decode(batch()), "close it, and make a new one")
raises((ClosedError, IndexError), lambda: ctx.getLogitsIth(-1))
raises(ClosedError, lambda: sampler.sample(ctx, -1), "close it, and make a new one")
raises(RpcError, lambda: use(other), endpoints[{victim}])
raises(RpcError, lambda: context(model), endpoints[{victim}])
raises(RpcError, lambda: Model.load(path("rpc"), Model.Params(devices=devices)), endpoints[{victim}])
raises(RpcError, lambda: devices[{victim}].memory, "rpc-worker")
assert devices[{1 - victim}].memory.total > 0
ctx.close()
other.close()
model.close()
raises(RpcError, lambda: devices[{victim}].memory, "cannot be reached any more")
assert greedy(Model.Params(devices=[])) and greedy(Model.Params(devices=[devices[{1 - victim}]]))
"""
    _run(client, fresh, code)


def test_in_the_middle_of_a_decode(client: Client, fresh: list[Worker]) -> None:
    code = """
threading.Timer(0.5, gone, [1]).start()

def decode_for_ever():
    while True:
        ctx.getMemory().clear(True)
        ctx.decode(batch(60))
        sampler.sample(ctx, -1)

raises(RpcError, decode_for_ever, "lost")
with model:
    pass
assert ctx.closed and other.closed
"""
    _run(client, fresh, code)


def test_while_a_model_is_loaded(client: Client, fresh: list[Worker]) -> None:
    """llama.cpp frees what it has of the model, and with it the connection."""
    code = """
ctx.close(), other.close(), model.close()
told = []

def half(progress):
    if progress > 0.5 and not told:
        told.append(progress)
        gone(0)
    return True

raises(RpcError, lambda: Model.load(path("rpc"), Model.Params(devices=devices, progressCallback=half)), endpoints[0])
assert told
raises(RpcError, lambda: devices[0].memory, "cannot be reached any more")
assert greedy(Model.Params(devices=[devices[1]]))
"""
    _run(client, fresh, code)


def test_others_do_not_notice(client: Client, fresh: list[Worker]) -> None:
    """Only what used the lost connection raises, while it goes on being lost in another thread."""
    code = """
ctx.close(), other.close(), model.close()
mine, yours = (Model.load(path("rpc"), Model.Params(devices=[device])) for device in devices)
expected = write(yours)
ctx = context(mine)
failures, stop = [], threading.Event()

def lose():
    while not stop.is_set():
        try:
            context(mine).decode(batch())
        except RpcError:
            failures.append(1)

thread = threading.Thread(target=lose)
thread.start()
gone(0)
try:
    while len(failures) < 20:
        assert write(yours) == expected
finally:
    stop.set()
    thread.join()
raises(RpcError, lambda: (ctx.decode(batch()), ctx.getLogitsIth(-1)), endpoints[0])
"""
    _run(client, fresh, code)


def test_outputs_that_never_came(client: Client, fresh: list[Worker]) -> None:
    """`decode` only asks a worker to compute: that it died is known when the outputs are read, or never."""
    code = """
os.kill(pid[1], signal.SIGSTOP)
threading.Timer(0.5, gone, [1]).start()
for each in (ctx, other):
    try:
        each.decode(batch())
        each.getLogitsIth(-1)
    except RpcError:
        pass
    else:
        raise AssertionError("no error")
other.close()
"""
    _run(client, fresh, code)


@pytest.mark.parametrize(
    "end", ["", "sys.exit(0)", "del model, ctx, other; gc.collect()", "ctx.close(); model.close()"]
)
def test_nobody_asks(client: Client, fresh: list[Worker], end: str) -> None:
    """What was on a dead worker is freed, or left behind, without a word."""
    _run(client, fresh, f"gone(0)\n{end}\n")


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "del model, ctx, other; gc.collect()", "model.close()"])
def test_nobody_dies(client: Client, fresh: list[Worker], end: str) -> None:
    _run(client, fresh, f"ctx.decode(batch())\n{end}\n")
    client("assert greedy(Model.Params(devices=added()))", fresh[0].endpoint, fresh[1].endpoint)


def test_started_anew(client: Client, fresh: list[Worker]) -> None:
    """The devices stay: what is loaded when the old models are closed works."""
    code = f"""
import subprocess
gone(0)
raises(RpcError, lambda: (ctx.decode(batch()), ctx.getLogitsIth(-1)))
port = endpoints[0].split(":")[1]
command = [sys.executable, "-m", "llama_cffi", "rpc-worker", "--port", port, "--threads", "1"]
anew = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
try:
    for line in anew.stderr:
        if line.startswith("listening"):
            break
    raises(RpcError, lambda: (other.decode(batch()), other.getLogitsIth(-1)))
    raises(RpcError, lambda: context(model), "Close the contexts and models that use it")
    model.close()
    assert greedy(Model.Params(devices=devices)) == greedy(Model.Params(devices=[]))
    assert anew.poll() is None
finally:
    anew.kill()
    anew.wait({60})
    anew.stderr.close()
"""
    _run(client, fresh, code)


def test_forked(client: Client, fresh: list[Worker]) -> None:
    """A forked process leaves its parent's connection alone, and is told so."""
    code = """
child = os.fork()
if not child:
    status = 1
    try:
        raises(RpcError, lambda: devices[0].memory, "forked from")
        raises(ClosedError, lambda: ctx.decode(batch()))
        model.close()
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
ctx.decode(batch())
sampler.sample(ctx, -1)
"""
    _run(client, fresh, code)


def test_a_machine_that_vanishes_is_noticed(client: Client, fresh: list[Worker]) -> None:
    """No packet comes from there, not even a goodbye: both sides ask from time to time (timer 2 is keepalive's)."""
    code = """
def timers(port):
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = [row for row in rows if row[3] == "01" and f":{port:04X}" in (row[1] + row[2])]
    return [row[5].split(":")[0] for row in established]

ctx.decode(batch())
sampler.sample(ctx, -1)
for endpoint in endpoints:
    deadline = time.monotonic() + 30
    while timers(int(endpoint.split(":")[1])) != ["02", "02"]:  # another timer while data is under way
        assert time.monotonic() < deadline, timers(int(endpoint.split(":")[1]))
        time.sleep(0.05)
"""
    _run(client, fresh, code)


def test_a_client_that_is_killed_leaves_the_worker_free(client: Client, fresh: list[Worker]) -> None:
    code = """
if not (child := os.fork()):
    devices = added()
    model = Model.load(path("rpc"), Model.Params(devices=devices))
    ctx = decoded(model)
    os.kill(os.getpid(), 9)
assert os.waitpid(child, 0)[1] == 9
assert greedy(Model.Params(devices=added())) == greedy(Model.Params(devices=[]))
"""
    client(code, *(w.endpoint for w in fresh))


def test_a_signal_is_no_loss(client: Client, fresh: list[Worker]) -> None:
    """It reaches whichever thread takes it; the one that talks to the worker does not."""
    code = """
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
assert write(model) == write(model)
signal.setitimer(signal.ITIMER_REAL, 0)
assert seen
"""
    _run(client, fresh, code)


def test_sigpipe_does_not_end_a_program_that_has_its_default(client: Client, fresh: list[Worker]) -> None:
    code = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
gone(0)
raises(RpcError, lambda: [(ctx.decode(batch()), ctx.getLogitsIth(-1)) for _ in range(3)])
"""
    _run(client, fresh, code)
