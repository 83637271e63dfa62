"""Mistakes as a new user makes them: one message says what, where and what to do; exit 2; nothing is written.

A case whose code is 0 is no mistake by itself, but may not be meant: the dry run prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

import bench.run
from bench.common.errors import run_command
from bench.config.spec_files import BASES

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


MISTAKES = {
    # 1: misspelled or impossible values
    "train.step": Mistake(HEAD, ("train.step=10",), ("command line: train.step=10: no field", "did you mean 'steps'?")),
    "losses.depht": Mistake(HEAD + "set:\n  losses.depht: 1\n", (), ("spec.yaml:3: losses has no choice 'depht'",)),
    "gpu_typ": Mistake(HEAD, ("--slurm", "c.yaml"), ("c.yaml:6:", "gpu_typ", "did you mean 'gpu_type'"),
                       files={"c.yaml": GPUS3 + "gpu_typ: a100\n"}),
    "unknown encoder": Mistake(HEAD, ("model.encoder=crocco",), ("did you mean 'croco'?",)),
    "tab": Mistake(HEAD + "set:\n\ttrain.steps: 3\n", (), ("spec.yaml:3: not valid YAML",)),
    "base and key": Mistake("base: freesplater\nsett: {}\n", (), ("spec.yaml:1: no base", "'freesplatter'?")),
    "steps as text": Mistake(HEAD + 'set: {train.steps: "100"}\n', (), ("spec.yaml:2: train.steps", "whole number")),
    "warm-up": Mistake(HEAD, ("train.steps=10",), ("train.warmup_steps: 20 is not below the 10 steps",)),
    # 2, 6, 24: scenes
    "identical runs": Mistake(HEAD + "runs: [{name: a, seed: 1}, {name: b, seed: 1}]\n", (), ("two runs are the",)),
    "negative scenes": Mistake(HEAD, ("data.training_scenes=-3",),
                               ("command line: data.training_scenes=-3: data.training_scenes: -3 is too small",)),
    "no training scenes": Mistake(HEAD, ("data.training_scenes=0",), ("nothing to train 600 steps on",)),
    "too few scenes": Mistake(HEAD, ("evaluation.scenes=40",), ("asks for 40 scenes, there are 32",), code=0),
    # 7, 8: overrides that take differences away
    "named runs merge": Mistake(NAMED, ("model.aggregator.blocks=4",),
                                ("blocks=4: 9 → 6 runs", "'double blocks' equals 'base'")),
    "one seed of three": Mistake(NAMED, ("seed=5",), ("9 → 3 runs", "seed"), code=0),
    # 9: losses merge
    "losses merge": Mistake(HEAD + "set: {losses: {mse: 1, lpips: .05}}\n", (),
                            ("spec.yaml:2: losses is merged with the base's: points stays", "`NAME: null`"), code=0),
    # 10, 11: the line of the user's own file
    "head over deep base": Mistake(FORTY, ("model.head.name=dpt", "model.head.taps=[0, 6, 9, 12]"),
                                   ("command line: model.head.taps=", "model.aggregator.blocks is set at spec.yaml:2")),
    "head of the spec": Mistake(HEAD + "set:\n  model.head: dpt\n", ("--scale", "paper"),
                                ("spec.yaml:3: model.head.taps", "blocks is set at", "base/freesplatter")),
    "swept and scaled": Mistake(HEAD + "runs:\n  - {model.aggregator.blocks: 3}\n  - {seed: 1}\n", (),
                                ("spec.yaml:3:", "scales: {tiny: {runs: [{model.aggregator.blocks: …}, …]}}")),
    # 15, 16, 19: which file, and its encoding
    "no suffix": Mistake(HEAD, (), ("spec: cannot be read", "did you mean 'spec.yaml'?"), path="spec"),
    "no folder": Mistake(HEAD, (), ("did you mean 'ablations/patch_size.yaml'?",), path="patch_size.yaml",
                         files={"ablations/patch_size.yaml": HEAD}),
    "neither": Mistake(HEAD, (), ("did you mean 'ablations/patch_size.yaml'?",), path="patch_size",
                       files={"ablations/patch_size.yaml": HEAD}),
    "a folder": Mistake(HEAD, (), ("Is a directory; name one of its specs: ablations/a.yaml, ablations/b.yaml",),
                        path="ablations", files={"ablations/a.yaml": HEAD, "ablations/b.yaml": HEAD}),
    "UTF-16": Mistake((HEAD + "# é\n").encode("utf-16"), (), ("spec.yaml:1: is not UTF-8", "UTF-16", "iconv")),
    "Latin-1": Mistake((HEAD + "# é\n").encode("latin-1"), (), ("spec.yaml:2: is not UTF-8 text (it may be LATIN1)",)),
    # 17, 18, 21, 22: options and hardware, in the dry run too
    "no threads": Mistake(HEAD, ("--threads", "0"), ("--threads 0", "at least 1")),
    "gpu": Mistake(HEAD, ("--device", "gpu"), ("--device gpu: it may be auto, cpu, cuda or cuda:N",)),
    "cuda": Mistake(HEAD, ("--device", "cuda"), ("--device cuda", "no CUDA device")),
    "three GPUs": Mistake(HEAD, ("--slurm", "c.yaml", "train.batch=32"), ("train.batch 32", "3 processes"),
                          files={"c.yaml": GPUS3}),
    "no checksum": Mistake("base: ours1\n", ("init.encoder.sha256=abc", "--scale", "paper"),
                           ("init.encoder.sha256=abc: init.encoder.sha256: 'abc' is no SHA-256", "64 hexadecimal")),
    "a path as name": Mistake(HEAD, ("--name", "../x"), ("--name '../x'", "letters, digits")),
    # 25: another part takes the base's settings along
    "part replaced whole": Mistake(
        "base: mine\nruns:\n  - {name: conv}\n  - {name: croco, model.encoder: croco}\n", (),
        ("croco: encoder croco, encoder.patch 8*",), code=0, files={"base/mine.yaml": MINE}),
    # 28, 30, 31: odd YAML
    "spec in a folder called base": Mistake(HEAD + "set: {train.stps: 1}\n", (), ("base/spec.yaml:2:", "'steps'"),
                                            name="base/spec.yaml", path="base/spec.yaml"),
    "huge seed": Mistake(HEAD + f"set: {{seed: {10**23}}}\n", (), ("spec.yaml:2: seed: expected a whole",)),
    "large seed": Mistake(HEAD, ("seed=5000000000",), ("seed: 5000000000 is too large",)),
    "endless number": Mistake(HEAD + f"set: {{seed: 1{'0' * 9000}}}\n", (), ("spec.yaml:2: ", "no value that YAML")),
    "recursive alias": Mistake(HEAD + "seeds: &a [0, *a]\n", (), ("spec.yaml:2: an alias stands for",)),
    "alias bomb": Mistake(HEAD + "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)), (),
        ("not valid YAML: more than 100,000 values",)),
    "deep": Mistake(HEAD + "set: " + "[" * 5000, (), ("spec.yaml",)),
    "base as mapping": Mistake("base: {x: 1}\n", (), ("spec.yaml:1: base is the name of one base",)),
    "base as list": Mistake("base: [ours1]\n", (), ("spec.yaml:1: base is the name of one base",)),
    "base of a run as list": Mistake("runs:\n  - base: [ours1]\n", (), ("spec.yaml:2: base is the name of one base",)),
    "tagged list": Mistake("base: !!str [ours1]\n", (), ("spec.yaml:1: base is the name of one base",)),
    "tagged value": Mistake(HEAD + "set: {train.steps: !!python/object:os.x 3}\n", (), ("spec.yaml:2: train.steps",)),
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
        run_command(lambda: bench.run.main([mistake.path, *mistake.arguments, "--dry-run"]))
    output = "\n".join(capsys.readouterr())
    assert stopped.value.code == mistake.code, output
    assert any(all(part in line for part in mistake.message) for line in output.splitlines()), output
    assert "Traceback" not in output and sorted(Path().rglob("*")) == before
