"""Saves under limits, on full disks and killed at any moment: OSError, the old file untouched, nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llama_cffi._core.atomic_write import atomic_write
from tests.safety import isolated
from vendor.scratch import scratch_folder

# What a child can save: a name, and a function of a path. `WHOLE` is the file that each writes.
_SAVES = """
import errno, hashlib, resource, stat
import numpy as np
from llama_cffi._core.atomic_write import atomic_write
from llama_cffi.cli import embed

logSet(lambda level, text, data: None)
folder = sys.argv[2]
source = os.path.join(sys.argv[1], "f32.gguf")
model = Model.load(source)
ctx = Context.initFromModel(model, Context.Params(nCtx=64, nThreads=1, nThreadsBatch=1))
ctx.decode(Batch.getOne(list(range(3, 40))))

def npy(path):
    args = type("Args", (), dict(output=path, similarities=False, json=False, no_normalize=False))
    embed._show(args, ["a"], np.ones((50, 100), np.float32), "mean")

session = ChatSession(ctx, template="chatml")
session.send("Hi", maxTokens=3).result()
session.messages += [{"role": "user", "content": "Hello" * 999}, {"role": "assistant", "content": "Yes"}]

def gguf(path):
    with Ggml.Gguf.open(source) as file:
        file.metadata["general.name"] = "changed"
        file.tensors.set("new", np.ones((16, 64)), Ggml.Type.Q8_0)
        file.write(path)

def copied(path):
    with Ggml.Gguf.open(source) as file:
        file.write(path)

SAVES = {
    "gguf": gguf,
    "gguf copy": copied,
    "model": model.save,
    "quantize": lambda path: Model.quantize(source, path, Model.QuantizeParams(ftype=Ftype.MOSTLY_Q8_0, nthread=1)),
    "state": lambda path: ctx.stateSaveFile(path, [1, 2, 3]),
    "sequence": lambda path: ctx.stateSeqSaveFile(path, 0, [1, 2, 3]),
    "embed": npy,
    "session": session.save,
}

def read(path):
    with open(path, "rb") as file:
        return file.read()

def whole(name):
    path = os.path.join(folder, "whole-" + name)
    SAVES[name](path)
    return read(path)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dataclasses import replace

    from tests import tiny_models

    folder = tmp_path_factory.mktemp("saves")
    tiny_models.write_llama(folder / "f32.gguf", spec=replace(tiny_models.LLAMA, quant="F32"))
    return folder


_LIMITED = """
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
name = sys.argv[3]
expected = whole(name)
target = os.path.join(folder, "target")
with open(target, "wb") as file:
    file.write(b"old")
os.chmod(target, 0o640)
size = len(expected)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
limits = {0, 1, 3, 4, 11, 12, 23, 24, 25, 100, 4095, 4096, 4097, 8192, size // 7, size // 3, size // 2}
limits |= {size - short for short in (8192, 4097, 4096, 4095, 513, 33, 32, 9, 1)}
for limit in [n for n in sorted(limits) if 0 <= n < size]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        SAVES[name](target)
    except OSError as error:
        assert error.errno == errno.EFBIG and "target" in str(error), (limit, repr(error))
    else:
        raise AssertionError(f"{limit} of {size} bytes: no error")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(target) == b"old", limit
    assert sorted(os.listdir(folder)) == sorted(["target", "whole-" + name]), (limit, os.listdir(folder))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
SAVES[name](target)
assert read(target) == expected and stat.S_IMODE(os.stat(target).st_mode) == 0o640
"""


@pytest.mark.parametrize("name", ["model", "quantize", "state", "sequence", "embed", "session", "gguf", "gguf copy"])
def test_a_limit_of_any_size_leaves_the_old_file(name: str, models: Path, tmp_path: Path) -> None:
    ended = isolated.run(_SAVES + _LIMITED, models, tmp_path, name, timeout=240)
    assert ended.passed, ended


_FULL_DISK = """
import subprocess
os.mkdir(os.path.join(folder, "disk"))
disk = os.path.join(folder, "disk")
for name in SAVES:
    expected = whole(name)
    for part in (0.1, 0.5, 0.95):
        size = 4096 * (3 + int(part * len(expected)) // 4096)  # 2 pages for the old file and its folder
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
        target = os.path.join(disk, "target")
        with open(target, "wb") as file:
            file.write(b"old" * 1000)
        try:
            SAVES[name](target)
        except OSError as error:
            assert error.errno == errno.ENOSPC, (name, part, repr(error))
        else:
            assert size > len(expected) + 4096, (name, part)
        if size < len(expected):
            assert read(target) == b"old" * 1000 and os.listdir(disk) == ["target"], (name, part)
        subprocess.run(["umount", disk], check=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk(models: Path, tmp_path: Path) -> None:
    """In a mount namespace, which ends with the child."""
    isolated.run_with_mounts(_SAVES + _FULL_DISK, models, tmp_path)


_ENDLESS = """
name = sys.argv[3]
expected = whole(name)
target = os.path.join(folder, "target")
SAVES[name](target)
print("ready", flush=True)
while True:
    SAVES[name](target)
