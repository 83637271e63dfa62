"""A user's mesh files, read by trimesh → triangles with textures, ready to be ray-cast. No torch here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import trimesh
from numpy.typing import NDArray

from bench.common.compat import file_vertex_normals
from bench.common.errors import UserError
from bench.data import raycast
from bench.data.meshes.files import AssetResolver, MeshFile
from bench.data.meshes.materials import (
    OPAQUE_FROM,
    Material,
    material_of,
    vertex_colors,
)
from bench.data.scene import (
    FIELD_OF_VIEW,
    VIEWS,
    SceneData,
    gobjaverse_cameras,
)

Z_UP = (".ply", ".stl", ".off")  # by custom; the others are y-up
LINEAR = (".glb", ".gltf")  # their colors, but for textures, are linear
LONGEST_SIDE = 0.9  # of the normalized object's box, as in G-Objaverse


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world: z up, the box centered, its longest side LONGEST_SIDE."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: NDArray[np.int64]  # (F, 3)
    uv: NDArray[np.float64]  # (F, 3, 2) of each face's corners; 0 without texture
    colors: NDArray[np.float64]  # (F, 3, 3) of each face's corners; 1 without vertex colors
    normals: NDArray[np.float64]  # (F, 3, 3) for shading, of each face's corners
    material: NDArray[np.int64]  # (F,)
    materials: tuple[Material, ...]
    missing: tuple[str, ...] = ()  # materials and textures that the file names and that cannot be had

    @cached_property
    def digest(self) -> str:
        """Of the geometry, whatever the file's name and materials."""
        return hashlib.sha256(np.round(self.vertices[self.faces], 5).tobytes()).hexdigest()


def load(file: MeshFile) -> Mesh:
    """A file's triangles, all parts together. Raises UserError for what cannot be read or holds no surface."""
    content, beside = file.open()
    try:
        scene = trimesh.load_scene(content, file_type=file.suffix[1:], resolver=beside, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
        pieces = [piece for part in parts if (piece := _piece(part, linear=file.suffix in LINEAR, beside=beside))]
    except Exception as error:  # trimesh raises many kinds for damaged files
        raise UserError(f"{file}: cannot be read as a mesh ({type(error).__name__}: {error})") from error
    if not pieces:
        raise UserError(f"{file}: holds no triangles of any area")
    if (solid := [piece for piece in pieces if piece.materials[0].color[3] >= OPAQUE_FROM]) and len(solid) < len(
        pieces
    ):
        pieces = solid  # panes of glass hide nothing, where there is anything else
    missing = tuple(dict.fromkeys(beside.missing))
    return replace(_normalized(_joined(pieces), y_up=file.suffix not in Z_UP), missing=missing)


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
        rgba, of = np.empty((len(hits.face), 4)), mesh.material[hits.face]
        for i in np.unique(of):
            mine, material = of == i, mesh.materials[i]
            rgba[mine] = material.at(uv[mine], level[mine].clip(0, len(material.pyramid) - 1))
        return rgba

    def paint(hits: raycast.Hits) -> NDArray[np.float64]:
        color = surface(hits)[:, :3] * np.einsum("rk,rkc->rc", hits.weights, mesh.colors[hits.face])
        shading = np.einsum("rk,rkc->rc", hits.weights, mesh.normals[hits.face])
        shading *= np.where((shading * hits.normal).sum(-1, keepdims=True) < 0, -1, 1)
        return raycast.lit(color, shading / np.maximum(np.linalg.norm(shading, axis=-1, keepdims=True), 1e-12))

    cutoff = np.array([material.cutoff for material in mesh.materials])

    def opaque(hits: raycast.Hits) -> NDArray[np.bool_]:
        stops: NDArray[np.bool_] = surface(hits)[:, 3] >= cutoff[mesh.material[hits.face]]
        return stops

    holes = any(material.has_holes for material in mesh.materials)
    views = [triangles.view(pose, size, paint, opaque if holes else None) for pose in poses]
    images, depth, normals = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return SceneData(images, depth, normals, poses, np.full(VIEWS, FIELD_OF_VIEW))


def _piece(part: trimesh.Trimesh, linear: bool, beside: AssetResolver) -> Mesh | None:
    """One part of a file, which has one material; faces without area are left out, None if all are."""
    faces = np.asarray(part.faces)[np.asarray(part.area_faces) > 0]
    vertices = np.asarray(part.vertices, dtype=np.float64)
    if not len(faces) or not np.isfinite(vertices[faces]).all():
        return None
    uv = getattr(part.visual, "uv", None)
    colors = vertex_colors(part.visual, linear)
    corners = vertices[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
    given = file_vertex_normals(part)  # the file's own; computed ones would round off edges
    return Mesh(
        vertices, faces,
        np.nan_to_num(np.asarray(uv, dtype=np.float64))[faces] if uv is not None else np.zeros((len(faces), 3, 2)),
        colors[faces] if colors is not None else np.ones((len(faces), 3, 3)),
        given[faces] if given is not None else np.repeat(flat[:, None], 3, 1),
        np.zeros(len(faces), dtype=np.int64),
        (material_of(part.visual, linear, beside),),
    )  # fmt: skip


def _joined(pieces: list[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    return Mesh(
        vertices=np.concatenate([piece.vertices for piece in pieces]),
        faces=np.concatenate([piece.faces + start for piece, start in zip(pieces, starts[:-1], strict=True)]),
        uv=np.concatenate([piece.uv for piece in pieces]),
        colors=np.concatenate([piece.colors for piece in pieces]),
        normals=np.concatenate([piece.normals for piece in pieces]),
        material=np.repeat(np.arange(len(pieces)), [len(piece.faces) for piece in pieces]),
        materials=tuple(material for piece in pieces for material in piece.materials),
    )


def _normalized(mesh: Mesh, y_up: bool) -> Mesh:
    """z up; the box of what the faces use centered, its longest side LONGEST_SIDE."""
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) if y_up else np.eye(3)
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = (used @ turn.T).min(0), (used @ turn.T).max(0)
    vertices = (mesh.vertices @ turn.T - (low + high) / 2) * (LONGEST_SIDE / (high - low).max())
    return replace(mesh, vertices=vertices, normals=mesh.normals @ turn.T)


def _texels_a_length(mesh: Mesh) -> NDArray[np.float64]:
    """(F,) texels of the full texture along a unit of length: which level of the pyramid a ray's width asks for."""
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    first, second = (mesh.uv[:, i] - mesh.uv[:, 0] for i in (1, 2))
    mapped = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    texels = np.array([m.texture.size[0] * m.texture.size[1] if m.texture else 0 for m in mesh.materials])
    density: NDArray[np.float64] = np.sqrt(mapped * texels[mesh.material] / np.maximum(area, 1e-12))
    return density
