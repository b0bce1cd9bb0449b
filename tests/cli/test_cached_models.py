"""`pull`, `list` and `rm`: the models in the caches, and that nothing else is ever removed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cffi import ModelLoadError
from llama_cffi.cli import cached_models, options, output, remove as rm
from llama_cffi.model import hub_cache
from tests.cli.commands import ROOT, environment, run
from tests.cli.fake_hub import COMMIT, REPO, FakeHub
from vendor.source import pin

NAME = f"hf:{REPO}/tiny.gguf"
SPLITS = [f"split/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]

Put = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of huggingface_hub, and beside it an empty one of the source tree's tools."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(hub_cache, "cache_folder", lambda: str(folder))
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "tools"))
    return folder


@pytest.fixture
def put(cache: Path) -> Put:
    """A function that puts a file into the cache, as huggingface_hub does. Returns its blob."""

    def write(name: str, data: bytes, commit: str = COMMIT, repo: str = REPO, **refs: str) -> Path:
        top = cache / f"models--{repo.replace('/', '--')}"
        for ref, value in (refs or {"main": commit}).items():
            (top / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
            (top / "refs" / ref).write_text(value)
        blob = top / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        link = top / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        return blob

    return write


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def names() -> list[str]:
    return sorted(model.name for model in hub_cache.models())


def find(name: str) -> hub_cache.CachedModel:
    return next(model for model in hub_cache.models() if name in model.names)


# The models


def test_an_empty_or_missing_cache(cache: Path) -> None:
    assert names() == []
    cache.mkdir()
    (cache / "version.txt").write_text("1")
    (cache / "models--acme").mkdir()
    (cache / "datasets--acme--x").mkdir()
    assert names() == []


def test_names_sizes_and_other_files(put: Put) -> None:
    put("tiny.gguf", b"12345")
    put("deep/er/tiny.gguf", b"1234567")
    put("README.md", b"# tiny")
    found = {model.name: (model.size, model.complete) for model in hub_cache.models()}
    assert found == {NAME: (5, True), f"hf:{REPO}/deep/er/tiny.gguf": (7, True)}


def test_those_used_last_come_first(put: Put) -> None:
    for age, name in (3, "old.gguf"), (1, "new.gguf"), (2, "middle.gguf"):
        moment = time.time() - 86400 * age
        os.utime(put(name, name.encode()), (moment, moment))
    assert [model.name.rpartition("/")[2] for model in hub_cache.models()] == ["new.gguf", "middle.gguf", "old.gguf"]


def test_a_split_model_is_one_model(put: Put) -> None:
    for name in SPLITS[:2]:
        put(name, name.encode() * 10)
    model = find(f"hf:{REPO}/{SPLITS[0]}")
    assert (names(), model.size, model.complete) == ([f"hf:{REPO}/{SPLITS[0]}"], 20 * len(SPLITS[0]), False)
    put(SPLITS[2], b"x")
    assert find(f"hf:{REPO}/{SPLITS[0]}").complete


def test_branches_tags_and_commits(put: Put) -> None:
    old, older = "1" * 40, "2" * 40
    put("tiny.gguf", b"new")
    put("tiny.gguf", b"old", old, main=COMMIT, v1=old)
    put("tiny.gguf", b"older", older, main=COMMIT, v1=old)
    put("same.gguf", b"same", old, main=COMMIT, v1=old)
    put("same.gguf", b"same", COMMIT, main=COMMIT, v1=old, **{"refs/pr/1": old})
    at = f"hf:{REPO}@"
    assert names() == sorted([f"hf:{REPO}/same.gguf", NAME, f"{at}v1/tiny.gguf", f"{at}{older}/tiny.gguf"])
    assert find(f"{at}v1/same.gguf") == find(f"hf:{REPO}/same.gguf") == find(f"{at}refs%2Fpr%2F1/same.gguf")
    assert find(f"{at}{COMMIT}/tiny.gguf").name == NAME


def test_the_folder_of_the_source_trees_tools(cache: Path, tmp_path: Path) -> None:
    assert Path(hub_cache.tools_folder()) == pin.cache_root() / "models"
    folder = tmp_path / "tools" / "models"
    folder.mkdir(parents=True)
    (folder / "chat.gguf").write_bytes(b"123")
    (folder / "other.bin").write_bytes(b"123")
    model = find(str(folder / "chat.gguf"))
    assert names() == [str(folder / "chat.gguf")] and model.size == 3
    assert hub_cache.remove(model) == 3 and files(folder) == {"other.bin"}


# Removal


def test_the_last_model_takes_its_repository_with_it(cache: Path, put: Put) -> None:
    put("deep/tiny.gguf", b"12345")
    put("tiny.gguf", b"1", repo="acme/other")
    (cache / ".locks").mkdir()
    assert hub_cache.remove(find(f"hf:{REPO}/deep/tiny.gguf")) == 5
    assert not (cache / "models--acme--tiny-GGUF").exists() and names() == ["hf:acme/other/tiny.gguf"]
    assert (cache / ".locks").exists()


def test_other_files_stay(cache: Path, put: Put) -> None:
    put("tiny.gguf", b"12345")
    put("README.md", b"# tiny")
    put("deep/other.gguf", b"1")
    before = files(cache)
    assert hub_cache.remove(find(NAME)) == 5
    gone = {path.rpartition("/")[2] for path in before - files(cache)}
    assert gone == {"tiny.gguf", hashlib.sha256(b"12345").hexdigest()}


def test_an_unfinished_download_stays(cache: Path, put: Put) -> None:
    blob = put("tiny.gguf", b"12345")
    (blob.parent / "abc.incomplete").write_bytes(b"12")
    hub_cache.remove(find(NAME))
    assert "models--acme--tiny-GGUF/blobs/abc.incomplete" in files(cache)


def test_a_file_that_two_names_share_stays(put: Put) -> None:
    blob = put("tiny.gguf", b"same")
    put("copy.gguf", b"same")
    assert hub_cache.remove(find(NAME)) == 0 and blob.exists()
    assert hub_cache.remove(find(f"hf:{REPO}/copy.gguf")) == 4 and not blob.exists()


def test_all_commits_with_the_same_file_and_all_parts(cache: Path, put: Put) -> None:
    for commit in (COMMIT, "1" * 40):
        for name in SPLITS:
            put(name, name.encode(), commit, main=COMMIT)
    assert hub_cache.remove(find(f"hf:{REPO}/{SPLITS[0]}")) == 3 * len(SPLITS[0])
    assert files(cache) == set()


def test_a_cache_without_links(cache: Path) -> None:
    top = cache / "models--acme--tiny-GGUF"
    path = top / "snapshots" / COMMIT / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    assert hub_cache.remove(find(f"hf:{REPO}@{COMMIT}/tiny.gguf")) == 5 and not top.exists()


def test_a_link_out_of_the_cache_is_removed_without_its_target(cache: Path, put: Put, tmp_path: Path) -> None:
    blob = put("tiny.gguf", b"12345")
    mine = tmp_path / "mine.gguf"
    blob.rename(mine)
    blob.symlink_to(mine)
    outside = cache / "models--acme--tiny-GGUF" / "snapshots" / COMMIT / "outside.gguf"
    outside.symlink_to(mine)
    for name in ("tiny.gguf", "outside.gguf"):
        try:
            model = find(f"hf:{REPO}/{name}")
        except StopIteration:
            continue  # it went with the other name of the file
        assert hub_cache.remove(model) == 0
    assert mine.read_bytes() == b"12345" and not outside.is_symlink()


def test_folders_that_are_links_out_of_the_cache(cache: Path, put: Put, tmp_path: Path) -> None:
    put("tiny.gguf", b"12345")
    repo = cache / "models--acme--tiny-GGUF"
    repo.rename(tmp_path / "elsewhere")
    repo.symlink_to(tmp_path / "elsewhere")
    assert names() == []
    repo.unlink()
    (tmp_path / "elsewhere").rename(repo)
    (repo / "snapshots").rename(tmp_path / "snapshots")
    (repo / "snapshots").symlink_to(tmp_path / "snapshots")
    for model in hub_cache.models():
        with pytest.raises(ValueError, match=r"snapshots.*not inside"):
            hub_cache.remove(model)
    assert len(files(tmp_path / "snapshots")) == 1


# The commands


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1), ("yep\n", 1)])
def test_rm_asks(
    put: Put, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, status: int
) -> None:
    blob = put("tiny.gguf", b"12345")
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    assert rm.main([NAME]) == status
    assert blob.exists() is (status == 1)
    err = capsys.readouterr().err
    assert NAME in err and "5 B" in err and "[y/N]" in err and ("nothing was removed" in err) is (status == 1)


def test_rm_after_ctrl_c(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    blob, terminal = put("tiny.gguf", b"12345"), _Terminal()
    monkeypatch.setattr(terminal, "readline", interrupt)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert rm.main([NAME]) == 130 and blob.exists()


def test_rm_does_not_ask_a_pipe(put: Put, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blob = put("tiny.gguf", b"12345")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert rm.main([NAME]) == 2 and blob.exists() and "--yes" in capsys.readouterr().err
    assert rm.main([NAME, NAME, "--yes"]) == 0 and not blob.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf:acme/tiny-GGUF/tinny.gguf", "did you mean hf:acme/tiny-GGUF/tiny.gguf?"),
        ("hf:acme/tiny-GGUF", "hf:acme/tiny-GGUF"),
        ("hf:acme/tiny-GGUF/../../x.gguf", "not a model in the cache"),
        ("MINE", "only models in the cache"),
        ("BLOB", "not a model in the cache"),
        ("..", "not a model in the cache"),
        ("", "list"),
    ],
)
def test_rm_removes_nothing_else(
    put: Put, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, says: str
) -> None:
    blob, mine = put("tiny.gguf", b"12345"), tmp_path / "mine-alone.gguf"
    mine.write_bytes(b"x")
    before = files(tmp_path)
    assert rm.main([name.replace("MINE", str(mine)).replace("BLOB", str(blob)), "--yes"]) == 1
    assert files(tmp_path) == before
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
    assert rm.main([NAME, name or "x", "--yes"]) == 1 and files(tmp_path) == before  # all or nothing


def test_the_name_of_a_file_is_enough(
    put: Put, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blob, deep = put("tiny.gguf", b"12345"), put("deep/other.gguf", b"1")
    assert options.model_path("tiny.gguf") == options.model_path("tiny") == NAME
    assert options.model_path("none.gguf") == "none.gguf" and options.model_path(NAME) == NAME
    put("tiny.gguf", b"another", repo="acme/second")
    second = "hf:acme/second/tiny.gguf"
    with pytest.raises(output.CommandError, match=f"several.*({NAME} or {second}|{second} or {NAME})"):
        options.model_path("tiny.gguf")
    assert rm.main(["tiny.gguf", "--yes"]) == 1 and blob.exists()
    assert NAME in (err := capsys.readouterr().err) and second in err
    (tmp_path / "other.gguf").write_bytes(b"mine")  # a file of the user has that name, too
    assert options.model_path("other.gguf") == "other.gguf"
    assert rm.main(["other.gguf", "--yes"]) == 1 and deep.exists()
    (tmp_path / "other.gguf").unlink()
    assert rm.main(["other", "--yes"]) == 0 and not deep.exists()


def test_list(put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    assert cached_models.main([]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "no models" in captured.err and "pull" in captured.err
    now = time.time()
    for age, name in (0, "a.gguf"), (90, "b.gguf"), (86400 * 3, "c.gguf"), (86400 * 800, SPLITS[1]):
        os.utime(put(name, b"x" * 2048), (now - age, now - age))
        put(name + "x", b"other")
    capsys.readouterr()
    assert cached_models.main([]) == 0
    out = capsys.readouterr().out
    assert "2.0 KiB" in out and "last used" in out
    assert cached_models.main(["--names"]) == 0
    assert set(capsys.readouterr().out.split()) == set(names())
    assert cached_models.main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(names()) and {row["size"] for row in rows} == {2048}
    assert [row["complete"] for row in rows if "split" in row["name"]] == [False]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(5, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (86400, "1 day ago"), (86400 * 800, "2 years ago")],
)
def test_when(seconds: int, shown: str) -> None:
    assert cached_models._ago(time.time() - seconds - 1) == shown


# Downloads


@pytest.fixture(scope="module")
def hub(tiny_path: Path) -> Iterator[FakeHub]:
    data = tiny_path.read_bytes()
    with FakeHub({"tiny.gguf": data, "notes.gguf": b"no model " * 100}) as server:
        yield server


def test_pull_list_show_rm(hub: FakeHub, tmp_path: Path, tiny_path: Path) -> None:
    around = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "LLAMA_CFFI_CACHE": str(tmp_path / "tools")}
    pulled = run("pull", NAME, **around)
    assert (pulled.returncode, pulled.stderr) == (0, "")
    path = Path(pulled.stdout.strip())
    assert path.read_bytes() == tiny_path.read_bytes() and path.is_relative_to(tmp_path / "hub")
    assert run("list", "--names", **around).stdout == f"{NAME}\n"
    assert run("show", "tiny.gguf", HF_HUB_OFFLINE="1", **around).returncode == 0
    said = run("complete", "Hello", "-m", "tiny", "-n", "2", HF_HUB_OFFLINE="1", **around)
    assert said.returncode == 0 and said.stdout
    assert run("show", NAME, HF_HUB_OFFLINE="1", **{k: v for k, v in around.items()}).returncode == 0
    # The disk damages it, and another pull finds that.
    path.resolve().write_bytes(tiny_path.read_bytes()[:-1] + b"?")
    damaged = run("pull", NAME, **around)
    assert damaged.returncode == 1 and "checksum" in damaged.stderr and not path.is_symlink()
    assert run("pull", NAME, **around).returncode == 0
    removed = run("rm", "-y", NAME, **around)
    assert removed.returncode == 0 and NAME in removed.stderr and not path.exists()


def test_pull_refuses_what_is_not_a_model(hub: FakeHub, tmp_path: Path) -> None:
    around = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path)}
    result = run("pull", f"hf:{REPO}/notes.gguf", **around)
    assert result.returncode == 1 and "GGUF" in result.stderr and result.stdout == ""
    result = run("pull", f"hf:{REPO}", **around)
    assert result.returncode == 1 and "tiny.gguf" in result.stderr and result.stderr.count("\n") == 1


def test_the_checksum_of_git_and_files_without_one(tmp_path: Path) -> None:
    digest = hashlib.sha1(b"blob 3\0abc").hexdigest()
    for name in (digest, "plain.gguf"):
        (tmp_path / name).write_bytes(b"abc")
        shown: list[float] = []
        hub_cache.verify(str(tmp_path / name), shown.append)
        assert shown == ([1.0] if name == digest else [])
    (tmp_path / digest).write_bytes(b"abd")
    link = tmp_path / "link.gguf"
    link.symlink_to(digest)
    with pytest.raises(ModelLoadError, match=f"{digest}.*download"):
        hub_cache.verify(str(link), shown.append)
    assert not (tmp_path / digest).exists() and not link.is_symlink()


def test_list_without_huggingface_hub(tmp_path: Path) -> None:
    link = tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT / "c.gguf"
    link.parent.mkdir(parents=True)
    link.write_bytes(b"x")
    code = "import sys; sys.modules['huggingface_hub'] = None\nfrom llama_cffi.__main__ import main\n"
    command = [sys.executable, "-c", f"{code}sys.exit(main(sys.argv[1:]))"]
    around = environment(HF_HOME=str(tmp_path), LLAMA_CFFI_CACHE=str(tmp_path))
    listed = subprocess.run(
        [*command, "list", "--names"], cwd=ROOT, env=around, capture_output=True, text=True, timeout=60
    )
    assert (listed.returncode, listed.stdout) == (0, f"hf:a/b@{COMMIT}/c.gguf\n")
    pulled = subprocess.run([*command, "pull", NAME], cwd=ROOT, env=around, capture_output=True, text=True, timeout=60)
    assert pulled.returncode == 1 and "pip install huggingface_hub" in pulled.stderr
    repository = [*command, "pull", f"hf:{REPO}"]
    listing = subprocess.run(repository, cwd=ROOT, env=around, capture_output=True, text=True, timeout=60)
    assert listing.returncode == 1 and "Listing its files needs huggingface_hub" in listing.stderr
    assert "pip install huggingface_hub" in listing.stderr and listing.stderr.count("\n") == 1
