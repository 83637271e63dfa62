"""Procedural scenes, the choice of views, the frame and the sampler."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bench.run
from bench.common.errors import UserError
from bench.config.schema import ViewsSpec
from bench.data.batch import Batch
from bench.data.procedural.generator import generate
from bench.data.sampler import Sampler, batches
from bench.data.scene import (
    LARA_VIEWS,
    SPLITS,
    VIEWS,
    SceneData,
    gobjaverse_cameras,
)
from bench.data.sources import procedural
from bench.data.view_selection import exclude_inputs, lara, rig

SIZE = 24
CHOICES = [rig.Spec(), lara.Spec(), exclude_inputs.Spec()]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> procedural.Procedural:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EAD_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        spec = procedural.Spec(training_scenes=6, validation_scenes=2, evaluation_scenes=3)
        return spec.open(SIZE, progress=False)


@pytest.fixture(scope="module")
def scene() -> SceneData:
    return generate(0, "training", 1, 64)


def sampler(source: procedural.Procedural, **views: object) -> Sampler:
    return Sampler(source, replace(ViewsSpec(choice=rig.Spec()), **views), seed=0)  # type: ignore[arg-type]


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    first = generate(0, "training", 3, 16)
    assert np.array_equal(first.images, generate(0, "training", 3, 16).images)
    for other in (generate(1, "training", 3, 16), generate(0, "evaluation", 3, 16), generate(0, "training", 4, 16)):
        assert not np.array_equal(first.images, other.images)


def test_splits_share_no_scene(source: procedural.Procedural) -> None:
    scenes = [scene for split in SPLITS for scene in source.scenes(split)]
    assert len(scenes) == len(set(scenes)) == 11


def test_cameras_follow_gobjaverse() -> None:
    poses = gobjaverse_cameras((1.7, 1.9), (0.3, -0.05))
    centers = poses[:, :3, 3]
    assert len(poses) == VIEWS
    assert np.allclose(poses[24], poses[0]) and np.allclose(poses[39], poses[27])
    assert np.allclose(np.linalg.norm(centers[:27], axis=1), 1.7) and np.allclose(
        np.linalg.norm(centers[27:], axis=1), 1.9
    )
    assert np.allclose(centers[25], [0, 0, 1.7]) and np.allclose(centers[26], [0, 0, -1.7])
    assert np.allclose(np.degrees(np.arctan2(centers[1, 1], centers[1, 0])), 15)
    rotations = poses[:, :3, :3]
    assert np.allclose(rotations.transpose(0, 2, 1) @ rotations, np.eye(3)) and np.allclose(np.linalg.det(rotations), 1)
    # the first camera of a real G-Objaverse scene: right, down and forward axes for a center in the x-z plane
    real = gobjaverse_cameras((1.789220667, 1.0), (np.arcsin(0.414336349 / 1.789220667), 0.0))[0]
    assert np.allclose(real[:3, 0], [0, 1, 0]) and np.allclose(real[:3, 1], [0.231573707, 0, -0.972817361], atol=1e-6)


def test_longest_side_of_the_object_is_gobjaverses(scene: SceneData) -> None:
    points = surface(scene, range(VIEWS))
    extent = points.max(0) - points.min(0)
    assert 0.85 < extent.max() < 0.93


def test_depth_and_color_agree_between_views(scene: SceneData) -> None:
    """Points of one view, projected into its neighbor, meet the neighbor's depth and color where it sees them."""
    differences, colors = [], []
    for a, b in ((0, 1), (5, 4), (30, 31)):
        points, color = surface(scene, [a]), scene.images[a][inside(scene, a)][:, :3].astype(float)
        pose, k = np.linalg.inv(scene.camera_to_world[b]), scene.intrinsics[b]
        local = points @ pose[:3, :3].T + pose[:3, 3]
        pixel = local @ k.T
        column, row = (np.floor(pixel[:, i] / pixel[:, 2]).astype(int).clip(0, 63) for i in (0, 1))
        step = scene.depth[b][row, column] - local[:, 2]
        visible = inside(scene, b)[row, column] & (np.abs(step) < 0.05)
        assert visible.mean() > 0.5
        differences.append(np.abs(step[visible]))
        colors.append(np.abs(scene.images[b][row, column][visible][:, :3] - color[visible]).mean(-1))
    assert np.median(np.concatenate(differences)) < 0.006  # a pixel is 0.02 wide
    assert np.median(np.concatenate(colors)) < 12


def inside(scene: SceneData, view: int) -> np.ndarray:
    return scene.images[view, ..., 3] == 255


