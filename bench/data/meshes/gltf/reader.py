"""A glTF 2.0 file (text or GLB) → parts, one for each drawn primitive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets
from bench.data.meshes.gltf.document import Document
from bench.data.meshes.gltf.materials import Binding, Materials
from bench.data.meshes.gltf.nodes import Transforms, blend_joints, drawn_nodes
from bench.data.meshes.gltf.primitives import Attributes, read_primitive
from bench.data.meshes.materials import linear_to_srgb
from bench.data.meshes.mesh import MAX_TRIANGLES, Part


def read_gltf(content: bytes, name: str, assets: Assets) -> list[Part]:
    """What the default scene draws, at rest. What is not applied is listed in `assets.missing`.

    Raises UserError for a file that is damaged or requires what is not supported.
    """
    document = Document(content, name, assets)
    materials, transforms = Materials(document), Transforms(document)
    parts: list[Part] = []
    for index in drawn_nodes(document):
        if "mesh" in document.item("nodes", index):
            parts += _mesh_parts(document, index, materials, transforms)
            if sum(len(part.faces) for part in parts) > MAX_TRIANGLES:
                raise UserError(f"more than {MAX_TRIANGLES:,} triangles")
    return parts


def _mesh_parts(document: Document, index: int, materials: Materials, transforms: Transforms) -> Iterator[Part]:
    """The parts of a node's mesh."""
    node = document.item("nodes", index)
    mesh = document.item("meshes", node["mesh"])
    weights = node.get("weights") or mesh.get("weights") or []
    for number, primitive in enumerate(mesh["primitives"]):
        where = f"meshes[{node['mesh']}].primitives[{number}]"
        content = read_primitive(document, primitive, weights, where)
        if content is None:
            continue
        attributes, faces = content
        binding = materials[primitive.get("material")]
        matrices = _matrices(attributes, node.get("skin"), index, transforms)
        if len(faces) * len(matrices) > MAX_TRIANGLES:
            raise UserError(f"more than {MAX_TRIANGLES:,} triangles")
        for matrix in matrices:
            yield _part(attributes, faces, binding, matrix, document, where)


def _matrices(
    attributes: Attributes, skin: int | None, index: int, transforms: Transforms
) -> list[NDArray[np.float64]]:
    """To the world, for each instance: (4, 4), or (vertex, 4, 4) of a skin, whatever the node's own place."""
    if skin is None:
        return list(transforms.instances(index))
    sets = sorted(name.removeprefix("JOINTS_") for name in attributes if name.startswith("JOINTS_"))
    indices, weights = ([attributes[f"{kind}_{n}"] for n in sets] for kind in ("JOINTS", "WEIGHTS"))
    if not sets:
        return [transforms.world(index)]
    return [blend_joints(transforms.joints(skin), indices, weights)]


def _part(
    attributes: Attributes,
    faces: NDArray[np.int64],
    binding: Binding,
    matrix: NDArray[np.float64],
    document: Document,
    where: str,
) -> Part:
    positions = attributes["POSITION"]
    vertices = (matrix[..., :3, :3] @ positions[..., None])[..., 0] + matrix[..., :3, 3]
    normals = None
    if "NORMAL" in attributes:
        turned = (_cofactors(matrix[..., :3, :3]) @ attributes["NORMAL"][..., None])[..., 0]
        normals = (turned / np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-30))[faces]
    uv, material = _texture_coordinates(attributes, binding, document, where), binding.material
    if uv is None and material.texture is not None:
        material = type(material)(material.color, None, material.cutoff)
    return Part(vertices, faces, material, uv[faces] if uv is not None else None, _colors(attributes, faces), normals)


def _texture_coordinates(
    attributes: Attributes, binding: Binding, document: Document, where: str
) -> NDArray[np.float64] | None:
    """(vertex, 2), v upwards; None where the material has no texture, or the primitive not its coordinates."""
    if binding.material.texture is None:
        return None
    stored = attributes.get(f"TEXCOORD_{binding.set}")
    if stored is None:
        document.assets.warn(f"{document.name}: {where}: no TEXCOORD_{binding.set} for its texture")
        return None
    uv = stored if binding.transform is None else stored @ binding.transform[:, :2].T + binding.transform[:, 2]
    if not np.isfinite(uv).all():
        document.assets.warn(f"{document.name}: {where}: texture coordinates that are not finite")
        uv = np.nan_to_num(uv, posinf=0, neginf=0)
    return np.stack([uv[:, 0], 1 - uv[:, 1]], -1)


def _colors(attributes: Attributes, faces: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """(F, 3, 4) of COLOR_0, which is linear, as sRGB."""
    stored = attributes.get("COLOR_0")
    if stored is None:
        return None
    values = np.nan_to_num(np.clip(stored, 0, 1))
    alpha = values[:, 3:] if values.shape[1] == 4 else np.ones((len(values), 1))
    return np.concatenate([linear_to_srgb(values[:, :3]), alpha], -1)[faces]


def _cofactors(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…, 3, 3) that turns normals: the inverse transpose up to a factor, also of singular matrices."""
    a, b, c = (matrix[..., i, :] for i in range(3))
    cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -2)
    return cofactors * np.where(np.linalg.det(matrix) < 0, -1, 1)[..., None, None]
