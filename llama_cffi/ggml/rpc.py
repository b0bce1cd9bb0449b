"""RPC, llama.cpp's own way to spread a model over machines: workers offer devices, and a client uses them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from llama_cffi._core.arguments import path_bytes
from llama_cffi._core.compat import member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import registering
from llama_cffi._core.native_log import native_log
from llama_cffi._core.process import fork_safe_lock
from llama_cffi._generated.enums import GgmlBackendDevType as _Type
from llama_cffi._host.resources import check_threads, usable_cpus
from llama_cffi.errors import RpcError
from llama_cffi.ggml import _rpc_endpoint
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendDevice

_lock = fork_safe_lock(threading.RLock())  # one worker is added at a time

_LONGEST = 3600  # seconds


class Rpc:
    """Devices of other machines. Nothing here is encrypted or authenticated: see docs/rpc.md."""

    _servers: dict[str, tuple[BackendDevice, ...]] = {}  # noqa: RUF012

    @classmethod
    def load(cls) -> None:
        """Load the RPC backend, from this package's folder. Loading it twice is harmless. Raises UnavailableError.

        Maps to `ggml_backend_load`.
        """
        Backend.load("rpc")

    @classmethod
    def addServer(cls, endpoint: str, timeout: float = 10.0) -> list[BackendDevice]:
        """Make the devices of a worker known, and return them: `addServer("192.168.1.5:50052")`.

        From then on they are among `Ggml.Backend.devices()`, and models use them: those that name them in
        `Model.Params.devices`, and those that name none. A worker that was added before gives the same devices again,
        without being asked. `timeout` is how many seconds it may take to answer. Loads the RPC and CPU backends.

        Raises ValueError for what is not `host:port`, RpcError for a worker that is not there, is busy with another
        client, or speaks another version.

        Maps to `ggml_backend_rpc_add_server` and `ggml_backend_register`.
        """
        wanted = _rpc_endpoint.parse(endpoint)
        if not 0 < timeout <= _LONGEST:
            raise ValueError(f"timeout is {timeout}: a number of seconds above 0, and at most {_LONGEST}")
        cls.load()
        where = _rpc_endpoint.resolve(wanted)
        with _lock:
            if str(where) not in cls._servers:
                _rpc_endpoint.greet(where, timeout)
                cls._servers[str(where)] = _add(str(where))
            return list(cls._servers[str(where)])

    @classmethod
    def servers(cls) -> list[str]:
        """The workers that were added, as `address:port`."""
        return list(cls._servers)

    @classmethod
    def devices(cls) -> list[BackendDevice]:
        """The devices of all workers that were added, in that order. A device's description is where it is."""
        return [device for devices in list(cls._servers.values()) for device in devices]

    @classmethod
    def startServer(
        cls,
        endpoint: str = f"127.0.0.1:{_rpc_endpoint.PORT}",
        devices: Sequence[BackendDevice] | None = None,
        nThreads: int | None = None,
        cacheDir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Offer devices of this process to others, one client at a time. Returns only where that ends by an error.

        This is what `python -m llama_cffi rpc-worker` does. It neither listens to Ctrl-C nor can be stopped: call it
        on a daemon thread, in a process of its own. The host is an IPv4 address of this machine; anybody who reaches
        it can compute here, and crash the process. `devices` are by default the GPUs, or the CPU where there is none;
        `nThreads` is for the CPU. Large tensors are kept in `cacheDir`, and need not be sent again.

        Raises ValueError, RpcError where the port cannot be used, and what a client's request made fail.

        Maps to `ggml_backend_rpc_start_server`.
        """
        wanted = _rpc_endpoint.parse(endpoint)
        threads = usable_cpus() if nThreads is None else nThreads
        if not 1 <= threads <= lib.GGML_MAX_N_THREADS:
            raise ValueError(f"nThreads is {threads}: a number from 1 to {lib.GGML_MAX_N_THREADS}")
        check_threads("nThreads", threads)
        folder = ffi.NULL if cacheDir is None else ffi.new("char[]", path_bytes(cacheDir, "cacheDir"))
        if cacheDir is not None and not Path(os.fsdecode(cacheDir)).is_dir():
            raise ValueError(f"cacheDir: there is no folder {os.fsdecode(cacheDir)!r}: make it first")
        cls.load()
        offered = _local(devices)
        array = ffi.new("ggml_backend_dev_t[]", [device._c for device in offered])
        where = _rpc_endpoint.resolve(wanted)
        lib.ggml_backend_rpc_start_server(str(where).encode(), folder, threads, len(offered), array)
        raise RpcError(f"llama.cpp could not listen at {where}, or stopped listening", log=native_log())


def _add(where: str) -> tuple[BackendDevice, ...]:
    reg = lib.ggml_backend_rpc_add_server(where.encode())
    if reg == ffi.NULL:
        raise RpcError(f"the worker at {where} offers no device any more", log=native_log())
    with registering():
        lib.ggml_backend_register(reg)
    return tuple(
        BackendDevice(lib.ggml_backend_reg_dev_get(reg, index)) for index in range(lib.ggml_backend_reg_dev_count(reg))
    )


def _local(devices: Sequence[BackendDevice] | None) -> list[BackendDevice]:
    """The devices to offer: those that were named, or the GPUs, or the CPU."""
    known = [device for device in Backend.devices() if device not in Rpc.devices()]
    if devices is None:
        gpus = [device for device in known if device.type in (_Type.GPU, member(_Type, "IGPU"))]
        return gpus or [device for device in known if device.type == _Type.CPU]
    for device in devices:
        if not isinstance(device, BackendDevice):
            raise TypeError(f"devices holds {device!r}: Ggml.Backend.devices() lists what belongs there")
        if device not in known:
            raise ValueError(f"devices holds {device!r}, which is another worker's: offer it there")
    if not devices:
        raise ValueError("devices is empty: name at least one of Ggml.Backend.devices(), or leave it out")
    return list(devices)
