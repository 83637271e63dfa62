"""What a spec means: precedence, sweeps, labels, graph, identity."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.base_models import BASES
from support.paths import ROOT

from bench.common.errors import ConfigError, UserError
from bench.config import (
    Sweep,
    canonical_json,
    from_dict,
    load,
    missing_files,
    run_id,
    to_dict,
    verify_files,
)
from bench.config.convert import TypeMismatch, convert
from bench.config.naming import folder_name
from bench.config.schema import FromRun, WeightsFile

BASE = """
model: {encoder: conv, aggregator: self_attention, head: linear, output: gaussians}
data: procedural
views.choice: lara
losses: {mse: 1.0, lpips: 0.05, points: 10.0}
"""


class Specs:
    """A folder of specs of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "base").mkdir()
        self.base(BASE)

    def base(self, text: str, name: str = "mine") -> None:
        (self.folder / "base" / f"{name}.yaml").write_text(text)

    def load(self, text: str, *overrides: str, scale: str = "tiny", name: str = "spec") -> Sweep:
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return load(path, overrides, scale)


@pytest.fixture
def specs(tmp_path: Path) -> Specs:
    return Specs(tmp_path)


def test_each_layer_wins_over_the_one_before(specs: Specs) -> None:
    """part defaults < base < sizes < base's and spec's scales < set < grid < command line; one more layer each time."""
    spec, overrides, widths = "base: mine\n", [], []

    def width(scale: str = "tiny") -> int:
        return specs.load(spec, *overrides, scale=scale).runs[0].spec.model.encoder.width  # type: ignore[attr-defined]

    widths.append(width("paper"))
    specs.base(BASE + "model.encoder.width: 960\n")
    widths += [width("paper"), width("tiny")]
    specs.base(BASE + "model.encoder.width: 960\nscales: {tiny: {model.encoder.width: 240}}\n")
    widths.append(width())
    spec += "scales: {tiny: {model.encoder.width: 288}}\n"
    widths.append(width())
    spec += "set: {model: {encoder.width: 336}}\n"
    widths.append(width())
    spec = "base: mine\nset: {model.encoder.width: 336}\nscales: {tiny: {grid: {model.encoder.width: [384]}}}\n"
    widths.append(width())
    overrides.append("model.encoder.width=432")
    widths.append(width())
    assert widths == [1024, 960, 192, 240, 288, 336, 384, 432]


def test_another_part_replaces_the_old_one_whole(specs: Specs) -> None:
    specs.base(BASE + "model.encoder.width: 960\n")
    text = "base: mine\nset: {model.encoder.patch: 16, model.encoder: croco}\n"
    encoder = specs.load(text, scale="paper").runs[0].spec.model.encoder
    assert (encoder.name, encoder.patch, encoder.width) == ("croco", 16, 1024)  # type: ignore[attr-defined]
    same = specs.load("base: mine\nset: {model.encoder: conv}\n", scale="paper").runs[0].spec.model.encoder
    assert same.width == 960  # type: ignore[attr-defined]  # the same name is no other part


def test_a_part_named_late_comes_at_its_scale(specs: Specs) -> None:
    encoder = specs.load("base: mine\n", "model.encoder=croco").runs[0].spec.model.encoder
    assert encoder.width == 192  # type: ignore[attr-defined]


def test_dotted_keys_and_nested_maps_are_equal(specs: Specs) -> None:
    texts = (
        "{train.steps: 50, model.encoder: {name: croco, heads: 4}}",
        "{train: {steps: 50}, model: {encoder: croco, encoder.heads: 4}}",
    )
    first, second = (specs.load(f"base: mine\nset: {text}\n").runs[0] for text in texts)
    assert first.spec == second.spec and first.id == second.id


def test_losses(specs: Specs) -> None:
    losses = specs.load("base: mine\n", "losses.lpips=null", "losses.points=3").runs[0].spec.losses
    assert sorted(losses) == ["mse", "points"] and losses["points"].weight == 3.0  # type: ignore[attr-defined]
    assert specs.load("base: mine\n").runs[0].spec.losses["lpips"].net == "alex"  # type: ignore[attr-defined]
    assert specs.load("base: mine\n", scale="paper").runs[0].spec.losses["lpips"].net == "vgg"  # type: ignore[attr-defined]


