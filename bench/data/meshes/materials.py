"""What a mesh's surface looks like, from what trimesh read: color, texture, where it is transparent. No torch here.

Colors are display-referred (sRGB), as pictures hold them. glTF's factors and vertex colors are linear and converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.meshes.files import AssetResolver

OPAQUE_FROM = 0.5  # opacity from which a surface counts


@dataclass(frozen=True)
class Material:
    """A color (RGBA in [0, 1]) and a texture that it multiplies; below `cutoff` of opacity there is nothing."""

    color: NDArray[np.float64]
    texture: Image.Image | None = None
    cutoff: float = OPAQUE_FROM

    @property
    def has_holes(self) -> bool:
        return self.texture is not None and self.texture.has_transparency_data

    @cached_property
    def pyramid(self) -> list[NDArray[np.uint8]]:
        """The texture (height, width, 4) and its halves, down to one texel's side; hidden colors bleed nowhere."""
        levels = [(self.texture or Image.new("RGBA", (1, 1), "white")).convert("RGBA")]
        while min(levels[-1].size) > 1:
            levels.append(levels[-1].reduce(2))
        return [np.asarray(level) for level in levels]

    def at(self, uv: NDArray[np.float64], level: NDArray[np.int64]) -> NDArray[np.float64]:
        """RGBA (ray, 4) at texture coordinates (ray, 2), repeated beyond [0, 1], v upwards; bilinear."""
        found = np.empty((len(uv), 4))
        for i in np.unique(level):
            mine = level == i
            found[mine] = _bilinear(self.pyramid[i], uv[mine])
        return found * self.color


def material_of(visual: Any, linear: bool, beside: AssetResolver) -> Material:
    """glTF multiplies texture and factor; of an OBJ the texture alone is shown, as most viewers do."""
    material, mapped = getattr(visual, "material", None), getattr(visual, "uv", None) is not None
    if material is None:
        plain = np.asarray(visual.main_color, dtype=np.float64) / 255 if visual.kind != "vertex" else np.ones(4)
        return Material(plain)
    if hasattr(material, "baseColorFactor"):
        return _physical(material, mapped, linear)
    opacity = float(next(iter(_numbers(material.kwargs.get("d"))), 1.0))
    if mapped and material.image is not None:
        return Material(np.array([1, 1, 1, opacity]), _with_mask(material, beside))
    return Material(np.array([*np.asarray(material.diffuse)[:3] / 255.0, opacity]))


def vertex_colors(visual: Any, linear: bool) -> NDArray[np.float64] | None:
    """(V, 3) in [0, 1]; None where there are none."""
    values = visual.vertex_colors if visual.kind == "vertex" else getattr(visual, "vertex_attributes", {}).get("color")
    if values is None:
        return None
    colors = np.asarray(values)[:, :3]
    scaled = colors / np.iinfo(colors.dtype).max if np.issubdtype(colors.dtype, np.integer) else colors
    return _displayed(scaled) if linear else scaled.astype(np.float64)


def _physical(material: Any, mapped: bool, linear: bool) -> Material:
    """glTF's: its alpha counts by its mode."""
    factor = np.ones(4) if material.baseColorFactor is None else np.asarray(material.baseColorFactor) / 255.0
    color = np.array([*(_displayed(factor[:3]) if linear else factor[:3]), factor[3]])
    texture = material.baseColorTexture if mapped else None
    if (mode := material.alphaMode or "OPAQUE") == "OPAQUE":
        return Material(np.array([*color[:3], 1.0]), texture.convert("RGB") if texture else None)
    cutoff = OPAQUE_FROM if mode == "BLEND" or material.alphaCutoff is None else material.alphaCutoff
    return Material(color, texture, max(float(cutoff), 1 / 255))


def _with_mask(material: Any, beside: AssetResolver) -> Image.Image:
    """An OBJ's texture with the opacity of its map_d: that picture's alpha, or its brightness where it has none."""
    named = material.kwargs.get("map_d")
    picture: Image.Image = material.image
    if not named or picture.has_transparency_data:
        return picture
    try:
        mask = Image.open(BytesIO(beside.get(" ".join(named))))
    except OSError:  # beside.missing tells
        return picture
    opacity = mask.convert("RGBA").getchannel("A") if mask.has_transparency_data else mask.convert("L")
    masked = picture.convert("RGBA")
    masked.putalpha(opacity.resize(masked.size))
    return masked


def _numbers(values: list[str] | None) -> list[float]:
    """Those among an MTL line's words."""
    found = []
    for value in values or ():
        try:
            found.append(float(value))
        except ValueError:  # "-halo"
            continue
    return found


def _displayed(linear: NDArray[Any]) -> NDArray[np.float64]:
    """Linear light → sRGB (IEC 61966-2-1)."""
    light = np.clip(linear, 0, 1).astype(np.float64)
    curve: NDArray[np.float64] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return curve


def _bilinear(texels: NDArray[np.uint8], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGBA (ray, 4) in [0, 1]; a texel's color counts by its opacity."""
    height, width = texels.shape[:2]
    u, v = (uv % 1.0).T
    x, y = u * width - 0.5, (1 - v) * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    across, down = x - left, y - top
    blended = np.zeros((len(uv), 4))
    for row, share in ((top, 1 - down), (top + 1, down)):
        for column, part in ((left, 1 - across), (left + 1, across)):
            texel = texels[row % height, column % width] / 255.0
            weight = share * part * texel[:, 3]
            blended[:, :3] += weight[:, None] * texel[:, :3]
            blended[:, 3] += weight
    blended[:, :3] /= np.maximum(blended[:, 3:], 1e-9)
    return blended
