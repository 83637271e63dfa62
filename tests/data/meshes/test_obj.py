"""OBJ and MTL files as data sets and exporters write them: textured, or reported with file and line."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from rich.console import Console
from support.meshes import QUAD_OBJ, quad

from bench.common.errors import UserError
from bench.common.json_files import read_json
from bench.data.meshes import loader, render
from bench.data.meshes.files import MeshFile, find_meshes
from bench.data.meshes.mesh import Mesh

PYRAMID = "v 0 1.5 0\nf 1/1 2/2 5/3\nf 3/3 4/4 5/1\nf 2/1 3/2 5/3\n"  # on the square: no view is empty


def load(path: Path) -> Mesh:
    return loader.load(MeshFile(path))


def rewrite(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


def test_without_usemtl_the_first_material_is_applied_and_reported_where_there_are_several(tmp_path: Path) -> None:
    path = rewrite(quad(tmp_path), "usemtl painted\n", "")
    assert load(path).materials[0].texture is not None and load(path).missing == ()
    rewrite(tmp_path / "quad.mtl", "newmtl painted", "newmtl first\nKd 1 1 1\nmap_Kd paint.png\nnewmtl painted")
    mesh = load(path)
    assert mesh.materials[0].texture is not None
    assert mesh.missing == ("quad.obj: no usemtl; the first of 2 materials, first, is applied to all",)


def test_a_usemtl_that_no_library_defines_is_reported(tmp_path: Path) -> None:
    path = rewrite(quad(tmp_path), "usemtl painted", "usemtl gold")
    assert load(path).missing == ("quad.obj:10: usemtl gold: no material library defines it",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_material_libraries_of_every_encoding(encoding: str, tmp_path: Path) -> None:
    path = rewrite(quad(tmp_path), "painted", "grün")
    (tmp_path / "quad.mtl").write_bytes("newmtl grün\nmap_Kd paint.png\n".encode(encoding))
    assert load(path).missing == () if encoding != "latin-1" else True
    assert load(path).materials[0].texture is not None


@pytest.mark.parametrize("statement", ["mtllib a.mtl b.mtl", "mtllib a.mtl\nmtllib b.mtl", "mtllib a and b.mtl"])
def test_several_material_libraries(statement: str, tmp_path: Path) -> None:
    path = rewrite(quad(tmp_path), "mtllib quad.mtl", statement)
    (tmp_path / "a.mtl").write_text("newmtl other\nKd 1 0 0\n")
    (tmp_path / "b.mtl").write_text("newmtl painted\nmap_Kd paint.png\n")
    (tmp_path / "a and b.mtl").write_text("newmtl painted\nmap_Kd paint.png\n")
    assert load(path).materials[0].texture is not None and load(path).missing == ()


def test_options_of_a_texture_are_applied_or_reported(tmp_path: Path) -> None:
    path = quad(tmp_path)
    rewrite(tmp_path / "quad.mtl", "map_Kd", "map_Kd -s 2 3 -o 0.25 -clamp on -mm 0 2")
    mesh = load(path)
    assert mesh.missing == ("quad.mtl:3: -mm 0 2 is not applied",) and mesh.materials[0].wrap == ("clamp", "clamp")
    np.testing.assert_allclose(mesh.uv.reshape(-1, 2).max(0), [2.25, 3])


def test_textures_of_google_scanned_objects_are_found_and_up_is_z(tmp_path: Path) -> None:
    """meshes/model.obj beside materials/textures/texture.png; two objects, named by their folders."""
    for name in ("Shoe", "Cup"):
        path = rewrite(quad(tmp_path / name / "meshes"), " 1\n", " 3\n")
        path.write_text(path.read_text() + PYRAMID)
        path.rename(path.with_name("model.obj"))
        textures = tmp_path / name / "materials" / "textures"
        textures.mkdir(parents=True)
        (path.parent / "paint.png").rename(textures / "paint.png")
    out = tmp_path / "out"
    assert render.render([tmp_path / "Shoe", tmp_path / "Cup"], out, 16, Console(file=io.StringIO()), "z") == 0
    sources = sorted(out.glob("meshes/*/source.json"))
    assert [path.parent.name for path in sources] == ["Cup_meshes_model.obj", "Shoe_meshes_model.obj"]
    assert all(read_json(path)["missing"] == [] for path in sources)
    model = MeshFile(tmp_path / "Shoe/meshes/model.obj")
    assert np.argmax(np.ptp(loader.load(model, "z").vertices, axis=0)) == 2
    assert np.argmax(np.ptp(loader.load(model).vertices, axis=0)) == 1
    with pytest.raises(UserError, match="exists with --up z, not auto"):
        render.render([tmp_path / "Shoe", tmp_path / "Cup"], out, 16, Console(file=io.StringIO()))


def test_negative_indices_count_from_the_latest_vertex(tmp_path: Path) -> None:
    """Another object follows: counted from the end of the file, the first face would be of its vertices."""
    text = QUAD_OBJ.replace("f 1/1 2/2 3/3 4/4", "f -4/-4 -3/-3 -2/-2 -1/-1").replace("mtllib quad.mtl\n", "")
    (tmp_path / "a.obj").write_text(text + "v 5 5 5\nv 6 5 5\nv 5 6 5\nv 5 5 6\n")
    (tmp_path / "b.obj").write_text(QUAD_OBJ.replace("mtllib quad.mtl\n", ""))
    np.testing.assert_allclose(load(tmp_path / "a.obj").vertices[:4], load(tmp_path / "b.obj").vertices)


def test_polygons_that_are_not_convex_keep_their_area(tmp_path: Path) -> None:
    """An L of six corners, which a fan from its first corner would leave."""
    corners = [(0, 1), (0, 0), (2, 0), (2, 2), (1, 2), (1, 1)]
    text = "".join(f"v {x} {y} 0\n" for x, y in corners) + "f 1 2 3 4 5 6\nf 6 5 4 3 2 1\n"
    (tmp_path / "l.obj").write_text(text)
    mesh = load(tmp_path / "l.obj")
    corner = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=-1).sum() / 2
    assert len(mesh.faces) == 8 and area == pytest.approx(2 * 3 * 0.45**2)


def test_faces_without_texture_coordinates_take_nothing_from_those_with(tmp_path: Path) -> None:
    path = rewrite(quad(tmp_path), "f 1/1 2/2 3/3 4/4", "f 1/1 2/2 3/3\nf 1 3 4")
    mesh = load(path)
    assert [material.texture is not None for material in mesh.materials] == [True, False] and not mesh.missing


@pytest.mark.parametrize(("statement", "message"), [
    ("f 1 2 99", r"quad\.obj:12: v 99 is used, but there are 4"),
    ("f 1 x 2", r"quad\.obj:12: f … x …: a corner is v, v/vt"),
    ("v 1 two 3", r"quad\.obj:12: v 1 two 3: at least 3 numbers"),
    ("surf 0 1 0 1 1 2 3 4", r"quad\.obj:12: surf: free-form surfaces are not supported"),
])  # fmt: skip
def test_damaged_geometry_is_refused_with_its_line(statement: str, message: str, tmp_path: Path) -> None:
    path = quad(tmp_path)
    path.write_text(path.read_text() + statement + "\n")
    with pytest.raises(UserError, match=message):
        load(path)


def test_lines_and_unknown_statements_are_reported(tmp_path: Path) -> None:
    path = quad(tmp_path)
    path.write_text(path.read_text() + "l 1 2\ntexture paint.png\n# usemtl \\\nv 9 9 9 # no corner of a face\n")
    assert load(path).missing == (
        "quad.obj: lines (l) are not drawn",
        "quad.obj:13: unknown statement texture is not read",
    )


def test_hidden_files_are_no_meshes(tmp_path: Path) -> None:
    quad(tmp_path / "chairs")
    (tmp_path / "chairs" / "._quad.obj").write_bytes(b"\0\5\26\7")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "quad.obj").write_bytes(b"")
    assert [file.path.name for file in find_meshes([tmp_path])] == ["quad.obj"]


def test_names_that_are_not_utf_8_or_very_long_end_nothing(tmp_path: Path) -> None:
    path = quad(tmp_path)
    content = path.read_bytes() + PYRAMID.encode()
    path.unlink()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.obj")).write_bytes(content)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.obj")).write_bytes(b"v 1")
    (tmp_path / ("a" * 246 + ".obj")).write_bytes(content)
    output = io.StringIO()
    assert render.render([tmp_path], tmp_path / "out", 8, Console(file=output, width=400)) == 1
    names = sorted(path.name for path in (tmp_path / "out/meshes").iterdir())
    assert len(names) == 2 and all(len(name) <= render.MAX_NAME for name in names)
    assert b"\\xff\\xfe.obj: " in output.getvalue().encode()


def test_colors_of_vertices(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0 255 0 0\nv 1 0 0 255 0 0\nv 0 1 0 0 0 255\nf 1 2 3\n")
    np.testing.assert_allclose(load(tmp_path / "a.obj").colors[0, :, :3], [[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_pictures_of_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    path = quad(tmp_path)
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "paint.png")
    texture = load(path).materials[0].texture
    assert texture is not None and texture.getpixel((0, 0)) == 128


def test_geometry_agrees_with_an_independent_reader(tmp_path: Path) -> None:
    """trimesh reads what it wrote."""
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.apply_scale((1, 2, 3))
    for suffix in ("obj", "glb", "ply", "stl", "off"):
        mesh.export(tmp_path / f"ball.{suffix}")
        ours = loader.load(MeshFile(tmp_path / f"ball.{suffix}"), "z")
        other = trimesh.load_mesh(tmp_path / f"ball.{suffix}", process=False)
        expected = other.vertices[other.faces].mean(1) * 0.9 / np.ptp(other.vertices, axis=0).max()
        centers = ours.vertices[ours.faces].mean(1)
        order = [np.lexsort(np.round(c, 4).T) for c in (centers, expected)]
        np.testing.assert_allclose(centers[order[0]], expected[order[1]], atol=1e-4)
