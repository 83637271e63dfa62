"""Cluster files: read strictly; and what sbatch is given, to the letter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.paths import GOLDEN, ROOT

import bench.run
from bench.common.errors import ConfigError, UserError
from bench.slurm.cluster import Cluster, load, minutes
from bench.slurm.script import Script


def cluster_file(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "expected"), [
    ("90", 90), ("1:30", 2), ("24:00:00", 1440), ("2-12", 3600), ("2-00:00:01", 2881), ("1-1:30", 1530), ("0:10", 1),
])  # fmt: skip
def test_times_as_slurm_writes_them(text: str, expected: int) -> None:
    assert minutes(text) == expected and minutes(expected) == expected


@pytest.mark.parametrize("name", ["a100", "local"])
@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_the_files_that_come_with_it_are_valid(name: str, scale: str) -> None:
    assert load(ROOT / "slurm" / f"{name}.yaml", scale).ranks == (4 if (name, scale) == ("a100", "paper") else 1)


def test_a_scale_changes_what_it_names(tmp_path: Path) -> None:
    path = cluster_file(tmp_path, "gpus: 4\ngpu_type: a100\ntime: 2-00:00:00\nscales: {tiny: {gpus: 0, time: 30}}\n")
    tiny, paper = load(path, "tiny"), load(path, "paper")
    assert (tiny.gpus, tiny.minutes, paper.gpus, paper.minutes, paper.ranks) == (0, 30, 4, 2880, 4)


@pytest.mark.parametrize(("line", "problem"), [
    ("gpu: 4", "unknown key gpu (did you mean 'gpus'?)"),
    ("partitoin: x", "unknown key partitoin (did you mean 'partition'?)"),
    ("gpus: four", "gpus: expected a whole number, got 'four'"),
    ("nodes: 0", "nodes: 0 is less than 1"),
    ("time: 2 days", "time: '2 days' is not a time; examples: 2-00:00:00"),
    ("time: 3", "time: 3 is not longer than warning_s, 180 s"),
    ("memory: 480 G", "memory: '480 G' is not an amount of memory; examples: 480G"),
    ("environment: ['#SBATCH --foo']", "move it to the key sbatch"),
    ("sbatch: {time: 3}", "sbatch.time: use the key time instead"),
    ("sbatch: {output: x}", "sbatch.output is set by EAD-Bench itself"),
    ("sbatch: [a]", "sbatch is a mapping"),
    ("collect: {partitoin: cpu}", "unknown key collect.partitoin (did you mean 'partition'?)"),
    ("collect: {time: 10m}", "collect.time: '10m' is not a time"),
    ("scales: {papr: {}}", "no scale papr (did you mean 'paper'?)"),
    ("scales: {paper: {cpuss: 3}}", "unknown key scales.paper.cpuss (did you mean 'cpus'?)"),
    ("gpu_type: a100", "gpu_type: set the number of GPUs per node as well: gpus: N"),
    ("executor: pbs", "expected one of slurm, local, got 'pbs'"),
    ("time: 60\ntime: 70", "time is given twice"),
    ("memory: -1", "memory: -1 is not an amount of memory"),
])  # fmt: skip
def test_each_mistake_is_reported_with_file_and_line(tmp_path: Path, line: str, problem: str) -> None:
    path = cluster_file(tmp_path, f"cpus: 2\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        load(path, "tiny")
    (message,) = raised.value.problems
    assert problem in message and f"cluster.yaml:{2 + line.count(chr(10))}: " in message


def test_all_mistakes_at_once_and_a_missing_file(tmp_path: Path) -> None:
    path = cluster_file(tmp_path, "gpus: 2\ntasks: 4\nexecutor: local\npartition: x\n")
    with pytest.raises(ConfigError) as raised:
        load(path, "tiny")
    assert [problem.split(":")[1] for problem in raised.value.problems] == ["2", "4"]
    with pytest.raises(ConfigError, match=r"cluster\.yml: cannot be read"):
        load(tmp_path / "cluster.yml", "tiny")


def script(cluster: Cluster) -> Script:
    folder = Path("/lab/results/table3_paper/slurm/20260101-000000")
    own = replace(cluster, python="/lab/venv/bin/python")
    return Script(own, "table3", folder, Path("/lab/results/code/0123456789ab"), cluster.cpus)


def test_batch_scripts_are_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """To renew: PYTHONPATH=.:tests python tests/slurm/test_cluster_file.py; then review the difference."""
    monkeypatch.delenv("EAD_BENCH_CACHE", raising=False)
    for name, text in texts().items():
        assert text == (GOLDEN / name).read_text(), name


def texts() -> dict[str, str]:
    node = script(load(ROOT / "slurm" / "a100.yaml", "paper"))
    wide = replace(node.cluster, nodes=2, environment=("module load cuda/12.8",), account="vision", constraint="80g",
                   reservation="paper", sbatch={"mail-user": "someone@example.org", "exclusive": True})  # fmt: skip
    return {
        "slurm_array.sh": node.text(node.runs(0, None), 3),
        "slurm_collect.sh": node.text(node.collect("afterany:123")),
        "slurm_two_nodes.sh": script(wide).text(script(wide).runs(1, "afterany:123_0"), 1),
    }


@pytest.mark.parametrize("name", ["slurm_array.sh", "slurm_collect.sh", "slurm_two_nodes.sh"])
def test_batch_scripts_are_shell(name: str) -> None:
    subprocess.run(["bash", "-n", GOLDEN / name], check=True)


def test_a_dry_run_prints_the_script_alone_and_needs_no_slurm(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(shutil.which("git") or "/nowhere")
    arguments = [
        "ablations/patch_size.yaml",
        "--scale",
        "paper",
        "--slurm",
        "slurm/a100.yaml",
        "--results",
        tmp_path / "r",
    ]
    command = [sys.executable, "-m", "bench.run", *map(str, arguments)]
    done = subprocess.run(
        [*command, "--dry-run"], cwd=ROOT, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n") and "#SBATCH --array=0-3%4" in done.stdout
    assert "4 GPUs × 48 h = 768 GPU-hours" in done.stderr and "code: " in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("cluster", "options", "problem"), [
    ("time: 60", ["--test-only"], "SLURM, which is not installed here"),
    ("time: 60", [], "SLURM is not installed here"),
    ("nodes: 8\ntasks: 8", ["--dry-run"], "is not a multiple of the 64 processes of a run"),
    ("gpus: 3", ["--dry-run"], "is not a multiple of the 3 processes of a run (cluster.yaml: nodes × gpus)"),
    ("gpu: 8", ["--dry-run"], "did you mean 'gpus'"),
])  # fmt: skip
def test_what_cannot_be_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str, options: list[str], problem: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    arguments = [
        "ablations/patch_size.yaml",
        "--slurm",
        str(cluster_file(tmp_path, cluster)),
        "--results",
        str(tmp_path / "r"),
    ]
    with pytest.raises(UserError) as raised:
        bench.run.main([*arguments, "data.training_scenes=16", "--only", "*4, 2*", *options])
    message = str(raised.value).replace(f"{tmp_path}/", "")
    assert problem in message and not list(tmp_path.glob("r/runs/*/job.json"))


def test_zero_memory_is_all_of_the_node_and_numbers_are_texts(tmp_path: Path) -> None:
    cluster = load(cluster_file(tmp_path, "memory: 0\naccount: 01234\ncollect: {memory: 0, qos: 7}\n"), "tiny")
    parameters = script(cluster).runs(0, None)
    assert (parameters["mem"], parameters["account"], cluster.collect.qos) == ("0", "01234", "7")
    assert "#SBATCH --mem=0\n" in script(cluster).text(parameters, 1)


def test_a_name_with_spaces_is_one_word_for_sbatch(tmp_path: Path) -> None:
    named = replace(script(load(cluster_file(tmp_path, "cpus: 2\n"), "tiny")), name="my question; rm -rf")
    (line,) = [line for line in named.text(named.runs(0, None), 1).splitlines() if "--job-name" in line]
    assert re.fullmatch(r"#SBATCH --job-name=[\w.=+-]+", line)


def test_the_old_name_of_a_key_is_read_with_a_hint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cluster_file(tmp_path, "cpus: 2\nmax_losses: 7\nscales: {paper: {max_losses: 9}}\n")
    assert load(path, "tiny").max_crash_requeues == 7 and load(path, "paper").max_crash_requeues == 9
    assert "cluster.yaml:2: max_losses is now called max_crash_requeues" in caplog.text
    both = cluster_file(tmp_path, "max_crash_requeues: 2\nmax_losses: 1\n")
    with pytest.raises(ConfigError, match=r"cluster\.yaml:2: max_losses is the old name of max_crash_requeues"):
        load(both, "tiny")


def test_more_runs_than_an_array_may_have_are_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho 'MaxArraySize            = 3'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:/usr/bin:/bin")
    options = ["--slurm", str(cluster_file(tmp_path, "time: 60")), "--results", str(tmp_path / "r"), "--dry-run"]
    assert bench.run.main(["ablations/patch_size.yaml", *options]) == 0
    output = capsys.readouterr()
    assert "4 runs exceed SLURM's MaxArraySize 3: split into 2 arrays" in output.err
    assert "#SBATCH --array=0-2%3" in output.out and output.out.count("#!/bin/bash") == 3


if __name__ == "__main__":
    for file, content in texts().items():
        (GOLDEN / file).write_text(content)
