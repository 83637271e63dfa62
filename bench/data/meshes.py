"""A user's mesh files, read by trimesh → triangles with textures, ready to be ray-cast. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from bench.data import raycast
from bench.data.scene import FIELD_OF_VIEW, VIEWS, SceneData, gobjaverse_cameras
from bench.errors import BadInput

SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off", ".zip")
Z_UP = (".ply", ".stl", ".off")  # by custom; the others are y-up
LONGEST_SIDE = 0.9  # of the normalised object's box, as in G-Objaverse
SEEN = 0.5  # opacity from which a surface counts


@dataclass(frozen=True)
class Material:
    """A colour (RGBA in [0, 1]) and a texture that replaces or multiplies it."""

    colour: NDArray[np.float64]
    texture: Image.Image | None = None

    @cached_property
    def pyramid(self) -> list[NDArray[np.float64]]:
        """The texture (height, width, 4) in [0, 1] and its halves, down to one texel's side."""
        image = (self.texture or Image.new("RGBA", (1, 1), "white")).convert("RGBA")
        levels = [image]
        while min(levels[-1].size) > 1:
            levels.append(levels[-1].reduce(2))
        return [np.asarray(level, dtype=np.float64) / 255 for level in levels]

    def at(self, uv: NDArray[np.float64], level: NDArray[np.int64]) -> NDArray[np.float64]:
        """RGBA (ray, 4) at texture coordinates (ray, 2), repeated beyond [0, 1], v upwards; bilinear."""
        found = np.empty((len(uv), 4))
        for i, texels in enumerate(self.pyramid):
            mine = level == i
            found[mine] = _bilinear(texels, uv[mine])
        return found * self.colour


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world: z up, the box centred, its longest side LONGEST_SIDE."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: NDArray[np.int64]  # (F, 3)
    uv: NDArray[np.float64]  # (F, 3, 2) of each face's corners; 0 without texture
    colours: NDArray[np.float64]  # (F, 3, 3) of each face's corners; 1 without vertex colours
    normals: NDArray[np.float64]  # (F, 3, 3) for shading, of each face's corners
    material: NDArray[np.int64]  # (F,)
    materials: tuple[Material, ...]

    @cached_property
    def digest(self) -> str:
        """Of the geometry, whatever the file's name and materials."""
        return hashlib.sha256(np.round(self.vertices[self.faces], 5).tobytes()).hexdigest()


