"""Contents of the GPU suite's bundle: packages for a machine without network, and LPIPS's backbones in float16."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.common.errors import UserError
from bench.runtime import lpips_weights

WHEELS = ("gsplat==1.5.3", "embreex==4.4.0.post1", "lpips==0.1.4", "OpenEXR==3.5.3", "ruamel.yaml==0.19.1")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def fetch_packages(folder: Path) -> None:
    """Download WHEELS for Python 3.12 by pip, without dependencies, and unpack them. Raises UserError if pip fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp"]
    command += [option for platform in PLATFORMS for option in ("--platform", platform)]
    with TemporaryDirectory() as wheels:
        done = subprocess.run([*command, "--dest", wheels, *WHEELS], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"pip could not fetch {', '.join(WHEELS)}: {done.stderr.strip().splitlines()[-1]}")
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def pack(folder: Path, target: Path) -> None:
    """A folder as a .tar.xz, a third smaller than the wheels and backbones that it holds."""

    def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(target, "w:xz") as archive:
        archive.add(folder, folder.name, filter=without_owner)


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
