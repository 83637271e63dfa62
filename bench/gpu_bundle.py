"""`python -m bench.gpu_bundle`: what a CUDA machine without network lacks to run `bench.gpu_suite`, under 64 MB.

Wheels for Python 3.12 on Linux x86-64, and LPIPS's backbones rounded to float16 (their hashes are pinned); torch and
the other libraries must be installed there. Copy the folder next to the source; there:

    python3 -m pip install --no-index --no-deps --target site gpu_bundle/wheels/*.whl
    PYTHONPATH=site EAD_BENCH_CACHE=gpu_bundle/cache python3 -m bench.gpu_suite --out gpu --minutes 15
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.common.console import progress
from bench.common.errors import UserError, run_command
from bench.profiling.bundle import WHEELS, fetch_wheels, write_backbones

LIMIT_MB = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_bundle", description="Write the GPU suite's bundle.")
    parser.add_argument("--out", type=Path, default=Path("gpu_bundle"))
    options = parser.parse_args()
    with progress(f"fetching {len(WHEELS)} wheels from PyPI"):
        fetch_wheels(options.out / "wheels")
    write_backbones(options.out / "cache" / "lpips")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e6
    print(f"{options.out}: {size:.1f} MB")
    if size > LIMIT_MB:
        raise UserError(f"{options.out} has {size:.1f} MB, more than {LIMIT_MB}: remove other files from it")
    return 0


if __name__ == "__main__":
    run_command(main)
