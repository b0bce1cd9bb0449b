"""The prompt cache on disk: processes that are killed while they write, share a folder, or find the disk full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_cffi.generation.prompt_cache.entry import read_entry, read_state
from tests.safety import isolated

# What a child has: a model, a cache in the folder of its second argument, and a check of what is written with it.
_CHILD = """
import random
logSet(lambda level, text, data: None)
place = sys.argv[2]
model = Model.load(os.path.join(sys.argv[1], "f32.gguf"))
kind = Ggml.Type.F32
params = Context.Params(nCtx=512, nThreads=1, nThreadsBatch=1, typeK=kind, typeV=kind)

def prompt(k, n=120):
    return [3 + (k * 31 + 7 * i) % 300 for i in range(n)]

def write(tokens, cache=None):
    with Context.initFromModel(model, params) as ctx, Sampler.initGreedy() as greedy:
        text = Generation(ctx, tokens, sampler=greedy, maxTokens=6, promptCache=cache)
        text.result()
    return text.tokens, text.usage.tokensFromDisk

PLAIN = {k: write(prompt(k))[0] for k in range(8)}

def check(cache, k):
    tokens, from_disk = write(prompt(k), cache)
    assert tokens == PLAIN[k], (k, from_disk)
    return from_disk
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dataclasses import replace

    from tests import tiny_models

    folder = tmp_path_factory.mktemp("prompts")
    tiny_models.write_llama(folder / "f32.gguf", spec=replace(tiny_models.LLAMA, quant="F32"))
    return folder


def start(code: str, *arguments: Path | str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", "from tests.safety.child import *\n" + _CHILD + code, *map(str, arguments)],
        cwd=isolated.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return child


_ENDLESS = """
cache = PromptCache(place, minTokens=32, maxBytes=400_000)
chance = random.Random(int(sys.argv[3]))
check(cache, 0)
fsync = os.fsync
os.fsync = lambda file: (time.sleep(0.05), fsync(file))  # so that it is mostly killed while it writes
print("ready", flush=True)
while True:
    check(cache, chance.randrange(8))
"""

_ONCE = """
cache = PromptCache(place, minTokens=32, maxBytes=400_000)
used = sum(check(cache, k) > 0 for k in (*range(8), *range(8)) if cache.flush())
assert used and cache.totals.damaged == cache.totals.failed == 0, (used, cache.totals)
assert not [name for name in os.listdir(place) if name.startswith(".")], "what killed processes left is gone"
"""


def test_killed_at_any_moment(models: Path, tmp_path: Path) -> None:
    """All files are whole each time; the next process uses them, and removes what the killed one has left."""
    left, chance = 0, random.Random(21)
    for round in range(8):
        child = start(_ENDLESS, models, tmp_path, str(round))
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        left += any(path.name.startswith(".") for path in tmp_path.iterdir())
        for file in tmp_path.glob("*.prompt"):
            read_state(str(tmp_path), read_entry(str(tmp_path), file.name), 0, 1)  # raises for damage
    assert left, "no child was killed while it wrote"
    ended = isolated.run(_CHILD + _ONCE, models, tmp_path, timeout=120)
    assert ended.passed, ended


_SHARED = """
cache = PromptCache(place, minTokens=32, maxBytes=400_000)
chance = random.Random(int(sys.argv[3]))
for _ in range(60):
    check(cache, chance.randrange(8))
    if chance.random() < 0.1:
        cache.clear()
assert cache.flush() and cache.totals.damaged == cache.totals.failed == 0 and cache.totals.written, cache.totals
print(cache.totals.used)
"""


def test_processes_that_share_a_folder(models: Path, tmp_path: Path) -> None:
    """Each writes, reads, removes what is too much, and clears all."""
    children = [start(_SHARED, models, tmp_path, str(k)) for k in range(3)]
    used = 0
    for child in children:
        text, errors = child.communicate(timeout=240)
        assert child.returncode == 0 and not errors, errors
        used += int(text)
    assert used
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 400_000


_LIMITED = """
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
size = 0
for limit in (None, 0, 1, 99, 100, 4096, 40_000, "less"):
    cache = PromptCache(place, minTokens=32)
    cache.clear()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1 if limit == "less" else limit, hard))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(3):
            check(cache, k)
            assert cache.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    prompts = [name for name in os.listdir(place) if name.endswith(".prompt")]
    assert not [name for name in os.listdir(place) if name.startswith(".")]
    if limit is None:
        assert len(prompts) == 3 and not caught, (prompts, caught)
        size = os.path.getsize(os.path.join(place, prompts[0]))
    else:
        assert not prompts and len(caught) == 1 and caught[0].category is RuntimeWarning, (limit, prompts, caught)
        assert "File too large" in str(caught[0].message)
"""


def test_a_limit_of_any_size(models: Path, tmp_path: Path) -> None:
    """One warning, no file that is not whole, and the text is right."""
    ended = isolated.run(_CHILD + _LIMITED, models, tmp_path, timeout=120)
    assert ended.passed, ended


_FULL_DISK = """
import subprocess
disk = os.path.join(place, "disk")
os.mkdir(disk)
for pages in (1, 2, 5, 20, 35):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4096 * pages}", "none", disk], check=True)
    cache = PromptCache(os.path.join(disk, "prompts"), minTokens=32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(4):
            check(cache, k)
            assert cache.flush()
    names = os.listdir(cache.path) if os.path.isdir(cache.path) else []
    assert not [name for name in names if name.startswith(".")], names
    assert len(caught) == 1 and "No space left" in str(caught[0].message), (pages, [str(w.message) for w in caught])
    assert len([name for name in names if name.endswith(".prompt")]) == (2 if pages == 35 else pages // 20), names
    subprocess.run(["umount", disk], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
cache = PromptCache(os.path.join(disk, "prompts"), minTokens=32)
check(cache, 0)
assert cache.flush() and cache.totals.written == 1
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for k in (0, 1, 2, 0):
        assert bool(check(cache, k)) is (k == 0), "a folder that is read-only is still read"
        assert cache.flush()
assert len(caught) == 1 and "Read-only" in str(caught[0].message), [str(w.message) for w in caught]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    other = PromptCache(os.path.join(disk, "new"), minTokens=32)
    check(other, 0)
assert len(caught) == 1 and "Read-only" in str(caught[0].message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_and_a_read_only_one(models: Path, tmp_path: Path) -> None:
    """In a mount namespace, which ends with the child."""
    isolated.run_with_mounts(_CHILD + _FULL_DISK, models, tmp_path)


_LEAVES = """
cache = PromptCache(place, minTokens=32)
check(cache, 0)
"""

_KILLED_THREAD = """
cache = PromptCache(place, minTokens=32)
with Engine(model, nCtx=512, nSeqMax=2, params=params, promptCache=cache) as engine:
    engine.submit(prompt(1), maxTokens=1).result()
"""


@pytest.mark.parametrize("code", [_LEAVES, _KILLED_THREAD], ids=["generation", "engine"])
def test_a_process_that_ends_writes_what_it_has_begun(code: str, models: Path, tmp_path: Path) -> None:
    ended = isolated.run(_CHILD + code, models, tmp_path, timeout=120)
    assert ended.passed, ended
    assert len(list(tmp_path.glob("*.prompt"))) == 1
