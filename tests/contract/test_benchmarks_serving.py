"""The benchmarks of many requests at once: equal prompts for all sides, latencies, and the limit."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from benchmarks import build_llama_bench, engine_cost, serving, serving_side, workload
from benchmarks.serving import Throughput
from benchmarks.serving_side import Client, Settings
from llama_cffi import Model
from vendor.source import fetch

GIVEN = Settings(
    model="m.gguf",
    passes=[[[1, 5]], [[1, 5, 6], [1, 7]], [[1, 8], [1, 9]]],
    tokens=6,
    slots=2,
    cells=256,
    batch=64,
    ubatch=32,
    threads=1,
    ngl=0,
    reuse=False,
    server="/somewhere",
)


def test_prompts_have_the_given_lengths(tiny_path: Path) -> None:
    found = workload.prompts(tiny_path, 16, 40)
    lengths = [len(prompt) for prompt in found]
    assert min(lengths) == 20 and max(lengths) == 60 and sum(lengths) / 16 == pytest.approx(40, abs=1)
    assert len({tuple(prompt[:8]) for prompt in found}) == 16
    assert found[8:] == workload.prompts(tiny_path, 8, 40, start=8)


def test_prompts_with_a_common_beginning(tiny_path: Path) -> None:
    found = workload.prompts(tiny_path, 8, 20, common=100)
    assert len({tuple(prompt[:100]) for prompt in found}) == 1
    assert len({tuple(prompt[100:108]) for prompt in found}) == 8
    assert {len(prompt) for prompt in found} >= {110, 130}


def test_percentiles() -> None:
    assert workload.percentile([3, 1, 2], 50) == 2
    assert workload.percentile(range(101), 95) == 95
    assert workload.percentile([1, 2], 95) == pytest.approx(1.95)
    assert workload.percentile([7], 5) == 7


def test_a_random_model_of_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path))
    path = workload.model_path("1M:Q4_0")
    written = path.stat().st_mtime_ns
    assert path.is_relative_to(tmp_path) and workload.model_path("1M:Q4_0") == path
    assert path.stat().st_mtime_ns == written
    assert workload.model_path(str(path)) == path.resolve()
    with pytest.raises(SystemExit, match=r"1M.*got no such file"):
        workload.model_path("no such file")
    with pytest.raises(SystemExit, match=r"Q4_0.*got Q9"):
        workload.model_path("1M:Q9")


def test_settings_are_the_same_for_all_sides(tiny_path: Path, tmp_path: Path) -> None:
    given = serving._parse(["--requests", "4", "--slots", "2", "--tokens", "50", "--prompt", "30"])
    chosen = serving.settings(given, tiny_path, 0, tmp_path)
    assert [len(prompts) for prompts in chosen.passes] == [2, 4, 4]
    assert len({tuple(prompt) for prompts in chosen.passes for prompt in prompts}) == 10
    assert chosen.cells == 256 and not chosen.reuse
    shared = serving.settings(given, tiny_path, 200, tmp_path)
    assert shared.cells == 512 and shared.reuse
    assert len({tuple(prompt[:200]) for prompts in shared.passes for prompt in prompts}) == 1


def test_llama_server_gets_the_settings() -> None:
    words = serving_side.server_command(GIVEN, 1234)
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "/somewhere/llama-server"
    assert options["-c"] == "512" and options["-np"] == "2" and options["--port"] == "1234"
    assert options["-t"] == options["-tb"] == "1" and options["--cache-ram"] == "0" and options["-ngl"] == "0"
    assert "--cache-ram" not in serving_side.server_command(replace(GIVEN, reuse=True), 1234)


def test_latencies_are_those_of_the_clients() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def ask(prompt: list[int]) -> Iterator[None]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        yield
        for _ in range(3):
            time.sleep(0.02)
            yield
        with lock:
            running -= 1

    found = serving_side.stream(ask, [[k] for k in range(6)], clients=2)
    assert most == 2 and found["streamed"] == 24
    assert 0.1 <= found["first_p50"] <= found["first_p95"] < 1
    assert 0.02 <= found["between_p50"] <= found["between_p95"] < 0.1


def test_an_error_of_a_client_is_raised() -> None:
    def ask(prompt: list[int]) -> Iterator[None]:
        yield
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        serving_side.stream(ask, [[1]], clients=1)


class Server(BaseHTTPRequestHandler):
    """What llama-server answers."""

    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(request)
        self.send_response(200 if request["n_predict"] < 100 else 400)
        self.end_headers()
        whole = {"content": "abc", "stop": True, "tokens_predicted": request["n_predict"]}
        if not request["stream"]:
            self.wfile.write(json.dumps(whole).encode())
            return
        for number in range(request["n_predict"]):
            event = {"content": "x", "tokens": [number], "stop": False}
            self.wfile.write(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")
        self.wfile.write(b"data: " + json.dumps(whole, separators=(",", ":")).encode() + b"\n\n")

    def log_message(self, *given: object) -> None:
        pass


@contextmanager
def server() -> Iterator[int]:
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_address[1]
        finally:
            running.shutdown()
            thread.join()


def test_the_client_of_llama_server() -> None:
    with server() as port:
        client = Client(port, reuse=True)
        assert client.healthy()
        assert client.whole([1, 2], 7) == 7
        assert len([*client.pieces([1, 2], 5)]) == 5
        with pytest.raises(SystemExit, match="answered 400"):
            client.whole([1], 100)
    assert not client.healthy()
    first = Server.asked[0]
    assert first["prompt"] == [1, 2] and first["cache_prompt"] and not first["stream"]
    assert first["top_k"] == 1 and first["samplers"] == ["top_k"]


def test_the_engine_runs_all_passes(tiny_path: Path) -> None:
    found = serving_side.engine(replace(GIVEN, model=str(tiny_path)))
    assert found["seconds"] > 0 and 0 < found["generated"] <= 12 and 0 < found["streamed"] <= 12
    assert 0 < found["first_p50"] <= found["first_p95"]


def test_the_limit_counts_a_common_beginning_once() -> None:
    speeds = {"prompt_speed": 100.0, "generation_speed": 10.0}
    prompts = [[1] * 30, [1] * 50]
    assert serving.limit_seconds(speeds, prompts, 0, 20) == pytest.approx(0.8 + 2)
    assert serving.limit_seconds(speeds, prompts, 25, 20) == pytest.approx(0.55 + 2)


def test_ratios_are_those_of_the_rounds() -> None:
    latencies = dict.fromkeys(("first_p50", "first_p95", "between_p50", "between_p95"), 0.25)
    results = {
        "engine": [{"seconds": 1.0, "generated": 12, **latencies}, {"seconds": 2.0, "generated": 12, **latencies}],
        "llama-server": [{"seconds": 2.0, "generated": 12, **latencies}, {"seconds": 2.0, "generated": 6, **latencies}],
        "limit": [{"prompt_speed": 5.0, "generation_speed": 24.0}] * 2,
    }
    found = serving.throughputs(results, GIVEN, 0)
    assert found["limit"] == Throughput([12, 12], [1.5, 1.5])
    assert found["engine"].rates() == [12, 6] and found["engine"].rates(5) == [17, 8.5]
    text = "\n".join(serving.table("different beginnings", results, GIVEN, 0))
    assert "engine to llama-server: 2.000; rounds 2.000, 2.000" in text
    assert "engine to limit: 1.125; rounds 1.500, 0.750" in text
    assert "250.0" in text
    alone = serving.throughputs({"limit": results["limit"]}, GIVEN, 0)
    assert alone["limit"].generated == [12, 12]


def test_the_plain_loop_decodes_what_the_engine_decoded(tmp_path: Path) -> None:
    with Model.load(engine_cost._tiny_model(tmp_path, 2000)) as model:
        for unified in (True, False):
            loop = engine_cost.Loop(model, 3, 256, unified)
            assert loop.run([4, 1, 7]) > 0
            ends = [loop._ctx.getMemory().seqPosMax(seq) for seq in range(3)]
            assert ends == [engine_cost.N_PROMPT + length - 2 for length in (4, 1, 7)]
            loop.close()
        found = engine_cost.measure(model, sequences=2, tokens=8, rounds=2)
    assert all(len(values) == 2 and min(values) > 0 for values in found.values())
    text = "\n".join(engine_cost.table(found))
    assert "engine, beyond decode, streams" in text and "engine, texts read, beyond decode, unified" in text


def test_which_sources_of_llama_cpp_a_program_needs(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in (
        "common/arg.cpp",
        "common/build-info.cpp.in",
        "common/jinja/lexer.cpp",
        "tools/llama-bench/main.cpp",
        "tools/mtmd/mtmd.cpp",
        "tools/mtmd/mtmd-cli.cpp",
        "tools/server/main.cpp",
        "tools/ui/ui.cpp.in",
        "tools/ui/ui.h.in",
        "vendor/hash/sha256/sha256.c",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("", encoding="utf-8")
    (tree / "common/build-info.cpp.in").write_text("int n = @LLAMA_BUILD_NUMBER@;", encoding="utf-8")
    (tree / "tools/ui/ui.h.in").write_text("#cmakedefine ASSETS 1\narray<asset, @N_ASSETS@>", encoding="utf-8")
    generated = tmp_path / "generated"

    def names(program: str) -> set[str]:
        found = build_llama_bench._sources(program, tree, generated)
        assert len({build_llama_bench._object_name(path, tree) for path in found}) == len(found)
        return {str(path.relative_to(tmp_path)) for path in found}

    common = {"tree/common/arg.cpp", "tree/common/jinja/lexer.cpp", "tree/vendor/hash/sha256/sha256.c"}
    assert names("llama-bench") == common | {"generated/build-info.cpp", "tree/tools/llama-bench/main.cpp"}
    assert names("llama-server") == common | {
        "generated/build-info.cpp",
        "generated/ui.cpp",
        "tree/tools/mtmd/mtmd.cpp",
        "tree/tools/server/main.cpp",
    }
    number = build_llama_bench.BUILD_INFO["LLAMA_BUILD_NUMBER"]
    assert (generated / "build-info.cpp").read_text() == f"int n = {number};" and number.isdecimal()
    assert (generated / "ui.h").read_text() == "\narray<asset, 0>"
    assert sorted(path.name for path in generated.iterdir()) == ["build-info.cpp", "ui.cpp", "ui.h"]
    with pytest.raises(build_llama_bench.BuildError, match=r"no tools/batched-bench/.*LLAMA_CPP_SOURCE"):
        names("llama-batched-bench")


def test_the_sources_that_are_fetched() -> None:
    for name in ("tools/server/server.cpp", "tools/ui/ui.h.in", "src/llama-ext.h"):
        assert fetch._is_program_part(PurePosixPath(name)), name
    for name in ("tools/server/README.md", "tools/run/run.cpp", "docs/a.h"):
        assert not fetch._is_program_part(PurePosixPath(name)), name