def surface(scene: SceneData, views: object) -> np.ndarray:
    """World points of fully covered pixels."""
    points = []
    for view in views:  # type: ignore[attr-defined]
        row, column = np.nonzero(inside(scene, view))
        k, z = scene.intrinsics[view], scene.depth[view][row, column]
        local = np.stack([(column + 0.5 - k[0, 2]) / k[0, 0] * z, (row + 0.5 - k[1, 2]) / k[1, 1] * z, z], -1)
        pose = scene.camera_to_world[view]
        points.append(local @ pose[:3, :3].T + pose[:3, 3])
    return np.concatenate(points)


def test_cache_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    spec = procedural.Spec(training_scenes=1, validation_scenes=1, evaluation_scenes=1)
    source = spec.open(8, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in source.folder.iterdir()}
    (source.folder / ".training-00001-left-by-a-crash").mkdir()
    wider = replace(spec, training_scenes=17).open(8, progress=False)
    assert {name: (wider.folder / name).stat().st_mtime_ns for name in before} == before
    assert wider.read("training/00016", [0]).images.shape == (1, 8, 8, 4)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.name)
def test_a_choice_is_valid_and_fixed_in_evaluation(choice: lara.Spec) -> None:
    centers = gobjaverse_cameras((1.7, 1.9), (0.3, -0.05))[:, :3, 3]
    draws = [
        choice.select(
            centers, np.array(LARA_VIEWS), inputs=4, targets=4, stage="training", random=np.random.default_rng(i)
        )
        for i in range(20)
    ]
    assert all(set(inputs + targets) <= set(LARA_VIEWS) for inputs, targets in draws)
    assert all(len(set(inputs)) == len(set(targets)) == 4 for inputs, targets in draws)
    assert len(set(draws)) > 10
    fixed = {
        choice.select(
            centers, np.array(LARA_VIEWS), inputs=4, targets=4, stage="evaluation", random=np.random.default_rng(i)
        )
        for i in range(3)
    }
    assert len(fixed) == 1


def test_only_lara_lets_a_target_be_an_input() -> None:
    centers = gobjaverse_cameras((1.7, 1.9), (0.3, -0.05))[:, :3, 3]

    def overlaps(choice: lara.Spec) -> int:
        draws = (
            choice.select(
                centers, np.array(LARA_VIEWS), inputs=4, targets=4, stage="training", random=np.random.default_rng(i)
            )
            for i in range(100)
        )
        return sum(np.linalg.norm(centers[list(i)][:, None] - centers[list(t)], axis=-1).min() < 1e-6 for i, t in draws)

    assert overlaps(lara.Spec()) > 10
    assert overlaps(exclude_inputs.Spec()) == overlaps(rig.Spec()) == 0  # type: ignore[arg-type]


def test_inputs_of_a_rig_are_a_quarter_turn_apart(source: procedural.Procedural) -> None:
    views = sampler(source).training(0, range(8)).input_views
    assert ((views[:, 1:] - views[:, :-1]) % 24 == 6).all()
    assert len(views[:, 0].unique()) > 1


def test_training_can_render_fewer_targets_than_evaluation(source: procedural.Procedural) -> None:
    views = ViewsSpec(rig.Spec(), inputs=4, targets=4, training_targets=2)
    fewer, all_of_them = Sampler(source, views, 0), Sampler(source, replace(views, training_targets=None), 0)
    assert fewer.training(0, range(2)).targets.shape[1] == 2
    ours, theirs = (sampler.evaluation(sampler.evaluation_scenes(2)) for sampler in (fewer, all_of_them))
    assert torch.equal(ours.targets, theirs.targets) and ours.targets.shape[1] == 4


def test_inputs_of_a_rig_can_stand_closer(source: procedural.Procedural) -> None:
    views = ViewsSpec(rig.Spec(spacing=30), inputs=3, targets=2)
    chosen = Sampler(source, views, 0).training(0, range(8)).input_views
    assert ((chosen[:, 1:] - chosen[:, :-1]) % 24 == 2).all()
    problems = {spacing: [p.message for p in rig.Spec(spacing=spacing).problems(4)] for spacing in (20, 0, 105, 90)}
    assert all("multiple of ring 1's 15 degrees" in problems[spacing][0] for spacing in (20, 0))
    assert "more than once" in problems[105][0] and not problems[90]


