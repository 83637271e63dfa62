"""Accessors → arrays (glTF 2.0, section 3.6.2): strides, normalized integers, sparse values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.gltf.document import Document, Json

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
MAX_ELEMENTS = 60_000_000  # of an accessor without data


def read_accessor(document: Document, index: int) -> NDArray[Any]:
    """(count, width) of accessor `index`: floats where it is normalized, else as stored. Raises UserError."""
    accessor = document.item("accessors", index)
    where = f"accessors[{index}]"
    count, dtype, width = accessor["count"], _dtype(accessor["componentType"], where), WIDTHS.get(accessor["type"])
    if not isinstance(count, int) or width is None or not 0 < count <= MAX_ELEMENTS:
        raise UserError(f"{where}: count {count}, type {accessor['type']}")
    if "bufferView" in accessor:
        values = _strided(document, accessor, count, dtype, width, where)
    else:
        values = np.zeros((count, width), dtype)
    if "sparse" in accessor:
        values = _with_sparse(document, accessor["sparse"], values, where)
    return dequantized(values) if accessor.get("normalized") else values


def dequantized(values: NDArray[Any]) -> NDArray[Any]:
    """Normalized integers → floats (section 3.11); floats as they are."""
    if values.dtype.kind not in "iu":
        return values
    return np.maximum(values / np.float64(np.iinfo(values.dtype).max), -1)


def _dtype(component: int, where: str) -> np.dtype[Any]:
    if component not in COMPONENTS:
        raise UserError(f"{where}: component type {component} is unknown")
    return np.dtype(COMPONENTS[component])


def _strided(
    document: Document, accessor: Json, count: int, dtype: np.dtype[Any], width: int, where: str
) -> NDArray[Any]:
    view = document.view(accessor["bufferView"])
    size = dtype.itemsize * width
    stride = document.item("bufferViews", accessor["bufferView"]).get("byteStride", size)
    offset = accessor.get("byteOffset", 0)
    if offset < 0 or stride < dtype.itemsize or offset + stride * (count - 1) + size > len(view):
        raise UserError(f"{where} is not inside its buffer view of {len(view)} bytes")
    return np.ndarray((count, width), dtype, view, offset, (stride, dtype.itemsize)).copy()


def _with_sparse(document: Document, sparse: Json, values: NDArray[Any], where: str) -> NDArray[Any]:
    """`values` with some rows replaced."""
    count, indices, replaced = sparse["count"], sparse["indices"], sparse["values"]
    if not isinstance(count, int) or not 0 < count <= len(values):
        raise UserError(f"{where}: sparse count {count}")
    kind = _dtype(indices["componentType"], where)
    rows = _strided(document, indices, count, kind, 1, where)[:, 0].astype(np.int64)
    if not 0 <= rows.min() <= rows.max() < len(values):
        raise UserError(f"{where}: a sparse index is not among its {len(values)} elements")
    values[rows] = _strided(document, replaced, count, values.dtype, values.shape[1], where)
    return values
