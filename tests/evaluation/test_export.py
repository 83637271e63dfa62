"""Exported files, read back by independent readers: the Gaussians give the model's pictures in the exported cameras."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from support.commands import SPEC

import bench.export
from bench.common.errors import UserError
from bench.config import load, to_dict
from bench.evaluation.export import predict_scene
from bench.execution.launcher import Task, prepare_run_folder
from bench.rendering import render
from bench.runs.folder import RunFolder
from models import weights
from models.tensors import Cameras, Gaussians


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an untrained model, whose Gaussians vary enough."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sweep.yaml").write_text(SPEC)
    run = load(folder / "sweep.yaml").runs[0]
    task = Task(RunFolder(folder / "runs" / run.id), run.label, to_dict(run.spec))
    prepare_run_folder(task)
    model = run.spec.model.build(0)
    weights.save_spec(model, task.folder.path / weights.SPEC_FILE)
    weights.save_weights(model, task.folder.path / weights.WEIGHTS_FILE)
    return task.folder.path


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert (
        bench.export.main(
            [str(run), "--out", str(out), "--depth", "--turntable", str(out / "turn.gif"), "--size", "64"]
        )
        == 0
    )
    return out


def read_ply(path: Path) -> Gaussians:
    """By trimesh, then by the formulas of INRIA's `load_ply`."""
    data = trimesh.load(path).metadata["_ply_raw"]["vertex"]["data"]

    def columns(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(data[name]).reshape(-1) for name in names], -1)).float()[None]

    coefficients = sum(name.startswith("f_rest_") for name in data.dtype.names)
    dc = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, :, None]
    others = (
        columns(*(f"f_rest_{i}" for i in range(coefficients))).unflatten(-1, (3, -1)).mT
        if coefficients
        else dc[:, :, :0]
    )
    return Gaussians(
        means=columns("x", "y", "z"),
        rotations=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        scales=columns("scale_0", "scale_1", "scale_2").exp(),
        opacities=columns("opacity").sigmoid()[..., 0],
        harmonics=torch.cat([dc, others], 2),
    )


def rotation(w: float, x: float, y: float, z: float) -> list[list[float]]:
    """COLMAP's quaternion as a matrix."""
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def read_colmap(folder: Path) -> dict[str, tuple[np.ndarray, list[float]]]:
    """{picture: (world to camera, [width, height, fx, fy, cx, cy])}."""
    cameras = {line.split()[0]: line.split() for line in (folder / "cameras.txt").read_text().splitlines()}
    assert all(words[1] == "PINHOLE" for words in cameras.values())
    poses = {}
    for line in (folder / "images.txt").read_text().splitlines()[::2]:
        words = line.split()
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation(*map(float, words[1:5])), list(map(float, words[5:8]))
        poses[words[9]] = pose, list(map(float, cameras[words[8]][2:]))
    return poses


def test_the_exported_gaussians_in_the_exported_cameras_are_the_models_pictures(run: Path, exported: Path) -> None:
    batch, gaussians = predict_scene(run)
    pose, (width, height, fx, fy, cx, cy) = read_colmap(exported / "sparse" / "0")["target_1.png"]
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])[None, None]
    camera = Cameras(torch.from_numpy(pose).float()[None, None], intrinsics, int(height), int(width))
    ours = render(gaussians, batch.target_cameras, batch.background)
    theirs = render(read_ply(exported / "gaussians.ply"), camera, batch.background[:, 1:2])
    assert float(ours.alpha[0, 1].max()) > 0.1
    torch.testing.assert_close(theirs.rgb[0, 0], ours.rgb[0, 1], atol=1e-3, rtol=0)
    depth = torch.from_numpy(np.load(exported / "depth" / "target_1.npy"))
    torch.testing.assert_close(depth, ours.depth[0, 1], atol=1e-5, rtol=0)
    picture = np.asarray(Image.open(exported / "images" / "target_1.png"))
    np.testing.assert_allclose(picture / 255, batch.targets[0, 1].permute(1, 2, 0), atol=0.003)


def test_transforms_json_agrees_with_colmap(exported: Path) -> None:
    """OpenGL axes: a point in front of the camera has a negative z, one above a positive y."""
    content, colmap = json.loads((exported / "transforms.json").read_text()), read_colmap(exported / "sparse" / "0")
    assert {frame["file_path"] for frame in content["frames"]} == {f"images/{name}" for name in colmap}
    for frame in content["frames"]:
        pose, (width, height, *focal) = colmap[Path(frame["file_path"]).name]
        assert [frame[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")] == [width, height, *focal]
        point = np.linalg.inv(pose) @ [0.1, -0.2, 2.0, 1.0]  # right, above, in front
        np.testing.assert_allclose(np.linalg.inv(frame["transform_matrix"]) @ point, [0.1, 0.2, -2.0, 1.0], atol=1e-6)
    assert np.linalg.norm(content["up"]) == pytest.approx(1)


def test_the_turntable_begins_at_the_first_input_camera(run: Path, exported: Path) -> None:
    batch, gaussians = predict_scene(run)
    movie = Image.open(exported / "turn.gif")
    assert movie.n_frames == 60 and movie.size == (64, 64)  # type: ignore[attr-defined]
    first = np.asarray(movie.convert("RGB").resize((32, 32), Image.Resampling.BOX)) / 255
    background = torch.ones(1, batch.inputs.images.shape[1], 3)
    expected = render(gaussians, batch.input_cameras, background).rgb[0, 0].clamp(0, 1).permute(1, 2, 0)
    assert np.abs(first - expected.numpy()).mean() < 0.03  # 256 colors


def test_bad_requests_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for options, text in (
        (["--scene", "nowhere"], "--scene nowhere: no evaluation scene; there are 16, such as"),
        (["--turntable", "a.avi"], "a .gif or an .mp4"),
        (["--turntable", "a.mp4"], "needs ffmpeg"),
        (["--size", "65"], "an even number of pixels"),
    ):
        with pytest.raises(UserError, match=text):
            bench.export.main([str(run), *options])
    with pytest.raises(UserError, match=r"holds no model\.json: it is not the folder of a run"):
        bench.export.main([str(tmp_path)])
