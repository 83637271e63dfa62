"""PLY files (Turk 1994; ASCII and binary) → one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets
from bench.data.meshes.materials import Material, gray
from bench.data.meshes.mesh import Part
from bench.data.meshes.polygons import triangulate

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float16": "f2", "float32": "f4", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
INDICES = ("vertex_indices", "vertex_index")
COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
UV = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"), ("texcoord_u", "texcoord_v"))
RESTART = -1  # ends a triangle strip


@dataclass(frozen=True)
class Property:
    """One value of an element, or a list of values where `count` is the type of its length."""

    name: str
    type: str
    count: str = ""


@dataclass
class Element:
    """The rows of one kind, and after reading its values: (row,), lists joined, with their lengths (row,)."""

    name: str
    rows: int
    properties: list[Property] = field(default_factory=list)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def type(self, name: str) -> str:
        return next(p.type for p in self.properties if p.name == name)


@dataclass
class Header:
    order: str  # of bytes; "": ASCII
    elements: dict[str, Element]
    textures: list[str]
    size: int  # bytes


def read_ply(content: bytes, name: str, assets: Assets) -> list[Part]:
    """The surface of a PLY file. Raises UserError for one that is damaged or has no faces."""
    header = _header(content)
    _read_elements(content[header.size :], header)
    vertex, elements = header.elements.get("vertex"), header.elements
    if vertex is None or not {"x", "y", "z"} <= vertex.values.keys():
        raise UserError("a PLY file without the vertex properties x, y, z")
    if "edge" in elements and elements["edge"].rows:
        assets.warn(f"{name}: its edges are not drawn")
    vertices = _columns(vertex, ("x", "y", "z"))
    polygons, sizes = _polygons(elements, len(vertices))
    positions = triangulate(vertices, polygons, sizes)
    faces = polygons[positions]
    owner = np.repeat(np.arange(len(sizes)), sizes)[positions[:, 0]]
    uv = _texture_coordinates(elements, positions, faces, name, assets)
    texture = None
    if header.textures and uv is not None:
        texture = assets.texture(header.textures[0], name)
    if len(header.textures) > 1:
        assets.warn(f"{name}: the first of its {len(header.textures)} textures is applied to all faces")
    if header.textures and uv is None:
        assets.warn(f"{name}: {header.textures[0]} is not applied: there are no texture coordinates")
    colors = None if texture else _corner_colors(elements, faces, owner)
    plain = gray() if colors is None else Material(np.ones(4))
    normals = _columns(vertex, ("nx", "ny", "nz"))[faces] if {"nx", "ny", "nz"} <= vertex.values.keys() else None
    return [Part(vertices, faces, Material(np.ones(4), texture) if texture else plain, uv, colors, normals)]


def _header(content: bytes) -> Header:
    end = content.find(b"end_header")
    newline = content.find(b"\n", end)
    if not content.startswith(b"ply") or end < 0:
        raise UserError("no PLY file, or truncated in its header")
    size = newline + 1 if newline >= 0 else len(content)
    header = Header("", {}, [], size)
    element: Element | None = None
    for line in content[:end].decode("latin-1").replace("\r", "\n").split("\n")[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue
        if words[0] == "comment":
            if len(words) > 2 and words[1].lower() == "texturefile":
                header.textures.append(line.split(None, 2)[2].strip())
        elif words[0] == "format" and len(words) > 1 and words[1] in ORDERS:
            header.order = ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdigit():
            element = header.elements[words[1]] = Element(words[1], int(words[2]))
        elif words[0] == "property" and element and (added := _property(words)):
            element.properties.append(added)
        else:
            raise UserError(f"PLY header: {line.strip()[:60]!r} is not understood")
    return header


def _property(words: Sequence[str]) -> Property | None:
    if len(words) == 3 and words[1] in TYPES:
        return Property(words[2], TYPES[words[1]])
    if len(words) == 5 and words[1] == "list" and words[2] in TYPES and words[3] in TYPES:
        return Property(words[4], TYPES[words[3]], TYPES[words[2]])
    return None


def _read_elements(body: bytes, header: Header) -> None:
    """Fill the elements' values. Raises UserError where the file ends before."""
    numbers = np.array(list(map(float, body.split()))) if not header.order else np.zeros(0)
    position = 0
    for element in header.elements.values():
        if not element.properties:
            continue
        if header.order:
            position = _read_binary(body, position, element, header.order)
        else:
            position = _read_ascii(numbers, position, element)


