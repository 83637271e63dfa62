"""`data: gobjaverse`: splits, roots kept apart, broken scenes skipped and reported, a run's scenes on record."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.gobjaverse_files import LEVEL, SIZE, change_camera, scene, view_file, write_root

from bench import config as spec
from bench.common.errors import UserError
from bench.common.json_files import read_json
from bench.config.schema import RunSpec, ViewsSpec
from bench.data.sampler import Sampler
from bench.data.scene import (
    DISTINCT_VIEWS,
    LARA_VIEWS,
    SceneData,
    distinct_views,
    gobjaverse_cameras,
)
from bench.data.sources import gobjaverse
from bench.data.storage import broken
from bench.data.storage.source import StoreSource
from bench.data.storage.store import Broken
from bench.data.storage.write import write_scene
from bench.data.view_selection import exclude_inputs, lara, rig
from bench.evaluation import overfit, scene_record
from bench.evaluation.evaluate import evaluate
from bench.run import main
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training.train import train

TRAINING = tuple(f"0/1000{i}" for i in range(5))
EVALUATION = ("7/20000", "7/20001")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("raw")
    return write_root(folder / "training", TRAINING), write_root(folder / "evaluation", EVALUATION, first=50)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copy(roots: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(roots[0], tmp_path / "copy"))


def source(root: Path, size: int = SIZE, **changes: object) -> StoreSource:
    return gobjaverse.Spec(root=str(root), **changes).open(size, progress=False)  # type: ignore[arg-type]


def sampler(of: StoreSource, **views: object) -> Sampler:
    return Sampler(of, replace(ViewsSpec(choice=rig.Spec()), **views), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("every", "evaluation"), [(11, [0, 11, 22]), (10, [0, 10, 20])], ids=["paper", "LaRa"])
def test_every_eleventh_or_tenth_is_for_evaluation(every: int, evaluation: list[int]) -> None:
    names = [f"{i // 10}/{10000 + i}" for i in range(25)]
    splits = gobjaverse.split(names[::-1], every, 3, all_for_training=False)
    assert splits["evaluation"] == [names[i] for i in evaluation]
    assert len(splits["validation"]) == 3
    assert sorted(name for part in splits.values() for name in part) == names
    assert gobjaverse.split(names, every, 0, all_for_training=True)["training"] == names
    with pytest.raises(UserError, match="leave none to train on"):
        gobjaverse.split(names, every, 25, all_for_training=True)


def test_another_root_is_for_evaluation(roots: tuple[Path, Path]) -> None:
    opened = source(roots[0], evaluation_root=str(roots[1]))
    assert tuple(opened.scenes("training")) == TRAINING and tuple(opened.scenes("evaluation")) == EVALUATION
    batch = sampler(opened).evaluation(opened.scenes("evaluation"))
    assert batch.scenes == EVALUATION and batch.input_mask.any()


def test_roots_that_share_a_scene_are_refused(roots: tuple[Path, Path], copy: Path) -> None:
    with pytest.raises(UserError, match=r"5 scenes .* 0/10000 among them"):
        source(roots[0], evaluation_root=str(copy))


def test_a_scene_list(roots: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([TRAINING[3], TRAINING[1], TRAINING[1]]))
    opened = source(roots[0], scene_list=str(path), split_every=2)
    assert opened.scenes("evaluation") == [TRAINING[1]] and opened.scenes("training") == [TRAINING[3]]
    for content, message in (('["9/9"]', "lists 1 scenes .* 9/9"), ("{}", "not a JSON list"), ("[", "read as JSON")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            source(roots[0], scene_list=str(path))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.root=FOLDER"):
        gobjaverse.Spec().open(SIZE, progress=False)
    with pytest.raises(UserError, match=r"data\.evaluation_root: there is no /absent"):
        source(Path.cwd(), evaluation_root="/absent")


def test_numbers_that_make_no_sense() -> None:
    wrong = ["data=gobjaverse", "data.split_every=1", "data.validation_scenes=-1", "data.scene_views=0"]
    with pytest.raises(UserError) as caught:
        spec.load(Path("ablations/base/freesplatter.yaml"), wrong, "tiny")
    for name in ("split_every", "validation_scenes", "scene_views"):
        assert f"data.{name}: " in str(caught.value)


def test_paths_are_no_part_of_an_id_but_a_second_root_is() -> None:
    base = spec.load(Path("ablations/base/freesplatter.yaml"), ["data=gobjaverse"], "tiny").runs[0].spec

    def run_id(**changes: object) -> str:
        return spec.run_id(replace(base, data=replace(base.data, **changes)))

    assert run_id() == run_id(root="/a") == run_id(root="/b")
    assert run_id(evaluation_root="/a") == run_id(evaluation_root="/b") != run_id()
    assert len({run_id(), run_id(scene_list="/a"), run_id(version="2"), run_id(validation_scenes=3)}) == 4


def test_points_lie_on_the_surface(roots: tuple[Path, Path]) -> None:
    """L_3D's truth, from resized depth: inside the object's box, which stands before the first camera."""
    for frame in ("lara", "freesplatter"):
        batch = sampler(source(roots[0], SIZE // 2), frame=frame).training(0, range(4))
        points = batch.input_points[batch.input_mask]
        scale = 1.0 if frame == "lara" else float(2 / np.linalg.norm(scene(0).camera_to_world[0, :3, 3]))
        middle = torch.tensor([0.0, 0.0, 0.0 if frame == "lara" else 2.0])
        assert (points - middle).abs().max() < 0.45 * 3**0.5 * scale * 1.3
        assert torch.allclose(batch.input_cameras.centers[:, 0, :2], torch.zeros(4, 2), atol=1e-5)


def test_resized_views_are_decoded_once(copy: Path) -> None:
    resized = source(copy, SIZE // 2)
    first = resized.read(TRAINING[0], (0, 5))
    for view in (0, 5):
        view_file(copy / TRAINING[0], view, ".png").unlink()
    again = resized.read(TRAINING[0], (5, 0))
    assert np.array_equal(again.images[::-1], first.images) and np.array_equal(again.normals[::-1], first.normals)


def test_known_defects_are_left_out_and_reported(copy: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(copy / TRAINING[2] / LEVEL / "00030")
    before = source(copy, split_every=4)
    assert before.scenes("evaluation") == [TRAINING[0], TRAINING[4]]  # as if nothing were broken
    assert before.scenes("training") == [TRAINING[1], TRAINING[3]]
    assert "scenes broken and skipped: 1" in caplog.text and "missing view" in caplog.text
    (path,) = cache.glob("index/*/broken.csv")
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert row["scene"] == TRAINING[2] and row["kind"] == "missing view" and TRAINING[2] in row["path"]


def test_a_table_of_defects() -> None:
    defects = {
        "a": Broken("not finite", "p", "x"),
        "b": Broken("missing file", "q", "y"),
        "c": Broken("not finite", "r", "z"),
    }
    assert broken.by_kind(defects) == {"missing file": 1, "not finite": 2}
    lines = broken.table(defects).splitlines()
    assert lines[0].split()[:3] == ["1", "missing", "file"] and lines[1].endswith("a: x")


def test_a_broken_scene_is_replaced_by_the_samples_own_dice(roots: tuple[Path, Path], copy: Path) -> None:
    change_camera(copy / TRAINING[1], 7, x=[0, 0, 0])
    view_file(copy / TRAINING[3], 0, "_nd.exr").write_bytes(b"<Error/>")
    whole, draw = sampler(source(roots[0])), sampler(source(copy))
    expected, batch = whole.training(2, range(16)), draw.training(2, range(16))
    assert batch.scenes == sampler(source(copy)).training(2, range(16)).scenes
    assert TRAINING[1] in expected.scenes and TRAINING[1] not in batch.scenes
    same = [i for i in range(16) if expected.scenes[i] == batch.scenes[i]]
    assert len(same) > 4
    assert all(torch.equal(expected.targets[i], batch.targets[i]) for i in same)
    assert draw.broken[TRAINING[1]].kind == "bad camera"
    assert draw.training(2, [5]).scenes == batch.scenes[5:6]


def test_nothing_but_broken_scenes_ends_in_a_message(copy: Path) -> None:
    for name in TRAINING:
        change_camera(copy / name, 0, x=[0, 0, 0], y=[0, 0, 0], z=[0, 0, 0])
    with pytest.raises(UserError, match=r"100 scenes drawn one after another are broken.*zero camera"):
        sampler(source(copy)).training(0, [0])


def test_evaluation_continues_without_broken_scenes(copy: Path) -> None:
    view_file(copy / TRAINING[4], 0, ".png").unlink()
    draw = sampler(source(copy, split_every=2))
    names = draw.evaluation_scenes(None)
    assert [b.scenes for b in draw.evaluation_batches(names, 2)] == [(TRAINING[0], TRAINING[2])]
    assert list(draw.broken) == [TRAINING[4]]
    with pytest.raises(UserError, match="missing file"):
        draw.evaluation(names)


def few_views(count: int) -> np.ndarray:
    return gobjaverse_cameras((1.7, 1.9), (0.3, -0.05))[:count, :3, 3]


@pytest.mark.parametrize("stage", ["training", "evaluation"])
@pytest.mark.parametrize("count", [8, 9, 12, 40])
def test_targets_are_free_views_even_of_few(count: int, stage: str) -> None:
    centers = few_views(count)
    for i in range(20):
        inputs, targets = exclude_inputs.Spec().select(
            centers,
            np.arange(count) if count < 40 else np.array(LARA_VIEWS),
            inputs=4,
            targets=4,
            stage=stage,
            random=np.random.default_rng(i),  # type: ignore[arg-type]
        )
        assert len({*inputs, *targets}) == 8
        assert np.linalg.norm(centers[list(inputs)][:, None] - centers[list(targets)], axis=-1).min() > 1e-6


def test_too_few_views_end_in_a_message() -> None:
    random = np.random.default_rng(0)
    arguments = {"inputs": 4, "targets": 4, "stage": "training", "random": random}
    with pytest.raises(UserError, match="7 views has no camera left"):
        exclude_inputs.Spec().select(few_views(7), np.arange(7), **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="3 distinct cameras, fewer than the 4"):
        lara.Spec().select(few_views(3), np.arange(3), **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rig needs G-Objaverse's 40 cameras on two rings, a scene has 7"):
        rig.Spec().select(few_views(7), np.arange(7), **arguments)  # type: ignore[arg-type]


def test_forty_other_views_are_all_used(roots: tuple[Path, Path], copy: Path) -> None:
    original = source(roots[0])
    assert tuple(original.usable_views(TRAINING[0])) == LARA_VIEWS
    assert distinct_views(original, TRAINING[0]) == DISTINCT_VIEWS
    change_camera(copy / TRAINING[0], 24, origin=[1.0, 1.0, 1.0])
    assert tuple(source(copy).usable_views(TRAINING[0])) == tuple(range(40))
    other = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(UserError, match="40 others"):
        rig.Spec().select(
            other, np.arange(40), inputs=4, targets=4, stage="evaluation", random=np.random.default_rng(0)
        )


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A root of two scenes, the first 9 views of each."""
    whole = scene(3)
    part = SceneData(*(getattr(whole, name)[:9] for name in SceneData.__dataclass_fields__))
    for i in range(2):
        write_scene(part, tmp_path / "few" / "0" / str(i) / LEVEL)
    return tmp_path / "few"


