"""G-Objaverse's picture files → color, depth and normals, checked, and resized without bleeding. No torch here."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import OpenEXR
from numpy.typing import NDArray
from PIL import Image

from bench.common.errors import UserError
from bench.data.storage.store import Broken
from bench.data.storage.write import BACKGROUND

Surface = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]  # RGBA, depth, world normals
PNG_MAGIC, PNG_END, EXR_MAGIC = b"\x89PNG\r\n\x1a\n", b"IEND", b"\x76\x2f\x31\x01"


def decode_png(content: bytes, path: str) -> NDArray[np.uint8]:
    """(height, width, 4), straight alpha. Raises Broken."""
    check_magic(content, PNG_MAGIC, path)
    if PNG_END not in content[-64:]:
        raise Broken("truncated", path, f"{len(content)} bytes without the end of a PNG")
    try:
        with Image.open(BytesIO(content)) as image:
            if image.mode != "RGBA":
                raise Broken("damaged", path, f"a PNG of mode {image.mode}, not RGBA: it has no alpha")
            return np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise Broken("damaged", path, str(error)) from error


def decode_exr(content: bytes, path: str) -> NDArray[np.float32]:
    """(4, height, width): R, G, B, A as stored. Raises Broken."""
    channels = exr_channels(content, path)
    if missing := [name for name in "RGBA" if name not in channels]:
        raise Broken("damaged", path, f"no channel {', '.join(missing)}")
    return np.stack([channels[name] for name in "RGBA"])


def exr_channels(content: bytes, path: str) -> dict[str, NDArray[np.float32]]:
    """Channel → (height, width). Raises Broken."""
    check_magic(content, EXR_MAGIC, path)
    try:
        with OpenEXR.File(BytesIO(content), separate_channels=True, num_threads=0) as file:
            found = file.channels().items() if file.parts else ()
            channels = {name: channel.pixels.astype(np.float32) for name, channel in found}  # copies: they go with it
    except (RuntimeError, ValueError, OSError) as error:
        raise Broken("damaged", path, str(error)) from error
    if not channels:
        raise Broken("damaged", path, f"{len(content)} bytes that cannot be decoded, cut short or corrupt")
    return channels


def check_magic(content: bytes, magic: bytes, path: str, offset: int = 0) -> None:
    """Raise Broken for what is not the file that its name says; failed downloads leave an XML body."""
    if content[offset : offset + len(magic)] == magic:
        return
    if content.lstrip()[:1] == b"<":
        start = content[:60].decode("utf-8", "replace").strip()
        raise Broken("failed download", path, f"{len(content)} bytes of markup: {start}")
    if len(content) < offset + len(magic):
        raise Broken("truncated", path, f"only {len(content)} bytes")
    raise Broken("wrong magic", path, f"begins with {content[offset : offset + len(magic)]!r}, not {magic!r}")


def surface(rgba: NDArray[np.uint8], normal_depth: NDArray[np.float32], path: str, size: int | None = None) -> Surface:
    """One view of G-Objaverse, resized to `size` a side: depth A / alpha, normals unblended from the background's.

    `normal_depth` (4, height, width) is overwritten. Raises Broken.
    """
    if rgba.shape[:2] != normal_depth.shape[1:]:
        raise Broken("wrong size", path, f"{normal_depth.shape[1:]}, but its picture {rgba.shape[:2]}")
    np.copyto(normal_depth, np.float32(0), where=rgba[..., 3] == 0)
    if not np.isfinite(normal_depth).all():
        count = int((~np.isfinite(normal_depth)).any(0).sum())
        raise Broken("not finite", path, f"{count} pixels of what is seen")
    alpha = rgba[..., 3] * np.float32(1 / 255)
    return resized(rgba, normal_depth[3], alpha, unblend(normal_depth[:3], alpha), size)


def resized(
    rgba: NDArray[np.uint8],
    weighted_depth: NDArray[np.float32],
    weight: NDArray[np.float32],
    normals: NDArray[np.float32],
    size: int | None,
) -> Surface:
    """Smaller pixels average the area that they cover. Color: premultiplied, so that nothing hidden bleeds in. Depth:
    mean of weighted depth over mean weight, that is the mean of what is seen, by its coverage. Normals (3, height,
    width): mean by weight, unit length. Depth and normals are 0 where nothing is, or nothing is known."""
    if size is not None and size != len(rgba):
        normals = np.stack([area(n * weight, size) for n in normals])
        normals /= np.maximum(np.sqrt((normals**2).sum(0)), 1e-6)
        weight, weighted_depth = area(weight, size), area(weighted_depth, size)
        rgba = np.array(Image.fromarray(rgba).resize((size, size), Image.Resampling.BOX))  # premultiplies RGBA itself
    known = (rgba[..., 3] > 0) & (weight > 0)
    depth = np.divide(weighted_depth, weight, out=np.zeros_like(weight), where=known)
    return rgba, depth, np.ascontiguousarray(normals.transpose(1, 2, 0))


def unblend(rgb: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """World normals (−R, −B, G), planes (3, height, width), where alpha is above one half; 0 elsewhere.

    At an edge the stored vector s is the normal n blended with the background b, at whatever length:
    t·s = alpha·n + (1 − alpha)·b with |n| = 1, which one t > 0 solves.
    """
    normals = np.stack([-rgb[0], -rgb[2], rgb[1]])
    np.copyto(normals, np.float32(0), where=alpha <= 0.5)
    row, column = np.nonzero((alpha > 0.5) & (alpha < 1))
    stored, share = rgb[:, row, column], alpha[row, column]
    square = np.maximum((stored**2).sum(0), 1e-12)
    half = (1 - share) * (BACKGROUND @ stored)
    length = (half + np.sqrt(np.maximum(half**2 + square * (2 * share - 1), 0))) / square
    x, y, z = (length * stored - (1 - share) * BACKGROUND[:, None]) / share
    normals[:, row, column] = -x, -z, y
    return normals


def area(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(height, width) → (size, size): the mean of the area under each new pixel."""
    return np.array(Image.fromarray(values).resize((size, size), Image.Resampling.BOX))


def refuse_larger(rgba: NDArray[np.uint8], size: int | None, path: str) -> None:
    """Raise UserError where pixels would have to be invented."""
    if size is not None and size > min(rgba.shape[:2]):
        raise UserError(f"{path} has {rgba.shape[1]} px, fewer than the {size} asked for (model.image_size)")