"""


@pytest.mark.parametrize("name", ["model", "state", "gguf"])
def test_kill_at_any_moment(name: str, models: Path, tmp_path: Path) -> None:
    """The target is whole each time, and the next save removes what the killed one has left."""
    code = "from tests.safety.child import *\n" + _SAVES + _ENDLESS
    left, chance = 0, random.Random(15)
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", code, models, tmp_path, name], cwd=isolated.ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert (tmp_path / "target").read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
        left += any(path.name.startswith(".llama") for path in tmp_path.iterdir())
    assert left, "no child was killed in the middle of a save"
    with atomic_write(str(tmp_path / "target")) as scratch:
        Path(scratch).write_bytes(b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", f"whole-{name}"]


# The helper alone


def save(target: Path | str, data: bytes = b"new") -> None:
    with atomic_write(os.fspath(target)) as scratch:
        Path(scratch).write_bytes(data)


def test_the_mode_of_a_file_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "state"
    for mode in (0o600, 0o640, 0o444, 0o755, 0o666):
        target.write_bytes(b"old")
        target.chmod(mode)
        save(target)
        assert stat.S_IMODE(target.stat().st_mode) == mode and target.read_bytes() == b"new"
        target.unlink()
    old = os.umask(0o027)
    try:
        save(target)
        assert stat.S_IMODE(target.stat().st_mode) == 0o640, "a new file has the mode that open() gives it"
    finally:
        os.umask(old)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user needs root")
def test_the_owner_of_a_file_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_bytes(b"old")
    os.chown(target, 1234, 4321)
    save(target)
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 4321)


def test_a_symbolic_link_stays(tmp_path: Path) -> None:
    real, link, chain = tmp_path / "elsewhere" / "real", tmp_path / "link", tmp_path / "chain"
    real.parent.mkdir()
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to("elsewhere/real")
    chain.symlink_to(link)
    for place in (link, chain):
        save(place, place.name.encode())
        assert link.is_symlink() and chain.is_symlink() and not real.is_symlink()
        assert real.read_bytes() == place.name.encode() and stat.S_IMODE(real.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling"
    dangling.symlink_to("elsewhere/not yet")
    save(dangling)
    assert dangling.is_symlink() and (real.parent / "not yet").read_bytes() == b"new"
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        save(loop)
    assert sorted(os.listdir(tmp_path)) == ["chain", "dangling", "elsewhere", "link", "loop"]
    assert sorted(os.listdir(real.parent)) == ["not yet", "real"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-full").symlink_to("/dev/full")
    for target in ("/dev/full", "/dev/null", tmp_path, tmp_path / "fifo", tmp_path / "to-full"):
        with pytest.raises(OSError, match="not a regular file"):
            save(target)
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "nowhere" / "state")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "to-full"]


def test_an_error_in_the_block_leaves_everything(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_bytes(b"old")
    for error in (ValueError, KeyboardInterrupt, OSError):
        with pytest.raises(error), atomic_write(os.fspath(target)) as scratch:
            Path(scratch).write_bytes(b"half")
            raise error
        assert os.listdir(tmp_path) == ["state"] and target.read_bytes() == b"old"


def test_an_error_of_fsync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "state"
    target.write_bytes(b"old")
    flushed: list[int] = []

    def fails(file: int) -> None:
        flushed.append(os.fstat(file).st_size)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        save(target, b"12345")
    assert flushed == [5] and target.read_bytes() == b"old" and os.listdir(tmp_path) == ["state"]


def test_files_and_folder_are_flushed_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(file: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def move(source: str, target: str) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", move)
    save(tmp_path / "state")
    assert events == ["file", "rename", "folder"]


def test_only_what_killed_saves_left_is_removed(tmp_path: Path) -> None:
    """Not the folders of saves that run, on other threads or in other processes, nor those of the user."""
    for name in (".llama-models", ".llama-cffi", "llama-cffi-save-mine"):
        (tmp_path / name).mkdir()
    (tmp_path / ".llama-cffi-save-file").write_bytes(b"of the user")
    (tmp_path / ".llama-cffi-save-left").mkdir()
    (tmp_path / ".llama-cffi-save-left" / "state").write_bytes(b"half")
    with atomic_write(os.fspath(tmp_path / "slow")) as scratch:
        Path(scratch).write_bytes(b"slow")
        other = f"from tests.safety.test_saves import save; save({str(tmp_path / 'quick')!r})"
        subprocess.run([sys.executable, "-c", other], cwd=isolated.ROOT, check=True)
        thread = threading.Thread(target=save, args=(tmp_path / "thread",))
        thread.start()
        thread.join()
        assert Path(scratch).read_bytes() == b"slow"
    assert sorted(os.listdir(tmp_path)) == sorted(
        [".llama-models", ".llama-cffi", "llama-cffi-save-mine", ".llama-cffi-save-file", "quick", "slow", "thread"]
    )


def test_many_saves_at_once_in_one_folder(tmp_path: Path) -> None:
    """Each sweeps while the others begin and end."""
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for k in range(60):
                save(tmp_path / name, b"%d" % k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(str(k),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {str(k): b"59" for k in range(4)}


def test_the_cache_of_builds_is_swept_too(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vendor.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'below').mkdir(); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=isolated.ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    with scratch_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 2, "one that is in use stays"
    child.kill()
    child.communicate()
    (left,) = tmp_path.iterdir()
    with scratch_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine] and not left.exists()
        mine.rename(tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
