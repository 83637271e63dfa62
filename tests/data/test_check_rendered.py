"""`bench.data check` on what `bench.data render` makes of meshes: no defect, unless a view is damaged afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image
from support.gobjaverse_files import view_file
from support.meshes import small_meshes
from support.paths import ROOT

from bench.data.storage.write import write_exr

SIZE, VIEW = 64, 4
SCENES = ("ball", "box", "cone")


def data(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of `python -m bench.data`."""
    command = [sys.executable, "-m", "bench.data", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    code, output = data("render", small_meshes(folder / "own"), "--out", folder / "out", "--size", str(SIZE))
    assert code == 0, output
    return folder / "out"


def squash(image: np.ndarray) -> np.ndarray:
    """Three quarters of its height, about the center: (size, size, channel) → the same shape."""
    row = (np.arange(SIZE) + 0.5 - SIZE / 2) * 4 / 3 + SIZE / 2
    inside = (row >= 0) & (row < SIZE)
    return image[np.clip(row, 0, SIZE - 1).astype(int)] * inside[:, None, None].astype(image.dtype)


def squash_picture_and_depth(folder: Path) -> None:
    picture, depth = view_file(folder, VIEW, ".png"), view_file(folder, VIEW, "_nd.exr")
    Image.fromarray(squash(np.array(Image.open(picture)))).save(picture)
    with OpenEXR.File(str(depth), separate_channels=False) as file:
        pixels = np.array(file.channels()["RGBA"].pixels)
    write_exr(depth, squash(pixels))


def swap_channels(folder: Path) -> None:
    path = view_file(folder, VIEW, ".png")
    Image.fromarray(np.array(Image.open(path))[..., [2, 1, 0, 3]]).save(path)


def test_rendered_meshes_have_no_defect(rendered: Path) -> None:
    code, output = data("check", rendered)
    assert code == 0 and "3 scenes checked, 0 with defects" in output, output


DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {  # what is done, to which scenes, its kind
    "squashed": (squash_picture_and_depth, SCENES, "reprojection"),
    "channels swapped": (swap_channels, ("ball", "box"), "channels"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_view_is_found(case: str, rendered: Path, tmp_path: Path) -> None:
    damage, scenes, kind = DAMAGES[case]
    copy = Path(shutil.copytree(rendered, tmp_path / "copy"))
    for scene in scenes:
        damage(copy / "meshes" / scene)
    code, output = data("check", copy)
    assert code == 1 and f"3 scenes checked, {len(scenes)} with defects" in output, output
    for scene in scenes:
        assert f"{kind}: meshes/{scene} view {VIEW}: " in output, output
