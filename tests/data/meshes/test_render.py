"""A user's meshes in G-Objaverse's format: what is seen where, textures, what cannot be read, resuming after a kill."""

from __future__ import annotations

import fcntl
import io
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import trimesh
from PIL import Image
from rich.console import Console
from support.meshes import QUAD_MTL, QUAD_OBJ, QUARTERS, deb, library, quad
from support.paths import ROOT

from bench.common.errors import UserError
from bench.data.meshes import furniture, loader, render
from bench.data.meshes.files import MeshFile, find_meshes
from bench.data.meshes.mesh import Mesh
from bench.data.meshes.views import render_views
from bench.data.scene import SceneData
from bench.data.storage.open_store import open_store

SILENT = Console(file=io.StringIO())


def load(path: Path) -> Mesh:
    """Of the only mesh that a path holds."""
    (file,) = find_meshes([path])
    return loader.load(file)


def from_top(scene: SceneData) -> np.ndarray:
    """RGBA of view 25, which looks down."""
    return scene.images[25]


def at(image: np.ndarray, row: float, column: float) -> np.ndarray:
    size = len(image)
    return image[int(row * size), int(column * size)]


def test_textures_lie_where_their_coordinates_say(tmp_path: Path) -> None:
    """x right, y up, z towards the viewer becomes z up: v grows with the file's z, which is the world's −y."""
    scene = render_views(load(quad(tmp_path)), 64)
    colors = {}
    pose = scene.camera_to_world[25]
    for name, (x, z) in {"red": (-1, 1), "green": (1, 1), "blue": (-1, -1), "yellow": (1, -1)}.items():
        world = np.array([x * 0.2, -z * 0.2, 0.0])  # inside the quarter: the square's half side is 0.45
        camera = pose[:3, :3].T @ (world - pose[:3, 3])
        focal = 32 / np.tan(scene.field_of_view[25] / 2)
        column, row = (32 + focal * camera[:2] / camera[2]).astype(int)
        colors[name] = from_top(scene)[row, column]
    bright = {name: (rgba[:3] > 60).tolist() for name, rgba in colors.items()}
    assert bright == {"red": [True, False, False], "green": [False, True, False], "blue": [False, False, True],
                      "yellow": [True, True, False]}  # fmt: skip
    assert all(rgba[3] == 255 for rgba in colors.values())


def test_what_is_transparent_in_a_texture_is_a_hole(tmp_path: Path) -> None:
    whole, pierced = (render_views(load(quad(tmp_path / str(a), a)), 64) for a in (255, 0))
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
    scene = render_views(load(path), 64)
    depth, white = scene.depth[25], (from_top(scene)[..., :3] > 150).all(-1)
    painted = (depth > 0) & ~white
    assert 0.05 < white.mean() < 0.3
    assert np.median(depth[white]) - np.median(depth[painted]) == pytest.approx(0.225, abs=1e-3)


def test_size_and_place_follow_the_box(tmp_path: Path) -> None:
    box = trimesh.creation.box((2, 8, 4))
    box.apply_translation((100, 5, 3))
    box.export(tmp_path / "box.ply")
    mesh = load(tmp_path / "box.ply")  # z up by custom
    np.testing.assert_allclose(mesh.vertices.max(0), [0.1125, 0.45, 0.225])
    np.testing.assert_allclose(mesh.vertices.min(0), [-0.1125, -0.45, -0.225])
    box.export(tmp_path / "box.glb")  # y up
    np.testing.assert_allclose(load(tmp_path / "box.glb").vertices.max(0), [0.1125, 0.225, 0.45], atol=1e-6)
    scene = render_views(mesh, 32)
    front = scene.depth[25][16, 16]  # the top camera looks at the top face
    assert front == pytest.approx(np.linalg.norm(scene.camera_to_world[25][:3, 3]) - 0.225, abs=1e-3)
    np.testing.assert_allclose(scene.normals[25][16, 16], [0, 0, 1], atol=1e-6)


