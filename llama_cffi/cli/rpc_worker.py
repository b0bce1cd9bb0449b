"""`python -m llama_cffi rpc-worker`: offer the devices of this machine to llama.cpp on other machines."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

from llama_cffi._host.resources import usable_cpus
from llama_cffi.errors import LlamaError, NativeError, RpcError, UnavailableError
from llama_cffi.ggml._rpc_endpoint import PORT, Endpoint, parse, resolve
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.ggml.rpc import Rpc

_READY = 30.0  # seconds until llama.cpp must listen
_LOOK = 0.05


class _Refused(Exception):
    """Why the worker does not start."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns 1 where that cannot be done; wrong arguments are status 2."""
    args = _parser().parse_args(argv)
    try:
        where = _endpoint(args.host, args.port)
        devices = _devices(args.device)
        folder = _cache(args.cache)
    except (_Refused, LlamaError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status if isinstance(error, _Refused) else 1
    threads = args.threads or usable_cpus()
    server = _Server(where, devices, threads, folder)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    os.dup2(2, 1)  # llama.cpp's server tells its progress to stdout
    server.start()
    if _wait_until_it_listens(server, stopped):
        _announce(where, threads, folder)
    while server.is_alive() and not stopped.wait(_LOOK):
        pass
    status = 0 if stopped.is_set() else 1
    _say("stopped" if stopped.is_set() else f"error: {server.failure}")
    sys.stderr.flush()
    # A thread is inside llama.cpp, maybe computing: nothing that it uses may be torn down under it.
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llama_cffi rpc-worker", description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at (this machine alone: %(default)s)"
    )
    parser.add_argument("--port", type=_port, default=PORT, help="default: %(default)s; 0: any that is free")
    parser.add_argument("--device", action="append", metavar="NAME", help="a device to offer, may be given repeatedly")
    parser.add_argument("--threads", type=_threads, metavar="N", help="of the CPU; default: as many as it has")
    parser.add_argument("--cache", metavar="DIR", help="keep large tensors there, so that they are sent only once")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 512:
        raise argparse.ArgumentTypeError(f"the threads are a number from 1 to 512, not {text!r}")
    return int(text)


def _endpoint(host: str, port: int) -> Endpoint:
    """Where to listen. What is wrong with it is found out here: llama.cpp says only that it failed."""
    try:
        where = resolve(parse(f"{host}:{port or PORT}"))
    except (ValueError, RpcError) as error:
        raise _Refused(f"--host {host}: {error}", 2) from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((where.host, port))
        except OSError as error:
            raise _Refused(_why_not(error, where), 1) from None
        return Endpoint(where.host, trial.getsockname()[1])


def _why_not(error: OSError, where: Endpoint) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {where.port} of {where.host} is in use, maybe by another worker: choose another with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where.host} is no address of this machine: --host 0.0.0.0 listens at all that it has"
    if error.errno == errno.EACCES:
        return f"this user may not listen at port {where.port}: choose one from 1024 with --port"
    return f"cannot listen at {where}: {error.strerror}"


def _devices(names: Sequence[str] | None) -> list[BackendDevice] | None:
    """The devices of these names, or None for llama.cpp's choice."""
    Backend.ensureCpu()
    if os.environ.get("GGML_USE_VULKAN") == "1" or any(name.lower().startswith("vulkan") for name in names or ()):
        Backend.vkLoad()
    if names is None:
        return None
    found = [BackendDevice.byName(name) for name in names]
    for name, device in zip(names, found, strict=True):
        if device is None:
            known = ", ".join(device.name for device in Backend.devices())
            raise _Refused(f"--device {name}: this machine has no such device, but {known}", 2)
    return list(dict.fromkeys(device for device in found if device is not None))


def _cache(folder: str | None) -> str | None:
    if folder is None:
        return None
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise _Refused(f"--cache {folder}: {error.strerror}", 1) from None
    return os.path.abspath(folder)


class _Server(threading.Thread):
    """llama.cpp's loop, which never ends by itself. A request that fails ends that client's connection only."""

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
                _say(f"a client asked for what cannot be done, and was hung up on: {error}")


def _wait_until_it_listens(server: _Server, stopped: threading.Event) -> bool:
    """llama.cpp does not say when it listens; from then on nobody else can have the port."""
    host, port = server.where
    deadline = time.monotonic() + _READY
    while server.is_alive() and time.monotonic() < deadline and not stopped.wait(_LOOK):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except OSError:
                return True
    return False


def _announce(where: Endpoint, threads: int, folder: str | None) -> None:
    _say(f"listening at {where} ({threads} threads; one client at a time); Ctrl-C ends it")
    if folder:
        _say(f"large tensors are kept in {folder}")
    if ipaddress.ip_address(where.host).is_loopback:
        _say(f'a program on this machine uses it by Ggml.Rpc.addServer("{where}")')
        _say(f"another machine by its own end of a tunnel: ssh -N -L {where.port}:{where} {socket.gethostname()}")
        return
    name = socket.gethostname() if where.host == "0.0.0.0" else where.host
    _say(f'a program on another machine uses it by Ggml.Rpc.addServer("{name}:{where.port}")')
    _say(
        "WARNING: RPC has no authentication and no encryption. Whoever reaches this port can run computations here, "
        "read what others compute, and crash this process: keep it inside a network that you trust, or listen at "
        "127.0.0.1 and use a tunnel"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