def test_yaml_1_2(specs: Specs) -> None:
    text = "base: mine\nset: {train.learning_rate: 5e-5, train.steps: 2e3, data.version: 12:30}\n"
    spec = specs.load(text).runs[0].spec
    assert spec.train.learning_rate == 5e-5 and spec.train.steps == 2000 and spec.data.version == "12:30"  # type: ignore[attr-defined]
    assert type(spec.train.steps) is int


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, 1.5),
        (float, True),
        (float, "1"),
        (float, float("nan")),
        (bool, 1),
        (str, 3),
        (tuple[int, int], [1]),
    ],
)
def test_convert_is_strict(kind: object, value: object) -> None:
    with pytest.raises(TypeMismatch):
        convert(kind, value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.root=/d/my set #2", "/d/my set #2"),
        ("data.root=/d/a: b", "/d/a: b"),
        ("data.root=/d/[x]", "/d/[x]"),
        ("data.root=2024", "2024"),
        ("data.root=1.10", "1.10"),
        ("data.root=true", "true"),
        ('data.root="/d/quoted #1"', "/d/quoted #1"),
        ("data.root=~/sets", str(Path("~/sets").expanduser())),
        ("data.root=null", None),
    ],
)
def test_an_overrides_value_is_a_value(specs: Specs, override: str, expected: str | None) -> None:
    """Not a YAML document, in which a # would begin a comment; a field of text takes it as it is."""
    spec = specs.load("base: mine\n", "data=gobjaverse", override).runs[0].spec
    assert spec.data.root == expected  # type: ignore[attr-defined]


def test_overrides_of_other_types(specs: Specs) -> None:
    spec = (
        specs.load("base: mine\n", "train.steps= 2e3", "model.head={name: linear}", "train.betas=[0.8, 0.9]")
        .runs[0]
        .spec
    )
    assert (spec.train.steps, spec.model.head.name, spec.train.betas) == (2000, "linear", (0.8, 0.9))
    with pytest.raises(ConfigError, match="got '100 # many'"):
        specs.load("base: mine\n", "train.steps=100 # many")


def test_text_that_looks_like_a_number(specs: Specs) -> None:
    text = "base: mine\nset: {data.version: 1.10}\nruns: [{name: 2}, {name: 3, seed: 1}]\nwhere: {data.version: 1.10}\n"
    runs = specs.load(text).runs
    assert [run.label for run in runs] == ["2", "3"] and runs[0].spec.data.version == "1.10"  # type: ignore[attr-defined]


def test_a_base_is_identified_by_its_content(specs: Specs, tmp_path: Path) -> None:
    """A spec may lie in a folder called base, and a base anywhere."""
    spec = specs.folder / "base" / "question.yaml"
    spec.write_text("base: mine\ngrid: {seed: [0, 1]}\n")
    assert len(load(spec).runs) == 2
    alone = tmp_path / "alone.yaml"
    alone.write_text(BASE)
    assert [run.label for run in load(alone).runs] == ["alone"]


def test_notes_of_what_may_not_be_meant(specs: Specs) -> None:
    text = "base: mine\nruns: [{model.encoder.patch: 4}, {model.encoder.patch: 8, train.steps: 50}]\nseeds: [0, 1]\n"
    assert specs.load(text).notes == ()
    assert specs.load(text, "train.weight_decay=0").notes == ()
    (note,) = specs.load(text, "seed=5").notes
    assert note == "command line: 4 → 2 runs: the spec sweeps seed, which the command line fixes"
    merged = "base: mine\nruns: [{data.seed: 0}, {data.seed: 0, train.steps: 50}]\n"
    (note,) = specs.load(merged, "train.steps=50").notes
    assert note == "command line: 2 → 1 runs: '50 steps' equals 'spec'"
    assert specs.load("base: mine\nset: {losses: {mse: 2, points: null}, train.geometry_first: 0}\n").notes == ()
    assert specs.load("base: mine\nset: {losses.mse: 2}\n").notes == ()
    (note,) = specs.load("base: mine\nset:\n  losses: {mse: 2}\n").notes
    assert "spec.yaml:3: losses is merged with the base's: lpips, points" in note


