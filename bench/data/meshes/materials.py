"""Color, texture and opacity of a surface. No torch here.

Colors are display-referred (sRGB), as pictures hold them. glTF's factors and vertex colors are linear and converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.meshes.textures import Wrap, bilinear

OPAQUE_FROM = 0.5  # opacity from which a surface is drawn
UNSPECIFIED = 102 / 255  # gray of a surface without a material


@dataclass(frozen=True)
class Material:
    """A color (RGBA in [0, 1]) and a texture that it multiplies; nothing is drawn where the opacity is below `cutoff`.

    cutoff 0: opaque, whatever the alpha.
    """

    color: NDArray[np.float64]
    texture: Image.Image | None = None
    cutoff: float = OPAQUE_FROM
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")  # of u and v

    @property
    def has_holes(self) -> bool:
        return self.cutoff > 0 and self.texture is not None and self.texture.has_transparency_data

    @cached_property
    def pyramid(self) -> list[NDArray[np.uint8]]:
        """The texture (height, width, 4) and its halves, down to one texel's side; hidden colors bleed nowhere."""
        levels = [(self.texture or Image.new("RGBA", (1, 1), "white")).convert("RGBA")]
        while min(levels[-1].size) > 1:
            levels.append(levels[-1].reduce(2))
        return [np.asarray(level) for level in levels]

    def at(self, uv: NDArray[np.float64], level: NDArray[np.int64]) -> NDArray[np.float64]:
        """RGBA (ray, 4) at texture coordinates (ray, 2), v upwards, on levels (ray,) of the pyramid; bilinear."""
        rgba = np.empty((len(uv), 4))
        for i in np.unique(level):
            rays = level == i
            rgba[rays] = bilinear(self.pyramid[i], uv[rays], self.wrap)
        return rgba * self.color


def gray() -> Material:
    """Of a surface that names no material."""
    return Material(np.array([UNSPECIFIED, UNSPECIFIED, UNSPECIFIED, 1.0]))


def linear_to_srgb(linear: NDArray[Any]) -> NDArray[np.float64]:
    """Linear light → sRGB (IEC 61966-2-1)."""
    light = np.clip(linear, 0, 1).astype(np.float64)
    curve: NDArray[np.float64] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return curve