def _read_binary(body: bytes, position: int, element: Element, order: str) -> int:
    """Returns the position after the element. Rows of one shape are read at once, others one by one."""

    def fields(lengths: Mapping[str, int]) -> np.dtype[np.void]:
        columns: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = []
        for p in element.properties:
            if p.count:
                columns.append((f"{p.name}#", order + p.count))
            columns.append((p.name, order + p.type, (lengths[p.name],)) if p.count else (p.name, order + p.type))
        return np.dtype(columns)

    def next_lengths(at: int) -> dict[str, int]:
        lengths = {}
        for p in element.properties:
            if p.count:
                count = np.dtype(order + p.count)
                lengths[p.name] = int(_take(body, at, count, 1)[0])
                at += count.itemsize
                if lengths[p.name] < 0:
                    raise UserError(f"PLY element {element.name}: a list of negative length")
            at += lengths.get(p.name, 1) * np.dtype(p.type).itemsize
        return lengths

    if not element.rows:
        return position
    lengths = next_lengths(position)
    dtype = fields(lengths)
    if len(body) - position >= element.rows * dtype.itemsize:
        table = _take(body, position, dtype, element.rows)
        if all((table[f"{name}#"] == length).all() for name, length in lengths.items()):
            for p in element.properties:
                element.values[p.name] = table[p.name].astype(np.float64).ravel()
                if p.count:
                    element.lengths[p.name] = np.full(element.rows, lengths[p.name])
            return position + element.rows * dtype.itemsize
    rows = []
    for _ in range(element.rows):
        dtype = fields(next_lengths(position))
        rows.append(_take(body, position, dtype, 1)[0])
        position += dtype.itemsize
    for p in element.properties:
        element.values[p.name] = np.concatenate([np.atleast_1d(row[p.name]) for row in rows]).astype(np.float64)
        if p.count:
            element.lengths[p.name] = np.array([len(row[p.name]) for row in rows])
    return position


def _take(body: bytes, position: int, dtype: np.dtype[np.void], rows: int) -> NDArray[np.void]:
    if position + rows * dtype.itemsize > len(body):
        raise UserError("the PLY file is truncated")
    return np.frombuffer(body, dtype, rows, position)


def _read_ascii(numbers: NDArray[np.float64], position: int, element: Element) -> int:
    """Returns the position after the element."""
    simple = [p.name for p in element.properties if not p.count]
    if len(simple) == len(element.properties):
        end = position + element.rows * len(simple)
        if end > len(numbers):
            raise UserError("the PLY file is truncated")
        table = numbers[position:end].reshape(element.rows, len(simple))
        element.values = {name: table[:, i] for i, name in enumerate(simple)}
        return end
    pieces: dict[str, list[NDArray[np.float64]]] = {p.name: [] for p in element.properties}
    lengths: dict[str, list[int]] = {p.name: [] for p in element.properties if p.count}
    for _ in range(element.rows):
        for p in element.properties:
            length = 1
            if p.count:
                length = int(numbers[position]) if position < len(numbers) else -1
                lengths[p.name].append(length)
                position += 1
            if length < 0 or position + length > len(numbers):
                raise UserError("the PLY file is truncated, or a list has a wrong length")
            pieces[p.name].append(numbers[position : position + length])
            position += length
    element.values = {name: np.concatenate([np.zeros(0), *values]) for name, values in pieces.items()}
    element.lengths = {name: np.array(values, dtype=np.int64) for name, values in lengths.items()}
    return position


