"""Endpoints of RPC workers, and the handshake of llama.cpp's RPC protocol.

llama.cpp's client ends the process or hangs if the other side is not a working server. So it is checked here first.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from typing import NamedTuple

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import lib
from llama_cffi.errors import RpcError

PORT = 50052

_HELLO, _DEVICE_COUNT = 14, 15  # commands
_CAPABILITIES = 24  # bytes: transports besides TCP; all zeros for none
_MAX_DEVICES = 16  # GGML_SCHED_MAX_BACKENDS: one model cannot use more
_HELLO_ANSWER = 4 + _CAPABILITIES
_HINT = "python -m llama_cffi rpc-worker"


class Endpoint(NamedTuple):
    """The address of a worker."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Greeting(NamedTuple):
    """The answer of a worker: its protocol version, and the number of its devices."""

    version: tuple[int, int, int]
    devices: int


def parse(text: str) -> Endpoint:
    """Parse `host:port`. Raises ValueError if it is malformed."""
    if not isinstance(text, str):
        raise expected(f"a str such as '192.168.1.5:{PORT}'", text, name="endpoint")
    host, colon, port = text.rpartition(":")
    if ":" in host or text.startswith("["):
        raise ValueError(f"{text!r}: RPC supports IPv4 only: write host:port, such as 192.168.1.5:{PORT}")
    if not colon or not host:
        raise ValueError(f"{text!r} is not of the form host:port: write it like 192.168.1.5:{PORT}")
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", host):
        raise ValueError(f"{text!r}: {host!r} is neither a host name nor an IPv4 address")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: port must be between 1 and 65535, got {port!r}")
    return Endpoint(host, int(port))


def resolve(endpoint: Endpoint) -> Endpoint:
    """Replace a host name by its IPv4 address: two names of one machine are one worker. Raises RpcError."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RpcError(
            f"the IPv4 address of the host {endpoint.host!r} was not found ({error}): check the name"
        ) from None
    return Endpoint(str(found[0][4][0]), endpoint.port)


def greet(endpoint: Endpoint, timeout: float) -> Greeting:
    """Connect to a worker, exchange versions, and disconnect. Raises RpcError if it does not answer or fit."""
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
            f"a worker does not listen at {endpoint} ({error.strerror or error}): start one on that machine with "
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
            f"{endpoint} accepts the connection, but does not answer within {timeout:g} s: it serves another client "
            "(one at a time), or is not an RPC worker"
        ) from None
    except (OSError, EOFError):
        raise RpcError(
            f"{endpoint} does not answer as a worker of this version: it is another program, or another version of "
            "llama.cpp (install the same llama_cffi on both machines)"
        ) from None
    if not fits:
        raise RpcError(
            f"the worker at {endpoint} uses version {'.'.join(map(str, version))} of the RPC protocol, but this "
            f"llama.cpp uses {lib.RPC_PROTO_MAJOR_VERSION}.{lib.RPC_PROTO_MINOR_VERSION}: install the same llama_cffi "
            "on both machines"
        )
    if devices > _MAX_DEVICES:
        raise RpcError(
            f"the worker at {endpoint} claims to have {devices} devices, and ggml has room for {_MAX_DEVICES}: it is "
            "damaged or hostile, or offers too many (`--device NAME`)"
        )
    if not devices:
        raise RpcError(f"the worker at {endpoint} does not offer a device: start it with `{_HINT} --device NAME`")
    return Greeting(version, devices)


def _ask(connection: socket.socket, command: int, request: bytes, size: int, deadline: float) -> bytes:
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    connection.sendall(struct.pack("<BQ", command, len(request)) + request)
    (length,) = struct.unpack("<Q", _read(connection, 8, deadline))
    if length != size:
        raise EOFError("the answer has the wrong length")
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
