"""PLY, STL and OFF files: variants, and what is refused or reported."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.common.errors import UserError
from bench.data.meshes import loader
from bench.data.meshes.files import MeshFile
from bench.data.meshes.mesh import Mesh

SQUARE = ["0 0 0", "1 0 0", "1 1 0", "0 1 0"]


def write(path: Path, content: str | bytes) -> Mesh:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return loader.load(MeshFile(path))


def ply(vertex: str = "", face: str = "", rows: list[str] = SQUARE, faces: tuple[str, ...] = ("4 0 1 2 3",)) -> str:
    """An ASCII file; `vertex` and `face` are further properties."""
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows)}", *(f"property float {k}" for k in "xyz")]
    header += [vertex, f"element face {len(faces)}", "property list uchar int vertex_indices", face, "end_header"]
    return "\n".join([*filter(None, header), *rows, *faces, ""])


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue")])
def test_ply_colors_by_every_name(names: tuple[str, ...], tmp_path: Path) -> None:
    vertex = "\n".join(f"property uchar {name}" for name in names)
    mesh = write(tmp_path / "a.ply", ply(vertex, rows=[f"{row} 255 0 51" for row in SQUARE]))
    np.testing.assert_allclose(mesh.colors[0, 0], [1, 0, 0.2, 1])
    face = "\n".join(f"property float {name}" for name in names)
    mesh = write(tmp_path / "b.ply", ply(face=face, faces=("3 0 1 2 1 0 0", "3 0 2 3 0 0 1")))
    np.testing.assert_allclose(mesh.colors[:, 0, :3], [[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mixed", [False, True])
def test_ply_binary_of_both_orders_and_mixed_polygons(order: str, mixed: bool, tmp_path: Path) -> None:
    kind = {"<": "little", ">": "big"}[order]
    header = (f"ply\nformat binary_{kind}_endian 1.0\nelement vertex 4\nproperty double x\nproperty double y\n"
              "property double z\nelement face 2\nproperty list uchar int vertex_index\nend_header\n")  # fmt: skip
    body = b"".join(struct.pack(f"{order}3d", *map(float, row.split())) for row in SQUARE)
    faces = ([0, 1, 2, 3], [2, 1, 0]) if mixed else ([0, 1, 2], [0, 2, 3])
    body += b"".join(struct.pack(f"{order}B{len(face)}i", len(face), *face) for face in faces)
    assert len(write(tmp_path / "a.ply", header.encode() + body).faces) == (3 if mixed else 2)
    with pytest.raises(UserError, match=r"a\.ply: the PLY file is truncated"):
        write(tmp_path / "a.ply", header.encode() + body[:-2])


def test_ply_textures_of_vertices_and_of_faces(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    comment = "ply\ncomment TextureFile a.png\n"
    rows = [f"{row} {row[:3]}" for row in SQUARE]
    vertex = ply("property float s\nproperty float t", rows=rows)
    face = ply(face="property list uchar float texcoord", faces=("4 0 1 2 3 8 0 0 1 0 1 1 0 1",))
    for content in (vertex, face):
        mesh = write(tmp_path / "a.ply", content.replace("ply\n", comment, 1))
        assert mesh.materials[0].texture is not None and mesh.missing == ()
        np.testing.assert_allclose(mesh.uv.reshape(-1, 2).max(0), [1, 1])
    mesh = write(tmp_path / "a.ply", vertex.replace("ply\n", comment.replace("a.png", "b.png"), 1))
    assert mesh.missing == ("a.ply: b.png not found",)


@pytest.mark.parametrize(("content", "message"), [
    (ply(faces=()), "without faces"),
    (ply(faces=("3 0 1 4",)), "an index is not among the 4 vertices"),
    (ply()[:-12], "truncated"),
    (ply().replace("property float x", "property float a"), "without the vertex properties x, y, z"),
    (ply(rows=["nan 0 0", *SQUARE[1:]]), "not finite"),
])  # fmt: skip
def test_ply_that_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "a.ply", content)


def test_ply_strips(tmp_path: Path) -> None:
    content = ply(faces=()).replace("element face 0", "element tristrips 1") + "5 0 1 3 2 -1\n"
    assert len(write(tmp_path / "a.ply", content).faces) == 2


def test_stl_solids_colors_and_truncation(tmp_path: Path) -> None:
    solid = (
        "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 {z}\nvertex 1 0 {z}\nvertex 0 1 {z}\nendloop\nendfacet\n"
    )
    text = "".join(solid.format(z=z) + "endsolid a\n" for z in (0, 1))
    assert len(write(tmp_path / "a.stl", text).faces) == 2
    with pytest.raises(UserError, match="a damaged or truncated ASCII STL"):
        write(tmp_path / "a.stl", text[:-20])
    triangle = struct.pack("<12fH", *(0, 0, 1), *(0, 0, 0), *(1, 0, 0), *(0, 1, 0), 7)
    mesh = write(tmp_path / "b.stl", bytes(80) + struct.pack("<I", 1) + triangle)
    assert mesh.missing == ("b.stl: colors in attribute bytes are not read",)
    with pytest.raises(UserError, match="truncated"):
        write(tmp_path / "b.stl", bytes(80) + struct.pack("<I", 2) + triangle)


def test_off_colors(tmp_path: Path) -> None:
    vertices = "\n".join(f"{row} 255 0 0 255" for row in SQUARE)
    mesh = write(tmp_path / "a.off", f"COFF\n4 1 0\n{vertices}\n4 0 1 2 3\n")
    np.testing.assert_allclose(mesh.colors[..., :3], np.tile([1, 0, 0], (2, 3, 1)))
    faces = "\n".join(["OFF 4 2 0", *SQUARE, "3 0 1 2 0 0 1", "3 0 2 3"])
    np.testing.assert_allclose(write(tmp_path / "a.off", faces).colors[:, 0, :3], [[0, 0, 1], [0.4] * 3])
    with pytest.raises(UserError, match="truncated"):
        write(tmp_path / "a.off", "OFF\n4 3 0\n" + "\n".join(SQUARE))
