"""Wavefront OBJ files (polygons; "Appendix B1: Object Files") → parts, one for each material."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets
from bench.data.meshes.materials import Material, gray
from bench.data.meshes.mesh import Part
from bench.data.meshes.mtl import MtlMaterial, decode_text, read_mtl, statements
from bench.data.meshes.polygons import triangulate
from bench.data.meshes.support import OBJ

Row = tuple[int, str]  # line, text


@dataclass
class ObjFile:
    """Statements of a file; rows hold the text after the keyword."""

    vertices: list[Row] = field(default_factory=list)
    uv: list[Row] = field(default_factory=list)
    normals: list[Row] = field(default_factory=list)
    libraries: list[Row] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)  # material → line of its first usemtl
    faces: dict[str | None, list[Row]] = field(default_factory=lambda: defaultdict(list))  # material → faces


def read_obj(content: bytes, name: str, assets: Assets) -> list[Part]:
    """The parts of an OBJ file; what is not read is listed in `assets.missing` with file:line.

    Raises UserError for damaged statements and for surfaces that are no polygons.
    """
    file = _parse(decode_text(content), name, assets)
    vertices, colors = _vertices(file.vertices, name)
    uv, normals = _table(file.uv, name, "vt", 2, 1), _table(file.normals, name, "vn", 3, 3)
    materials = _materials(file, name, assets)
    parts: list[Part] = []
    for material, rows in reversed(file.faces.items()):
        parts += _parts(rows, materials.get(material), (vertices, colors, uv, normals), name, assets)
    return parts


def _parse(text: str, name: str, assets: Assets) -> ObjFile:
    file, material = ObjFile(), None
    tables = {"v": file.vertices, "vt": file.uv, "vn": file.normals}
    for line, keyword, rest in statements(text):
        if keyword in tables:
            tables[keyword].append((line, rest))
        elif keyword in ("f", "fo"):
            if "-" in rest:
                rest = _absolute(rest, [len(table) for table in tables.values()], f"{name}:{line}")
            file.faces[material].append((line, rest))
        elif keyword == "usemtl":
            material = " ".join(rest.split())
            file.uses.setdefault(material, line)
        elif keyword == "mtllib":
            file.libraries.append((line, rest))
        elif keyword not in OBJ:
            assets.warn(f"{name}:{line}: unknown statement {keyword[:40]} is not read")
        elif OBJ[keyword] == "refused":
            raise UserError(f"{name}:{line}: {keyword}: free-form surfaces are not supported; use polygons")
        elif OBJ[keyword] == "warned":
            kind = {"p": "points", "l": "lines"}.get(keyword, "obsolete textures")
            assets.warn(f"{name}: {kind} ({keyword}) are not drawn")
    return file


def _absolute(rest: str, counts: list[int], where: str) -> str:
    """A face whose negative indices, which count from the latest element, are replaced by positive ones."""
    corners = []
    for corner in rest.partition("#")[0].split():
        numbers = []
        for word, count in zip(corner.split("/"), counts, strict=False):
            if word.startswith("-") and word[1:].isdigit():
                if int(word) + count < 0:
                    raise UserError(f"{where}: f {rest}: index {word}, but there are {count} elements before")
                word = str(int(word) + count + 1)
            numbers.append(word)
        corners.append("/".join(numbers))
    return " ".join(corners)


def _vertices(rows: list[Row], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """(V, 3) positions and (V, 4) colors of vertices: 1 where a vertex has none, None where no one has."""
    table = _table(rows, name, "v", 7, 3)
    colored = np.asarray(~np.isnan(table[:, 5]))  # x y z r g b, but not x y z w
    if not colored.any():
        return table[:, :3], None
    values = table[colored, 3:6]
    colors = np.ones((len(table), 4))
    colors[colored, :3] = np.clip(values / (255 if values.max() > 1 else 1), 0, 1)
    return table[:, :3], colors


def _table(rows: list[Row], name: str, keyword: str, width: int, least: int) -> NDArray[np.float64]:
    """(row, width) numbers; those that a row may leave out are NaN, a texture's v is 0. Raises UserError."""
    try:
        words = [(text.partition("#")[0] if "#" in text else text).split()[:width] for _, text in rows]
        table = np.full((len(rows), width), 0.0 if keyword == "vt" else np.nan)
        sizes = {len(row) for row in words}
        if min(sizes, default=least) < least:
            raise ValueError
        for size in sizes:
            chosen = [i for i, row in enumerate(words) if len(row) == size] if len(sizes) > 1 else slice(None)
            numbers = [float(word) for row in words if len(row) == size for word in row]
            table[chosen, :size] = np.array(numbers).reshape(-1, size)
        return table
    except ValueError:
        line, text = next(row for row in rows if not _has_numbers(row[1], least))
        raise UserError(f"{name}:{line}: {keyword} {text[:60]}: at least {least} numbers are needed") from None


def _has_numbers(text: str, least: int) -> bool:
    try:
        return len([float(word) for word in text.partition("#")[0].split()]) >= least
    except ValueError:
        return False


