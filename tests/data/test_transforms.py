"""GSO as LaRa publishes it, OmniObject3D as its authors do: the same scene in three forms is the same scene."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image
from rich.console import Console
from support.gobjaverse_files import XML, scene

from bench.common.errors import UserError
from bench.config import load
from bench.config.schema import ViewsSpec
from bench.data.checks.check import check
from bench.data.sampler import Sampler
from bench.data.scene import VIEWS, SceneData, distinct_views
from bench.data.sources import gso, omniobject3d
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import pack
from bench.data.storage.store import Broken
from bench.data.storage.transforms import TransformsSpec
from bench.data.view_selection import lara

SIZE, FAR = 24, 65504.0
OBJECT = scene(1, SIZE)
BACKGROUND = OBJECT.images[..., 3] == 0


def frames(unit: float, name: str, intrinsics: bool) -> list[dict[str, object]]:
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    entries = []
    for i, pose in enumerate(OBJECT.camera_to_world):
        matrix = pose @ flip
        matrix[:3, 3] /= unit
        more = {"intrinsic_matrix": OBJECT.intrinsics[i].tolist()} if intrinsics else {}
        entries.append({"file_path": name.format(i), "transform_matrix": matrix.tolist()} | more)
    return entries


def write_json(folder: Path, content: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms.json").write_text(json.dumps(content))


def write_gso(root: Path, name: str = "Mug") -> Path:
    """PFM rows run from the bottom; background is infinitely far."""
    folder = root / name
    write_json(folder, {"frames": frames(1.0, "./somewhere/else/{:d}.png", intrinsics=True)})
    (folder / "depth").mkdir()
    for i in range(VIEWS):
        Image.fromarray(OBJECT.images[i]).save(folder / f"r_{i:03d}.png")
        depth = np.where(BACKGROUND[i], np.inf, OBJECT.depth[i]).astype("<f4")
        content = f"Pf\n{SIZE} {SIZE}\n-1.0\n".encode() + depth[::-1].tobytes()
        (folder / "depth" / f"r_{i:03d}.pfm").write_bytes(content)
    return folder


def write_omniobject3d(root: Path, name: str = "mug_001") -> Path:
    folder = root / name / "render"
    write_json(folder, {"camera_angle_x": float(OBJECT.field_of_view[0]), "frames": frames(0.45, "r_{:d}", False)})
    for part in ("images", "depths"):
        (folder / part).mkdir()
    for i in range(VIEWS):
        Image.fromarray(OBJECT.images[i]).save(folder / "images" / f"r_{i}.png")
        depth = np.where(BACKGROUND[i], FAR, OBJECT.depth[i] / 0.45).astype(np.float32)
        with OpenEXR.File({"type": OpenEXR.scanlineimage}, {"V": depth}) as file:
            file.write(str(folder / "depths" / f"r_{i}_depth.exr"))
    return folder


def write_24_views(root: Path, name: str = "mug_001") -> Path:
    folder = root / "mug" / name
    write_json(folder, {"camera_angle_x": float(OBJECT.field_of_view[0]), "frames": frames(0.45, "{:03d}", False)[:24]})
    for i in range(24):
        Image.fromarray(OBJECT.images[i]).save(folder / f"{i:03d}.png")
    return folder


FORMS: dict[str, tuple[type[TransformsSpec], Callable[[Path], Path], str]] = {
    "gso": (gso.Spec, write_gso, "Mug"),
    "omniobject3d": (omniobject3d.Spec, write_omniobject3d, "mug_001"),
    "24 views": (omniobject3d.Spec, write_24_views, "mug/mug_001"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_scene(form: str, tmp_path: Path) -> None:
    spec, write, name = FORMS[form]
    write(tmp_path)
    source = spec(root=str(tmp_path)).open(SIZE)
    assert source.scenes("evaluation") == [name] and not source.scenes("training")
    views = (0, 7, 23)
    data = source.read(name, views)
    assert np.array_equal(data.images, OBJECT.images[list(views)])
    assert np.allclose(data.camera_to_world, OBJECT.camera_to_world[list(views)])
    assert np.allclose(data.field_of_view, OBJECT.field_of_view[0])
    expected = np.zeros_like(OBJECT.depth) if form == "24 views" else np.where(BACKGROUND, 0, OBJECT.depth)
    assert np.allclose(data.depth, expected[list(views)], atol=1e-5)
    assert source.camera_centers(name).shape == (24 if form == "24 views" else VIEWS, 3)


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_laras_protocol(form: str, tmp_path: Path) -> None:
    spec, write, name = FORMS[form]
    write(tmp_path)
    batch = Sampler(spec(root=str(tmp_path)).open(SIZE // 2), ViewsSpec(choice=lara.Spec()), seed=0).evaluation([name])
    assert batch.inputs.images.shape == (1, 4, 3, SIZE // 2, SIZE // 2)
    if form == "24 views":
        assert not batch.input_mask.any()  # no depth, so no points
        return
    pixel = torch.einsum("bvij,bvhwj->bvhwi", batch.input_cameras.world_to_camera[..., :3, :3], batch.input_points)
    depth = pixel[..., 2] + batch.input_cameras.world_to_camera[..., 2, 3, None, None]
    y, x = torch.meshgrid(torch.arange(SIZE // 2) + 0.5, torch.arange(SIZE // 2) + 0.5, indexing="ij")
    shift = batch.input_cameras.world_to_camera[:, :, None, None, :3, 3]
    image = torch.einsum("bvij,bvhwj->bvhwi", batch.input_cameras.intrinsics, pixel + shift)
    error = image[..., :2] / depth[..., None] - torch.stack([x, y], -1)
    assert error[batch.input_mask].abs().max() < 1e-3 and batch.input_mask.any()


def test_views_that_gobjaverse_leaves_out_or_repeats_are_used(tmp_path: Path) -> None:
    """Its rule belongs to its own data: LaRa takes all cameras of GSO, whatever the rig."""
    write_gso(tmp_path)
    settings = ["data=gso", f"data.root={tmp_path}", "views.choice=lara", "views.inputs=1", "views.targets=38"]
    (run,) = load(Path("ablations/base/freesplatter.yaml"), settings).runs
    source = run.spec.data.open(SIZE, False)  # type: ignore[attr-defined]
    assert distinct_views(source, "Mug") == 38  # of 40: two repeat others
    batch = Sampler(source, run.spec.views, seed=0).evaluation(["Mug"])
    assert {25, 26} <= set(batch.target_views[0].tolist())  # top and bottom


def test_some_may_be_for_training(tmp_path: Path) -> None:
    for i in range(3):
        write_24_views(tmp_path, f"mug_00{i}")
    source = omniobject3d.Spec(root=str(tmp_path), split_every=2).open(SIZE)
    assert source.scenes("evaluation") == ["mug/mug_000", "mug/mug_002"] and source.scenes("training") == [
        "mug/mug_001"
    ]


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][5] |= changes
    path.write_text(json.dumps(content))


SHIFTED = (OBJECT.intrinsics[0] + np.array([[0, 0, 5], [0, 0, 0], [0, 0, 0]])).tolist()
DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no picture": ("missing file", lambda f: (f / "r_005.png").unlink()),
    "no first picture": ("missing file", lambda f: (f / "r_000.png").unlink()),
    "xml as picture": ("failed download", lambda f: (f / "r_005.png").write_bytes(XML)),
    "xml as json": ("failed download", lambda f: (f / "transforms.json").write_bytes(XML)),
    "half a json": ("truncated", lambda f: (f / "transforms.json").write_text('{"frames": [')),
    "no frames": ("missing view", lambda f: (f / "transforms.json").write_text('{"frames": []}')),
    "half a depth": ("truncated", lambda f: (f / "depth/r_005.pfm").write_bytes(b"Pf\n24 24\n-1.0\n1234")),
    "xml as depth": ("failed download", lambda f: (f / "depth/r_005.pfm").write_bytes(XML)),
    "zero camera": ("zero camera", lambda f: rewrite(f, transform_matrix=np.zeros((4, 4)).tolist())),
    "nan camera": ("not finite", lambda f: rewrite(f, transform_matrix=np.full((4, 4), math.nan).tolist())),
    "scaled camera": ("bad camera", lambda f: rewrite(f, transform_matrix=(2 * OBJECT.camera_to_world[5]).tolist())),
    "off the center": ("bad camera", lambda f: rewrite(f, intrinsic_matrix=SHIFTED)),
    "no matrix": ("damaged", lambda f: rewrite(f, transform_matrix=None)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_broken_scenes_are_named(damage: str, tmp_path: Path) -> None:
    kind, harm = DAMAGE[damage]
    harm(write_gso(tmp_path))
    with pytest.raises(Broken) as caught:
        gso.Spec(root=str(tmp_path)).open(SIZE).read("Mug", (0, 5))
    assert caught.value.kind == kind and "Mug" in caught.value.path


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gso needs data\.root"):
        gso.Spec().open(SIZE)
    with pytest.raises(UserError, match="there is no /absent"):
        gso.Spec(root="/absent").open(SIZE)
    with pytest.raises(UserError, match=r"holds no transforms\.json"):
        gso.Spec(root=str(tmp_path)).open(SIZE)
    write_gso(tmp_path)
    with pytest.raises(UserError, match="has 24 px"):
        gso.Spec(root=str(tmp_path)).open(SIZE * 2).read("Mug", (0,))


def test_pictures_of_one_scene_agree(tmp_path: Path) -> None:
    folder = write_24_views(tmp_path)
    Image.new("RGBA", (8, 8)).save(folder / "003.png")
    store = omniobject3d.Spec(root=str(tmp_path)).open(SIZE).stores["mug/mug_001"]
    with pytest.raises(Broken, match="2 sizes"):
        store.read("mug/mug_001", (2, 3))
    assert isinstance(replace(store.read("mug/mug_001", (2,))), SceneData)


def checked(root: Path, form: str) -> tuple[int, list[str]]:
    """Exit code and lines."""
    file = io.StringIO()
    return check(root, Console(file=file, width=80), 1, form=form), file.getvalue().splitlines()


@pytest.mark.parametrize("form", FORMS)
def test_whole_renderings_have_no_defect(form: str, tmp_path: Path) -> None:
    spec, write, _ = FORMS[form]
    write(tmp_path)
    code, lines = checked(tmp_path, spec().name)
    assert code == 0 and lines[-1].endswith("1 scenes checked, 0 with defects"), lines
    assert len(lines) == 1 + (form == "24 views") and (form != "24 views" or "came without depth" in lines[0])


@pytest.mark.parametrize("damage", sorted({"no picture", "half a depth", "zero camera", "half a json"}))
def test_check_names_what_cannot_be_read(damage: str, tmp_path: Path) -> None:
    kind, harm = DAMAGE[damage]
    harm(write_gso(tmp_path))
    code, lines = checked(tmp_path, "gso")
    assert code == 1 and any(line.startswith(f"{kind}: Mug") for line in lines), lines


@pytest.mark.parametrize("form", ["gso", "omniobject3d"])
def test_check_names_a_view_with_another_ones_camera(form: str, tmp_path: Path) -> None:
    spec, write, name = FORMS[form]
    rewrite(write(tmp_path), transform_matrix=frames(1.0 if form == "gso" else 0.45, "", False)[11]["transform_matrix"])
    code, lines = checked(tmp_path, spec().name)
    assert code == 1 and lines[0].startswith(f"reprojection: {name} view 5: ") and len(lines) == 2, lines


@pytest.mark.parametrize("form", FORMS)
def test_packed_it_is_the_same(form: str, tmp_path: Path) -> None:
    spec, write, name = FORMS[form]
    write(tmp_path / "raw")
    pack(tmp_path / "raw", tmp_path / "packed", SIZE, Console(file=io.StringIO()), workers=1, form=spec().name)
    raw, packed = open_store(tmp_path / "raw", form=spec().name), open_store(tmp_path / "packed")
    assert all(map(np.array_equal, raw.cameras(name), packed.cameras(name)))
    one, other = raw.read(name, (3, 20)), packed.read(name, (3, 20))
    assert np.array_equal(one.images, other.images) and np.allclose(one.depth, other.depth, rtol=1e-3)
