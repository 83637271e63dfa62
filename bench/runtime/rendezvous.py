"""How the processes of one run connect: torchrun's or srun's variables → a DistributedContext.

Under SLURM host names may not resolve, and a fixed port may be taken: rank 0 opens a store at a free port and writes
its address into the run folder, which all nodes share; the file's name contains job, step and restart count. torchrun
sets the address itself.

Waiting is done in short calls, so that signals are handled; processes that do not come up are named.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bench.common.environment import LAUNCHER_VARIABLES, rank_and_world_size, unset_hint
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext, ProcessGroupContext

JOIN_TIMEOUT_S = 600.0  # until the last process has come up
FIRST_WARNING_S, WARN_EVERY_S = 10.0, 60.0  # of processes that have not come up yet
COLLECTIVE_TIMEOUT = timedelta(hours=2)  # rank 0 may evaluate while the others wait
POLL_S = 0.1
CONNECT_TIMEOUT = timedelta(seconds=2)
SIOCGIFADDR = 0x8915

log = logging.getLogger(__name__)


class _Deadline:
    """Raises UserError JOIN_TIMEOUT_S after its creation; until then logs now and then what is being waited for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.started = time.monotonic()
        self.next_warning_s = FIRST_WARNING_S
        settings = [f"{name}={environment[name]}" for name in LAUNCHER_VARIABLES if name in environment]
        self.hint = f"from the environment: {', '.join(settings)}; {unset_hint(environment)}"

    def wait(self, missing: str) -> None:
        """Sleep for POLL_S; `missing`: what has not come up yet."""
        elapsed_s = time.monotonic() - self.started
        if elapsed_s > JOIN_TIMEOUT_S:
            raise UserError(f"{missing} did not come up within {JOIN_TIMEOUT_S:.0f} s ({self.hint})")
        if elapsed_s > self.next_warning_s:
            log.warning("waiting for %s (%s)", missing, self.hint)
            self.next_warning_s = elapsed_s + WARN_EVERY_S
        time.sleep(POLL_S)


def join(folder: Path, device: torch.device, environment: Mapping[str, str] = os.environ) -> DistributedContext:
    """Connect to the other processes of the run; SINGLE_PROCESS without any. Raises UserError."""
    rank, world = rank_and_world_size(environment)
    if world == 1:
        return SINGLE_PROCESS
    deadline, address_file = _Deadline(environment), _address_file(folder, environment)
    if "WORLD_SIZE" in environment and "RANK" in environment:
        store = _torchrun_store(rank, world, environment, deadline)
        attempt = f"{environment.get('TORCHELASTIC_RUN_ID', '')}.{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    else:
        store = _srun_store(address_file, rank, world, environment, deadline)
        attempt = "srun"
    missing = set(range(world))
    store.set(f"{attempt}/up/{rank}", "1")
    while missing := {other for other in missing if not store.check([f"{attempt}/up/{other}"])}:
        ranks = ", ".join(map(str, sorted(missing)[:8])) + ", …" * (len(missing) > 8)
        deadline.wait(f"rank{'s' * (len(missing) > 1)} {ranks} of {world}")
    if rank == 0:
        address_file.unlink(missing_ok=True)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    prefixed = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
    return ProcessGroupContext(rank, world)


def shutdown() -> None:
    """Close the connections, at the end of all stages."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _torchrun_store(rank: int, world: int, environment: Mapping[str, str], deadline: _Deadline) -> TCPStore:
    """The store at MASTER_ADDR, served by torchrun's agent or by rank 0."""
    try:
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UserError(f"WORLD_SIZE={world} without MASTER_ADDR and MASTER_PORT: {unset_hint(environment)}") from error
    if rank or environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return _connect(address, port, world, deadline)
    try:
        return _serve(address, port, world)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MASTER_ADDR={address}, MASTER_PORT={port}: {reason}; {unset_hint(environment)}") from error


def _srun_store(path: Path, rank: int, world: int, environment: Mapping[str, str], deadline: _Deadline) -> TCPStore:
    """A store that rank 0 serves; it writes the address to `path`."""
    if rank == 0:
        address = _own_address(environment)
        _set_interface(address)
        store = _serve(address, 0, world)
        write_json(path, {"address": address, "port": store.port})
        return store
    while not path.is_file():
        deadline.wait("rank 0")
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes NFS refresh its cache of the directory
    content: dict[str, Any] = read_json(path)
    address, port = str(content["address"]), int(content["port"])
    _set_interface(_local_address_for(address, port))
    return _connect(address, port, world, deadline)


def _address_file(folder: Path, environment: Mapping[str, str]) -> Path:
    names = (environment.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return folder / "rendezvous" / f"{'.'.join(names)}.json"


def _serve(address: str, port: int, world: int) -> TCPStore:
    timeout = timedelta(seconds=JOIN_TIMEOUT_S)
    return TCPStore(address, port, world, is_master=True, timeout=timeout, wait_for_workers=False)


def _connect(address: str, port: int, world: int, deadline: _Deadline) -> TCPStore:
    while True:
        try:
            store = TCPStore(address, port, world, is_master=False, timeout=CONNECT_TIMEOUT, wait_for_workers=False)
        except RuntimeError:  # torch.distributed.DistNetworkError: the store is not listening yet
            deadline.wait(f"the store at {address}:{port}")
            continue
        store.set_timeout(timedelta(seconds=JOIN_TIMEOUT_S))
        return store


def _own_address(environment: Mapping[str, str]) -> str:
    """The address at which other nodes reach this one: MASTER_ADDR if set, else that of SLURM's own traffic."""
    if address := environment.get("MASTER_ADDR"):
        return address
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    launcher = environment.get("SLURM_LAUNCH_NODE_IPADDR", "")
    if launcher in _interface_addresses().values():
        return launcher
    return _local_address_for(launcher or "10.255.255.255", 1)


def _local_address_for(address: str, port: int) -> str:
    """This host's address on the route to another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        return str(probe.getsockname()[0])


def _set_interface(address: str) -> None:
    """gloo and NCCL look up their interface by the host's name, which may not resolve: name it, unless the user did."""
    name = next((name for name, own_address in _interface_addresses().items() if own_address == address), None)
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        if not address.startswith("127."):
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _interface_addresses() -> dict[str, str]:
    """Network interface → its IPv4 address."""
    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                packed = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name[:15].encode()))
                addresses[name] = socket.inet_ntoa(packed[20:24])
    return addresses
