"""Mistakes as a new user makes them, by number: one message says what, where and what to do; exit 2; nothing is lost.

A case whose code is 0 is no mistake by itself, but may not be meant: the message says so, and the command goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support.commands import SPEC
from support.paths import ROOT
from support.restrictions import run_restricted
from support.sweeps import record_sweep, write_run
from support.training import run as train
from support.training import spec as small_spec

import bench.export
import bench.run
from bench.analysis import tables
from bench.common.errors import run_command
from bench.common.json_files import write_json
from bench.config.spec_files import BASES
from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.runs.folder import RunFolder, Status
from bench.runs.states import State
from models import weights

HEAD = "base: freesplatter\n"
NAMED = HEAD + (
    "runs:\n  - {name: base}\n  - {name: double blocks, model.aggregator.blocks: 4}\n"
    "  - {name: double width, model.encoder.width: 384}\nseeds: [0, 1, 2]\n"
    "scales:\n  tiny:\n    runs:\n      - {name: base, model.aggregator.blocks: 2}\n"
    "      - {name: double blocks, model.aggregator.blocks: 4}\n"
    "      - {name: double width, model.aggregator.blocks: 2, model.encoder.width: 384}\n"
)
FORTY = HEAD + "scales: {tiny: {model.aggregator.blocks: 24}}\n"
MINE = (BASES / "freesplatter.yaml").read_text().replace("blocks: 4}", "blocks: 4, model.encoder.patch: 4}")
PATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
GPUS3 = "partition: gpu\ngpus: 3\ncpus: 4\nmemory: 32G\ntime: 1-0\n"


@dataclass(frozen=True)
class Mistake:
    spec: str | bytes
    arguments: tuple[str, ...] = ()
    message: tuple[str, ...] = ()  # parts of the one line that says it
    code: int = 2
    files: dict[str, str] = field(default_factory=dict)
    name: str = "spec.yaml"
    path: str = "spec.yaml"  # as typed
    command: Callable[[], int] | None = None  # in place of the dry run; may write


def finished() -> list[RunFolder]:
    """The two runs of spec.yaml, done, with untrained weights."""
    results = Path("results")
    _, runs = record_sweep(results, Path("spec.yaml"))
    folders = [RunFolder(results / "runs" / run.id) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        write_run(folder, run, State.DONE, 18.0, 14.0, 200.0)
        write_json(folder.path / "train.json", {"steps": 60})
        model = run.spec.model.build(0)
        weights.save_spec(model, folder.path / weights.SPEC_FILE)
        weights.save_weights(model, folder.path / weights.WEIGHTS_FILE)
    tables.write(*record_sweep(results, Path("spec.yaml"))[:1], results)
    return folders


def dry_run(*arguments: str) -> int:
    return bench.run.main(["spec.yaml", *arguments, "--dry-run"])


def after_ctrl_c() -> int:
    finished()[0].set_status(Status(State.CANCELLED, "train", "interrupted"))
    return dry_run()


def after_renaming_runs() -> int:
    finished()
    text = SPEC.replace("grid: {model.encoder.patch: [4, 8]}", "runs: [{name: fine, model.encoder.patch: 4}, "
                        "{name: coarse, model.encoder.patch: 8}]")  # fmt: skip
    Path("spec.yaml").write_text(text)
    return dry_run()


def after_deleting_the_sweeps_folder() -> int:
    finished()
    shutil.rmtree("results/spec_tiny")
    return dry_run()


def after_deleting_the_status() -> int:
    for folder in finished():
        (folder.path / "status.json").unlink()
    return dry_run()


def read_only(*, is_finished: bool) -> int:
    """The command as a process, in which writing to results/ fails, as it also does for root."""
    Path("results").mkdir()
    if is_finished:
        finished()
    done = run_restricted("read-only", Path("results"), "bench.run", "spec.yaml", env=os.environ | {"PYTHONPATH": PATH})
    print(done.stdout, done.stderr)
    return done.returncode


def with_weights(change: Callable[[Path], object], command: Callable[[RunFolder], int]) -> int:
    folder = finished()[1]
    change(folder.path / weights.WEIGHTS_FILE)
    return command(folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def run_again(folder: RunFolder) -> int:
    return bench.run.main(["spec.yaml"])


def export(folder: RunFolder) -> int:
    return bench.export.main([str(folder.path)])


def export_without_spec() -> int:
    folder = finished()[0]
    (folder.path / "spec.json").unlink()
    return export(folder)


def on_a_folder_without_scenes() -> int:
    return bench.run.main(["spec.yaml", "data=gobjaverse", "data.root=empty"])


def from_another_folder() -> int:
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    return bench.run.main(["../spec.yaml", "--dry-run"])


@dataclass(frozen=True)
class Careless(LossSpec):
    """Reads renderings, and does not say so."""

    weight: float = 1.0
    needs = frozenset()

    def build(self, device: torch.device) -> Term:
        def careless(prediction: Prediction, batch: Batch) -> torch.Tensor:
            return prediction.images.mean((1, 2, 3, 4))

        return careless


def train_with_a_careless_loss() -> int:
    spec = small_spec(steps=4, geometry_first=0.5)
    train(Path("run"), replace(spec, losses={**spec.losses, "careless": Careless()}))
    return 0


def untracked_spec() -> int:
    folder, runs = record_sweep(Path("results"), Path("spec.yaml"))
    for run in runs:
        write_run(RunFolder(Path("results/runs") / run.id), run, State.DONE, 18.0, 14.0, 200.0)
    write_json(folder / "environment.json", {"commit": "0" * 40, "spec_file": "untracked"})
    print(tables.terminal_summary(folder, Path("results")))
    return 0


MISTAKES = {
    "1 train.step": Mistake(HEAD, ("train.step=10",),
                            ("command line: train.step=10: no field", "did you mean 'steps'?")),
    "1 losses.depht": Mistake(HEAD + "set:\n  losses.depht: 1\n", (), ("spec.yaml:3: losses has no choice 'depht'",)),
    "1 gpu_typ": Mistake(HEAD, ("--slurm", "c.yaml"), ("c.yaml:6:", "gpu_typ", "did you mean 'gpu_type'"),
                       files={"c.yaml": GPUS3 + "gpu_typ: a100\n"}),
    "1 unknown encoder": Mistake(HEAD, ("model.encoder=crocco",), ("did you mean 'croco'?",)),
    "1 tab": Mistake(HEAD + "set:\n\ttrain.steps: 3\n", (), ("spec.yaml:3: not valid YAML",)),
    "1 base and key": Mistake("base: freesplater\nsett: {}\n", (), ("spec.yaml:1: no base", "'freesplatter'?")),
    "1 steps as text": Mistake(HEAD + 'set: {train.steps: "100"}\n', (), ("spec.yaml:2: train.steps", "whole number")),
    "1 warm-up": Mistake(HEAD, ("train.steps=10",), ("train.warmup_steps: 20 is not below the 10 steps",)),
    "2 identical runs": Mistake(HEAD + "runs: [{name: a, seed: 1}, {name: b, seed: 1}]\n", (), ("two runs are the",)),
    "2 images of another size": Mistake(HEAD, ("model.image_size=30",),
                                        ("model.image_size=30: model.encoder.patch: 4 does",)),
    "2 no scenes": Mistake(HEAD, (), ("/empty holds no scene: expected are",), files={"empty/a.txt": ""},
                           command=on_a_folder_without_scenes),
    "3 Ctrl-C": Mistake(SPEC, (), ("State: 1 cancelled (train), 1 done",), code=0, command=after_ctrl_c),
    "3 renamed": Mistake(SPEC, (), ("State: 2 done",), code=0, command=after_renaming_runs),
    "3 sweep deleted": Mistake(SPEC, (), ("State: 2 done",), code=0, command=after_deleting_the_sweeps_folder),
    "3 status deleted": Mistake(SPEC, (), ("State: 2 begun",), code=0, command=after_deleting_the_status),
    "4 read-only": Mistake(SPEC, (), ("/results cannot be written to (", "pass --results DIR"),
                           command=partial(read_only, is_finished=False)),
    "5 read-only and finished": Mistake(SPEC, (), ("read-only, nothing updated; report: ", "/results/spec_tiny"),
                                        code=0, command=partial(read_only, is_finished=True)),
    "6 negative scenes": Mistake(HEAD, ("data.training_scenes=-3",),
                               ("command line: data.training_scenes=-3: data.training_scenes: -3 is too small",)),
    "6 no training scenes": Mistake(HEAD, ("data.training_scenes=0",), ("nothing to train 600 steps on",)),
    "24 too few scenes": Mistake(HEAD, ("evaluation.scenes=40",), ("asks for 40 scenes, there are 32",), code=0),
    "7 named runs merge": Mistake(NAMED, ("model.aggregator.blocks=4",),
                                ("blocks=4: 9 → 6 runs", "'double blocks' equals 'base'")),
    "8 one seed of three": Mistake(NAMED, ("seed=5",), ("9 → 3 runs", "seed"), code=0),
    "9 losses merge": Mistake(HEAD + "set: {losses: {mse: 1, lpips: .05}}\n", (),
                            ("spec.yaml:2: losses is merged with the base's: points stays", "`NAME: null`"), code=0),
    "10 head over deep base": Mistake(FORTY, ("model.head.name=dpt", "model.head.taps=[0, 6, 9, 12]"),
                                   ("command line: model.head.taps=", "model.aggregator.blocks is set at spec.yaml:2")),
    "10 head of the spec": Mistake(HEAD + "set:\n  model.head: dpt\n", ("--scale", "paper"),
                                ("spec.yaml:3: model.head.taps", "blocks is set at", "base/freesplatter")),
    "11 swept and scaled": Mistake(HEAD + "runs:\n  - {model.aggregator.blocks: 3}\n  - {seed: 1}\n", (),
                                ("spec.yaml:3:", "scales: {tiny: {runs: [{model.aggregator.blocks: …}, …]}}")),
    "12 deleted weights": Mistake(
        SPEC, (), ("patch 8: results/runs/", "weights.safetensors is missing: restore", "--force --only 'patch 8'"),
        command=partial(with_weights, Path.unlink, run_again)),
    "12 deleted weights, exported": Mistake(SPEC, (), ("results/runs/", "holds no weights.safetensors", "--force"),
                                            command=partial(with_weights, Path.unlink, export)),
    "13 truncated weights": Mistake(
        SPEC, (), ("patch 8: results/runs/", "weights.safetensors is damaged", "--force --only 'patch 8'"),
        command=partial(with_weights, truncate, run_again)),
    "13 truncated weights, exported": Mistake(SPEC, (), ("weights.safetensors is damaged", "--force"),
                                              command=partial(with_weights, truncate, export)),
    "14 deleted spec": Mistake(SPEC, (), ("spec.json is missing: re-run the sweep's command",),
                               command=export_without_spec),
    "15 no suffix": Mistake(HEAD, (), ("spec: cannot be read", "did you mean 'spec.yaml'?"), path="spec"),
    "15 no folder": Mistake(HEAD, (), ("did you mean 'ablations/patch_size.yaml'?",), path="patch_size.yaml",
                         files={"ablations/patch_size.yaml": HEAD}),
    "15 neither": Mistake(HEAD, (), ("did you mean 'ablations/patch_size.yaml'?",), path="patch_size",
                       files={"ablations/patch_size.yaml": HEAD}),
    "16 a folder": Mistake(HEAD, (), ("Is a directory; name one of its specs: ablations/a.yaml, ablations/b.yaml",),
                        path="ablations", files={"ablations/a.yaml": HEAD, "ablations/b.yaml": HEAD}),
    "19 UTF-16": Mistake((HEAD + "# é\n").encode("utf-16"), (), ("spec.yaml:1: is not UTF-8", "UTF-16", "iconv")),
    "19 Latin-1": Mistake((HEAD + "# é\n").encode("latin-1"), (),
                          ("spec.yaml:2: is not UTF-8 text (it may be LATIN1)",)),
    "17 no threads": Mistake(HEAD, ("--threads", "0"), ("--threads 0", "at least 1")),
    "18 gpu": Mistake(HEAD, ("--device", "gpu"), ("--device gpu: it may be auto, cpu, cuda or cuda:N",)),
    "18 cuda": Mistake(HEAD, ("--device", "cuda"), ("--device cuda", "no CUDA device")),
    "20 another directory": Mistake(HEAD, (), ("Results: ", "/elsewhere/results/spec_tiny"), code=0,
                                    command=from_another_folder),
    "21 three GPUs": Mistake(HEAD, ("--slurm", "c.yaml", "train.batch=32"), ("train.batch 32", "3 processes"),
                          files={"c.yaml": GPUS3}),
    "22 no checksum": Mistake("base: ours1\n", ("init.encoder.sha256=abc", "--scale", "paper"),
                           ("init.encoder.sha256=abc: init.encoder.sha256: 'abc' is no SHA-256", "64 hexadecimal")),
    "23 a path as name": Mistake(HEAD, ("--name", "../x"), ("--name '../x'", "letters, digits")),
    "23 data.root": Mistake(HEAD, ("data=gobjaverse", "data.root=/somewhere/shapes"),
                            ("Results: ", "/results/spec_tiny_data=gobjaverse_data.root=shapes"), code=0),
    "25 part replaced whole": Mistake(
        "base: mine\nruns:\n  - {name: conv}\n  - {name: croco, model.encoder: croco}\n", (),
        ("croco: encoder croco, encoder.patch 8*",), code=0, files={"base/mine.yaml": MINE}),
    "26 paper's width, swept": Mistake(
        HEAD + "runs:\n  - {name: base}\n  - {name: wider, model.encoder.width: 1536}\n", ("--scale", "small"),
        ("spec.yaml:4: model.encoder.width: 1536 is a width for scale paper, at scale small it is 384",
         "`scales: {small: {runs: [{model.encoder.width: …}, …]}}`")),
    "26 paper's width, set": Mistake(HEAD + "set: {model.encoder.width: 1536}\n", ("--scale", "small"),
                                     ("spec.yaml:2:", "to `scales: {paper: {model.encoder.width: 1536}}`")),
    "26 width of this scale": Mistake(
        HEAD + "runs:\n  - {model.encoder.width: 1536}\nscales: {small: {runs: [{model.encoder.width: 1536}]}}\n",
        ("--scale", "small"), ("State: 1 planned",), code=0),
    "27 loss without rendering": Mistake(
        HEAD, (), ("bench/losses/careless.py: this term reads rendered images", "name 'rendering' in the `needs`"),
        command=train_with_a_careless_loss),
    "28 spec in a folder called base": Mistake(HEAD + "set: {train.stps: 1}\n", (), ("base/spec.yaml:2:", "'steps'"),
                                            name="base/spec.yaml", path="base/spec.yaml"),
    "29 untracked spec": Mistake(SPEC, (), ("(with local changes); the spec file", "is in no commit"), code=0,
                                 command=untracked_spec),
    "30 huge seed": Mistake(HEAD + f"set: {{seed: {10**23}}}\n", (), ("spec.yaml:2: seed: expected a whole",)),
    "30 large seed": Mistake(HEAD, ("seed=5000000000",), ("seed: 5000000000 is too large",)),
    "30 endless number": Mistake(HEAD + f"set: {{seed: 1{'0' * 9000}}}\n", (), ("spec.yaml:2: ", "no value that YAML")),
    "30 recursive alias": Mistake(HEAD + "seeds: &a [0, *a]\n", (), ("spec.yaml:2: an alias stands for",)),
    "30 alias bomb": Mistake(HEAD + "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)), (),
        ("not valid YAML: more than 100,000 values",)),
    "30 deep": Mistake(HEAD + "set: " + "[" * 5000, (), ("spec.yaml",)),
    "31 base as mapping": Mistake("base: {x: 1}\n", (), ("spec.yaml:1: base is the name of one base",)),
    "31 base as list": Mistake("base: [ours1]\n", (), ("spec.yaml:1: base is the name of one base",)),
    "31 base of a run as list": Mistake("runs:\n  - base: [ours1]\n", (),
                                        ("spec.yaml:2: base is the name of one base",)),
    "31 tagged list": Mistake("base: !!str [ours1]\n", (), ("spec.yaml:1: base is the name of one base",)),
    "31 tagged value": Mistake(HEAD + "set: {train.steps: !!python/object:os.x 3}\n", (),
                               ("spec.yaml:2: train.steps",)),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    for path, content in {**mistake.files, mistake.name: mistake.spec}.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        run_command(mistake.command or (lambda: bench.run.main([mistake.path, *mistake.arguments, "--dry-run"])))
    output = "\n".join(capsys.readouterr())
    assert stopped.value.code == mistake.code, output
    assert any(all(part in line for part in mistake.message) for line in output.splitlines()), output
    assert "Traceback" not in output and (mistake.command or sorted(Path().rglob("*")) == before)


def test_every_number_is_there() -> None:
    assert {int(name.split()[0]) for name in MISTAKES} == set(range(1, 32))
