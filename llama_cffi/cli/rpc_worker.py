"""`llama-cffi rpc-worker`: offer the devices of this machine to models on other machines."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

from llama_cffi._core.argparse_types import integer
from llama_cffi._core.command_parser import CommandParser
from llama_cffi._host.resources import usable_cpus
from llama_cffi.cli import options
from llama_cffi.cli.output import CommandError, say
from llama_cffi.errors import LlamaError, NativeError, RpcError, UnavailableError
from llama_cffi.ggml._rpc_endpoint import PORT, Endpoint, parse, resolve
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.ggml.rpc import Rpc

_START_TIMEOUT_S = 30.0
_POLL_S = 0.05


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns 1 if the worker cannot start; wrong arguments are status 2."""
    args = make_parser().parse_args(argv)
    try:
        where = _endpoint(args.host, args.port)
        devices = _devices(args.device)
        folder = _cache(args.cache)
    except (CommandError, LlamaError) as error:
        say(f"error: {error}")
        return error.status if isinstance(error, CommandError) else 1
    threads = args.threads or usable_cpus()
    server = _Server(where, devices, threads, folder)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    os.dup2(2, 1)  # llama.cpp's server prints its progress to stdout
    server.start()
    if _wait_until_listening(server, stopped):
        _announce(where, threads, folder)
    while server.is_alive() and not stopped.wait(_POLL_S):
        pass
    status = 0 if stopped.is_set() else 1
    say("stopped" if stopped.is_set() else f"error: {server.failure}")
    sys.stderr.flush()
    # The server thread is still inside llama.cpp, maybe computing: skip the interpreter's cleanup, which would free
    # what it uses.
    os._exit(status)


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "rpc-worker",
        "Offer the devices of this machine to models on other machines. Ctrl-C stops the worker.",
        "rpc-worker",
        "rpc-worker --host 192.168.1.5 --port 50052",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="IPv4 address or name to listen at (default: %(default)s, reachable from this machine only)",
    )
    parser.add_argument(
        "--port",
        type=integer(0, 65535),
        default=PORT,
        metavar="N",
        help="port to listen at; 0: any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        action="append",
        metavar="NAME",
        help="device to offer; may be repeated (default: the GPUs, or else the CPU)",
    )
    parser.add_argument(
        "--threads",
        type=integer(1, 512),
        metavar="N",
        help="CPU threads (default: one for each CPU that this process can use)",
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="directory to keep large tensors in, so that a client sends them only once"
    )
    return parser


def _endpoint(host: str, port: int) -> Endpoint:
    """Check that the worker can listen there, since llama.cpp reports a failure without its reason."""
    try:
        where = resolve(parse(f"{host}:{port or PORT}"))
    except (ValueError, RpcError) as error:
        raise CommandError(f"--host {host}: {error}", 2) from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((where.host, port))
        except OSError as error:
            raise CommandError(_cannot_listen(error, where), 1) from None
        return Endpoint(where.host, trial.getsockname()[1])


def _cannot_listen(error: OSError, where: Endpoint) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {where.port} of {where.host} is in use, maybe by another worker: choose another one with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where.host} is not an address of this machine: --host 0.0.0.0 listens at all of them"
    if error.errno == errno.EACCES:
        return f"this user may not listen at port {where.port}: choose one of 1024 or more with --port"
    return f"cannot listen at {where}: {error.strerror}"


def _devices(names: Sequence[str] | None) -> list[BackendDevice] | None:
    """The devices with these names; None leaves the choice to llama.cpp."""
    Backend.ensureCpu()
    if os.environ.get("GGML_USE_VULKAN") == "1" or any(name.lower().startswith("vulkan") for name in names or ()):
        Backend.vkLoad()
    if names is None:
        return None
    found = [BackendDevice.byName(name) for name in names]
    for name, device in zip(names, found, strict=True):
        if device is None:
            known = ", ".join(device.name for device in Backend.devices())
            raise CommandError(f"--device {name}: no such device; this machine has {known}", 2)
    return list(dict.fromkeys(device for device in found if device is not None))


def _cache(folder: str | None) -> str | None:
    if folder is None:
        return None
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--cache {folder}: {error.strerror}", 1) from None
    return os.path.abspath(folder)


class _Server(threading.Thread):
    """The thread that runs llama.cpp's server loop. A request that fails ends that client's connection only."""

    def __init__(self, where: Endpoint, devices: list[BackendDevice] | None, threads: int, cache: str | None) -> None:
        super().__init__(name="rpc-worker", daemon=True)
        self.where = where
        self._arguments = (str(where), devices, threads, cache)
        self.failure = ""

    def run(self) -> None:
        while True:
            try:
                Rpc.startServer(*self._arguments)
            except (RpcError, UnavailableError, ValueError) as error:
                self.failure = str(error)
                return
            except NativeError as error:
                say(f"disconnected a client after a failed request: {error}")


def _wait_until_listening(server: _Server, stopped: threading.Event) -> bool:
    """Wait until the port is taken: llama.cpp does not report when it listens. Returns False if it never does."""
    host, port = server.where
    deadline = time.monotonic() + _START_TIMEOUT_S
    while server.is_alive() and time.monotonic() < deadline and not stopped.wait(_POLL_S):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except OSError:
                return True
    return False


def _announce(where: Endpoint, threads: int, folder: str | None) -> None:
    say(f"listening at {where} ({threads} threads, one client at a time); Ctrl-C stops the worker")
    if folder:
        say(f"caching large tensors in {folder}")
    if ipaddress.ip_address(where.host).is_loopback:
        say(f'connect from this machine: Ggml.Rpc.addServer("{where}")')
        say(f"connect from another machine by a tunnel: ssh -N -L {where.port}:{where} {socket.gethostname()}")
        return
    name = socket.gethostname() if where.host == "0.0.0.0" else where.host
    say(f'connect from another machine: Ggml.Rpc.addServer("{name}:{where.port}")')
    say(
        "WARNING: RPC has no authentication and no encryption. Anyone who reaches this port can run computations here, "
        "read what others compute, and crash this process. Use it only in a network that you trust, or listen at "
        "127.0.0.1 and use a tunnel."
    )
