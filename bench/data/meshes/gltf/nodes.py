"""Nodes → what is drawn where (glTF 2.0, section 3.5): hierarchies, skins, EXT_mesh_gpu_instancing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.gltf.accessors import read_accessor
from bench.data.meshes.gltf.document import Document, Json

INSTANCING, VISIBILITY = "EXT_mesh_gpu_instancing", "KHR_node_visibility"


def drawn_nodes(document: Document) -> Iterator[int]:
    """Indices of the nodes of the default scene, depth first. Raises UserError."""
    nodes = document.json.get("nodes", [])
    pending = list(reversed(_roots(document)))
    visited: set[int] = set()
    while pending:
        index = pending.pop()
        if index in visited:
            raise UserError(f"nodes[{index}] has two parents, or is its own ancestor")
        visited.add(index)
        node = document.item("nodes", index)
        if not node.get("extensions", {}).get(VISIBILITY, {}).get("visible", True):
            continue
        yield index
        pending += reversed(node.get("children", []))
        if len(pending) > len(nodes):
            raise UserError("its nodes are no tree")


def _roots(document: Document) -> list[int]:
    """Of the default scene, else of the first one; without scenes, all nodes that are no children."""
    if document.json.get("scenes"):
        return list(document.item("scenes", document.json.get("scene", 0)).get("nodes", []))
    nodes = document.json.get("nodes", [])
    children = {child for node in nodes for child in node.get("children", [])}
    return [index for index in range(len(nodes)) if index not in children]


class Transforms:
    """Of nodes: local to world, (4, 4), each computed once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        nodes = document.json.get("nodes", [])
        self._parents = {child: index for index, node in enumerate(nodes) for child in node.get("children", [])}
        self._world: dict[int, NDArray[np.float64]] = {}

    def world(self, index: int) -> NDArray[np.float64]:
        """Raises UserError."""
        chain = [index]
        while (parent := self._parents.get(chain[-1])) is not None and parent not in self._world:
            chain.append(parent)
            if len(chain) > len(self._parents) + 1:
                raise UserError(f"nodes[{index}] is its own ancestor")
        for node in reversed(chain):
            if node not in self._world:
                above = self._world.get(self._parents.get(node, -1), np.eye(4))
                self._world[node] = above @ _local(self.document.item("nodes", node), f"nodes[{node}]")
        return self._world[index]

    def instances(self, index: int) -> NDArray[np.float64]:
        """(instance, 4, 4) of a node's mesh; one without EXT_mesh_gpu_instancing. Raises UserError."""
        world = self.world(index)
        extension = self.document.item("nodes", index).get("extensions", {}).get(INSTANCING)
        if extension is None:
            return world[None]
        arrays = {name: read_accessor(self.document, i) for name, i in extension["attributes"].items()}
        counts = {len(values) for values in arrays.values()}
        if len(counts) != 1:
            raise UserError(f"nodes[{index}]: {INSTANCING}: attributes of different lengths")
        count = counts.pop()
        translation = arrays.get("TRANSLATION", np.zeros((count, 3)))
        rotation = arrays.get("ROTATION", np.tile([0.0, 0, 0, 1], (count, 1)))
        scale = arrays.get("SCALE", np.ones((count, 3)))
        matrices: NDArray[np.float64] = world @ _compose(translation, rotation, scale)
        return matrices

    def joints(self, skin: int) -> NDArray[np.float64]:
        """(joint, 4, 4): a skinned vertex at rest to the world, by each joint of a skin. Raises UserError."""
        entry = self.document.item("skins", skin)
        world = np.stack([self.world(joint) for joint in entry["joints"]])
        if "inverseBindMatrices" not in entry:
            return world
        inverse = read_accessor(self.document, entry["inverseBindMatrices"])
        if len(inverse) < len(world) or inverse.shape[1] != 16:
            raise UserError(f"skins[{skin}]: fewer inverse bind matrices than joints")
        return world @ inverse[: len(world)].reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)


def _local(node: Json, where: str) -> NDArray[np.float64]:
    if "matrix" in node:
        matrix = np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    else:
        translation, scale = node.get("translation", (0, 0, 0)), node.get("scale", (1, 1, 1))
        rotation = node.get("rotation", (0, 0, 0, 1))
        matrix = _compose(*(np.array([values], dtype=np.float64) for values in (translation, rotation, scale)))[0]
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: its transform is not finite")
    return matrix


def _compose(
    translation: NDArray[np.float64], rotation: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, 4, 4) of (n, 3), quaternions xyzw (n, 4) and (n, 3)."""
    unit = rotation / np.maximum(np.linalg.norm(rotation, axis=-1, keepdims=True), 1e-30)
    x, y, z, w = unit.T
    matrix = np.zeros((len(translation), 4, 4))
    matrix[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1)
    matrix[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1)
    matrix[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1)
    matrix[:, :3, :3] *= scale[:, None, :]
    matrix[:, :3, 3], matrix[:, 3, 3] = translation, 1
    return matrix


def blend_joints(
    joints: NDArray[np.float64], indices: Sequence[NDArray[np.float64]], weights: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """(vertex, 4, 4): joints (joint, 4, 4) by indices and weights (vertex, 4), one pair for each set of four.

    Raises UserError.
    """
    index = np.concatenate(indices, 1).astype(np.int64)
    weight = np.concatenate(weights, 1)
    if not 0 <= index.min() <= index.max() < len(joints):
        raise UserError(f"JOINTS_0: an index is not among the skin's {len(joints)} joints")
    total = np.maximum(weight.sum(1, keepdims=True), 1e-30)
    blended = np.zeros((len(index), 4, 4))
    for k in range(index.shape[1]):
        blended += (weight[:, k] / total[:, 0])[:, None, None] * joints[index[:, k]]
    return blended
