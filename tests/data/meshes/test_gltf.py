"""glTF 2.0: every feature of the core and of the extensions that the table names is read, or refused by its name."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from bench.common.errors import UserError
from bench.data.meshes import loader
from bench.data.meshes.files import MeshFile
from bench.data.meshes.mesh import Mesh
from bench.data.meshes.views import render_views

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], "f4") / 2
SIDES = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]], "u2")
TRIANGLES = np.concatenate([SIDES[:, [0, 1, 2]], SIDES[:, [0, 2, 3]]]).astype("u2")
KINDS = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125, "i1": 5120, "i2": 5122}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
RED_BLUE = np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8)
RED = np.full((8, 2), 0.25, "f4")  # texture coordinates of the red half


class Gltf:
    """A document under construction; its buffer is embedded."""

    def __init__(self) -> None:
        picture = io.BytesIO()
        Image.fromarray(RED_BLUE).save(picture, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
        self.raw = b""
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "bufferViews": [], "accessors": [], "images": [{"uri": uri}], "textures": [{"source": 0}],
            "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}},
                          {"pbrMetallicRoughness": {"baseColorFactor": [0, 0, 1, 1]}}],
        }  # fmt: skip

    def view(self, array: np.ndarray, **extra: Any) -> int:
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.raw), "byteLength": array.nbytes, **extra})
        self.raw += array.tobytes() + b"\0" * (-array.nbytes % 4)
        return len(self.json["bufferViews"]) - 1

    def add(self, array: np.ndarray, **extra: Any) -> int:
        width = array.shape[1] if array.ndim > 1 else 1
        self.json["accessors"].append(
            {"bufferView": self.view(array), "componentType": KINDS[array.dtype.str[1:]], "count": len(array),
             "type": WIDTHS[width], **extra})  # fmt: skip
        return len(self.json["accessors"]) - 1

    def box(self, **primitive: Any) -> dict[str, Any]:
        corners, indices = self.add(CORNERS), self.add(TRIANGLES.ravel())
        attributes = {"POSITION": corners, **primitive.pop("attributes", {})}
        return {"attributes": attributes, "indices": indices, **primitive}

    def mesh(self, *primitives: dict[str, Any]) -> Gltf:
        self.json["meshes"] = [{"primitives": list(primitives)}]
        return self

    def write(self, path: Path) -> Path:
        uri = f"data:application/octet-stream;base64,{base64.b64encode(self.raw).decode()}"
        self.json["buffers"] = [{"byteLength": len(self.raw), "uri": uri}]
        path.write_text(json.dumps(self.json))
        return path

    def load(self, folder: Path) -> Mesh:
        return loader.load(MeshFile(self.write(folder / "model.gltf")))


def color(mesh: Mesh) -> np.ndarray:
    """RGB of the middle of view 0."""
    image = render_views(mesh, 16).images[0]
    return image[8, 8, :3].astype(float) / image[8, 8, :3].max()


def triangles(mesh: Mesh) -> set[tuple[float, ...]]:
    """Centers and areas, whatever the order of corners."""
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    return set(map(tuple, np.round(np.column_stack([corners.mean(1), area]), 5) + 0.0))


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
@pytest.mark.parametrize("coordinates", [0, 1])
def test_texture_coordinates_of_every_type_and_set(kind: str, coordinates: int, tmp_path: Path) -> None:
    gltf = Gltf()
    uv = RED if kind == "f4" else (RED * np.iinfo(kind).max).astype(kind)
    attributes = {f"TEXCOORD_{coordinates}": gltf.add(uv, normalized=kind != "f4")}
    if coordinates:
        attributes["TEXCOORD_0"] = gltf.add(RED + 0.5)
        gltf.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1
    mesh = gltf.mesh(gltf.box(attributes=attributes, material=0)).load(tmp_path)
    assert mesh.missing == ()
    np.testing.assert_allclose(color(mesh), [1, 0, 0], atol=0.05)


@pytest.mark.parametrize("mode", [4, 5, 6])
def test_triangles_strips_and_fans_draw_the_same(mode: int, tmp_path: Path) -> None:
    gltf = Gltf()
    positions = gltf.add(CORNERS)
    order = {4: [0, 1, 2, 0, 2, 3], 5: [0, 1, 3, 2], 6: [0, 1, 2, 3]}[mode]
    sides = [{"attributes": {"POSITION": positions}, "indices": gltf.add(side[order]), "mode": mode} for side in SIDES]
    mesh = gltf.mesh(*sides).load(tmp_path)
    assert len(mesh.faces) == 12 and mesh.missing == ()
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1).sum() / 2
    assert area == pytest.approx(6 * 0.9**2)


def test_sparse_accessors_with_and_without_a_buffer_view(tmp_path: Path) -> None:
    gltf, plain = Gltf(), Gltf()
    plain.mesh(plain.box())
    box = gltf.box()
    rows, values = gltf.view(np.arange(8, dtype="u2")), gltf.view(CORNERS)
    accessor = gltf.json["accessors"][box["attributes"]["POSITION"]]
    sparse = {"count": 8, "indices": {"bufferView": rows, "componentType": 5123}, "values": {"bufferView": values}}
    accessor["sparse"] = sparse
    del accessor["bufferView"]
    mesh = gltf.mesh(box).load(tmp_path)
    assert triangles(mesh) == triangles(plain.load(tmp_path))


def test_interleaved_and_quantized_attributes(tmp_path: Path) -> None:
    """Positions as shorts, 8 bytes apart, scaled back by the node (KHR_mesh_quantization)."""
    gltf, plain = Gltf(), Gltf()
    plain.mesh(plain.box())
    table = np.zeros((8, 4), "i2")
    table[:, :3] = CORNERS * 2000
    view = gltf.view(table, byteStride=8)
    gltf.json["accessors"].append({"bufferView": view, "componentType": 5122, "count": 8, "type": "VEC3"})
    gltf.json["extensionsRequired"] = gltf.json["extensionsUsed"] = ["KHR_mesh_quantization"]
    indices = gltf.add(TRIANGLES.ravel())
    mesh = gltf.mesh({"attributes": {"POSITION": 0}, "indices": indices}).load(tmp_path)
    assert triangles(mesh) == triangles(plain.load(tmp_path))


def test_texture_transform_and_wrapping(tmp_path: Path) -> None:
    """An offset moves coordinates from the blue half to the red one; clamping and mirroring are no repetition."""
    gltf = Gltf()
    reference = gltf.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    reference["extensions"] = {"KHR_texture_transform": {"offset": [-0.5, 0]}}
    attributes = {"TEXCOORD_0": gltf.add(RED + np.array([0.5, 0], "f4"))}
    np.testing.assert_allclose(color(gltf.mesh(gltf.box(attributes=attributes, material=0)).load(tmp_path)), [1, 0, 0],
                               atol=0.05)  # fmt: skip
    del reference["extensions"]
    for mode, shift, expected in ((10497, 1, [1, 0, 0]), (33071, 1, [0, 0, 1]), (33648, 1, [0, 0, 1])):
        gltf.json["samplers"] = [{"wrapS": mode}]
        gltf.json["textures"][0]["sampler"] = 0
        attributes["TEXCOORD_0"] = gltf.add(RED + np.array([shift, 0], "f4"))
        mesh = gltf.mesh(gltf.box(attributes=attributes, material=0)).load(tmp_path)
        np.testing.assert_allclose(color(mesh), expected, atol=0.05)


def test_instances_and_hierarchies_are_placed(tmp_path: Path) -> None:
    """Two instances along x under a parent that turns x to y, beside an independent reader."""
    gltf = Gltf()
    places = gltf.add(np.array([[-1, 0, 0], [1, 0, 0]], "f4"))
    gltf.mesh(gltf.box())
    half = float(np.sqrt(0.5))
    gltf.json["nodes"] = [
        {"children": [1], "rotation": [0, 0, half, half]},
        {"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": places}}}},
    ]
    gltf.json["extensionsUsed"] = ["EXT_mesh_gpu_instancing"]
    mesh = gltf.load(tmp_path)
    assert len(mesh.faces) == 24 and mesh.missing == ()
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [0.3, 0.3, 0.9], atol=1e-6)  # y of the file is up
    del gltf.json["nodes"][1]["extensions"]
    gltf.json["nodes"][1] |= {"translation": [3, 1, 2], "scale": [1, 2, 3]}
    other = trimesh.load_scene(gltf.write(tmp_path / "model.gltf"), process=False).to_mesh()
    box = np.ptp(other.vertices, axis=0)[[0, 2, 1]]
    np.testing.assert_allclose(np.ptp(gltf.load(tmp_path).vertices, axis=0), box * 0.9 / box.max(), atol=1e-6)


def test_skins_and_morph_targets_at_rest(tmp_path: Path) -> None:
    """A joint scales x by 3; a morph target of weight 1 adds the corners once more along z."""
    gltf = Gltf()
    attributes = {"JOINTS_0": gltf.add(np.zeros((8, 4), "u1")),
                  "WEIGHTS_0": gltf.add(np.tile(np.array([[1, 0, 0, 0]], "f4"), (8, 1)))}  # fmt: skip
    delta = gltf.add((CORNERS * np.array([0, 0, 1])).astype("f4"))
    gltf.mesh(gltf.box(attributes=attributes, targets=[{"POSITION": delta}]))
    gltf.json["meshes"][0]["weights"] = [1]
    gltf.json["nodes"] = [{"mesh": 0, "skin": 0, "translation": [9, 9, 9]}, {"scale": [3, 1, 1]}]
    gltf.json["skins"] = [{"joints": [1]}]
    np.testing.assert_allclose(np.ptp(gltf.load(tmp_path).vertices, axis=0), [0.9, 0.6, 0.3], atol=1e-6)


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colors_of_every_type_multiply(kind: str, width: int, tmp_path: Path) -> None:
    gltf = Gltf()
    values = np.tile(np.array([[0, 0.5, 1, 1]]), (8, 1))[:, :width]
    stored = values.astype("f4") if kind == "f4" else np.rint(values * np.iinfo(kind).max).astype(kind)
    if stored.strides[0] % 4:  # vertex attributes are aligned to 4 bytes
        padded = np.zeros((8, 4), kind)
        padded[:, :width] = stored
        view = gltf.view(padded, byteStride=4 * padded.itemsize)
        gltf.json["accessors"].append({"bufferView": view, "componentType": KINDS[kind], "count": 8,
                                       "type": WIDTHS[width], "normalized": True})  # fmt: skip
        index = len(gltf.json["accessors"]) - 1
    else:
        index = gltf.add(stored, normalized=kind != "f4")
    mesh = gltf.mesh(gltf.box(attributes={"COLOR_0": index})).load(tmp_path)
    np.testing.assert_allclose(mesh.colors[0, 0], [0, 0.735, 1, 1], atol=4e-3)  # sRGB of one half
    assert mesh.missing == ()


def test_a_glb_with_an_external_buffer_and_the_default_scene(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.mesh(gltf.box(material=1))
    gltf.json |= {"scene": 1, "scenes": [{"nodes": []}, {"nodes": [0]}]}
    (tmp_path / "part 1.bin").write_bytes(gltf.raw)
    gltf.json["buffers"] = [{"byteLength": len(gltf.raw), "uri": "part%201.bin"}]
    text = json.dumps(gltf.json).encode()
    text += b" " * (-len(text) % 4)
    header = b"glTF" + struct.pack("<IIII", 2, 20 + len(text), len(text), 0x4E4F534A)
    (tmp_path / "model.glb").write_bytes(header + text)
    assert len(loader.load(MeshFile(tmp_path / "model.glb")).faces) == 12
    (tmp_path / "part 1.bin").unlink()
    with pytest.raises(UserError, match=r"buffers\[0\]: part%201\.bin not found"):
        loader.load(MeshFile(tmp_path / "model.glb"))


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "KHR_texture_basisu", "ACME_voxels"])
def test_a_required_extension_that_is_not_supported_is_refused_by_name(name: str, tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.mesh(gltf.box())
    gltf.json["extensionsUsed"] = [name]
    mesh = gltf.load(tmp_path)
    assert any(name in text for text in mesh.missing) == (name == "ACME_voxels")
    gltf.json["extensionsRequired"] = [name]
    with pytest.raises(UserError, match=name):
        gltf.load(tmp_path)


def test_meshopt_without_a_fallback_is_refused_although_it_is_not_required(tmp_path: Path) -> None:
    gltf = Gltf()
    path = gltf.mesh(gltf.box()).write(tmp_path / "model.gltf")
    content = json.loads(path.read_text())
    content["buffers"].append({"byteLength": 96, "extensions": {"EXT_meshopt_compression": {"fallback": True}}})
    content["bufferViews"][0] |= {"buffer": 1, "extensions": {"EXT_meshopt_compression": {"buffer": 0}}}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="EXT_meshopt_compression cannot be decoded"):
        loader.load(MeshFile(path))


def test_draco(tmp_path: Path) -> None:
    draco = pytest.importorskip("DracoPy", reason="the optional package DracoPy is not installed")
    gltf, plain = Gltf(), Gltf()
    plain.mesh(plain.box())
    data = np.frombuffer(draco.encode(CORNERS, TRIANGLES.astype("u4"), preserve_order=True), np.uint8)
    box = gltf.box()
    extension = {"bufferView": gltf.view(data), "attributes": {"POSITION": 0}}
    box["extensions"] = {"KHR_draco_mesh_compression": extension}
    gltf.json["extensionsRequired"] = gltf.json["extensionsUsed"] = ["KHR_draco_mesh_compression"]
    corners = gltf.mesh(box).load(tmp_path)
    np.testing.assert_allclose(sorted(triangles(corners)), sorted(triangles(plain.load(tmp_path))), atol=1e-3)


def test_draco_without_its_package_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    gltf = Gltf()
    box = gltf.box()
    box["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    with pytest.raises(UserError, match="KHR_draco_mesh_compression needs the package DracoPy: pip install DracoPy"):
        gltf.mesh(box).load(tmp_path)


def test_points_and_lines_are_warned_about_and_alone_are_refused(tmp_path: Path) -> None:
    gltf = Gltf()
    lines = {"attributes": {"POSITION": gltf.add(CORNERS)}, "mode": 1}
    mesh = gltf.mesh(gltf.box(), lines).load(tmp_path)
    assert len(mesh.faces) == 12
    assert mesh.missing == ("model.gltf: meshes[0].primitives[1]: lines are not drawn",)
    with pytest.raises(UserError, match="holds no triangles"):
        gltf.mesh(lines).load(tmp_path)


def test_specular_glossiness_and_what_is_not_applied(tmp_path: Path) -> None:
    gltf = Gltf()
    diffuse = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [1, 0, 0, 1]}}
    gltf.json["materials"] = [{"extensions": diffuse}, {"emissiveFactor": [1, 0, 0]}]
    mesh = gltf.mesh(gltf.box(material=0), gltf.box(material=1)).load(tmp_path)
    np.testing.assert_allclose(mesh.materials[0].color, [1, 0, 0, 1])
    assert mesh.missing == ("model.gltf: materials[1]: emission is not applied",)


@pytest.mark.parametrize(("change", "message"), [
    ({"asset": {"version": "1.0"}}, "glTF version 1.0"),
    ({"nodes": [{"mesh": 0, "children": [0]}]}, "its own ancestor"),
    ({"nodes": [{"mesh": 7}]}, r"meshes\[7\] does not exist"),
    ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": 999, "type": "VEC3"}]}, "not inside its buffer"),
])  # fmt: skip
def test_damaged_files_are_refused_with_the_place(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.mesh(gltf.box())
    gltf.json |= change
    with pytest.raises(UserError, match=message):
        gltf.load(tmp_path)