def test_sweep_order_labels_and_settings(specs: Specs) -> None:
    sweep = specs.load(
        "# Is it so?\n# python -m bench.run spec.yaml  8 runs, none\nbase: mine\n"
        "grid: {model.encoder.patch: [4, 8], train.compile: [true, false]}\n"
        "zip: {train.steps: [30, 40], train.batch: [2, 4]}\n"
    )
    assert len(sweep.runs) == 8 and sweep.question == "Is it so?"
    assert sweep.runs[0].label == "patch 4, compile, 30 steps, batch 2"
    assert sweep.runs[-1].label == "patch 8, no compile, 40 steps, batch 4"
    assert sweep.runs[0].settings == {
        "model.encoder.patch": 4,
        "train.compile": True,
        "train.steps": 30,
        "train.batch": 2,
    }


def test_runs_with_bases_names_and_seeds(specs: Specs) -> None:
    specs.base(BASE.replace("encoder: conv", "encoder: croco"), "other")
    sweep = specs.load("runs:\n  - base: mine\n  - {name: Late, base: other, train.steps: 50}\nseeds: [0, 1]\n")
    assert [run.label for run in sweep.runs] == ["mine, seed 0", "mine, seed 1", "Late, seed 0", "Late, seed 1"]
    assert sweep.runs[2].spec.train.steps == 50 and sweep.runs[2].origin == {"base": "other", "spec": "spec"}
    assert len(specs.load("base: mine\n", "seeds=[3, 4, 5]").runs) == 3


def test_reference_names_a_run(specs: Specs) -> None:
    """What the answers table takes differences from: the first run, or the one with this label."""
    text = "base: mine\ngrid: {model.encoder.patch: [4, 8]}\nseeds: [0, 1]\n"
    assert specs.load(text).reference == "patch 4, seed 0"
    assert specs.load(text + "reference: patch 8\n").reference == "patch 8, seed 0"
    assert specs.load(text + "reference: patch 8, seed 1\n").reference == "patch 8, seed 1"
    assert specs.load(text + "scales: {tiny: {reference: patch 8}}\n").reference == "patch 8, seed 0"
    assert specs.load(text, "reference=patch 8").reference == "patch 8, seed 0"
    with pytest.raises(ConfigError, match=r"spec.yaml:4: reference: no run 'patch 9' \(did you mean 'patch 8'\?\)"):
        specs.load(text + "reference: patch 9\n")


def test_where_keeps_what_matches(specs: Specs) -> None:
    text = "base: mine\ngrid: {model.encoder: [conv, croco], model.encoder.patch: [4, 8], seed: [0, 1]}\n"
    filtered = specs.load(
        text + "where: [{model.encoder: conv, seed: 0}, {model.encoder.blocks: 4, model.encoder.patch: [8]}]\n"
    )
    assert [run.label for run in filtered.runs] == [
        "conv, patch 4, seed 0", "conv, patch 8, seed 0", "croco, patch 8, seed 0", "croco, patch 8, seed 1",
    ]  # fmt: skip


def test_where_drops_combinations_that_could_not_be_built(specs: Specs) -> None:
    text = (
        "base: mine\ngrid: {model.head: [linear, dpt], model.encoder.patch: [4, 5]}\nwhere: {model.encoder.patch: 4}\n"
    )
    assert len(specs.load(text).runs) == 2


def test_a_scales_own_values_replace_key_by_key(specs: Specs) -> None:
    text = "base: mine\ngrid: {model.encoder.patch: [8, 16], seed: [0, 1]}\n"
    text += "scales: {tiny: {grid: {model.encoder.patch: [2, 4, 8]}}}\n"
    assert len(specs.load(text).runs) == 6
    nested = text.replace("{grid: {model.encoder.patch: [2, 4, 8]}}", "{grid: {model: {encoder: {patch: [2, 4, 8]}}}}")
    assert [run.id for run in specs.load(nested).runs] == [run.id for run in specs.load(text).runs]
    assert len(specs.load(text, scale="paper").runs) == 4


def test_a_swept_weight_wins_over_the_bases_for_the_scale(specs: Specs) -> None:
    """A weight is no size; what the spec's own scale says of a swept field stays a conflict."""
    specs.base(BASE + "scales: {tiny: {losses.points: 3.0}}\n")
    text = (
        "base: mine\nruns:\n  - {name: plain}\n  - {name: strong, losses.points: 7.0}\n"
        "  - {name: none, losses.points: null, train.geometry_first: 0}\n"
    )
    plain, strong, none = (run.spec.losses.get("points") for run in specs.load(text).runs)
    assert (getattr(plain, "weight", None), getattr(strong, "weight", None), none) == (3.0, 7.0, None)
    with pytest.raises(ConfigError, match=r"losses.points is swept here, but the scale tiny sets it"):
        specs.load(text + "scales: {tiny: {losses.points: 5.0}}\n")