def test_colors_of_vertices_and_materials(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.visual.vertex_colors = [0, 200, 0, 255]
    box.export(tmp_path / "green.ply")
    (tmp_path / "red.obj").write_text(QUAD_OBJ.replace("quad.mtl", "red.mtl").replace("painted", "red"))
    (tmp_path / "red.mtl").write_text("newmtl red\nKd 0.9 0.1 0.1\n")
    for name, channel in (("green.ply", 1), ("red.obj", 0)):
        rgba = at(from_top(render_views(load(tmp_path / name), 16)), 0.5, 0.5)
        assert rgba[channel] > 100 and rgba[2] < 40 and rgba[3] == 255


def test_panes_of_glass_hide_nothing_unless_there_is_nothing_else(tmp_path: Path) -> None:
    path = quad(tmp_path)
    (tmp_path / "quad.mtl").write_text("newmtl painted\nKd 1 1 1\nd 0.2\n")
    assert len(load(path).faces) == 2
    other = "v 0 1 0\nv 1 1 0\nv 0 1 1\nusemtl solid\nf 5 6 7\n"
    path.write_text(QUAD_OBJ + other)
    (tmp_path / "quad.mtl").write_text("newmtl painted\nKd 1 1 1\nd 0.2\nnewmtl solid\nKd 1 0 0\n")
    assert len(load(path).faces) == 1


@pytest.mark.parametrize("content", [b"", b"not a mesh", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"])
def test_what_is_no_mesh_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.obj").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.obj: (cannot be read|holds no triangles)"):
        load(tmp_path / "bad.obj")


def test_the_command_makes_a_data_set_and_resumes(tmp_path: Path) -> None:
    """Three files of which one is bad; then again after a kill that left a scene half made and one missing."""
    quad(tmp_path / "a")
    quad(tmp_path / "b", 255)
    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "ball.ply")
    (tmp_path / "bad.obj").write_text("v 0 0 0\n")
    out, log = tmp_path / "out", io.StringIO()
    code = render.render([tmp_path], out, 16, Console(file=log, width=200))
    assert code == 1 and log.getvalue().count("bad.obj: holds no triangles") == 1
    store = open_store(out, progress=False)
    assert len(store.scenes()) == 3 and not store.broken() and "meshes/ball" in store.scenes()
    before = (out / "meshes/ball/campos_512_v4/00003/00003.png").read_bytes()

    (out / "meshes/.unfinished-ball").mkdir()
    (out / "meshes/ball").rename(out / "meshes/.unfinished-ball/campos")
    times = {path: path.stat().st_mtime_ns for path in out.glob("meshes/*quad*/**/*.png")}
    render.render([tmp_path], out, 16, SILENT)
    assert (out / "meshes/ball/campos_512_v4/00003/00003.png").read_bytes() == before
    assert times == {path: path.stat().st_mtime_ns for path in times} and not list(out.rglob(".unfinished*"))
    with pytest.raises(UserError, match="no such file"):
        render.render([tmp_path / "absent"], out, 16, SILENT)


def test_furniture_keeps_reserved_models_and_variants_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(furniture, "RESERVED", {1: "jar"})
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


def test_furniture_from_a_package_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(furniture, "RESERVED", {0: "jar"})
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))
    for name in furniture.LIBRARIES:
        library(tmp_path, name, {"jar": ("Ann", 1.0)} if name == "Scopia" else {})
    package = deb(tmp_path / "f.deb", {p.name: p.read_bytes() for p in tmp_path.glob("*.sh3f")})
    assert [model.name for model in furniture.catalog(furniture.libraries(package))] == ["jar"]
    package.write_bytes(package.read_bytes()[:1000])
    assert furniture.libraries(package).is_dir()  # from the cache
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"f\.deb: cannot be unpacked"):
        furniture.libraries(package)
    package.write_bytes(b"no package")
    with pytest.raises(UserError, match="cannot be unpacked"):
        furniture.libraries(package)


