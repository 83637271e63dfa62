"""`python -m bench.gpu_suite`: measurements that need a GPU, in one command that may be cut off at any time.

Parts, each with a file of its own in --out:
    rates       what the card sustains: products, traffic, launches; also as a file that estimates read
    rendering   gsplat against the CPU kernel and the plain-torch reference, values and every gradient
    cost        memory and step time of Table 3's models at the paper's batch a GPU, in every regime; estimates
    training    the same steps as on a CPU; a short real training at scale small, evaluated
    estimates   estimated and measured cost of other models and batches
Every measurement is written when it is done, and not repeated for the same device and code: call again to go on.
Needs no network and no pinned versions (torch ≥ 2.11); bench/gpu_bundle.py collects what such a machine lacks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.analysis.paper import TABLE_3
from bench.common.console import command_console
from bench.common.errors import UserError, run_command
from bench.profiling.gpu.background import Background
from bench.profiling.gpu.measurements import PARTS, all_measurements, prepare_cuda, start_background
from bench.profiling.gpu.suite import Suite, run_all, select

GPUS = 4  # of the paper


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--minutes", type=float, default=15, help="no measurement starts that would end later")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper", help="tiny: every path, in minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--retry", action="store_true", help="repeat measurements that failed")
    options = parser.parse_args()
    if options.minutes <= 0:
        raise UserError("--minutes must be greater than 0")
    deadline = time.monotonic() + options.minutes * 60
    import torch

    if options.device == "cuda":
        prepare_cuda()
    paper = {
        row.model.lower(): {"parameters_millions": row.parameters_millions, "gpu_gb": row.gpu_gb / GPUS}
        for row in TABLE_3
    }
    tiny, console = options.size == "tiny", command_console(to_stderr=False)
    suite = Suite(options.out, torch.device(options.device), tiny, deadline, console, Background(), paper)
    measurements = select(all_measurements(), options.parts)
    start_background(suite, measurements, options.retry)
    return 0 if run_all(suite, measurements, options.retry) else 1


if __name__ == "__main__":
    run_command(main)