def test_the_command_line_fixes_a_swept_field(specs: Specs) -> None:
    text = "base: mine\ngrid: {model.encoder.patch: [4, 8], seed: [0, 1]}\n"
    assert [run.label for run in specs.load(text, "model.encoder.patch=2").runs] == ["seed 0", "seed 1"]


def test_an_override_goes_to_the_runs_that_have_the_field(specs: Specs) -> None:
    runs = specs.load("base: mine\ngrid: {model.encoder: [conv, croco]}\n", "model.encoder.blocks=3").runs
    assert runs[1].spec.model.encoder.blocks == 3  # type: ignore[attr-defined]
    assert runs[0].spec.model.encoder.name == "conv"


def test_include_adds_runs_and_never_settings(specs: Specs) -> None:
    specs.load("base: mine\ngrid: {seed: [0, 1]}\nset: {train.steps: 50}\n", name="one")
    sweep = specs.load("include: one\nbase: mine\ngrid: {seed: [1, 2]}\nset: {train.steps: 50}\n")
    assert [run.spec.seed for run in sweep.runs] == [1, 2, 0]  # seed 1 is one run
    assert [run.origin["spec"] for run in sweep.runs] == ["spec", "spec", "one"]
    assert len(specs.load("include: [one]\n").runs) == 2
    other = specs.load("include: one\nbase: mine\nset: {seed: 0}\n")
    assert [run.spec.train.steps for run in other.runs] == [600, 50, 50]


def test_shared_includes_and_merged_runs(specs: Specs) -> None:
    specs.load("base: mine\n", name="shared")
    specs.load("include: shared\nbase: mine\nset: {seed: 1}\n", name="one")
    assert [run.label for run in specs.load("include: [one, shared]\n").runs] == ["one", "shared"]
    specs.base(BASE.replace("encoder: conv", "encoder: croco"), "other")
    text = "runs: [{base: mine}, {base: other}]\n"
    assert [run.label for run in specs.load(text, "model.encoder=croco").runs] == ["mine"]


def test_a_run_that_starts_from_another(specs: Specs) -> None:
    text = "seeds: [0, 1]\nruns: [{name: first, base: mine}, {name: second, base: mine, init.encoder: {run: first}}]\n"
    runs = specs.load(text).runs
    assert [run.parents for run in runs] == [(), (), (runs[0].id,), (runs[1].id,)]
    assert runs[2].spec.init.encoder == FromRun("first", runs[0].id)
    assert from_dict(to_dict(runs[2].spec)) == runs[2].spec
    changed = specs.load(text, "data.seed=7").runs
    assert changed[2].id != runs[2].id


def test_identity_leaves_out_what_decides_nothing(specs: Specs) -> None:
    spec = specs.load("base: mine\n").runs[0].spec
    for same in (replace(spec.train, micro_batch=4), replace(spec.train, checkpoint_every=7)):
        assert run_id(replace(spec, train=same)) == run_id(spec)
    for other in (replace(spec, seed=1), replace(spec, train=replace(spec.train, batch=9))):
        assert run_id(other) != run_id(spec)
    weights = [replace(spec, init=replace(spec.init, encoder=WeightsFile(path, "ab"))) for path in ("x.pth", "y.pth")]
    assert run_id(weights[0]) == run_id(weights[1]) != run_id(spec)
    text = canonical_json(spec)
    assert " " not in text and '"learning_rate":0.003' in text and "checkpoint_every" not in text


def test_a_field_added_later_stays_out_at_its_legacy_value() -> None:
    @dataclass(frozen=True)
    class Old:
        a: float = 1

    @dataclass(frozen=True)
    class New(Old):
        b: int = field(default=2, metadata={"legacy": 1})

    assert canonical_json(New(b=1)) == canonical_json(Old()) == '{"a":1.0}'
    assert canonical_json(New()) == '{"a":1.0,"b":2}'


def test_from_dict_reads_older_and_refuses_newer(specs: Specs) -> None:
    spec = specs.load("base: mine\n").runs[0].spec
    values = to_dict(spec)
    del values["train"]["compile"]
    assert from_dict(values) == spec
    with pytest.raises(UserError, match=r"train\.warp"):
        from_dict({**values, "train": {**values["train"], "warp": 9}})


