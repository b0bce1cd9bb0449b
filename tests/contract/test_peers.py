"""The other bindings in the benchmark: how they are talked to and started. Nothing is installed here."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers
from benchmarks.peers import Contestant, environment, protocol
from benchmarks.peers.environment import Peer, PeerError
from vendor.build import native
from vendor.source import pin as pins

FOLDER = Path(peers.__file__).parent
SCRIPTS = sorted(FOLDER.glob("with_*.py"))

CASES = {
    "greedy",
    "stream",
    "tokenize",
    "detokenize",
    "logits1",
    "logits512",
    "embed",
    "batch",
    "state",
    "load",
    "import",
    "memory",
    "callback",
}

STUB = f"""
import os, sys
sys.path.insert(0, {str(FOLDER)!r})
from protocol import Unavailable, answer, digest, memory, ready, repetitions, run


def echo(given):
    ready(version="1.0", how="it counts")
    for _ in repetitions():
        print("noise of a library")
        os.write(1, b"noise of C\\n")
        answer(0.5, given.tokens, digest(given.prompt), extra=given.model)


def whole(given):
    answer(0.0, 1, "", ready=True, **memory())


def lacking(given):
    raise Unavailable("it has none")


def broken(given):
    raise RuntimeError("out of order")


run({{"echo": echo, "memory": whole, "lacking": lacking, "broken": broken}})
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Contestant:
    path = tmp_path_factory.mktemp("stub") / "stub.py"
    path.write_text(STUB, encoding="utf-8")
    return Contestant("stub", [sys.executable, str(path)])


def talk(contestant: Contestant, *words: str, lines: int = 0) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, the lines of stdout, and stderr."""
    asked = "run\n" * lines
    done = subprocess.run([*contestant.command, *words], input=asked, capture_output=True, text=True, timeout=60)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_contestant_answers_each_line(stub: Contestant) -> None:
    status, said, noise = talk(stub, "echo", "tokens=7", "prompt=1,5", "model=/a=b", lines=3)
    assert status == 0
    assert said[0] == {"ready": True, "version": "1.0", "how": "it counts"}
    assert said[1:] == [{"seconds": 0.5, "items": 7, "check": protocol.digest([1, 5]), "extra": "/a=b"}] * 3
    assert noise.count("noise of a library") == noise.count("noise of C") == 3


def test_a_case_that_is_a_whole_process_answers_at_once(stub: Contestant) -> None:
    status, said, _ = talk(stub, "memory")
    assert status == 0
    assert said[0]["ready"] and said[0]["rss"] == said[0]["rss_anon"] + said[0]["rss_file"] > 0
    assert said[0]["rss_peak"] >= said[0]["rss"]


def test_what_a_peer_lacks_has_a_reason(stub: Contestant) -> None:
    assert talk(stub, "lacking") == (0, [{"ready": False, "why": "it has none"}], "")
    status, said, _ = talk(stub, "nonsense")
    assert status == 0 and "echo" in said[0]["why"]


def test_a_failure_is_told_and_ends_with_a_status(stub: Contestant) -> None:
    status, said, trace = talk(stub, "broken")
    assert status == 1 and said == [{"ready": False, "why": "RuntimeError: out of order"}]
    assert "Traceback" in trace
    status, said, _ = talk(stub, "echo", "token=7")
    assert status == 1 and "'token=7'" in said[0]["why"]


def test_the_digest_is_fnv_1a() -> None:
    assert protocol.digest(b"") == "cbf29ce484222325"
    assert protocol.digest("a") == "af63dc4c8601ec8c"
    assert protocol.digest(b"foobar") == "85944171f73967e8"
    assert protocol.digest([0x61, -1]) == protocol.digest(b"a\0\0\0\xff\xff\xff\xff")


def test_the_cost_of_an_import_is_that_of_the_statement_alone(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("import time\nwhile time.process_time() < 0.5: pass\n", encoding="utf-8")
    assert 0.3 < protocol.import_cpu("import slow_module", str(tmp_path)) < 5
    assert protocol.import_cpu("import sys") < 0.2
    code = "import sys; assert 'json' not in sys.modules and 'protocol' not in sys.modules"
    protocol.import_cpu(code)
    with pytest.raises(subprocess.CalledProcessError):
        protocol.import_cpu("raise SystemExit(3)")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_has_every_case(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the peer: it is imported where it is used."""
    monkeypatch.syspath_prepend(str(FOLDER))
    assert runpy.run_path(str(script), run_name="contestant")["CASES"].keys() >= CASES


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "protocol.py"], ids=lambda path: path.stem)
def test_scripts_need_nothing_of_this_project(script: Path) -> None:
    own = {path.name for path in (FOLDER.parent.parent).iterdir() if path.is_dir()}
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] in own]


def test_no_script_hides_its_peer() -> None:
    """Python searches the folder of a script first."""
    modules = {peer.module for peer in peers.peers()}
    assert {path.stem for path in SCRIPTS} & modules == set()
    assert {peer.script for peer in peers.peers()} == {path.name for path in SCRIPTS}


