"""One of two processes of a run on this machine: `run_on_two(...)` starts both, this module's `main` is what they do.

gradients BASE FILE OVERRIDES…   of one step of a base at scale tiny, whole, by parameter
steps BASE FILE OVERRIDES…       what two steps record, and the bytes of weights and moments that a rank holds
train FOLDER STEPS               the run of support.training, from its newest checkpoint until a step, sharded
profile FOLDER FILE              of that run, sharded
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import config
from bench.common.json_files import write_json
from bench.data.sampler import Sampler
from bench.profiling.allocator_events import nbytes, static_tensors
from bench.profiling.step_profile import measure
from bench.runs.writer import NullWriter, PlainWriter
from bench.runtime import rendezvous
from bench.runtime.distributed import DistributedContext
from bench.training.optimizer import geometry_steps
from bench.training.sharding import whole
from bench.training.train import Stopped, train
from bench.training.trainer import Trainer
from support.balls import Balls
from support.base_models import BASES
from support.paths import ROOT, TESTS
from support.training import CPU, SIZE, spec, stop_after


def run_on_two(*arguments: object) -> None:
    """Raises AssertionError with the output of a process that fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(2):
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": port, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}"}  # fmt: skip
        command = [sys.executable, "-m", "support.ranks", *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE,
                                          stderr=subprocess.STDOUT, text=True))  # fmt: skip
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


def gradients(base: str, overrides: list[str], ranks: DistributedContext) -> dict[str, Tensor]:
    """Of one step with all losses but LPIPS, summed over ranks, whole, by parameter."""
    trainer, sampler = trainer_of(base, overrides, ranks)
    settings = trainer.spec.train
    torch.manual_seed(0)  # of dropout
    trainer.accumulate(settings.steps - 1, sampler.training(1, ranks.samples(settings.batch)))
    ranks.reduce_gradients(trainer.model)
    return {name: whole(p.grad).clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def trainer_of(base: str, overrides: list[str], ranks: DistributedContext) -> tuple[Trainer, Sampler]:
    """Of a base at scale tiny, with all losses but LPIPS and a batch of two scenes."""
    settings = ["train.batch=2", "losses.lpips=null", "init.encoder=scratch", *overrides]
    (run,) = config.load(BASES / f"{base}.yaml", settings, "tiny").runs
    return Trainer(run.spec, CPU, ranks), Sampler(Balls(32), run.spec.views, 0, run.spec.model.known)


def steps(base: str, overrides: list[str], ranks: DistributedContext) -> dict[str, Tensor]:
    """What two steps with all losses record, and "bytes": of the weights and moments that this rank holds."""
    trainer, sampler = trainer_of(base, overrides, ranks)
    first = geometry_steps(trainer.spec.train)
    values = {}
    for step in (first, first + 1):
        recorded = trainer.step(step, sampler.training(step, ranks.samples(trainer.spec.train.batch)))
        values |= {f"{name}, step {step - first}": value.detach() for name, value in recorded.items()}
    return values | {"bytes": torch.tensor(float(nbytes(static_tensors(trainer))))}


COMPUTED = {"gradients": gradients, "steps": steps}


def main(what: str, first: str, second: str, *overrides: str) -> None:
    torch.set_num_threads(1)
    ranks = rendezvous.join(Path(), CPU)
    if what in COMPUTED:
        values = COMPUTED[what](first, list(overrides), ranks)
        if ranks.is_first:
            save_file(values, second)
    elif what == "profile":
        profile = measure(spec(shard=True), device=CPU, source=Balls(SIZE), ranks=ranks, folder=Path(first))
        if ranks.is_first:
            write_json(Path(second), profile)
    else:
        writer = PlainWriter(Path(first)) if ranks.is_first else NullWriter(Path(first))
        with contextlib.suppress(Stopped):
            stop = stop_after(int(second))
            train(spec(shard=True, ema=0.9), writer, device=CPU, source=Balls(SIZE), ranks=ranks, stop=stop)
    ranks.gather({})
    rendezvous.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
