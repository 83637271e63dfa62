"""`python -m bench.gpu_bundle`: what a CUDA machine without network lacks to run `bench.gpu_suite`, in one file.

Packages for Python 3.12 on Linux x86-64, and LPIPS's backbones rounded to float16 (their hashes are pinned); torch, a
CUDA toolkit, ninja, g++ and the other libraries must be there. Copy the file next to the source; there:

    tar -xf gpu_bundle.tar.xz
    PYTHONPATH=gpu_bundle/site EAD_BENCH_CACHE=gpu_bundle/cache python3 -m bench.gpu_suite --out gpu --minutes 15
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.common.console import progress
from bench.common.errors import UserError, run_command
from bench.profiling.bundle import WHEELS, fetch_packages, pack, write_backbones

LIMIT_MB = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_bundle", description="Write the GPU suite's bundle.")
    parser.add_argument("--out", type=Path, default=Path("gpu_bundle.tar.xz"), help="default: gpu_bundle.tar.xz")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = Path(folder) / "gpu_bundle"
        write_backbones(root / "cache" / "lpips")
        with progress(f"fetching {len(WHEELS)} packages from PyPI"):
            fetch_packages(root / "site")
        with progress("compressing"):
            pack(root, options.out)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB")
    if size > LIMIT_MB:
        raise UserError(f"{options.out} has {size:.1f} MB, more than {LIMIT_MB}: name fewer packages in WHEELS")
    return 0


if __name__ == "__main__":
    run_command(main)
