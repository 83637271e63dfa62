"""A dry run with estimates, and the hardware that they are for: a cluster file's, this machine's, or the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from bench.common.environment import cores
from bench.common.exit_codes import DONE
from bench.common.paths import SOURCE
from bench.execution.dry_run import print_dry_run
from bench.execution.estimates import estimate_runs
from bench.execution.session import resolve_device

if TYPE_CHECKING:
    from bench.config import Run, Sweep
    from bench.execution.options import RunOptions
    from bench.profiling.estimate.estimate import Hardware
    from bench.slurm.cluster import Cluster

REFERENCE = SOURCE / "slurm" / "a100.yaml"


def print_estimated_dry_run(
    sweep: Sweep, chosen: Sequence[Run], options: RunOptions, folder: str, console: Console
) -> int:
    """`--estimate` and `--fit`; an exit code. Raises UserError."""
    hardware = hardware_of(options)
    estimates = estimate_runs(chosen, hardware, console, options.fit)
    print_dry_run(sweep, chosen, options.json, console, options.results / folder, hardware.ranks, estimates)
    return DONE


def hardware_of_cluster(cluster: Cluster) -> Hardware:
    """One run's: a process per GPU, or the cores of a process."""
    from bench.profiling.estimate.estimate import Hardware
    from bench.profiling.estimate.hardware import CARDS, DEFAULT, card_of, cpu

    if not cluster.gpus:
        return Hardware(cpu(cluster.cpus), cluster.ranks)
    name = " ".join(filter(None, [cluster.gpu_type, cluster.constraint]))
    card = card_of(name)
    unknown = f"gpu_type of {cluster.path} names no card that is known ({', '.join(CARDS)})"
    return Hardware(card or CARDS[DEFAULT], cluster.ranks, None if card else unknown)


def hardware_of(options: RunOptions) -> Hardware:
    """The cluster file's; without one this machine's GPU, at scale tiny or on request its cores, else the paper's.

    Raises UserError for a device that does not exist, ConfigError for a wrong cluster file.
    """
    from bench.profiling.estimate.estimate import Hardware
    from bench.profiling.estimate.hardware import card_of, cpu
    from bench.slurm.cluster import load

    if options.slurm:
        return hardware_of_cluster(load(options.slurm, options.scale))
    device = resolve_device(options.device)
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name(torch.device(device))
        if card := card_of(name):
            return Hardware(card)
    elif options.scale == "tiny" or options.device == "cpu":
        return Hardware(cpu(options.threads or max(1, cores() // options.jobs)))
    reference = hardware_of_cluster(load(REFERENCE, options.scale))
    return Hardware(reference.card, reference.ranks, f"{REFERENCE.name}; name another cluster file by --slurm FILE")
