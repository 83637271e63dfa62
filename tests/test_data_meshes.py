"""A user's meshes in G-Objaverse's format: what is seen where, textures, what cannot be read, going on after a kill."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import trimesh
from PIL import Image
from rich.console import Console

from bench.data import furniture, meshes, render
from bench.data.scene import SceneData
from bench.data.store import open_store
from bench.errors import BadInput

SILENT = Console(file=io.StringIO())
QUAD_OBJ = """mtllib quad.mtl
v -1 0 -1
v 1 0 -1
v 1 0 1
v -1 0 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl painted
f 1/1 2/2 3/3 4/4
"""
QUAD_MTL = "newmtl painted\nKd 0.1 0.1 0.1\nmap_Kd paint.png\n"
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)  # rows from the top


def quad(folder: Path, alpha: int | None = None) -> Path:
    """A horizontal square, y up, whose texture has one colour a quarter; with `alpha` the red one is transparent."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quad.obj").write_text(QUAD_OBJ)
    (folder / "quad.mtl").write_text(QUAD_MTL)
    image = QUARTERS.repeat(32, 0).repeat(32, 1)
    if alpha is not None:
        opacity = np.full((64, 64, 1), 255, np.uint8)
        opacity[:32, :32] = alpha
        image = np.concatenate([image, opacity], -1)
    Image.fromarray(image).save(folder / "paint.png")
    return folder / "quad.obj"


def from_top(scene: SceneData) -> np.ndarray:
    """RGBA of view 25, which looks down."""
    return scene.images[25]


def at(image: np.ndarray, row: float, column: float) -> np.ndarray:
    size = len(image)
    return image[int(row * size), int(column * size)]


def test_textures_lie_where_their_coordinates_say(tmp_path: Path) -> None:
    """x right, y up, z towards the viewer becomes z up: v grows with the file's z, which is the world's −y."""
    scene = meshes.render(meshes.load(quad(tmp_path)), 64)
    seen = {}
    pose = scene.camera_to_world[25]
    for name, (x, z) in {"red": (-1, 1), "green": (1, 1), "blue": (-1, -1), "yellow": (1, -1)}.items():
        world = np.array([x * 0.2, -z * 0.2, 0.0])  # inside the quarter: the square's half side is 0.45
        camera = pose[:3, :3].T @ (world - pose[:3, 3])
        focal = 32 / np.tan(scene.field_of_view[25] / 2)
        column, row = (32 + focal * camera[:2] / camera[2]).astype(int)
        seen[name] = from_top(scene)[row, column]
    bright = {name: (rgba[:3] > 60).tolist() for name, rgba in seen.items()}
    assert bright == {"red": [True, False, False], "green": [False, True, False], "blue": [False, False, True],
                      "yellow": [True, True, False]}  # fmt: skip
    assert all(rgba[3] == 255 for rgba in seen.values())


def test_what_is_transparent_in_a_texture_is_a_hole(tmp_path: Path) -> None:
    whole, pierced = (meshes.render(meshes.load(quad(tmp_path / str(a), a)), 64) for a in (255, 0))
    share = (from_top(pierced)[..., 3] > 0).sum() / (from_top(whole)[..., 3] > 0).sum()
    assert share == pytest.approx(0.75, abs=0.02)
    hidden = from_top(pierced)[..., 3] == 0
    assert (pierced.depth[25][hidden] == 0).all()


def test_behind_a_hole_the_next_surface_is_seen(tmp_path: Path) -> None:
    path = quad(tmp_path, 0)
    floor = QUAD_OBJ.replace("mtllib quad.mtl\n", "").replace(" 0 ", " -0.5 ").replace("usemtl painted\n", "usemtl f\n")
    floor = floor.replace("f 1/1 2/2 3/3 4/4", "f 5/1 6/2 7/3 8/4")
    path.write_text(QUAD_OBJ + floor)
    (tmp_path / "quad.mtl").write_text(QUAD_MTL + "newmtl f\nKd 1 1 1\n")
    scene = meshes.render(meshes.load(path), 64)
    depth, white = scene.depth[25], (from_top(scene)[..., :3] > 150).all(-1)
    painted = (depth > 0) & ~white
    assert 0.05 < white.mean() < 0.3
    assert np.median(depth[white]) - np.median(depth[painted]) == pytest.approx(0.225, abs=1e-3)


def test_size_and_place_follow_the_box(tmp_path: Path) -> None:
    box = trimesh.creation.box((2, 8, 4))
    box.apply_translation((100, 5, 3))
    box.export(tmp_path / "box.ply")
    mesh = meshes.load(tmp_path / "box.ply")  # z up by custom
    np.testing.assert_allclose(mesh.vertices.max(0), [0.1125, 0.45, 0.225])
    np.testing.assert_allclose(mesh.vertices.min(0), [-0.1125, -0.45, -0.225])
    box.export(tmp_path / "box.glb")  # y up
    np.testing.assert_allclose(meshes.load(tmp_path / "box.glb").vertices.max(0), [0.1125, 0.225, 0.45], atol=1e-6)
    scene = meshes.render(mesh, 32)
    front = scene.depth[25][16, 16]  # the top camera looks at the top face
    assert front == pytest.approx(np.linalg.norm(scene.camera_to_world[25][:3, 3]) - 0.225, abs=1e-3)
    np.testing.assert_allclose(scene.normals[25][16, 16], [0, 0, 1], atol=1e-6)


