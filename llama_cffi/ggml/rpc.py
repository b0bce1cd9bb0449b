"""`Ggml.Rpc`: run a model on devices of other machines. Workers offer devices, clients load models onto them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from llama_cffi._core.arguments import path_bytes
from llama_cffi._core.checks import expected, number, out_of_range, shown
from llama_cffi._core.compat import member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import registering
from llama_cffi._core.native_log import native_log
from llama_cffi._core.ownership import atomic, locked
from llama_cffi._core.process import fork_safe_lock
from llama_cffi._generated.enums import GgmlBackendDevType as _Type
from llama_cffi._host.resources import check_threads, usable_cpus
from llama_cffi.errors import RpcError
from llama_cffi.ggml import _rpc_endpoint
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_lock = fork_safe_lock(threading.RLock())  # adds one worker at a time

_registered: set[object] = set()  # workers that ggml knows

_MAX_TIMEOUT_S = 3600
_MAX_ALIGNMENT = 1 << 20  # bytes


class Rpc:
    """Devices of other machines. RPC has neither encryption nor authentication: see docs/rpc.md."""

    def __init__(self) -> None:
        raise TypeError("Rpc is not made by calling the class: use its class methods, such as Rpc.addServer(endpoint)")

    _servers: dict[str, tuple[BackendDevice, ...]] = {}  # noqa: RUF012

    @classmethod
    def load(cls) -> None:
        """Load the RPC backend of this package. Loading it twice is harmless. Raises UnavailableError if it is missing.

        Maps to `ggml_backend_load`.
        """
        Backend.load("rpc")

    @classmethod
    def addServer(cls, endpoint: str, timeout: float = 10.0) -> list[BackendDevice]:
        """Register the devices of a worker and return them: `addServer("192.168.1.5:50052")`.

        From then on `Ggml.Backend.devices()` lists them, and models use them if `Model.Params.devices` names them or is
        not set. Adding a worker again returns the same devices without a connection. `timeout` is the time for its
        answer, in seconds. Loads the RPC and CPU backends.

        Raises ValueError if the endpoint is not `host:port`, RpcError if the worker does not answer, serves another
        client, or uses another version of the protocol.

        Maps to `ggml_backend_rpc_add_server` and `ggml_backend_register`.
        """
        wanted = _rpc_endpoint.parse(endpoint)
        limit = number(timeout, "timeout", " of seconds")
        if not 0 < limit <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout must be above 0 and at most {_MAX_TIMEOUT_S} seconds, got {shown(timeout)}")
        cls.load()
        where = _rpc_endpoint.resolve(wanted)
        with locked(_lock):
            if str(where) not in cls._servers:
                _rpc_endpoint.greet(where, limit)
                cls._servers[str(where)] = _add(str(where))
            return list(cls._servers[str(where)])

    @classmethod
    def servers(cls) -> list[str]:
        """Return the workers that were added, as `address:port`."""
        return list(cls._servers)

    @classmethod
    def devices(cls) -> list[BackendDevice]:
        """Return the devices of all workers that were added, in that order. A device's description is its endpoint."""
        return [device for devices in list(cls._servers.values()) for device in devices]

    @classmethod
    def startServer(
        cls,
        endpoint: str = f"127.0.0.1:{_rpc_endpoint.PORT}",
        devices: Sequence[BackendDevice] | None = None,
        nThreads: int | None = None,
        cacheDir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Serve devices of this process to one client at a time. It only returns by an exception.

        `python -m llama_cffi rpc-worker` calls this. It cannot be stopped, not even by Ctrl-C: call it on a daemon
        thread in a separate process. The host is an IPv4 address of this machine. Everybody who reaches it can compute
        here and crash the process. `devices` defaults to the GPUs, or to the CPU without GPUs. `nThreads` is the number
        of CPU threads; None means one for each CPU that the process can use. Large tensors are cached in the folder
        `cacheDir`, and then need not be sent again. Its files are read first, and those that a full disk or a kill has
        cut off are removed.

        Raises ValueError for invalid arguments, RpcError if the port cannot be used, NativeError if a request of a
        client fails.

        Maps to `ggml_backend_rpc_start_server`.
        """
        wanted = _rpc_endpoint.parse(endpoint)
        threads = usable_cpus() if nThreads is None else nThreads
        if not 1 <= threads <= lib.GGML_MAX_N_THREADS:
            raise out_of_range("nThreads", threads, 1, lib.GGML_MAX_N_THREADS)
        check_threads("nThreads", threads)
        folder = ffi.NULL if cacheDir is None else ffi.new("char[]", path_bytes(cacheDir, "cacheDir"))
        if cacheDir is not None and not Path(os.fsdecode(cacheDir)).is_dir():
            raise ValueError(f"cacheDir: the folder {os.fsdecode(cacheDir)!r} does not exist: create it first")
        cls.load()
        if cacheDir is not None:
            _remove_partial(os.fsdecode(cacheDir))
        offered = _local(devices)
        array = ffi.new("ggml_backend_dev_t[]", [device._c for device in offered])
        where = _rpc_endpoint.resolve(wanted)
        lib.ggml_backend_rpc_start_server(str(where).encode(), folder, threads, len(offered), array)
        raise RpcError(f"llama.cpp could not listen at {where}, or stopped listening", log=native_log())


def _remove_partial(folder: str) -> None:
    """Remove cached tensors that were not written to their end: llama.cpp would take the rest of them for weights."""
    for entry in os.scandir(folder):
        if (
            len(entry.name) == 16
            and set(entry.name) <= set("0123456789abcdef")
            and entry.is_file(follow_symlinks=False)
        ):
            if not lib.shim_is_cached_tensor(os.fsencode(entry.path), entry.name.encode()):
                os.unlink(entry.path)


def _add(where: str) -> tuple[BackendDevice, ...]:
    reg = lib.ggml_backend_rpc_add_server(where.encode())
    if reg == ffi.NULL:
        raise RpcError(f"the worker at {where} does not offer a device any more: restart it", log=native_log())
    for index in range(lib.ggml_backend_reg_dev_count(reg)):
        _check_sizes(lib.ggml_backend_reg_dev_get(reg, index), where)
    with registering():
        if reg not in _registered:
            atomic(((lib.ggml_backend_register, reg), (_registered.add, reg)))
    return tuple(
        BackendDevice(lib.ggml_backend_reg_dev_get(reg, index)) for index in range(lib.ggml_backend_reg_dev_count(reg))
    )


def _check_sizes(device: Any, where: str) -> None:
    """Check what ggml divides by. It keeps these answers of the worker, so they stay as they are now."""
    buffers = lib.ggml_backend_dev_buffer_type(device)
    alignment, largest = lib.ggml_backend_buft_get_alignment(buffers), lib.ggml_backend_buft_get_max_size(buffers)
    if not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1) or not largest:
        raise RpcError(
            f"the worker at {where} is damaged or hostile: it answers that its memory has an alignment of {alignment} "
            f"(a power of 2 up to {_MAX_ALIGNMENT} is possible) and buffers of {largest} bytes"
        )


def _local(devices: Sequence[BackendDevice] | None) -> list[BackendDevice]:
    """The devices to offer: `devices`, or the GPUs, or the CPU."""
    known = [device for device in Backend.devices() if device not in Rpc.devices()]
    if devices is None:
        gpus = [device for device in known if device.type in (_Type.GPU, member(_Type, "IGPU"))]
        return gpus or [device for device in known if device.type == _Type.CPU]
    for device in devices:
        if not isinstance(device, BackendDevice):
            raise expected("a Ggml.BackendDevice", device, "Ggml.Backend.devices() lists them", "devices")
        if device not in known:
            raise ValueError(f"devices must be local, got {device!r}, which another worker offers")
    if not devices:
        raise ValueError("devices is empty: pass at least one of Ggml.Backend.devices(), or None")
    return list(devices)
