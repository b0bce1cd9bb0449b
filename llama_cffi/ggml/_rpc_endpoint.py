"""Endpoints of llama.cpp's RPC, and the first words of its protocol.

llama.cpp's own client ends the process, or waits for ever, where something is wrong with the other side: it is asked
here first.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from typing import NamedTuple

from llama_cffi._core.ffi import lib
from llama_cffi.errors import RpcError

PORT = 50052

_HELLO, _DEVICE_COUNT = 14, 15  # commands
_CAPABILITIES = 24  # bytes: what else than TCP the sides speak; zeros for nothing
_HELLO_ANSWER = 4 + _CAPABILITIES
_HINT = "python -m llama_cffi rpc-worker"


class Endpoint(NamedTuple):
    """Where a worker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Greeting(NamedTuple):
    """What a worker says of itself."""

    version: tuple[int, int, int]
    devices: int


def parse(text: str) -> Endpoint:
    """Read `host:port`. Raises ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"an endpoint is text such as '192.168.1.5:{PORT}', not {type(text).__name__}")
    host, colon, port = text.rpartition(":")
    if ":" in host or text.startswith("["):
        raise ValueError(f"{text!r}: llama.cpp's RPC speaks IPv4 only: write host:port, such as 192.168.1.5:{PORT}")
    if not colon or not host:
        raise ValueError(f"{text!r} is not host:port: write it like 192.168.1.5:{PORT}")
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", host):
        raise ValueError(f"{text!r}: {host!r} is neither a host's name nor an IPv4 address")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535, not {port!r}")
    return Endpoint(host, int(port))


def resolve(endpoint: Endpoint) -> Endpoint:
    """The same with the host's IPv4 address: two names of one machine are one worker. Raises RpcError."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RpcError(
            f"the host {endpoint.host!r} has no IPv4 address that this machine can find ({error}): check its name, or "
            "write its address"
        ) from None
    return Endpoint(str(found[0][4][0]), endpoint.port)


def greet(endpoint: Endpoint, timeout: float) -> Greeting:
    """Say hello to a worker, and hang up. Raises RpcError for one that is not there, or speaks another version."""
    deadline = time.monotonic() + timeout
    try:
        connection = socket.create_connection(endpoint, timeout)
    except TimeoutError:
        raise RpcError(
            f"{endpoint} does not answer within {timeout:g} s: is the machine on, and does a firewall let port "
            f"{endpoint.port} through?"
        ) from None
    except OSError as error:
        raise RpcError(
            f"there is no worker at {endpoint} ({error.strerror or error}): start one on that machine with "
            f"`{_HINT} --host ADDRESS --port {endpoint.port}`"
        ) from None
    try:
        with connection:
            answer = _ask(connection, _HELLO, bytes(_CAPABILITIES), _HELLO_ANSWER, deadline)
            version = (answer[0], answer[1], answer[2])
            fits = version[0] == lib.RPC_PROTO_MAJOR_VERSION and version[1] <= lib.RPC_PROTO_MINOR_VERSION
            devices = int.from_bytes(_ask(connection, _DEVICE_COUNT, b"", 4, deadline), "little") if fits else 0
    except TimeoutError:
        raise RpcError(
            f"{endpoint} takes the connection, but says nothing within {timeout:g} s: a worker serves one client at a "
            "time (does another program use it?), and anything else does not speak RPC"
        ) from None
    except (OSError, EOFError):
        raise RpcError(
            f"{endpoint} does not answer as a worker of this version does: something else listens there, or another "
            "llama.cpp (install the same llama_cffi on both machines)"
        ) from None
    if not fits:
        raise RpcError(
            f"the worker at {endpoint} speaks version {'.'.join(map(str, version))} of the RPC protocol, and this "
            f"llama.cpp {lib.RPC_PROTO_MAJOR_VERSION}.{lib.RPC_PROTO_MINOR_VERSION}: install the same llama_cffi on "
            "both machines"
        )
    if not devices:
        raise RpcError(f"the worker at {endpoint} offers no device: name some with `{_HINT} --device NAME`")
    return Greeting(version, devices)


def _ask(connection: socket.socket, command: int, request: bytes, size: int, deadline: float) -> bytes:
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    connection.sendall(struct.pack("<BQ", command, len(request)) + request)
    (length,) = struct.unpack("<Q", _read(connection, 8, deadline))
    if length != size:
        raise EOFError("what was answered is no answer of RPC")
    return _read(connection, size, deadline)


def _read(connection: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError("the connection was closed")
        data += piece
    return data
