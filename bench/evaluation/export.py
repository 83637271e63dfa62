"""Files for viewers and other tools: a scene's predicted Gaussians, its cameras and pictures, depth, and a turntable.

Frame: that of `views.frame` (default `lara`: the axes of the first input camera, OpenCV's x right, y down, z forward;
origin at the object's center; no rescaling). No axis is vertical in it; `up_axis` estimates the vertical from the
cameras, and transforms.json holds it as "up".

gaussians.ply     the layout of INRIA's 3D Gaussian Splatting (graphdeco-inria/gaussian-splatting: `save_ply` of
                  scene/gaussian_model.py): opacity as logit, scales as logarithms, rotation wxyz, harmonics by channel
sparse/0/*.txt    COLMAP's text model: PINHOLE cameras, world to camera, OpenCV axes, pixel centers at +0.5
transforms.json   nerfstudio's: camera to world with OpenGL axes (x right, y up, z backward), per-frame intrinsics
images/*.png      input and target views, to which the cameras belong
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

import models
from bench import config
from bench.common.errors import UserError
from bench.data.batch import Batch
from bench.data.sampler import Sampler, open_source
from bench.evaluation.samples import pixels
from bench.rendering import render
from bench.runs.folder import RunFolder
from bench.runtime import numerics
from models.published import WeightsError
from models.tensors import Cameras, Gaussians

CPU = torch.device("cpu")
EPSILON = 1e-6  # of opacities and scales, whose logit and logarithm must be finite
TURNTABLE_FRAMES, FRAMES_PER_S, TURNTABLE_SIZE = 60, 20, 256
FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV's camera axes ↔ OpenGL's


@torch.no_grad()
def predict_scene(run: Path, scene: str | None = None) -> tuple[Batch, Gaussians]:
    """An evaluation scene (default: the first), and the Gaussians that a trained run predicts for it, on the CPU.

    Raises UserError for a scene that does not exist or is broken, and for models whose output is not Gaussians.
    """
    try:
        model = models.load(run)
    except WeightsError as error:
        raise UserError(str(error)) from error
    spec = config.from_dict(RunFolder(run).spec())
    numerics.configure(CPU, numerics.EVALUATION_PRECISION, spec.seed)
    sampler = Sampler(open_source(spec.data, spec.model.image_size), spec.views, spec.seed, spec.model.known)
    scenes = list(sampler.evaluation_scenes(None))
    if scene is not None and scene not in scenes:
        raise UserError(
            f"--scene {scene}: no evaluation scene; there are {len(scenes)}, such as {', '.join(scenes[:3])}"
        )
    batch = next(sampler.evaluation_batches([scene or scenes[0]], 1), None)
    if batch is None:
        raise UserError(f"scene {scene or scenes[0]} is broken: {next(iter(sampler.broken.values()))}")
    output = model(batch.inputs)
    if not isinstance(output, Gaussians):
        raise UserError(f"{run}: the model's output is {type(output).__name__}; only Gaussians can be exported")
    return batch, output.flat()


def write_ply(gaussians: Gaussians, path: Path) -> None:
    """The Gaussians of one scene, (1, gaussian, …), in INRIA's binary PLY."""
    count, coefficients = gaussians.means.shape[1], gaussians.harmonics.shape[-2]
    opacities = gaussians.opacities[0].double().clamp(EPSILON, 1 - EPSILON)
    channels_first = gaussians.harmonics[0].transpose(-1, -2)  # (gaussian, 3, coefficient)
    columns = {
        **dict(zip("xyz", gaussians.means[0].unbind(-1), strict=True)),
        **{name: torch.zeros(count) for name in ("nx", "ny", "nz")},
        **{f"f_dc_{i}": channels_first[:, i, 0] for i in range(3)},
        **{f"f_rest_{i}": channels_first[:, :, 1:].flatten(1)[:, i] for i in range(3 * (coefficients - 1))},
        "opacity": torch.logit(opacities),
        **{f"scale_{i}": gaussians.scales[0, :, i].clamp(min=EPSILON).log() for i in range(3)},
        **{f"rot_{i}": torch.nn.functional.normalize(gaussians.rotations[0], dim=-1)[:, i] for i in range(4)},
    }
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in columns]
    table = torch.stack([column.float() for column in columns.values()], -1).cpu().numpy().astype("<f4")
    path.write_bytes("\n".join([*header, "end_header\n"]).encode() + table.tobytes())


