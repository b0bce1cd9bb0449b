"""Session files with a forged KV cache or forged checkpoints: an exception or a session, and the process goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_archs, tiny_models
from tests.safety import isolated

# Every digest in a forged file is right, so that llama.cpp reads the state.
_FORGED = """
import hashlib, random, struct, warnings
logSet(lambda level, text, data: None)
warnings.simplefilter("ignore", RuntimeWarning)
HEADER = struct.Struct("<8sIIQ32s32s")
folder = sys.argv[2]
model = Model.load(sys.argv[1])
params = lambda: Context.Params(nCtx=256, nThreads=1, nThreadsBatch=1)
path, bad = os.path.join(folder, "whole"), os.path.join(folder, "bad")
with Context.initFromModel(model, params()) as ctx:
    session = ChatSession(ctx, template="chatml")
    session.send("Hello", maxTokens=4, sampler=defaultSampler(0)).result()
    session.save(path)
with open(path, "rb") as file:
    whole = file.read()
n_head = HEADER.unpack(whole[:HEADER.size])[2]
head, state = whole[HEADER.size : HEADER.size + n_head], whole[HEADER.size + n_head :]
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), hard))
rng, outcomes, ctx = random.Random(1), {}, Context.initFromModel(model, params())
SPECIAL = (0, 1, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 2, 1 << 30)
for number in range(240):
    changed = bytearray(state)
    if number % 8 == 0:
        del changed[rng.randrange(len(changed)) :]
    elif number % 8 == 1:
        changed += bytes(rng.randrange(1, 64))
    else:  # most of the structure is at the beginning
        at = 4 * number if number < 160 else 4 * rng.randrange(len(changed) // 4)
        changed[at : at + 4] = rng.choice(SPECIAL).to_bytes(4, "little")
    digests = hashlib.sha256(head).digest(), hashlib.sha256(changed).digest()
    with open(bad, "wb") as file:
        file.write(HEADER.pack(b"LCFFCHAT", 1, len(head), len(changed), *digests) + head + changed)
    try:
        loaded = ChatSession.load(ctx, bad, template="chatml")
        outcome = "loaded"
        answer = loaded.send("Again", maxTokens=2, sampler=defaultSampler(0))
        answer.result()
        outcome = "reused" if answer.usage.reusedTokens else "computed"
    except (LlamaError, ValueError, MemoryError) as error:
        outcome = type(error).__name__
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
    if ctx.closed or number % 40 == 39:
        ctx.close()
        ctx = Context.initFromModel(model, params())
assert sum(outcomes.values()) == 240 and outcomes.get("computed", 0) + outcomes["StateError"] > 40, outcomes
assert ChatSession.load(ctx, path, template="chatml").messages == session.messages
"""

# The state is right, and a checkpoint is not: it is read when a later turn goes back to it.
_FORGED_CHECKPOINT = """
import random
logSet(lambda level, text, data: None)
from llama_cffi.generation.token_cache import TokenCache
model, path = Model.load(sys.argv[1]), os.path.join(sys.argv[2], "chat")
params = Context.Params(nCtx=2048, nUbatch=32, nThreads=1, nThreadsBatch=1, swaFull=False)
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), hard))
rng, outcomes = random.Random(1), {}
def say(session, text):
    answer = session.send(text, maxTokens=2, sampler=defaultSampler(0))
    answer.result()
    return answer.usage
for number in range(80):
    with Context.initFromModel(model, params) as ctx:
        session = ChatSession(ctx, template="chatml")
        for turn in range(3):
            say(session, "word " * 60)
        kept = TokenCache(ctx).contents.checkpoints
        for count, state in kept.items():
            forged = bytearray(state)
            at = 4 * number if number < 40 else 4 * rng.randrange(len(state) // 4)
            forged[at : at + 4] = rng.choice((0, 1, 255, 1 << 31, (1 << 32) - 1)).to_bytes(4, "little")
            kept._states[count] = bytes(forged[: len(forged) - number % 3])
        session.save(path)
        loaded = ChatSession.load(ctx, path, template="chatml")
        loaded.messages[1]["content"] = "edited"
        try:
            outcome = "restored" if say(loaded, "And?").restoredTokens else "computed"
        except (LlamaError, ValueError, MemoryError) as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
assert outcomes.get("computed", 0) > 10 and outcomes.get("restored", 0) > 5, outcomes
"""


def _model(arch: str, path: Path) -> Path:
    if arch == "llama":
        return tiny_models.write_llama(path)
    if arch == "lfm2":
        return tiny_archs.write_hybrid(path)
    return tiny_archs.write(path, arch, n_layer=6 if arch == "gemma3" else 2)


@pytest.mark.parametrize("arch", ["gemma3", "mamba2", "lfm2"])
def test_a_forged_checkpoint(arch: str, tmp_path: Path) -> None:
    ended = isolated.run(_FORGED_CHECKPOINT, _model(arch, tmp_path / "model.gguf"), tmp_path, timeout=240)
    assert ended.passed, ended


@pytest.mark.parametrize("arch", ["llama", "gemma3", "mamba2", "lfm2"])
def test_a_forged_memory(arch: str, tmp_path: Path) -> None:
    ended = isolated.run(_FORGED, _model(arch, tmp_path / "model.gguf"), tmp_path, timeout=240)
    assert ended.passed, ended