def _materials(file: ObjFile, name: str, assets: Assets) -> dict[str | None, MtlMaterial]:
    """usemtl → material. Faces before any usemtl have none; where there is no usemtl at all, they have the first."""
    libraries = file.libraries
    if not libraries and file.uses and assets.find(stem := f"{name.rpartition('.')[0]}.mtl") is not None:
        libraries = [(0, stem)]  # not named, but it lies beside the OBJ
    known: dict[str | None, MtlMaterial] = {}
    complete = bool(libraries)
    for line, rest in libraries:
        whole = assets.find(rest)  # a name may have blanks, or the line several names
        for library in [rest] if whole is not None else rest.split():
            content = assets.find(library) if whole is None else whole
            if content is None:
                assets.warn(f"{name}:{line}: {library} not found")
                complete = False
                continue
            for material, values in read_mtl(content, library, assets).items():
                known.setdefault(material, values)
    if not file.uses and known:
        first = next(iter(known))
        if len(known) > 1:
            assets.warn(f"{name}: no usemtl; the first of {len(known)} materials, {first}, is applied to all")
        return {None: known[first]}
    for material, line in file.uses.items():
        if material not in known and (complete or not libraries):
            assets.warn(f"{name}:{line}: usemtl {material}: no material library defines it")
    return known


def _parts(
    rows: list[Row],
    mtl: MtlMaterial | None,
    tables: tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64], NDArray[np.float64]],
    name: str,
    assets: Assets,
) -> Iterable[Part]:
    """The faces of one material: those with texture coordinates and those without apart."""
    vertices, colors, uv, normals = tables
    indices, sizes, lines = _indices(rows, name, assets)
    for column, (table, keyword) in enumerate(((vertices, "v"), (uv, "vt"), (normals, "vn"))):
        beyond = indices[:, column] >= len(table)
        if beyond.any():
            first = int(np.flatnonzero(beyond)[0])
            where = f"{name}:{lines[first]}"
            text = f"{where}: {keyword} {indices[first, column] + 1} is used, but there are {len(table)}"
            if keyword == "v":
                raise UserError(text)
            assets.warn(text)
            indices[beyond, column] = -1
    if not len(sizes):
        return []
    corners = indices[triangulate(vertices, indices[:, 0], sizes)]  # (F, 3, 3)
    mapped, shaded = (np.all(corners[..., column] >= 0, axis=1) for column in (1, 2))
    parts = []
    for chosen, has_uv in ((mapped, True), (~mapped, False)):
        if not chosen.any():
            continue
        faces = corners[chosen, :, 0]
        material, factors = _appearance(mtl, has_uv, colors, faces)
        coordinates = uv[corners[chosen, :, 1]] if has_uv else None
        if coordinates is not None:
            coordinates = coordinates * (mtl.scale if mtl else 1) + (mtl.offset if mtl else 0)
            if not np.isfinite(coordinates).all():
                assets.warn(f"{name}: has texture coordinates that are not finite")
                coordinates = np.nan_to_num(coordinates, posinf=0, neginf=0)
        known = normals[corners[chosen, :, 2]] if len(normals) else np.zeros((*faces.shape, 3))
        known = known * shaded[chosen].reshape(-1, 1, 1)
        parts.append(Part(vertices, faces, material, coordinates, factors, known))
    return parts


def _appearance(
    mtl: MtlMaterial | None, has_uv: bool, colors: NDArray[np.float64] | None, faces: NDArray[np.int64]
) -> tuple[Material, NDArray[np.float64] | None]:
    """The material and the colors of corners (F, 3, 4): a texture alone, else colors of vertices, else Kd."""
    material = mtl.material(has_uv) if mtl else gray()
    if colors is None or material.texture is not None:
        return material, None
    return Material(np.array([1, 1, 1, material.color[3]])), colors[faces]


def _indices(rows: list[Row], name: str, assets: Assets) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """(corner, 3) indices of v, vt, vn from 0, −1 where there is none; (face,) corners; (corner,) lines.

    Raises UserError.
    """
    table: list[tuple[int, int, int]] = []
    sizes, lines, short = [], [], 0
    known: dict[str, tuple[int, int, int]] = {}
    for line, text in rows:
        words = (text.partition("#")[0] if "#" in text else text).split()
        if len(words) < 3:
            short += 1
            continue
        for word in words:
            if word not in known:
                known[word] = _corner(word, f"{name}:{line}")
            table.append(known[word])
        sizes.append(len(words))
        lines += [line] * len(words)
    if short:
        assets.warn(f"{name}: faces with fewer than 3 corners: {short}")
    return np.array(table, dtype=np.int64).reshape(-1, 3) - 1, np.array(sizes, dtype=np.int64), lines


def _corner(word: str, where: str) -> tuple[int, int, int]:
    """(v, vt, vn) of "v", "v/vt", "v//vn" or "v/vt/vn", from 1; 0 where there is none. Raises UserError."""
    try:
        v, vt, vn = ([int(number) if number else 0 for number in word.split("/")] + [0, 0])[:3]
    except ValueError:
        v = vt = vn = -1
    if v < 1 or min(vt, vn) < 0 or max(v, vt, vn) >= 2**62:
        raise UserError(f"{where}: f … {word[:40]} …: a corner is v, v/vt, v//vn or v/vt/vn, counted from 1")
    return v, vt, vn