def write_cameras(batch: Batch, folder: Path) -> None:
    """Pictures of the first scene's input and target views, and their cameras as COLMAP text and transforms.json."""
    views = [
        (f"{kind}_{i}.png", image, camera, intrinsics)
        for kind, images, cameras in (
            ("input", batch.inputs.images, batch.input_cameras), ("target", batch.targets, batch.target_cameras)
        )
        for i, (image, camera, intrinsics) in enumerate(
            zip(pixels(images[0]), _array(cameras.world_to_camera[0]), _array(cameras.intrinsics[0]), strict=True)
        )
    ]  # fmt: skip
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "sparse" / "0").mkdir(parents=True, exist_ok=True)
    width, height = batch.input_cameras.width, batch.input_cameras.height
    camera_lines, image_lines, frames = [], [], []
    for number, (name, image, world_to_camera, intrinsics) in enumerate(views, 1):
        Image.fromarray(image).save(folder / "images" / name)
        fx, fy, cx, cy = (float(intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        x, y, z, w = Rotation.from_matrix(world_to_camera[:3, :3]).as_quat()
        camera_lines.append(f"{number} PINHOLE {width} {height} {fx} {fy} {cx} {cy}")
        translation = " ".join(map(str, world_to_camera[:3, 3]))
        image_lines += [f"{number} {w} {x} {y} {z} {translation} {number} {name}", ""]  # a line of 2D points: none
        camera_to_world = np.linalg.inv(world_to_camera) @ FLIP_YZ
        frame = {"file_path": f"images/{name}", "w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
        frames.append(frame | {"transform_matrix": camera_to_world.tolist()})
    for name, lines in (("cameras", camera_lines), ("images", image_lines), ("points3D", [])):
        (folder / "sparse" / "0" / f"{name}.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    content = {"camera_model": "OPENCV", "up": up_axis(batch).tolist(), "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def up_axis(batch: Batch) -> NDArray[np.float64]:
    """(3,), a unit vector in the scene's frame: the mean of the cameras' own upward axes."""
    cameras = torch.cat([batch.input_cameras.world_to_camera[0], batch.target_cameras.world_to_camera[0]])
    up = -_array(cameras)[:, 1, :3].mean(0)
    return np.asarray(up / np.linalg.norm(up))


@torch.no_grad()
def write_depth(gaussians: Gaussians, batch: Batch, folder: Path) -> None:
    """depth/target_<i>.npy: expected depth of each target view along its optical axis, float32, 0 in the background."""
    folder.mkdir(parents=True, exist_ok=True)
    depths = render(gaussians, batch.target_cameras, batch.background).depth[0]
    for i, depth in enumerate(depths):
        np.save(folder / f"target_{i}.npy", depth.float().cpu().numpy())


def turntable_cameras(batch: Batch, size: int = TURNTABLE_SIZE, count: int = TURNTABLE_FRAMES) -> Cameras:
    """(1, count) cameras: the first input camera, turned about the object's center around `up_axis`; its pictures are
    `size` pixels wide and high."""
    first = batch.input_cameras
    centers = _array(first.centers[0])
    axes = _array(first.world_to_camera[0])[:, 2, :3]  # viewing directions
    projectors = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    target = np.linalg.lstsq(projectors.sum(0), (projectors @ centers[:, :, None]).sum(0)[:, 0], rcond=None)[0]
    poses = []
    for angle in np.arange(count) * 2 * math.pi / count:
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_rotvec(angle * up_axis(batch)).as_matrix()
        turn[:3, 3] = target - turn[:3, :3] @ target
        poses.append(_array(first.world_to_camera[0, 0]) @ turn)
    world_to_camera = torch.from_numpy(np.stack(poses)).float()[None]
    scale = torch.tensor([size / first.width, size / first.height, 1.0])[:, None]
    intrinsics = (first.intrinsics[:, :1].cpu() * scale).expand(-1, count, -1, -1)
    return Cameras(world_to_camera, intrinsics, size, size)


@torch.no_grad()
def turntable(gaussians: Gaussians, batch: Batch, size: int = TURNTABLE_SIZE) -> Iterator[NDArray[np.uint8]]:
    """TURNTABLE_FRAMES pictures (size, size, 3) around the object, on white."""
    cameras = turntable_cameras(batch, size)
    for i in range(TURNTABLE_FRAMES):
        view = Cameras(cameras.world_to_camera[:, [i]], cameras.intrinsics[:, [i]], cameras.height, cameras.width)
        yield pixels(render(gaussians, view, torch.ones(1, 1, 3)).rgb[0])[0]


def write_video(frames: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """A GIF, or an MP4 by ffmpeg. Raises UserError for other suffixes, and for MP4 without ffmpeg."""
    if path.suffix == ".gif":
        first, *others = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=others, duration=1000 // FRAMES_PER_S, loop=0)
        return
    check_video_path(path)
    height, width = frames[0].shape[:2]
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
               "-r", str(FRAMES_PER_S), "-i", "-", "-pix_fmt", "yuv420p", str(path)]  # fmt: skip
    done = subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), capture_output=True)
    if done.returncode:
        raise UserError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")


def check_video_path(path: Path) -> None:
    """Raises UserError unless `write_video` can write this kind of file here."""
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"{path}: the turntable is a .gif or an .mp4 file")
    if path.suffix == ".mp4" and not shutil.which("ffmpeg"):
        raise UserError(f"{path}: MP4 needs ffmpeg, which is not on PATH: install it, or write a .gif file")


def _array(values: Float[Tensor, "*shape"]) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
