"""Pictures on surfaces: decoding and sampling. No torch here."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "TGA", "GIF", "TIFF", "WEBP", "DDS")  # no format whose decoder starts programs (EPS)
MAX_TEXELS = 2**27  # of a picture: 512 MiB as RGBA
Wrap = Literal["repeat", "clamp", "mirror"]


def decode_texture(content: bytes) -> Image.Image:
    """A picture with 8 bits a channel. Raises UserError for one that is damaged, too large or of another format."""
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_TEXELS:
            raise UserError(f"{image.width} × {image.height} texels are too many")
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UserError(type(error).__name__) from error
    except Image.DecompressionBombError as error:
        raise UserError("too many texels") from error
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits of gray, which PIL would clip
        values = np.asarray(image, dtype=np.float64)
        scale = 255 / 65535 if image.mode.startswith("I") else 255
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    return image


def with_opacity(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture with the opacity of another one: that one's alpha, or its brightness where it has none."""
    opacity = mask.convert("RGBA").getchannel("A") if mask.has_transparency_data else mask.convert("L")
    masked = picture.convert("RGBA")
    masked.putalpha(opacity.resize(masked.size))
    return masked


def bilinear(texels: NDArray[np.uint8], uv: NDArray[np.float64], wrap: tuple[Wrap, Wrap]) -> NDArray[np.float64]:
    """RGBA (ray, 4) in [0, 1] of texels (height, width, 4) at (ray, 2), v upwards; a texel counts by its opacity."""
    height, width = texels.shape[:2]
    (u, v), (columns, rows) = uv.T, wrap
    left, across = _texel(_fold(u, columns), width, upwards=False)
    top, down = _texel(_fold(v, rows), height, upwards=True)
    blended = np.zeros((len(uv), 4))
    for row, share in ((top, 1 - down), (top + 1, down)):
        for column, part in ((left, 1 - across), (left + 1, across)):
            texel = texels[_index(row, height, rows), _index(column, width, columns)] / 255.0
            weight = share * part * texel[:, 3]
            blended[:, :3] += weight[:, None] * texel[:, :3]
            blended[:, 3] += weight
    blended[:, :3] /= np.maximum(blended[:, 3:], 1e-9)
    return blended


def _fold(coordinate: NDArray[np.float64], wrap: Wrap) -> NDArray[np.float64]:
    """A texture coordinate brought into [0, 1]."""
    if wrap == "repeat":
        return coordinate % 1.0
    return np.clip(coordinate, 0, 1) if wrap == "clamp" else 1 - np.abs(coordinate % 2.0 - 1)


def _texel(coordinate: NDArray[np.float64], size: int, upwards: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(index of the texel before a coordinate, share of the one after it)."""
    position = ((1 - coordinate) if upwards else coordinate) * size - 0.5
    index = np.floor(position).astype(np.int64)
    return index, position - index


def _index(texel: NDArray[np.int64], size: int, wrap: Wrap) -> NDArray[np.int64]:
    return texel % size if wrap == "repeat" else np.clip(texel, 0, size - 1)
