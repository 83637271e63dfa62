"""`python -m bench.gpu_suite`: measurements that need a GPU, in one command that may be interrupted at any time.

Three parts; each writes a JSON file when it is done:
    rendering   gsplat against the CPU kernel and the plain-torch reference, values and every gradient
    cost        memory and step time of Table 3's models at the paper's batch a GPU (8 scenes, 4 + 4 views, 256²)
    training    a short real training at scale small, evaluated
Needs no network and none of this project's pinned versions (torch ≥ 2.11, Python ≥ 3.11); bench/gpu_bundle.py collects
what such a machine lacks. `--device cpu --size tiny` exercises every path without a GPU.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bench.common.errors import UserError, run_command
from bench.profiling.gpu_parts import PARTS, Suite, prepare_cuda, run_part


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--minutes", type=float, default=15, help="no part starts after these; training ends with them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("paper", "tiny"), default="paper", help="tiny: every path, in a minute")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    options = parser.parse_args()
    if options.minutes <= 0:
        raise UserError("--minutes must be greater than 0")
    import torch

    if options.device == "cuda":
        prepare_cuda()
    deadline = time.monotonic() + options.minutes * 60
    suite = Suite(options.out, torch.device(options.device), options.size == "tiny", deadline)
    states = [run_part(suite, name) for name in options.parts]
    return 0 if all(states) else 1


if __name__ == "__main__":
    run_command(main)
