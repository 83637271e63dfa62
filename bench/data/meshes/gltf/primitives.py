"""Primitives → triangles with attributes (glTF 2.0, section 3.7): all modes, morph targets, Draco compression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.gltf.accessors import dequantized, read_accessor
from bench.data.meshes.gltf.document import Document, Json

POINTS, LINES, LINE_LOOP, LINE_STRIP, TRIANGLES, STRIP, FAN = range(7)
DRACO = "KHR_draco_mesh_compression"
WIDTHS = {"POSITION": (3,), "NORMAL": (3,), "TEXCOORD": (2,), "COLOR": (3, 4), "JOINTS": (4,), "WEIGHTS": (4,)}

Attributes = dict[str, NDArray[np.float64]]  # (vertex, width)


def read_primitive(
    document: Document, primitive: Json, weights: Sequence[float], where: str
) -> tuple[Attributes, NDArray[np.int64]] | None:
    """(attributes, triangles (F, 3)); None for points and lines, which are warned about.

    Args:
        weights: of the morph targets, at rest.

    Raises UserError.
    """
    mode = primitive.get("mode", TRIANGLES)
    if mode in (POINTS, LINES, LINE_LOOP, LINE_STRIP):
        document.assets.warn(f"{document.name}: {where}: {'points' if mode == POINTS else 'lines'} are not drawn")
        return None
    if mode not in (TRIANGLES, STRIP, FAN):
        raise UserError(f"{where}: mode {mode} is unknown")
    if DRACO in primitive.get("extensions", {}):
        attributes, faces = _draco(document, primitive, where)
    else:
        attributes = {k: read_accessor(document, i) for k, i in primitive["attributes"].items() if _is_read(k)}
        attributes = {name: values.astype(np.float64) for name, values in attributes.items()}
        faces = _triangles(document, primitive, mode, len(attributes.get("POSITION", ())), where)
    _check(attributes, faces, where)
    if len(weights) > len(primitive.get("targets", [])):
        raise UserError(f"{where}: more weights than morph targets")
    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
        for name, index in target.items() if weight else ():
            if name in attributes:
                attributes[name] = _morphed(attributes[name], weight, read_accessor(document, index), where)
    return attributes, faces


def _morphed(values: NDArray[np.float64], weight: float, delta: NDArray[Any], where: str) -> NDArray[np.float64]:
    if len(delta) != len(values) or delta.shape[1] > values.shape[1]:
        raise UserError(f"{where}: a morph target has another number of vertices")
    moved = values.copy()
    moved[:, : delta.shape[1]] += weight * delta
    return moved


def _is_read(attribute: str) -> bool:
    return attribute.partition("_")[0] in WIDTHS


def _triangles(document: Document, primitive: Json, mode: int, vertices: int, where: str) -> NDArray[np.int64]:
    """(F, 3) of the primitive's indices, or of its vertices in their order."""
    if "indices" in primitive:
        stored = read_accessor(document, primitive["indices"])
        if stored.dtype.kind != "u" or stored.shape[1] != 1:
            raise UserError(f"{where}: its indices are no unsigned integers")
        order = stored[:, 0].astype(np.int64)
    else:
        order = np.arange(vertices)
    if mode == TRIANGLES:
        if len(order) % 3:
            document.assets.warn(f"{document.name}: {where}: {len(order)} corners are no whole number of triangles")
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    i = np.arange(max(len(order) - 2, 0))
    if mode == STRIP:
        return order[np.stack([i, i + 1 + i % 2, i + 2 - i % 2], -1)]
    return order[np.stack([i + 1, i + 2, np.zeros_like(i)], -1)]


def _check(attributes: Mapping[str, NDArray[np.float64]], faces: NDArray[np.int64], where: str) -> None:
    if "POSITION" not in attributes:
        raise UserError(f"{where}: no POSITION")
    count = len(attributes["POSITION"])
    for name, values in attributes.items():
        if values.shape[1] not in WIDTHS[name.partition("_")[0]] or len(values) != count:
            raise UserError(f"{where}: {name} has shape {values.shape}, for {count} vertices")
    if len(faces) and not 0 <= faces.min() <= faces.max() < count:
        raise UserError(f"{where}: an index is not among its {count} vertices")


def _draco(document: Document, primitive: Json, where: str) -> tuple[Attributes, NDArray[np.int64]]:
    """KHR_draco_mesh_compression, decoded by the optional package DracoPy."""
    try:
        import DracoPy
    except ImportError as error:
        raise UserError(f"{where}: {DRACO} needs the package DracoPy: pip install DracoPy") from error
    extension = primitive["extensions"][DRACO]
    try:
        mesh = DracoPy.decode(bytes(document.view(extension["bufferView"])))
    except (DracoPy.FileTypeException, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: {DRACO}: damaged data ({error})") from error
    attributes = {}
    for name, identifier in extension["attributes"].items():
        if _is_read(name):
            stored = mesh.get_attribute_by_unique_id(identifier)
            if stored is None:
                raise UserError(f"{where}: {DRACO}: no attribute {identifier} for {name}")
            values = np.asarray(stored["data"])
            normalized = document.item("accessors", primitive["attributes"][name]).get("normalized")
            attributes[name] = (dequantized(values) if normalized else values).astype(np.float64)
    return attributes, np.asarray(mesh.faces, dtype=np.int64).reshape(-1, 3)