LLAMA_CPP_PYTHON = "llama-cpp-python"
NEWER = pins.Pin("a" * 64, "1" * 40, LLAMA_CPP_PYTHON, "9.9.9", date="2099-01-01")
OTHERS = [
    pins.Pin("0" * 64, "1" * 40),
    pins.Pin("0" * 64),
    pins.Pin("0" * 64, package="xllamacpp", version="2099.1.99999", build=99999),
]


@pytest.mark.parametrize("pin", [NEWER, *OTHERS], ids=lambda pin: pin.name)
def test_the_carrier_is_pinned_or_the_newest_known(pin: pins.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = [known.version for known in pins.known() if known.package == LLAMA_CPP_PYTHON][-1]
    monkeypatch.setattr(pins, "load", lambda: pin)
    carrier = peers.peers()[0]
    assert carrier.name == LLAMA_CPP_PYTHON and carrier.ours
    assert carrier.version == (pin.version if pin is NEWER else newest)


def test_versions_are_pinned() -> None:
    carrier, *others = peers.peers()
    assert carrier.ours and not any(peer.ours for peer in others)
    if pins.load().package == carrier.name:
        assert carrier.version == pins.load().version
    for peer in (carrier, *others):
        assert peer.version and not peer.name.startswith("-")
        assert all(need.count("==") == 1 for need in peer.needs)


def test_the_digest_tells_environments_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path))
    peer = Peer("some-peer", "1.0", "some", "with_some.py", ("numpy==1.0",))
    same = replace(peer, note="another remark", script="elsewhere.py")
    assert peer.digest == same.digest and len(peer.digest) == 16
    others = [replace(peer, version="1.1"), replace(peer, needs=("numpy==1.1",)), replace(peer, ours=True)]
    assert len({peer.digest, *(other.digest for other in others)}) == 4
    assert peer.python == tmp_path / "peers" / peer.digest / "bin" / "python"
    assert not environment.is_made(peer)


def test_the_links_have_the_names_that_are_looked_for(tmp_path: Path) -> None:
    lib, folder = tmp_path / "lib", tmp_path / "links"
    lib.mkdir()
    with pytest.raises(PeerError, match="make build"):
        environment.links(lib)
    for name in native.LINKED:
        (lib / f"lib{name}{native.SUFFIX}.so").write_text(name, encoding="utf-8")
    (lib / "manifest.json").write_text(json.dumps({"llama_cpp": "another one"}), encoding="utf-8")
    with pytest.raises(PeerError, match="another one"):
        environment.links(lib)
    (lib / "manifest.json").write_text(json.dumps({"llama_cpp": pins.load().label}), encoding="utf-8")
    for _ in range(2):  # a second time over the first one's
        assert environment.link(folder, lib) == folder
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    names = {"llama", "ggml", "ggml-base"}
    assert found == {f"lib{n}.so": n for n in names} | {f"lib{n}{native.SUFFIX}.so": n for n in names}


def test_a_peer_that_fails_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, dead = (Peer(name, "1.0", name, f"with_{name}.py") for name in ("good", "bad", "dead"))

    def make(peer: Peer) -> Path:
        if peer is bad:
            raise PeerError("no wheel for it")
        return Path("/env") / peer.name / "python"

    def try_import(peer: Peer, env: dict[str, str]) -> None:
        if peer is dead:
            raise PeerError("it cannot be imported")

    monkeypatch.setattr(peers, "peers", lambda: [bad, good, dead])
    monkeypatch.setattr(environment, "make", make)
    monkeypatch.setattr(environment, "try_import", try_import)
    found = peers.contestants(tmp_path)
    command = ["/env/good/python", str(FOLDER / "with_good.py")]
    assert found == [Contestant("good", command, {}, "", "1.0")]
    assert peers.reasons == {**peers.LEFT_OUT, "bad": "no wheel for it", "dead": "it cannot be imported"}
    assert "bad is left out: no wheel for it" in capsys.readouterr().err


def test_the_carrier_gets_this_package_s_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = peers.peers()[0]
    monkeypatch.setattr(peers, "peers", lambda: [carrier])
    monkeypatch.setattr(environment, "make", lambda peer: Path("/env/python"))
    monkeypatch.setattr(environment, "try_import", lambda peer, env: None)
    monkeypatch.setattr(environment, "link", lambda folder: folder)
    (found,) = peers.contestants(tmp_path, cpu=Path("/lib/libggml-cpu-any.so"))
    assert found.env == {
        "LLAMA_CPP_LIB_PATH": str(tmp_path / "llama_cpp"),
        "PEER_CPU_MODULE": "/lib/libggml-cpu-any.so",
    }


@pytest.mark.parametrize("pin", OTHERS, ids=lambda pin: pin.name)
def test_a_pin_that_no_release_carries_is_a_reason(
    pin: pins.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path))
    monkeypatch.setattr(pins, "load", lambda: pin)
    carrier = peers.peers()[0]
    with pytest.raises(PeerError, match=rf"no release of llama-cpp-python\b.*make upgrade VERSION={carrier.version}"):
        environment.make(carrier)
