"""Endpoints, and what is said about a worker that is not there or does not fit."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from llama_cffi import RpcError, lib
from llama_cffi.ggml._rpc_endpoint import Endpoint, greet, parse, resolve
from tests.rpc.conftest import Client
from tests.rpc.workers import Worker

HELLO = struct.pack("<BQ", 14, 24) + bytes(24)
MAJOR, MINOR = lib.RPC_PROTO_MAJOR_VERSION, lib.RPC_PROTO_MINOR_VERSION


def say_hello(connection: socket.socket) -> None:
    """Become the client that a worker serves, until the connection is closed."""
    connection.sendall(HELLO)
    assert len(connection.recv(36, socket.MSG_WAITALL)) == 36


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:50052", ("127.0.0.1", 50052)),
        ("localhost:1", ("localhost", 1)),
        ("gpu-box.lan:65535", ("gpu-box.lan", 65535)),
        ("my_host:080", ("my_host", 80)),
    ],
)
def test_parse(text: str, endpoint: tuple[str, int]) -> None:
    assert parse(text) == endpoint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "of the form host:port"),
        ("127.0.0.1", "of the form host:port"),
        (":50052", "of the form host:port"),
        ("host:", "between 1 and 65535, got"),
        ("host:0", "between 1 and 65535, got"),
        ("host:65536", "between 1 and 65535, got"),
        ("host:50052abc", "between 1 and 65535, got"),
        ("host:-1", "between 1 and 65535, got"),
        ("host: 1", "between 1 and 65535, got"),
        ("host:٣", "between 1 and 65535, got"),
        ("[::1]:50052", "IPv4 only"),
        ("::1:50052", "IPv4 only"),
        ("http://host:1", "IPv4 only"),
        ("a b:1", "neither a host name nor an IPv4 address"),
        ("host\0:1", "neither a host name nor an IPv4 address"),
        ("-host:1", "neither a host name nor an IPv4 address"),
    ],
)
def test_what_is_no_endpoint(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_an_endpoint_is_text() -> None:
    with pytest.raises(TypeError, match="got tuple"):
        parse(("localhost", 50052))  # type: ignore[arg-type]


def test_resolve() -> None:
    assert resolve(parse("localhost:7")) == ("127.0.0.1", 7)
    with pytest.raises(RpcError, match=r"IPv4 address .*check the name"):
        resolve(parse("no-such-host.invalid:7"))


@contextmanager
def pretender(serve: Callable[[socket.socket], object]) -> Iterator[Endpoint]:
    """Something that listens on loopback, and does `serve` with its one client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)
                done.wait(30)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield Endpoint(*listener.getsockname())
        done.set()
        thread.join(30)


def _answer(*version: int, devices: int = 1) -> Callable[[socket.socket], object]:
    def serve(connection: socket.socket) -> None:
        assert connection.recv(len(HELLO), socket.MSG_WAITALL) == HELLO
        connection.sendall(struct.pack("<Q4B", 28, *version, 0) + bytes(24))
        if connection.recv(9, socket.MSG_WAITALL):
            connection.sendall(struct.pack("<QI", 4, devices))

    return serve


def test_greet() -> None:
    with pretender(_answer(MAJOR, MINOR, 9, devices=3)) as endpoint:
        assert greet(endpoint, 10) == ((MAJOR, MINOR, 9), 3)


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (_answer(MAJOR + 1, 0, 0), rf"version {MAJOR + 1}\.0\.0 .* {MAJOR}\.{MINOR}: install"),
        (_answer(MAJOR, MINOR + 1, 0), rf"version {MAJOR}\.{MINOR + 1}\.0"),
        (_answer(MAJOR - 1, 0, 0), "install the same llama_cffi on both machines"),
        (_answer(MAJOR, MINOR, 0, devices=0), "does not offer a device"),
        (_answer(MAJOR, MINOR, 0, devices=17), "17 devices, and ggml has room for 16"),
        (_answer(MAJOR, MINOR, 0, devices=1 << 31), "2147483648 devices, and ggml has room for 16"),
        (lambda connection: connection.close(), "does not answer as a worker"),
        (lambda connection: connection.shutdown(socket.SHUT_WR), "does not answer as a worker"),
        (lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not answer as a worker"),
        (lambda connection: connection.sendall(struct.pack("<Q3B", 3, 2, 0, 0)), "another version of llama.cpp"),
    ],
)
def test_who_does_not_fit(serve: Callable[[socket.socket], object], words: str) -> None:
    with pretender(serve) as endpoint, pytest.raises(RpcError, match=words):
        greet(endpoint, 10)