def test_colours_of_vertices_and_materials(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.visual.vertex_colors = [0, 200, 0, 255]
    box.export(tmp_path / "green.ply")
    (tmp_path / "red.obj").write_text(QUAD_OBJ.replace("quad.mtl", "red.mtl").replace("painted", "red"))
    (tmp_path / "red.mtl").write_text("newmtl red\nKd 0.9 0.1 0.1\n")
    for name, channel in (("green.ply", 1), ("red.obj", 0)):
        rgba = at(from_top(meshes.render(meshes.load(tmp_path / name), 16)), 0.5, 0.5)
        assert rgba[channel] > 100 and rgba[2] < 40 and rgba[3] == 255


def test_panes_of_glass_hide_nothing_unless_there_is_nothing_else(tmp_path: Path) -> None:
    path = quad(tmp_path)
    (tmp_path / "quad.mtl").write_text("newmtl painted\nKd 1 1 1\nd 0.2\n")
    assert len(meshes.load(path).faces) == 2
    other = "v 0 1 0\nv 1 1 0\nv 0 1 1\nusemtl solid\nf 5 6 7\n"
    path.write_text(QUAD_OBJ + other)
    (tmp_path / "quad.mtl").write_text("newmtl painted\nKd 1 1 1\nd 0.2\nnewmtl solid\nKd 1 0 0\n")
    assert len(meshes.load(path).faces) == 1


@pytest.mark.parametrize("content", [b"", b"not a mesh", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"])
def test_what_is_no_mesh_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.obj").write_bytes(content)
    with pytest.raises(BadInput, match=r"bad\.obj: (cannot be read|holds no triangles)"):
        meshes.load(tmp_path / "bad.obj")


def test_the_command_makes_a_data_set_and_goes_on(tmp_path: Path) -> None:
    """Three files of which one is bad; then again after a kill that left a scene half made and one missing."""
    quad(tmp_path / "a")
    quad(tmp_path / "b", 255)
    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "ball.ply")
    (tmp_path / "bad.obj").write_text("v 0 0 0\n")
    out, heard = tmp_path / "out", io.StringIO()
    code = render.render([tmp_path], out, 16, Console(file=heard, width=200))
    assert code == 1 and heard.getvalue().count("bad.obj: holds no triangles") == 1
    store = open_store(out, progress=False)
    assert len(store.scenes()) == 3 and not store.broken() and "meshes/ball" in store.scenes()
    before = (out / "meshes/ball/campos_512_v4/00003/00003.png").read_bytes()

    (out / "meshes/.unfinished-ball").mkdir()
    (out / "meshes/ball").rename(out / "meshes/.unfinished-ball/campos")
    times = {path: path.stat().st_mtime_ns for path in out.glob("meshes/*quad*/**/*.png")}
    render.render([tmp_path], out, 16, SILENT)
    assert (out / "meshes/ball/campos_512_v4/00003/00003.png").read_bytes() == before
    assert times == {path: path.stat().st_mtime_ns for path in times} and not list(out.rglob(".unfinished*"))
    with pytest.raises(BadInput, match="no such file"):
        render.render([tmp_path / "absent"], out, 16, SILENT)


def library(folder: Path, name: str, models: dict[str, tuple[str, float]]) -> None:
    """A furniture library: object → (creator, height of its box)."""
    with ZipFile(folder / f"{name}.sh3f", "w") as archive:
        lines = ["id=test"]
        for i, (model, (creator, height)) in enumerate(models.items(), 1):
            lines += [f"name#{i}={model}", f"model#{i}=/lib/{model}/{model}.obj", f"creator#{i}={creator}"]
            mesh = trimesh.creation.icosphere(subdivisions=2)
            mesh.apply_scale((1, height, 1))
            archive.writestr(f"lib/{model}/{model}.obj", trimesh.exchange.obj.export_obj(mesh))
        lines += ["name#99=ghost", "model#99=/lib/ghost/ghost.obj"]
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))


def test_furniture_keeps_reserved_models_and_variants_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(furniture, "RESERVED", (1,))
    library(tmp_path, "BlendSwap-CC-0", {"vase": ("Ann", 1.0), "jar": ("Bob", 2.0)})
    library(tmp_path, "BlendSwap-CC-BY", {"jar_red": ("Cy", 2.0), "pot": ("Di", 3.0)})
    for name in furniture.LIBRARIES[2:]:
        library(tmp_path, name, {})
    library(tmp_path, "Scopia", {"pot_large": ("", 3.0)})
    out = tmp_path / "out"
    assert furniture.furniture(out, 16, tmp_path, SILENT) == 0
    assert open_store(out, progress=False).scenes() == ["0/100000", "1/100003"]
    table = (out / "models.csv").read_text().splitlines()
    assert [line.rpartition(",")[2] for line in table[1:]] == [
        "", "reserved for evaluation", "variant of 0/100001", "", "variant of 1/100003"
    ]  # fmt: skip
    text = (out / "ATTRIBUTION.md").read_text()
    assert "| 0/100000 | vase | Ann |" in text and "CC BY 3.0" in text and "Bob" not in text


def test_furniture_without_the_package_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="apt-get install sweethome3d-furniture"):
        furniture.catalogue(tmp_path)


def test_names_of_files_that_share_theirs(tmp_path: Path) -> None:
    paths = [tmp_path / "one" / "chair.obj", tmp_path / "two" / "chair.obj", tmp_path / "desk lamp.glb"]
    made = render.names(paths)
    assert made[paths[2]] == "desk-lamp" and len(set(made.values())) == 3
    assert made[paths[0]].endswith("one_chair.obj")


def test_every_face_of_an_archive_s_files_is_found(tmp_path: Path) -> None:
    path = quad(tmp_path / "q")
    shutil.make_archive(str(tmp_path / "quad"), "zip", path.parent)
    mesh = meshes.load(tmp_path / "quad.zip")
    assert len(mesh.faces) == 2 and mesh.materials[0].texture is not None
