"""The command that offers devices: what it says, how it ends, and what does not end it."""

from __future__ import annotations

import re
import signal
import socket
import struct
import time
from pathlib import Path

import pytest

from llama_cffi import lib
from llama_cffi.cli import rpc_worker
from llama_cffi.ggml._rpc_endpoint import Endpoint, greet
from tests.rpc.conftest import Client
from tests.rpc.test_endpoints import say_hello
from tests.rpc.workers import PATIENCE, Worker, refused


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("connected", [False, True])
def test_it_ends_by_a_signal(number: signal.Signals, connected: bool) -> None:
    with Worker() as worker, socket.create_connection(("127.0.0.1", worker.port)) as client:
        if connected:
            say_hello(client)
        assert worker.stop(number) == 0
        said = "".join(worker.lines)
        assert "stopped\n" in said  # the thread that serves may say one thing more, even on the same line
        assert "Traceback" not in said and "WARNING" not in said
        assert f'Ggml.Rpc.addServer("{worker.endpoint}")' in said


def test_the_port_is_free_again() -> None:
    with Worker() as worker, socket.create_connection(("127.0.0.1", worker.port)) as client:
        say_hello(client)
        assert worker.stop(signal.SIGTERM) == 0
        with Worker(port=worker.port) as again:
            assert greet(Endpoint("127.0.0.1", again.port), 30).devices == 1


def test_a_port_in_use() -> None:
    with Worker() as worker:
        status, said = refused("--port", str(worker.port))
    assert status == 1
    assert re.fullmatch(rf"error: port {worker.port} of 127\.0\.0\.1 .*in use.*--port\n", said)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--device", "Nope7", "--port", "0"], 2, "error: --device Nope7: .*CPU"),
        (["--host", "::1"], 2, "IPv4 only"),
        (["--host", "no-such-host.invalid"], 2, "no-such-host.*IPv4"),
        (["--host", "192.0.2.1"], 1, r"192\.0\.2\.1 .*--host 0\.0\.0\.0"),
        (["--port", "65536"], 2, "--port.* 0 and 65535.*got 65536"),
        (["--port", "x"], 2, "--port.*integer.*got 'x'"),
        (["--threads", "0"], 2, "--threads.* 1 and 512.*got 0"),
        (["--cache", "/dev/null/x", "--port", "0"], 1, "error: --cache /dev/null/x: Not a directory"),
        (["extra"], 2, "error: .*'extra'.*options"),
    ],
)
def test_it_refuses(arguments: list[str], status: int, words: str) -> None:
    ended, said = refused(*arguments)
    assert (ended, bool(re.search(words, said)), "Traceback" in said) == (status, True, False), said


def test_a_device_by_name(client: Client) -> None:
    with Worker("--device", "cpu", "--device", "CPU") as worker:
        client("assert len(added()) == 1", worker.endpoint)


@pytest.mark.parametrize(
    ("host", "told"), [("127.0.0.1", False), ("127.8.8.8", False), ("0.0.0.0", True), ("192.168.1.5", True)]
)
def test_it_warns_of_strangers(host: str, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rpc_worker._announce(Endpoint(host, 50052), 2, None)
    captured = capsys.readouterr()
    assert not captured.out
    assert bool(re.search("WARNING: .*no authentication.*no encryption", captured.err)) == told
    assert ("ssh -N -L 50052:127" in captured.err) == (not told)
    assert ('0.0.0.0:50052")' in captured.err) is False


def _connected(worker: Worker) -> socket.socket:
    """A connection to a worker that may be about to listen anew."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", worker.port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _tensor(buffer: int, data: int, op: int = 0) -> bytes:
    """An rpc_tensor of 8 floats."""
    head = struct.pack("<QIQ4I4II", 1, 0, buffer, 8, 1, 1, 1, 4, 32, 32, 32, op)
    return head + bytes(64 + 4 + 80 + 8 + 8) + struct.pack("<Q", data) + bytes(64 + 4)


def test_a_request_that_cannot_be_met_ends_its_connection_only(client: Client, models: Path) -> None:
    """llama.cpp's server refuses a tensor beyond its buffer, and aborts for an operation that does not exist."""
    with Worker() as worker:
        with _connected(worker) as stranger:
            say_hello(stranger)
            graph = struct.pack("<IQIQI", 0, 0, 1, 1, 1) + _tensor(0, 0, lib.GGML_OP_COUNT)
            stranger.sendall(struct.pack("<BQ", 10, len(graph)) + graph)
            assert stranger.recv(1) == b""
        worker.wait_for("disconnected a client.*fatal error")
        for _ in range(3):
            with _connected(worker) as stranger:
                say_hello(stranger)
                stranger.sendall(struct.pack("<BQIQ", 0, 12, 0, 1024))  # a buffer of 1,024 bytes on device 0
                (_, buffer, size) = struct.unpack("<QQQ", stranger.recv(24, socket.MSG_WAITALL))
                assert size >= 1024
                request = _tensor(buffer, 64)
                stranger.sendall(struct.pack("<BQ", 12, len(request)) + request)
                assert stranger.recv(1) == b""
        _connected(worker).close()
        client("assert greedy(Model.Params(devices=added()))", worker.endpoint)


def test_a_message_larger_than_memory_ends_its_connection_only() -> None:
    with Worker() as worker:
        for size in (1 << 62, (1 << 64) - 1):
            with socket.create_connection(("127.0.0.1", worker.port)) as stranger:
                say_hello(stranger)
                stranger.sendall(struct.pack("<BQ", 6, size))
                assert stranger.recv(1) == b""
        worker.wait_for("disconnected a client")
        _connected(worker).close()
        assert greet(Endpoint("127.0.0.1", worker.port), 30).devices == 1