@pytest.mark.parametrize("said", [b"", b"\x1c\0\0"])
def test_who_says_nothing(said: bytes) -> None:
    with (
        pretender(lambda connection: connection.sendall(said)) as endpoint,
        pytest.raises(RpcError, match=r"does not answer within 0\.3 s.*one at a time"),
    ):
        greet(endpoint, 0.3)


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(*listener.getsockname())
    with pytest.raises(
        RpcError, match=rf"does not listen at {endpoint} .*rpc-worker --host ADDRESS --port {endpoint.port}"
    ):
        greet(endpoint, 10)


def test_a_worker_that_is_busy_is_not_waited_for(client: Client) -> None:
    code = """
raises(RpcError, lambda: Ggml.Rpc.addServer(endpoints[0], timeout=0.5), "one at a time")
assert not Ggml.Rpc.servers() and len(Ggml.Backend.devices()) == 1
"""
    with Worker() as worker, socket.create_connection(("127.0.0.1", worker.port)) as other:
        say_hello(other)
        client(code, worker.endpoint)
        other.close()
        client("assert len(added()) == 1", worker.endpoint)


def test_wrong_arguments(client: Client) -> None:
    code = """
from llama_cffi.ggml.rpc import Rpc
raises(ValueError, lambda: Rpc.addServer("localhost"), "of the form host:port")
raises(ValueError, lambda: Rpc.addServer("localhost:1", timeout=0), "at most 3600 seconds, got 0")
raises(RpcError, lambda: Rpc.addServer("127.0.0.1:1"), "does not listen at 127.0.0.1:1")
raises(ConnectionError, lambda: Rpc.addServer("127.0.0.1:1"))
raises(ValueError, lambda: Rpc.startServer("127.0.0.1:x"), "between 1 and 65535, got 'x'")
raises(ValueError, lambda: Rpc.startServer(nThreads=0), "nThreads must be between 1 and 512, got 0")
raises(ValueError, lambda: Rpc.startServer(nThreads=513), "between 1 and 512, got 513")
raises(ValueError, lambda: Rpc.startServer(devices=[]), "devices is empty")
raises(TypeError, lambda: Rpc.startServer(devices=["CPU"]), "got str: Ggml.Backend.devices()")
raises(ValueError, lambda: Rpc.startServer(cacheDir="/no/such/folder"), "create it first")
"""
    client(code)


def _worker(alignment: int, largest: int) -> Iterator[tuple[socket.socket, Endpoint]]:
    """A worker that answers what it likes, to any number of connections."""
    answers = {
        14: struct.pack("<4B", MAJOR, MINOR, 0, 0) + bytes(24),
        15: struct.pack("<I", 1),
        1: struct.pack("<Q", alignment),
        2: struct.pack("<Q", largest),
    }

    def serve(connection: socket.socket) -> None:
        with connection:
            while head := connection.recv(9, socket.MSG_WAITALL):
                command, size = struct.unpack("<BQ", head)
                connection.recv(size, socket.MSG_WAITALL)
                connection.sendall(struct.pack("<Q", len(answers[command])) + answers[command])

    def run() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=run, daemon=True).start()
        yield listener, Endpoint(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("alignment", "largest"), [(0, 1 << 30), (3, 1 << 30), (48, 1 << 30), (1 << 63, 1 << 30), (2**64 - 1, 1), (64, 0)]
)
def test_sizes_that_ggml_would_divide_by(client: Client, alignment: int, largest: int) -> None:
    code = f"""
for _ in range(2):
    raises(RpcError, lambda: Ggml.Rpc.addServer(endpoints[0]), "an alignment of {alignment} (a power of 2 ")
assert not Ggml.Rpc.servers() and len(Ggml.Backend.devices()) == 1
"""
    with contextmanager(_worker)(alignment, largest) as (_, endpoint):
        client(code, str(endpoint))


def test_sizes_that_are_possible(client: Client) -> None:
    with contextmanager(_worker)(64, 1 << 30) as (_, endpoint):
        client("assert len(added()) == 1", str(endpoint))