def test_furniture_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers would denote other models than those reserved."""
    for name in furniture.LIBRARIES:
        library(tmp_path, name, {"jar": ("Ann", 1.0)} if name == "Scopia" else {})
    monkeypatch.setattr(furniture, "RESERVED", {0: "vase"})
    with pytest.raises(UserError, match="number 0 is jar, not vase: the libraries are of another version"):
        furniture.catalog(tmp_path)


def test_furniture_without_the_package_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="apt-get install sweethome3d-furniture"):
        furniture.catalog(tmp_path)


def test_names_of_files_that_share_theirs(tmp_path: Path) -> None:
    paths = [tmp_path / "one" / "chair.obj", tmp_path / "two" / "chair.obj", tmp_path / "desk lamp.glb"]
    files = [
        *map(MeshFile, paths),
        MeshFile(tmp_path / "set.zip", "a/cup.obj"),
        MeshFile(tmp_path / "cup.zip", "cup.obj"),
    ]
    names = render.scene_names(files)
    assert list(names.values())[2:] == ["desk-lamp", "set_cup", "cup"] and len(set(names.values())) == 5
    assert names[files[0]].endswith("one_chair.obj")


@pytest.mark.parametrize("layout", ["flat", "one folder", "source and textures"])
def test_archives_of_every_layout_keep_their_textures(layout: str, tmp_path: Path) -> None:
    path = quad(tmp_path / "q")
    where = {"flat": ("", ""), "one folder": ("chair/", "chair/"), "source and textures": ("source/", "textures/")}
    with ZipFile(tmp_path / "chair.zip", "w") as archive:
        for file in path.parent.iterdir():
            archive.write(file, where[layout][file.suffix == ".png"] + file.name)
        archive.writestr("__MACOSX/._quad.obj", b"no mesh")
    mesh = load(tmp_path / "chair.zip")
    assert len(mesh.faces) == 2 and mesh.materials[0].texture is not None and not mesh.missing


def test_each_mesh_of_an_archive_is_a_scene(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"{name}.ply", trimesh.creation.box().export(file_type="ply"))
    assert [file.name for file in find_meshes([tmp_path])] == ["set_a", "set_b"]
    (tmp_path / "none.zip").write_bytes((tmp_path / "set.zip").read_bytes()[:40])
    with pytest.raises(UserError, match=r"none\.zip: cannot be opened \(BadZipFile"):
        load(tmp_path / "none.zip")


@pytest.mark.parametrize(
    "spelled",
    [
        "paint.png",
        "PAINT.PNG",
        "textures\\paint.png",
        "C:\\work\\paint.png",
        '"paint.png"',
        "-s 1 1 1 -clamp on paint.png",
    ],
)
def test_textures_are_found_however_they_are_spelled(spelled: str, tmp_path: Path) -> None:
    path = quad(tmp_path)
    (tmp_path / "quad.mtl").write_text(f"newmtl painted\nmap_Kd {spelled}\n")
    assert load(path).materials[0].texture is not None and not load(path).missing
    (tmp_path / "textures").mkdir()
    (tmp_path / "paint.png").rename(tmp_path / "textures" / "paint.png")
    assert load(path).materials[0].texture is not None


def test_what_a_mesh_lacks_is_reported(tmp_path: Path) -> None:
    path, log = quad(tmp_path), io.StringIO()
    (tmp_path / "paint.png").unlink()
    assert render.render([path], tmp_path / "out", 32, Console(file=log, width=200)) == 0
    assert "meshes/quad: rendered, but quad.mtl:3: paint.png not found" in log.getvalue()
    (tmp_path / "paint.png").write_bytes(b"no picture")
    assert load(path).missing == ("quad.mtl:3: paint.png cannot be decoded (UnidentifiedImageError)",)
    (tmp_path / "quad.mtl").unlink()
    assert load(path).missing == ("quad.obj:1: quad.mtl not found",)


def glb(path: Path, colors: list[float] | None = None, **material: object) -> Path:
    """A horizontal square."""
    corners = [[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]
    mesh = trimesh.Trimesh(corners, [[0, 2, 1], [0, 3, 2]], process=False)
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], float)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=trimesh.visual.material.PBRMaterial(**material))
    if colors:
        mesh.visual.vertex_attributes["color"] = np.tile(np.array(colors, np.float32), (4, 1))
    mesh.export(path)
    return path


def test_gltf_s_factors_are_linear_light_and_multiply(tmp_path: Path) -> None:
    """sRGB of 0.2159 is one half, of 1/255 is 13/255."""
    path = glb(tmp_path / "q.glb", baseColorFactor=[55, 255, 1, 255])
    mesh = load(path)
    np.testing.assert_allclose(mesh.materials[0].color, [0.5, 1, 0.0498, 1], atol=2e-3)
    one = at(from_top(render_views(mesh, 16)), 0.5, 0.5)
    texture = Image.fromarray(np.full((4, 4, 3), 128, np.uint8))
    other = render_views(
        load(glb(tmp_path / "t.glb", baseColorTexture=texture, baseColorFactor=[255, 55, 255, 255])), 16
    )
    np.testing.assert_allclose(at(from_top(other), 0.5, 0.5)[:2], one[0] * np.array([1, 0.5]), atol=2)


@pytest.mark.parametrize(("mode", "cutoff", "seen"), [("OPAQUE", None, 1.0), ("MASK", 0.1, 1.0), ("MASK", 0.6, 0.75),
                                                       ("BLEND", None, 0.75)])  # fmt: skip
def test_gltf_s_alpha_counts_by_its_mode(mode: str, cutoff: float | None, seen: float, tmp_path: Path) -> None:
    """A quarter of the texture has an opacity of 0.3."""
    opacity = np.full((64, 64, 1), 255, np.uint8)
    opacity[:32, :32] = 77
    texture = Image.fromarray(np.concatenate([QUARTERS.repeat(32, 0).repeat(32, 1), opacity], -1))
    path = glb(tmp_path / "q.glb", baseColorTexture=texture, alphaMode=mode, alphaCutoff=cutoff)
    plain = glb(tmp_path / "p.glb", baseColorTexture=texture.convert("RGB"))
    share = [from_top(render_views(load(each), 64))[..., 3].mean() for each in (path, plain)]
    assert share[0] / share[1] == pytest.approx(seen, abs=0.02)


def test_a_mask_of_its_own_makes_holes(tmp_path: Path) -> None:
    path = quad(tmp_path)
    opacity = np.full((64, 64), 255, np.uint8)
    opacity[:32, :32] = 0
    Image.fromarray(opacity).save(tmp_path / "mask.png")
    whole = (from_top(render_views(load(path), 64))[..., 3] > 0).sum()
    (tmp_path / "quad.mtl").write_text(QUAD_MTL + "map_d mask.png\n")
    assert (from_top(render_views(load(path), 64))[..., 3] > 0).sum() / whole == pytest.approx(0.75, abs=0.02)


def test_hidden_colors_do_not_bleed_at_edges(tmp_path: Path) -> None:
    """Black where it is transparent, red elsewhere: what is seen is red only."""
    path = quad(tmp_path)
    texels = np.zeros((16, 16, 4), np.uint8)
    texels[:, ::2] = 255, 0, 0, 255
    Image.fromarray(texels).save(tmp_path / "paint.png")
    seen = from_top(render_views(load(path), 64))
    red = seen[seen[..., 3] == 255][:, 0]
    assert len(red) > 50 and red.min() > 230


def test_scenes_of_other_meshes_or_sizes_are_not_taken_for_these(tmp_path: Path) -> None:
    one, other, out = tmp_path / "one" / "a.ply", tmp_path / "other" / "a.ply", tmp_path / "out"
    for path, mesh in ((one, trimesh.creation.box()), (other, trimesh.creation.icosphere(subdivisions=1))):
        path.parent.mkdir()
        mesh.export(path)
    assert render.render([one], out, 8, SILENT) == 0
    with pytest.raises(UserError, match=r"meshes/a was rendered from .*one/a\.ply, not"):
        render.render([other], out, 8, SILENT)
    with pytest.raises(UserError, match="meshes/a exists at 8 px, not 16"):
        render.render([one], out, 16, SILENT)
    assert render.render([one], out, 8, SILENT) == 0


def test_two_commands_do_not_render_into_one_folder(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "a.ply")
    (tmp_path / "out").mkdir()
    with (
        (tmp_path / "out" / render.LOCK).open("w") as lock,
        pytest.raises(UserError, match="another process is rendering there"),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        render.render([tmp_path / "a.ply"], tmp_path / "out", 8, SILENT)


@pytest.mark.long
def test_a_process_that_is_killed_loses_its_own_mesh_alone(tmp_path: Path) -> None:
    """By the kernel, for its use of the processor: one mesh takes longer than the limit, the others do not."""
    for name in ("a", "b", "c"):
        trimesh.creation.box().export(tmp_path / f"{name}.ply")
    (tmp_path / "bad.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n" + "f 1 2 3\n" * 6_000_000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bench.data", "render", str(tmp_path), "--out", str(out), "--size", "8"]
    limit = partial(resource.setrlimit, resource.RLIMIT_CPU, (6, 6))
    ended = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 1, ended.stderr
    assert sorted(path.name for path in (out / "meshes").iterdir()) == ["a", "b", "c"]
    text = ended.stdout + ended.stderr
    assert text.count("its process was killed") == 1 and "bad.obj" in text
