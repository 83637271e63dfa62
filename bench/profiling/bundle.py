"""Contents of the GPU suite's bundle: wheels for a machine without network, and LPIPS's backbones in float16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.common.errors import UserError
from bench.runtime import lpips_weights

WHEELS = ("gsplat==1.5.3", "embreex==4.4.0.post1", "lpips==0.1.4", "ruamel.yaml==0.19.1")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def fetch_wheels(folder: Path) -> None:
    """Download WHEELS for Python 3.12 by pip, without dependencies. Raises UserError when pip fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(folder)]
    command += [option for platform in PLATFORMS for option in ("--platform", platform)]
    done = subprocess.run([*command, *WHEELS], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"pip could not fetch {', '.join(WHEELS)}: {done.stderr.strip().splitlines()[-1]}")


def write_backbones(folder: Path) -> None:
    """Write LPIPS's backbones in float16. Raises UserError if they are not set up."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    for net in lpips_weights.NETS:
        source = lpips_weights.path(net)
        if not source.is_file():
            raise UserError(f"{source} is missing: run python -m bench.setup")
        tensors = load_file(source)
        lpips_weights.verify(net, tensors, source)
        halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        save_file(halves, folder / lpips_weights.half_path(net).name)