def test_weight_files_are_never_forgotten(specs: Specs, tmp_path: Path) -> None:
    specs.base(BASE.replace("encoder: conv", "encoder: croco"))
    path = tmp_path / "w.pth"
    override = f"init.encoder.weights={path}"
    spec = specs.load("base: mine\n", override, scale="paper").runs[0].spec
    assert str(path) in missing_files(spec)[0] and "sha256" in missing_files(spec)[0]
    with pytest.raises(UserError, match="no file"):
        verify_files(spec)
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"not declared.*init\.encoder\.sha256=") as raised:
        verify_files(spec)
    declaration = str(raised.value).split()[-1]
    verify_files(specs.load("base: mine\n", override, declaration, scale="paper").runs[0].spec)
    path.write_bytes(b"others")
    with pytest.raises(UserError, match="not the declared file"):
        verify_files(specs.load("base: mine\n", override, declaration, scale="paper").runs[0].spec)


def test_folder_names(specs: Specs) -> None:
    sweep = specs.load("base: mine\n", "train.steps=90", "losses.lpips=null")
    assert sweep.folder == "spec_tiny_losses.lpips=null_train.steps=90"
    again = specs.load("base: mine\n", "losses.lpips=null", "train.steps=80", "train.steps=90")
    assert again.folder == sweep.folder and again.runs == sweep.runs
    assert sweep.question.endswith("(Changed on the command line: train.steps=90 losses.lpips=null)")
    assert folder_name("a", "tiny", ["init.encoder.weights=../x y/z", "init.encoder.sha256=ab"]) == "a_tiny"
    assert folder_name("a", "tiny", ["data.root=/data/sets/mine"]) == "a_tiny_data.root=mine"
    long = [folder_name("a", "tiny", [f"data.version={'x' * 200}{i}"]) for i in range(2)]
    assert long[0] != long[1] and max(map(len, long)) <= 80
    odd = {folder_name("a", "tiny", [f"data.version={text}"]) for text in ("a/b", "a b", "a-b", "a+b", "提案", "従来")}
    assert len(odd) == 6 and all(name.isascii() and "/" not in name for name in odd)


def test_a_base_can_be_run_as_it_is(specs: Specs) -> None:
    sweep = load(specs.folder / "base" / "mine.yaml", ["train.steps=30"])
    assert [run.label for run in sweep.runs] == ["mine"] and sweep.runs[0].spec.train.steps == 30


def test_the_spec_of_the_docs(specs: Specs) -> None:
    text, *_ = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "specs.md").read_text(), re.DOTALL)
    for scale, reference in (("tiny", "patch 4, 2 blocks, seed 0"), ("paper", "patch 8, 12 blocks, seed 0")):
        sweep = specs.load(text, scale=scale)
        assert len(sweep.runs) == 8 and sweep.reference == reference and sweep.notes == ()
        assert sorted(sweep.runs[0].spec.losses) == ["lpips", "mse"]


def test_problems_are_raised_together(specs: Specs) -> None:
    with pytest.raises(ConfigError) as raised:
        specs.load("base: mine\nset: {train.steps: x, train.batch: y}\n", "seed=z")
    assert len(raised.value.problems) == 3


def test_a_regime_fills_in_what_nothing_sets(tmp_path: Path) -> None:
    (run,) = load(
        BASES / "ours2.yaml", ["train.regime=lean", "train.head_views=2", "init.encoder=scratch"], "paper"
    ).runs
    train = run.spec.train
    assert train.views_at_once == 1 and train.recompute.aggregator == "selective" and train.head_views == 2
    assert run.spec.model.precision.encoder == "bf16"
    (tiny,) = load(BASES / "ours2.yaml", ["train.regime=lean"], "tiny").runs
    assert tiny.spec.model.precision.encoder == "fp32", "a scale's sizes win"
    (plain,) = load(BASES / "ours2.yaml", (), "tiny").runs
    assert tiny.id == plain.id and plain.spec.train.regime == "paper"


def test_a_study_of_cost_has_an_id_for_each_switch() -> None:
    def ids(*words: str) -> set[str]:
        switches = ("train.micro_batch=4", "train.views_at_once=1", "train.recompute.head=block")
        return {load(BASES / "ours2.yaml", [*words, switch], "tiny").runs[0].id for switch in switches}

    assert len(ids()) == 1 and len(ids("study=cost")) == 3 and not ids() & ids("study=cost")
    assert ids("study=cost", "train.head_views=2") != ids("study=cost")
