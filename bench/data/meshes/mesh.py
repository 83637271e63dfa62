"""Triangles with colors and textures: the parts that readers return, and the normalized mesh made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.materials import Material

LONGEST_SIDE = 0.9  # of the normalized object's box, as in G-Objaverse
MAX_TRIANGLES = 20_000_000  # about 8 GB
MAX_COORDINATE = 1e18  # beyond, squares of areas overflow


@dataclass(frozen=True)
class Part:
    """Triangles of one material, in the file's coordinates. Arrays of corners are None where the file has none."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: NDArray[np.int64]  # (F, 3)
    material: Material
    uv: NDArray[np.float64] | None = None  # (F, 3, 2), v upwards
    colors: NDArray[np.float64] | None = None  # (F, 3, 4), sRGB and opacity
    normals: NDArray[np.float64] | None = None  # (F, 3, 3); rows of 0 are unknown


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world: z up, the box centered, its longest side LONGEST_SIDE."""

    vertices: NDArray[np.float64]  # (V, 3)
    faces: NDArray[np.int64]  # (F, 3)
    uv: NDArray[np.float64]  # (F, 3, 2) of each face's corners; 0 without texture
    colors: NDArray[np.float64]  # (F, 3, 4) of each face's corners; 1 without vertex colors
    normals: NDArray[np.float64]  # (F, 3, 3) for shading, of each face's corners
    material: NDArray[np.int64]  # (F,)
    materials: tuple[Material, ...]
    missing: tuple[str, ...] = ()  # what the file has and could not be read, or has no effect

    @cached_property
    def digest(self) -> str:
        """Of the geometry, whatever the file's name and materials."""
        return hashlib.sha256(np.round(self.vertices[self.faces], 5).tobytes()).hexdigest()


def assemble(parts: Sequence[Part], z_up: bool) -> Mesh:
    """All parts as one mesh, turned so that z is up, centered and scaled.

    Faces without area are dropped, and where there are others, parts below their cutoff of opacity (panes of glass).
    Raises UserError where there is no surface, or where it has coordinates that are not finite or too many triangles.
    """
    if sum(len(part.faces) for part in parts) > MAX_TRIANGLES:
        raise UserError(f"more than {MAX_TRIANGLES:,} triangles")
    meshes = [mesh for part in parts if (mesh := _with_area(part)) is not None]
    if not meshes:
        raise UserError("holds no triangles of any area")
    opaque = [mesh for mesh in meshes if mesh.materials[0].color[3] >= mesh.materials[0].cutoff]
    return _normalized(_concatenated(opaque or meshes), z_up)


def _with_area(part: Part) -> Mesh | None:
    """A part with the defaults of what it lacks, without faces of no area; None if none is left."""
    corners = part.vertices[part.faces]
    if not (np.abs(corners) <= MAX_COORDINATE).all():
        raise UserError("has coordinates that are not finite, or absurdly large")
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]), axis=-1)
    solid = area > 0
    if not solid.any():
        return None
    faces, corners = part.faces[solid], corners[solid]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    normals = np.repeat(flat[:, None], 3, 1)
    if part.normals is not None:
        known = np.isfinite(part.normals[solid]).all(-1) & (part.normals[solid] != 0).any(-1)
        normals = np.where(known.all(-1)[:, None, None], part.normals[solid], normals)
    count = len(faces)
    return Mesh(
        part.vertices, faces,
        part.uv[solid] if part.uv is not None else np.zeros((count, 3, 2)),
        part.colors[solid] if part.colors is not None else np.ones((count, 3, 4)),
        normals, np.zeros(count, dtype=np.int64), (part.material,),
    )  # fmt: skip


def _concatenated(meshes: Sequence[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]),
        uv=np.concatenate([mesh.uv for mesh in meshes]),
        colors=np.concatenate([mesh.colors for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        material=np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes]),
        materials=tuple(material for mesh in meshes for material in mesh.materials),
    )


def _normalized(mesh: Mesh, z_up: bool) -> Mesh:
    """z up; the box of what the faces use centered, its longest side LONGEST_SIDE."""
    turn = np.eye(3) if z_up else np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = (used @ turn.T).min(0), (used @ turn.T).max(0)
    vertices = (mesh.vertices @ turn.T - (low + high) / 2) * (LONGEST_SIDE / (high - low).max())
    return replace(mesh, vertices=vertices, normals=mesh.normals @ turn.T)