def test_scenes_of_few_views_train(few: Path) -> None:
    batch = sampler(source(few, scene_views=9), choice=exclude_inputs.Spec()).training(0, range(2))
    assert batch.input_views.max() < 9


TINY = ["train.steps=2", "train.batch=2", "train.warmup_steps=1", "train.geometry_first=0", "losses.lpips=null",
        "model.encoder.width=24", "model.aggregator.blocks=1", "model.aggregator.heads=2", "model.image_size=16",
        "data=gobjaverse"]  # fmt: skip


def tiny(roots: Mapping[str, Path]) -> RunSpec:
    paths = [f"data.{name}={path}" for name, path in roots.items()]
    return spec.load(Path("ablations/base/freesplatter.yaml"), [*TINY, *paths], "tiny").runs[0].spec


def trained(of: RunSpec, folder: Path) -> RunFolder:
    opened = of.data.open(of.model.image_size, False)  # type: ignore[attr-defined]
    writer, device = PlainWriter(folder), torch.device("cpu")
    train(of, writer, device=device, source=opened)
    evaluate(of, writer, device=device, source=opened)
    return RunFolder(folder)


def test_overfitting_is_checked_on_all_views_of_scenes_with_few(few: Path, tmp_path: Path) -> None:
    settings = [*TINY, f"data.root={few}", "data.scene_views=9", "views.choice=exclude_inputs", "views.overfit=1"]
    of = spec.load(Path("ablations/base/freesplatter.yaml"), settings, "tiny").runs[0].spec
    opened = source(few, scene_views=9)
    train(of, PlainWriter(tmp_path / "run"), device=torch.device("cpu"), source=opened)
    verdict = overfit.check_overfit(of, tmp_path / "run", device=torch.device("cpu"), source=opened)
    assert np.isfinite([criterion.value for criterion in verdict.criteria]).all() and not verdict.passed