@pytest.mark.parametrize("frame", ["lara", "freesplatter"])
def test_points_project_to_their_pixels(source: procedural.Procedural, frame: str) -> None:
    batch = sampler(source, frame=frame).training(0, range(3))
    first = batch.input_cameras.world_to_camera[:, 0]
    assert torch.allclose(first[:, :3, :3], torch.eye(3).expand(3, 3, 3), atol=1e-6)
    center = batch.input_cameras.centers[:, 0]
    assert torch.allclose(center[:, :2], torch.zeros(3, 2), atol=1e-6)
    if frame == "freesplatter":  # the camera is the origin; all look at the object's center
        assert torch.allclose(first, torch.eye(4).expand(3, 4, 4), atol=1e-6)
        object_center = torch.tensor([0.0, 0.0, 2.0, 1.0])
        centers = torch.einsum("bvij,j->bvi", batch.input_cameras.world_to_camera, object_center)
        assert torch.allclose(centers[..., :2], torch.zeros(3, centers.shape[1], 2), atol=1e-5)
    else:
        assert (center[:, 2] < -1).all()
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    local = transform(batch, batch.input_points)
    pixel = torch.einsum("bvij,bvhwj->bvhwi", batch.input_cameras.intrinsics, local)
    error = pixel[..., :2] / pixel[..., 2:] - torch.stack([x, y], -1)
    assert error[batch.input_mask].abs().max() < 1e-3
    assert (batch.input_points[~batch.input_mask] == 0).all() and batch.input_mask.any()


def transform(batch: Batch, points: torch.Tensor) -> torch.Tensor:
    camera = batch.input_cameras.world_to_camera
    return torch.einsum("bvij,bvhwj->bvhwi", camera[..., :3, :3], points) + camera[..., None, None, :3, 3]


def test_a_sample_depends_on_seed_step_and_index_alone(source: procedural.Procedural) -> None:
    draw = sampler(source)
    whole = draw.training(5, range(6))
    for i in range(6):
        alone = draw.training(5, [i])
        assert alone.scenes == whole.scenes[i : i + 1]
        assert torch.equal(alone.targets[0], whole.targets[i])
        assert torch.equal(alone.input_points[0], whole.input_points[i])
    ahead = list(batches(draw, range(3, 7), range(6)))
    assert torch.equal(ahead[2].targets, whole.targets) and len(ahead) == 4


def test_backgrounds(source: procedural.Procedural) -> None:
    batch = sampler(source, background="random_gray").training(0, range(12))
    assert set(batch.background.unique().tolist()) == {0.0, 0.5, 1.0}
    empty = batch.target_alpha == 0
    backgrounds = batch.targets.mean(2)[empty]
    assert torch.allclose(backgrounds, batch.background.mean(-1)[..., None, None].expand_as(empty)[empty], atol=1e-6)
    assert (sampler(source).training(0, range(4)).background == 1).all()


def test_overfitting_sees_fixed_views_of_the_first_scenes(source: procedural.Procedural) -> None:
    draw = sampler(source, overfit=2)
    first, later = draw.training(0, range(2)), draw.training(9, range(2))
    assert first.scenes == later.scenes == tuple(source.scenes("training")[:2])
    assert torch.equal(first.target_views, later.target_views)
    assert list(draw.evaluation_scenes(3)) == list(first.scenes)
    assert torch.equal(draw.evaluation(first.scenes).targets, first.targets)


def test_micro_batches_are_slices(source: procedural.Procedural) -> None:
    whole = sampler(source).training(0, range(4))
    part = whole.scenes_at(1, 3)
    assert part.scenes == whole.scenes[1:3]
    assert torch.equal(part.inputs.images, whole.inputs.images[1:3])
    assert torch.equal(part.target_cameras.world_to_camera, whole.target_cameras.world_to_camera[1:3])


def test_clusters_do_not_depend_on_threads() -> None:
    """Cameras on rings tie: K-means on two threads would add in another order and choose other clusters."""
    code = (
        "import numpy as np; from bench.data.view_selection import clusters\n"
        "from bench.data.scene import LARA_VIEWS, gobjaverse_cameras\n"
        "radii = np.random.default_rng(0).uniform(1.6, 2.0, (30, 2))\n"
        "for r in radii:\n"
        " centers = gobjaverse_cameras(tuple(r), (.3, -.05))[:, :3, 3]\n"
        " print([c.tolist() for c in clusters(centers, np.array(LARA_VIEWS), 4)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": threads}, capture_output=True, check=True
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert len(outputs) == 1 and outputs.pop().count(b"\n") == 30


@pytest.mark.parametrize("name", ["training_scenes", "validation_scenes", "evaluation_scenes", "seed"])
def test_negative_numbers_of_scenes_are_refused_in_the_dry_run(tmp_path: Path, name: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"base: freesplatter\nset:\n  data.{name}: -3\n")
    with pytest.raises(UserError, match=rf"{spec.name}:3: data\.{name}: -3 is too small: at least"):
        bench.run.main([str(spec), "--dry-run"])
