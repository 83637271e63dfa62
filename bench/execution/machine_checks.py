"""Checks of this machine for bench.doctor: one or more findings per check."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.common.environment import LAUNCHER_VARIABLES, cores, unset_hint
from bench.common.errors import UserError
from bench.common.paths import cache_dir

SKEW_S = 5.0  # leases expire after 90 s without a heartbeat
FREE_GB = 2.0  # tiny sweeps need megabytes; `--dry-run` estimates larger ones
SLURM = ("sbatch", "srun", "squeue", "scancel", "scontrol")


@dataclass(frozen=True)
class Finding:
    """One result of a check; with a `remedy` it is a defect."""

    check: str
    text: str
    remedy: str = ""


def examine(results: Path) -> Iterator[Finding]:
    """All checks, in order. An exception in a check is a defect."""
    folders = {"results": results.resolve(), "cache": cache_dir()}
    yield from _guarded("python", python)
    yield from _guarded("compiler", compiler)
    yield from _guarded("cuda", cuda)
    yield from _guarded("tf32", tf32)
    yield from _guarded("lpips", lpips)
    yield from _guarded("environment", environment_variables)
    yield from _guarded("encoding", encoding)
    for name, folder in folders.items():
        yield from _guarded(name, lambda name=name, folder=folder: file_system(name, folder))  # type: ignore[misc]
    yield from _guarded("slurm", slurm)


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # would break a run, too
        yield Finding(name, f"{type(error).__name__}: {error}", "see the message; the check could not be finished")


def python() -> Iterator[Finding]:
    """Versions, cores, and missing packages."""
    import torch

    text = f"Python {platform.python_version()}, torch {torch.__version__}, {cores()} cores, {platform.platform()}"
    yield Finding("python", text)
    names = [name for name in ("embreex", "gsplat", "lpips", "pandas", "matplotlib", "safetensors")
             if importlib.util.find_spec(name) is None]  # fmt: skip
    if names:
        yield Finding("python", f"not installed: {', '.join(names)}", "make setup, or pip install -e .")


def compiler() -> Iterator[Finding]:
    """Whether the C++ rasterizer builds, loads, and agrees with the plain-torch reference."""
    import torch

    from bench.rendering import kernel, render
    from models.tensors import Cameras, Gaussians

    try:
        kernel.library()
    except kernel.NoCompiler as error:
        yield Finding("compiler", str(error).splitlines()[0],
                      "install one; until then the plain-torch reference renders, many times slower")  # fmt: skip
        return
    view = torch.eye(4)[None, None]
    camera = Cameras(view, torch.tensor([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]])[None, None], 16, 16)
    one = Gaussians(means=torch.tensor([[[0.0, 0, 2]]]), rotations=torch.tensor([[[1.0, 0, 0, 0]]]),
                    scales=torch.full((1, 1, 3), 0.2), opacities=torch.full((1, 1), 0.8),
                    harmonics=torch.full((1, 1, 1, 3), 0.5))  # fmt: skip
    images = [render(one, camera, torch.ones(1, 1, 3), backend=name).rgb for name in ("compiled", "reference")]
    difference = float((images[0] - images[1]).abs().max())
    if difference > 1e-4:
        yield Finding("compiler", f"the compiled rasterizer is {difference:.1e} off the reference",
                      f"delete {cache_dir() / 'kernels'} and try another compiler (CXX)")  # fmt: skip
        return
    yield Finding("compiler", "the compiled rasterizer builds, and agrees with the reference")


def cuda() -> Iterator[Finding]:
    """GPUs, whether torch can use them, and what gsplat needs to build its kernels."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") and _output(["nvidia-smi", "-L"]).strip():
            yield Finding("cuda", f"there is a GPU, but torch {torch.__version__} cannot use it",
                          "install a CUDA build of torch that fits the driver")  # fmt: skip
        else:
            yield Finding("cuda", "no GPU: the CPU back ends are used")
        return
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield Finding("cuda", f"GPU {i}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    built = importlib.util.find_spec("gsplat.csrc") is not None
    if not built and (missing := [tool for tool in ("nvcc", "ninja") if shutil.which(tool) is None]):
        yield Finding("cuda", f"gsplat cannot build its kernels: no {', '.join(missing)}",
                      "install the CUDA toolkit of torch's version, and ninja")  # fmt: skip
    else:
        yield Finding("cuda", "gsplat is built" if built else "gsplat will be built at first use, some minutes")


def tf32() -> Iterator[Finding]:
    """Whether an environment variable overrides `train.matmul_precision`."""
    if (value := os.environ.get("NVIDIA_TF32_OVERRIDE")) is not None:
        yield Finding("tf32", f"NVIDIA_TF32_OVERRIDE={value} decides the precision of fp32 parts, whatever a spec says",
                      "unset NVIDIA_TF32_OVERRIDE")  # fmt: skip
    else:
        yield Finding("tf32", "train.matmul_precision decides")


def lpips() -> Iterator[Finding]:
    """LPIPS's backbones, verified by hash."""
    from bench.runtime import lpips_weights

    for net in lpips_weights.NETS:
        try:
            lpips_weights.lpips_model(net)
            yield Finding("lpips", f"{net}: its real backbone, verified")
        except UserError as error:
            yield Finding("lpips", f"{net}: {error}", "python -m bench.setup")


def environment_variables() -> Iterator[Finding]:
    """Left-over variables of torchrun or srun, which bench.run ignores and bench.work obeys."""
    if os.environ.keys() & {"RANK", "WORLD_SIZE"}:
        settings = [f"{name}={os.environ[name]}" for name in LAUNCHER_VARIABLES if name in os.environ]
        yield Finding("environment", f"variables of a launcher are set: {', '.join(settings)}", unset_hint())
    else:
        yield Finding("environment", "no left-over variables of torchrun")


def encoding() -> Iterator[Finding]:
    """Whether labels in other scripts can be printed; otherwise characters are replaced by question marks."""
    encodings = {(stream.encoding or "ascii").lower() for stream in (sys.stdout, sys.stderr)}
    if all(name.replace("-", "").startswith("utf") for name in encodings):
        yield Finding("encoding", "the output is UTF-8")
    else:
        yield Finding("encoding", f"the output is {', '.join(sorted(encodings))}: other characters are printed as ?",
                      "unset PYTHONIOENCODING, and set LANG=C.UTF-8 or PYTHONUTF8=1")  # fmt: skip


def file_system(name: str, folder: Path) -> Iterator[Finding]:
    """What leases and atomic writes need: rename, exclusive hard links, a synchronized clock; and free space."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{uuid.uuid4().hex}"
        probe.mkdir()
    except OSError as error:
        yield Finding(
            name,
            f"{folder} cannot be written to: {error.strerror}",
            "choose another folder (--results, EAD_BENCH_CACHE), or change its permissions",
        )
        return
    try:
        yield from _locks(name, probe)
        yield from _clock(name, probe)
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    free_gb = shutil.disk_usage(folder).free / 1e9
    remedy = "free space, or choose another folder" if free_gb < FREE_GB else ""
    yield Finding(name, f"{folder}: {free_gb:.1f} GB free", remedy)


def _locks(name: str, folder: Path) -> Iterator[Finding]:
    first, second = folder / "first", folder / "second"
    first.write_text("1")
    try:
        os.link(first, second)
    except OSError as error:
        yield Finding(name, f"{folder.parent} has no hard links ({error.strerror}): runs cannot be locked",
                      "use a file system with hard links (ext4, xfs, NFS, Lustre)")  # fmt: skip
        return
    with contextlib.suppress(FileExistsError):
        os.link(first, second)
        yield Finding(name, f"{folder.parent} lets a link replace another: two processes could lock one run",
                      "use another file system")  # fmt: skip
    newer = folder / "newer"
    newer.write_text("2")
    newer.replace(first)
    if newer.exists() or first.read_text() != "2":
        yield Finding(name, f"{folder.parent} does not rename files atomically", "use another file system")


def _clock(name: str, folder: Path) -> Iterator[Finding]:
    probe = folder / "clock"
    probe.touch()
    skew = probe.stat().st_mtime - time.time()
    if abs(skew) > SKEW_S:
        yield Finding(name, f"the clock of {folder.parent} is {skew:+.0f} s off this host's",
                      "synchronize the clocks (NTP)")  # fmt: skip


def slurm() -> Iterator[Finding]:
    """Its commands, and whether the controller answers."""
    installed = [tool for tool in SLURM if shutil.which(tool)]
    if not installed:
        yield Finding("slurm", "not installed: runs are started on this machine")
        return
    if missing := [tool for tool in SLURM if tool not in installed]:
        yield Finding(
            "slurm", f"{', '.join(installed)} without {', '.join(missing)}", "install SLURM's client commands"
        )
        return
    if importlib.util.find_spec("submitit") is None:
        yield Finding("slurm", "submitit is not installed", "pip install -e .")
    answer = _output(["scontrol", "ping"])
    if "UP" in answer:
        yield Finding("slurm", f"{_output(['sinfo', '--version']).strip()}; {answer.strip().splitlines()[0]}")
    else:
        yield Finding("slurm", f"the controller does not answer: {answer.strip() or 'no output'}",
                      "ask the cluster's administrators; `scontrol ping` shows it")  # fmt: skip


def _output(command: list[str]) -> str:
    """stdout, or stderr on failure, of a command that may hang."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout if done.returncode == 0 else done.stderr or done.stdout