def load(path: Path | Any, file_type: str | None = None, resolver: Any = None) -> Mesh:
    """A file's triangles, all parts together; `path` may be an open file of a type, with a resolver for textures.

    Raises BadInput for what cannot be read or holds no surface.
    """
    suffix = f".{file_type}" if file_type else Path(path).suffix.lower()
    try:
        scene = trimesh.load_scene(path, file_type=file_type, resolver=resolver, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except Exception as error:  # trimesh raises many kinds for damaged files
        raise BadInput(f"{path}: cannot be read as a mesh ({type(error).__name__}: {error})") from error
    pieces = [piece for piece in map(_piece, parts) if piece is not None]
    if not pieces:
        raise BadInput(f"{path}: holds no triangles of any area")
    if (solid := [piece for piece in pieces if piece.materials[0].colour[3] >= SEEN]) and len(solid) < len(pieces):
        pieces = solid  # panes of glass hide nothing, where there is anything else
    return _normalised(_joined(pieces), y_up=suffix not in Z_UP)


def render(mesh: Mesh, size: int) -> SceneData:
    """All 40 views, `size` pixels a side; radii and elevations of the rings follow from the geometry."""
    random = np.random.default_rng(int(mesh.digest[:16], 16))
    radii, elevations = random.uniform(1.6, 2.0, 2), np.radians([random.uniform(5, 30), random.uniform(-5, 5)])
    poses = gobjaverse_cameras((radii[0], radii[1]), (elevations[0], elevations[1]))
    triangles, levels = raycast.Triangles(mesh.vertices, mesh.faces), _texels_a_length(mesh)
    pixel = 2 * np.tan(FIELD_OF_VIEW / 2) / (size * raycast.SAMPLES)  # a ray's width at depth 1

    def surface(hits: raycast.Hits) -> NDArray[np.float64]:
        """RGBA of the materials."""
        uv = np.einsum("rk,rkc->rc", hits.weights, mesh.uv[hits.face])
        level = np.log2(np.maximum(levels[hits.face] * hits.depth * pixel, 1e-9)).round().astype(np.int64)
        rgba = np.empty((len(hits.face), 4))
        for i, material in enumerate(mesh.materials):
            mine = mesh.material[hits.face] == i
            rgba[mine] = material.at(uv[mine], level[mine].clip(0, len(material.pyramid) - 1))
        return rgba

    def paint(hits: raycast.Hits) -> NDArray[np.float64]:
        colour = surface(hits)[:, :3] * np.einsum("rk,rkc->rc", hits.weights, mesh.colours[hits.face])
        shading = np.einsum("rk,rkc->rc", hits.weights, mesh.normals[hits.face])
        shading *= np.where((shading * hits.normal).sum(-1, keepdims=True) < 0, -1, 1)
        return raycast.lit(colour, shading / np.maximum(np.linalg.norm(shading, axis=-1, keepdims=True), 1e-12))

    holes = any(m.texture is not None and m.texture.mode in ("RGBA", "LA", "PA", "P") for m in mesh.materials)
    opaque = (lambda hits: surface(hits)[:, 3] >= SEEN) if holes else None
    views = [triangles.view(pose, size, paint, opaque) for pose in poses]
    images, depth, normals = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return SceneData(images, depth, normals, poses, np.full(VIEWS, FIELD_OF_VIEW))


def _piece(part: trimesh.Trimesh) -> Mesh | None:
    """One part of a file, which has one material; faces without area are left out, None if all are."""
    faces = np.asarray(part.faces)[np.asarray(part.area_faces) > 0]
    vertices = np.asarray(part.vertices, dtype=np.float64)
    if not len(faces) or not np.isfinite(vertices[faces]).all():
        return None
    visual: Any = part.visual
    uv = getattr(visual, "uv", None)
    coloured = visual.kind == "vertex"
    corners = vertices[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
    given = part._cache.cache.get("vertex_normals")  # the file's own; computed ones would round off edges
    return Mesh(
        vertices, faces,
        np.asarray(uv, dtype=np.float64)[faces] if uv is not None else np.zeros((len(faces), 3, 2)),
        np.asarray(visual.vertex_colors)[faces][..., :3] / 255.0 if coloured else np.ones((len(faces), 3, 3)),
        np.asarray(given)[faces] if given is not None else np.repeat(flat[:, None], 3, 1),
        np.zeros(len(faces), dtype=np.int64),
        (_material(visual, uv is not None, coloured),),
    )  # fmt: skip


def _material(visual: Any, mapped: bool, coloured: bool) -> Material:
    """glTF multiplies texture and factor; of an OBJ the texture alone is shown, as most viewers do."""
    material = getattr(visual, "material", None)
    if material is None:
        face_colour = None if coloured else np.asarray(visual.main_color, dtype=np.float64) / 255
        return Material(np.ones(4) if face_colour is None else face_colour)
    if hasattr(material, "baseColorFactor"):
        factor = material.baseColorFactor
        colour = np.ones(4) if factor is None else np.asarray(factor, dtype=np.float64) / 255
        return Material(colour, material.baseColorTexture if mapped else None)
    opacity = float((material.kwargs.get("d") or ["1"])[0])
    if mapped and material.image is not None:
        return Material(np.array([1, 1, 1, opacity]), material.image)
    return Material(np.array([*np.asarray(material.diffuse)[:3] / 255.0, opacity]))


def _joined(pieces: list[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    return Mesh(
        vertices=np.concatenate([piece.vertices for piece in pieces]),
        faces=np.concatenate([piece.faces + start for piece, start in zip(pieces, starts[:-1], strict=True)]),
        uv=np.concatenate([piece.uv for piece in pieces]),
        colours=np.concatenate([piece.colours for piece in pieces]),
        normals=np.concatenate([piece.normals for piece in pieces]),
        material=np.repeat(np.arange(len(pieces)), [len(piece.faces) for piece in pieces]),
        materials=tuple(material for piece in pieces for material in piece.materials),
    )


def _normalised(mesh: Mesh, y_up: bool) -> Mesh:
    """z up; the box of what the faces use centred, its longest side LONGEST_SIDE."""
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) if y_up else np.eye(3)
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = (used @ turn.T).min(0), (used @ turn.T).max(0)
    vertices = (mesh.vertices @ turn.T - (low + high) / 2) * (LONGEST_SIDE / (high - low).max())
    return Mesh(vertices, mesh.faces, mesh.uv, mesh.colours, mesh.normals @ turn.T, mesh.material, mesh.materials)


def _texels_a_length(mesh: Mesh) -> NDArray[np.float64]:
    """(F,) texels of the full texture along a unit of length: which level of the pyramid a ray's width asks for."""
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    first, second = (mesh.uv[:, i] - mesh.uv[:, 0] for i in (1, 2))
    mapped = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    texels = np.array([m.texture.size[0] * m.texture.size[1] if m.texture else 0 for m in mesh.materials])
    density: NDArray[np.float64] = np.sqrt(mapped * texels[mesh.material] / np.maximum(area, 1e-12))
    return density


def _bilinear(texels: NDArray[np.float64], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = texels.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    rows, columns = (top % height, (top + 1) % height), (left % width, (left + 1) % width)
    above = texels[rows[0], columns[0]] * (1 - right_share) + texels[rows[0], columns[1]] * right_share
    below = texels[rows[1], columns[0]] * (1 - right_share) + texels[rows[1], columns[1]] * right_share
    blended: NDArray[np.float64] = above * (1 - low_share) + below * low_share
    return blended


def find(paths: list[Path]) -> Iterator[Path]:
    """Mesh files: those named, and all below folders named. Raises BadInput for what is not there."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            yield path
        else:
            raise BadInput(f"{path}: no such file or folder")
