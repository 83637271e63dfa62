"""A mesh, ray-cast from the 40 cameras of G-Objaverse. No torch here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data import raycast
from bench.data.meshes.mesh import Mesh
from bench.data.scene import FIELD_OF_VIEW, VIEWS, SceneData, gobjaverse_cameras


def render_views(mesh: Mesh, size: int) -> SceneData:
    """All 40 views, `size` pixels a side; radii and elevations of the rings follow from the geometry."""
    random = np.random.default_rng(int(mesh.digest[:16], 16))
    radii, elevations = random.uniform(1.6, 2.0, 2), np.radians([random.uniform(5, 30), random.uniform(-5, 5)])
    poses = gobjaverse_cameras((radii[0], radii[1]), (elevations[0], elevations[1]))
    triangles, density = raycast.Triangles(mesh.vertices, mesh.faces), _texel_density(mesh)
    pixel = 2 * np.tan(FIELD_OF_VIEW / 2) / (size * raycast.SAMPLES)  # a ray's width at depth 1
    cutoffs = np.array([material.cutoff for material in mesh.materials])

    def surface(hits: raycast.Hits) -> NDArray[np.float64]:
        """RGBA (ray, 4) of materials and vertex colors."""
        uv = np.einsum("rk,rkc->rc", hits.weights, mesh.uv[hits.face])
        level = np.log2(np.maximum(density[hits.face] * hits.depth * pixel, 1e-9)).round().astype(np.int64)
        rgba, index = np.empty((len(hits.face), 4)), mesh.material[hits.face]
        for i in np.unique(index):
            rays, material = index == i, mesh.materials[i]
            rgba[rays] = material.at(uv[rays], level[rays].clip(0, len(material.pyramid) - 1))
        rgba *= np.einsum("rk,rkc->rc", hits.weights, mesh.colors[hits.face])
        return rgba

    def paint(hits: raycast.Hits) -> NDArray[np.float64]:
        shading = np.einsum("rk,rkc->rc", hits.weights, mesh.normals[hits.face])
        shading *= np.where((shading * hits.normal).sum(-1, keepdims=True) < 0, -1, 1)
        shading /= np.maximum(np.linalg.norm(shading, axis=-1, keepdims=True), 1e-12)
        return raycast.lit(surface(hits)[:, :3], shading)

    def opaque(hits: raycast.Hits) -> NDArray[np.bool_]:
        stops: NDArray[np.bool_] = surface(hits)[:, 3] >= cutoffs[mesh.material[hits.face]]
        return stops

    holes = any(material.has_holes for material in mesh.materials)
    translucent = (mesh.colors[..., 3].min(-1) < 1) & (cutoffs[mesh.material] > 0)
    views = [triangles.view(pose, size, paint, opaque if holes or translucent.any() else None) for pose in poses]
    images, depth, normals = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return SceneData(images, depth, normals, poses, np.full(VIEWS, FIELD_OF_VIEW))


def _texel_density(mesh: Mesh) -> NDArray[np.float64]:
    """(F,) texels of the full texture along a unit of length: selects the pyramid's level for a ray's width."""
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    first, second = (mesh.uv[:, i] - mesh.uv[:, 0] for i in (1, 2))
    mapped = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    texels = np.array([m.texture.size[0] * m.texture.size[1] if m.texture else 0 for m in mesh.materials])
    density: NDArray[np.float64] = np.sqrt(mapped * texels[mesh.material] / np.maximum(area, 1e-12))
    return density
