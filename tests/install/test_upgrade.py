"""Upgrades of llama.cpp: pins, the copy, the journal and the report. The steps are fakes that take no time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vendor.build import native, overrides, variants
from vendor.source import fetch, pin as pins, releases, trees
from vendor.source.carriers import CARRIERS, Carrier
from vendor.tools import BuildError, FetchError
from vendor.upgrade import command as upgrade, journal, report
from vendor.upgrade.steps import COUNT, STEPS, Outcome, Step, read_tests

ROOT = Path(__file__).resolve().parents[2]
OLD = pins.Pin("a" * 64, "1" * 40, "llama-cpp-python", "1.0.0")
NEW = pins.Pin("b" * 64, "2" * 40, "llama-cpp-python", "2.0.0")
WITH_GIT, WITHOUT_GIT = CARRIERS

GENERATE = (
    "import pathlib; pathlib.Path('codegen/api/api.json').write_text('{\"functions\": [1, 2]}'); "
    "g = pathlib.Path('llama_cffi/_generated'); (g / 'new.py').write_text('new'); (g / 'gone.py').unlink(); "
    "(g / 'kept.py').write_text('changed'); pathlib.Path('litter.txt').write_text('x')"
)
FAKES = (
    Step("source", (sys.executable, "-c", "pass"), "see the network"),
    Step("snapshot", (sys.executable, "-c", "pass"), "see codegen"),
    Step("generate", (sys.executable, "-c", GENERATE), "see the tables"),
    Step("extension", (sys.executable, "-c", "pass"), "see the shim", forgivable=True),
    Step("import", (sys.executable, "-c", "pass"), "see the facade", forgivable=True),
)
NOTHING = (sys.executable, "-c", "pass")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLAMA_CPP_SOURCE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the files that an upgrade changes."""
    root = tmp_path / "tree"
    for name, text in {
        "vendor/source/pin.json": OLD.dumps(),
        "vendor/source/releases.json": json.dumps([json.loads(OLD.dumps())]),
        "codegen/api/api.json": '{"functions": [1]}',
        "llama_cffi/_generated/kept.py": "old",
        "llama_cffi/_generated/gone.py": "old",
        "README.md": "hello",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def state(root: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def llama(folder: Path, text: str = "int llama(void);\n") -> Path:
    """Write files that pass for a llama.cpp tree."""
    for name in ("include/llama.h", "src/llama.cpp", "ggml/src/CMakeLists.txt", "CMakeLists.txt", "docs/x.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# Pins


def test_the_pin_file_is_what_dumps_writes() -> None:
    assert pins.load().dumps() == pins.PIN_FILE.read_text(encoding="utf-8")
    assert all(not pin.is_tree and (len(pin.commit) == 40 or pin.build) for pin in pins.known())
    assert [pin.date for pin in pins.known()] == sorted(pin.date for pin in pins.known())
    assert all(releases.resolve(pin.name) is not None and time.strptime(pin.date, "%Y-%m-%d") for pin in pins.known())


def test_a_checkout_is_named_by_its_commit(tmp_path: Path) -> None:
    folder = llama(tmp_path / "checkout")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    git(folder, "remote", "add", "origin", "https://somebody:secret@example.org/llama.cpp")
    commit = git(folder, "rev-parse", "HEAD")
    pin = trees.pin_of(folder)
    assert (pin.commit, pin.modified, pin.label) == (commit, False, f"llama.cpp {commit[:12]}")
    assert pin.repository == "https://example.org/llama.cpp"
    (folder / "docs" / "x.md").write_text("a build does not read this")
    assert trees.pin_of(folder) == pin
    (folder / "src" / "llama.cpp").write_text("changed")
    changed = trees.pin_of(folder)
    assert changed.modified and not changed.repository and changed.sha256 != pin.sha256
    assert changed.label == f"llama.cpp {commit[:12]}, modified (tree {changed.sha256[:12]})"
    assert pins.Pin(**json.loads(changed.dumps())) == changed


def test_a_folder_is_named_by_its_digest(tmp_path: Path, tree: Path) -> None:
    pin = trees.pin_of(llama(tmp_path / "plain"))
    assert pin.label == f"llama.cpp tree {pin.sha256[:12]}" and not pin.commit
    inside = trees.pin_of(llama(tree / "below"))  # another repository's commit is not llama.cpp's
    assert inside == pin


def test_an_adopted_tree_is_found_without_the_folder(tmp_path: Path) -> None:
    folder = llama(tmp_path / "plain")
    pin = trees.pin_of(folder)
    fetch.adopt(folder, pin)
    found = fetch.source_dir(pin)
    assert trees.digest(found) == pin.sha256 and not (found / "docs").exists()
    (folder / "src" / "llama.cpp").write_text("changed")
    other = pins.Pin("0" * 64)
    with pytest.raises(FetchError, match="its digest differs"):
        fetch.adopt(folder, other)
    assert not (pins.cache_root() / "source" / ("0" * 16)).exists()


def test_a_tree_that_is_not_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = llama(tmp_path / "plain")
    pin = trees.pin_of(folder)
    with pytest.raises(FetchError, match="LLAMA_CPP_SOURCE") as caught:
        fetch.source_dir(pin)
    assert pin.label in str(caught.value) and pin.sha256 in str(caught.value)
    monkeypatch.setattr(pins, "load", lambda: pin)
    monkeypatch.setenv("LLAMA_CPP_SOURCE", str(folder))
    assert fetch.source_dir() == folder
    (folder / "src" / "llama.cpp").write_text("changed")
    with pytest.raises(FetchError, match="is not the pinned tree"):
        fetch.source_dir()


def test_git_gets_a_commit_from_its_repository(tmp_path: Path) -> None:
    folder = llama(tmp_path / "upstream")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    git(tmp_path, "clone", "-q", f"file://{folder}", "clone")
    pin = trees.pin_of(tmp_path / "clone")
    assert pin.repository == f"file://{folder}"
    assert trees.digest(fetch.source_dir(pin)) == pin.sha256
    lost = pins.Pin("c" * 64, "3" * 40, repository=pin.repository)
    with pytest.raises(FetchError, match="git could not fetch"):
        fetch.source_dir(lost)


def test_source_that_is_no_llama_cpp(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no include/llama\.h"):
        upgrade.target("", str(tmp_path))
    with pytest.raises(FetchError, match=r"one of VERSION.*llama-cpp-python or xllamacpp.*SOURCE"):
        upgrade.target("1.0", str(tmp_path))


# Releases


def sdist(
    folder: Path,
    version: str,
    head: str = "",
    carrier: Carrier = WITH_GIT,
    git_folder: Path | None = None,
    day: int = 0,
) -> Path:
    """An sdist of a carrier. `head` is the commit in its git folder, which is `git_folder`; `day` dates the files."""
    folder.mkdir(parents=True, exist_ok=True)
    distribution = carrier.package.replace("-", "_")
    top = f"{distribution}-{version}"
    path = folder / f"{top}.tar.gz"
    files = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {carrier.package}\nVersion: {version}\n".encode()}
    files[f"{carrier.tree}/include/llama.h"] = b"int llama(void);\n"
    files["pyproject.toml"] = b'[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
    # pip asks a build backend for the metadata, even of what it only downloads.
    files["b.py"] = (
        "import os\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        f"    name = '{distribution}-{version}.dist-info'\n"
        "    os.mkdir(f'{folder}/{name}')\n"
        "    open(f'{folder}/{name}/METADATA', 'w').write(open('PKG-INFO').read())\n"
        "    return name\n"
        "def build_wheel(*a, **k): raise SystemExit(1)\n"
    ).encode()
    if head:
        files[f"{carrier.git}/HEAD"] = head.encode()
    for file in (git_folder / "objects").rglob("*") if git_folder else ():
        if file.is_file():
            files[f"{carrier.git}/{file.relative_to(git_folder).as_posix()}"] = file.read_bytes()  # type: ignore[arg-type]
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(data)
            inside = name.startswith(f"{carrier.tree}/")
            info.mtime = 86400 * (day if inside else 30000)  # only llama.cpp's own files date it
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index with one package."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    yield tmp_path / "index"


def test_known_releases_are_resolved_without_a_download() -> None:
    known = next(pin for pin in pins.known() if pin.version == "0.3.30")
    assert releases.resolve("0.3.30") == releases.resolve("llama-cpp-python==0.3.30") == known
    assert known.name == "0.3.30" and known.date == "2026-06-16"


def test_an_unknown_release_is_downloaded_once(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = sdist(index, "9.0.1", "4" * 40 + "\n")
    pin = releases.resolve("9.0.1")
    assert pin == pins.Pin(hashlib.sha256(path.read_bytes()).hexdigest(), "4" * 40, "llama-cpp-python", "9.0.1")
    path.unlink()
    assert releases.resolve("9.0.1") == pin  # offline
    assert (fetch.source_dir(pin) / "include" / "llama.h").is_file()
    assert "does not say" not in capfd.readouterr().err


def test_a_release_of_a_carrier_without_a_git_folder(index: Path) -> None:
    """Its version has llama.cpp's build number, and its files the date."""
    path = sdist(index, "2098.12.20001", carrier=WITHOUT_GIT, day=47117)
    pin = releases.resolve("xllamacpp==2098.12.20001")
    assert pin == pins.Pin(
        hashlib.sha256(path.read_bytes()).hexdigest(),
        package="xllamacpp",
        version="2098.12.20001",
        build=20001,
        date="2099-01-01",
    )
    assert pin.label == "llama.cpp b20001 (xllamacpp 2098.12.20001)" and pin.name == "xllamacpp==2098.12.20001"
    assert pins.Pin(**json.loads(pin.dumps())) == pin
    path.unlink()
    assert (fetch.source_dir(pin) / "include" / "llama.h").read_text() == "int llama(void);\n"  # and offline
    with pytest.raises(FetchError, match=r"no vectors in thirdparty/llama\.cpp.*LLAMA_CPP_SOURCE"):
        fetch.vectors_dir(pin)


def test_a_commit_has_its_own_date(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the files, which a packager sets. The settings of the sdist's git folder are not read."""
    repository = llama(tmp_path / "repository")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2097-01-02T23:00:00 -0200")
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "first")
    commit = git(repository, "rev-parse", "HEAD")
    archive = sdist(index, "9.0.3", commit, git_folder=repository / ".git", day=1)
    assert releases.date_of(WITH_GIT, archive, commit) == "2097-01-03"  # in UTC
    assert releases.resolve("9.0.3").date == "2097-01-03"
    git(repository, "gc", "-q")
    packed = sdist(index, "9.0.4", commit, git_folder=repository / ".git", day=1)
    assert releases.date_of(WITH_GIT, packed, commit) == "2097-01-03"
    assert releases.date_of(WITH_GIT, packed, "5" * 40) == ""


@pytest.mark.parametrize("head", ["", "ref: refs/heads/master\n"])
def test_a_release_that_does_not_say_its_commit(index: Path, capfd: pytest.CaptureFixture[str], head: str) -> None:
    sdist(index, "9.0.2", head)
    pin = releases.resolve("9.0.2")
    assert pin.commit == "" and pin.label == "llama.cpp unknown (llama-cpp-python 9.0.2)"
    assert "does not say which commit" in capfd.readouterr().err


def test_a_release_that_does_not_exist(index: Path) -> None:
    index.mkdir()
    with pytest.raises(FetchError, match=r"pip could not download .* 9\.9\.9"):
        releases.resolve("9.9.9")
    with pytest.raises(FetchError, match=r"could not find the newest version of xllamacpp[\s\S]*VERSION=xllamacpp=="):
        releases.resolve("xllamacpp")


def test_pip_finds_the_newest_release(index: Path) -> None:
    for version in ("9.0.1", "9.0.10", "9.0.9"):
        sdist(index, version)
    sdist(index, "2098.1.20001", carrier=WITHOUT_GIT)
    assert [releases.newest(carrier) for carrier in CARRIERS] == ["9.0.10", "2098.1.20001"]


@pytest.fixture
def published(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes one release of each carrier, in the cache: of a commit of 2 January 1998, and of files of another day."""

    def publish(day: int) -> None:
        monkeypatch.setenv("GIT_COMMITTER_DATE", "1998-01-02T12:00:00 +0000")
        repository = llama(tmp_path / "repository")
        git(repository, "init", "-q")
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", "first")
        head = git(repository, "rev-parse", "HEAD")
        made = {
            "llama-cpp-python-9.0.10": sdist(tmp_path, "9.0.10", head, git_folder=repository / ".git"),
            "xllamacpp-2098.1.20001": sdist(tmp_path, "2098.1.20001", carrier=WITHOUT_GIT, day=day),
        }
        (cache / "download").mkdir(parents=True)
        for name, path in made.items():
            path.rename(cache / "download" / f"{name}-{fetch.sha256_of(path)[:16]}.tar.gz")

    monkeypatch.setattr(releases, "newest", {WITH_GIT: "9.0.10", WITHOUT_GIT: "2098.1.20001"}.get)
    return publish


@pytest.mark.parametrize("day, newest", [(10227, "9.0.10"), (10229, "xllamacpp==2098.1.20001")])
def test_the_newest_llama_cpp_of_all_carriers(
    published: Callable[[int], None], capsys: pytest.CaptureFixture[str], day: int, newest: str
) -> None:
    """By its date, although one carrier's versions are all higher than the other's."""
    published(day)
    assert upgrade.target("", "").name == upgrade.target("latest", "").name == newest
    said = capsys.readouterr().err
    assert "9.0.10: llama.cpp" in said and "of 1998-01-02" in said and f"the newest is {newest}" in said
    assert f"b20001 of {time.strftime('%Y-%m-%d', time.gmtime(86400 * day))}" in said


def test_nothing_newer_is_no_upgrade(
    published: Callable[[int], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tree: Path
) -> None:
    published(10227)
    monkeypatch.setattr(upgrade, "ROOT", tree)
    monkeypatch.setattr(pins, "load", lambda: replace(OLD, date="1999-01-01"))
    before = state(tree)
    assert upgrade.main([]) == 0 and state(tree) == before
    assert "no carrier has a newer llama.cpp" in capsys.readouterr().out


def test_releases_are_remembered_by_the_age_of_their_llama_cpp(tree: Path) -> None:
    other = pins.Pin("c" * 64, package="xllamacpp", version="2098.1.20001", build=20001, date="2098-01-05")
    same_number = pins.Pin("d" * 64, package="xllamacpp", version="2.0.0", date="2098-01-03")
    newer = pins.Pin("e" * 64, "2" * 40, "llama-cpp-python", "2.0.0", date="2098-01-04")
    first = json.dumps([{**json.loads(OLD.dumps()), "date": "2098-01-01"}])
    (tree / "vendor" / "source" / "releases.json").write_text(first)
    git(tree, "commit", "-qam", "dated")
    for pin in (other, newer, same_number, newer):
        _, moved, _ = upgrade.upgrade(tree, pin, FAKES[:1], rebuild=NOTHING)
        assert moved
        if git(tree, "status", "--porcelain"):
            git(tree, "add", "-A")
            git(tree, "commit", "-qm", "up")
    rows = json.loads((tree / "vendor" / "source" / "releases.json").read_text())
    assert [pins.Pin(**row).name for row in rows] == ["1.0.0", "xllamacpp==2.0.0", "2.0.0", other.name]
    assert pins.Pin(**rows[3]) == other


# The upgrade


def test_a_dirty_tree_is_refused(tree: Path) -> None:
    (tree / "untracked").touch()
    with pytest.raises(BuildError, match=r"untracked[\s\S]*git stash"):
        upgrade.upgrade(tree, NEW, FAKES, rebuild=NOTHING)


def test_an_upgrade_moves_the_results_and_nothing_else(tree: Path) -> None:
    outcome, moved, text = upgrade.upgrade(tree, NEW, FAKES, rebuild=NOTHING)
    assert moved and outcome.passed and outcome.functions == 2
    after = state(tree)
    assert pins.load(tree / "vendor" / "source" / "pin.json") == NEW
    assert [row["version"] for row in json.loads(after["vendor/source/releases.json"])] == ["1.0.0", "2.0.0"]
    assert after["llama_cffi/_generated/new.py"] == b"new" and after["llama_cffi/_generated/kept.py"] == b"changed"
    assert "llama_cffi/_generated/gone.py" not in after and "litter.txt" not in after
    assert OLD.label in text and NEW.label in text and "The pin was moved" in text and "Commit:" in text
    assert not [path for path in (pins.cache_root() / "upgrade").iterdir()]
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "up")
    _, moved, _ = upgrade.upgrade(tree, OLD, FAKES[:1], rebuild=NOTHING)  # and back
    assert moved and pins.load(tree / "vendor" / "source" / "pin.json") == OLD


def test_check_changes_nothing_and_takes_uncommitted_changes_along(tree: Path) -> None:
    (tree / "codegen" / "extra.txt").write_text("x")
    before = state(tree)
    seen = Step("source", (sys.executable, "-c", "open('codegen/extra.txt')"), "")
    outcome, changed = upgrade.check(tree, NEW, (seen, *FAKES[1:]))
    assert outcome.passed and state(tree) == before
    assert changed["llama_cffi/_generated/gone.py"] is None and b"2.0.0" in (changed["vendor/source/pin.json"] or b"")


@pytest.mark.parametrize("variants_line", ["x64,zen4", ""])
def test_what_the_choice_of_variants_says_besides_is_not_a_variant(tree: Path, variants_line: str) -> None:
    """A release that is tried for the first time is unpacked there, which is told on stderr."""
    code = f"import sys; print('unpacking chat: 1/2', file=sys.stderr, flush=True); print({variants_line!r})"
    for name, text in {"__init__.py": "", "build/__init__.py": "", "build/quick_variants.py": code}.items():
        path = tree / "vendor" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    native_step = Step("native", (sys.executable, "-c", f"import os; print(os.environ[{variants.VARIABLE!r}])"), "")
    outcome, _ = upgrade.check(tree, NEW, (native_step,))
    assert outcome.passed and outcome.variants == variants_line


@pytest.mark.parametrize("number", range(len(FAKES)))
def test_a_failure_in_any_step_leaves_the_tree_as_it_was(tree: Path, number: int) -> None:
    before = state(tree)
    broken = Step(
        FAKES[number].name, (sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"), "do this"
    )
    steps = (*FAKES[:number], broken, *FAKES[number + 1 :])
    outcome, moved, text = upgrade.upgrade(tree, NEW, steps, rebuild=NOTHING)
    assert not moved and outcome.failed == broken and state(tree) == before
    assert f"step `{broken.name}` failed" in text and "what went wrong" in text and "do this" in text
    assert git(tree, "status", "--porcelain") == ""


@pytest.mark.parametrize("name, moves", [("generate", False), ("extension", True), ("import", True)])
def test_force_moves_the_pin_where_only_the_facade_failed(tree: Path, name: str, moves: bool) -> None:
    steps = [
        Step(s.name, (sys.executable, "-c", "raise SystemExit(1)"), "", s.forgivable) if s.name == name else s
        for s in FAKES
    ]
    _, moved, text = upgrade.upgrade(tree, NEW, steps, force=True, rebuild=NOTHING)
    assert moved == moves == (pins.load(tree / "vendor" / "source" / "pin.json") == NEW)
    assert f"step `{name}` failed" in text


CHILD = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.install.test_upgrade import FAKES, NEW, NOTHING, upgrade
from vendor.upgrade.steps import Step
number, tree = int(sys.argv[1]), Path(sys.argv[2])
wait = Step(FAKES[number].name, (sys.executable, "-c", "open('../started', 'w'); import time; time.sleep(60)"), "")
upgrade.upgrade(tree, NEW, (*FAKES[:number], wait, *FAKES[number + 1 :]), rebuild=NOTHING)
"""


@pytest.mark.parametrize("number", range(len(FAKES)))
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_any_step(tree: Path, cache: Path, number: int, how: signal.Signals) -> None:
    before = state(tree)
    code = CHILD.format(root=str(ROOT))
    child = subprocess.Popen([sys.executable, "-c", code, str(number), str(tree)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (started := list((cache / "upgrade").glob("*/started"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert started
    child.send_signal(how)
    child.communicate()
    assert child.returncode != 0
    assert not journal.finish(tree)
    assert state(tree) == before and git(tree, "status", "--porcelain") == ""
    assert started[0].exists() == (how == signal.SIGKILL)


# The journal

MOVER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from vendor.upgrade import journal
left = int(sys.argv[1])
def dying(real):
    def call(*arguments, **keywords):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*arguments, **keywords)
    return call
for holder, name in ((os, "replace"), (os, "sync"), (Path, "write_bytes"), (Path, "unlink"), (Path, "mkdir")):
    setattr(holder, name, dying(getattr(holder, name)))
journal.move(Path(sys.argv[2]), {files!r})
"""


def test_killed_anywhere_in_the_move_it_is_all_or_nothing(tree: Path) -> None:
    gone, history = "llama_cffi/_generated/gone.py", "codegen/diff/history/2.json"
    files = {"vendor/source/pin.json": b"new", gone: None, history: b"{}"}
    code = MOVER.format(root=str(ROOT), files=files)
    before = state(tree)
    after = {**before, "vendor/source/pin.json": b"new", "codegen/diff/history/2.json": b"{}"}
    del after["llama_cffi/_generated/gone.py"]
    outcomes = []
    for point in range(100):
        git(tree, "checkout", "-q", ".")
        git(tree, "clean", "-qfd")
        result = subprocess.run([sys.executable, "-c", code, str(point), str(tree)], capture_output=True)
        completed = journal.finish(tree)
        moved = state(tree) == after
        assert moved or state(tree) == before, point
        assert moved >= (completed or True in outcomes), point  # the journal's rename is where it turns
        assert not journal.finish(tree)
        outcomes.append(moved)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert result.returncode == 0 and len(set(outcomes)) == 2 and outcomes[0] is False
    left = {path.name for path in journal.folder(tree).iterdir()}
    assert left == {"lock"}


def test_a_move_does_not_overwrite_what_somebody_changed_meanwhile(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(root: Path, place: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.move(tree, {"README.md": b"new", "vendor/source/pin.json": b"new"})
    (tree / "vendor" / "source" / "pin.json").write_text("mine")
    with pytest.raises(journal.JournalError, match=r"vendor/source/pin\.json was changed"):
        journal.finish(tree)
    assert (tree / "vendor" / "source" / "pin.json").read_text() == "mine"
    assert (tree / "README.md").read_text() == "hello"


# make


@pytest.fixture
def makefile(tree: Path) -> Path:
    """The tree, with this project's Makefile and what it calls to complete a move."""
    shutil.copy2(ROOT / "Makefile", tree)
    shutil.copytree(
        ROOT / "vendor", tree / "vendor", ignore=shutil.ignore_patterns("llama.cpp", "*.json"), dirs_exist_ok=True
    )
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "make")
    return tree


def make_help(root: Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "GIT_"))}
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", "help"]
    return subprocess.run(command, cwd=root, env={**env, "PATH": path}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["clone", "worktree", "below another repository's root"])
def test_make_completes_an_interrupted_move(
    makefile: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = makefile
    if kind == "worktree":
        root = tmp_path / "worktree"
        git(makefile, "worktree", "add", "-q", str(root))
    elif kind != "clone":
        root = tmp_path / "outer" / "tree"
        git(tmp_path, "init", "-q", "outer")
        shutil.copytree(makefile, root, ignore=shutil.ignore_patterns(".git"))

    def killed(root: Path, place: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.move(root, {"README.md": b"new", "vendor/source/pin.json": None})
    assert (root / "README.md").read_text() == "hello"
    result = make_help(root)
    assert result.returncode == 0 and "completed" in result.stderr, result.stdout + result.stderr
    assert (root / "README.md").read_text() == "new" and not (root / "vendor" / "source" / "pin.json").exists()
    assert make_help(root).stderr == ""


@pytest.mark.parametrize("kind", ["clone", "worktree"])
def test_make_starts_no_git_to_look_for_a_journal(makefile: Path, tmp_path: Path, kind: str) -> None:
    root = makefile
    if kind == "worktree":
        root = tmp_path / "worktree"
        git(makefile, "worktree", "add", "-q", str(root))
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n", encoding="utf-8")
    fake.chmod(0o755)
    result = make_help(root, f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert result.returncode == 0 and "make test" in result.stdout and not (tmp_path / "called").exists()


# The report


def test_the_report_repeats_warnings_of_the_native_build(tree: Path) -> None:
    text = overrides.warning({"rpc_lost.h": overrides.INACTIVE, "prefetch.h": overrides.ACTIVE})
    code = f"import sys; print('compiling', {text!r}, 'done', sep='\\n', file=sys.stderr)"
    outcome, _ = upgrade.check(tree, NEW, (FAKES[0], Step("native", (sys.executable, "-c", code), ""), *FAKES[1:]))
    assert outcome.warnings == text.rstrip("\n") and "rpc_lost.h" in text and "prefetch.h" not in text
    said = report.report(outcome, moved=False)
    assert "Warnings of the native build" in said and text in said
    quiet, _ = upgrade.check(tree, NEW, FAKES)
    assert quiet.warnings == "" and "Warnings" not in report.report(quiet, moved=False)


def test_the_functions_are_counted() -> None:
    """The program that counts them runs in a copy of the tree, and this is one."""
    result = subprocess.run([sys.executable, "-c", COUNT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    adapted, absent = json.loads(result.stdout)
    assert isinstance(adapted, int) and isinstance(absent, int) and adapted >= 0 and absent >= 0


def test_the_report(tmp_path: Path) -> None:
    xml = tmp_path / "tests.xml"
    xml.write_text(
        '<testsuites><testsuite><testcase classname="a" name="ok"/>'
        '<testcase classname="a" name="bad"><failure/></testcase>'
        '<testcase classname="a" name="s"><skipped message="UnavailableError: llama_x"/></testcase>'
        '<testcase classname="a" name="t"><skipped message="no GPU"/></testcase></testsuite></testsuites>'
    )
    outcome = Outcome(OLD, NEW, {"native": 61.4, "tests": 9.6}, STEPS[-1], "the tail", read_tests(xml))
    outcome.functions, outcome.adapted, outcome.absent, outcome.changes = 900, 7, 3, "one thing vanished"
    text = report.report(outcome, moved=True)
    for words in (
        "1 passed, 1 failed, 1 skipped because something is missing in this llama.cpp, 1 skipped for other reasons",
        "- `a.bad`",
        "| native | 61 |",
        "900 functions",
        "7 are adapted and 3 are missing",
        "one thing vanished",
        "the tail",
        "The pin was moved",
    ):
        assert words in text
    assert read_tests(tmp_path / "none.xml") is None


# Quick builds


def test_variants_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = llama(tmp_path / "plain")
    (folder / "ggml" / "src" / "CMakeLists.txt").write_text(
        'if (GGML_SYSTEM_ARCH STREQUAL "x86")\n ggml_add_cpu_backend_variant(x64)\n'
        " ggml_add_cpu_backend_variant(haswell SSE42 AVX2)\n ggml_add_cpu_backend_variant(zen9 AVX2 AVX999)\n"
        'elseif (GGML_SYSTEM_ARCH STREQUAL "ARM")\n if (CMAKE_SYSTEM_NAME MATCHES "Linux")\n'
        "  ggml_add_cpu_backend_variant(armv8.0_1)\n"
        ' elseif (CMAKE_SYSTEM_NAME MATCHES "Android")\n  ggml_add_cpu_backend_variant(android_armv8.0_1)\n'
    )
    assert list(variants.available(folder, "x86_64")) == ["x64", "haswell", "zen9"]
    assert list(variants.available(folder, "aarch64")) == ["armv8.0_1"]
    if os.uname().machine == "x86_64":
        assert variants.for_this_machine(folder, frozenset({"avx2", "sse4_2"})) == ("x64", "haswell")
        assert variants.for_this_machine(folder, frozenset()) == ("x64",)
        monkeypatch.setenv(variants.VARIABLE, "haswell, x64")
        assert variants.chosen(folder) == ("haswell", "x64")
    monkeypatch.setenv(variants.VARIABLE, "x64,nonesuch")
    with pytest.raises(BuildError, match="no CPU variant 'nonesuch'|no CPU variant 'x64'"):
        variants.chosen(folder)
    monkeypatch.delenv(variants.VARIABLE)
    assert variants.chosen(folder) == ()


def test_a_quick_build_is_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CFFI_CACHE")
    monkeypatch.delenv(variants.VARIABLE, raising=False)
    whole = native.plan()
    name = next(iter(variants.available(fetch.source_dir())))
    monkeypatch.setenv(variants.VARIABLE, name)
    quick = native.plan()
    assert isinstance(whole, native.Plan) and isinstance(quick, native.Plan)
    first, complete = quick.builds[0], whole.builds[0]
    assert first.prefix == complete.prefix.with_name(f"{complete.digest}-{name}") and first.work == complete.work
    assert quick.builds[1:] and [b.digest for b in quick.builds] == [b.digest for b in whole.builds]
    assert f"cpu-{name}" not in quick.left_out and len(quick.left_out) > 1 and not whole.left_out
    assert quick.builds[0].targets == ("llama", f"ggml-cpu-{name}") and whole.builds[0].targets == ()
