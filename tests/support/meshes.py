"""Small mesh files and the package that holds some."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import trimesh
from PIL import Image

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
    """A horizontal square, y up, whose texture has one color a quarter; with `alpha` the red one is transparent."""
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


def deb(path: Path, files: dict[str, bytes]) -> Path:
    """An ar archive of debian-binary, control.tar.xz and data.tar.xz."""
    packed, control = io.BytesIO(), io.BytesIO()
    tarfile.open(fileobj=control, mode="w:xz").close()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./usr/share/sweethome3d/furniture/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": control.getvalue(), "data.tar.xz": packed.getvalue()}
    content = b"!<arch>\n"
    for name, data in members.items():
        header = f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        content += header.encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(content)
    return path


def small_meshes(folder: Path) -> Path:
    """A box, an ellipsoid and a cone as PLY, GLB and OBJ; the first two have colors by position."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"box.ply": trimesh.creation.box((2, 1, 1)), "ball.glb": trimesh.creation.icosphere(subdivisions=3)}
    shapes["ball.glb"].apply_scale((1, 0.7, 0.5))
    for name, mesh in shapes.items():
        mesh.visual.vertex_colors = (255 * np.clip(mesh.vertices / 2 + 0.5, 0, 1)).astype(np.uint8)
        mesh.export(folder / name)
    trimesh.creation.cone(0.5, 1.5).export(folder / "cone.obj")
    return folder