def _columns(element: Element, names: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([element.values[name] for name in names], -1)


def _polygons(elements: Mapping[str, Element], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(corner,) indices of vertices and (polygon,) sizes, of faces or of triangle strips. Raises UserError."""
    face, strips = elements.get("face"), elements.get("tristrips")
    element = face if face is not None and face.rows else strips
    if element is None or not element.rows:
        raise UserError("a PLY file without faces (a point cloud or Gaussian splats) has no surface to render")
    lists = list(element.lengths)
    key = next((key for key in INDICES if key in lists), lists[0] if len(lists) == 1 else None)
    if key is None:
        raise UserError(f"PLY element {element.name}: no list vertex_indices")
    indices, sizes = element.values[key].astype(np.int64), element.lengths[key]
    if element is strips:
        indices, sizes = _unrolled(indices, sizes)
    if len(indices) and not (indices.min() >= 0 and indices.max() < count):
        raise UserError(f"PLY element {element.name}: an index is not among the {count} vertices")
    if (sizes < 3).any():
        raise UserError(f"PLY element {element.name}: a face with fewer than 3 corners")
    return indices, sizes


def _unrolled(indices: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Triangle strips as triangles."""
    triangles: list[tuple[int, int, int]] = []
    for strip in np.split(indices, np.cumsum(sizes)[:-1]):
        for run in np.split(strip, np.flatnonzero(strip == RESTART)):
            corners = run[run != RESTART].tolist()
            for i in range(len(corners) - 2):
                a, b, c = corners[i : i + 3]
                triangles.append((b, a, c) if i % 2 else (a, b, c))
    return np.array(triangles, dtype=np.int64).ravel(), np.full(len(triangles), 3)


def _texture_coordinates(
    elements: Mapping[str, Element], positions: NDArray[np.int64], faces: NDArray[np.int64], name: str, assets: Assets
) -> NDArray[np.float64] | None:
    """(F, 3, 2): of the faces' corners, or else of the vertices."""
    vertex, face = elements["vertex"], elements.get("face")
    uv = None
    if face is not None and "texcoord" in face.lengths:
        corners = next(face.lengths[key] for key in face.lengths if key in INDICES or key != "texcoord")
        if (face.lengths["texcoord"] == 2 * corners).all() and (corners >= 3).all():
            uv = face.values["texcoord"].reshape(-1, 2)[positions]
        else:
            assets.warn(f"{name}: texcoord has not two values for each corner of each face")
    if face is not None and face.values.get("texnumber", np.zeros(1)).any():
        assets.warn(f"{name}: texnumber is not applied")
    if uv is None:
        names = next((pair for pair in UV if set(pair) <= vertex.values.keys()), None)
        uv = _columns(vertex, names)[faces] if names else None
    if uv is not None and not np.isfinite(uv).all():
        assets.warn(f"{name}: has texture coordinates that are not finite")
        uv = np.nan_to_num(uv, posinf=0, neginf=0)
    return uv


def _corner_colors(
    elements: Mapping[str, Element], faces: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """(F, 3, 4) of the vertices, or else of the faces; the alpha, which many programs fill with 0, is not read."""
    for element, rows in ((elements["vertex"], faces), (elements.get("face"), np.repeat(owner[:, None], 3, 1))):
        names = next((n for n in COLORS if element and set(n) <= element.values.keys()), None)
        if element is None or names is None:
            continue
        rgb, kind = _columns(element, names), element.type(names[0])
        scale = np.iinfo(kind).max if kind[0] in "iu" else 255 if rgb.max(initial=0) > 1 else 1
        return np.concatenate([np.clip(rgb / scale, 0, 1), np.ones((len(rgb), 1))], -1)[rows]
    return None