def test_a_run_records_its_scenes_and_what_was_broken(roots: tuple[Path, Path], copy: Path, tmp_path: Path) -> None:
    for name in TRAINING[1:]:
        view_file(copy / name, 0, ".json").unlink()
    evaluation = Path(shutil.copytree(roots[1], tmp_path / "evaluation"))
    change_camera(evaluation / EVALUATION[0], 3, x_fov=float("nan"))
    folder = trained(tiny({"root": copy, "evaluation_root": evaluation}), tmp_path / "run")
    recorded = folder.scenes()
    assert (
        recorded is not None and tuple(recorded["training"]) == TRAINING and tuple(recorded["evaluation"]) == EVALUATION
    )
    assert recorded["broken"] and {row["kind"] for row in recorded["broken"]} == {"missing file"}
    (result,) = folder.evaluations().values()
    assert result["scenes"] == [EVALUATION[1]]
    assert [(row["scene"], row["kind"]) for row in result["broken"]] == [(EVALUATION[0], "not finite")]


def test_a_run_does_not_change_its_scenes(roots: tuple[Path, Path], copy: Path, tmp_path: Path) -> None:
    folder = trained(tiny({"root": copy}), tmp_path / "run")
    moved = Path(shutil.move(copy, tmp_path / "moved"))

    def compare(root: Path) -> None:
        spec = tiny({"root": root})
        source = spec.data.open(16, False)  # type: ignore[attr-defined]
        scene_record.verify_unchanged(scene_record.resolve_splits(spec, source), folder, source)

    compare(moved)
    with pytest.raises(UserError, match=r"the scene list has changed.* data\.version=NAME"):
        compare(roots[1])
    one, other = sorted(path for path in moved.glob("*/*") if path.is_dir())[:2]
    one.rename(moved / "aside")
    other.rename(one)
    (moved / "aside").rename(other)
    with pytest.raises(UserError, match=r"images of scene .* have changed since run .* data\.version=NAME"):
        compare(moved)


def test_scenes_of_two_splits_are_refused(roots: tuple[Path, Path]) -> None:
    of = tiny({"root": roots[0]})
    opened = of.data.open(16, False)  # type: ignore[attr-defined]
    opened.splits["validation"] = list(opened.scenes("training")[:1])
    with pytest.raises(UserError, match="1 scenes are in training and in validation"):
        scene_record.resolve_splits(of, opened)


@pytest.mark.long
def test_the_command_on_real_files(roots: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Trained on one root, evaluated on the other; the same runs asked for with other data are refused."""
    command = ["ablations/base/freesplatter.yaml", *TINY, "--results", str(tmp_path / "results"), "--threads", "1"]
    paths = [f"data.root={roots[0]}", f"data.evaluation_root={roots[1]}"]
    assert main([*command, *paths]) == 0
    (run,) = (tmp_path / "results" / "runs").iterdir()
    assert read_json(run / "scenes.json")["evaluation"] == list(EVALUATION)
    with pytest.raises(UserError, match="was started with 5 training scenes"):
        main([*command, f"data.root={roots[1]}", f"data.evaluation_root={roots[0]}"])
