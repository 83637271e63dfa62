"""Each planted defect gets a line of its own and exit code 2; a fit machine none."""

import io
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import doctor
from bench.common.paths import cache_dir
from bench.execution import machine_checks

Plant = Callable[[pytest.MonkeyPatch, Path], None]


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine where nothing is wrong: room, backbones, no SLURM, no override."""
    for name in ("NVIDIA_TF32_OVERRIDE", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    monkeypatch.setattr(machine_checks, "SLURM", tuple(f"absent-{tool}" for tool in machine_checks.SLURM))
    return tmp_path / "results"


def examine(results: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = doctor.main(["--results", str(results)])
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("defect")]


def tool(folder: Path, name: str, text: str, code: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
    (folder / name).chmod(0o755)


def on_path(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def no_compiler(patch: pytest.MonkeyPatch, _: Path) -> None:
    from bench.rendering import kernel

    kernel.library.cache_clear()
    patch.setattr(kernel, "library", kernel.library.__wrapped__)
    patch.setattr(shutil, "which", lambda name, **_: None)


def gpu_unseen(patch: pytest.MonkeyPatch, folder: Path) -> None:
    tool(folder / "bin", "nvidia-smi", "GPU 0: NVIDIA A100-SXM4-80GB")
    on_path(patch, folder / "bin")


def precision_overridden(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setenv("NVIDIA_TF32_OVERRIDE", "0")


def backbone_missing(patch: pytest.MonkeyPatch, folder: Path) -> None:
    use_cache(patch, folder)
    (folder / "cache" / "lpips" / "alex.safetensors").unlink()


def backbone_altered(patch: pytest.MonkeyPatch, folder: Path) -> None:
    use_cache(patch, folder)
    file = folder / "cache" / "lpips" / "alex.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


def use_cache(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Another cache, which shares what is in the real one."""
    here = cache_dir()
    (folder / "cache" / "lpips").mkdir(parents=True)
    for file in (here / "lpips").iterdir():
        (folder / "cache" / "lpips" / file.name).symlink_to(file)
    (folder / "cache" / "kernels").symlink_to(here / "kernels")
    patch.setenv("EAD_BENCH_CACHE", str(folder / "cache"))


def no_links(patch: pytest.MonkeyPatch, _: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    patch.setattr(os, "link", refuse)


def links_over_links(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(os, "link", shutil.copyfile)


def renames_by_copy(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(Path, "replace", lambda self, target: Path(shutil.copyfile(self, target)))


def skewed(patch: pytest.MonkeyPatch, _: Path) -> None:
    now = time.time
    patch.setattr(time, "time", lambda: now() + 60)


def full(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))


def not_writable(_: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "results").write_text("a file")


def slurm_incomplete(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(machine_checks, "SLURM", ("sbatch", "absent-srun"))
    tool(folder / "bin", "sbatch", "")
    on_path(patch, folder / "bin")


def slurm_down(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(machine_checks, "SLURM", ("sbatch", "scontrol"))
    tool(folder / "bin", "sbatch", "")
    tool(folder / "bin", "scontrol", "Slurmctld(primary) at head is DOWN", 1)
    on_path(patch, folder / "bin")


def launcher_variables(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setenv("RANK", "0")
    patch.setenv("WORLD_SIZE", "4")


def ascii_output(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))


def home_not_writable(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "home").write_text("a file")
    patch.delenv("EAD_BENCH_CACHE", raising=False)
    patch.setenv("HOME", str(folder / "home"))


PLANTED: dict[Plant, str] = {
    launcher_variables: "environment .*RANK=0, WORLD_SIZE=4.*unset RANK WORLD_SIZE",
    ascii_output: "encoding .*ascii.*PYTHONUTF8=1",
    no_compiler: "compiler .*install g\\+\\+",
    gpu_unseen: "cuda .*there is a GPU, but",
    precision_overridden: "tf32 .*NVIDIA_TF32_OVERRIDE=0",
    backbone_missing: "lpips .*alex.*bench.setup",
    backbone_altered: "lpips .*alex.*sha256",
    no_links: "results .*no hard links",
    links_over_links: "results .*two processes could lock one run",
    renames_by_copy: "results .*does not rename",
    skewed: "results .*clock .*-60 s",
    full: "results .*1.0 GB free",
    not_writable: "results .*cannot be written to",
    slurm_incomplete: "slurm .*without absent-srun",
    slurm_down: "slurm .*does not answer: .*DOWN",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_named(
    plant: Plant, fit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        plant(patch, tmp_path)
        code, defects = examine(fit, capsys)
    matching = [line for line in defects if re.search(PLANTED[plant], line)]
    assert code == 2 and len(matching) == 1, defects
    others = {line.split()[1] for line in defects} - {matching[0].split()[1], "cache"}
    assert not others, defects  # file systems of results and cache may share a fault


def test_a_home_that_cannot_be_written_to_is_named(
    fit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LPIPS's backbones and the compiled kernel are missing, too: only the cache is looked at here."""
    home_not_writable(monkeypatch, tmp_path)
    code, defects = examine(fit, capsys)
    (line,) = [line for line in defects if line.split()[1] == "cache"]
    assert code == 2 and "cannot be written to" in line and "EAD_BENCH_CACHE" in line


def test_a_fit_machine_has_none(fit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, defects = examine(fit, capsys)
    assert (code, defects) == (0, [])
    assert not list(fit.iterdir()), "the probe was not removed"


def test_one_defect_is_counted_in_the_singular(
    fit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    precision_overridden(monkeypatch, fit)
    doctor.main(["--results", str(fit)])
    assert capsys.readouterr().out.splitlines()[-1] == "1 defect"
