"""STL files (binary and ASCII) → one part."""

from __future__ import annotations

import numpy as np

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets
from bench.data.meshes.materials import gray
from bench.data.meshes.mesh import Part

HEADER, COUNT = 80, 4  # bytes
TRIANGLE = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(content: bytes, name: str, assets: Assets) -> list[Part]:
    """The triangles of an STL file. Raises UserError for one that is damaged."""
    start = HEADER + COUNT
    expected = start + int.from_bytes(content[HEADER:start], "little") * TRIANGLE.itemsize
    if len(content) >= start and len(content) == expected:
        table = np.frombuffer(content, TRIANGLE, offset=start)
        corners = table["corners"].astype(np.float64)
        if table["attribute"].any() or b"COLOR=" in content[:HEADER]:
            assets.warn(f"{name}: colors in attribute bytes are not read")
    elif content.lstrip()[:5].lower() == b"solid":
        corners = _ascii(content)
    else:
        raise UserError(f"no STL file, or truncated: {len(content)} bytes, where its header says {expected}")
    return [Part(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3), gray())]


def _ascii(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(F, 3, 3)."""
    lines = [line.strip() for line in content.decode("latin-1").lower().replace("\r", "\n").split("\n")]
    words = [line.split()[1:4] for line in lines if line.startswith("vertex")]
    facets = sum(line.startswith("facet") for line in lines)
    starts, ends = (sum(line.startswith(word) for line in lines) for word in ("solid", "endsolid"))
    if starts != ends or len(words) != 3 * facets or any(len(row) != 3 for row in words):
        raise UserError("a damaged or truncated ASCII STL file")
    return np.array([float(word) for row in words for word in row]).reshape(-1, 3, 3)
