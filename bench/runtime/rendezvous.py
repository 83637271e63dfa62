"""How the processes of one run find each other: `srun`'s or `torchrun`'s environment → a Group of ranks.

Under SLURM names of nodes may not resolve, and a fixed port may be taken: rank 0 opens a store at a free port and
writes its address into the run folder, which all nodes share; the file's name tells job, step and restart apart.
"""

from __future__ import annotations

import contextlib
import fcntl
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

from bench.common.environment import rank_and_world_size
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext, ProcessGroupContext

JOIN_TIMEOUT_S = 600.0  # for the last process to come up
COLLECTIVE_TIMEOUT = timedelta(hours=2)  # of an exchange: the first rank may evaluate while the others wait
SIOCGIFADDR = 0x8915


def join(folder: Path, device: torch.device, environment: Mapping[str, str] = os.environ) -> DistributedContext:
    """This process's place among those of the run, once all have come; ALONE without others. Raises UserError."""
    rank, world = rank_and_world_size(environment)
    if world == 1:
        return SINGLE_PROCESS
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if "WORLD_SIZE" in environment:  # torchrun's own rendezvous
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    else:
        store = _store(folder, rank, world, environment)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
    return ProcessGroupContext(rank, world)


def shutdown() -> None:
    """Once nothing is left to say."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _store(folder: Path, rank: int, world: int, environment: Mapping[str, str]) -> TCPStore:
    words = (environment.get(f"SLURM_{word}", "0") for word in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    path = folder / "rendezvous" / f"{'.'.join(words)}.json"
    patience = timedelta(seconds=JOIN_TIMEOUT_S)
    if rank == 0:
        address = _address(environment)
        _choose_interface(address)
        store = TCPStore(address, 0, world, is_master=True, timeout=patience, wait_for_workers=False)
        write_json(path, {"address": address, "port": store.port})
    else:
        found = _wait_for(path)
        address, port = str(found["address"]), int(found["port"])
        store = TCPStore(address, port, world, is_master=False, timeout=patience)
        _choose_interface(_towards(address, port))
    store.set(f"here/{rank}", "1")
    store.wait([f"here/{other}" for other in range(world)])
    if rank == 0:
        path.unlink(missing_ok=True)
    return store


def _wait_for(path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while not path.is_file():
        if time.monotonic() > deadline:
            raise UserError(f"{path}: the run's first process did not come up within {JOIN_TIMEOUT_S:.0f} s")
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes NFS look again
    return read_json(path)


def _address(environment: Mapping[str, str]) -> str:
    """Under which the other nodes reach this one: MASTER_ADDR if given, else where SLURM's own traffic goes."""
    if given := environment.get("MASTER_ADDR"):
        return given
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    launcher = environment.get("SLURM_LAUNCH_NODE_IPADDR", "")
    mine = set(_interfaces().values())
    return launcher if launcher in mine else _towards(launcher or "10.255.255.255", 1)


def _towards(address: str, port: int) -> str:
    """This host's address on the way to another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        return str(probe.getsockname()[0])


def _choose_interface(address: str) -> None:
    """gloo and NCCL look their interface up by the host's name, which may not resolve: name it, unless the user did."""
    name = next((name for name, found in _interfaces().items() if found == address), None)
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        if not address.startswith("127."):
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _interfaces() -> dict[str, str]:
    """Network interface → its IPv4 address."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an address
                packed = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name[:15].encode()))
                found[name] = socket.inet_ntoa(packed[20:24])
    return found
